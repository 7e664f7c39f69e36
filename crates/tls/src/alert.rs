//! Alerts that we send to a client by our own hand, before its handshake has begun.
//!
//! Until our ServerHello is out, everything on the client leg is plaintext, so an alert is seven
//! fixed bytes (RFC 8446 §5.1, §6) and needs no TLS library.

use rustls::AlertDescription;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::fault::CertificateFault;

/// The record of a fatal alert.
#[must_use]
pub(crate) fn fatal_record(description: AlertDescription) -> [u8; 7] {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    // RFC 8446 §5.1: the record version is 0x0303, whatever will be or would have been spoken.
    [ALERT, 3, 3, 0, 2, FATAL, u8::from(description)]
}

/// Tells the client that this is the end, as well as its leg still can.
pub(crate) async fn send_fatal<C: AsyncWrite + Unpin>(
    client: &mut C,
    description: AlertDescription,
) {
    if let Err(error) = client.write_all(&fatal_record(description)).await {
        tracing::debug!(%error, "the client leg was gone before the alert");
        return;
    }
    finish(client).await;
}

/// Ends a leg in order, so that what was written to it arrives.
pub(crate) async fn finish<L: AsyncWrite + Unpin>(leg: &mut L) {
    if let Err(error) = leg.shutdown().await {
        tracing::debug!(%error, "the leg was gone already");
    }
}

/// What a client is told about its server's certificate: the alert a client itself would send
/// for that fault (RFC 8446 §6.2), since most clients print its name.
#[must_use]
pub(crate) fn for_certificate(fault: CertificateFault) -> AlertDescription {
    match fault {
        CertificateFault::Expired | CertificateFault::NotYetValid => {
            AlertDescription::CertificateExpired
        }
        CertificateFault::SelfSigned | CertificateFault::UnknownIssuer => {
            AlertDescription::UnknownCA
        }
        CertificateFault::Revoked => AlertDescription::CertificateRevoked,
        CertificateFault::WrongPurpose => AlertDescription::UnsupportedCertificate,
        CertificateFault::BadEncoding
        | CertificateFault::BadSignature
        | CertificateFault::WrongName => AlertDescription::BadCertificate,
        CertificateFault::RevocationUnknown => AlertDescription::BadCertificateStatusResponse,
        CertificateFault::Other => AlertDescription::CertificateUnknown,
    }
}
