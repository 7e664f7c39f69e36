//! Both handshakes of one flow, in the order that keeps the client's options open.
//!
//! ```text
//! client                          flowdog                          server
//!   | ClientHello ------------------> | (read, not answered)           |
//!   |                                 | ClientHello, as the client's -> |
//!   |                                 | <- ServerHello .. Certificate   |
//!   |                                 | verify                          |
//!   |                                 | Finished ---------------------> |
//!   |                                 | mint from the server's leaf     |
//!   | <-- ServerHello .. Certificate  | same version and ALPN           |
//!   | Finished ---------------------> |                                 |
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::{
    Acceptor, NoServerSessionStorage, ResolvesServerCert, UnbufferedServerConnection,
};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{
    AlertDescription, HandshakeKind, KeyLog, NoKeyLog, ProtocolVersion, ServerConfig, version,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::alert;
use crate::authority::Authority;
use crate::client_certificate::ClientCertificate;
use crate::error::{OurFault, PeerFault, PolicyFault, TlsError, peer_fault};
use crate::fault::CertificateFault;
use crate::hello::{self, ClientHello, HelloFault, NameFault, Parsed};
use crate::issuing::Issuing;
use crate::key_log;
use crate::leaf_key::KeyType;
use crate::mint::{Mint, MintConfig, Trust};
use crate::offer::Offer;
use crate::outcome::TlsOutcome;
use crate::resume::{self, Resumptions, Scope, Tickets};
use crate::stream::{ClientLeg, ServerLeg, TlsStream};
use crate::upstream::{Connected, Upstream, Verify, Wanted};

/// Where the secrets of the two legs go. Nowhere, unless set.
///
/// Each leg has its own keys; a reader of a capture needs to know which is which.
#[derive(Debug, Clone)]
pub struct KeyLogs {
    /// Secrets between the client and flowdog.
    pub client_leg: Arc<dyn KeyLog>,
    /// Secrets between flowdog and the server.
    pub server_leg: Arc<dyn KeyLog>,
}

impl Default for KeyLogs {
    fn default() -> Self {
        Self {
            client_leg: Arc::new(NoKeyLog),
            server_leg: Arc::new(NoKeyLog),
        }
    }
}

/// Limits and sources of an [`Impersonator`].
#[derive(Debug, Clone)]
pub struct ImpersonatorConfig {
    /// How long each of the three steps (reading the hello, the server's handshake, the
    /// client's) may take. Default 10 seconds.
    pub handshake_timeout: Duration,
    /// Limits of the mint.
    pub mint: MintConfig,
    /// The wall clock, for the validity of certificates.
    pub clock: Arc<dyn TimeProvider>,
    /// Where secrets go.
    pub key_logs: KeyLogs,
}

impl Default for ImpersonatorConfig {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            mint: MintConfig::default(),
            clock: Arc::new(DefaultTimeProvider),
            key_logs: KeyLogs::default(),
        }
    }
}

/// How one flow is handled, as its rule says.
#[derive(Debug, Clone, Default)]
pub struct Handling {
    /// What happens when the server's certificate is not believed.
    pub verify: Verify,
    /// A flow that would be passed if it came again ends without an alert, so that the client
    /// tries again instead of telling its user.
    pub retry: bool,
    /// Where sessions may be resumed, on either leg; without it, nowhere.
    pub scope: Option<Scope>,
    /// A client whose hello carries Encrypted ClientHello, or a decoy of it, is refused.
    pub refuse_ech: bool,
    /// What a server gets that asks for the client's certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// Who is told the secrets of this flow, beside [`ImpersonatorConfig::key_logs`].
    pub key_logs: Option<KeyLogs>,
}

/// Stands in for servers towards clients that trust its [`Authority`].
///
/// One for the whole appliance: it is shared by all shards and holds no state of a flow.
#[derive(Debug)]
pub struct Impersonator {
    mint: Mint,
    upstream: Upstream,
    tickets: Arc<Tickets>,
    resumptions: resume::Counters,
    config: ImpersonatorConfig,
    /// Server configurations without certificate and ALPN, one per version.
    tls12: ServerConfig,
    tls13: ServerConfig,
}

