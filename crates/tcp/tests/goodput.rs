//! What the engine achieves, in virtual time: floors that hold in every run, and the rows of the
//! committed table `goodput.txt`, which `cargo xtask bench tcp` makes.

mod sim;

use std::sync::Arc;

use flowdog_tcp::Config;

use sim::measure::{Kind, Path, Stack, rows, transfer};

const TABLE: &str = include_str!("goodput.txt");

const SHORT: Path = Path {
    mtu: 1500,
    megabits: 200,
    rtt: 10_000,
    loss: 0.0,
    queue: 4 << 20,
};

/// Mean and worst goodput in Mbit/s, and packets sent for each one needed.
fn goodput(path: Path, bytes: u64, seeds: u64) -> (f64, f64, f64) {
    let config = Arc::new(Config::default());
    let outcomes: Vec<_> = (1..=seeds)
        .map(|seed| transfer(Stack::Ours, &config, path, bytes, 3_600_000_000, seed))
        .collect();
    let rates = || outcomes.iter().map(|outcome| outcome.megabits());
    let packets = outcomes
        .iter()
        .map(|outcome| outcome.amplification(path.mtu));
    (
        rates().sum::<f64>() / seeds as f64,
        rates().fold(f64::MAX, f64::min),
        packets.sum::<f64>() / seeds as f64,
    )
}

fn every_row_is_still_true(name: &str, stack: Stack) {
    let config = Arc::new(Config::default());
    for row in rows() {
        let line = row.line(name, row.measure(stack, &config));
        assert!(
            TABLE.lines().any(|committed| committed == line),
            "not in goodput.txt, which `cargo xtask bench tcp --write` makes anew:\n{line}"
        );
    }
}

#[test]
fn every_row_of_the_committed_table_is_still_true() {
    every_row_is_still_true("flowdog", Stack::Ours);
}

#[test]
fn every_row_of_the_committed_table_is_still_true_with_bbr() {
    every_row_is_still_true("bbr", Stack::Bbr);
}

#[test]
fn the_committed_table_is_within_its_bounds() {
    let mut seen = 0;
    for row in rows() {
        let prefix = row.line(
            "flowdog",
            sim::measure::Figures {
                mean: 0.0,
                worst: 0.0,
                packets: 0.0,
            },
        );
        let name = prefix.trim_end_matches(|c: char| c.is_ascii_digit() || " .".contains(c));
        let line = TABLE
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_else(|| panic!("no row {name}"));
        let figures: Vec<f64> = line[name.len()..]
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [mean, _, packets] = figures[..] else {
            panic!("three figures: {line}");
        };
        assert!(
            packets <= 1.2 + 2.0 * row.path.loss || matches!(row.kind, Kind::Short(_)),
            "too many packets: {line}"
        );
        if let (Some(linux), Kind::Goodput) = (row.linux, row.kind) {
            assert!(mean >= 0.95 * linux, "below Linux with {linux}: {line}");
        }
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn bbr_does_not_take_random_loss_for_a_full_queue() {
    for row in rows() {
        let path = row.path;
        if (path.mtu, path.megabits, path.rtt) != (1500, 200, 10_000)
            || !matches!(row.kind, Kind::Goodput)
        {
            continue;
        }
        let start = format!("{:42} bbr ", row.name);
        let line = TABLE
            .lines()
            .find_map(|line| line.strip_prefix(&start))
            .unwrap_or_else(|| panic!("no row {start}"));
        let mean: f64 = line
            .split_whitespace()
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_default();
        assert!(mean >= 160.0, "{start}{line}");
    }
    let config = Arc::new(Config::default());
    let lossy = Path {
        loss: 0.03,
        ..SHORT
    };
    let outcome = transfer(Stack::Bbr, &config, lossy, 10 << 20, 60_000_000, 1);
    assert!(outcome.megabits() > 120.0, "{}", outcome.megabits());
}

#[test]
fn a_paced_connection_spreads_its_window_over_the_round_trip() {
    let config = Arc::new(Config {
        pacing: true,
        ..Config::default()
    });
    // A queue of eight packets holds what pacing lets leave together.
    let tight = Path {
        queue: 12_000,
        rtt: 50_000,
        ..SHORT
    };
    let run = |config| transfer(Stack::Ours, config, tight, 300_000, 60_000_000, 1);
    let (paced, bursts) = (run(&config), run(&Arc::new(Config::default())));
    assert!(
        paced.packets < bursts.packets && paced.micros < bursts.micros,
        "{} and {} packets, {} and {} us",
        paced.packets,
        bursts.packets,
        paced.micros,
        bursts.micros
    );
}

#[test]
fn a_clean_link_is_filled() {
    let (mean, _, packets) = goodput(SHORT, 20 << 20, 1);
    assert!(mean > 180.0, "{mean} Mbit/s");
    assert!(packets < 1.01, "{packets} packets for each needed");
}

#[test]
fn random_loss_costs_no_more_than_cubic_must_pay() {
    let lossy = |loss| Path { loss, ..SHORT };
    let (one, worst, packets) = goodput(lossy(0.01), 10 << 20, 4);
    assert!(one > 10.5 && worst > 7.5, "{one} Mbit/s, worst {worst}");
    assert!(packets < 1.04, "{packets} packets for each needed");
    let (three, _, _) = goodput(lossy(0.03), 4 << 20, 4);
    assert!(three > 5.0, "{three} Mbit/s");
}

#[test]
fn short_answers_survive_loss_without_waiting_for_a_timeout() {
    let config = Arc::new(Config::default());
    let run = |loss, seed| {
        let path = Path { loss, ..SHORT };
        let outcome = transfer(Stack::Ours, &config, path, 64_000, 3_600_000_000, seed);
        (outcome.micros as f64 / 1000.0, outcome.timeouts)
    };
    let (clean, _) = run(0.0, 1);
    assert!(clean < 31.0, "{clean} ms");
    let runs: Vec<(f64, u32)> = (1..=300).map(|seed| run(0.01, seed)).collect();
    let mut times: Vec<f64> = runs.iter().map(|run| run.0).collect();
    times.sort_by(f64::total_cmp);
    let (mean, p99) = (times.iter().sum::<f64>() / 300.0, times[297]);
    assert!(mean < 35.0 && p99 < 65.0, "mean {mean} ms, p99 {p99} ms");
    let timeouts: u32 = runs.iter().map(|run| run.1).sum();
    assert!(timeouts <= 3, "{timeouts} time-outs");
}
