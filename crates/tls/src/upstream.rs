//! The handshake with the real server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::{
    Resumption, UnbufferedClientConnection, VerifierBuilderError, WebPkiServerVerifier,
};
use rustls::crypto::aws_lc_rs;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind, KeyLog, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::alert;
use crate::client_certificate::Credentials;
use crate::error::{OurFault, PeerFault, PolicyFault, TlsError, peer_fault};
use crate::fault::CertificateFault;
use crate::hello::ClientHello;
use crate::intercept::Handling;
use crate::offer::Offer;
use crate::resume::Scope;
use crate::revocation::Revocation;
use crate::sessions::{Session, Sessions, Store};
use crate::stream::{ServerLeg, TlsStream};
use crate::verifier::{FlowVerifier, Trusted};

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
    /// A list of revoked certificates cannot be read.
    #[error("{}: cannot read lists of revoked certificates: {reason}", path.display())]
    List {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A list of revoked certificates is none that is understood.
    #[error("a list of revoked certificates cannot be used: {0}")]
    UnusableList(String),
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
/// A session is resumed only in the scope of the flow that made it, since a ticket that crossed over to
/// another client, name or policy would carry a decision where it was not made; and the certificate that
/// it rests on is looked at again. Early data is not sent.
#[derive(Debug, Clone)]
pub struct Upstream {
    trusted: Arc<Trusted>,
    sessions: Arc<Sessions>,
}

/// One flow's way to its server.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) hello: &'a ClientHello,
    pub(crate) offer: &'a Offer,
    pub(crate) server_address: IpAddr,
    pub(crate) handling: &'a Handling,
    pub(crate) clock: &'a Arc<dyn TimeProvider>,
    pub(crate) key_log: &'a Arc<dyn KeyLog>,
}

/// A server whose certificate is believed.
pub(crate) struct Connected<S> {
    pub(crate) stream: ServerLeg<S>,
    pub(crate) leaf: CertificateDer<'static>,
    /// What is wrong with it; only where the policy goes on all the same.
    pub(crate) fault: Option<CertificateFault>,
    /// The session was one of before.
    pub(crate) is_resumed: bool,
}

impl Upstream {
    /// Loads roots. Reads files, so call it at start and off the packet path.
    ///
    /// # Errors
    ///
    /// When a file is unreadable or holds no usable certificate, or there are no roots.
    pub fn new(roots: &Roots) -> Result<Self, RootsError> {
        Self::with_revocation(roots, &Revocation::default())
    }

    /// The same, with lists of revoked certificates.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when a list cannot be read.
    pub fn with_revocation(roots: &Roots, revocation: &Revocation) -> Result<Self, RootsError> {
        let mut store = RootCertStore::empty();
        if roots.system {
            add_system(&mut store);
        }
        for path in &roots.files {
            add_file(&mut store, path)?;
        }
        Self::build(store, revocation)
    }

    /// Trusts exactly these roots.
    ///
    /// # Errors
    ///
    /// When the store is empty.
    pub fn from_store(store: RootCertStore) -> Result<Self, RootsError> {
        Self::build(store, &Revocation::default())
    }

