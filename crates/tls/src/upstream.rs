//! The handshake with the real server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, KeyLog, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::alert;
use crate::error::{OurFault, PeerFault, PolicyFault, TlsError, peer_fault};
use crate::fault::CertificateFault;
use crate::hello::ClientHello;
use crate::offer::Offer;
use crate::verifier::FlowVerifier;

/// Which roots vouch for servers.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The operating system's store; where it is empty, the Mozilla roots of the build.
    pub system: bool,
    /// PEM files with further roots.
    pub files: Vec<PathBuf>,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            system: true,
            files: Vec::new(),
        }
    }
}

/// Why the roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// A file cannot be read, or is not PEM.
    #[error("{}: cannot read root certificates: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file has no certificate.
    #[error("{}: no certificate in it; expected a section -----BEGIN CERTIFICATE-----", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A certificate cannot serve as a root.
    #[error("{}: certificate number {number} cannot be a root: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Counted from one.
        number: usize,
        /// What is wrong.
        reason: rustls::Error,
    },
    /// There is no root at all, so every server would be refused.
    #[error("no root certificates: add the system's or name PEM files")]
    NoRoots,
}

/// What happens to a server whose certificate is not believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Verify {
    /// It is refused to the client, with the alert a client would send itself.
    #[default]
    Strict,
    /// The client gets a leaf with the same names and dates from an issuer that nobody trusts, so
    /// that its own check fails as it would have.
    Mirror,
    /// The client gets a leaf that it trusts, and interceptors are told of the fault.
    Tag,
    /// The connection ends, and the next one of this client to this name is passed unread.
    Bypass,
}

/// Connects to servers and decides whether they are who they say.
///
/// Sessions are not resumed and early data is not sent: a ticket that crossed over to another
/// client, name or policy would carry a decision where it was not made. Each flow pays a full
/// handshake.
#[derive(Debug, Clone)]
pub struct Upstream {
    verifier: Arc<WebPkiServerVerifier>,
}

/// A server whose certificate is believed.
pub(crate) struct Connected<S> {
    pub(crate) stream: TlsStream<S>,
    pub(crate) leaf: CertificateDer<'static>,
    /// What is wrong with it; only where the policy goes on all the same.
    pub(crate) fault: Option<CertificateFault>,
}

impl Upstream {
    /// Loads roots. Reads files, so call it at start and off the packet path.
    ///
    /// # Errors
    ///
    /// When a file is unreadable or holds no usable certificate, or there are no roots.
    pub fn new(roots: &Roots) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        if roots.system {
            add_system(&mut store);
        }
        for path in &roots.files {
            add_file(&mut store, path)?;
        }
        Self::from_store(store)
    }

    /// Trusts exactly these roots.
    ///
    /// # Errors
    ///
    /// When the store is empty.
    pub fn from_store(store: RootCertStore) -> Result<Self, RootsError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider)
            .build()
            .map_err(|_no_roots| RootsError::NoRoots)?;
        Ok(Self { verifier })
    }

    /// Makes the handshake that the client would have made.
    pub(crate) async fn connect<S>(
        &self,
        server: S,
        hello: &ClientHello,
        offer: &Offer,
        server_address: IpAddr,
        verify: Verify,
        clock: &Arc<dyn TimeProvider>,
        key_log: &Arc<dyn KeyLog>,
    ) -> Result<Connected<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // Checked by the hello's parser; the library draws the same line.
        let sni = hello
            .server_name
            .clone()
            .map(ServerName::try_from)
            .transpose()
            .map_err(|_invalid| {
                TlsError::client(PeerFault::ServerName(crate::hello::NameFault::BadCharacter))
            })?;
        let fault = Arc::new(OnceLock::new());
        let asked = Arc::new(AtomicBool::new(false));
        let verifier = FlowVerifier::new(
            Arc::clone(&self.verifier),
            sni.is_some(),
            offer.schemes.clone(),
            Arc::clone(&fault),
            matches!(verify, Verify::Mirror | Verify::Tag),
        );
        let config = |error| TlsError::Ours(OurFault::Config(error));
        let mut tls =
            ClientConfig::builder_with_details(Arc::clone(&offer.provider), Arc::clone(clock))
                .with_protocol_versions(&offer.versions)
                .map_err(config)?
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
                .with_client_cert_resolver(Arc::new(NoteRequest(Arc::clone(&asked))));
        tls.alpn_protocols.clone_from(&hello.alpn);
        tls.enable_sni = sni.is_some();
        tls.resumption = Resumption::disabled();
        tls.enable_early_data = false;
        tls.key_log = Arc::clone(key_log);

        let name = sni.unwrap_or_else(|| ServerName::IpAddress(server_address.into()));
        let handshake = TlsConnector::from(Arc::new(tls)).connect(name, server);
        let result = handshake.into_fallible().await;
        // Before any other verdict: a server that asks for a certificate often answers the empty
        // one with an alert of its own.
        if asked.load(Ordering::Relaxed) {
            return Err(TlsError::Policy(PolicyFault::ClientCertificateRequested));
        }
        let stream = match result {
            Ok(stream) => stream,
            Err((error, mut server)) => {
                // Our alert is on its way; an end behind it, and no reset, lets it arrive.
                alert::finish(&mut server).await;
                return Err(TlsError::server(match fault.get() {
                    Some(fault) => PeerFault::Certificate(*fault),
                    None => peer_fault(&error),
                }));
            }
        };
        let leaf = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first)
            .cloned();
        match leaf {
            Some(leaf) => Ok(Connected {
                stream,
                leaf: leaf.into_owned(),
                fault: fault.get().copied(),
            }),
            // A handshake without a certificate does not end well in the library.
            None => Err(TlsError::server(PeerFault::Protocol(
                rustls::Error::NoCertificatesPresented,
            ))),
        }
    }
}

