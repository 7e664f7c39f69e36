//! The `flowdog` command: `run` the appliance, `check` a configuration, `explain` its rules, try it in
//! the `lab`.
#![expect(
    clippy::print_stdout,
    reason = "the standard output is this program's interface"
)]
#![forbid(unsafe_code)]

mod ca;
#[cfg(feature = "capture")]
mod capture;
#[cfg(feature = "capture")]
mod capturing;
mod check;
#[cfg(feature = "aws")]
mod ec2;
mod explain;
#[cfg(feature = "script")]
mod function;
mod lab;
mod learned;
#[cfg(feature = "query")]
mod query;
#[cfg(feature = "capture")]
mod replay;
mod run;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Exit codes, as in BSD's sysexits.h.
mod exit {
    /// The command line is wrong (`EX_USAGE`).
    pub(crate) const USAGE: u8 = 64;
    /// The configuration is wrong (`EX_CONFIG`).
    pub(crate) const CONFIG: u8 = 78;
}

/// An appliance behind an AWS Gateway Load Balancer that drops, passes, inspects or rewrites
/// anything from a packet to an HTTP/2 header, inside TLS too, while both hosts keep seeing each
/// other's own address and port.
#[derive(Debug, Parser)]
#[command(name = "flowdog", version, propagate_version = true)]
#[command(after_help = "\
Begin with `flowdog lab`: it shows everything on this machine, without root and without AWS.
The configuration is described key by key in flowdog.example.toml.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Explain(explain::Args),
    #[cfg(feature = "aws")]
    Ec2(ec2::Args),
    Ca(ca::Args),
    #[cfg(feature = "capture")]
    Capture(Box<capturing::Args>),
    #[cfg(feature = "script")]
    Fn(function::Args),
    Learned(learned::Args),
    #[cfg(feature = "query")]
    Query(query::Args),
    #[cfg(feature = "capture")]
    Replay(Box<replay::Args>),
    Lab(Box<lab::Args>),
    /// Print a completion script for a shell
    #[command(after_help = "\
For bash:  flowdog completions bash > ~/.local/share/bash-completion/completions/flowdog
For zsh:   flowdog completions zsh > \"${fpath[1]}/_flowdog\"
For fish:  flowdog completions fish > ~/.config/fish/completions/flowdog.fish")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help that was asked for is no fault; clap knows which stream each goes to.
            let fault = error.use_stderr();
            let _ = error.print();
            return if fault {
                ExitCode::from(exit::USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let looks_only = match &cli.command {
        Command::Check(args) => !args.online,
        Command::Explain(_) | Command::Learned(_) => true,
        _ => false,
    };
    if looks_only {
        #[cfg(feature = "script")]
        script::stay_offline();
    }
    // Before any key is read. What the lab runs is the user's own.
    if matches!(cli.command, Command::Run(_) | Command::Ca(_))
        && let Err(error) = flowdog::forbid_core_dumps()
    {
        eprintln!("flowdog: core dumps are not forbidden: {error}");
    }
    // No thread and no runtime yet: the lab enters its namespaces first.
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(args),
        #[cfg(feature = "aws")]
        Command::Ec2(args) => ec2::run(&args),
        Command::Ca(args) => ca::run(&args),
        #[cfg(feature = "capture")]
        Command::Capture(args) => capturing::run(*args),
        #[cfg(feature = "script")]
        Command::Fn(args) => function::run(&args),
        Command::Learned(args) => learned::run(&args),
        #[cfg(feature = "query")]
        Command::Query(args) => query::run(args),
        #[cfg(feature = "capture")]
        Command::Replay(args) => replay::run(*args),
        Command::Lab(args) => lab::run(&args),
        Command::Completions { shell } => {
            clap_complete::generate(
                shell,
                &mut Cli::command(),
                "flowdog",
                &mut std::io::stdout(),
            );
            ExitCode::SUCCESS
        }
    }
}
