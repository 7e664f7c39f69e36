//! What can be wrong with a server's certificate.

use rustls::CertificateError;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why the certificate that a server sent is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CertificateFault {
    /// The certificate, or one above it, is not valid DER or X.509.
    #[error("the certificate cannot be read")]
    BadEncoding,
    /// A signature in the chain or in the handshake is wrong, or made with an algorithm that is
    /// not accepted.
    #[error("a signature is wrong or uses an algorithm that is not accepted")]
    BadSignature,
    /// `notAfter` has passed, on the leaf or above it.
    #[error("the certificate has expired")]
    Expired,
    /// `notBefore` is still to come, on the leaf or above it.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// Anything that has no word of its own here.
    #[error("the certificate is not acceptable")]
    Other,
    /// Revoked by a list or an OCSP answer.
    #[error("the certificate has been revoked")]
    Revoked,
    /// Whether it was revoked cannot be told, and it or the configuration demands that it can.
    #[error("it cannot be told whether the certificate has been revoked")]
    RevocationUnknown,
    /// The leaf vouches for itself and is no root that is trusted.
    #[error("the certificate is self-signed")]
    SelfSigned,
    /// The chain does not end at a trusted root, or an intermediate is missing.
    #[error("the certificate does not lead to a trusted root")]
    UnknownIssuer,
    /// The certificate is for other names than the one asked for.
    #[error("the certificate is for other names")]
    WrongName,
    /// The certificate is not for TLS servers.
    #[error("the certificate is not for TLS servers")]
    WrongPurpose,
}

impl CertificateFault {
    /// The label used in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadEncoding => "bad_encoding",
            Self::BadSignature => "bad_signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Other => "other",
            Self::Revoked => "revoked",
            Self::RevocationUnknown => "revocation_unknown",
            Self::SelfSigned => "self_signed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::WrongName => "wrong_name",
            Self::WrongPurpose => "wrong_purpose",
        }
    }

    /// Translates the verifier's words. A self-signed leaf is an unknown issuer to the verifier;
    /// see [`is_self_issued`].
    #[must_use]
    pub(crate) fn from_verifier(error: &CertificateError) -> Self {
        match error {
            CertificateError::BadEncoding => Self::BadEncoding,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
                Self::BadSignature
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::WrongName
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::WrongPurpose
            }
            _ => Self::Other,
        }
    }
}

/// Whether a certificate names itself as its issuer.
#[must_use]
pub(crate) fn is_self_issued(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        certificate.issuer().as_raw() == certificate.subject().as_raw()
    })
}