/// Has no client certificate, and notes that one was asked for.
#[derive(Debug)]
struct NoteRequest(Arc<AtomicBool>);

impl ResolvesClientCert for NoteRequest {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

fn add_system(store: &mut RootCertStore) {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a part of the system's root certificates cannot be read");
    }
    let (added, ignored) = store.add_parsable_certificates(native.certs);
    if added > 0 {
        tracing::info!(added, ignored, "trusting the system's root certificates");
        return;
    }
    store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    tracing::warn!(
        added = store.len(),
        "the system has no root certificates; trusting Mozilla's, built in"
    );
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), RootsError> {
    let read = |reason: String| RootsError::Read {
        path: path.to_owned(),
        reason,
    };
    let pem = std::fs::read(path).map_err(|error| read(error.to_string()))?;
    let mut number = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        number += 1;
        let certificate = certificate.map_err(|error| read(error.to_string()))?;
        store
            .add(certificate)
            .map_err(|reason| RootsError::Unusable {
                path: path.to_owned(),
                number,
                reason,
            })?;
    }
    if number == 0 {
        return Err(RootsError::Empty {
            path: path.to_owned(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[&Path]) -> Result<Upstream, RootsError> {
        Upstream::new(&Roots {
            system: false,
            files: files.iter().map(|&file| file.to_owned()).collect(),
        })
    }

    #[test]
    fn roots_come_from_files_and_faults_name_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let good = directory.path().join("good.pem");
        let bad = directory.path().join("bad.pem");
        std::fs::write(
            &good,
            crate::Authority::generate("a root").unwrap().root_pem(),
        )
        .unwrap();
        load(&[&good]).unwrap();
        let message = |result: Result<Upstream, RootsError>| result.unwrap_err().to_string();
        assert!(message(load(&[&good, &bad])).contains("bad.pem: cannot read"));
        std::fs::write(&bad, "no PEM").unwrap();
        assert!(message(load(&[&bad])).contains("bad.pem: no certificate"));
        std::fs::write(
            &bad,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        assert!(message(load(&[&bad])).contains("bad.pem: certificate number 1"));
        assert!(matches!(load(&[]), Err(RootsError::NoRoots)));
    }

    #[test]
    fn with_the_systems_roots_there_is_always_someone_to_trust() {
        Upstream::new(&Roots::default()).unwrap();
    }
}
