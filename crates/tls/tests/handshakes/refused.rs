//! Interceptions that must not come about, and what each side is told.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedIssuer, ExtendedKeyUsagePurpose, KeyPair};
use rustls::client::EchConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::{AlertDescription, ClientConfig, PeerIncompatible, ServerConfig};
use rustls_pki_types::EchConfigListBytes;
use tls::{
    CertificateFault, Handling, ImpersonatorConfig, Lesson, PeerFault, PolicyFault, Side, TlsError,
    Verify,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use crate::rig::*;

const NAME: &str = "www.example.com";

/// Every class of broken certificate, with what the client must be told.
pub(crate) fn broken(
    pki: &Pki,
) -> Vec<(&'static str, Identity, CertificateFault, AlertDescription)> {
    let good = || leaf_params(&[NAME]);
    let mut expired = good();
    expired.not_after = days_from_now(-1);
    let mut early = good();
    early.not_before = days_from_now(1);
    let mut purpose = good();
    purpose.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let no_names = {
        let mut params = good();
        params.subject_alt_names.clear();
        params
    };

    let own = KeyPair::generate().unwrap();
    let self_signed = Identity::new(vec![good().self_signed(&own).unwrap().into()], &own);
    let mut ca = good();
    ca.is_ca = ca_params("x").is_ca;
    let self_signed_ca = Identity::new(vec![ca.self_signed(&own).unwrap().into()], &own);

    let unknown = Pki::new_named("Unknown Root");
    let untrusted = unknown.issue(&good());
    // Another root of the same name: the chain looks right and its signature is not.
    let forged = Pki::new().issue(&good());

    let intermediate_key = KeyPair::generate().unwrap();
    let intermediate =
        CertifiedIssuer::signed_by(ca_params("Intermediate"), intermediate_key, &pki.root).unwrap();
    let key = KeyPair::generate().unwrap();
    let incomplete = Identity::new(
        vec![good().signed_by(&key, &intermediate).unwrap().into()],
        &key,
    );

    use AlertDescription as Alert;
    use CertificateFault as Fault;
    vec![
        (
            "expired",
            pki.issue(&expired),
            Fault::Expired,
            Alert::CertificateExpired,
        ),
        (
            "not yet valid",
            pki.issue(&early),
            Fault::NotYetValid,
            Alert::CertificateExpired,
        ),
        (
            "self-signed",
            self_signed,
            Fault::SelfSigned,
            Alert::UnknownCA,
        ),
        (
            "self-signed, marked as CA",
            self_signed_ca,
            Fault::SelfSigned,
            Alert::UnknownCA,
        ),
        (
            "untrusted root",
            untrusted,
            Fault::UnknownIssuer,
            Alert::UnknownCA,
        ),
        (
            "forged signature",
            forged,
            Fault::BadSignature,
            Alert::BadCertificate,
        ),
        (
            "incomplete chain",
            incomplete,
            Fault::UnknownIssuer,
            Alert::UnknownCA,
        ),
        (
            "wrong name",
            pki.issue(&leaf_params(&["other.example"])),
            Fault::WrongName,
            Alert::BadCertificate,
        ),
        (
            "only a common name",
            pki.issue(&no_names),
            Fault::WrongName,
            Alert::BadCertificate,
        ),
        (
            "wrong purpose",
            pki.issue(&purpose),
            Fault::WrongPurpose,
            Alert::UnsupportedCertificate,
        ),
    ]
}

impl Pki {
    fn new_named(name: &str) -> Self {
        let root =
            CertifiedIssuer::self_signed(ca_params(name), KeyPair::generate().unwrap()).unwrap();
        Self { root }
    }
}

#[tokio::test]
async fn threat_36_a_server_with_a_broken_certificate_is_refused_to_the_client() {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        for (what, identity, fault, alert) in broken(&pki) {
            let impersonator = pki.impersonator();
            let run = run(
                &impersonator,
                client(&impersonator, BOTH, &[]),
                NAME,
                identity.server(versions, &[]),
            )
            .await;
            let error = run.between.unwrap_err();
            assert_eq!(error.certificate_fault(), Some(fault), "{what}: {error}");
            assert!(matches!(
                error,
                TlsError::Peer {
                    side: Side::Server,
                    ..
                }
            ));
            assert_eq!(
                error.outcome().as_str(),
                format!("server_certificate_{}", fault.as_str()),
                "{what}"
            );
            assert_eq!(
                tls_error(&run.client),
                Some(&rustls::Error::AlertReceived(alert)),
                "{what}"
            );
            let told = tls_error(&run.server);
            assert!(
                matches!(told, Some(rustls::Error::AlertReceived(_))),
                "{what}: {told:?}"
            );
            // Nothing was made for a server that is not believed.
            assert_eq!(impersonator.mint().minted(), 0, "{what}");
        }
    }
}

