//! `flowdog capture`: packets of the appliance on this host into files that follow each other.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use capture::Address;
use capture::client::Target;
use capture::proto::Side;
use capture::recorder::About;
use capture::recording::{self, Counts, Ends, Live, What};
use capture::rotation::{Folder, Rotation};
use flowdog::Config;
use flowdog::config::{CaptureListen, endpoint_id};
use flowdog::sdk::{ByteSize, VpcEndpointId};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit;

/// Write packets of the appliance on this host into files that follow each other.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It reads where the appliance's capture service listens from [capture] of the configuration.
Each file is whole in itself; a connection that goes on into the next file cannot be decrypted there.
Example: flowdog capture -c flowdog.toml --folder /var/lib/flowdog/packets --size 100MiB --files 20 \\
             --filter 'tcp port 443 and sni *.example.com'
Signals: SIGTERM and SIGINT end the open file, and exit 0.
Exit codes: 0 after a signal or --duration, 78 when the configuration is faulty, 1 otherwise.")]
pub(crate) struct Args {
    /// The configuration file of the appliance
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: Option<PathBuf>,
    /// Where the service is, instead of the configuration's word: unix:/path or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    target: Option<Address>,
    /// The folder of the files
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// A new file begins after so many bytes
    #[arg(long, value_name = "SIZE", default_value = "100MiB")]
    size: ByteSize,
    /// A new file begins after so long, as 10m or 1h
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    age: Duration,
    /// So many files are kept; the oldest go
    #[arg(long, value_name = "COUNT", default_value_t = 24)]
    files: usize,
    /// Capture filter, as flowdogshark has it
    #[arg(short, long, value_name = "FILTER", default_value = "")]
    filter: String,
    /// Which sides: client, server, outer, decrypted
    #[arg(long, value_delimiter = ',', default_value = "client", value_parser = side)]
    side: Vec<Side>,
    /// Packets of one VPC endpoint only
    #[arg(long, value_name = "ID", value_parser = endpoint_id)]
    endpoint: Option<VpcEndpointId>,
    /// Bytes kept of each packet; 0 keeps all
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    snap_length: u32,
    /// Keep one of so many flows
    #[arg(long, value_name = "N", default_value_t = 1)]
    sample: u32,
    /// Without TLS secrets
    #[arg(long)]
    no_secrets: bool,
    /// Stop after so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

fn side(word: &str) -> Result<Side, &'static str> {
    Ok(match word {
        "client" => Side::Client,
        "server" => Side::Server,
        "outer" => Side::Outer,
        "decrypted" => Side::DecryptedClient,
        _ => return Err("allowed: client, server, outer, decrypted"),
    })
}

pub(crate) fn run(args: Args) -> ExitCode {
    let config = args
        .config
        .as_deref()
        .map(|file| Config::load(file, &flowdog::built_in()));
    let config = match config.transpose() {
        Ok(config) => config.unwrap_or_default(),
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    match capture(args, &config) {
        Ok(counts) => {
            eprintln!(
                "{} packets written, {} lost on the way, {} TLS secrets",
                counts.packets, counts.dropped, counts.secrets
            );
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("flowdog capture: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn capture(args: Args, config: &Config) -> Result<Counts> {
    let target = target(args.target, config)?;
    let rotation = Rotation {
        size: args.size.0 as u64,
        age: args.age,
        files: args.files.max(1),
    };
    let what = What {
        endpoint: args.endpoint.map(|endpoint| endpoint.0),
        snap_length: args.snap_length,
        sample: args.sample,
    };
    let ends = Ends {
        packets: None,
        duration: args.duration,
    };
    let (_unchanging, live) = watch::channel(Live {
        filter: args.filter.clone(),
        sides: args.side.clone(),
        secrets: !args.no_secrets,
        paused: false,
    });
    let folder = args.folder;
    let begin = |appliance: &str| {
        let about = About {
            sides: args.side,
            appliance: appliance.to_owned(),
            filter: args.filter,
            snap_length: args.snap_length,
            exact: false,
        };
        Folder::open(&folder, rotation, about)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let done = recording::record(&target, &what, begin, ends, live, stop).await;
        done.context(format!("into {}", folder.display()))
    })
}

/// The appliance of this host, as its configuration says.
fn target(address: Option<Address>, config: &Config) -> Result<Target> {
    let service = &config.capture;
    let address = match (address, &service.listen) {
        (Some(address), _) => address,
        (None, Some(CaptureListen::Unix(path))) => Address::Unix(path.clone()),
        (None, Some(CaptureListen::Tcp(address))) => Address::Tcp(*address),
        (None, None) => bail!("the appliance lets nobody watch: [capture] listen is off"),
    };
    if service.certificate.is_some() && matches!(address, Address::Tcp(_)) {
        bail!(
            "the service speaks TLS: use flowdogshark, with --ca; or let it listen on a UNIX socket"
        );
    }
    let token = service.token_file.as_deref();
    Ok(Target {
        address: Some(address),
        token: token.map(crate::capture::token).transpose()?,
        ..Target::default()
    })
}
