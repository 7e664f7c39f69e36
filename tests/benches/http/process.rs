//! What the kernel says about the process in the middle.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time of all threads that are alive, user and kernel.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while it is looked at.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next().unwrap_or_default();
        nanos += first.parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Resident memory, in bytes.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
    let words = line.context("no Rss in smaps_rollup")?;
    let kilobytes: u64 = words
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .parse()?;
    Ok(kilobytes * 1024)
}
