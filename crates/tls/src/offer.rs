//! What the server is offered: the client's own offer, as far as this machine can speak it.
//!
//! Nothing is added, so the two hosts never agree on something that the client would not have
//! accepted; and the client's order is kept, so the server chooses as it would have.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SignatureScheme, SupportedProtocolVersion, version};

use crate::error::PolicyFault;
use crate::hello::{ClientHello, TLS12, TLS13};

/// The common ground of a client and this machine.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) versions: Vec<&'static SupportedProtocolVersion>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) schemes: Vec<SignatureScheme>,
}

impl Offer {
    pub(crate) fn of(hello: &ClientHello) -> Result<Self, PolicyFault> {
        let mut provider = aws_lc_rs::default_provider();
        let known = std::mem::take(&mut provider.cipher_suites);
        provider.cipher_suites = hello
            .cipher_suites
            .iter()
            .filter_map(|offered| {
                known
                    .iter()
                    .find(|suite| u16::from(suite.suite()) == *offered)
            })
            .copied()
            .collect();
        // Without the extension a client of TLS 1.2 accepts any group (RFC 8422 §4).
        if !hello.groups.is_empty() {
            let known = std::mem::take(&mut provider.kx_groups);
            provider.kx_groups = hello
                .groups
                .iter()
                .filter_map(|offered| {
                    known
                        .iter()
                        .find(|group| u16::from(group.name()) == *offered)
                })
                .copied()
                .collect();
        }
        let versions: Vec<_> = [(TLS13, &version::TLS13), (TLS12, &version::TLS12)]
            .into_iter()
            .filter(|(number, version)| {
                hello.offers_version(*number)
                    && provider
                        .cipher_suites
                        .iter()
                        .any(|suite| suite.version().version == version.version)
            })
            .map(|(_, version)| version)
            .collect();
        if versions.is_empty() || provider.kx_groups.is_empty() {
            return Err(PolicyFault::UnsupportedOffer);
        }
        let mut schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let place = |scheme: &SignatureScheme| {
            let scheme = u16::from(*scheme);
            let mut offered = hello.signature_schemes.iter();
            offered.position(|offered| *offered == scheme)
        };
        if schemes.iter().any(|scheme| place(scheme).is_some()) {
            schemes.retain(|scheme| place(scheme).is_some());
            schemes.sort_by_key(place);
        }
        Ok(Self {
            versions,
            provider: Arc::new(provider),
            schemes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> ClientHello {
        ClientHello {
            legacy_version: TLS12,
            versions: vec![TLS13, TLS12],
            cipher_suites: vec![0x0a0a, 0x1303, 0x1301, 0xc02f, 0x002f],
            groups: vec![0x0a0a, 23, 29],
            signature_schemes: vec![0x0804, 0x0403, 0x0201],
            extensions: vec![43, 10, 13],
            ..ClientHello::default()
        }
    }

    fn versions(hello: &ClientHello) -> Result<Vec<u16>, PolicyFault> {
        Offer::of(hello).map(|offer| {
            offer
                .versions
                .iter()
                .map(|version| u16::from(version.version))
                .collect()
        })
    }

    #[test]
    fn suites_groups_and_schemes_keep_the_clients_order_and_nothing_is_added() {
        let offer = Offer::of(&hello()).unwrap();
        let suites: Vec<u16> = offer
            .provider
            .cipher_suites
            .iter()
            .map(|suite| suite.suite().into())
            .collect();
        assert_eq!(suites, [0x1303, 0x1301, 0xc02f]);
        let groups: Vec<u16> = offer
            .provider
            .kx_groups
            .iter()
            .map(|group| group.name().into())
            .collect();
        assert_eq!(groups, [23, 29]);
        let schemes: Vec<u16> = offer
            .schemes
            .iter()
            .map(|scheme| u16::from(*scheme))
            .collect();
        assert_eq!(schemes, [0x0804, 0x0403]);
    }

    #[test]
    fn threat_37_only_versions_that_the_client_offers_and_has_suites_for_are_offered() {
        assert_eq!(versions(&hello()), Ok(vec![TLS13, TLS12]));
        assert_eq!(
            versions(&ClientHello {
                versions: vec![TLS12],
                ..hello()
            }),
            Ok(vec![TLS12])
        );
        assert_eq!(
            versions(&ClientHello {
                versions: vec![TLS13],
                ..hello()
            }),
            Ok(vec![TLS13])
        );
        assert_eq!(
            versions(&ClientHello {
                cipher_suites: vec![0xc02f],
                ..hello()
            }),
            Ok(vec![TLS12])
        );
        // Without the extension there is no TLS 1.3, whatever the suites say.
        let old = ClientHello {
            versions: vec![],
            extensions: vec![10, 13],
            ..hello()
        };
        assert_eq!(versions(&old), Ok(vec![TLS12]));
    }

    #[test]
    fn a_client_of_tls_1_1_or_of_static_rsa_alone_has_no_common_ground() {
        assert_eq!(
            versions(&ClientHello {
                versions: vec![0x0302],
                ..hello()
            }),
            Err(PolicyFault::UnsupportedOffer)
        );
        let rsa = ClientHello {
            cipher_suites: vec![0x002f, 0x009c],
            ..hello()
        };
        assert_eq!(versions(&rsa), Err(PolicyFault::UnsupportedOffer));
    }
}