/// A flow with TLS on both legs.
///
/// Both streams send `close_notify` in `shutdown` and then shut down the leg below; an end of
/// data that comes without `close_notify` is read as the error `UnexpectedEof`, so truncation
/// can be told from an orderly end and be passed on as what it was: [`ends_alike`](crate::ends_alike)
/// does so.
#[derive(Debug)]
pub struct Established<C, S> {
    /// The leg to the client, on which flowdog is the server.
    pub client: ClientLeg<C>,
    /// The leg to the server, on which flowdog is the client.
    pub server: ServerLeg<S>,
    /// The protocol that the server chose and the client was told.
    pub alpn: Option<Vec<u8>>,
    /// What the handshakes agreed on.
    pub info: sdk::TlsInfo,
    /// What is wrong with the server's certificate, where the flow goes on all the same.
    pub server_fault: Option<CertificateFault>,
}

impl<C, S> Established<C, S> {
    /// The counter this belongs to.
    #[must_use]
    pub fn outcome(&self) -> TlsOutcome {
        TlsOutcome::Intercepted
    }
}

impl Impersonator {
    /// Puts the parts together, with an authority whose own key signs leaves.
    ///
    /// # Errors
    ///
    /// When the TLS library refuses the configuration, which would be a defect of this crate.
    pub fn new(
        authority: Arc<Authority>,
        upstream: Upstream,
        config: ImpersonatorConfig,
    ) -> Result<Self, TlsError> {
        Self::with_issuing(Arc::new(Issuing::direct(authority)), upstream, config)
    }

