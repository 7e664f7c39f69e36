//! `flowdog run`: the appliance.

use std::path::PathBuf;
use std::process::ExitCode;

use flowdog::{Appliance, Config};

use crate::exit;

/// Run the appliance until SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Signals:
  SIGTERM, SIGINT  drain: health checks fail, new flows are not intercepted, others may end; then exit 0.
                   A second one ends at once.
  SIGHUP           read the configuration again; a faulty file changes nothing.

Exit codes: 0 after a drain, 78 when the configuration is faulty, 1 otherwise.")]
pub(crate) struct Args {
    /// The configuration file; without one, everything is passed
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: Option<PathBuf>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let kinds = flowdog::built_in();
    let config = match args
        .config
        .as_deref()
        .map(|file| Config::load(file, &kinds))
        .transpose()
    {
        Ok(config) => config.unwrap_or_default(),
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    flowdog::init_logging(&config.log);
    #[cfg(feature = "capture")]
    let service = match crate::capture::Service::start(&config.capture) {
        Ok(service) => service,
        Err(error) => {
            eprintln!("flowdog: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut builder = Appliance::builder().config(config).kinds(kinds);
    #[cfg(feature = "capture")]
    if let Some(service) = &service {
        builder = match service.watch(builder) {
            Ok(builder) => builder,
            Err(error) => {
                eprintln!("flowdog: {error:#}");
                return ExitCode::FAILURE;
            }
        };
    }
    if let Some(file) = args.config {
        builder = builder.config_file(file);
    }
    match builder.build().and_then(Appliance::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowdog: {error}");
            ExitCode::FAILURE
        }
    }
}
