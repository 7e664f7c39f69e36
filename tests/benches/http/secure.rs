//! Certificates and TLS on both sides of whatever stands in the middle.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The file of the root that the origin's certificate comes from.
pub(crate) const ROOT: &str = "root.pem";
const LEAF: &str = "leaf.pem";
const KEY: &str = "leaf.key";

/// Makes a root and a leaf for `host`.
pub(crate) fn write_certificates(folder: &Path, host: &str) -> Result<()> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name
        .push(DnType::CommonName, "root of a benchmark");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root_pem = root.self_signed(&root_key)?.pem();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &issuer)?;
    std::fs::write(folder.join(ROOT), root_pem)?;
    std::fs::write(folder.join(LEAF), leaf.pem())?;
    std::fs::write(folder.join(KEY), key.serialize_pem())?;
    Ok(())
}

/// TLS as the server that the certificate names.
pub(crate) fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(folder.join(LEAF))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(folder.join(KEY))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// TLS as a client that believes the roots in `file` and speaks `protocol`.
pub(crate) fn connector(file: &Path, protocol: &[u8]) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)
        .with_context(|| format!("cannot read {}", file.display()))?
    {
        roots.add(certificate?)?;
    }
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
