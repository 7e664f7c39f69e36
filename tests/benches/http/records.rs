//! What records cost traffic: every interceptor that keeps something beside none.

use anyhow::Result;

use crate::standing::Proxy;
use crate::turns::{self, PACES, SECONDS};
use crate::{EMPTY, Line, Load};

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
    let proxies = [Proxy::appliance(EMPTY), Proxy::appliance(ALL)];
    let mut lines = Vec::new();
    for load in [Load::Signed, Load::Http2] {
        let taken = turns::take(&proxies, load, SECONDS)?;
        for ((measure, unit, of), least) in PACES.into_iter().zip([Some(0.75), None]) {
            let measure = format!("{} {measure}, all records", load.word());
            lines.push(Line::at_least(least, measure, unit, taken.beside(1, 0, of)));
        }
    }
    Ok(lines)
}
