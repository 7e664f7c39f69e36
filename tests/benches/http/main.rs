//! HTTP through the appliance beside a plain hyper reverse proxy on kernel sockets, in one run.
//!
//! The same load, the same origin, TLS on both sides. The yardstick stands between them on the loopback
//! device. The appliance stands behind the lab's load balancer, which is a process of its own: each packet
//! crosses a TUN device and a GENEVE tunnel twice, and that work is the lab's, not the appliance's. So
//! requests per second of a saturated proxy are told by its CPU time: requests per second of CPU of the
//! process in the middle, kernel included, and nothing else. What the clock on the wall says is printed
//! beside it; on a small machine it measures the lab.
//!
//! One program in several parts, because what is measured is the CPU and the memory of a process.

mod load;
mod origin;
mod process;
mod records;
mod reverse;
mod secure;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The name that clients ask for; the lab's name server knows every name under `lab.name`.
const HOST: &str = "bench.lab.name";
/// Where the origin listens in the lab.
const ORIGIN_PORT: u16 = 9443;

/// What a run of the load came to.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Figures {
    /// Requests answered.
    pub(crate) requests: u64,
    /// Bytes of content received.
    pub(crate) bytes: u64,
    /// Time on the wall, in seconds.
    pub(crate) wall: f64,
    /// CPU time of the process in the middle, in seconds.
    pub(crate) cpu: f64,
    /// Memory that the process in the middle took, in bytes.
    pub(crate) memory: f64,
}

/// A kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Small answers, HTTP/1.1, 32 connections kept alive.
    Http1,
    /// Small answers, HTTP/2, 4 connections of 8 streams.
    Http2,
    /// Large answers, HTTP/1.1, 4 connections.
    Bulk1,
    /// Large answers, HTTP/2, 4 connections of one stream.
    Bulk2,
    /// Small answers, HTTP/1.1, 32 connections kept alive, requests as signed for AWS.
    Signed,
    /// 1,000 connections of HTTP/1.1 that have had one exchange and wait.
    Idle1,
    /// The same with HTTP/2.
    Idle2,
}

impl Load {
    const ALL: [Self; 6] = [
        Self::Http1,
        Self::Http2,
        Self::Bulk1,
        Self::Bulk2,
        Self::Idle1,
        Self::Idle2,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Bulk1 => "bulk1",
            Self::Bulk2 => "bulk2",
            Self::Signed => "signed",
            Self::Idle1 => "idle1",
            Self::Idle2 => "idle2",
        }
    }

    fn parse(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .chain([Self::Signed])
            .find(|load| load.word() == word)
            .with_context(|| format!("no load is called {word}"))
    }
}

