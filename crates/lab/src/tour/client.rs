//! The tour's client: connections, TLS, and what origins' echoes say.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Connect, Environment, Stream};

/// A connection under TLS.
pub(super) type Tls = TlsStream<Box<dyn Stream>>;

/// Which family of addresses to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The tour's view of its environment.
pub(super) struct Tour<'e> {
    pub(super) environment: &'e dyn Environment,
    roots: Arc<RootCertStore>,
}

impl<'e> Tour<'e> {
    pub(super) fn new(environment: &'e dyn Environment) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(environment.trusted_pem().as_bytes()) {
            certificate
                .map_err(|error| error.to_string())
                .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()))
                .map_err(|error| format!("the trusted root cannot be read: {error}"))?;
        }
        if environment.clients().is_empty() {
            return Err("the environment has no client".to_owned());
        }
        Ok(Self {
            environment,
            roots: Arc::new(roots),
        })
    }

    /// The client behind an endpoint.
    pub(super) fn client(&self, index: usize) -> Result<&'e dyn Connect, String> {
        self.environment
            .clients()
            .into_iter()
            .nth(index)
            .ok_or_else(|| format!("there is no client {index}"))
    }

    /// Looks up a name as a client would.
    pub(super) async fn address(
        &self,
        client: usize,
        name: &str,
        port: u16,
        family: Family,
    ) -> Result<SocketAddr, String> {
        let found = self
            .client(client)?
            .resolve(name)
            .await
            .map_err(|error| format!("{name} was not found: {error}"))?;
        found
            .into_iter()
            .find(|addr| {
                matches!(
                    (addr, family),
                    (IpAddr::V4(_), Family::V4) | (IpAddr::V6(_), Family::V6)
                )
            })
            .map(|addr| SocketAddr::new(addr, port))
            .ok_or_else(|| format!("{name} has no {family:?} address"))
    }

    /// Connects the first client to a name over IPv4.
    pub(super) async fn tcp(&self, name: &str, port: u16) -> Result<Box<dyn Stream>, String> {
        let to = self.address(0, name, port, Family::V4).await?;
        self.client(0)?
            .tcp(to, None)
            .await
            .map_err(|error| format!("no connection to {name} port {port}: {error}"))
    }

    /// Connects the first client to a name over IPv4 and makes a TLS handshake.
    pub(super) async fn tls(
        &self,
        name: &str,
        port: u16,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Tls, String> {
        let stream = self.tcp(name, port).await?;
        self.handshake(stream, name, alpn, versions)
            .await
            .map_err(|error| format!("no TLS handshake with {name} port {port}: {error}"))
    }

    /// Makes a TLS handshake on a connection.
    pub(super) async fn handshake(
        &self,
        stream: Box<dyn Stream>,
        name: &str,
        alpn: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> io::Result<Tls> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = ClientConfig::builder_with_provider(provider.into())
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(&self.roots))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }
}

/// What an origin's `/echo` says it saw.
#[derive(Clone, Debug)]
pub(super) struct Echo(serde_json::Value);

impl Echo {
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body)
            .map(Self)
            .map_err(|error| format!("the origin's answer is no JSON: {error}"))
    }

    /// A text the origin reports.
    pub(super) fn text(&self, key: &str) -> &str {
        self.0
            .get(key)
            .and_then(serde_json::Value::as_str)
            .unwrap_or("nothing")
    }

    /// The request's fields as they arrived.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        let fields = self.0.get("headers").and_then(serde_json::Value::as_array);
        fields
            .into_iter()
            .flatten()
            .filter_map(|field| Some((field.get(0)?.as_str()?, field.get(1)?.as_str()?)))
    }

    /// A request field's value, whatever its name's case.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        self.fields()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Fails with `fault` unless `right`.
pub(super) fn check(right: bool, fault: impl Display) -> Result<(), String> {
    if right {
        Ok(())
    } else {
        Err(fault.to_string())
    }
}

/// An I/O error in words.
pub(super) fn said(what: &str) -> impl Fn(io::Error) -> String + '_ {
    move |error| format!("{what}: {error}")
}