    fn build(store: RootCertStore, revocation: &Revocation) -> Result<Self, RootsError> {
        let roots = Arc::new(store);
        let provider = Arc::new(aws_lc_rs::default_provider());
        let lists = revocation
            .read()
            .map_err(|(path, reason)| RootsError::List { path, reason })?;
        let builder = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider);
        let builder = builder.with_crls(lists);
        let builder = if revocation.require_lists {
            builder.enforce_revocation_expiration()
        } else {
            builder.allow_unknown_revocation_status()
        };
        let chain = builder.build().map_err(|error| match error {
            VerifierBuilderError::InvalidCrl(reason) => {
                RootsError::UnusableList(format!("{reason:?}"))
            }
            _ => RootsError::NoRoots,
        })?;
        let trusted = Trusted {
            chain,
            roots,
            stapled: revocation.stapled,
        };
        Ok(Self {
            trusted: Arc::new(trusted),
            sessions: Arc::default(),
        })
    }

    /// Scopes in which a session waits to be resumed.
    pub(crate) fn sessions(&self) -> u64 {
        self.sessions.len()
    }

    /// Makes the handshake that the client would have made.
    pub(crate) async fn connect<S>(
        &self,
        server: S,
        wanted: Wanted<'_>,
    ) -> Result<Connected<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Wanted {
            hello,
            offer,
            handling,
            ..
        } = wanted;
        // Checked by the hello's parser; the library draws the same line.
        let sni = hello
            .server_name
            .clone()
            .map(ServerName::try_from)
            .transpose()
            .map_err(|_invalid| {
                TlsError::client(PeerFault::ServerName(crate::hello::NameFault::BadCharacter))
            })?;
        let has_name = sni.is_some();
        let scope = handling.scope.map(|scope| session_scope(scope, &wanted));
        let resumed = match scope {
            Some(scope) => self.sessions.take(scope).await,
            None => None,
        };
        let session = resumed.unwrap_or_else(|| self.session(&wanted, has_name));
        let config = |error| TlsError::Ours(OurFault::Config(error));
        let mut tls = ClientConfig::builder_with_details(
            Arc::clone(&offer.provider),
            Arc::clone(wanted.clock),
        )
        .with_protocol_versions(&offer.versions)
        .map_err(config)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<FlowVerifier>::clone(&session.verifier))
        .with_client_cert_resolver(Arc::<Credentials>::clone(&session.credentials));
        tls.alpn_protocols.clone_from(&hello.alpn);
        tls.enable_sni = has_name;
        tls.resumption = match scope {
            Some(_) => Resumption::store(Arc::<Store>::clone(&session.store)),
            None => Resumption::disabled(),
        };
        tls.enable_early_data = false;
        tls.key_log = Arc::clone(wanted.key_log);

        let name = sni.unwrap_or_else(|| ServerName::IpAddress(wanted.server_address.into()));
        let connection = UnbufferedClientConnection::new(Arc::new(tls), name.clone());
        let connection = connection.map_err(config)?;
        let result = TlsStream::handshake(server, connection, Vec::new()).await;
        // Before any other verdict: a server that asks for a certificate often answers the empty
        // one with an alert of its own.
        if session.credentials.were_missed() {
            return Err(TlsError::Policy(PolicyFault::ClientCertificateRequested));
        }
        let stream = match result {
            Ok(stream) => stream,
            Err((error, mut server)) => {
                // Our alert is on its way; an end behind it, and no reset, lets it arrive.
                alert::finish(&mut server).await;
                return Err(TlsError::server(match session.verifier.fault() {
                    Some(fault) => PeerFault::Certificate(fault),
                    None => peer_fault(&error),
                }));
            }
        };
        let connection = stream.session();
        let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let chain = connection.peer_certificates().unwrap_or_default();
        // A handshake without a certificate does not end well in the library.
        let leaf = chain.first().cloned().map(CertificateDer::into_owned);
        let Some(leaf) = leaf else {
            let missing = rustls::Error::NoCertificatesPresented;
            return Err(TlsError::server(PeerFault::Protocol(missing)));
        };
        if is_resumed {
            let now = wanted.clock.current_time();
            let now = now.ok_or(OurFault::Config(rustls::Error::FailedToGetCurrentTime));
            session
                .verifier
                .verify_again(chain, &name, now.map_err(TlsError::Ours)?)
                .map_err(|error| {
                    TlsError::server(match session.verifier.fault() {
                        Some(fault) => PeerFault::Certificate(fault),
                        None => PeerFault::Protocol(error),
                    })
                })?;
        }
        let fault = session.verifier.fault();
        if let (Some(scope), None) = (scope, fault) {
            self.sessions.give(scope, session).await;
        }
        Ok(Connected {
            stream,
            leaf,
            fault,
            is_resumed,
        })
    }

    fn session(&self, wanted: &Wanted<'_>, has_name: bool) -> Session {
        let handling = wanted.handling;
        Session {
            verifier: Arc::new(FlowVerifier::new(
                Arc::clone(&self.trusted),
                has_name,
                wanted.offer.schemes.clone(),
                matches!(handling.verify, Verify::Mirror | Verify::Tag),
            )),
            credentials: Arc::new(Credentials::new(handling.client_certificate.clone())),
            store: Arc::default(),
        }
    }
}

/// The scope of the server leg: the flow's, and everything that the client offers.
fn session_scope(scope: Scope, wanted: &Wanted<'_>) -> Scope {
    let (hello, offer, handling) = (wanted.hello, wanted.offer, wanted.handling);
    let list = |numbers: &mut dyn Iterator<Item = u16>| -> Vec<u8> {
        numbers.flat_map(u16::to_be_bytes).collect()
    };
    let versions = list(&mut offer.versions.iter().map(|one| u16::from(one.version)));
    let suites = list(
        &mut offer
            .provider
            .cipher_suites
            .iter()
            .map(|one| one.suite().into()),
    );
    let groups = list(&mut offer.provider.kx_groups.iter().map(|one| one.name().into()));
    let schemes = list(&mut offer.schemes.iter().map(|one| u16::from(*one)));
    let certificate = handling.client_certificate.as_ref();
    let name = hello.server_name.as_deref();
    let alpn: Vec<&[u8]> = hello.alpn.iter().map(Vec::as_slice).collect();
    scope
        .with(&[
            b"server",
            name.unwrap_or("").as_bytes(),
            &[u8::from(name.is_some()), handling.verify as u8],
            &versions,
            &suites,
            &groups,
            &schemes,
            certificate.map_or(&[], |one| one.id()),
        ])
        .with(&alpn)
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