    /// Puts the parts together.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn with_issuing(
        issuing: Arc<Issuing>,
        upstream: Upstream,
        config: ImpersonatorConfig,
    ) -> Result<Self, TlsError> {
        let tls12 = template(&version::TLS12, &config)?;
        let tls13 = template(&version::TLS13, &config)?;
        let mint = Mint::new(issuing, config.mint.clone(), Arc::clone(&config.clock));
        Ok(Self {
            mint,
            upstream,
            tickets: Tickets::new(Arc::clone(&config.clock)),
            resumptions: resume::Counters::default(),
            config,
            tls12,
            tls13,
        })
    }

    /// Whether this client's hello leaves a way to intercept it: a flow that fails this is better
    /// bypassed while nothing of it has been answered.
    ///
    /// # Errors
    ///
    /// With the reason why not.
    pub fn can_intercept(&self, hello: &ClientHello) -> Result<(), PolicyFault> {
        Offer::of(hello).map(|_offer| ())
    }

    /// Whether somebody is there to sign leaves.
    #[must_use]
    pub fn can_sign(&self) -> bool {
        let now = self.config.clock.current_time();
        now.is_some_and(|now| self.mint.issuing().current(now).is_some())
    }

    /// How often sessions were resumed.
    #[must_use]
    pub fn resumptions(&self) -> Resumptions {
        self.resumptions.read()
    }

    /// Scopes in which a session with a server waits to be resumed.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.upstream.sessions()
    }

    /// The mint, for its counters and its authority.
    #[must_use]
    pub fn mint(&self) -> &Mint {
        &self.mint
    }

    /// Makes both handshakes. `client` must yield the client's bytes from the ClientHello on;
    /// `server_address` is where the client wanted to go, and stands in for a missing name.
    ///
    /// The server is spoken to first. When it fails, the client gets a fatal alert that says
    /// why, as far as alerts can.
    ///
    /// # Errors
    ///
    /// See [`TlsError`]; both legs are dropped.
    pub async fn intercept<C, S>(
        &self,
        client: C,
        server: S,
        server_address: IpAddr,
    ) -> Result<Established<C, S>, TlsError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.intercept_as(client, server, server_address, Handling::default())
            .await
    }

    /// The same, handled as a rule says.
    ///
    /// # Errors
    ///
    /// As [`intercept`](Self::intercept); [`TlsError::lesson`] says what to learn from one.
    pub async fn intercept_as<C, S>(
        &self,
        mut client: C,
        server: S,
        server_address: IpAddr,
        handling: Handling,
    ) -> Result<Established<C, S>, TlsError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (hello, received) = self
            .within(read_hello(&mut client), TlsError::client)
            .await?;
        let result = self
            .prepare(server, &hello, server_address, &handling)
            .await;
        let (connected, config) = match result {
            Ok(ready) => ready,
            Err(error) => {
                note(&error, &hello);
                let again = handling.retry && error.lesson(handling.verify).is_some();
                if let Some(description) = alert_for(&error).filter(|_| !again) {
                    // A client that does not read must not hold the flow.
                    let sent = alert::send_fatal(&mut client, description);
                    let _in_time = tokio::time::timeout(self.config.handshake_timeout, sent).await;
                }
                return Err(error);
            }
        };
        let session = UnbufferedServerConnection::new(config)
            .map_err(|error| TlsError::Ours(OurFault::Config(error)))?;
        let finish = async {
            match TlsStream::handshake(client, session, received).await {
                Ok(client) => Ok(client),
                Err((error, mut client)) => {
                    // Our alert is on its way; an end behind it, and no reset, lets it arrive.
                    alert::finish(&mut client).await;
                    Err(TlsError::client(peer_fault(&error)))
                }
            }
        };
        let client = self
            .within(finish, TlsError::client)
            .await
            // A client that refuses the mirror of a bad certificate refuses its server, not us.
            .map_err(|error| match connected.fault {
                Some(fault) => TlsError::server(PeerFault::Certificate(fault)),
                None => error,
            })
            .inspect_err(|error| note(error, &hello))?;
        let info = describe(&hello, &client, &connected.stream);
        let is_resumed = client.session().handshake_kind() == Some(HandshakeKind::Resumed);
        self.resumptions.count(is_resumed, connected.is_resumed);
        tracing::debug!(
            server_name = hello.server_name,
            client_version = info.client_version,
            server_version = info.server_version,
            "TLS intercepted"
        );
        Ok(Established {
            client,
            alpn: info.alpn.clone(),
            info,
            server_fault: connected.fault,
            server: connected.stream,
        })
    }

    /// Everything between the client's hello and the answer to it.
    async fn prepare<S>(
        &self,
        server: S,
        hello: &ClientHello,
        server_address: IpAddr,
        handling: &Handling,
    ) -> Result<(Connected<S>, Arc<ServerConfig>), TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // RFC 7507 §3: a server that can do better than the repeated, lower offer refuses it.
        if hello.cipher_suites.contains(&hello::FALLBACK_SCSV)
            && !hello.offers_version(hello::TLS13)
        {
            return Err(TlsError::client(PeerFault::InappropriateFallback));
        }
        if handling.refuse_ech && hello.has_ech {
            return Err(TlsError::Policy(PolicyFault::EncryptedHello));
        }
        let offer = Offer::of(hello).map_err(TlsError::Policy)?;
        let verify = handling.verify;
        let (logs, more) = (&self.config.key_logs, handling.key_logs.as_ref());
        let server_log = key_log::with(&logs.server_leg, more.map(|logs| &logs.server_leg));
        let wanted = Wanted {
            hello,
            offer: &offer,
            server_address,
            handling,
            clock: &self.config.clock,
            key_log: &server_log,
        };
        let connect = self.upstream.connect(server, wanted);
        let connected = self.within(connect, TlsError::server).await?;
        let session = connected.stream.session();
        let template = match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_3) => &self.tls13,
            _ => &self.tls12,
        };
        let version = session.protocol_version().map_or(hello::TLS12, u16::from);
        let trust = match (connected.fault, verify) {
            (None, _) => Trust::Believed,
            (Some(_), Verify::Tag) => Trust::Vouched,
            (Some(_), _) => Trust::Broken,
        };
        let leaf = self
            .mint
            .leaf_with(
                &connected.leaf,
                hello.server_name.as_deref(),
                server_address,
                KeyType::for_client(hello, version),
                trust,
            )
            .await
            .map_err(|error| TlsError::Ours(OurFault::Mint(error)))?;
        let mut config = template.clone();
        if let Some(scope) = handling.scope {
            let name = hello.server_name.as_deref();
            let scope = scope.with(&[
                b"client",
                name.unwrap_or("").as_bytes(),
                &[u8::from(name.is_some()), verify as u8, trust as u8],
                leaf.cert.first().map_or(&[], |leaf| leaf.as_ref()),
                session.alpn_protocol().unwrap_or_default(),
                &version.to_be_bytes(),
            ]);
            self.tickets.allow(&mut config, scope);
        }
        config.key_log = key_log::with(&logs.client_leg, more.map(|logs| &logs.client_leg));
        config.cert_resolver = Arc::new(OneLeaf(leaf));
        config.alpn_protocols = session
            .alpn_protocol()
            .map(<[u8]>::to_vec)
            .into_iter()
            .collect();
        Ok((connected, Arc::new(config)))
    }

    async fn within<T>(
        &self,
        step: impl Future<Output = Result<T, TlsError>>,
        side: fn(PeerFault) -> TlsError,
    ) -> Result<T, TlsError> {
        match tokio::time::timeout(self.config.handshake_timeout, step).await {
            Ok(result) => result,
            Err(_elapsed) => Err(side(PeerFault::TimedOut)),
        }
    }
}

