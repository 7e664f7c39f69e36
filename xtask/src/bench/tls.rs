//! Interception beside the TLS library alone, in the same run.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{Args, Measure, run_bench};

#[derive(Deserialize)]
struct Line {
    measure: String,
    unit: String,
    value: f64,
    yardstick: f64,
    bound: f64,
    kind: String,
}

/// Runs the benchmark and reads what it prints.
pub(super) fn measure(_args: &Args) -> Result<Vec<Measure>> {
    let text = run_bench("flowdog-proxy", "tls", &[])?;
    let measures = text.lines().map(|line| {
        let line: Line =
            serde_json::from_str(line).with_context(|| format!("not a measure: {line}"))?;
        Ok(Measure {
            measure: line.measure,
            value: line.value,
            unit: match line.unit.as_str() {
                "us CPU" => "us CPU",
                "1/s" => "1/s",
                _ => "MB/s",
            },
            yardstick: line.yardstick,
            bound: Some(line.bound),
            kind: if line.kind == "max" { "max" } else { "min" },
        })
    });
    measures.collect()
}
