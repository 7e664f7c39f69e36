//! `flowdog check`: is this configuration right?

use std::path::PathBuf;
use std::process::ExitCode;

use flowdog::Config;

use crate::exit;

/// Check a configuration file, and the files it names, without starting.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One line per fault: file, line, key, what is wrong, what is allowed.
Nobody is asked over the network, unless --online says so.
Exit codes: 0 when all is right, 78 otherwise.")]
pub(crate) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: PathBuf,
    /// Also read what functions read from AWS: key value stores in S3 and DynamoDB
    #[arg(long)]
    pub(crate) online: bool,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match Config::load(&args.config, &flowdog::built_in()) {
        Ok(_) => {
            tell_what_was_left_out();
            ExitCode::SUCCESS
        }
        Err(faults) => {
            // The faults are what was asked for, so they are the output.
            println!("{faults}");
            ExitCode::from(exit::CONFIG)
        }
    }
}

/// Says that not everything was looked at.
fn tell_what_was_left_out() {
    #[cfg(feature = "script")]
    match script::stores_not_asked() {
        0 => {}
        left => eprintln!(
            "flowdog check: {left} key value store(s) in AWS were not read; --online reads them"
        ),
    }
}
