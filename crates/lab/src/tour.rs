//! The tour: a client's walk through everything that flowdog does, told in plain words.
//!
//! It runs on anything that opens connections ([`Connect`]): kernel sockets in a client's namespace,
//! or a user-space stack. At the other end must be the lab's [`crate::origins`], in between an
//! appliance that trusts [`crate::origins::Origins::root_pem`] and runs these interceptors for every
//! flow: `geneve-headers`, `sts-rickroll`, and `edit-headers` that adds the field [`ADDED_FIELD`] to
//! requests and renames `User-Agent` to [`RENAMED_FIELD`].
//!
//! A step is right only if what was promised happened. Without an appliance, the steps that need one
//! fail; the tests below see to that.

mod client;
mod http1;
mod http2;
mod kernel;
mod steps;

use std::future::Future;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use wire::gwlb::VpcEndpointId;

pub use kernel::{KernelConnect, OpenSocket, open_socket};

/// The field, name and value, that the appliance must add to every request.
pub const ADDED_FIELD: (&str, &str) = ("X-Flowdog-Lab", "tour");
/// What the appliance must call the request field `User-Agent`, where a protocol keeps case.
pub const RENAMED_FIELD: &str = "user-agent";

/// A connection of the client.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The client's own address and port.
    ///
    /// # Errors
    /// The connection is gone.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

impl Stream for tokio::net::TcpStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }
}

/// A host that can open connections.
#[async_trait(?Send)]
pub trait Connect {
    /// Connects by TCP, from a given local port or from any.
    async fn tcp(&self, to: SocketAddr, from_port: Option<u16>) -> io::Result<Box<dyn Stream>>;

    /// Sends a datagram and waits for the answer to it.
    async fn udp(&self, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>>;

    /// The addresses of a name.
    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// What the tour needs around it.
pub trait Environment {
    /// The client behind each endpoint, at least one. Where there are two, they have the same
    /// addresses.
    fn clients(&self) -> Vec<&dyn Connect>;

    /// The endpoint that a client, counted from zero, is behind.
    fn endpoint(&self, client: usize) -> VpcEndpointId;

    /// The certificates that clients trust, in PEM: the appliance's root.
    fn trusted_pem(&self) -> &str;

    /// How often the appliance did what a real load balancer would punish; `None` if nobody counts.
    fn violations(&self) -> Option<u64> {
        None
    }
}

/// How the tour tells its story.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Text.
    #[default]
    Plain,
    /// Text with colours, for terminals.
    Colour,
    /// One JSON object a line: `step`, `outcome` (`right`, `wrong`, `skipped`), `text`, `milliseconds`.
    Json,
}

/// What came of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Right(String),
    Wrong(String),
    Skipped(String),
}

/// A fault found by a step, in words.
type Told = Result<String, String>;

type Step<'t> = Pin<Box<dyn Future<Output = Outcome> + 't>>;

/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);
/// How long a step that moves much data may take.
const BULK_LIMIT: Duration = Duration::from_secs(180);

/// Takes every step, tells about each as it ends, and answers whether all were right.
///
/// # Errors
/// `out` does not take what is written.
pub async fn run(
    environment: &dyn Environment,
    style: Style,
    out: &mut dyn Write,
) -> io::Result<bool> {
    let mut teller = Teller {
        style,
        out,
        right: 0,
        wrong: 0,
        skipped: 0,
    };
    teller.start()?;
    let tour = match client::Tour::new(environment) {
        Ok(tour) => tour,
        Err(fault) => {
            teller.tell("Start", &Outcome::Wrong(fault), Duration::ZERO)?;
            return teller.end();
        }
    };
    for (title, limit, step) in steps::all(&tour) {
        let start = Instant::now();
        let outcome = tokio::time::timeout(limit, step).await.unwrap_or_else(|_| {
            Outcome::Wrong(format!(
                "nothing more happened within {} seconds",
                limit.as_secs()
            ))
        });
        teller.tell(title, &outcome, start.elapsed())?;
    }
    teller.end()
}

/// How many columns a line of text takes, without its indentation.
const WIDTH: usize = 76;

/// Breaks a line between words so that no part is wider than `width`, words aside that are.
fn wrapped(line: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in line.split_whitespace() {
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= width {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

struct Teller<'o> {
    style: Style,
    out: &'o mut dyn Write,
    right: usize,
    wrong: usize,
    skipped: usize,
}

impl Teller<'_> {
    fn start(&mut self) -> io::Result<()> {
        if self.style == Style::Json {
            return Ok(());
        }
        writeln!(
            self.out,
            "A tour of flowdog: a client, a load balancer, flowdog and servers, on this machine.\n"
        )
    }

    fn tell(&mut self, title: &str, outcome: &Outcome, took: Duration) -> io::Result<()> {
        let (word, sign, colour, text) = match outcome {
            Outcome::Right(text) => {
                self.right += 1;
                ("right", '✓', 32, text)
            }
            Outcome::Wrong(text) => {
                self.wrong += 1;
                ("wrong", '✗', 31, text)
            }
            Outcome::Skipped(text) => {
                self.skipped += 1;
                ("skipped", '-', 33, text)
            }
        };
        let milliseconds = took.as_millis() as u64;
        match self.style {
            Style::Json => {
                let line = serde_json::json!({
                    "step": title, "outcome": word, "text": text, "milliseconds": milliseconds,
                });
                writeln!(self.out, "{line}")?;
            }
            Style::Colour => writeln!(
                self.out,
                "\x1b[{colour}m{sign}\x1b[0m \x1b[1m{title}\x1b[0m"
            )?,
            Style::Plain => writeln!(self.out, "{sign} {title}")?,
        }
        if self.style != Style::Json {
            for line in text.lines().flat_map(|line| wrapped(line, WIDTH)) {
                writeln!(self.out, "    {line}")?;
            }
        }
        self.out.flush()
    }

    fn end(self) -> io::Result<bool> {
        let all_right = self.wrong == 0 && self.right > 0;
        if self.style == Style::Json {
            let line = serde_json::json!({
                "all-right": all_right, "right": self.right, "wrong": self.wrong, "skipped": self.skipped,
            });
            writeln!(self.out, "{line}")?;
            return Ok(all_right);
        }
        let skipped = if self.skipped == 0 {
            String::new()
        } else {
            format!(", {} skipped", self.skipped)
        };
        match self.wrong {
            0 => writeln!(self.out, "\nAll {} steps were right{skipped}.", self.right)?,
            wrong => writeln!(
                self.out,
                "\n{wrong} of {} steps were wrong{skipped}.",
                self.right + wrong
            )?,
        }
        Ok(all_right)
    }
}

#[cfg(test)]
mod tests;
