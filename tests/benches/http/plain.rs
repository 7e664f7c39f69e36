//! The appliance beside a plain reverse proxy of hyper on kernel sockets.

use anyhow::Result;

use crate::standing::Proxy;
use crate::turns::{self, Beside, Of, PACES};
use crate::{EMPTY, Line, Load};

/// Seconds for each in each round: the loads are many, and what is to be seen is no small difference.
const SECONDS: u32 = 10;

const EDIT_HEADERS: &str = r#"
[[interceptor]]
name = "edit"
use = "edit-headers"
request = [{ set = "X-Passed-By", value = "flowdog" }, { remove = "Cookie" }]
response = [{ remove = "Server" }, { add = "X-Seen", value = "1" }]
[[rule]]
action = "intercept"
interceptors = ["edit"]
"#;

/// Runs all of it and puts it side by side.
pub(crate) fn compare(loads: &[Load]) -> Result<Vec<Line>> {
    let proxies = [
        Proxy::Plain,
        Proxy::appliance(EMPTY),
        Proxy::appliance(EDIT_HEADERS),
    ];
    let mut lines = Vec::new();
    for load in loads {
        let is_idle = matches!(load, Load::Idle1 | Load::Idle2);
        let taken = if is_idle {
            turns::take_once(&proxies, *load)?
        } else {
            turns::take(&proxies, *load, SECONDS)?
        };
        for (at, chain) in [(1, "empty chain"), (2, "edit-headers")] {
            lines.extend(judge(*load, chain, |of| taken.beside(at, 0, of)));
        }
    }
    Ok(lines)
}

/// The lines of one load.
fn judge(load: Load, chain: &str, beside: impl Fn(Of) -> Beside) -> Vec<Line> {
    let [
        (on_the_wall, per_second, per_wall),
        (per_cpu_second, _, per_cpu),
    ] = PACES;
    let micros: Of = |f| f.cpu * 1e6 / f.requests as f64;
    let bulk_cpu: Of = |f| f.bytes as f64 / 1e6 / f.cpu;
    let bulk_seconds: Of = |f| f.cpu * 1e9 / f.bytes as f64;
    let bulk_wall: Of = |f| f.bytes as f64 / 1e6 / f.wall;
    let memory: Of = |f| f.memory / 1000.0;
    let named = |what: &str| format!("{} {what}, {chain}", version(load));
    match load {
        Load::Http1 | Load::Http2 | Load::Signed => vec![
            Line::at_least(
                Some(0.8),
                named(per_cpu_second),
                per_second,
                beside(per_cpu),
            ),
            Line::at_most(None, named("CPU per request"), "us", beside(micros)),
            Line::at_least(None, named(on_the_wall), per_second, beside(per_wall)),
        ],
        Load::Bulk1 | Load::Bulk2 => vec![
            Line::at_least(
                Some(0.7),
                named("bulk per CPU second"),
                "MB/s",
                beside(bulk_cpu),
            ),
            Line::at_most(None, named("bulk CPU"), "s/GB", beside(bulk_seconds)),
            Line::at_least(None, named("bulk on the wall"), "MB/s", beside(bulk_wall)),
        ],
        Load::Idle1 | Load::Idle2 => {
            let memory = beside(memory);
            let most = match load {
                Load::Idle1 => 40.0,
                // Most of it are buffers of the library of HTTP/2, which the yardstick has, too.
                _ => memory.yardstick,
            };
            let measure = format!("idle HTTPS connection of {}, {chain}", version(load));
            vec![Line::at_most(Some(most), measure, "kB", memory)]
        }
    }
}

fn version(load: Load) -> &'static str {
    match load {
        Load::Http1 | Load::Bulk1 | Load::Signed | Load::Idle1 => "HTTP/1.1",
        Load::Http2 | Load::Bulk2 | Load::Idle2 => "HTTP/2",
    }
}
