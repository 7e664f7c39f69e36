//! The whole table of goodput and of short transfers, for our engine and for smoltcp, in virtual
//! time: `cargo xtask bench tcp` runs it.
//!
//! Without arguments it prints the committed table; `--json` prints a measure a line.

#![expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]

#[path = "../tests/sim/mod.rs"]
mod sim;

use std::sync::Arc;

use flowdog_tcp::Config;

use sim::measure::{Figures, Kind, Row, Stack, rows};

/// What is to be reached beside being as good as Linux, by the row's name.
const BOUNDS: &[(&str, f64)] = &[
    ("1500 B 200 Mbit/s 10 ms loss 1%", 10.5),
    ("1500 B 200 Mbit/s 10 ms loss 3%", 5.0),
    ("8500 B 1000 Mbit/s 50 ms queue 12500 kB", 800.0),
    ("64 kB over 10 ms loss 0%", 31.0),
    ("64 kB over 10 ms loss 1%", 35.0),
];
/// The same for the slowest of a hundred.
const BOUND_P99: (&str, f64) = ("64 kB over 10 ms loss 1%", 60.0);
/// The same for BBR, Mbit/s on the path of these rows.
const BOUND_BBR: (&str, f64) = ("1500 B 200 Mbit/s 10 ms loss", 160.0);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts benchmarks too, without this word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let json = arguments.iter().any(|argument| argument == "--json");
    let config = Arc::new(Config::default());
    if !json {
        println!(
            "# Virtual time; made by `cargo xtask bench tcp --write`. Mbit/s: mean and worst of the"
        );
        println!(
            "# seeds; milliseconds: mean and 99th percentile. Packets: sent for each one needed."
        );
        println!(
            "{:42} {:8} {:>8} {:>8} {:>7}",
            "# path", "stack", "mean", "worst", "packets"
        );
    }
    let mut most_packets: f64 = 0.0;
    for row in rows() {
        let [ours, bbr, smoltcp] =
            [Stack::Ours, Stack::Bbr, Stack::Smoltcp].map(|stack| row.measure(stack, &config));
        if json {
            measures(&row, ours, bbr, smoltcp);
            if matches!(row.kind, Kind::Goodput) {
                let bound = 1.2 + 2.0 * row.path.loss;
                most_packets = most_packets.max(ours.packets.max(bbr.packets) / bound);
            }
        } else {
            println!("{}", row.line("flowdog", ours));
            println!("{}", row.line("bbr", bbr));
            println!("{}", row.line("smoltcp", smoltcp));
        }
    }
    if json {
        let name = "packets for each needed / (1.2 + 2 x loss), worst";
        print(name, "", "max", most_packets, 1.0, Some(1.0));
    }
}

fn bound(bounds: &[(&str, f64)], row: &Row) -> Option<f64> {
    let found = bounds.iter().find(|(name, _)| *name == row.name);
    found.map(|(_, bound)| *bound)
}

fn measures(row: &Row, ours: Figures, bbr: Figures, smoltcp: Figures) {
    let name = &row.name;
    let (unit, kind) = match row.kind {
        Kind::Goodput => ("Mbit/s", "min"),
        Kind::Short(_) => ("ms", "max"),
    };
    let own = bound(BOUNDS, row);
    print(
        &format!("{name} / smoltcp"),
        unit,
        kind,
        ours.mean,
        smoltcp.mean,
        own,
    );
    if let Some(linux) = row.linux {
        // Where the queue is what limits, as good as Linux; elsewhere there is some noise.
        let share = if row.name.contains("queue") {
            1.0
        } else {
            0.95
        };
        let bound = (kind == "min").then_some(linux * share);
        print(
            &format!("{name} / Linux"),
            unit,
            kind,
            ours.mean,
            linux,
            bound,
        );
    }
    match row.kind {
        Kind::Goodput => {
            let bound = name.starts_with(BOUND_BBR.0).then_some(BOUND_BBR.1);
            print(
                &format!("{name} BBR / CUBIC"),
                unit,
                kind,
                bbr.mean,
                ours.mean,
                bound,
            );
        }
        Kind::Short(_) if row.path.loss > 0.0 => {
            let bound = bound(&[BOUND_P99], row);
            print(
                &format!("{name} p99 / smoltcp"),
                unit,
                kind,
                ours.worst,
                smoltcp.worst,
                bound,
            );
        }
        Kind::Short(_) => {}
    }
}

fn print(measure: &str, unit: &str, kind: &str, value: f64, yardstick: f64, bound: Option<f64>) {
    let bound = bound.map_or_else(|| "null".to_owned(), |bound| format!("{bound:.3}"));
    println!(
        "{{\"measure\":\"{measure}\",\"unit\":\"{unit}\",\"kind\":\"{kind}\",\"value\":{value:.3},\"yardstick\":{yardstick:.3},\"bound\":{bound}}}"
    );
}
