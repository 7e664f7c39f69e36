//! 10,000 new flows a second in front of an acceptor that takes 100 ms: what other flows notice.
//!
//! The same load three times: without an acceptor (the yardstick), with one whose answers are mostly
//! known, and with one that has to be asked about every flow, which is more than it can do.

mod acceptor;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gwlb::{Zone, udp_packet};

/// New flows a second.
const RATE: u32 = 10_000;
/// How long each load goes on.
const TIME: Duration = Duration::from_secs(5);
/// Hosts whose answers are known.
const HOSTS: u32 = 200;

/// What kind of packet comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Of a flow that no acceptor is asked about.
    Other = b'o',
    /// The first of a new flow of a host that is known.
    Warm = b'w',
    /// The first of a new flow of a host that is not.
    Cold = b'c',
}

/// How a load went, in milliseconds.
#[derive(Default)]
struct Outcome {
    waits: BTreeMap<u8, Vec<f64>>,
    sent: BTreeMap<u8, usize>,
    /// Resident memory at the end, in MiB.
    memory: f64,
}

impl Outcome {
    fn at(&self, kind: Kind, share: f64) -> f64 {
        let Some(waits) = self.waits.get(&(kind as u8)) else {
            return f64::INFINITY;
        };
        let at = (waits.len() as f64 * share) as usize;
        waits
            .get(at.min(waits.len().saturating_sub(1)))
            .copied()
            .unwrap_or(f64::INFINITY)
    }

    fn answered(&self, kind: Kind) -> f64 {
        let back = self.waits.get(&(kind as u8)).map_or(0, Vec::len);
        let sent = self.sent.get(&(kind as u8)).copied().unwrap_or(0);
        back as f64 / sent.max(1) as f64
    }
}

/// Which flows are opened.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Those of known hosts, and a few of others.
    Known,
    /// Each of a host of its own.
    Strangers,
}

