//! Why an interception failed, and whose fault it was.

use std::fmt;
use std::io;

use rustls::AlertDescription;

use crate::fault::CertificateFault;
use crate::hello::{HelloFault, NameFault};
use crate::learned::Lesson;
use crate::mint::MintError;
use crate::outcome::TlsOutcome;
use crate::upstream::Verify;

/// Which of the two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The host that opened the flow, on the client leg.
    Client,
    /// The host it wanted to reach, on the server leg.
    Server,
}

impl Side {
    /// The label used in metrics and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An interception that did not come about. Both legs are spent: the caller resets or closes them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of the hosts did something that ends the handshake.
    #[error("{side}: {fault}")]
    Peer {
        /// Who.
        side: Side,
        /// What.
        fault: PeerFault,
    },
    /// Both hosts behave, and the flow is nothing that is intercepted.
    #[error("policy: {0}")]
    Policy(PolicyFault),
    /// The fault is on this machine.
    #[error("flowdog: {0}")]
    Ours(OurFault),
}

/// What a host did.
#[derive(Debug, thiserror::Error)]
pub enum PeerFault {
    /// A fatal alert arrived.
    #[error("fatal alert {0:?}")]
    Alert(AlertDescription),
    /// The server's certificate is not believed.
    #[error("{0} ({label})", label = .0.as_str())]
    Certificate(CertificateFault),
    /// The leg was closed or reset before the handshake was over.
    #[error("closed the connection during the handshake")]
    Closed,
    /// The client's hello breaks the rules.
    #[error("{0}")]
    Hello(HelloFault),
    /// The client repeats an attempt with a lower version although there is no need to (RFC 7507).
    #[error("fell back to a lower version than both can speak")]
    InappropriateFallback,
    /// The leg failed in another way.
    #[error("the leg failed: {0}")]
    Io(io::ErrorKind),
    /// What the client sent is no TLS.
    #[error("does not speak TLS")]
    NotTls,
    /// A TLS message breaks the rules.
    #[error("{0}")]
    Protocol(rustls::Error),
    /// The client's server name is no host name.
    #[error("{0}")]
    ServerName(NameFault),
    /// No progress within the handshake time-out.
    #[error("no answer within the handshake time-out")]
    TimedOut,
}

/// Why a flow that could have gone on does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PolicyFault {
    /// The server asks for a client certificate, which only the real client has.
    #[error("the server asks for a client certificate")]
    ClientCertificateRequested,
    /// The client's hello carries Encrypted ClientHello, in earnest or not, and that is refused.
    #[error("the client's hello carries Encrypted ClientHello, which the rule refuses")]
    EncryptedHello,
    /// The client offers neither TLS 1.2 nor TLS 1.3, or no cipher suite that is still safe.
    #[error("the client offers no version or cipher suite that is supported")]
    UnsupportedOffer,
}

/// What went wrong on this machine.
#[derive(Debug, thiserror::Error)]
pub enum OurFault {
    /// No certificate could be made for the client.
    #[error("cannot mint a certificate: {0}")]
    Mint(#[from] MintError),
    /// The TLS library refused a configuration of ours.
    #[error("TLS configuration: {0}")]
    Config(rustls::Error),
}

impl TlsError {
    pub(crate) fn client(fault: PeerFault) -> Self {
        Self::Peer {
            side: Side::Client,
            fault,
        }
    }

    pub(crate) fn server(fault: PeerFault) -> Self {
        Self::Peer {
            side: Side::Server,
            fault,
        }
    }

    /// What this says about the next flow of the same client to the same name.
    #[must_use]
    pub fn lesson(&self, verify: Verify) -> Option<Lesson> {
        match self {
            Self::Policy(PolicyFault::ClientCertificateRequested) => {
                Some(Lesson::ClientCertificate)
            }
            Self::Peer {
                side: Side::Server,
                fault: PeerFault::Certificate(_),
            } if verify == Verify::Bypass => Some(Lesson::ServerCertificate),
            Self::Peer {
                side: Side::Client,
                fault: PeerFault::Alert(alert),
            } if is_certificate_alert(*alert) => Some(Lesson::ClientRejected),
            // Only a client that used Encrypted ClientHello in earnest says so (RFC 9849 §6.1.6).
            Self::Peer {
                side: Side::Client,
                fault: PeerFault::Alert(AlertDescription::EncryptedClientHelloRequired),
            } => Some(Lesson::EncryptedHello),
            Self::Peer {
                side: Side::Client,
                fault: PeerFault::Closed,
            } => Some(Lesson::ClientLeft),
            Self::Peer { .. } | Self::Policy(_) | Self::Ours(_) => None,
        }
    }

