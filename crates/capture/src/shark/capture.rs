//! `flowdogshark capture`, and the loop that Wireshark's captures run too.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowdog_capture::proto::{self, DescribeRequest};
use flowdog_capture::recorder::About;
use flowdog_capture::recording::{self, BySide, Ends, Live, OneFile, What};
use tokio::sync::watch;
use wire::gwlb::VpcEndpointId;

use crate::target::TargetArgs;

/// Write packets to a pcapng file until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flowdogshark capture -w out.pcapng -f 'host 10.1.0.5 and tcp port 443'
  flowdogshark capture -w - --side server | tshark -r -
  flowdogshark capture -w both.pcapng --side client,server --split
  flowdogshark capture -w out.pcapng --endpoint vpce-0123456789abcdef0 --duration 60s")]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    what: WhatArgs,
    /// The file to write, or - for the standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Write a file for each side, with packets as they are: out.pcapng becomes out-client.pcapng
    /// and so on
    #[arg(long, conflicts_with = "exact")]
    split: bool,
    /// Leave addresses as they are where one file has both sides; readers may take the two for one
    /// connection
    #[arg(long)]
    exact: bool,
    /// Stop after so many packets
    #[arg(long, value_name = "COUNT")]
    packets: Option<u64>,
    /// Stop after so long, as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Which packets, and how much of them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WhatArgs {
    /// Capture filter in libpcap's language, applied to the inner packet, and the words endpoint,
    /// instance, tag and sni
    #[arg(short, long, value_name = "FILTER", default_value = "")]
    pub(crate) filter: String,
    /// Which sides of the flows, as client,server; in one file with the client's, the server's side
    /// is shown under other addresses
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [SideArg::Client])]
    pub(crate) side: Vec<SideArg>,
    /// Packets of one VPC endpoint only
    #[arg(long, value_name = "VPCE", value_parser = endpoint)]
    pub(crate) endpoint: Option<u64>,
    /// Bytes kept of each packet; 0 keeps all
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub(crate) snap_length: u32,
    /// Keep one of so many flows
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) sample: u32,
    /// Without TLS secrets
    #[arg(long)]
    pub(crate) no_secrets: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SideArg {
    /// Between clients and flowdog, before rewriting
    Client,
    /// Between flowdog and servers, after rewriting
    Server,
    /// GENEVE, as the load balancer exchanges it
    Outer,
    /// What clients and flowdog say in clear, TLS taken off, for tools that cannot decrypt
    Decrypted,
    /// The same between flowdog and servers
    DecryptedServer,
}

impl SideArg {
    pub(crate) fn proto(self) -> proto::Side {
        match self {
            Self::Client => proto::Side::Client,
            Self::Server => proto::Side::Server,
            Self::Outer => proto::Side::Outer,
            Self::Decrypted => proto::Side::DecryptedClient,
            Self::DecryptedServer => proto::Side::DecryptedServer,
        }
    }

    /// What a file of this side alone is called by.
    fn word(side: proto::Side) -> &'static str {
        match side {
            proto::Side::Server => "server",
            proto::Side::Outer => "outer",
            proto::Side::DecryptedClient => "decrypted",
            proto::Side::DecryptedServer => "decrypted-server",
            proto::Side::Client | proto::Side::Unspecified => "client",
        }
    }
}

impl WhatArgs {
    pub(crate) fn what(&self) -> What {
        What {
            endpoint: self.endpoint,
            snap_length: self.snap_length,
            sample: self.sample,
        }
    }

    pub(crate) fn sides(&self) -> Vec<proto::Side> {
        let mut sides: Vec<proto::Side> = Vec::new();
        for side in &self.side {
            if !sides.contains(&side.proto()) {
                sides.push(side.proto());
            }
        }
        sides
    }
}

/// List what an appliance lets watch
#[derive(Debug, clap::Args)]
pub(crate) struct InterfacesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// For programs
    #[arg(long)]
    json: bool,
}