/// A line of the result: one measure of one load.
#[derive(Serialize)]
struct Line {
    measure: String,
    value: f64,
    unit: &'static str,
    yardstick: f64,
    bound: Option<f64>,
    kind: &'static str,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["origin", folder, address] => origin::run(Path::new(folder), address.parse()?),
        ["reverse", folder, address, origin] => {
            reverse::run(Path::new(folder), address.parse()?, origin.parse()?)
        }
        ["load", kind, seconds, address, pid_file] => {
            let pid: u32 = std::fs::read_to_string(pid_file)?.trim().parse()?;
            let figures = load::run(Load::parse(kind)?, address, pid, seconds.parse()?)?;
            speak(&serde_json::to_string(&figures)?);
            Ok(())
        }
        // Cargo says `--bench` to every benchmark.
        ["script", ..] => {
            for line in script()? {
                speak(&serde_json::to_string(&line)?);
            }
            Ok(())
        }
        ["records", ..] => {
            for line in records::compare()? {
                speak(&serde_json::to_string(&line)?);
            }
            Ok(())
        }
        ["capture", ..] => {
            for line in capture()? {
                speak(&serde_json::to_string(&line)?);
            }
            Ok(())
        }
        words => {
            let loads: Vec<Load> = match words.iter().position(|word| *word == "--only") {
                Some(at) => vec![Load::parse(words.get(at + 1).copied().unwrap_or_default())?],
                None => Load::ALL.to_vec(),
            };
            for line in compare(&loads)? {
                speak(&serde_json::to_string(&line)?);
            }
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]
fn speak(line: &str) {
    println!("{line}");
}

/// Runs everything and puts it side by side.
fn compare(loads: &[Load]) -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    secure::write_certificates(folder.path(), HOST)?;
    let seconds = std::env::var("FLOWDOG_BENCH_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let yardstick = yardstick(folder.path(), loads, &seconds)?;
    let mut lines = Vec::new();
    for (chain, config) in [("empty chain", EMPTY), ("edit-headers", EDIT_HEADERS)] {
        let ours = appliance(folder.path(), config, "", loads, &seconds)?;
        for ((load, ours), plain) in loads.iter().zip(&ours).zip(&yardstick) {
            lines.extend(judge(*load, chain, ours, plain));
        }
    }
    Ok(lines)
}

const EMPTY: &str = "[[rule]]\naction = \"intercept\"\n";

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

const SCRIPT: &str = r#"
[[interceptor]]
name = "add"
use = "cloudfront-function"
file = "FOLDER/add-header.js"
[[rule]]
action = "intercept"
interceptors = ["add"]
"#;

const ADD_HEADER: &str = "function handler(event) {\n\
    event.request.headers['x-passed-by'] = { value: 'flowdog' };\n\
    return event.request;\n}\n";

/// Requests with a function in JavaScript beside the same without.
fn script() -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    secure::write_certificates(folder.path(), HOST)?;
    std::fs::write(folder.path().join("add-header.js"), ADD_HEADER)?;
    let seconds = std::env::var("FLOWDOG_BENCH_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let loads = [Load::Http1, Load::Http2];
    let on = SCRIPT.replace("FOLDER", text(folder.path())?);
    // In turns, so that whatever else the machine does meets both alike.
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..rounds() {
        for (runs, config) in runs.iter_mut().zip([EMPTY, &*on]) {
            runs.push(appliance(folder.path(), config, "", &loads, &seconds)?);
        }
    }
    let mut lines = Vec::new();
    for (at, load) in loads.iter().enumerate() {
        for (measure, unit, of) in PACES {
            let [off, on] = [&runs[0], &runs[1]].map(|runs| middle(runs, at, of));
            lines.push(Line {
                measure: format!("{} {measure}, function on beside off", load.word()),
                value: on,
                unit,
                yardstick: off,
                bound: Some(0.7 * off),
                kind: "min",
            });
        }
    }
    Ok(lines)
}

/// What a figure says.
type Of = fn(&Figures) -> f64;

/// How fast requests go: on the clock, of which the lab has most on a small machine, and by the CPU time of
/// the process with all its threads.
const PACES: [(&str, &str, Of); 2] = [
    ("requests per second on the wall", "1/s", |f| {
        f.requests as f64 / f.wall
    }),
    ("requests per CPU second", "1/s of CPU", |f| {
        f.requests as f64 / f.cpu
    }),
];

/// The middle one of the rounds, of the load at this place.
fn middle(runs: &[Vec<Figures>], at: usize, of: Of) -> f64 {
    let mut figures: Vec<f64> = runs.iter().filter_map(|run| run.get(at)).map(of).collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Rounds of the comparison, `FLOWDOG_BENCH_ROUNDS`; the middle one of each kind counts.
fn rounds() -> usize {
    let rounds = std::env::var("FLOWDOG_BENCH_ROUNDS").ok();
    rounds.and_then(|rounds| rounds.parse().ok()).unwrap_or(3)
}

/// What the capture service costs: configured and without a reader, and with one whose filter lets
/// little through, beside an appliance without it.
fn capture() -> Result<Vec<Line>> {
    let folder = tempfile::tempdir()?;
    secure::write_certificates(folder.path(), HOST)?;
    let seconds = std::env::var("FLOWDOG_BENCH_SECONDS").unwrap_or_else(|_| "4".to_owned());
    let loads = [Load::Http1, Load::Bulk1];
    let socket = folder.path().join("capture.sock");
    let tapped = format!(
        "[capture]\nlisten = 'unix:{}'\nsecrets = 'on'\n{EMPTY}",
        socket.display()
    );
    let shark = Path::new(flowdog()?.get_program()).with_file_name("flowdogshark");
    anyhow::ensure!(shark.exists(), "{} is missing", shark.display());
    let reader = format!(
        "'{}' capture -w /dev/null --target 'unix:{}' -f 'tcp port {ORIGIN_PORT} and tcp[tcpflags] & (tcp-syn|tcp-fin) != 0' 2>/dev/null & sleep 0.5;",
        shark.display(),
        socket.display()
    );
    // In turns, forth and back, so that whatever else the machine does meets all alike.
    let kinds = [(EMPTY, ""), (&*tapped, ""), (&*tapped, &*reader)];
    let mut runs = [Vec::new(), Vec::new(), Vec::new()];
    let mut order = [0, 1, 2];
    for _ in 0..rounds() {
        for at in order {
            let (config, beside) = kinds[at];
            runs[at].push(appliance(folder.path(), config, beside, &loads, &seconds)?);
        }
        order.reverse();
    }
    let mut lines = Vec::new();
    for (at, load) in loads.iter().enumerate() {
        let (what, of): (_, Of) = match load {
            Load::Bulk1 => ("bulk MB per CPU second", |f| f.bytes as f64 / 1e6 / f.cpu),
            _ => ("requests per CPU second", |f| f.requests as f64 / f.cpu),
        };
        let [off, idle, read] = [&runs[0], &runs[1], &runs[2]].map(|runs| middle(runs, at, of));
        for (how, value, least) in [
            ("no reader attached", idle, 0.98),
            ("one reader with a narrow filter", read, 0.9),
        ] {
            lines.push(Line {
                measure: format!("{what}, {how}"),
                value,
                unit: "1/s of CPU",
                yardstick: off,
                bound: Some(least * off),
                kind: "min",
            });
        }
    }
    Ok(lines)
}

/// The lines of one load.
fn judge(load: Load, chain: &str, ours: &Figures, plain: &Figures) -> Vec<Line> {
    let line = |what: &str, unit, bound, kind, of: fn(&Figures) -> f64| Line {
        measure: format!("{what}, {chain}"),
        value: of(ours),
        unit,
        yardstick: of(plain),
        bound,
        kind,
    };
    let per_cpu = |figures: &Figures| figures.requests as f64 / figures.cpu;
    let micros = |figures: &Figures| figures.cpu * 1e6 / figures.requests as f64;
    let per_wall = |figures: &Figures| figures.requests as f64 / figures.wall;
    let bulk_cpu = |figures: &Figures| figures.bytes as f64 / 1e6 / figures.cpu;
    let bulk_seconds = |figures: &Figures| figures.cpu * 1e9 / figures.bytes as f64;
    let bulk_wall = |figures: &Figures| figures.bytes as f64 / 1e6 / figures.wall;
    let memory = |figures: &Figures| figures.memory / 1000.0;
    let requests = |name: &str| {
        let least = per_cpu(plain) * 0.8;
        vec![
            line(
                &format!("{name} requests per CPU second"),
                "1/s",
                Some(least),
                "min",
                per_cpu,
            ),
            line(
                &format!("{name} CPU per request"),
                "us",
                None,
                "max",
                micros,
            ),
            line(
                &format!("{name} requests per second on the wall"),
                "1/s",
                None,
                "min",
                per_wall,
            ),
        ]
    };
    let bulk = |name: &str| {
        let least = bulk_cpu(plain) * 0.7;
        vec![
            line(
                &format!("{name} bulk per CPU second"),
                "MB/s",
                Some(least),
                "min",
                bulk_cpu,
            ),
            line(
                &format!("{name} bulk CPU"),
                "s/GB",
                None,
                "max",
                bulk_seconds,
            ),
            line(
                &format!("{name} bulk on the wall"),
                "MB/s",
                None,
                "min",
                bulk_wall,
            ),
        ]
    };
    let idle = |name: &str, most: f64| {
        vec![line(
            &format!("idle HTTPS connection of {name}"),
            "kB",
            Some(most),
            "max",
            memory,
        )]
    };
    match load {
        Load::Http1 | Load::Signed => requests("HTTP/1.1"),
        Load::Http2 => requests("HTTP/2"),
        Load::Bulk1 => bulk("HTTP/1.1"),
        Load::Bulk2 => bulk("HTTP/2"),
        Load::Idle1 => idle("HTTP/1.1", 40.0),
        // Most of it are buffers of the library of HTTP/2, which the yardstick has, too.
        Load::Idle2 => idle("HTTP/2", memory(plain)),
    }
}

/// A part of this program as a process, ended when dropped.
struct Part(Child);

impl Part {
    fn start(arguments: &[&str]) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start a part of the benchmark")?;
        Ok(Self(child))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a folder's name is not text")
}

/// A loopback address on which nobody listens.
fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.to_string())
}

