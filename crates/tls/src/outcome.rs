//! How interceptions end, as counted for operators.

use crate::fault::CertificateFault;

/// The result of one attempt to intercept TLS. Each variant is one value of the label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TlsOutcome {
    /// Both handshakes are complete.
    Intercepted,
    /// The client sent a fatal alert that is not about our certificate.
    ClientAlert,
    /// The server asks for a client certificate; such a flow has to be bypassed.
    ClientCertificateRequested,
    /// The client closed or reset its connection during the handshake. Right after our
    /// certificate this is how some pinned clients refuse it.
    ClientClosed,
    /// The client signalled a needless version fallback (RFC 7507) and was refused.
    ClientFallback,
    /// The client's hello or server name breaks the rules.
    ClientHelloMalformed,
    /// The client does not speak TLS.
    ClientNotTls,
    /// The client broke the rules of TLS later in the handshake.
    ClientProtocol,
    /// The client does not believe our certificate: the root is not installed there, or the
    /// client is pinned.
    ClientRejectedCertificate,
    /// The client made no progress within the handshake time-out.
    ClientTimedOut,
    /// The client's hello carries Encrypted ClientHello, and a rule refuses that.
    EncryptedHello,
    /// The TLS library refused a configuration; a defect of ours.
    Internal,
    /// No leaf certificate could be made.
    MintFailed,
    /// The server sent a fatal alert; the client got the same one.
    ServerAlert,
    /// The server's certificate cannot be read.
    ServerCertificateBadEncoding,
    /// A signature in the server's chain or handshake is wrong.
    ServerCertificateBadSignature,
    /// The server's certificate has expired.
    ServerCertificateExpired,
    /// The server's certificate is not valid yet.
    ServerCertificateNotYetValid,
    /// The server's certificate fails in another way.
    ServerCertificateOther,
    /// The server's certificate has been revoked.
    ServerCertificateRevoked,
    /// It cannot be told whether the server's certificate has been revoked, and it has to be.
    ServerCertificateRevocationUnknown,
    /// The server's certificate is self-signed.
    ServerCertificateSelfSigned,
    /// The server's chain leads to no trusted root.
    ServerCertificateUnknownIssuer,
    /// The server's certificate is for other names.
    ServerCertificateWrongName,
    /// The server's certificate is not for TLS servers.
    ServerCertificateWrongPurpose,
    /// The server closed or reset its connection during the handshake.
    ServerClosed,
    /// The server broke the rules of TLS, or shares nothing with what the client offered.
    ServerProtocol,
    /// The server made no progress within the handshake time-out.
    ServerTimedOut,
    /// The client offers no version or cipher suite that is supported.
    UnsupportedOffer,
}

impl TlsOutcome {
    /// Every outcome, in the order of the documentation.
    pub const ALL: [Self; 29] = [
        Self::Intercepted,
        Self::ClientAlert,
        Self::ClientCertificateRequested,
        Self::ClientClosed,
        Self::ClientFallback,
        Self::ClientHelloMalformed,
        Self::ClientNotTls,
        Self::ClientProtocol,
        Self::ClientRejectedCertificate,
        Self::ClientTimedOut,
        Self::EncryptedHello,
        Self::Internal,
        Self::MintFailed,
        Self::ServerAlert,
        Self::ServerCertificateBadEncoding,
        Self::ServerCertificateBadSignature,
        Self::ServerCertificateExpired,
        Self::ServerCertificateNotYetValid,
        Self::ServerCertificateOther,
        Self::ServerCertificateRevoked,
        Self::ServerCertificateRevocationUnknown,
        Self::ServerCertificateSelfSigned,
        Self::ServerCertificateUnknownIssuer,
        Self::ServerCertificateWrongName,
        Self::ServerCertificateWrongPurpose,
        Self::ServerClosed,
        Self::ServerProtocol,
        Self::ServerTimedOut,
        Self::UnsupportedOffer,
    ];

    /// The label used in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::ClientAlert => "client_alert",
            Self::ClientCertificateRequested => "client_certificate_requested",
            Self::ClientClosed => "client_closed",
            Self::ClientFallback => "client_fallback",
            Self::ClientHelloMalformed => "client_hello_malformed",
            Self::ClientNotTls => "client_not_tls",
            Self::ClientProtocol => "client_protocol",
            Self::ClientRejectedCertificate => "client_rejected_certificate",
            Self::ClientTimedOut => "client_timed_out",
            Self::EncryptedHello => "encrypted_hello",
            Self::Internal => "internal",
            Self::MintFailed => "mint_failed",
            Self::ServerAlert => "server_alert",
            Self::ServerCertificateBadEncoding => "server_certificate_bad_encoding",
            Self::ServerCertificateBadSignature => "server_certificate_bad_signature",
            Self::ServerCertificateExpired => "server_certificate_expired",
            Self::ServerCertificateNotYetValid => "server_certificate_not_yet_valid",
            Self::ServerCertificateOther => "server_certificate_other",
            Self::ServerCertificateRevoked => "server_certificate_revoked",
            Self::ServerCertificateRevocationUnknown => "server_certificate_revocation_unknown",
            Self::ServerCertificateSelfSigned => "server_certificate_self_signed",
            Self::ServerCertificateUnknownIssuer => "server_certificate_unknown_issuer",
            Self::ServerCertificateWrongName => "server_certificate_wrong_name",
            Self::ServerCertificateWrongPurpose => "server_certificate_wrong_purpose",
            Self::ServerClosed => "server_closed",
            Self::ServerProtocol => "server_protocol",
            Self::ServerTimedOut => "server_timed_out",
            Self::UnsupportedOffer => "unsupported_offer",
        }
    }

    pub(crate) fn from_certificate(fault: CertificateFault) -> Self {
        match fault {
            CertificateFault::BadEncoding => Self::ServerCertificateBadEncoding,
            CertificateFault::BadSignature => Self::ServerCertificateBadSignature,
            CertificateFault::Expired => Self::ServerCertificateExpired,
            CertificateFault::NotYetValid => Self::ServerCertificateNotYetValid,
            CertificateFault::Other => Self::ServerCertificateOther,
            CertificateFault::Revoked => Self::ServerCertificateRevoked,
            CertificateFault::RevocationUnknown => Self::ServerCertificateRevocationUnknown,
            CertificateFault::SelfSigned => Self::ServerCertificateSelfSigned,
            CertificateFault::UnknownIssuer => Self::ServerCertificateUnknownIssuer,
            CertificateFault::WrongName => Self::ServerCertificateWrongName,
            CertificateFault::WrongPurpose => Self::ServerCertificateWrongPurpose,
        }
    }
}
