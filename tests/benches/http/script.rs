//! What a function in JavaScript costs requests: one that adds a header, beside none.

use anyhow::Result;

use crate::standing::Proxy;
use crate::turns::{self, PACES, SECONDS};
use crate::{EMPTY, Line, Load};

const ADD_HEADER: &str = "function handler(event) {\n\
    event.request.headers['x-passed-by'] = { value: 'flowdog' };\n\
    return event.request;\n}\n";

/// The bound is for requests per second on the wall.
pub(crate) fn compare() -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("add-header.js");
    std::fs::write(&file, ADD_HEADER)?;
    let on = format!(
        "[[interceptor]]\nname = 'add'\nuse = 'cloudfront-function'\nfile = {file:?}\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['add']\n"
    );
    let proxies = [Proxy::appliance(EMPTY), Proxy::appliance(on)];
    let mut lines = Vec::new();
    for load in [Load::Http1, Load::Http2] {
        let taken = turns::take(&proxies, load, SECONDS)?;
        for ((measure, unit, of), least) in PACES.into_iter().zip([Some(0.7), None]) {
            let measure = format!("{} {measure}, function on beside off", load.word());
            lines.push(Line::at_least(least, measure, unit, taken.beside(1, 0, of)));
        }
    }
    Ok(lines)
}
