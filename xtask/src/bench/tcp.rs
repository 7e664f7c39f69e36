//! The TCP engine beside smoltcp in the same run, in virtual time; what interception costs in
//! processor time and memory; on request beside the kernel's TCP, in real time.

use anyhow::{Context, Result};

use super::{Args, Measure, parse, run_bench};
use crate::run::root;

/// Where the committed table stands; a test compares every row of ours.
const TABLE: &str = "crates/tcp/tests/goodput.txt";

/// Runs the benchmarks and reads what they print.
pub(super) fn measure(args: &Args) -> Result<Vec<Measure>> {
    if args.write {
        let table = run_bench("flowdog-tcp", "goodput", &[])?;
        let path = root().join(TABLE);
        std::fs::write(&path, table).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if args.linux {
        return parse(&run_bench("flowdog-tcp-peers", "linux", &[])?);
    }
    let mut measures = parse(&run_bench("flowdog-tcp", "goodput", &["--json"])?)?;
    measures.extend(parse(&run_bench("flowdog-dataplane", "legs", &[])?)?);
    Ok(measures)
}