fn main() -> Result<()> {
    let url = acceptor::start(Duration::from_millis(100))?;
    let asking = format!(
        "[[acceptor]]\nname = 'gate'\nuse = 'http-acceptor'\nurl = '{url}'\n\
         [[rule]]\naction = 'pass'\nport = 54\n[[rule]]\naction = 'ask'\nacceptor = 'gate'\n"
    );
    let without = run(31, "[[rule]]\naction = 'pass'\n", Load::Known)?;
    let with = run(32, &asking, Load::Known)?;
    let flood = run(33, &asking, Load::Strangers)?;
    let calm = without.at(Kind::Other, 0.99);
    // Twice what it is without, and no less than what a busy machine does by itself.
    let most = (2.0 * calm).max(2.0);
    line(
        "p99 of other flows, warm acceptor / none",
        with.at(Kind::Other, 0.99),
        "ms",
        calm,
        Some(most),
        "max",
    );
    line(
        "p99 of other flows, flooded acceptor / none",
        flood.at(Kind::Other, 0.99),
        "ms",
        calm,
        Some(most),
        "max",
    );
    line(
        "p99 of new flows of known hosts / none asked",
        with.at(Kind::Warm, 0.99),
        "ms",
        without.at(Kind::Warm, 0.99),
        Some((2.0 * without.at(Kind::Warm, 0.99)).max(2.0)),
        "max",
    );
    line(
        "median of new flows that are asked about / the acceptor's time",
        with.at(Kind::Cold, 0.5),
        "ms",
        100.0,
        Some(115.0),
        "max",
    );
    line(
        "share of other flows' packets back, warm / none",
        with.answered(Kind::Other),
        "",
        without.answered(Kind::Other),
        Some(0.999),
        "min",
    );
    line(
        "share of new flows let through, warm / none",
        with.answered(Kind::Warm),
        "",
        without.answered(Kind::Warm),
        Some(0.999),
        "min",
    );
    line(
        "share of other flows' packets back, flooded / none",
        flood.answered(Kind::Other),
        "",
        without.answered(Kind::Other),
        Some(0.999),
        "min",
    );
    line(
        "memory, warm acceptor / none",
        with.memory,
        "MiB",
        without.memory,
        Some(without.memory + 64.0),
        "max",
    );
    // 64 MiB of parked packets and 65,536 questions under way are allowed.
    line(
        "memory, flooded acceptor / none",
        flood.memory,
        "MiB",
        without.memory,
        Some(without.memory + 192.0),
        "max",
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark prints")]
fn line(measure: &str, value: f64, unit: &str, yardstick: f64, bound: Option<f64>, kind: &str) {
    println!(
        "{}",
        serde_json::json!({"measure": measure, "value": value, "unit": unit, "yardstick": yardstick,
            "bound": bound, "kind": kind})
    );
}

fn run(net: u8, config: &str, load: Load) -> Result<Outcome> {
    let appliance = Appliance::start(Ipv4Addr::new(127, 77, net, 1), config)?;
    let zone = Arc::new(Zone::new(Ipv4Addr::new(127, 77, net, 2), appliance.gwlb())?);
    let over = Arc::new(AtomicBool::new(false));
    let epoch = Instant::now();
    let receiver = {
        let (zone, over) = (Arc::clone(&zone), Arc::clone(&over));
        std::thread::spawn(move || receive(&zone, &over, epoch))
    };
    let mut sent = BTreeMap::new();
    let mut send = |kind: Kind, from: SocketAddrV4, port: u16| -> Result<()> {
        let mut payload = [0; 16];
        payload[0] = kind as u8;
        let nanos = u64::try_from(epoch.elapsed().as_nanos())?;
        payload[8..].copy_from_slice(&nanos.to_be_bytes());
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), port);
        zone.send(&udp_packet(7, 1, from, to, &payload))?;
        *sent.entry(kind as u8).or_insert(0) += 1;
        Ok(())
    };
    let host = |number: u32| Ipv4Addr::from(0x0a00_0000 + number);
    // One flow of each known host, so that the answers are there.
    for number in 0..HOSTS {
        send(Kind::Cold, SocketAddrV4::new(host(number), 1), 53)?;
        std::thread::sleep(Duration::from_millis(2));
    }
    std::thread::sleep(Duration::from_millis(500));
    let (began, mut flows, mut probes, mut strangers) = (Instant::now(), 0u32, 0u32, 0u32);
    while began.elapsed() < TIME {
        let passed = began.elapsed().as_secs_f64();
        while f64::from(probes) < passed * 1000.0 {
            probes += 1;
            send(Kind::Other, SocketAddrV4::new(host(1 << 20), 9), 54)?;
        }
        // A hundred a second: a sixth of what the acceptor can do.
        while load == Load::Known && f64::from(strangers) < passed * 100.0 {
            strangers += 1;
            send(
                Kind::Cold,
                SocketAddrV4::new(host((1 << 21) + strangers), 1),
                53,
            )?;
        }
        while f64::from(flows) < passed * f64::from(RATE) {
            flows += 1;
            let from = match load {
                Load::Known => {
                    let port = u16::try_from(1024 + flows / HOSTS)?;
                    SocketAddrV4::new(host(flows % HOSTS), port)
                }
                Load::Strangers => SocketAddrV4::new(host((1 << 22) + flows), 1),
            };
            send(Kind::Warm, from, 53)?;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    let memory = appliance.resident()? as f64 / f64::from(1 << 20);
    std::thread::sleep(Duration::from_millis(500));
    over.store(true, Ordering::Relaxed);
    let mut waits = receiver.join().ok().context("the receiver failed")?;
    for waits in waits.values_mut() {
        waits.sort_by(f64::total_cmp);
    }
    Ok(Outcome {
        waits,
        sent,
        memory,
    })
}

fn receive(zone: &Zone, over: &AtomicBool, epoch: Instant) -> BTreeMap<u8, Vec<f64>> {
    let mut waits: BTreeMap<u8, Vec<f64>> = BTreeMap::new();
    while !over.load(Ordering::Relaxed) {
        let Ok((datagram, _)) = zone.receive() else {
            return waits;
        };
        let now = epoch.elapsed().as_nanos() as f64;
        let Some(payload) = datagram.last_chunk::<16>() else {
            continue;
        };
        let mut sent = [0; 8];
        sent.copy_from_slice(&payload[8..]);
        let millis = (now - u64::from_be_bytes(sent) as f64) / 1e6;
        waits.entry(payload[0]).or_default().push(millis);
    }
    waits
}
