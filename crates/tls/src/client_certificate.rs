//! What a server gets that asks for the client's certificate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroize;

use crate::authority::warn_if_open;

/// A certificate and key to show to servers in the place of the client.
#[derive(Clone)]
pub struct ClientCertificate(Arc<CertifiedKey>);

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").finish_non_exhaustive()
    }
}

/// Why a client certificate cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct ClientCertificateError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl ClientCertificate {
    /// Reads the chain, the client's own certificate first, and the unencrypted private key. One PEM file
    /// may hold both.
    ///
    /// # Errors
    /// With the file and what is wrong with it.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, ClientCertificateError> {
        let fault = |path: &Path, reason: String| ClientCertificateError {
            path: path.to_owned(),
            reason,
        };
        let read = |path: &Path| std::fs::read(path).map_err(|e| fault(path, e.to_string()));
        let chain = CertificateDer::pem_slice_iter(&read(certificate)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| fault(certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(fault(certificate, "no certificate in it".to_owned()));
        }
        let mut der = PrivateKeyDer::from_pem_slice(&zeroize::Zeroizing::new(read(key)?))
            .map_err(|error| fault(key, format!("no private key to be read: {error}")))?;
        let signing = aws_lc_rs::sign::any_supported_type(&der);
        der.zeroize();
        let signing =
            signing.map_err(|error| fault(key, format!("not a usable private key: {error}")))?;
        let made = CertifiedKey::new(chain, signing);
        made.keys_match()
            .map_err(|error| fault(key, format!("not the key of the certificate: {error}")))?;
        warn_if_open(key, "the key of a client certificate");
        Ok(Self(Arc::new(made)))
    }

    /// What tells one from another.
    pub(crate) fn id(&self) -> &[u8] {
        self.0.cert.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

/// The certificate of one flow's server leg, and whether it was missed.
#[derive(Debug)]
pub(crate) struct Credentials {
    own: Option<ClientCertificate>,
    missed: AtomicBool,
}

impl Credentials {
    pub(crate) fn new(own: Option<ClientCertificate>) -> Self {
        Self {
            own,
            missed: AtomicBool::new(false),
        }
    }

    /// The server asked for a certificate, and there was none to give.
    pub(crate) fn were_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let own = self.own.as_ref().map(|own| &own.0);
        let fitting = own.filter(|own| own.key.choose_scheme(schemes).is_some());
        if fitting.is_none() {
            self.missed.store(true, Ordering::Relaxed);
        }
        fitting.cloned()
    }

    fn has_certs(&self) -> bool {
        self.own.is_some()
    }
}