pub(crate) fn endpoint(text: &str) -> Result<u64, String> {
    let digits = text.strip_prefix("vpce-").unwrap_or(text);
    u64::from_str_radix(digits, 16)
        .map_err(|_| "a VPC endpoint is written vpce-0123456789abcdef0".to_owned())
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let target = args.target.read()?;
    let to_stdout = args.write.as_os_str() == "-";
    if to_stdout && args.split {
        bail!("--split writes several files: name one with -w");
    }
    if to_stdout && io::stdout().is_terminal() {
        bail!("a pcapng file is nothing for a terminal: name a file with -w, or use a pipe");
    }
    let ends = Ends {
        packets: args.packets,
        duration: args.duration,
    };
    let live = Live {
        filter: args.what.filter.clone(),
        sides: args.what.sides(),
        secrets: !args.what.no_secrets,
        paused: false,
    };
    let about = |appliance: &str| About {
        sides: args.what.sides(),
        appliance: appliance.to_owned(),
        filter: args.what.filter.clone(),
        snap_length: args.what.snap_length,
        exact: args.exact,
    };
    let what = args.what.what();
    let (_unchanging, live) = watch::channel(live);
    let stop = crate::extcap::stop();
    let counts = if args.split {
        let begin = |appliance: &str| {
            BySide::begin(&about(appliance), |side| {
                create(&of_side(&args.write, SideArg::word(side)))
            })
        };
        recording::record(&target, &what, begin, ends, live, stop).await?
    } else {
        // Opened before anything is asked: a name that cannot be written is told at once.
        let out: Box<dyn Write> = if to_stdout {
            Box::new(io::stdout().lock())
        } else {
            create(&args.write).with_context(|| format!("cannot write {}", args.write.display()))?
        };
        let begin = |appliance: &str| OneFile::begin(out, &about(appliance));
        recording::record(&target, &what, begin, ends, live, stop).await?
    };
    eprintln!(
        "{} packets written, {} lost on the way, {} TLS secrets",
        counts.packets, counts.dropped, counts.secrets
    );
    Ok(())
}

fn create(path: &Path) -> io::Result<Box<dyn Write>> {
    Ok(Box::new(BufWriter::new(File::create(path)?)))
}

/// `out.pcapng` and `client` make `out-client.pcapng`.
fn of_side(path: &Path, side: &str) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name = format!("{stem}-{side}");
    if let Some(ending) = path.extension() {
        name = format!("{name}.{}", ending.to_string_lossy());
    }
    path.with_file_name(name)
}

pub(crate) async fn interfaces(args: InterfacesArgs) -> Result<()> {
    let mut client = args.target.read()?.connect().await?;
    let about = client
        .describe(DescribeRequest {})
        .await
        .map_err(said)?
        .into_inner();
    if args.json {
        let endpoints: Vec<_> = about.endpoints.iter().map(|one| &one.name).collect();
        let labels: std::collections::BTreeMap<_, _> = about
            .endpoints
            .iter()
            .filter(|one| !one.label.is_empty())
            .map(|one| (&one.name, &one.label))
            .collect();
        let about = serde_json::json!({
            "hostname": about.hostname,
            "version": about.version,
            "secrets": about.secrets,
            "endpoints": endpoints,
            "labels": labels,
        });
        println!("{about}");
        return Ok(());
    }
    println!("flowdog {} on {}", about.version, about.hostname);
    println!(
        "TLS secrets: {}",
        if about.secrets {
            "yes"
        } else {
            "no (capture.secrets)"
        }
    );
    for endpoint in about.endpoints {
        // Whoever named it may have put anything into the name.
        println!("{} {}", endpoint.name, endpoint.label.escape_debug());
    }
    Ok(())
}

/// The appliance's own words.
pub(crate) fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the appliance says: {}", status.message())
}

pub(crate) fn name(endpoint: u64) -> String {
    VpcEndpointId(endpoint).to_string()
}
