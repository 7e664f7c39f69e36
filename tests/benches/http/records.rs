//! What records cost traffic: every interceptor that keeps something beside none.

use anyhow::Result;

use crate::{EMPTY, Line, Load, PACES, appliance, middle, rounds, secure, text};

/// Everything is kept: metrics lines, lines of exchanges and archives. To files, because what a service
/// of AWS would cost is not the appliance's.
const ALL: &str = r#"
[[interceptor]]
name = "accounts"
use = "account-id-emf"
output = "FOLDER/emf"
[[interceptor]]
name = "lines"
use = "firehose"
output = "FOLDER/lines"
[[interceptor]]
name = "archive"
use = "har"
to = "FOLDER/archives"
[[rule]]
action = "intercept"
interceptors = ["accounts", "lines", "archive"]
"#;

/// Requests with all records on beside the same with none. The bound is for requests per second on the
/// wall.
pub(crate) fn compare() -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    secure::write_certificates(folder.path(), crate::HOST)?;
    let seconds = std::env::var("FLOWDOG_BENCH_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let loads = [Load::Signed, Load::Http2];
    let all = ALL.replace("FOLDER", text(folder.path())?);
    // In turns, so that whatever else the machine does meets both alike.
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (runs, config) in runs.iter_mut().zip([EMPTY, &*all]) {
            runs.push(appliance(folder.path(), config, "", &loads, &seconds)?);
        }
    }
    let mut lines = Vec::new();
    for (at, load) in loads.iter().enumerate() {
        for ((measure, unit, of), least) in PACES.into_iter().zip([Some(0.75), None]) {
            let [off, on] = [&runs[0], &runs[1]].map(|runs| middle(runs, at, of));
            lines.push(Line {
                measure: format!("{} {measure}, all records", load.word()),
                value: on,
                unit,
                yardstick: off,
                bound: least.map(|least| least * off),
                kind: "min",
            });
        }
    }
    Ok(lines)
}
