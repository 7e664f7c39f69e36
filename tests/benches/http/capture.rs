//! What the capture service costs: configured and without a reader, and with one whose filter lets little
//! through, beside an appliance without it.

use anyhow::Result;

use crate::standing::{ORIGIN_PORT, Proxy, flowdog};
use crate::turns::{self, Of};
use crate::{EMPTY, Line, Load};

/// Seconds for each in each round: what is to be seen is two percent.
const SECONDS: u32 = 30;

/// By CPU time: the lab takes more of the clock than what is to be seen.
pub(crate) fn compare() -> Result<Vec<Line>> {
    let tapped = format!("[capture]\nlisten = 'unix:FOLDER/capture.sock'\nsecrets = 'on'\n{EMPTY}");
    let shark = flowdog()?.with_file_name("flowdogshark");
    anyhow::ensure!(shark.exists(), "{} is missing", shark.display());
    let reader = format!(
        "'{}' capture -w /dev/null --target unix:FOLDER/capture.sock \
         -f 'tcp port {ORIGIN_PORT} and tcp[tcpflags] & (tcp-syn|tcp-fin) != 0' 2>/dev/null & sleep 0.5;",
        shark.display()
    );
    let proxies = [
        Proxy::appliance(EMPTY),
        Proxy::appliance(&*tapped),
        Proxy::Appliance {
            config: tapped,
            beside: reader,
        },
    ];
    let mut lines = Vec::new();
    let of: [(_, &str, Of); 2] = [
        (Load::Http1, "requests", |f| f.requests as f64 / f.cpu),
        (Load::Bulk1, "bulk MB", |f| f.bytes as f64 / 1e6 / f.cpu),
    ];
    for (load, what, of) in of {
        let taken = turns::take(&proxies, load, SECONDS)?;
        for (at, how, least) in [
            (1, "no reader attached", 0.98),
            (2, "one reader with a narrow filter", 0.9),
        ] {
            let measure = format!("{what} per CPU second, {how}");
            lines.push(Line::at_least(
                Some(least),
                measure,
                "1/s of CPU",
                taken.beside(at, 0, of),
            ));
        }
    }
    Ok(lines)
}
