//! `flowdog replay`: what the rules would have done with recorded packets.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use capture::file::{FilePacket, Packets};
use capture::pcapng::Way;
use flowdog::config::endpoint_id;
use flowdog::sdk::VpcEndpointId;
use flowdog::{Config, Directory, FlowReport, Replay, ReplayLimits, ReplayTotals};

use crate::exit;

/// Say what the rules, interceptors and hooks would have done with recorded packets.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file may have GENEVE as the load balancer sends it, or inner packets as flowdogshark writes them.
Nobody is asked and nothing is sent: acceptors are taken to accept, and named. Interceptors see HTTP in
clear; what is inside TLS is not in a recording, unless it was taken as flowdogshark's `decrypted` side.
Names of changed fields are told, never their values.
Example: flowdog replay packets.pcapng -c flowdog.toml --json | jq 'select(.outcome == \"drop\")'
Exit codes: 0 when the file was read to its end, 78 when the configuration is faulty, 1 otherwise.")]
pub(crate) struct Args {
    /// The pcap or pcapng file
    file: PathBuf,
    /// The configuration whose rules are tried; without one, everything is passed
    #[arg(short, long, value_name = "FILE", env = "FLOWDOG_CONFIG")]
    config: Option<PathBuf>,
    /// What EC2 knows, as `flowdog ec2` prints it, for rules that ask about hosts
    #[arg(long, value_name = "FILE")]
    directory: Option<PathBuf>,
    /// The VPC endpoint of inner packets, which have none themselves
    #[arg(long, value_name = "ID", default_value = "vpce-00000000000000000", value_parser = endpoint_id)]
    endpoint: VpcEndpointId,
    /// For programs: a flow on each line, and the sums on the last one
    #[arg(long)]
    json: bool,
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
    match replay(&args, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("flowdog replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn replay(args: &Args, config: Config) -> Result<()> {
    let directory = match &args.directory {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("--directory {}", file.display()))?;
            Directory::from_json(&text)
                .map_err(|what| anyhow::anyhow!("--directory {}: {what}", file.display()))?
        }
        None => Directory::default(),
    };
    let named = || args.file.display().to_string();
    let file = File::open(&args.file).with_context(named)?;
    let mut replay = Replay::new(config, directory, ReplayLimits::default())?;
    let mut sums = Sums::default();
    let mut taken = Taken::default();
    let mut broken = None;
    for packet in Packets::open(file).with_context(named)? {
        let packet = match packet {
            Ok(packet) => packet,
            // What came before it is told all the same.
            Err(error) => {
                broken = Some(error);
                break;
            }
        };
        taken.packet(&mut replay, args.endpoint, &packet);
        for flow in replay.take_done() {
            sums.tell(&flow, args.json)?;
        }
    }
    let (left, totals) = replay.finish();
    for flow in left {
        sums.tell(&flow, args.json)?;
    }
    sums.print(&totals, &taken, args.json);
    match broken {
        Some(error) => bail!("{}: {error}", named()),
        None => Ok(()),
    }
}

/// Which packets of a file are played back.
#[derive(Default)]
struct Taken {
    /// Of another interface, another direction, or no IP.
    left_out: u64,
    /// Cut by a snap length.
    cut: u64,
    /// The appliance, where GENEVE was recorded: the one that the first datagram goes to.
    appliance: Option<std::net::IpAddr>,
}

impl Taken {
    fn packet(&mut self, replay: &mut Replay, endpoint: VpcEndpointId, packet: &FilePacket) {
        // The appliance's own words are not played back to it.
        let other_side = packet
            .interface
            .as_deref()
            .is_some_and(|name| name.contains("server side"));
        let Some(bytes) = packet.ip().filter(|_| !other_side) else {
            self.left_out += 1;
            return;
        };
        if !packet.is_whole {
            self.cut += 1;
            return;
        }
        let Some((to, datagram)) = packet.geneve() else {
            replay.inner(packet.time, endpoint, bytes);
            return;
        };
        let received = match packet.way {
            Some(way) => way == Way::Inbound,
            None => *self.appliance.get_or_insert(to) == to,
        };
        if received {
            replay.datagram(packet.time, &mut datagram.to_vec());
        } else {
            self.left_out += 1;
        }
    }
}

