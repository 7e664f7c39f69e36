//! Interception beside the TLS library alone, in the same run.

use anyhow::Result;

use super::{Args, Measure, parse, run_bench};

/// Runs the benchmark and reads what it prints.
pub(super) fn measure(_args: &Args) -> Result<Vec<Measure>> {
    parse(&run_bench("flowdog-proxy", "tls", &[])?)
}