/// The plain reverse proxy on kernel sockets.
fn yardstick(folder: &Path, loads: &[Load], seconds: &str) -> Result<Vec<Figures>> {
    let (origin, address) = (free_address()?, free_address()?);
    let _origin = Part::start(&["origin", text(folder)?, &origin])?;
    let proxy = Part::start(&["reverse", text(folder)?, &address, &origin])?;
    let pid_file = folder.join("reverse.pid");
    std::fs::write(&pid_file, proxy.0.id().to_string())?;
    std::thread::sleep(Duration::from_millis(300));
    let mut all = Vec::new();
    for load in loads {
        let output = Command::new(std::env::current_exe()?)
            .args(["load", load.word(), seconds, &address, text(&pid_file)?])
            .env("SSL_CERT_FILE", folder.join(secure::ROOT))
            .stderr(Stdio::inherit())
            .output()?;
        all.push(read(&output, *load)?);
    }
    Ok(all)
}

/// The appliance in the lab, with a shell command beside the load. Each load meets a fresh one.
fn appliance(
    folder: &Path,
    rules: &str,
    beside: &str,
    loads: &[Load],
    seconds: &str,
) -> Result<Vec<Figures>> {
    let config = folder.join("flowdog.toml");
    let root = folder.join(secure::ROOT);
    std::fs::write(
        &config,
        format!("[tls.upstream]\nroots = [{root:?}]\n{rules}"),
    )?;
    let program = std::env::current_exe()?;
    let origin = format!(
        "exec '{}' origin '{}' 0.0.0.0:{ORIGIN_PORT}",
        program.display(),
        folder.display()
    );
    let mut all = Vec::new();
    for load in loads {
        let script = format!(
            "sleep 0.3; {beside} exec '{}' load {} {seconds} {HOST}:{ORIGIN_PORT} \"$FLOWDOG_LAB_APPLIANCE_PID\"",
            program.display(),
            load.word(),
        );
        let output = flowdog()?
            .args(["lab", "--config", text(&config)?])
            .args(["--log", text(&folder.join("appliance.log"))?])
            .args(["--server", &origin])
            .args(["--", "sh", "-c", &script])
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start the lab")?;
        all.push(read(&output, *load)?);
    }
    Ok(all)
}

/// The program under test, as built for release.
fn flowdog() -> Result<Command> {
    let path = std::env::var_os("FLOWDOG_BIN").map(PathBuf::from);
    Ok(Command::new(path.context(
        "FLOWDOG_BIN does not name the program; run: cargo xtask bench http",
    )?))
}

fn read(output: &std::process::Output, load: Load) -> Result<Figures> {
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("the load {} failed: {}\n{text}", load.word(), output.status);
    }
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("not figures: {line}"))
}