/// Flows by rule and outcome.
#[derive(Default)]
struct Sums(BTreeMap<(String, &'static str), u64>);

impl Sums {
    fn tell(&mut self, flow: &FlowReport, json: bool) -> Result<()> {
        let rule = flow.rule.clone().unwrap_or_else(|| "no rule".to_owned());
        *self.0.entry((rule, flow.outcome)).or_default() += 1;
        if json {
            println!("{}", serde_json::to_string(flow)?);
        } else {
            print!("{}", text(flow));
        }
        Ok(())
    }

    fn print(&self, totals: &ReplayTotals, taken: &Taken, json: bool) {
        if json {
            let rules: Vec<_> = self
                .0
                .iter()
                .map(|((rule, outcome), flows)| {
                    serde_json::json!({"rule": rule, "outcome": outcome, "flows": flows})
                })
                .collect();
            let line = serde_json::json!({
                "totals": totals,
                "left_out": taken.left_out,
                "cut": taken.cut,
                "rules": rules,
            });
            println!("{line}");
            return;
        }
        println!(
            "{} packets in {} flows, {} of them without their beginning; {} packets refused",
            totals.packets, totals.flows, totals.mid_flow, totals.refused
        );
        if taken.left_out + taken.cut > 0 {
            println!(
                "{} packets not played back (another side or direction, no IP), {} cut by a snap length",
                taken.left_out, taken.cut
            );
        }
        for ((rule, outcome), flows) in &self.0 {
            println!("{flows:>8} {outcome:<9} {rule}");
        }
    }
}

fn text(flow: &FlowReport) -> String {
    use std::fmt::Write as _;
    let protocol = match flow.protocol {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmp6".to_owned(),
        other => format!("protocol {other}"),
    };
    let mut out = format!(
        "{:>11.6} {protocol} {} -> {}",
        flow.at, flow.client, flow.server
    );
    // What peers wrote must not steer a terminal.
    let names = [
        flow.application.map(str::to_owned),
        flow.server_name
            .as_deref()
            .or(flow.http_host.as_deref())
            .map(escaped),
    ];
    for name in names.into_iter().flatten() {
        let _ = write!(out, " {name}");
    }
    let _ = write!(out, ": {}", flow.outcome);
    match &flow.rule {
        Some(rule) => {
            let _ = write!(out, " by {rule}");
        }
        None => out.push_str(", no rule matches"),
    }
    if flow.mid_flow {
        out.push_str(", its beginning is missing");
    }
    for why in [flow.why, flow.note.as_deref()].into_iter().flatten() {
        let _ = write!(out, "; {why}");
    }
    let _ = writeln!(
        out,
        " ({} + {} packets, {} + {} bytes)",
        flow.packets[0], flow.packets[1], flow.bytes[0], flow.bytes[1]
    );
    let mut line = |what: &str, names: &[String]| {
        if !names.is_empty() {
            let _ = writeln!(out, "              {what}: {}", names.join(", "));
        }
    };
    line("acceptors, taken to accept", &flow.acceptors);
    line("interceptors", &flow.interceptors);
    if let Some(hooks) = &flow.hooks {
        line("hooks", &hooks.names);
        let _ = writeln!(
            out,
            "              packets seen by hooks: {}, {} changed, {} dropped",
            hooks.packets, hooks.edited, hooks.dropped
        );
    }
    for exchange in &flow.exchanges {
        let status = exchange.status.map(|status| format!(" -> {status}"));
        let _ = writeln!(
            out,
            "              {}{}",
            escaped(&exchange.request),
            status.unwrap_or_default()
        );
        for change in &exchange.changes {
            let _ = writeln!(
                out,
                "                {}: {}",
                change.interceptor,
                escaped(&change.what)
            );
        }
    }
    out
}

fn escaped(text: &str) -> String {
    text.escape_debug().to_string()
}
