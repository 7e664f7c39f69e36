//! The appliance under test as a child process that knows nothing of the lab.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Namespace;
use crate::netns::sys::end_with_starter;

/// How to start the appliance.
#[derive(Clone, Debug)]
pub struct ApplianceCommand {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// File that collects what it prints; `None` leaves it on the terminal.
    pub log: Option<PathBuf>,
}

/// A running appliance; dropping it kills it, and so does the end of this process.
#[derive(Debug)]
pub struct Appliance {
    command: ApplianceCommand,
    child: Child,
    keeper: Keeper,
}

/// The thread that started the appliance. The kernel ends the appliance when this thread ends.
#[derive(Debug)]
struct Keeper {
    _alive: Sender<()>,
}

impl Keeper {
    fn start(
        command: &ApplianceCommand,
        namespace: Option<&Namespace>,
    ) -> io::Result<(Self, Child)> {
        let (alive, until_dropped) = channel::<()>();
        let (tell, started) = channel();
        let command = command.clone();
        let keep = move || {
            // Nobody left to tell: the child then ends with this thread.
            let _ = tell.send(spawn(&command));
            let _ = until_dropped.recv();
        };
        match namespace {
            Some(namespace) => {
                namespace.spawn("lab-keeper", keep)?;
            }
            None => {
                std::thread::Builder::new()
                    .name("lab-keeper".to_owned())
                    .spawn(keep)?;
            }
        }
        let child = started.recv().map_err(io::Error::other)??;
        Ok((Self { _alive: alive }, child))
    }
}

impl Appliance {
    /// Starts the appliance in a namespace, or where the caller is.
    ///
    /// # Errors
    /// The program or its log file cannot be opened.
    pub fn start(command: ApplianceCommand, namespace: Option<&Namespace>) -> io::Result<Self> {
        let (keeper, child) = Keeper::start(&command, namespace)?;
        Ok(Self {
            command,
            child,
            keeper,
        })
    }

    /// Waits until `address` answers an HTTP GET with a success.
    ///
    /// # Errors
    /// It ended, or did not answer in time.
    pub fn wait_healthy(
        &mut self,
        namespace: Option<&Namespace>,
        address: SocketAddr,
        limit: Duration,
    ) -> io::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!(
                    "the appliance ended with {status} before it was healthy"
                )));
            }
            let asked = in_namespace(namespace, || ask_health(address));
            match asked {
                Ok(true) => return Ok(()),
                _ if start.elapsed() > limit => {
                    let why = match asked {
                        Ok(_) => "it says that it is not healthy".to_owned(),
                        Err(error) => error.to_string(),
                    };
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        format!("the appliance is not healthy at {address} after {limit:?}: {why}"),
                    ));
                }
                _ => std::thread::sleep(Duration::from_millis(25)),
            }
        }
    }

    /// What its metrics page says at this moment, by series.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metrics(
        &self,
        namespace: Option<&Namespace>,
        address: SocketAddr,
    ) -> io::Result<BTreeMap<String, f64>> {
        in_namespace(namespace, || get(address, "/metrics")).map(|page| series(&page))
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The system does not know the process.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Kills it at once, as a crash would.
    ///
    /// # Errors
    /// The system refused.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }

    /// Asks it to drain and end; kills it after `limit`.
    ///
    /// # Errors
    /// The system refused.
    pub fn terminate(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::SIGTERM)?;
        }
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.kill()
    }

    /// Sends a signal, for example SIGHUP to reload.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        kill(Pid::from_raw(id), signal).map_err(io::Error::from)
    }

    /// Starts it anew after [`Appliance::kill`] or [`Appliance::terminate`].
    ///
    /// # Errors
    /// It cannot be started.
    pub fn restart(&mut self, namespace: Option<&Namespace>) -> io::Result<()> {
        self.kill()?;
        (self.keeper, self.child) = Keeper::start(&self.command, namespace)?;
        Ok(())
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::debug!(%error, "the appliance could not be killed");
        }
    }
}

pub(crate) fn in_namespace<T: Send>(
    namespace: Option<&Namespace>,
    function: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    match namespace {
        Some(namespace) => namespace.run(function),
        None => function(),
    }
}

fn spawn(command: &ApplianceCommand) -> io::Result<Child> {
    let mut process = Command::new(&command.program);
    process
        .args(&command.arguments)
        .envs(command.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::null())
        // Its own group: Ctrl-C on the terminal is for the command that the lab runs.
        .process_group(0);
    if let Some(log) = &command.log {
        let log = File::options().create(true).append(true).open(log)?;
        process.stdout(log.try_clone()?).stderr(log);
    }
    end_with_starter(&mut process, Signal::SIGKILL);
    process.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot start {}: {error}", command.program.display()),
        )
    })
}

/// Most bytes of an answer that are read: pages of metrics have some tens of kilobytes.
const MAX_ANSWER: u64 = 4 << 20;

/// Whether the health page says that all is well.
fn ask_health(address: SocketAddr) -> io::Result<bool> {
    let answer = get(address, "/")?;
    Ok(answer.starts_with("HTTP/1.1 2") || answer.starts_with("HTTP/1.0 2"))
}

/// One plain HTTP/1.1 request, as a load balancer's health check makes it; the whole answer.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let limit = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}

/// The series of a page in the Prometheus text format, by name and labels.
fn series(page: &str) -> BTreeMap<String, f64> {
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_from_comments_and_heads() {
        let page = "HTTP/1.1 200 OK\r\n\r\n# HELP a b 1\na_total{x=\"y z\"} 3\nb 0.5\n";
        let series = series(page);
        assert_eq!(series.get("a_total{x=\"y z\"}"), Some(&3.0));
        assert_eq!(series.get("b"), Some(&0.5));
        assert_eq!(series.len(), 2);
    }
}
