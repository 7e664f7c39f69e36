//! What holds for the appliance's process.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::appliance::Appliance;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn core_limit(pid: u32) -> Result<Vec<String>> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max core file size"))
        .context("no limit of core files")?;
    Ok(line.split_whitespace().take(2).map(str::to_owned).collect())
}

#[test]
fn threat_48_the_appliance_leaves_no_core_dump_where_others_would() -> Result<()> {
    // What we start inherits as much as we may have.
    let (_, most) = getrlimit(Resource::RLIMIT_CORE)?;
    ensure!(most > 0, "core dumps are off for everybody here");
    setrlimit(Resource::RLIMIT_CORE, most, most)?;
    let mut other = Command::new("sleep").arg("60").spawn()?;
    let others = core_limit(other.id());
    other.kill()?;
    other.wait()?;
    ensure!(others?.first().is_some_and(|soft| soft != "0"));

    let mut appliance = Appliance::start(Ipv4Addr::new(127, 48, 0, 1), "")?;
    ensure!(core_limit(appliance.pid())? == ["0", "0"]);
    kill(
        Pid::from_raw(i32::try_from(appliance.pid())?),
        Signal::SIGABRT,
    )?;
    let status = appliance.status()?;
    ensure!(status.signal() == Some(Signal::SIGABRT as i32), "{status}");
    ensure!(!status.core_dumped(), "{status}");
    Ok(())
}
