//! HTTP through the appliance in the lab beside a plain hyper reverse proxy on kernel sockets.

use anyhow::{Context, Result, bail};

use super::{Args, Measure, parse};
use crate::run::{cargo, target_dir};

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
    parse(&String::from_utf8(output.stdout).context("the benchmark printed no text")?)
}
