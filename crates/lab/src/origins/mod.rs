//! Built-in origins: the servers that the lab's clients talk to.
//!
//! They serve connections over any byte stream, so that the same code stands behind kernel sockets,
//! user-space stacks and in-memory pipes. Connections are tasks of the current thread: everything
//! here must run inside a [`tokio::task::LocalSet`].
//!
//! | port | speaks |
//! |---|---|
//! | 80, 8080 | HTTP/1.1 and HTTP/2 with prior knowledge |
//! | 443, 8443 | the same over TLS 1.3 and 1.2, certificates minted by name |
//! | 25, 2222 | SMTP and SSH, as far as their greeting: the server speaks first |
//! | 9999 | a binary protocol of no renown; every byte comes back |
//! | 8999 | accepts and never says a word |
//! | 7777/udp | every datagram comes back |
//! | 53/udp | DNS, see [`crate::dns`] |

mod certificates;
mod http;
mod kernel;
pub mod pattern;
pub(crate) mod plain;
mod record;
pub(crate) mod routes;
pub mod sts;
pub mod websocket;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::debug;

pub use certificates::Certificates;
pub use kernel::Sockets;

/// The names of hosts whose certificates have a defect, or whose TLS has a limit.
pub mod names {
    /// The certificate ended years ago.
    pub const EXPIRED: &str = "expired.lab.name";
    /// The certificate is signed by its own key.
    pub const SELF_SIGNED: &str = "self-signed.lab.name";
    /// The certificate names another host.
    pub const WRONG_HOST: &str = "wrong-host.lab.name";
    /// The certificate's root is unknown to everybody.
    pub const UNTRUSTED_ROOT: &str = "untrusted-root.lab.name";
    /// Speaks TLS 1.2 and nothing newer.
    pub const TLS12: &str = "tls12.lab.name";
}

/// How many connections are served at the same time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 8192;
/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

/// How long to wait before accepting again when the system is out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What is spoken on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// Sends back every byte.
    BinaryEcho,
    /// HTTP in clear.
    Http,
    /// HTTP over TLS.
    Https,
    /// Accepts and stays silent.
    Silent,
    /// Greets like a mail server.
    Smtp,
    /// Greets like an SSH server.
    Ssh,
}

impl Service {
    /// Every TCP port with its service.
    pub const PORTS: [(u16, Self); 8] = [
        (25, Self::Smtp),
        (80, Self::Http),
        (443, Self::Https),
        (2222, Self::Ssh),
        (8080, Self::Http),
        (8443, Self::Https),
        (8999, Self::Silent),
        (9999, Self::BinaryEcho),
    ];
    /// The port of the UDP echo.
    pub const UDP_ECHO_PORT: u16 = 7777;

    /// The service on a TCP port; `None` where nothing listens.
    #[must_use]
    pub fn on_port(port: u16) -> Option<Self> {
        Self::PORTS
            .iter()
            .find(|(of, _)| *of == port)
            .map(|(_, service)| *service)
    }
}

/// Something that connections come from.
pub trait Listener {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// The next connection, with its peer's address and its own.
    fn accept(
        &mut self,
    ) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr, SocketAddr)>>;
}

/// The two ends of a connection as the origin sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that it connected to.
    pub local: SocketAddr,
}

/// What TLS found out about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TlsFacts {
    version: &'static str,
    server_name: Option<String>,
}

/// All origins of a lab.
#[derive(Debug)]
pub struct Origins {
    certificates: Certificates,
    connections: Semaphore,
}

impl Origins {
    /// Origins with a fresh public root.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            certificates: Certificates::new()?,
            connections: Semaphore::new(MAX_CONNECTIONS),
        })
    }

    /// The root certificate that origins' certificates lead to, in PEM: what the appliance must trust
    /// to reach them, as it trusts public roots elsewhere.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        self.certificates.root_pem()
    }

    /// Serves every connection of a listener, until accepting fails for good.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self: Rc<Self>,
        service: Service,
        mut listener: impl Listener,
    ) -> io::Result<()> {
        loop {
            let Ok(permit) = self.connections.acquire().await else {
                return Ok(());
            };
            permit.forget();
            let (stream, peer, local) = match listener.accept().await {
                Ok(accepted) => accepted,
                // The client was gone before we came to it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
                    self.connections.add_permits(1);
                    continue;
                }
                // Out of descriptors or memory: some connection will end and give back its own.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
                    ) =>
                {
                    debug!(%error, "an origin cannot accept for now");
                    self.connections.add_permits(1);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            let origins = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                if let Err(error) = origins
                    .serve_connection(service, stream, Ends { peer, local })
                    .await
                {
                    debug!(%error, ?service, %peer, "connection to an origin ended");
                }
                origins.connections.add_permits(1);
            });
        }
    }

    /// Serves one connection to its end.
    ///
    /// # Errors
    /// The stream's, or what the client did against its protocol.
    pub async fn serve_connection(
        &self,
        service: Service,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        ends: Ends,
    ) -> io::Result<()> {
        match service {
            Service::BinaryEcho => plain::echo(stream).await,
            Service::Http => http::serve(stream, ends, None, None).await,
            Service::Https => {
                let accept = self.certificates.accept(stream, ends.local.ip());
                let stream = timeout(HANDSHAKE_LIMIT, accept).await??;
                let connection = stream.get_ref().1;
                let facts = TlsFacts {
                    version: match connection.protocol_version() {
                        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
                        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
                        _ => "unknown",
                    },
                    server_name: connection.server_name().map(str::to_owned),
                };
                let http2 = connection.alpn_protocol().map(|alpn| alpn == b"h2");
                http::serve(stream, ends, Some(facts), http2).await
            }
            Service::Silent => plain::silence(stream).await,
            Service::Smtp => plain::smtp(stream).await,
            Service::Ssh => plain::ssh(stream).await,
        }
    }
}

#[cfg(test)]
mod tests;
