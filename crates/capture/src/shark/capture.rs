//! `flowdogshark capture`, and the loop that Wireshark's captures run too.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use flowdog_capture::client::Target;
use flowdog_capture::proto::{self, DescribeRequest, WatchRequest, watch_response::Item};
use flowdog_capture::recorder::Recorder;
use tokio::sync::watch;
use wire::gwlb::VpcEndpointId;

use crate::target::TargetArgs;

/// Write packets to a pcapng file until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  flowdogshark capture -w out.pcapng -f 'host 10.1.0.5 and tcp port 443'
  flowdogshark capture -w - --side client | tshark -r -
  flowdogshark capture -w out.pcapng --endpoint vpce-0123456789abcdef0 --duration 60s")]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    what: WhatArgs,
    /// The file to write, or - for the standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Stop after so many packets
    #[arg(long, value_name = "COUNT")]
    packets: Option<u64>,
    /// Stop after so long, as 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Longer than any capture.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Which packets, and how much of them.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WhatArgs {
    /// Capture filter in libpcap's language, applied to the inner packet
    #[arg(short, long, value_name = "FILTER", default_value = "")]
    pub(crate) filter: String,
    /// Which side of the flows; both, as client,server, share addresses and ports in one file
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
}

impl SideArg {
    pub(crate) fn proto(self) -> proto::Side {
        match self {
            Self::Client => proto::Side::Client,
            Self::Server => proto::Side::Server,
            Self::Outer => proto::Side::Outer,
        }
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
    let out: Box<dyn Write> = if args.write.as_os_str() == "-" {
        if io::stdout().is_terminal() {
            bail!("a pcapng file is nothing for a terminal: name a file with -w, or use a pipe");
        }
        Box::new(io::stdout().lock())
    } else {
        let file = File::create(&args.write)
            .with_context(|| format!("cannot write {}", args.write.display()))?;
        Box::new(BufWriter::new(file))
    };
    let ends = Ends {
        packets: args.packets,
        duration: args.duration,
    };
    let live = Live {
        filter: args.what.filter.clone(),
        side: args.what.side.clone(),
        secrets: !args.what.no_secrets,
        paused: false,
    };
    let (_unchanging, live) = watch::channel(live);
    let counts = copy(&target, &args.what, out, ends, live, crate::extcap::stop).await?;
    eprintln!(
        "{} packets written, {} lost on the way, {} TLS secrets",
        counts.packets, counts.dropped, counts.secrets
    );
    Ok(())
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
        println!(
            "{{\"hostname\":{},\"version\":{},\"secrets\":{},\"endpoints\":{}}}",
            serde_json::to_string(&about.hostname)?,
            serde_json::to_string(&about.version)?,
            about.secrets,
            serde_json::to_string(&endpoints)?
        );
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
        println!("{}", endpoint.name);
    }
    Ok(())
}

/// What Wireshark's toolbar may change while a capture runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) filter: String,
    pub(crate) side: Vec<SideArg>,
    pub(crate) secrets: bool,
    pub(crate) paused: bool,
}

/// When a capture ends by itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) packets: Option<u64>,
    pub(crate) duration: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) packets: u64,
    pub(crate) dropped: u64,
    pub(crate) secrets: u64,
}

/// Copies packets from an appliance to a pcapng file or pipe.
pub(crate) async fn copy(
    target: &Target,
    what: &WhatArgs,
    mut out: Box<dyn Write>,
    ends: Ends,
    mut live: watch::Receiver<Live>,
    stop: impl AsyncFnOnce(),
) -> Result<Counts> {
    let mut client = target.connect().await?;
    let about = client
        .describe(DescribeRequest {})
        .await
        .map_err(said)?
        .into_inner();
    let mut sides: Vec<proto::Side> = Vec::new();
    for side in &what.side {
        if !sides.contains(&side.proto()) {
            sides.push(side.proto());
        }
    }
    let request = |live: &Live| WatchRequest {
        filter: live.filter.clone(),
        sides: live.side.iter().map(|side| side.proto().into()).collect(),
        endpoint: what.endpoint.unwrap_or(0),
        snap_length: what.snap_length,
        sample: what.sample,
        secrets: live.secrets && about.secrets,
    };
    let mut current = live.borrow_and_update().clone();
    let mut answers = client
        .watch(request(&current))
        .await
        .map_err(said)?
        .into_inner();
    let mut bytes = Vec::new();
    let mut recorder = Recorder::begin(
        &mut bytes,
        &sides,
        &about.hostname,
        &what.filter,
        what.snap_length,
    );
    let mut counts = Counts::default();
    let stop = stop();
    tokio::pin!(stop);
    let wait = tokio::time::sleep(ends.duration.unwrap_or(FOR_EVER));
    tokio::pin!(wait);
    loop {
        if let Err(error) = out.write_all(&bytes).and_then(|()| out.flush()) {
            // Whoever read went away: Wireshark's way to say stop.
            if error.kind() == io::ErrorKind::BrokenPipe {
                return Ok(counts);
            }
            return Err(error).context("cannot write");
        }
        bytes.clear();
        if ends.packets.is_some_and(|most| counts.packets >= most) {
            break;
        }
        tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer.map_err(said)? else { break };
                if current.paused && matches!(answer.item, Some(Item::Packet(_))) {
                    continue;
                }
                match &answer.item {
                    Some(Item::Packet(_)) => counts.packets += 1,
                    Some(Item::Secret(_)) => counts.secrets += 1,
                    Some(Item::Statistics(statistics)) => counts.dropped = statistics.dropped,
                    None => {}
                }
                recorder.write(&mut bytes, &answer);
            }
            Ok(()) = live.changed() => {
                let next = live.borrow_and_update().clone();
                let same = Live { paused: current.paused, ..next.clone() } == current;
                current = next;
                if !same {
                    answers = client.watch(request(&current)).await.map_err(said)?.into_inner();
                }
            }
            () = &mut stop => break,
            () = &mut wait => break,
        }
    }
    recorder.end(&mut bytes);
    out.write_all(&bytes)
        .and_then(|()| out.flush())
        .context("cannot write")?;
    Ok(counts)
}

/// The appliance's own words.
pub(crate) fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("the appliance says: {}", status.message())
}

pub(crate) fn name(endpoint: u64) -> String {
    VpcEndpointId(endpoint).to_string()
}
