//! The origins' certificates: a root of the lab's own "public" authority, a leaf for every name on
//! demand, and leaves with the defects that clients must refuse.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SigningKey, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::names;

/// How many names' configurations are kept; beyond that all are made anew.
const MAX_NAMES: usize = 1024;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The lab's stand-in for the public certificate authorities.
pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    /// A root that nobody is told about.
    stranger: Issuer<'static, KeyPair>,
    /// One key serves all leaves: they differ in what they say.
    leaf_key: KeyPair,
    by_name: Mutex<HashMap<String, Arc<ServerConfig>>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// A fresh root with a fresh key.
    ///
    /// # Errors
    /// No key could be made.
    pub fn new() -> io::Result<Self> {
        let (issuer, root_pem) = root("flowdog lab public root")?;
        let (stranger, _) = root("flowdog lab root that nobody trusts")?;
        Ok(Self {
            issuer,
            root_pem,
            stranger,
            leaf_key: KeyPair::generate().map_err(io::Error::other)?,
            by_name: Mutex::default(),
        })
    }

    /// The root certificate in PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// Does a TLS handshake as the server that the client names, or that it reached at `local` if it
    /// names none.
    pub(super) async fn accept<S>(&self, stream: S, local: IpAddr) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
        let name = start
            .client_hello()
            .server_name()
            .map_or_else(|| local.to_string(), str::to_ascii_lowercase);
        let config = self.config(&name)?;
        start.into_stream(config).await
    }

    /// The configuration for a name. Kept, so that a client may resume its session.
    fn config(&self, name: &str) -> io::Result<Arc<ServerConfig>> {
        if let Some(config) = self
            .by_name
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
        {
            return Ok(Arc::clone(config));
        }
        let versions: &[_] = if name == names::TLS12 {
            &[&rustls::version::TLS12]
        } else {
            &[&rustls::version::TLS13, &rustls::version::TLS12]
        };
        let key = PrivateKeyDer::Pkcs8(self.leaf_key.serialize_der().into());
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_protocol_versions(versions)
            .and_then(|builder| {
                builder
                    .with_no_client_auth()
                    .with_single_cert(vec![self.leaf(name)?], key)
            })
            .map_err(io::Error::other)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let config = Arc::new(config);
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if by_name.len() >= MAX_NAMES {
            by_name.clear();
        }
        by_name.insert(name.to_owned(), Arc::clone(&config));
        Ok(config)
    }

    fn leaf(&self, name: &str) -> Result<CertificateDer<'static>, rustls::Error> {
        let result = match name {
            names::EXPIRED => leaf_params(name).and_then(|mut params| {
                params.not_before = date_time_ymd(2015, 4, 9);
                params.not_after = date_time_ymd(2015, 4, 12);
                params.signed_by(&self.leaf_key, &self.issuer)
            }),
            names::SELF_SIGNED => {
                leaf_params(name).and_then(|params| params.self_signed(&self.leaf_key))
            }
            names::UNTRUSTED_ROOT => sign(name, &self.leaf_key, &self.stranger),
            names::WRONG_HOST => sign("somebody-else.lab.name", &self.leaf_key, &self.issuer),
            name => sign(name, &self.leaf_key, &self.issuer),
        };
        result
            .map(|certificate| certificate.der().clone())
            .map_err(|error| rustls::Error::General(format!("no certificate for {name}: {error}")))
    }
}

fn sign(
    name: &str,
    key: &impl PublicKeyData,
    issuer: &Issuer<'_, impl SigningKey>,
) -> Result<rcgen::Certificate, rcgen::Error> {
    leaf_params(name)?.signed_by(key, issuer)
}

fn leaf_params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let now = SystemTime::now();
    // Clocks differ a little; public authorities give 90 days.
    params.not_before = (now - DAY).into();
    params.not_after = (now + 90 * DAY).into();
    Ok(params)
}

fn root(name: &str) -> io::Result<(Issuer<'static, KeyPair>, String)> {
    let key = KeyPair::generate().map_err(io::Error::other)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - DAY).into();
    params.not_after = (now + 3650 * DAY).into();
    let pem = params.self_signed(&key).map_err(io::Error::other)?.pem();
    Ok((Issuer::new(params, key), pem))
}
