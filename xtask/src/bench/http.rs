//! HTTP through the appliance in the lab beside a plain hyper reverse proxy on kernel sockets.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::{Args, Measure};
use crate::run::{cargo, target_dir};

#[derive(Deserialize)]
struct Line {
    measure: String,
    value: f64,
    unit: String,
    yardstick: f64,
    bound: Option<f64>,
    kind: String,
}

/// Builds the appliance, runs the benchmark of the test crate and reads what it prints.
pub(super) fn measure(_: &Args) -> Result<Vec<Measure>> {
    let built = cargo(&["build", "--quiet", "--release", "--package", "flowdog-cli"]).status()?;
    if !built.success() {
        bail!("the release build failed: {built}");
    }
    let output = cargo(&[
        "bench",
        "--quiet",
        "--package",
        "flowdog-tests",
        "--bench",
        "http",
    ])
    .env("FLOWDOG_BIN", target_dir().join("release/flowdog"))
    .stderr(std::process::Stdio::inherit())
    .output()
    .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the benchmark failed: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("the benchmark printed no text")?;
    text.lines().map(read).collect()
}

fn read(line: &str) -> Result<Measure> {
    let line: Line =
        serde_json::from_str(line).with_context(|| format!("not a measure: {line}"))?;
    let known = |word: &str, words: &[&'static str]| {
        words
            .iter()
            .find(|known| **known == word)
            .copied()
            .with_context(|| format!("unknown word {word}"))
    };
    Ok(Measure {
        unit: known(&line.unit, &["1/s", "us", "MB/s", "s/GB", "kB"])?,
        kind: known(&line.kind, &["min", "max"])?,
        measure: line.measure,
        value: line.value,
        yardstick: line.yardstick,
        bound: line.bound,
    })
}
