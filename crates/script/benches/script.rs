//! Calls of functions on one core, events built and results applied, beside the bare engine that
//! parses the same event and calls the same handler.
//!
//! Counted in processor time of the thread, so that other work on the machine does not matter.
#![expect(clippy::expect_used, reason = "a benchmark fails by panicking")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flowdog_script::{Function, Runner, Settings};
use nix::time::{ClockId, clock_gettime};
use rquickjs::{Context, Runtime};
use sdk::testing::{flow, request};

/// A request as browsers send it, about 1 kB.
const REQUEST: &str = "GET /media/index.mpd?ID=42&Exp=1619740800&TTL=1440&NoValue=&querymv=val1&querymv=val2 HTTP/1.1\n\
    Host: video.example.com\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\n\
    Accept-Language: en-US,en;q=0.5\n\
    Accept-Encoding: gzip, deflate, br, zstd\n\
    Referer: https://www.example.com/start\n\
    Cookie: id=CookieIdValue; loggedIn=false; theme=dark\n\
    Upgrade-Insecure-Requests: 1\n\
    Sec-Fetch-Mode: navigate\n\n";

const ADD_HEADER: &str = "function handler(event) {\n\
    const request = event.request;\n\
    request.headers['x-passed-by'] = { value: 'flowdog' };\n\
    return request;\n}\n";

fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Calls in a second of processor time: the best of several rounds.
fn rate(mut call: impl FnMut()) -> f64 {
    const CALLS: u32 = 4000;
    let mut best = 0.0_f64;
    for _ in 0..8 {
        let begin = cpu();
        for _ in 0..CALLS {
            call();
        }
        best = best.max(f64::from(CALLS) / (cpu() - begin).as_secs_f64());
    }
    best
}

fn ours(function: &Function) -> f64 {
    let mut runner: Runner = function.runner().expect("a realm");
    let flow = Arc::new(flow());
    // A request is made once; a copy of its head is what each exchange brings.
    let template = request(REQUEST);
    rate(|| {
        let mut request = sdk::Request::new(template.method.clone(), template.target.clone());
        request.headers = template.headers.clone();
        let answered = runner.request(&mut request, &flow).expect("a valid result");
        std::hint::black_box((request, answered));
    })
}

fn bare(source: &str, name: &str, event: &str) -> f64 {
    let runtime = Runtime::new().expect("a runtime");
    let context = Context::full(&runtime).expect("a context");
    context.with(|ctx| {
        let wrapped = format!(
            "(function () {{ {source}\nreturn function (text) {{ {name}(JSON.parse(text)); }}; }})()"
        );
        let call: rquickjs::Function<'_> = ctx.eval(wrapped).expect("a handler");
        rate(|| call.call::<_, ()>((event,)).expect("a result"))
    })
}

#[expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]
fn print(measure: &str, value: f64, yardstick: f64, bound: Option<f64>) {
    let line = serde_json::json!({
        "measure": measure, "value": value, "unit": "1/s of CPU", "yardstick": yardstick,
        "bound": bound, "kind": "min",
    });
    println!("{line}");
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let add_header = folder.path().join("add-header.js");
    std::fs::write(&add_header, ADD_HEADER).expect("a file");
    let rick = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/functions/rick.js");
    for (measure, file, name, bound) in [
        (
            "calls, adding a header",
            add_header,
            "handler",
            Some(30_000.0),
        ),
        ("calls, rick.js", rick, "onRequest", None),
    ] {
        let source = std::fs::read_to_string(&file).expect("a source");
        let function = Function::load(&file, Settings::default()).expect("a function");
        let event = function
            .runner()
            .expect("a realm")
            .event(&request(REQUEST), &Arc::new(flow()))
            .expect("an event");
        print(measure, ours(&function), bare(&source, name, &event), bound);
    }
    let own = Settings {
        own_realm: true,
        ..Settings::default()
    };
    let file = folder.path().join("add-header.js");
    let fresh = Function::load(&file, own).expect("a function");
    let shared = Function::load(&file, Settings::default()).expect("a function");
    print(
        "calls in a realm of their own, adding a header",
        ours(&fresh),
        ours(&shared),
        None,
    );
}
