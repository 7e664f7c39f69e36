//! Functions in JavaScript: calls on one core, and requests through the appliance.

use anyhow::Result;

use super::{Args, Measure, build_appliance, parse, run_bench};

pub(super) fn measure(_args: &Args) -> Result<Vec<Measure>> {
    let mut measures = parse(&run_bench("flowdog-script", "script", &[])?)?;
    build_appliance()?;
    measures.extend(parse(&run_bench("flowdog-tests", "http", &["script"])?)?);
    Ok(measures)
}
