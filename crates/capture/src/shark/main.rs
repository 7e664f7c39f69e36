//! `flowdogshark`: the packets of a flowdog appliance in Wireshark, live and with TLS open; or in a
//! pcapng file, without Wireshark.
//!
//! Wireshark finds it in its folder for external capture programs (extcap 1.0) and calls it with
//! `--extcap-...`; people call `install` and `capture`.
#![expect(
    clippy::print_stdout,
    reason = "the standard output is this program's interface"
)]
#![forbid(unsafe_code)]

mod capture;
mod extcap;
mod install;
mod target;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Watch the packets of a flowdog appliance, live and with TLS open.
#[derive(Debug, Parser)]
#[command(name = "flowdogshark", version, propagate_version = true)]
#[command(after_help = "\
Begin with `flowdogshark install`, start Wireshark, and choose one of the flowdog interfaces.

The appliance listens on a UNIX socket (capture.listen). From another machine:
  ssh -L /tmp/flowdog.sock:/run/flowdog/capture.sock HOST        then --target /tmp/flowdog.sock
  aws ssm start-session --target INSTANCE --document-name AWS-StartPortForwardingSession \\
      --parameters portNumber=7081,localPortNumber=7081          then --target 127.0.0.1:7081")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Capture(Box<capture::Args>),
    Interfaces(capture::InterfacesArgs),
    Install(install::Args),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flowdogshark: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(run());
    // A read of the control pipe ends when Wireshark closes it, which may wait for our own end.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    // Wireshark's own calls are not for people, and must not be refused for an option too many.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = if extcap::is_call(&arguments) {
        extcap::answer(&arguments).await
    } else {
        match Cli::parse().command {
            Command::Capture(args) => capture::run(*args).await,
            Command::Interfaces(args) => capture::interfaces(args).await,
            Command::Install(args) => install::run(&args),
            Command::Completions { shell } => {
                let mut command = Cli::command();
                clap_complete::generate(
                    shell,
                    &mut command,
                    "flowdogshark",
                    &mut std::io::stdout(),
                );
                Ok(())
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowdogshark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
