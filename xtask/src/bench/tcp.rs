//! The TCP engine beside smoltcp in the same run, in virtual time.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Args, Measure, run_bench};
use crate::run::root;

/// Where the committed table stands; a test compares its quick rows.
const TABLE: &str = "crates/tcp/tests/goodput.txt";

/// What is to be reached, by the start of the row's name.
const BOUNDS: &[(&str, f64)] = &[
    ("1500 B 200 Mbit/s 10 ms loss 1%", 10.5),
    ("1500 B 200 Mbit/s 10 ms loss 3%", 5.0),
    ("8500 B 1000 Mbit/s 50 ms queue 12500 kB", 800.0),
    ("64 kB over 10 ms loss 0%", 31.0),
    ("64 kB over 10 ms loss 1%", 35.0),
];

#[derive(Deserialize)]
struct Line {
    measure: String,
    unit: String,
    value: f64,
    smoltcp: f64,
    linux: Option<f64>,
}

/// Runs the benchmark of the crate and reads what it prints.
pub(super) fn measure(args: &Args) -> Result<Vec<Measure>> {
    if args.write {
        let table = run(&[])?;
        let path = root().join(TABLE);
        std::fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut measures = Vec::new();
    for line in run(&["--json"])?.lines() {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("not a measure: {line}"))?;
        let (unit, kind) = match line.unit.as_str() {
            "ms" => ("ms", "max"),
            _ => ("Mbit/s", "min"),
        };
        let target = BOUNDS.iter().find(|(name, _)| *name == line.measure);
        measures.push(Measure {
            measure: format!("{} / smoltcp", line.measure),
            value: line.value,
            unit,
            yardstick: line.smoltcp,
            bound: target.map(|(_, bound)| *bound),
            kind,
        });
        if let Some(linux) = line.linux {
            measures.push(Measure {
                measure: format!("{} / Linux", line.measure),
                value: line.value,
                unit,
                yardstick: linux,
                bound: (kind == "min").then_some(linux * 0.95),
                kind,
            });
        }
    }
    Ok(measures)
}

fn run(args: &[&str]) -> Result<String> {
    run_bench("flowdog-tcp", "goodput", args)
}