#[tokio::test]
async fn threat_36_the_chain_is_verified_for_a_client_without_a_server_name_too() {
    let pki = Pki::new();
    for (what, identity, fault, _alert) in broken(&pki) {
        // The name is the client's to judge; see the interceptions that come about.
        if fault == CertificateFault::WrongName {
            continue;
        }
        let impersonator = pki.impersonator();
        let mut config = client(&impersonator, BOTH, &[]);
        config.enable_sni = false;
        let run = run(&impersonator, config, NAME, identity.server(BOTH, &[])).await;
        assert_eq!(
            run.between.unwrap_err().certificate_fault(),
            Some(fault),
            "{what}"
        );
        assert!(run.client.is_err());
    }
}

#[tokio::test]
async fn threat_46_a_server_that_asks_for_a_client_certificate_is_reported_before_the_client_is_answered()
 {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        for optional in [false, true] {
            let mut verifier = WebPkiClientVerifier::builder_with_provider(
                Arc::new(pki.roots()),
                Arc::new(aws_lc_rs::default_provider()),
            );
            if optional {
                verifier = verifier.allow_unauthenticated();
            }
            let identity = pki.issue(&leaf_params(&[NAME]));
            let origin =
                ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                    .with_protocol_versions(versions)
                    .unwrap()
                    .with_client_cert_verifier(verifier.build().unwrap())
                    .with_single_cert(identity.chain, identity.key)
                    .unwrap();
            let impersonator = pki.impersonator();
            let run = run(
                &impersonator,
                client(&impersonator, BOTH, &[]),
                NAME,
                origin,
            )
            .await;
            let error = run.between.unwrap_err();
            assert!(
                matches!(
                    error,
                    TlsError::Policy(PolicyFault::ClientCertificateRequested)
                ),
                "{error}"
            );
            let expected = rustls::Error::AlertReceived(AlertDescription::HandshakeFailure);
            assert_eq!(tls_error(&run.client), Some(&expected));
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_our_root_is_counted_as_such() {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        let impersonator = pki.impersonator();
        // It trusts the world's root only: the state before the root is rolled out, or pinning.
        let config = client_of(pki.roots(), versions, &[]);
        let origin = pki.issue(&leaf_params(&[NAME])).server(BOTH, &[]);
        let run = run(&impersonator, config, NAME, origin).await;
        assert!(run.client.is_err());
        assert_eq!(
            run.between.unwrap_err().outcome().as_str(),
            "client_rejected_certificate"
        );
    }
}

#[tokio::test]
async fn the_servers_fatal_alert_reaches_the_client_unchanged() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let origin = pki.issue(&leaf_params(&[NAME])).server(BOTH, &["spdy/1"]);
    let run = run(
        &impersonator,
        client(&impersonator, BOTH, &["h2"]),
        NAME,
        origin,
    )
    .await;
    let alert = AlertDescription::NoApplicationProtocol;
    assert!(matches!(
        run.between,
        Err(TlsError::Peer { side: Side::Server, fault: PeerFault::Alert(got) }) if got == alert
    ));
    assert_eq!(
        tls_error(&run.client),
        Some(&rustls::Error::AlertReceived(alert))
    );
}

