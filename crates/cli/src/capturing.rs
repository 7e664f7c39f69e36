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
With --to, finished files are moved there; those that wait in the folder, from before too, count for --files.
Example: flowdog capture -c flowdog.toml --folder /var/lib/flowdog/packets --size 100MiB --files 20 \\
             --filter 'tcp port 443 and sni *.example.com' --to s3://my-packets/flowdog
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
    /// Where finished files are moved to: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The region of the bucket, S3 only
    #[arg(long, value_name = "REGION", requires = "to")]
    to_region: Option<String>,
    /// Another endpoint than the service's own
    #[arg(long, value_name = "URL", requires = "to")]
    to_endpoint: Option<String>,
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
    // Uploads that fail are told there, and tried again.
    flowdog::init_logging(&config.log);
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
    let moves = Moves::new(args.to.as_deref(), args.to_region, args.to_endpoint)?;
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
        let files = Folder::open(&folder, rotation, about)?;
        moves.begin(files)
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let counts = runtime.block_on(async {
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
    })?;
    moves.finish(&folder)?;
    Ok(counts)
}

/// Finished files on their way into an object store, where that is wished.
#[cfg(feature = "archive")]
struct Moves(Option<archive::Moving>);

#[cfg(not(feature = "archive"))]
struct Moves;

/// How long the end waits for the last files.
#[cfg(feature = "archive")]
const LAST_MOVES: Duration = Duration::from_secs(60);

#[cfg(feature = "archive")]
impl Moves {
    fn new(to: Option<&str>, region: Option<String>, endpoint: Option<String>) -> Result<Self> {
        let moving = to.map(|to| archive::Moving::new("capture", to, region, endpoint));
        let moving = moving.transpose();
        // The fault names the key, which is called as the option, more or less.
        Ok(Self(moving.map_err(|fault| anyhow::anyhow!("--{fault}"))?))
    }

    /// Those that are there already, and each that will be finished.
    fn begin(&self, files: Folder) -> std::io::Result<Folder> {
        let Some(moving) = self.0.clone() else {
            return Ok(files);
        };
        for file in files.finished()? {
            moving.push(file);
        }
        Ok(files.on_finished(Box::new(move |file| moving.push(file.to_owned()))))
    }

    fn finish(self, folder: &std::path::Path) -> Result<()> {
        let Some(moving) = self.0 else {
            return Ok(());
        };
        let outlet = moving.outlet();
        let is_done = outlet.finish(LAST_MOVES);
        let stats = outlet.stats();
        eprintln!("{} files moved", stats.written);
        let left = stats.failed + stats.dropped;
        if is_done && left == 0 {
            return Ok(());
        }
        bail!(
            "{left} files were not moved; those that are still in {} are moved when flowdog capture runs again",
            folder.display()
        )
    }
}

#[cfg(not(feature = "archive"))]
impl Moves {
    fn new(to: Option<&str>, _: Option<String>, _: Option<String>) -> Result<Self> {
        match to {
            None => Ok(Self),
            Some(_) => bail!("--to: this flowdog was built without its feature archive"),
        }
    }

    fn begin(&self, files: Folder) -> std::io::Result<Folder> {
        Ok(files)
    }

    fn finish(self, _: &std::path::Path) -> Result<()> {
        Ok(())
    }
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
