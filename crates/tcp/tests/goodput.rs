//! What the engine achieves, in virtual time: floors that hold in every run, and on request the
//! whole table (`cargo test -p flowdog-tcp --test goodput -- --ignored --nocapture`).

mod sim;

use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Config, Connection, Instant, Seq, Takeover, TimestampSeed};

use sim::app::App;
use sim::engine::Engine;
use sim::link::Link;
use sim::{LEFT, Network, RIGHT};

const START: u64 = 1_000_000_000;

/// A path: the same in both directions.
#[derive(Clone, Copy)]
struct Path {
    mtu: u16,
    megabits: u64,
    rtt: u64,
    loss: f64,
    queue: u64,
}

/// One measured transfer.
struct Outcome {
    micros: u64,
    packets: u64,
    least_packets: u64,
    timeouts: u32,
}

fn transfer(path: Path, bytes: u64, seed: u64) -> Outcome {
    let config = Arc::new(Config::default());
    let isn = [seed as u32, !(seed as u32)];
    let takeovers = [0, 1].map(|side| Takeover {
        snd_nxt: Seq(isn[side]),
        rcv_nxt: Seq(isn[1 - side]),
        snd_wnd: 65_535,
        snd_shift: 7,
        rcv_shift: 7,
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
    });
    let mut link = Link::new(path.megabits * 1_000_000, path.rtt / 2);
    link.loss = path.loss;
    link.queue = path.queue;
    let mut left = Engine::new(
        &config,
        &takeovers[0],
        App::new(0, bytes, 0),
        LEFT,
        RIGHT,
        START,
    );
    let mut right = Engine::new(
        &config,
        &takeovers[1],
        App::new(1, 0, bytes),
        RIGHT,
        LEFT,
        START,
    );
    left.app.closes_first = false;
    right.app.closes_first = false;
    let mut network = Network::new([&mut left, &mut right], [link.clone(), link], START, seed);
    let done = network.run(START + 3_600_000_000, |hosts| {
        hosts[1].app().complete_at.is_some()
    });
    let micros = network.now - START;
    assert!(done, "{}", network.hosts[0].describe());
    Outcome {
        micros,
        packets: left.sent_packets,
        least_packets: bytes.div_ceil(u64::from(path.mtu) - 52),
        timeouts: left.connection.stats().timeouts,
    }
}

/// Mean goodput in Mbit/s, and packets sent over the least possible.
fn goodput(path: Path, bytes: u64, seeds: u64) -> (f64, f64, f64) {
    let outcomes: Vec<_> = (0..seeds)
        .map(|seed| transfer(path, bytes, seed + 1))
        .collect();
    let rate = |outcome: &Outcome| bytes as f64 * 8.0 / outcome.micros as f64;
    let mean = outcomes.iter().map(rate).sum::<f64>() / seeds as f64;
    let worst = outcomes.iter().map(rate).fold(f64::MAX, f64::min);
    let packets = outcomes
        .iter()
        .map(|outcome| outcome.packets as f64 / outcome.least_packets as f64)
        .sum::<f64>()
        / seeds as f64;
    (mean, worst, packets)
}

/// Times of short transfers in milliseconds, ascending, and time-outs in all.
fn short(path: Path, bytes: u64, runs: u64) -> (Vec<f64>, u32) {
    let outcomes: Vec<_> = (0..runs)
        .map(|seed| transfer(path, bytes, seed + 1))
        .collect();
    let mut times: Vec<f64> = outcomes
        .iter()
        .map(|outcome| outcome.micros as f64 / 1000.0)
        .collect();
    times.sort_by(f64::total_cmp);
    (times, outcomes.iter().map(|outcome| outcome.timeouts).sum())
}

fn mean(times: &[f64]) -> f64 {
    times.iter().sum::<f64>() / times.len() as f64
}

const SHORT: Path = Path {
    mtu: 1500,
    megabits: 200,
    rtt: 10_000,
    loss: 0.0,
    queue: 4 << 20,
};

#[test]
fn a_clean_link_is_filled() {
    let (mean, _, packets) = goodput(SHORT, 20 << 20, 1);
    assert!(mean > 180.0, "{mean} Mbit/s");
    assert!(packets < 1.01, "{packets} packets for each needed");
}

#[test]
fn random_loss_costs_no_more_than_cubic_must_pay() {
    let (one, worst, packets) = goodput(
        Path {
            loss: 0.01,
            ..SHORT
        },
        10 << 20,
        4,
    );
    assert!(one > 9.0 && worst > 7.5, "{one} Mbit/s, worst {worst}");
    assert!(packets < 1.04, "{packets} packets for each needed");
    let (three, _, _) = goodput(
        Path {
            loss: 0.03,
            ..SHORT
        },
        4 << 20,
        4,
    );
    assert!(three > 4.0, "{three} Mbit/s");
}