/// The same leaf whatever the hello says: it was made for this hello.
#[derive(Debug)]
struct OneLeaf(Arc<CertifiedKey>);

impl ResolvesServerCert for OneLeaf {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn template(
    version: &'static rustls::SupportedProtocolVersion,
    config: &ImpersonatorConfig,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = ServerConfig::builder_with_details(provider, Arc::clone(&config.clock))
        .with_protocol_versions(&[version])
        .map_err(|error| TlsError::Ours(OurFault::Config(error)))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(NoLeaf));
    // No resumption unless a flow has a scope for it, and never early data: a ticket would carry a
    // decision (the server's identity, the policy, a bypass) to a connection for which it was not made.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    Ok(tls)
}

/// Fills the place of the certificate in a template.
#[derive(Debug)]
struct NoLeaf;

impl ResolvesServerCert for NoLeaf {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

/// Reads until the hello is complete, for our own parser and for the TLS library alike.
async fn read_hello<C>(client: &mut C) -> Result<(ClientHello, Vec<u8>), TlsError>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let mut received = Vec::new();
    let mut acceptor = Acceptor::default();
    // Until the library has a whole record (16 KiB) and so knows that it reads a long handshake
    // message, it takes 2 KiB more than that and no further byte.
    let mut chunk = vec![0u8; 2048];
    loop {
        let count = client
            .read(&mut chunk)
            .await
            .map_err(|error| TlsError::client(peer_fault(&error)))?;
        let mut fresh = chunk.get(..count).unwrap_or_default();
        if fresh.is_empty() {
            return Err(TlsError::client(PeerFault::Closed));
        }
        received.extend_from_slice(fresh);
        let hello = match hello::parse(&received) {
            Parsed::NotTls => return Err(TlsError::client(PeerFault::NotTls)),
            Parsed::Malformed(fault) => {
                let description = match fault {
                    HelloFault::DuplicateExtension => AlertDescription::IllegalParameter,
                    HelloFault::NotClientHello | HelloFault::BadRecord => {
                        AlertDescription::UnexpectedMessage
                    }
                    HelloFault::TooLarge | HelloFault::BadLength | HelloFault::BadAlpn => {
                        AlertDescription::DecodeError
                    }
                };
                alert::send_fatal(client, description).await;
                return Err(TlsError::client(PeerFault::Hello(fault)));
            }
            Parsed::NeedMore => None,
            Parsed::Hello(hello) => match hello.server_name_fault {
                // Clients that put an address there mean no name (RFC 6066 §3 has none for it).
                None | Some(NameFault::IpLiteral) => Some(hello),
                Some(fault) => {
                    alert::send_fatal(client, AlertDescription::UnrecognisedName).await;
                    return Err(TlsError::client(PeerFault::ServerName(fault)));
                }
            },
        };
        while !fresh.is_empty() {
            // Reading from memory fails only when the library's own limit is reached.
            acceptor
                .read_tls(&mut fresh)
                .map_err(|_full| TlsError::client(PeerFault::Hello(HelloFault::TooLarge)))?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(_)) => match hello {
                // The library has no complaint; it reads the hello once more when the answer is known.
                Some(hello) => return Ok((hello, received)),
                // The library cannot be ahead: both wait for the same last byte.
                None => return Err(TlsError::client(PeerFault::Hello(HelloFault::BadLength))),
            },
            // What the library has no word for: a hello of a version that it does not know at all.
            Err(_)
                if hello
                    .as_ref()
                    .is_some_and(|hello| Offer::of(hello).is_err()) =>
            {
                alert::send_fatal(client, AlertDescription::ProtocolVersion).await;
                return Err(TlsError::Policy(PolicyFault::UnsupportedOffer));
            }
            Err((error, mut refusal)) => {
                let mut bytes = Vec::new();
                if refusal.write_all(&mut bytes).is_ok() && !bytes.is_empty() {
                    let told = async {
                        client.write_all(&bytes).await?;
                        client.shutdown().await
                    };
                    if let Err(error) = told.await {
                        tracing::debug!(%error, "the client leg was gone before the alert");
                    }
                }
                return Err(TlsError::client(PeerFault::Protocol(error)));
            }
        }
    }
}

