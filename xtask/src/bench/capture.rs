//! What the capture service costs traffic: without a reader and with one, beside an appliance without
//! it.

use anyhow::Result;

use super::{Args, Measure, build_appliance, parse, run_bench};

/// Builds the appliance and flowdogshark, runs the benchmark of the test crate and reads what it prints.
pub(super) fn measure(_: &Args) -> Result<Vec<Measure>> {
    build_appliance()?;
    parse(&run_bench("flowdog-tests", "http", &["capture"])?)
}
