//! Fuzz targets under libFuzzer.
//!
//! What it finds interesting stays in the build folder from run to run; the corpora in `fuzz/corpus` are
//! small, chosen by hand, and replayed by the tests of the crates.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{root, step, target_dir};
use crate::tools;

/// Most memory of a target: what one asks for beyond it is a finding.
const MEMORY_MIB: u64 = 2048;
/// A single input that takes longer is a finding.
const TIMEOUT_SECONDS: u64 = 25;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets' names; `fuzz/fuzz_targets` has them
    #[arg(required_unless_present = "all")]
    targets: Vec<String>,
    /// Every target, one after the other, whatever those before have found
    #[arg(long, conflicts_with = "targets")]
    all: bool,
    /// How long to run each, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let fuzz = tools::cargo_tool("cargo-fuzz")?;
    let known = targets(&root())?;
    let chosen = if args.all { &known } else { &args.targets };
    if let Some(stranger) = chosen.iter().find(|name| !known.contains(name)) {
        bail!(
            "there is no fuzz target {stranger}; there are: {}",
            known.join(", ")
        );
    }
    let mut failed = Vec::new();
    for target in chosen {
        let found = target_dir().join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        let seeds = root().join("fuzz/corpus").join(target);
        let ran = step(
            &format!("fuzzing {target} for {} s", args.seconds),
            Command::new("rustup")
                .args(["run", "nightly"])
                .arg(&fuzz)
                .args(["run", target])
                .arg(&found)
                .args(seeds.is_dir().then_some(seeds))
                .arg("--")
                .arg(format!("-max_total_time={}", args.seconds))
                .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
                .arg(format!("-timeout={TIMEOUT_SECONDS}"))
                .arg("-print_final_stats=1")
                .current_dir(root())
                .env("CARGO_TARGET_DIR", target_dir().join("fuzz")),
        );
        if ran.is_err() {
            failed.push(target.as_str());
        }
    }
    if !failed.is_empty() {
        bail!(
            "found something: {} (the inputs are in fuzz/artifacts; write the lowest-level test that fails \
             on them, then put them into fuzz/corpus)",
            failed.join(", ")
        );
    }
    Ok(())
}

/// The names of all targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("fuzz/fuzz_targets"))? {
        let path = entry?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        if let Some(stem) = stem.filter(|_| path.extension().is_some_and(|end| end == "rs")) {
            names.push(stem.to_owned());
        }
    }
    names.sort();
    Ok(names)
}
