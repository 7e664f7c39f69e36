//! The tour's client on kernel sockets.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use super::{Connect, Stream};
use crate::dns;

/// How long to wait for a datagram, and how often to ask again.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const ATTEMPTS: u16 = 4;

/// Opens a socket, not blocking, in the namespace of a client.
pub type OpenSocket = Box<dyn Fn(Domain, Type) -> io::Result<Socket>>;

/// A host with kernel sockets.
pub struct KernelConnect {
    open: OpenSocket,
    dns: SocketAddr,
}

impl fmt::Debug for KernelConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelConnect")
            .field("dns", &self.dns)
            .finish_non_exhaustive()
    }
}

impl KernelConnect {
    /// A host in the calling threads' namespace, which asks the name server at `dns`.
    #[must_use]
    pub fn new(dns: SocketAddr) -> Self {
        Self::with_sockets(dns, Box::new(open_socket))
    }

    /// A host whose sockets are opened elsewhere, as in another namespace: a socket stays in the
    /// namespace of the thread that opened it. [`open_socket`] is what such a thread should call.
    #[must_use]
    pub fn with_sockets(dns: SocketAddr, open: OpenSocket) -> Self {
        Self { open, dns }
    }

    fn udp_socket(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = (self.open)(Domain::for_address(to), Type::DGRAM)?;
        UdpSocket::from_std(socket.into())
    }
}

/// Opens a socket in the calling thread's namespace.
///
/// # Errors
/// The system's.
pub fn open_socket(domain: Domain, kind: Type) -> io::Result<Socket> {
    Socket::new(domain, kind.nonblocking().cloexec(), None)
}

#[async_trait(?Send)]
impl Connect for KernelConnect {
    async fn tcp(&self, to: SocketAddr, from_port: Option<u16>) -> io::Result<Box<dyn Stream>> {
        let socket = (self.open)(Domain::for_address(to), Type::STREAM)?;
        if let Some(port) = from_port {
            socket.set_reuse_address(true)?;
            let any: IpAddr = if to.is_ipv4() {
                Ipv4Addr::UNSPECIFIED.into()
            } else {
                Ipv6Addr::UNSPECIFIED.into()
            };
            socket.bind(&SocketAddr::new(any, port).into())?;
        }
        let stream = TcpSocket::from_std_stream(socket.into())
            .connect(to)
            .await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    async fn udp(&self, to: SocketAddr, payload: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.udp_socket(to)?;
        socket.connect(to).await?;
        let mut buffer = vec![0; 65_536];
        for _ in 0..ATTEMPTS {
            socket.send(payload).await?;
            if let Ok(received) = timeout(ANSWER_LIMIT, socket.recv(&mut buffer)).await {
                buffer.truncate(received?);
                return Ok(buffer);
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    async fn resolve(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for (id, v6) in [(4, false), (6, true)] {
            let answer = self.udp(self.dns, &dns::query(id, name, v6)).await?;
            found.extend(dns::parse_answer(id, &answer).ok_or(io::ErrorKind::NotFound)?);
        }
        Ok(found)
    }
}
