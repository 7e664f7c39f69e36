//! One-way transfers over a path, and the table of their figures for our engine and for smoltcp.

use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Algorithm, Config, Instant, Seq, Takeover, TimestampSeed};

use super::app::App;
use super::engine::Engine;
use super::link::Link;
use super::peer::Smoltcp;
use super::{Host, LEFT, Network, RIGHT};

pub(crate) const START: u64 = 1_000_000_000;
/// What smoltcp gets for each of its two rings.
const FIXED_BUFFERS: usize = 1 << 20;
/// A bulk transfer ends after so many bytes or so much time, whichever comes first.
const BULK_BYTES: u64 = 50 << 20;
const BULK_MICROS: u64 = 15_000_000;

/// A path: the same in both directions.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) mtu: u16,
    pub(crate) megabits: u64,
    pub(crate) rtt: u64,
    pub(crate) loss: f64,
    pub(crate) queue: u64,
}

/// Whose stack is measured, at both ends.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Stack {
    Ours,
    /// Ours with BBR.
    Bbr,
    Smoltcp,
}

/// One measured transfer.
pub(crate) struct Outcome {
    pub(crate) micros: u64,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
    pub(crate) timeouts: u32,
}

impl Outcome {
    pub(crate) fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.micros as f64
    }

    /// Packets sent for each one needed.
    pub(crate) fn amplification(&self, mtu: u16) -> f64 {
        self.packets as f64 / self.bytes.div_ceil(u64::from(mtu) - 52) as f64
    }
}

/// Sends `bytes` from left to right, for at most `limit` microseconds.
pub(crate) fn transfer(
    stack: Stack,
    config: &Arc<Config>,
    path: Path,
    bytes: u64,
    limit: u64,
    seed: u64,
) -> Outcome {
    let mut link = Link::new(path.megabits * 1_000_000, path.rtt / 2);
    link.loss = path.loss;
    link.queue = path.queue;
    let links = [link.clone(), link];
    let mut apps = [App::new(0, bytes, 0), App::new(1, 0, bytes)];
    for app in &mut apps {
        app.checks = false;
        app.closes_first = false;
    }
    let run = |hosts: [&mut dyn Host; 2]| {
        let mut network = Network::new(hosts, links, START, seed);
        let done = network.run(START + limit, |hosts| hosts[1].app().complete_at.is_some());
        let micros = if done { network.now - START } else { limit };
        (micros, network.hosts[1].app().received)
    };
    match stack {
        Stack::Ours | Stack::Bbr => {
            let with_bbr = Arc::new(Config {
                congestion: Algorithm::Bbr,
                ..config.as_ref().clone()
            });
            let config = if stack == Stack::Bbr {
                &with_bbr
            } else {
                config
            };
            let takeovers = takeovers(path, seed);
            let [app_left, app_right] = apps;
            let mut left = Engine::new(config, &takeovers[0], app_left, LEFT, RIGHT, START);
            let mut right = Engine::new(config, &takeovers[1], app_right, RIGHT, LEFT, START);
            let (micros, bytes) = run([&mut left, &mut right]);
            Outcome {
                micros,
                bytes,
                packets: left.sent_packets,
                timeouts: left.connection.stats().timeouts,
            }
        }
        Stack::Smoltcp => {
            let [mut left, mut right] =
                Smoltcp::pair(apps, path.mtu.into(), FIXED_BUFFERS, seed, START);
            let (micros, bytes) = run([&mut left, &mut right]);
            Outcome {
                micros,
                bytes,
                packets: left.sent_packets,
                timeouts: 0,
            }
        }
    }
}

/// Both ends of a connection with every option, as a handshake over `path` leaves them.
pub(crate) fn takeovers(path: Path, seed: u64) -> [Takeover; 2] {
    let isn = [seed as u32, !(seed as u32)];
    [0, 1].map(|side| Takeover {
        snd_nxt: Seq(isn[side]),
        rcv_nxt: Seq(isn[1 - side]),
        snd_wnd: 65_535,
        snd_shift: 8,
        rcv_shift: 8,
        rcv_right_edge: Seq(isn[1 - side]) + 65_535,
        mss: path.mtu - 40,
        sack: true,
        timestamps: Some(TimestampSeed {
            tsval: 1,
            at: Instant(START - 50_000),
            ts_recent: 1,
        }),
        ecn: false,
        srtt: Some(Duration::from_micros(path.rtt)),
    })
}

/// What a row of the table measures.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Mbit/s, mean of the seeds.
    Goodput,
    /// Milliseconds until the last of so many bytes was read: mean, 99th of a hundred.
    Short(u64),
}

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) path: Path,
    pub(crate) seeds: u64,
    /// What Linux 6.18 with CUBIC reached in real time, recorded once; with buffers of 1 MiB, on the
    /// last path with buffers that grow.
    pub(crate) linux: Option<f64>,
}

/// The figures of one stack in one row.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) mean: f64,
    /// The worst seed; for short transfers the 99th percentile.
    pub(crate) worst: f64,
    /// Packets sent for each one needed.
    pub(crate) packets: f64,
}

