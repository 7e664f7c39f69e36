//! Receivers of lines: the standard output, a file, or a port of the CloudWatch agent.

use std::io::{self, IoSlice, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};

use crate::pump::Deliver;
use crate::queue::Report;

/// Largest UDP datagram; the agent takes no longer line that way.
const LONGEST_DATAGRAM: usize = 65_507;

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The standard output.
    Stdout,
    /// A file that is appended to.
    File(PathBuf),
    /// `tcp://host:port`: a line after the other.
    Tcp(String),
    /// `udp://host:port`: a datagram each.
    Udp(String),
}

impl Place {
    /// Reads `stdout`, `tcp://...`, `udp://...` or a path; `None` if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let address = |address: &str| {
            let (host, port) = address.rsplit_once(':')?;
            let is_right = !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
            is_right.then(|| address.to_owned())
        };
        match text.split_once("://") {
            Some(("tcp", rest)) => address(rest).map(Self::Tcp),
            Some(("udp", rest)) => address(rest).map(Self::Udp),
            Some(_) => None,
            None if text == "stdout" => Some(Self::Stdout),
            None if text.is_empty() => None,
            None => Some(Self::File(text.into())),
        }
    }
}

/// Writes lines to their place.
pub(crate) struct Lines {
    place: Place,
    open: Option<Open>,
}

enum Open {
    File(std::fs::File),
    Tcp(TcpStream),
    Udp(UdpSocket),
}

impl Lines {
    pub(crate) fn new(place: Place) -> Self {
        Self { place, open: None }
    }

    /// Writes text that ends with a newline; answers what could not be.
    pub(crate) async fn write(&mut self, lines: &[String]) -> io::Result<()> {
        let result = self.try_write(lines).await;
        if result.is_err() {
            // Connected anew the next time.
            self.open = None;
        }
        result
    }

    async fn try_write(&mut self, lines: &[String]) -> io::Result<()> {
        if self.place == Place::Stdout {
            let mut out = io::stdout().lock();
            write_all(&mut out, lines)?;
            return out.flush();
        }
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open().await?,
        };
        match self.open.insert(open) {
            Open::File(file) => write_all(file, lines),
            Open::Tcp(stream) => {
                stream.write_all(lines.concat().as_bytes()).await?;
                stream.flush().await
            }
            Open::Udp(socket) => {
                for line in lines {
                    if line.len() <= LONGEST_DATAGRAM {
                        socket.send(line.as_bytes()).await?;
                    }
                }
                Ok(())
            }
        }
    }

    async fn open(&self) -> io::Result<Open> {
        Ok(match &self.place {
            Place::Stdout => return Err(io::ErrorKind::Unsupported.into()),
            Place::File(path) => Open::File(append(path)?),
            Place::Tcp(address) => Open::Tcp(TcpStream::connect(address).await?),
            Place::Udp(address) => {
                let socket = UdpSocket::bind("[::]:0").await;
                let socket = match socket {
                    Ok(socket) => socket,
                    // A host without IPv6.
                    Err(_) => UdpSocket::bind("0.0.0.0:0").await?,
                };
                socket.connect(address).await?;
                Open::Udp(socket)
            }
        })
    }
}

/// Writes all lines, as many of them at once as the system takes.
fn write_all(out: &mut impl Write, lines: &[String]) -> io::Result<()> {
    let mut slices: Vec<_> = lines
        .iter()
        .map(|line| IoSlice::new(line.as_bytes()))
        .collect();
    let mut rest = &mut slices[..];
    // Empty ones in front would look like an end.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match out.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn append(path: &Path) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
}

#[async_trait]
impl Deliver<String> for Lines {
    async fn deliver(&mut self, batch: Vec<String>) -> Report<String> {
        match self.write(&batch).await {
            Ok(()) => Report::written(batch.len()),
            Err(error) => Report::failed(batch, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        assert_eq!(Place::parse("stdout"), Some(Place::Stdout));
        assert_eq!(Place::parse("a/b"), Some(Place::File("a/b".into())));
        assert_eq!(
            Place::parse("tcp://127.0.0.1:25888"),
            Some(Place::Tcp("127.0.0.1:25888".into()))
        );
        for wrong in [
            "",
            "udp://",
            "udp://a",
            "tcp://:1",
            "tcp://a:0",
            "http://a:1",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn lines_reach_a_port_of_either_kind_and_a_file() {
        let lines = ["{\"a\":1}\n".to_owned(), "{\"b\":2}\n".to_owned()];
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = udp.local_addr().unwrap().to_string();
        Lines::new(Place::Udp(address)).write(&lines).await.unwrap();
        let mut buffer = [0; 100];
        let len = udp.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], lines[0].as_bytes());

        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap().to_string();
        let mut to_tcp = Lines::new(Place::Tcp(address));
        let (written, accepted) = tokio::join!(to_tcp.write(&lines), tcp.accept());
        written.unwrap();
        drop(to_tcp);
        let mut all = String::new();
        let (mut stream, _) = accepted.unwrap();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut all)
            .await
            .unwrap();
        assert_eq!(all, lines.concat());

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        for line in &lines {
            let report = Lines::new(Place::File(path.clone()))
                .deliver(vec![line.clone()])
                .await;
            assert_eq!(report.written, 1);
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), lines.concat());
    }

    #[tokio::test]
    async fn threat_34_a_place_that_is_not_there_gives_everything_back() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let mut lines = Lines::new(Place::Tcp(address));
        let report = lines.deliver(vec!["a\n".to_owned()]).await;
        assert_eq!(report.failed, ["a\n"]);
        assert!(report.error.is_some());
    }
}
