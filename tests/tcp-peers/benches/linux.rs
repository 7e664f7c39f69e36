//! The engine and the kernel over the same link, in real time: `cargo xtask bench tcp --linux`.
//!
//! Prints a measure a line as JSON. The link is a program on this machine, so a busy machine makes
//! it worse for both.
#![cfg(target_os = "linux")]
#![expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]

use std::error::Error;
use std::time::Duration;

use flowdog_tcp::Algorithm;
use flowdog_tcp_peers::Path;
use flowdog_tcp_peers::kernel::controllers;
use flowdog_tcp_peers::measure::{Stack, share, transfer};
use lab::netns;

const BUFFERS: Option<usize> = Some(1 << 20);
const SHORT: u64 = 64_000;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo test --all-targets` starts benchmarks too, without this word.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    netns::enter()?;
    let with_bbr = controllers().iter().any(|name| name == "bbr");
    if !with_bbr {
        eprintln!("this kernel has no BBR");
    }
    let path = |rtt, loss, queue| Path {
        mtu: 1500,
        rate: 200_000_000,
        rtt: Duration::from_millis(rtt),
        loss,
        queue,
    };
    for (rtt, loss, queue) in [
        (10, 0.0, 4 << 20),
        (10, 0.001, 4 << 20),
        (10, 0.01, 4 << 20),
        (10, 0.03, 4 << 20),
        (50, 0.0, 4 << 20),
        (50, 0.01, 4 << 20),
        (10, 0.0, 62_000),
        (10, 0.0, 250_000),
        (50, 0.0, 312_000),
    ] {
        let path = path(rtt, loss, queue);
        bulk(&path, BUFFERS, with_bbr)?;
    }
    let long_fat = Path {
        mtu: 8500,
        rate: 1_000_000_000,
        ..path(50, 0.0, 12_500_000)
    };
    bulk(&long_fat, None, with_bbr)?;
    for loss in [0.0, 0.01] {
        short(&path(10, loss, 4 << 20))?;
    }
    for (rtt, queue) in [(10, 250_000), (10, 62_000), (50, 1_250_000)] {
        let path = path(rtt, 0.0, queue);
        beside(&path, Stack::Linux("cubic", None), "Linux CUBIC")?;
        beside(&path, Stack::Ours(Algorithm::Cubic), "flowdog CUBIC")?;
    }
    let path = path(10, 0.0, 250_000);
    beside(&path, Stack::Ours(Algorithm::Bbr), "flowdog BBR")?;
    Ok(())
}

fn name(path: &Path) -> String {
    let Path {
        mtu, rate, queue, ..
    } = path;
    let (rate, rtt, loss) = (rate / 1_000_000, path.rtt.as_millis(), path.loss * 100.0);
    format!(
        "{mtu} B {rate} Mbit/s {rtt} ms loss {loss}% queue {} kB",
        queue / 1000
    )
}

fn print(measure: &str, unit: &str, kind: &str, value: f64, yardstick: f64, bound: Option<f64>) {
    let bound = bound.map_or_else(|| "null".to_owned(), |bound| format!("{bound:.3}"));
    println!(
        "{{\"measure\":\"{measure}\",\"unit\":\"{unit}\",\"kind\":\"{kind}\",\"value\":{value:.3},\"yardstick\":{yardstick:.3},\"bound\":{bound}}}"
    );
}

fn bulk(path: &Path, buffers: Option<usize>, with_bbr: bool) -> Result<(), Box<dyn Error>> {
    let (bytes, limit) = (100 << 20, Duration::from_secs(3));
    let measure = |stack| transfer(stack, path, bytes, limit, 1).map(|one| one.megabits());
    let ours = measure(Stack::Ours(Algorithm::Cubic))?;
    let linux = measure(Stack::Linux("cubic", buffers))?;
    let what = format!("real time, {}", name(path));
    let bound = Some(0.95 * linux);
    print(
        &format!("{what}, CUBIC / Linux"),
        "Mbit/s",
        "min",
        ours,
        linux,
        bound,
    );
    if with_bbr {
        let ours = measure(Stack::Ours(Algorithm::Bbr))?;
        let linux = measure(Stack::Linux("bbr", buffers))?;
        print(
            &format!("{what}, BBR / Linux"),
            "Mbit/s",
            "min",
            ours,
            linux,
            None,
        );
    }
    Ok(())
}

fn short(path: &Path) -> Result<(), Box<dyn Error>> {
    let runs = if path.loss > 0.0 { 100 } else { 5 };
    let times = |stack| -> Result<(f64, f64), Box<dyn Error>> {
        let mut times = Vec::new();
        for seed in 1..=runs {
            let one = transfer(stack, path, SHORT, Duration::from_secs(10), seed)?;
            times.push(one.time.as_secs_f64() * 1000.0);
        }
        times.sort_by(f64::total_cmp);
        let mean = times.iter().sum::<f64>() / times.len() as f64;
        Ok((mean, times[(times.len() * 99 / 100).min(times.len() - 1)]))
    };
    let ours = times(Stack::Ours(Algorithm::Cubic))?;
    let linux = times(Stack::Linux("cubic", None))?;
    let what = format!("real time, 64 kB, {}", name(path));
    print(
        &format!("{what}, mean / Linux"),
        "ms",
        "max",
        ours.0,
        linux.0,
        None,
    );
    print(
        &format!("{what}, p99 / Linux"),
        "ms",
        "max",
        ours.1,
        linux.1,
        None,
    );
    Ok(())
}

/// What a flow gets beside one of Linux with CUBIC.
fn beside(path: &Path, second: Stack, who: &str) -> Result<(), Box<dyn Error>> {
    let [linux, other] = share(second, path, Duration::from_secs(7), 1)?;
    let what = format!("real time, {}, {who} beside Linux CUBIC", name(path));
    print(&what, "Mbit/s", "max", other, linux, None);
    Ok(())
}