/// What the impersonator makes of a client's bytes, and its answer to them.
async fn raw_client(bytes: &[u8], finish: bool) -> (TlsError, Vec<u8>) {
    let config = ImpersonatorConfig {
        handshake_timeout: Duration::from_millis(300),
        ..ImpersonatorConfig::default()
    };
    let pki = Pki::new();
    let impersonator = pki.impersonator_with(tls::Authority::generate("Root").unwrap(), config);
    let (mut near, client_leg) = duplex(128 * 1024);
    let (server_leg, _far) = duplex(1024);
    near.write_all(bytes).await.unwrap();
    if finish {
        near.shutdown().await.unwrap();
    }
    let error = impersonator
        .intercept(client_leg, server_leg, ADDRESS)
        .await
        .unwrap_err();
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    (error, answer)
}

fn hello(versions: &[u16], suites: &[u16], server_name: &[u8]) -> Vec<u8> {
    let be = |values: &[u16]| {
        values
            .iter()
            .flat_map(|value| value.to_be_bytes())
            .collect::<Vec<u8>>()
    };
    let len16 = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let mut extensions = Vec::new();
    let name = len16(&[&[0][..], &len16(server_name)].concat());
    for (number, data) in [
        (0u16, name),
        (10, len16(&be(&[29, 23]))),
        (13, len16(&be(&[0x0403, 0x0804]))),
        (
            43,
            [
                &[u8::try_from(versions.len() * 2).unwrap()][..],
                &be(versions),
            ]
            .concat(),
        ),
        (51, len16(&[&[0, 29][..], &len16(&[9; 32])].concat())),
    ] {
        extensions.extend_from_slice(&number.to_be_bytes());
        extensions.extend_from_slice(&len16(&data));
    }
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0],
        &len16(&be(suites)),
        &[1, 0],
        &len16(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &len16(&body)].concat();
    [&[22, 3, 1][..], &len16(&message)].concat()
}

const ALERT: [u8; 6] = [21, 3, 3, 0, 2, 2];

#[tokio::test]
async fn clients_that_cannot_be_served_are_told_and_counted() {
    for (what, bytes, outcome, alert) in [
        (
            "TLS 1.1 at most",
            hello(&[0x0302], &[0xc02f], b"a.example"),
            "unsupported_offer",
            70,
        ),
        (
            "static RSA only",
            hello(&[0x0303], &[0x002f], b"a.example"),
            "unsupported_offer",
            70,
        ),
        (
            "fallback",
            hello(&[0x0303], &[0xc02f, 0x5600], b"a.example"),
            "client_fallback",
            86,
        ),
        (
            "wildcard name",
            hello(&[0x0304], &[0x1301], b"*.example"),
            "client_hello_malformed",
            112,
        ),
        (
            "garbled hello",
            vec![22, 3, 1, 0, 5, 1, 0, 0, 1, 9],
            "client_hello_malformed",
            50,
        ),
    ] {
        let (error, answer) = raw_client(&bytes, false).await;
        let got = error.outcome().as_str();
        assert_eq!(got, outcome, "{what}: {error}");
        assert_eq!(answer, [&ALERT[..], &[alert]].concat(), "{what}");
    }
}

#[tokio::test]
async fn threat_37_the_fallback_signal_does_not_hurt_a_client_that_offers_the_best() {
    let (error, _answer) = raw_client(
        &hello(&[0x0304, 0x0303], &[0x1301, 0x5600], b"a.example"),
        false,
    )
    .await;
    // It gets as far as the silent server.
    assert_eq!(error.outcome().as_str(), "server_timed_out");
}

#[tokio::test]
async fn clients_that_stop_or_speak_something_else_are_told_apart() {
    let whole = hello(&[0x0304], &[0x1301], b"a.example");
    for (bytes, finish, outcome) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], false, "client_not_tls"),
        (&whole[..40], true, "client_closed"),
        (&whole[..40], false, "client_timed_out"),
    ] {
        let (error, answer) = raw_client(bytes, finish).await;
        assert_eq!(error.outcome().as_str(), outcome);
        assert!(answer.is_empty());
    }
}

