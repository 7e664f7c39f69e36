//! What records cost traffic: every interceptor that keeps something beside none.

use anyhow::Result;

use crate::{Line, Load, turns};

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

/// Requests as signed for AWS, and of HTTP/2.
pub(crate) fn compare() -> Result<Vec<Line>> {
    let loads = [Load::Signed, Load::Http2];
    turns::beside_empty(ALL.to_owned(), loads, "all records", 0.75)
}
