//! The steps of `check` and `test`, in the order in which they fail fastest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{tidy, tools, walls};

/// The repository's root folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where build products go: outside the clone, so that the next clone starts warm.
pub(crate) fn target_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    match cache.or(home) {
        Some(cache) => cache.join("flowdog/target"),
        None => root().join("target"),
    }
}

/// A cargo command at the root, with the shared target folder.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(args)
        .current_dir(root())
        .env("CARGO_TARGET_DIR", target_dir());
    command
}

/// Runs a command, saying what it is and how long it took.
pub(crate) fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("==> {what}");
    let start = Instant::now();
    let status = command
        .status()
        .with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !status.success() {
        bail!("{what}: {status}");
    }
    println!("    {what}: {:.0?}", start.elapsed());
    Ok(())
}

/// What the program has only if it is asked for, and is checked and tested all the same.
const OPTIONAL: &str = "flowdog-cli/query";

fn quick() -> Result<()> {
    step("formatting", &mut cargo(&["fmt", "--all", "--", "--check"]))?;
    walls::check()?;
    tidy::check()?;
    step(
        "lints",
        &mut cargo(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--features",
            OPTIONAL,
            "--",
            "-D",
            "warnings",
        ]),
    )
}

/// Formatting, walls, lints, and every test that needs no outside program.
pub(crate) fn check() -> Result<()> {
    quick()?;
    tests(&["--workspace", "--exclude", "flowdog-tests"], None)
}

/// Everything a change must pass.
pub(crate) fn test(filter: Option<&str>) -> Result<()> {
    let python = tools::prepare(&target_dir())?;
    if filter.is_none() {
        quick()?;
        step(
            "documentation",
            cargo(&[
                "doc",
                "--quiet",
                "--workspace",
                "--no-deps",
                "--features",
                OPTIONAL,
            ])
            .env("RUSTDOCFLAGS", "-D warnings"),
        )?;
        step(
            "documentation tests",
            &mut cargo(&["test", "--quiet", "--workspace", "--doc"]),
        )?;
    }
    // The end-to-end tests drive the program that users run.
    step(
        "release build",
        &mut cargo(&[
            "build",
            "--release",
            "--package",
            "flowdog-cli",
            "--package",
            "flowdog-capture",
            "--package",
            "hello-header",
            "--features",
            OPTIONAL,
        ]),
    )?;
    let mut args = vec!["--workspace"];
    args.extend(filter);
    tests(&args, Some(&python))
}

/// Runs the tests with nextest where it is installed, else with cargo's own runner.
fn tests(args: &[&str], python: Option<&Path>) -> Result<()> {
    let nextest = cargo(&["nextest", "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    let mut command = if nextest {
        cargo(&["nextest", "run"])
    } else {
        cargo(&["test", "--all-targets"])
    };
    command
        .args(args)
        .env("FLOWDOG_BIN", target_dir().join("release/flowdog"));
    if let Some(python) = python {
        command.env("FLOWDOG_TEST_PYTHON", python);
    }
    step("tests", &mut command)
}

/// The simulators of the TCP engine and of the dataplane; a failure prints its seed.
pub(crate) fn sim(seeds: u64) -> Result<()> {
    for package in ["flowdog-tcp", "flowdog-dataplane"] {
        step(
            package,
            cargo(&["test", "--release", "--package", package, "--tests"])
                .env("FLOWDOG_SEEDS", seeds.to_string()),
        )?;
    }
    Ok(())
}

/// Licences, bans and sources of every dependency.
pub(crate) fn deny() -> Result<()> {
    let deny = tools::cargo_tool("cargo-deny")?;
    step(
        "cargo deny",
        Command::new(deny)
            .args([
                "check",
                "--hide-inclusion-graph",
                "bans",
                "licenses",
                "sources",
            ])
            .current_dir(root()),
    )
}