/// What the client is told when the flow ends before its handshake began.
fn alert_for(error: &TlsError) -> Option<AlertDescription> {
    match error {
        TlsError::Peer { fault, .. } => match fault {
            PeerFault::Certificate(fault) => Some(alert::for_certificate(*fault)),
            // The server's own words.
            PeerFault::Alert(AlertDescription::CloseNotify | AlertDescription::UserCanceled) => {
                None
            }
            PeerFault::Alert(description) => Some(*description),
            PeerFault::InappropriateFallback => Some(AlertDescription::InappropriateFallback),
            PeerFault::Protocol(_) => Some(AlertDescription::HandshakeFailure),
            // The server went away; the leg to the client goes the same way.
            PeerFault::Closed | PeerFault::Io(_) | PeerFault::TimedOut => None,
            PeerFault::Hello(_) | PeerFault::NotTls | PeerFault::ServerName(_) => None,
        },
        TlsError::Policy(PolicyFault::ClientCertificateRequested) => {
            Some(AlertDescription::HandshakeFailure)
        }
        // Its name is what most clients print, and it tells a policy from a defect.
        TlsError::Policy(PolicyFault::EncryptedHello) => Some(AlertDescription::AccessDenied),
        TlsError::Policy(PolicyFault::UnsupportedOffer) => Some(AlertDescription::ProtocolVersion),
        TlsError::Ours(_) => Some(AlertDescription::InternalError),
    }
}

fn note(error: &TlsError, hello: &ClientHello) {
    let outcome = error.outcome().as_str();
    let server_name = hello.server_name.as_deref();
    match error {
        TlsError::Ours(_) => tracing::warn!(outcome, server_name, %error, "TLS not intercepted"),
        TlsError::Peer {
            fault: PeerFault::Certificate(_),
            ..
        }
        | TlsError::Policy(_) => {
            tracing::info!(outcome, server_name, %error, "TLS refused");
        }
        TlsError::Peer { .. } => {
            tracing::debug!(outcome, server_name, %error, "TLS handshake failed")
        }
    }
}

fn describe<C, S>(
    hello: &ClientHello,
    client: &ClientLeg<C>,
    server: &ServerLeg<S>,
) -> sdk::TlsInfo {
    let (client, server) = (client.session(), server.session());
    sdk::TlsInfo {
        server_name: hello.server_name.clone(),
        ja4: hello.ja4(hello::Transport::Tcp),
        alpn: server.alpn_protocol().map(<[u8]>::to_vec),
        client_version: client.protocol_version().map_or(0, u16::from),
        server_version: server.protocol_version().map_or(0, u16::from),
        client_cipher_suite: client
            .negotiated_cipher_suite()
            .map_or(0, |suite| suite.suite().into()),
        server_cipher_suite: server
            .negotiated_cipher_suite()
            .map_or(0, |suite| suite.suite().into()),
    }
}