    /// Which counter this belongs to.
    #[must_use]
    pub fn outcome(&self) -> TlsOutcome {
        match self {
            Self::Peer { side, fault } => match (side, fault) {
                (_, PeerFault::Certificate(fault)) => TlsOutcome::from_certificate(*fault),
                (Side::Client, PeerFault::Alert(alert)) if is_certificate_alert(*alert) => {
                    TlsOutcome::ClientRejectedCertificate
                }
                (Side::Client, PeerFault::Alert(_)) => TlsOutcome::ClientAlert,
                (Side::Client, PeerFault::Closed | PeerFault::Io(_)) => TlsOutcome::ClientClosed,
                (Side::Client, PeerFault::TimedOut) => TlsOutcome::ClientTimedOut,
                (Side::Client, PeerFault::NotTls) => TlsOutcome::ClientNotTls,
                (Side::Client, PeerFault::InappropriateFallback) => TlsOutcome::ClientFallback,
                (Side::Client, PeerFault::Hello(_) | PeerFault::ServerName(_)) => {
                    TlsOutcome::ClientHelloMalformed
                }
                (Side::Client, PeerFault::Protocol(_)) => TlsOutcome::ClientProtocol,
                (Side::Server, PeerFault::Alert(_)) => TlsOutcome::ServerAlert,
                (Side::Server, PeerFault::Closed | PeerFault::Io(_)) => TlsOutcome::ServerClosed,
                (Side::Server, PeerFault::TimedOut) => TlsOutcome::ServerTimedOut,
                (Side::Server, _) => TlsOutcome::ServerProtocol,
            },
            Self::Policy(PolicyFault::ClientCertificateRequested) => {
                TlsOutcome::ClientCertificateRequested
            }
            Self::Policy(PolicyFault::EncryptedHello) => TlsOutcome::EncryptedHello,
            Self::Policy(PolicyFault::UnsupportedOffer) => TlsOutcome::UnsupportedOffer,
            Self::Ours(OurFault::Mint(_)) => TlsOutcome::MintFailed,
            Self::Ours(OurFault::Config(_)) => TlsOutcome::Internal,
        }
    }

    /// The fault of the server's certificate, if that is what ended the handshake.
    #[must_use]
    pub fn certificate_fault(&self) -> Option<CertificateFault> {
        match self {
            Self::Peer {
                fault: PeerFault::Certificate(fault),
                ..
            } => Some(*fault),
            Self::Peer { .. } | Self::Policy(_) | Self::Ours(_) => None,
        }
    }
}

/// Sorts an error of a TLS stream: what the library found, or what became of the leg.
pub(crate) fn peer_fault(error: &io::Error) -> PeerFault {
    if let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return match tls {
            rustls::Error::AlertReceived(alert) => PeerFault::Alert(*alert),
            rustls::Error::InvalidCertificate(fault) => {
                PeerFault::Certificate(CertificateFault::from_verifier(fault))
            }
            other => PeerFault::Protocol(other.clone()),
        };
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => PeerFault::Closed,
        io::ErrorKind::TimedOut => PeerFault::TimedOut,
        kind => PeerFault::Io(kind),
    }
}

/// Alerts by which clients say that they do not believe our certificate (RFC 8446 §6.2).
fn is_certificate_alert(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_45_a_client_that_used_ech_in_earnest_is_learned_and_a_decoy_is_nothing() {
        let said = |alert| TlsError::client(PeerFault::Alert(alert)).lesson(Verify::Strict);
        assert_eq!(
            said(AlertDescription::EncryptedClientHelloRequired),
            Some(Lesson::EncryptedHello)
        );
        assert_eq!(said(AlertDescription::HandshakeFailure), None);
        let server = TlsError::server(PeerFault::Alert(
            AlertDescription::EncryptedClientHelloRequired,
        ));
        assert_eq!(server.lesson(Verify::Strict), None, "no server's to say");
    }
}
