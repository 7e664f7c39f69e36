//! The whole table of goodput and of short transfers, for our engine and for smoltcp, in virtual
//! time: `cargo xtask bench tcp` runs it.
//!
//! Without arguments it prints the committed table; `--json` prints a measure a line.

#![expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]

#[path = "../tests/sim/mod.rs"]
mod sim;

use std::sync::Arc;

use flowdog_tcp::Config;

use sim::measure::{Kind, Stack, rows};

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
    for row in rows() {
        let ours = row.measure(Stack::Ours, &config);
        let smoltcp = row.measure(Stack::Smoltcp, &config);
        if json {
            let (unit, kind) = match row.kind {
                Kind::Goodput => ("Mbit/s", "min"),
                Kind::Short(_) => ("ms", "max"),
            };
            let linux = row
                .linux
                .map_or_else(|| "null".to_owned(), |linux| linux.to_string());
            println!(
                "{{\"measure\":\"{}\",\"unit\":\"{unit}\",\"kind\":\"{kind}\",\"value\":{:.3},\"worst\":{:.3},\"packets\":{:.3},\"smoltcp\":{:.3},\"linux\":{linux}}}",
                row.name, ours.mean, ours.worst, ours.packets, smoltcp.mean
            );
        } else {
            println!("{}", row.line("flowdog", ours));
            println!("{}", row.line("bbr", row.measure(Stack::Bbr, &config)));
            println!("{}", row.line("smoltcp", smoltcp));
        }
    }
}
