//! What a function in JavaScript costs requests: one that adds a header, beside none.

use anyhow::Result;

use crate::{Line, Load, turns};

const ADD_HEADER: &str = "function handler(event) {\n\
    event.request.headers['x-passed-by'] = { value: 'flowdog' };\n\
    return event.request;\n}\n";

/// Both versions of HTTP.
pub(crate) fn compare() -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("add-header.js");
    std::fs::write(&file, ADD_HEADER)?;
    let on = format!(
        "[[interceptor]]\nname = 'add'\nuse = 'cloudfront-function'\nfile = {file:?}\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['add']\n"
    );
    let loads = [Load::Http1, Load::Http2];
    turns::beside_empty(on, loads, "function on beside off", 0.7)
}
