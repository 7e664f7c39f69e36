//! New flows in front of a slow acceptor, and the cost of finding the rule that decides.

use anyhow::Result;

use super::{Args, Measure, build_appliance, parse, run_bench};

/// Builds the appliance, runs both benchmarks and reads what they print.
pub(super) fn measure(_: &Args) -> Result<Vec<Measure>> {
    build_appliance()?;
    let mut measures = parse(&run_bench("flowdog", "policy", &[])?)?;
    measures.extend(parse(&run_bench("flowdog-tests", "accept", &[])?)?);
    Ok(measures)
}