#[test]
fn short_answers_survive_loss_without_waiting_for_a_timeout() {
    let (times, _) = short(SHORT, 64_000, 1);
    assert!(times[0] < 34.0, "{} ms", times[0]);
    let (times, _) = short(
        Path {
            loss: 0.01,
            ..SHORT
        },
        64_000,
        300,
    );
    let (mean, p99) = (mean(&times), times[297]);
    assert!(mean < 35.0 && p99 < 65.0, "mean {mean} ms, p99 {p99} ms");
}

#[test]
#[ignore = "prints a figure of this machine; build with optimisation"]
fn processor_time() {
    let config = Arc::new(Config::default());
    let takeover = |own: u32, peer: u32| Takeover {
        snd_nxt: Seq(own),
        rcv_nxt: Seq(peer),
        snd_wnd: 65_535,
        snd_shift: 7,
        rcv_shift: 7,
        rcv_right_edge: Seq(peer) + 65_535,
        mss: 1460,
        sack: true,
        timestamps: Some(TimestampSeed {
            tsval: 1,
            at: Instant(START - 50_000),
            ts_recent: 1,
        }),
        ecn: false,
        srtt: None,
    };
    let mut left = Connection::new(&config, &takeover(1, 2), Instant(START));
    let mut right = Connection::new(&config, &takeover(2, 1), Instant(START));
    let (data, mut buffer, mut packet) = (vec![1; 1 << 16], vec![0; 1 << 16], vec![0; 1500]);
    let (mut received, mut packets, mut now) = (0, 0u64, START);
    let started = std::time::Instant::now();
    while received < 1 << 30 {
        now += 50;
        left.write(&data);
        while let Some(transmit) = left.poll_transmit(Instant(now)) {
            left.copy_payload(&transmit, &mut packet);
            right.handle_segment(
                &transmit.repr,
                &packet[..transmit.payload_len],
                false,
                Instant(now),
            );
            packets += 1;
            if packets.is_multiple_of(2) {
                while let Some(answer) = right.poll_transmit(Instant(now)) {
                    left.handle_segment(&answer.repr, &[], false, Instant(now));
                }
            }
        }
        received += right.read(&mut buffer);
        if left.poll_timeout().is_some_and(|at| at.0 <= now) {
            left.handle_timeout(Instant(now));
        }
        if right.poll_timeout().is_some_and(|at| at.0 <= now) {
            right.handle_timeout(Instant(now));
        }
        while let Some(answer) = right.poll_transmit(Instant(now)) {
            left.handle_segment(&answer.repr, &[], false, Instant(now));
        }
    }
    let taken = started.elapsed();
    println!(
        "{:.3} s/GB for both ends, {} ns for each data packet, {packets} packets, no checksums",
        taken.as_secs_f64() * 1e9 / received as f64,
        taken.as_nanos() / u128::from(packets)
    );
}

#[test]
#[ignore = "prints figures to compare by eye"]
fn table() {
    for (mtu, rtt) in [(1500, 10_000), (1500, 50_000), (8500, 10_000)] {
        for loss in [0.0, 0.001, 0.01, 0.03] {
            let path = Path {
                mtu,
                megabits: 200,
                rtt,
                loss,
                queue: 4 << 20,
            };
            let (mean, worst, packets) = goodput(path, 50 << 20, 3);
            println!(
                "mtu {mtu} rtt {rtt} us loss {loss}: {mean:.1} Mbit/s, worst {worst:.1}, packets x{packets:.3}"
            );
        }
    }
    for (megabits, rtt, queue, mtu) in [
        (200, 10_000, 62_000, 1500),
        (200, 10_000, 250_000, 1500),
        (200, 50_000, 312_000, 1500),
        (1000, 10_000, 312_000, 1500),
        (200, 10_000, 250_000, 8500),
    ] {
        let (mean, _, packets) = goodput(
            Path {
                mtu,
                megabits,
                rtt,
                loss: 0.0,
                queue,
            },
            50 << 20,
            1,
        );
        println!(
            "queue {queue} at {megabits} Mbit/s, {rtt} us, mtu {mtu}: {mean:.1} Mbit/s, packets x{packets:.3}"
        );
    }
    for (rtt, bytes) in [
        (10_000, 4_000),
        (10_000, 16_000),
        (10_000, 64_000),
        (10_000, 256_000),
        (50_000, 64_000),
    ] {
        for loss in [0.0, 0.01] {
            let runs = if loss > 0.0 { 1000 } else { 1 };
            let (times, timeouts) = short(Path { loss, rtt, ..SHORT }, bytes, runs);
            let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
            println!(
                "{bytes} bytes, rtt {rtt} us, loss {loss}: mean {:.1} p90 {:.1} p99 {:.1} worst {:.1} ms, {timeouts} time-outs in {runs}",
                mean(&times),
                at(90),
                at(99),
                times[times.len() - 1]
            );
        }
    }
}
