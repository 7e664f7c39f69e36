//! What records cost traffic: all interceptors that keep something, beside none.

use anyhow::Result;

use super::{Args, Measure, build_appliance, parse, run_bench};

/// Builds the appliance, runs the benchmark of the test crate and reads what it prints.
pub(super) fn measure(_: &Args) -> Result<Vec<Measure>> {
    build_appliance()?;
    parse(&run_bench("flowdog-tests", "http", &["records"])?)
}
