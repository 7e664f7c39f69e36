//! The appliance as a process: `flowdog run` on a loopback address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A running `flowdog run`, ended when dropped.
#[derive(Debug)]
pub struct Appliance {
    child: Child,
    address: Ipv4Addr,
    folder: TempDir,
}

impl Appliance {
    /// Starts it on this loopback address with more configuration, and waits until it is healthy.
    ///
    /// # Errors
    /// If it does not become healthy within ten seconds.
    pub fn start(address: Ipv4Addr, more: &str) -> Result<Self> {
        Self::start_with(address, more, &[])
    }

    /// The same with more environment variables.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_with(address: Ipv4Addr, more: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("flowdog.toml");
        std::fs::write(
            &config,
            format!(
                "[gwlb]\nlisten = \"{address}:6081\"\n[health]\nlisten = \"{address}:8080\"\n{more}"
            ),
        )?;
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = crate::flowdog()
            .args(["run", "--config"])
            .arg(&config)
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start flowdog run")?;
        let mut appliance = Self {
            child,
            address,
            folder,
        };
        let start = Instant::now();
        while !appliance
            .get("/health")
            .is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            if let Some(status) = appliance.child.try_wait()? {
                bail!("flowdog run ended at once, {status}:\n{}", appliance.log());
            }
            if start.elapsed() > Duration::from_secs(10) {
                bail!(
                    "flowdog run is not healthy after 10 s:\n{}",
                    appliance.log()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(appliance)
    }

    /// Where it listens for GENEVE.
    pub fn gwlb(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, 6081)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Replaces the configuration file's contents.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_config(&self, text: &str) -> Result<()> {
        Ok(std::fs::write(
            self.folder.path().join("flowdog.toml"),
            text,
        )?)
    }

    /// One GET of the health server: the whole answer.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((self.address, 8080))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The sum of all series of a metric whose labels contain `label`.
    ///
    /// # Errors
    /// Those of the connection.
    pub fn metric(&self, name: &str, label: &str) -> Result<f64> {
        let page = self.get("/metrics")?;
        Ok(page
            .lines()
            .filter(|line| line.starts_with(name) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum())
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end, however it comes.
    ///
    /// # Errors
    /// Those of the system.
    pub fn status(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
        Ok(kilobytes * 1024)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            signal,
        )?)
    }

    /// Waits for the end and returns the exit code; `None` if it was ended by a signal.
    ///
    /// # Errors
    /// If it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<i32>> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if start.elapsed() > limit {
                bail!("still running after {limit:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
