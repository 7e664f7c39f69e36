//! The project's own tool: `cargo xtask help` lists what it does.
#![expect(
    clippy::print_stdout,
    reason = "a command-line tool speaks on standard output"
)]

mod bench;
mod fuzz;
mod run;
mod tidy;
mod tools;
mod walls;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Checks, tests and measures flowdog; the same commands locally and in CI.
#[derive(Parser)]
#[command(name = "cargo xtask", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The inner loop: formatting, lints, walls, tidy and unit tests; no outside programs.
    Check,
    /// Everything: what `check` does, documentation, simulations and end-to-end tests with real clients.
    Test {
        /// Only tests whose name contains this word; skips formatting, lints and documentation.
        filter: Option<String>,
    },
    /// Compares the crates' dependencies with `xtask/walls.toml`.
    Walls,
    /// Checks file sizes, leftovers and lists that must agree with the code.
    Tidy,
    /// Runs licence, source and ban checks of all dependencies; builds cargo-deny once if it is missing.
    Deny,
    /// Runs fuzz targets with the nightly toolchain; builds cargo-fuzz once if it is missing.
    Fuzz(fuzz::Args),
    /// Runs more worlds of the seeded simulators than `test` does.
    Sim {
        /// About how many of each kind.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
    },
    /// Measures against a yardstick in the same run and prints a table.
    Bench(bench::Args),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().command {
        Command::Check => run::check()?,
        Command::Test { filter } => run::test(filter.as_deref())?,
        Command::Walls => walls::check()?,
        Command::Tidy => tidy::check()?,
        Command::Deny => run::deny()?,
        Command::Fuzz(args) => fuzz::run(&args)?,
        Command::Sim { seeds } => run::sim(seeds)?,
        Command::Bench(args) => bench::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
