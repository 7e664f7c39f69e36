//! A test harness for programs that enter a user namespace, which they can only do while they have
//! one thread. The arguments of the usual harness that matter (`--list`, `--exact`, a filter) are
//! understood.

use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use super::netns;

pub(crate) type Outcome = Result<(), Box<dyn Error>>;

/// Enters a namespace and runs the tests that the arguments ask for, one after the other.
pub(crate) fn run(tests: &[(&str, fn() -> Outcome)]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        if !has("--ignored") {
            for (name, _) in tests {
                println!("{name}: test");
            }
        }
        return ExitCode::SUCCESS;
    }
    if has("--ignored") {
        return ExitCode::SUCCESS;
    }
    if let Err(error) = netns::enter() {
        // A machine that forbids namespaces cannot run this; that is a failure, not a pass.
        eprintln!("{error}; enable them with: {}", error.advice().join(" / "));
        return ExitCode::FAILURE;
    }
    let filter: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |name: &str| {
        filter.is_empty()
            || filter.iter().any(|part| {
                if has("--exact") {
                    name == *part
                } else {
                    name.contains(*part)
                }
            })
    };
    let mut failed = 0;
    for (name, test) in tests.iter().filter(|(name, _)| wanted(name)) {
        let start = Instant::now();
        match test() {
            Ok(()) => println!(
                "test {name} ... ok ({:.2} s)",
                start.elapsed().as_secs_f64()
            ),
            Err(error) => {
                failed += 1;
                println!("test {name} ... FAILED: {error}");
            }
        }
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
