//! Benchmarks: programs that print ratios against a yardstick run at the same moment.

mod accept;
mod capture;
mod http;
mod records;
mod script;
mod tcp;
mod tls;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::run::{cargo, target_dir};

/// Which benchmark, and how to print it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The benchmark's name; without one, the names are listed.
    name: Option<String>,
    /// One JSON object a line per measure instead of a table.
    #[arg(long)]
    json: bool,
    /// Replaces the committed table, where the benchmark has one.
    #[arg(long)]
    write: bool,
    /// Measures beside the kernel, in real time and in private namespaces, where the benchmark can.
    #[arg(long)]
    linux: bool,
}

/// One measured figure beside what it is measured against.
#[derive(Serialize, Deserialize)]
pub(crate) struct Measure {
    pub(crate) measure: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) yardstick: f64,
    pub(crate) bound: Option<f64>,
    /// `min` if the value must not be lower than the bound, `max` if not higher.
    pub(crate) kind: String,
    /// Standard error of the ratio of value and yardstick, where it was measured often enough to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<f64>,
}

type Bench = fn(&Args) -> Result<Vec<Measure>>;

/// Every benchmark: name, what it measures, and the function that does.
const BENCHES: &[(&str, &str, Bench)] = &[
    (
        "accept",
        "10,000 new flows a second in front of a slow acceptor, beside none, and the cost of 1,000 rules",
        accept::measure,
    ),
    (
        "capture",
        "HTTP with the capture service off, without a reader, and with one",
        capture::measure,
    ),
    (
        "http",
        "HTTP/1.1 and HTTP/2 through the appliance in the lab, beside a plain hyper reverse proxy",
        http::measure,
    ),
    (
        "records",
        "HTTP with every kind of record kept, beside none",
        records::measure,
    ),
    (
        "script",
        "calls of JavaScript functions beside the bare engine, and requests with one on and off",
        script::measure,
    ),
    (
        "tcp",
        "the TCP engine beside smoltcp, in virtual time, and beside Linux as recorded (--linux: now)",
        tcp::measure,
    ),
    (
        "tls",
        "intercepted connections and bulk beside the TLS library alone",
        tls::measure,
    ),
];

pub(crate) fn run(args: &Args) -> Result<()> {
    let Some(name) = &args.name else {
        for (name, what, _) in BENCHES {
            println!("{name:12} {what}");
        }
        return Ok(());
    };
    let Some((_, _, bench)) = BENCHES.iter().find(|(known, _, _)| known == name) else {
        let known: Vec<&str> = BENCHES.iter().map(|(known, _, _)| *known).collect();
        bail!(
            "no benchmark is called {name}; there are: {}",
            known.join(", ")
        );
    };
    let measures = bench(args)?;
    if args.json {
        for measure in &measures {
            println!("{}", serde_json::to_string(measure)?);
        }
    } else {
        println!(
            "{:56} {:>12} {:>12} {:>8} {:>7} {:>8}  unit",
            "measure", "value", "yardstick", "ratio", "+-", "bound"
        );
        for m in &measures {
            let or_dash = |figure: Option<f64>, digits: usize| {
                figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.digits$}"))
            };
            let (error, bound) = (or_dash(m.error, 3), or_dash(m.bound, 2));
            println!(
                "{:56} {:>12.3} {:>12.3} {:>8.3} {error:>7} {bound:>8}  {}",
                m.measure,
                m.value,
                m.yardstick,
                m.value / m.yardstick,
                m.unit
            );
        }
    }
    Ok(())
}

/// Reads what a benchmark program prints: one measure a line.
fn parse(text: &str) -> Result<Vec<Measure>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a measure: {line}")))
        .collect()
}

/// Builds the program that benchmarks of the whole system start.
fn build_appliance() -> Result<()> {
    let packages = ["--package", "flowdog-cli", "--package", "flowdog-capture"];
    let built = cargo(&["build", "--quiet", "--release"])
        .args(packages)
        .status()?;
    if !built.success() {
        bail!("the release build failed: {built}");
    }
    Ok(())
}

/// Runs a benchmark program of a crate, optimised, and returns what it prints.
fn run_bench(package: &str, bench: &str, args: &[&str]) -> Result<String> {
    let mut command = cargo(&[
        "bench",
        "--quiet",
        "--package",
        package,
        "--bench",
        bench,
        "--",
    ]);
    let output = command
        .args(args)
        .env("FLOWDOG_BIN", target_dir().join("release/flowdog"))
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    if !output.status.success() {
        bail!("the benchmark failed: {}", output.status);
    }
    String::from_utf8(output.stdout).context("the benchmark printed something else than text")
}
