//! `flowdog ec2`: what EC2 says about the hosts behind addresses.

use std::path::PathBuf;
use std::process::ExitCode;

use flowdog::Config;

use crate::exit;

/// Print what EC2 says about the hosts behind addresses, as the configuration has it asked.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The JSON is what `flowdog explain --directory` reads.
Exit codes: 0, 64 when the command line is wrong, 78 when the configuration is faulty or has no [ec2],
1 when EC2 gives no answer.")]
pub(crate) struct Args {
    /// The configuration file
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: PathBuf,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    let config = match Config::load(&args.config, &flowdog::built_in()) {
        Ok(config) => config,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    let Some(ec2) = &config.ec2 else {
        eprintln!(
            "{}: there is no [ec2] table, so nobody is asked about hosts",
            args.config.display()
        );
        return ExitCode::from(exit::CONFIG);
    };
    let listing = match flowdog::list_ec2(ec2) {
        Ok(listing) => listing,
        Err(error) => {
            eprintln!("flowdog ec2: {error}");
            return ExitCode::FAILURE;
        }
    };
    match serde_json::to_string_pretty(&listing) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("flowdog ec2: {error}");
            ExitCode::FAILURE
        }
    }
}
