//! Every class of broken certificate times every policy. The table in docs/certificates.md says the
//! same in words.

use std::sync::{Arc, Mutex};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tls::{CertificateFault, Handling, Lesson, Verify};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::refused::broken;
use crate::rig::*;

const NAME: &str = "www.example.com";

fn handling(verify: Verify) -> Handling {
    Handling {
        verify,
        retry: true,
        ..Handling::default()
    }
}

#[tokio::test]
async fn threat_36_mirror_a_broken_server_stays_broken_for_the_client() {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        for (what, identity, fault, _alert) in broken(&pki) {
            let impersonator = pki.impersonator();
            let run = run_as(
                &impersonator,
                client(&impersonator, BOTH, &[]),
                NAME,
                identity.server(versions, &[]),
                handling(Verify::Mirror),
            )
            .await;
            let refused = tls_error(&run.client);
            assert!(
                matches!(refused, Some(rustls::Error::InvalidCertificate(_))),
                "{what}: {refused:?}"
            );
            let error = run.between.unwrap_err();
            assert_eq!(error.certificate_fault(), Some(fault), "{what}");
            assert_eq!(
                error.lesson(Verify::Mirror),
                None,
                "{what}: it is no pinned client"
            );
        }
    }
}

#[tokio::test]
async fn threat_36_mirror_a_client_that_looks_sees_the_names_and_dates_of_the_server() {
    let pki = Pki::new();
    for (what, identity, fault, _alert) in broken(&pki) {
        let impersonator = pki.impersonator();
        let server_leaf = identity.chain[0].clone();
        let seen = Arc::new(Mutex::new(None));
        let mut config = client(&impersonator, BOTH, &[]);
        config
            .dangerous()
            .set_certificate_verifier(Arc::new(Careless(Arc::clone(&seen))));
        let run = run_as(
            &impersonator,
            config,
            NAME,
            identity.server(BOTH, &[]),
            handling(Verify::Mirror),
        )
        .await;
        assert_eq!(run.between.unwrap().server_fault, Some(fault), "{what}");
        let leaf = seen.lock().unwrap().take().unwrap();
        let (_, theirs) = X509Certificate::from_der(&server_leaf).unwrap();
        let (_, ours) = X509Certificate::from_der(&leaf).unwrap();
        let names = |certificate: &X509Certificate<'_>| {
            certificate
                .subject_alternative_name()
                .unwrap()
                .map(|names| format!("{:?}", names.value.general_names))
        };
        assert_eq!(names(&ours), names(&theirs), "{what}");
        match fault {
            CertificateFault::Expired => {
                assert_eq!(ours.validity().not_after, theirs.validity().not_after);
            }
            CertificateFault::NotYetValid => {
                assert_eq!(ours.validity().not_before, theirs.validity().not_before);
            }
            _ => assert!(ours.validity().is_valid(), "{what}"),
        }
        assert_ne!(
            ours.issuer().to_string(),
            "CN=Inspection Root",
            "{what}: the clients' own root vouches for nothing broken"
        );
    }
}

#[tokio::test]
async fn threat_36_tag_a_broken_server_is_served_and_marked_but_names_are_never_added() {
    let pki = Pki::new();
    for versions in [ONLY12, ONLY13] {
        for (what, identity, fault, _alert) in broken(&pki) {
            let impersonator = pki.impersonator();
            let run = run_as(
                &impersonator,
                client(&impersonator, BOTH, &[]),
                NAME,
                identity.server(versions, &[]),
                handling(Verify::Tag),
            )
            .await;
            if fault == CertificateFault::WrongName {
                assert!(
                    run.client.is_err(),
                    "{what}: the client looks at the name itself"
                );
                continue;
            }
            run.client.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(run.between.unwrap().server_fault, Some(fault), "{what}");
        }
    }
}

#[tokio::test]
async fn threat_36_bypass_the_connection_ends_without_a_word_and_teaches() {
    let pki = Pki::new();
    for (what, identity, fault, _alert) in broken(&pki) {
        let impersonator = pki.impersonator();
        let run = run_as(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            NAME,
            identity.server(BOTH, &[]),
            handling(Verify::Bypass),
        )
        .await;
        assert!(run.client.is_err(), "{what}");
        assert_eq!(
            tls_error(&run.client),
            None,
            "{what}: no alert, so that it tries again"
        );
        let error = run.between.unwrap_err();
        assert_eq!(error.certificate_fault(), Some(fault), "{what}");
        assert_eq!(
            error.lesson(Verify::Bypass),
            Some(Lesson::ServerCertificate)
        );
        assert_eq!(impersonator.mint().minted(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_good_server_is_the_same_under_every_policy() {
    let pki = Pki::new();
    for verify in [Verify::Strict, Verify::Mirror, Verify::Tag, Verify::Bypass] {
        let impersonator = pki.impersonator();
        let run = run_as(
            &impersonator,
            client(&impersonator, BOTH, &[]),
            NAME,
            pki.issue(&leaf_params(&[NAME])).server(BOTH, &[]),
            handling(verify),
        )
        .await;
        run.client.unwrap();
        assert_eq!(run.between.unwrap().server_fault, None);
    }
}

#[tokio::test]
async fn threat_47_a_client_that_does_not_believe_us_teaches_and_others_do_not() {
    let pki = Pki::new();
    let impersonator = pki.impersonator();
    // It has the world's root and not ours.
    let pinned = client_of(pki.roots(), BOTH, &[]);
    let identity = pki.issue(&leaf_params(&[NAME]));
    let run = run_as(
        &impersonator,
        pinned,
        NAME,
        identity.server(BOTH, &[]),
        handling(Verify::Strict),
    )
    .await;
    assert!(run.client.is_err());
    let error = run.between.unwrap_err();
    assert_eq!(error.lesson(Verify::Strict), Some(Lesson::ClientRejected));
}

/// Believes everything and keeps what it was shown.
#[derive(Debug)]
struct Careless(Arc<Mutex<Option<CertificateDer<'static>>>>);

impl ServerCertVerifier for Careless {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = Some(end_entity.clone().into_owned());
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
