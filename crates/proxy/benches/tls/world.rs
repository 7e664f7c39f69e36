//! Keys, certificates and configurations of the hosts and of the yardstick.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion, version,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tls::{
    Authority, Impersonator, ImpersonatorConfig, Issuing, IssuingConfig, UnixTime, Upstream,
};

/// What everybody is called.
const NAME: &str = "www.example.com";
pub(crate) const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10));

/// What is spoken.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    version: &'static SupportedProtocolVersion,
    /// Without the post-quantum group, which costs more than the rest of the exchange.
    classic: bool,
    /// The server's key is RSA with 2048 bits.
    rsa: bool,
}

pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "TLS 1.3, X25519MLKEM768, ECDSA",
        version: &version::TLS13,
        classic: false,
        rsa: false,
    },
    Kind {
        name: "TLS 1.3, X25519, ECDSA",
        version: &version::TLS13,
        classic: true,
        rsa: false,
    },
    Kind {
        name: "TLS 1.3, X25519, RSA server",
        version: &version::TLS13,
        classic: true,
        rsa: true,
    },
    Kind {
        name: "TLS 1.2, X25519, ECDSA",
        version: &version::TLS12,
        classic: true,
        rsa: false,
    },
];

/// Everyone of one [`Kind`]. The two chains have a leaf and an intermediate each.
pub(crate) struct World {
    pub(crate) impersonator: Impersonator,
    client: Arc<ClientConfig>,
    origin: Arc<ServerConfig>,
    /// As flowdog towards the client, and towards the server.
    bare_server: Arc<ServerConfig>,
    bare_client: Arc<ClientConfig>,
}

impl World {
    #[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
    pub(crate) fn new(kind: Kind) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        if kind.classic {
            provider
                .kx_groups
                .retain(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
        }
        let provider = Arc::new(provider);
        let key = |rsa| {
            if rsa {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048)
            } else {
                KeyPair::generate()
            }
            .unwrap()
        };
        let world = Pki::new("World Root");
        let origin = world.server(kind, &provider, &key(kind.rsa));
        let bare_server = world.server(kind, &provider, &key(false));
        let ours = Authority::generate("Inspection Root").unwrap();
        let mut our_root = RootCertStore::empty();
        our_root.add(ours.certificate().unwrap().clone()).unwrap();
        let issuing = Issuing::intermediate(Arc::new(ours), IssuingConfig::default()).unwrap();
        issuing.renew(UnixTime::now()).unwrap();
        let impersonator = Impersonator::with_issuing(
            Arc::new(issuing),
            Upstream::from_store(world.roots()).unwrap(),
            ImpersonatorConfig::default(),
        )
        .unwrap();
        Self {
            impersonator,
            client: client(kind, &provider, our_root),
            bare_client: client(kind, &provider, world.roots()),
            origin,
            bare_server,
        }
    }

    pub(crate) fn client(&self) -> ClientConnection {
        connect(&self.client)
    }

    /// A client that trusts the real servers.
    pub(crate) fn bare_client(&self) -> ClientConnection {
        connect(&self.bare_client)
    }

    pub(crate) fn origin(&self) -> ServerConnection {
        accept(&self.origin)
    }

    /// A server with a leaf of the kind that the impersonator mints.
    pub(crate) fn bare_server(&self) -> ServerConnection {
        accept(&self.bare_server)
    }
}

/// A leaf of a server of its own.
#[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
pub(crate) fn server_leaf() -> CertificateDer<'static> {
    let params = CertificateParams::new([NAME.to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().into()
}

#[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
fn connect(config: &Arc<ClientConfig>) -> ClientConnection {
    let name = ServerName::try_from(NAME).unwrap();
    ClientConnection::new(Arc::clone(config), name).unwrap()
}

#[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
fn accept(config: &Arc<ServerConfig>) -> ServerConnection {
    ServerConnection::new(Arc::clone(config)).unwrap()
}

/// Full handshakes only, as between strangers.
#[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
fn client(kind: Kind, provider: &Arc<CryptoProvider>, roots: RootCertStore) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[kind.version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// A root and an intermediate.
struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    #[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
    fn new(name: &str) -> Self {
        let params = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params
        };
        let key = || KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params(name), key()).unwrap();
        let below = params("World Intermediate");
        let intermediate = CertifiedIssuer::signed_by(below, key(), &root).unwrap();
        Self { root, intermediate }
    }

    #[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
    fn roots(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        store.add(self.root.der().clone()).unwrap();
        store
    }

    #[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
    fn server(
        &self,
        kind: Kind,
        provider: &Arc<CryptoProvider>,
        key: &KeyPair,
    ) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let leaf = params.signed_by(key, &self.intermediate).unwrap();
        let chain = vec![leaf.into(), self.intermediate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[kind.version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }
}
