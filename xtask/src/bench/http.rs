//! HTTP through the appliance in the lab beside a plain hyper reverse proxy on kernel sockets.

use anyhow::Result;

use super::{Args, Measure, build_appliance, parse, run_bench};

/// Builds the appliance, runs the benchmark of the test crate and reads what it prints.
pub(super) fn measure(_: &Args) -> Result<Vec<Measure>> {
    build_appliance()?;
    parse(&run_bench("flowdog-tests", "http", &[])?)
}
