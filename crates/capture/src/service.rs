//! The gRPC service that readers attach to.
//!
//! Who may attach is asked for each call: the user on the other end of a UNIX socket, a token, or a
//! client certificate. Each attach and each refusal is a line of the log with the target `audit`.

mod access;
mod legacy;
pub mod pcap_over_ip;
mod watching;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use zeroize::Zeroizing;

pub use access::Access;
use legacy::Legacy;
use watching::Watching;

use crate::address::Address;
use crate::hub::Hub;
use crate::proto::capture_server::CaptureServer;
use crate::vpcshark::vpcshark_server::VpcsharkServer;

/// TLS of the service; clients must show a certificate of `client_ca`.
#[derive(Clone)]
pub struct Tls {
    /// The service's certificate chain, PEM.
    pub certificate: String,
    /// Its private key, PEM.
    pub key: Zeroizing<String>,
    /// Whose certificates readers may show, PEM. None asks for no certificate.
    pub client_ca: Option<String>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

/// A service whose port is open.
#[derive(Debug)]
pub struct Service {
    hub: Arc<Hub>,
    access: Access,
    tls: Option<Tls>,
    listener: Listener,
}

#[derive(Debug)]
enum Listener {
    Unix(std::os::unix::net::UnixListener),
    Tcp(std::net::TcpListener),
}

impl Service {
    /// Opens the port, and says who may use it.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn open(
        hub: Arc<Hub>,
        address: &Address,
        mut access: Access,
        tls: Option<Tls>,
    ) -> io::Result<Self> {
        let listener = match address {
            Address::Unix(path) => {
                let listener = open_unix(path)?;
                let owner = std::fs::metadata(path)?.uid();
                // Who else may come in is decided by asking the kernel who is calling.
                let mode = if access.users.is_empty() {
                    0o600
                } else {
                    0o666
                };
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
                access.users.extend([0, owner]);
                listener.set_nonblocking(true)?;
                Listener::Unix(listener)
            }
            Address::Tcp(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Listener::Tcp(listener)
            }
        };
        Ok(Self {
            hub,
            access,
            tls,
            listener,
        })
    }

    /// The TCP address, with the real port if the one asked for was 0.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Unix(_) => None,
            Listener::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Serves until `stop` is there. Needs a tokio runtime.
    ///
    /// # Errors
    /// When the certificates cannot be used, or the port fails.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), ServiceError> {
        let router = router(self.hub, self.access, self.tls)?;
        match self.listener {
            Listener::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                router
                    .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop)
                    .await?;
            }
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                router
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop)
                    .await?;
            }
        }
        Ok(())
    }
}

/// Why the service ended.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The port failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A certificate cannot be used, or the transport failed.
    #[error("{}", chain(.0))]
    Transport(#[from] tonic::transport::Error),
}

/// tonic's own text names no cause.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn router(hub: Arc<Hub>, access: Access, tls: Option<Tls>) -> Result<Router, ServiceError> {
    let mut server = Server::builder()
        .concurrency_limit_per_connection(16)
        .max_connection_age(std::time::Duration::from_secs(30 * 24 * 3600))
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)));
    if let Some(tls) = tls {
        let mut config =
            ServerTlsConfig::new().identity(Identity::from_pem(&tls.certificate, tls.key.as_str()));
        if let Some(ca) = &tls.client_ca {
            config = config.client_ca_root(Certificate::from_pem(ca));
        }
        server = server.tls_config(config)?;
    }
    let access = Arc::new(access);
    let watching = Watching::new(Arc::clone(&hub), Arc::clone(&access));
    let legacy = Legacy::new(hub, access);
    Ok(server
        .add_service(CaptureServer::new(watching))
        .add_service(VpcsharkServer::new(legacy)))
}

/// A socket that nobody answers on is left over from a process that died, and is replaced.
fn open_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    use std::os::unix::net::{UnixListener, UnixStream};
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            // Whatever else is at that path is somebody's file.
            let socket = std::fs::symlink_metadata(path)?.file_type().is_socket();
            if !socket || UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            UnixListener::bind(path)
        }
        bound => bound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_neither_a_live_one_nor_a_file_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("capture.sock");
        drop(open_unix(&path).unwrap());
        let live = open_unix(&path).unwrap();
        assert!(open_unix(&path).is_err());
        drop(live);
        let file = folder.path().join("notes");
        std::fs::write(&file, "kept").unwrap();
        assert!(open_unix(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
