//! HTTP through the appliance, and what its parts cost, in one run with what they are measured against.
//!
//! The same load, the same origin, TLS on both sides. The appliance stands behind the lab's load balancer,
//! which is a process of its own: each packet crosses a TUN device and a GENEVE tunnel twice, and that work
//! is the lab's, not the appliance's. So requests per second of a saturated proxy are told by its CPU time:
//! requests per second of CPU of the process in the middle, kernel included, and nothing else. What the
//! clock on the wall says is printed beside it; on a small machine it measures the lab.
//!
//! One program in several parts, because what is measured is the CPU and the memory of a process.

mod capture;
mod load;
mod origin;
mod plain;
mod process;
mod records;
mod reverse;
mod script;
mod secure;
mod standing;
mod turns;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::turns::Beside;

/// The name that clients ask for; the lab's name server knows every name under `lab.name`.
const HOST: &str = "bench.lab.name";
/// Everything is intercepted, and nothing done with it.
const EMPTY: &str = "[[rule]]\naction = \"intercept\"\n";

/// What a load came to.
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

impl<'a> std::iter::Sum<&'a Self> for Figures {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            requests: sum.requests + one.requests,
            bytes: sum.bytes + one.bytes,
            wall: sum.wall + one.wall,
            cpu: sum.cpu + one.cpu,
            memory: sum.memory + one.memory,
        })
    }
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
    /// Standard error of the ratio of value and yardstick.
    error: Option<f64>,
}

impl Line {
    /// A figure that is better the higher; `least` is the bound as a part of the yardstick.
    fn at_least(least: Option<f64>, measure: String, unit: &'static str, figure: Beside) -> Self {
        let bound = least.map(|least| least * figure.yardstick);
        Self::new(measure, unit, figure, bound, "min")
    }

    /// A figure that is better the lower, with a bound in its own unit.
    fn at_most(bound: Option<f64>, measure: String, unit: &'static str, figure: Beside) -> Self {
        Self::new(measure, unit, figure, bound, "max")
    }

    fn new(
        measure: String,
        unit: &'static str,
        figure: Beside,
        bound: Option<f64>,
        kind: &'static str,
    ) -> Self {
        Self {
            measure,
            value: figure.value,
            unit,
            yardstick: figure.yardstick,
            bound,
            kind,
            error: figure.error,
        }
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let lines = match words.as_slice() {
        ["origin", folder, address] => {
            return origin::run(Path::new(folder), address.parse()?);
        }
        ["reverse", folder, address, origin] => {
            return reverse::run(Path::new(folder), address.parse()?, origin.parse()?);
        }
        ["load", kind, address, pid_file, socket] => {
            let pid = std::fs::read_to_string(pid_file)?.trim().parse()?;
            return load::run(Load::parse(kind)?, address, pid, Path::new(socket));
        }
        // Cargo says `--bench` to every benchmark, at the end.
        ["script", ..] => script::compare()?,
        ["records", ..] => records::compare()?,
        ["capture", ..] => capture::compare()?,
        words => {
            let loads: Vec<Load> = match words.iter().position(|word| *word == "--only") {
                Some(at) => vec![Load::parse(words.get(at + 1).copied().unwrap_or_default())?],
                None => Load::ALL.to_vec(),
            };
            plain::compare(&loads)?
        }
    };
    for line in lines {
        speak(&serde_json::to_string(&line)?);
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]
fn speak(line: &str) {
    println!("{line}");
}