impl Row {
    pub(crate) fn measure(&self, stack: Stack, config: &Arc<Config>) -> Figures {
        let (bytes, limit) = match self.kind {
            // The one path that needs the largest windows, as Linux was measured on it.
            Kind::Goodput if self.path.queue > 4 << 20 => (4 * BULK_BYTES, BULK_MICROS),
            Kind::Goodput => (BULK_BYTES, BULK_MICROS),
            Kind::Short(bytes) => (bytes, 600_000_000),
        };
        let outcomes: Vec<_> = (1..=self.seeds)
            .map(|seed| transfer(stack, config, self.path, bytes, limit, seed))
            .collect();
        let mut values: Vec<f64> = outcomes
            .iter()
            .map(|outcome| match self.kind {
                Kind::Goodput => outcome.megabits(),
                Kind::Short(_) => outcome.micros as f64 / 1000.0,
            })
            .collect();
        values.sort_by(f64::total_cmp);
        let worst = match self.kind {
            Kind::Goodput => values[0],
            Kind::Short(_) => values[(values.len() * 99 / 100).min(values.len() - 1)],
        };
        let count = outcomes.len() as f64;
        let packets = outcomes
            .iter()
            .map(|outcome| outcome.amplification(self.path.mtu));
        Figures {
            mean: values.iter().sum::<f64>() / count,
            worst,
            packets: packets.sum::<f64>() / count,
        }
    }

    /// The row as it stands in the committed table, for one stack.
    pub(crate) fn line(&self, stack: &str, figures: Figures) -> String {
        format!(
            "{:42} {stack:8} {:8.1} {:8.1} {:7.3}",
            self.name, figures.mean, figures.worst, figures.packets
        )
    }
}

/// All rows: goodput under loss, with small queues, on a long fat path, and short transfers.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    // mtu, Mbit/s, RTT in ms, and Linux at a loss of 0, 0.1, 1 and 3 %.
    for (mtu, megabits, rtt, linux) in [
        (1500, 200, 10, [189.3, 44.0, 10.8, 5.3]),
        (1500, 200, 50, [165.3, 15.1, 2.2, 1.1]),
        (1500, 1000, 10, [743.9, 51.1, 10.7, 5.2]),
        (1500, 1000, 50, [175.0, 14.9, 2.4, 1.1]),
        (8500, 200, 10, [197.0, 187.4, 56.2, 27.7]),
        (8500, 200, 50, [175.1, 89.2, 13.7, 5.5]),
        (8500, 1000, 10, [693.1, 419.1, 67.5, 30.4]),
        (8500, 1000, 50, [200.2, 91.8, 13.9, 6.3]),
    ] {
        for (loss, linux) in [0.0, 0.001, 0.01, 0.03].into_iter().zip(linux) {
            rows.push(Row {
                name: format!("{mtu} B {megabits} Mbit/s {rtt} ms loss {}%", loss * 100.0),
                kind: Kind::Goodput,
                path: Path {
                    mtu,
                    megabits,
                    rtt: rtt * 1000,
                    loss,
                    queue: 4 << 20,
                },
                seeds: if loss > 0.0 { 10 } else { 1 },
                linux: Some(linux),
            });
        }
    }
    for (mtu, megabits, rtt, queue, linux) in [
        (1500, 200, 10, 62_000, 54.0),
        (1500, 200, 10, 250_000, 190.0),
        (1500, 200, 50, 312_000, 64.0),
        (1500, 1000, 10, 312_000, 274.0),
        (8500, 200, 10, 250_000, 194.0),
        (8500, 1000, 50, 12_500_000, 800.0),
    ] {
        rows.push(Row {
            name: format!(
                "{mtu} B {megabits} Mbit/s {rtt} ms queue {} kB",
                queue / 1000
            ),
            kind: Kind::Goodput,
            path: Path {
                mtu,
                megabits,
                rtt: rtt * 1000,
                loss: 0.0,
                queue,
            },
            seeds: 1,
            linux: Some(linux),
        });
    }
    for (rtt, kilobytes, loss, linux) in [
        (10, 4, 0.0, Some(7.0)),
        (10, 16, 0.0, Some(16.0)),
        (10, 64, 0.0, Some(31.0)),
        (10, 256, 0.0, Some(48.0)),
        (50, 64, 0.0, Some(127.0)),
        (50, 1000, 0.0, Some(334.0)),
        (10, 4, 0.01, None),
        (10, 16, 0.01, Some(17.0)),
        (10, 64, 0.01, Some(31.0)),
        (10, 256, 0.01, None),
        (50, 64, 0.01, None),
    ] {
        rows.push(Row {
            name: format!("{kilobytes} kB over {rtt} ms loss {}%", loss * 100.0),
            kind: Kind::Short(kilobytes * 1000),
            path: Path {
                mtu: 1500,
                megabits: 200,
                rtt: rtt * 1000,
                loss,
                queue: 4 << 20,
            },
            seeds: if loss > 0.0 { 200 } else { 1 },
            linux,
        });
    }
    rows
}
