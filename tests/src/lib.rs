//! What whole-system tests share: starting the programs that users run, and speaking to them.
//!
//! These tests drive the `flowdog` binary from outside: its command line, its UDP port, its health and
//! metrics pages. `cargo xtask test` builds the binary and says where it is in `FLOWDOG_BIN`.

pub mod appliance;
pub mod gatekeeper;
pub mod gwlb;
pub mod kms;
pub mod lab;
pub mod ministack;
pub mod moto;
pub mod pki;

use std::path::PathBuf;
use std::process::Command;

/// The `flowdog` program under test.
///
/// # Panics
/// If neither `FLOWDOG_BIN` nor a built program beside the test is there.
pub fn flowdog() -> Command {
    Command::new(flowdog_path())
}

/// `flowdogshark`, built beside `flowdog`.
///
/// # Panics
/// If it is not there.
pub fn flowdogshark() -> PathBuf {
    let path = flowdog_path().with_file_name("flowdogshark");
    if !path.is_file() {
        unbuilt("build the program first: cargo build -p flowdog-capture, or run: cargo xtask test")
    }
    path
}

fn flowdog_path() -> PathBuf {
    if let Some(path) = std::env::var_os("FLOWDOG_BIN") {
        return path.into();
    }
    // A test program lives in <target>/<profile>/deps.
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("flowdog")))
        .filter(|path| path.is_file());
    beside.unwrap_or_else(|| {
        unbuilt("build the program first: cargo build -p flowdog-cli, or run: cargo xtask test")
    })
}

/// The Python interpreter that has the test's packages.
pub fn python() -> PathBuf {
    std::env::var_os("FLOWDOG_TEST_PYTHON").map_or_else(|| "python3".into(), PathBuf::from)
}

/// A corpus that `cargo xtask test` has fetched into the build folder.
///
/// # Errors
/// If it is not there.
pub fn corpus(name: &str) -> anyhow::Result<PathBuf> {
    // The Python environment lies beside them, in <target>/python/bin/python.
    let python = python();
    let target = python.ancestors().nth(3).unwrap_or(&python);
    let folder = target.join("corpora").join(name);
    anyhow::ensure!(
        folder.is_dir(),
        "{} is missing; cargo xtask test fetches it",
        folder.display()
    );
    Ok(folder)
}

#[expect(clippy::panic, reason = "a test that cannot start has failed")]
fn unbuilt(message: &str) -> ! {
    panic!("{message}")
}
