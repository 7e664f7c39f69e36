//! The hosts around the impersonator.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use time::OffsetDateTime;
use tls::{Authority, Established, Handling, Impersonator, ImpersonatorConfig, TlsError, Upstream};
use tokio::io::{DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// Where the server "is".
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 10));

pub(crate) const BOTH: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];
pub(crate) const ONLY12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub(crate) const ONLY13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// The world's certificate authority.
pub(crate) struct Pki {
    pub(crate) root: CertifiedIssuer<'static, KeyPair>,
}

/// A server's certificates and key.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A server certificate for these names, good for another 30 days.
pub(crate) fn leaf_params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    if let Some(first) = names.first() {
        params.distinguished_name.push(DnType::CommonName, *first);
    }
    params.subject_alt_names = names
        .iter()
        .map(|name| match name.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        })
        .collect();
    params.not_before = days_from_now(-30);
    params.not_after = days_from_now(30);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

pub(crate) fn days_from_now(days: i64) -> OffsetDateTime {
    let now = i64::try_from(UnixTime::now().as_secs()).unwrap();
    OffsetDateTime::from_unix_timestamp(now + days * 86_400).unwrap()
}

impl Pki {
    pub(crate) fn new() -> Self {
        let root =
            CertifiedIssuer::self_signed(ca_params("World Root"), KeyPair::generate().unwrap())
                .unwrap();
        Self { root }
    }

    pub(crate) fn issue(&self, params: &CertificateParams) -> Identity {
        self.issue_for(params, KeyPair::generate().unwrap())
    }

    pub(crate) fn issue_for(&self, params: &CertificateParams, key: KeyPair) -> Identity {
        let leaf = params.signed_by(&key, &self.root).unwrap();
        Identity::new(vec![leaf.into()], &key)
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.root.der().clone()).unwrap();
        store
    }

    /// An impersonator that trusts this world.
    pub(crate) fn impersonator(&self) -> Impersonator {
        self.impersonator_with(Authority::generate("Inspection Root").unwrap(), quick())
    }

    pub(crate) fn impersonator_with(
        &self,
        authority: Authority,
        config: ImpersonatorConfig,
    ) -> Impersonator {
        Impersonator::new(
            Arc::new(authority),
            Upstream::from_store(self.roots()).unwrap(),
            config,
        )
        .unwrap()
    }
}

impl Identity {
    pub(crate) fn new(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Self {
        Self {
            chain,
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    pub(crate) fn server(
        self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &[&str],
    ) -> ServerConfig {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(versions)
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(self.chain, self.key)
                .unwrap();
        config.alpn_protocols = protocols(alpn);
        config
    }
}

pub(crate) fn quick() -> ImpersonatorConfig {
    ImpersonatorConfig {
        handshake_timeout: Duration::from_secs(5),
        ..ImpersonatorConfig::default()
    }
}

pub(crate) fn protocols(names: &[&str]) -> Vec<Vec<u8>> {
    names.iter().map(|name| name.as_bytes().to_vec()).collect()
}

/// A client that trusts the impersonator's root and nothing else.
pub(crate) fn client(
    impersonator: &Impersonator,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let store = impersonator_roots(impersonator);
    client_of(store, versions, alpn)
}

/// The root that clients of this impersonator install.
pub(crate) fn impersonator_roots(impersonator: &Impersonator) -> RootCertStore {
    let root = impersonator.mint().authority().root_pem();
    let mut store = RootCertStore::empty();
    store
        .add(CertificateDer::from_pem_slice(root.as_bytes()).unwrap())
        .unwrap();
    store
}

pub(crate) fn client_of(
    roots: RootCertStore,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&str],
) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols(alpn);
    config
}

/// Limits a client to these signature schemes, as an old one would be.
pub(crate) fn only_schemes(
    impersonator: &Impersonator,
    config: &mut ClientConfig,
    schemes: &[SignatureScheme],
) {
    let store = impersonator_roots(impersonator);
    let inner = WebPkiServerVerifier::builder_with_provider(
        Arc::new(store),
        Arc::new(aws_lc_rs::default_provider()),
    )
    .build()
    .unwrap();
    let verifier = OnlySchemes {
        inner,
        schemes: schemes.to_vec(),
    };
    config
        .dangerous()
        .set_certificate_verifier(Arc::new(verifier));
}

#[derive(Debug)]
struct OnlySchemes {
    inner: Arc<WebPkiServerVerifier>,
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for OnlySchemes {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.inner
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        assert!(
            self.schemes.contains(&dss.scheme),
            "{:?} was not offered",
            dss.scheme
        );
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        assert!(
            self.schemes.contains(&dss.scheme),
            "{:?} was not offered",
            dss.scheme
        );
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// What each of the three parties got out of it.
pub(crate) struct Run {
    pub(crate) client: io::Result<client::TlsStream<DuplexStream>>,
    pub(crate) between: Result<Established<DuplexStream, DuplexStream>, TlsError>,
    pub(crate) server: io::Result<server::TlsStream<DuplexStream>>,
}

/// Lets a client reach for `name` through the impersonator.
pub(crate) async fn run(
    impersonator: &Impersonator,
    client: ClientConfig,
    name: &str,
    server: ServerConfig,
) -> Run {
    run_as(impersonator, client, name, server, Handling::default()).await
}

/// The same, handled as a rule says.
pub(crate) async fn run_as(
    impersonator: &Impersonator,
    client: ClientConfig,
    name: &str,
    server: ServerConfig,
    handling: Handling,
) -> Run {
    let (near, client_leg) = duplex(16 * 1024);
    let (server_leg, far) = duplex(16 * 1024);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (client, between, server) = tokio::join!(
        TlsConnector::from(Arc::new(client)).connect(name, near),
        impersonator.intercept_as(client_leg, server_leg, ADDRESS, handling),
        TlsAcceptor::from(Arc::new(server)).accept(far),
    );
    Run {
        client,
        between,
        server,
    }
}

/// The TLS library's word inside an error of a stream.
pub(crate) fn tls_error<T>(result: &io::Result<T>) -> Option<&rustls::Error> {
    result
        .as_ref()
        .err()
        .and_then(|error| error.get_ref())
        .and_then(|inner| inner.downcast_ref())
}
