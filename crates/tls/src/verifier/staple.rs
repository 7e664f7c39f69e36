//! What a stapled answer changes about a certificate that is believed otherwise.

use rustls::crypto::aws_lc_rs;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::ocsp::{self, Answer, Der, Issuer};

/// `id-pe-tlsfeature` (RFC 7633 §4.1), 1.3.6.1.5.5.7.1.24.
const TLS_FEATURE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 1, 0x18];
/// The extension number of `status_request`, as a DER INTEGER.
const STATUS_REQUEST: &[u8] = &[5];

/// The fault that a staple, or the lack of one, makes. An answer that counts for nothing is as good as
/// none: what a certificate does not promise cannot be held against it.
pub(super) fn judge(
    end_entity: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    staple: &[u8],
    roots: &RootCertStore,
    now: UnixTime,
) -> Option<CertificateError> {
    let (_, leaf) = X509Certificate::from_der(end_entity).ok()?;
    let promised = promises_staple(&leaf);
    let answer = if staple.is_empty() {
        Answer::Nothing("there is none")
    } else {
        look(&leaf, intermediates, staple, roots, now)
    };
    match answer {
        Answer::Good => None,
        Answer::Revoked => Some(CertificateError::Revoked),
        Answer::Nothing(why) => {
            if !staple.is_empty() || promised {
                tracing::debug!(why, promised, "a stapled OCSP answer counts for nothing");
            }
            promised.then_some(CertificateError::UnknownRevocationStatus)
        }
    }
}

fn look(
    leaf: &X509Certificate<'_>,
    intermediates: &[CertificateDer<'_>],
    staple: &[u8],
    roots: &RootCertStore,
    now: UnixTime,
) -> Answer {
    const SEQUENCE: u8 = 0x30;
    let name = leaf.issuer().as_raw();
    let algorithms = aws_lc_rs::default_provider()
        .signature_verification_algorithms
        .all;
    let judge = |spki: &[u8]| {
        let issuer = Issuer { name, spki };
        ocsp::judge(staple, leaf.raw_serial(), issuer, now, algorithms)
    };
    let mut answer = Answer::Nothing("the issuer is not known");
    for certificate in intermediates {
        let Ok((_, issuer)) = X509Certificate::from_der(certificate) else {
            continue;
        };
        if issuer.subject().as_raw() != name {
            continue;
        }
        if let Some(spki) = Der(issuer.public_key().raw).take(SEQUENCE) {
            answer = judge(spki);
        }
        if !matches!(answer, Answer::Nothing(_)) {
            return answer;
        }
    }
    let inner = Der(name).take(SEQUENCE);
    for root in &roots.roots {
        if Some(root.subject.as_ref()) == inner {
            answer = judge(root.subject_public_key_info.as_ref());
        }
        if !matches!(answer, Answer::Nothing(_)) {
            break;
        }
    }
    answer
}

fn promises_staple(leaf: &X509Certificate<'_>) -> bool {
    const SEQUENCE: u8 = 0x30;
    const INTEGER: u8 = 0x02;
    let feature = leaf
        .extensions()
        .iter()
        .find(|extension| extension.oid.as_bytes() == TLS_FEATURE);
    let Some(mut features) = feature
        .and_then(|feature| Der(feature.value).take(SEQUENCE))
        .map(Der)
    else {
        return false;
    };
    // A handful of numbers at the most.
    std::iter::from_fn(|| features.take(INTEGER)).any(|number| number == STATUS_REQUEST)
}