#[tokio::test]
async fn a_server_that_answers_rubbish_or_closes_is_the_servers_fault() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    for (answer, outcome) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "server_protocol"),
        (b"", "server_closed"),
    ] {
        let (mut near, client_leg) = duplex(8192);
        let (server_leg, mut far) = duplex(8192);
        near.write_all(&hello(&[0x0304], &[0x1301], b"a.example"))
            .await
            .unwrap();
        let server = async {
            let mut some = [0; 100];
            far.read_exact(&mut some).await.unwrap();
            far.write_all(answer).await.unwrap();
            drop(far);
        };
        let (result, ()) = tokio::join!(
            impersonator.intercept(client_leg, server_leg, ADDRESS),
            server
        );
        assert_eq!(result.unwrap_err().outcome().as_str(), outcome);
    }
}

/// An ECHConfigList (RFC 9849 §4) with one configuration: X25519, HKDF-SHA256, AES-128-GCM.
fn ech_keys(public_name: &str) -> EchConfigListBytes<'static> {
    let mut contents = vec![7, 0x00, 0x20, 0x00, 0x20];
    // The base point, which is a public key like any other.
    contents.push(9);
    contents.extend([0; 31]);
    contents.extend([0x00, 0x04, 0x00, 0x01, 0x00, 0x01, 0]);
    contents.push(u8::try_from(public_name.len()).unwrap());
    contents.extend(public_name.as_bytes());
    contents.extend([0, 0]);
    let mut config = vec![0xfe, 0x0d];
    config.extend(u16::try_from(contents.len()).unwrap().to_be_bytes());
    config.extend(contents);
    let mut list = u16::try_from(config.len()).unwrap().to_be_bytes().to_vec();
    list.extend(config);
    list.into()
}

fn client_in_earnest(impersonator: &tls::Impersonator, public_name: &str) -> ClientConfig {
    let ech = EchConfig::new(ech_keys(public_name), aws_lc_rs::hpke::ALL_SUPPORTED_SUITES).unwrap();
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_ech(ech.into())
        .unwrap()
        .with_root_certificates(impersonator_roots(impersonator))
        .with_no_client_auth()
}

#[tokio::test]
async fn threat_45_a_client_that_uses_ech_in_earnest_shows_the_outer_name_only_and_teaches() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let outer = "cover.example.com";
    let run = run_as(
        &impersonator,
        client_in_earnest(&impersonator, outer),
        NAME,
        pki.issue(&leaf_params(&[outer])).server(BOTH, &[]),
        Handling::default(),
    )
    .await;
    // It takes the answer for that of a server without the keys, and does not go on.
    assert!(
        matches!(
            tls_error(&run.client),
            Some(rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerRejectedEncryptedClientHello(_)
            ))
        ),
        "{:?}",
        run.client.err()
    );
    let error = run.between.unwrap_err();
    assert_eq!(
        error.lesson(Verify::Strict),
        Some(Lesson::EncryptedHello),
        "{error}"
    );
}

#[tokio::test]
async fn threat_45_a_rule_refuses_hellos_with_ech_and_no_others() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    let outer = "cover.example.com";
    let refuse = || Handling {
        refuse_ech: true,
        ..Handling::default()
    };
    let run = run_as(
        &impersonator,
        client_in_earnest(&impersonator, outer),
        NAME,
        pki.issue(&leaf_params(&[outer])).server(BOTH, &[]),
        refuse(),
    )
    .await;
    let alert = rustls::Error::AlertReceived(AlertDescription::AccessDenied);
    assert_eq!(tls_error(&run.client), Some(&alert));
    let error = run.between.unwrap_err();
    assert_eq!(error.outcome().as_str(), "encrypted_hello");
    assert_eq!(error.lesson(Verify::Strict), None);
    let run = run_as(
        &impersonator,
        client(&impersonator, BOTH, &[]),
        NAME,
        pki.issue(&leaf_params(&[NAME])).server(BOTH, &[]),
        refuse(),
    )
    .await;
    run.client.unwrap();
}
