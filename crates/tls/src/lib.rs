//! TLS on both legs of an intercepted flow.
//!
//! [`hello`] looks at a client's first bytes without answering them; [`Impersonator`] makes the
//! handshake with the real server first and then the client's, with a certificate that mirrors
//! the server's and is signed by an [`Authority`] the client trusts.
//!
//! What this crate refuses: to weaken a connection. The server is verified strictly, versions
//! and suites are those that the client offered itself, the minted certificate has no name that
//! the server's lacks, and a client is told when its server is not believed.
//!
//! Invariants:
//! - Private keys exist only in here. The authority's key stays behind its [`Signer`] and is
//!   never a leaf's key. No `Debug` output, log line or error carries key material.
//! - It opens no connection and spawns no task on the packet path; bytes come from the two
//!   streams it is given.
//! - What a peer sends is bounded in size and time, and cannot cause a panic.
#![forbid(unsafe_code)]

mod alert;
pub mod authority;
mod buffers;
mod client_certificate;
mod describe;
mod ending;
mod error;
mod fault;
#[doc(hidden)]
pub mod fuzzing;
pub mod hello;
mod intercept;
mod issuing;
mod key_log;
mod leaf_key;
mod learned;
pub mod mint;
mod mirror;
mod ocsp;
mod offer;
mod outcome;
pub mod quic;
mod resume;
mod revocation;
mod sessions;
mod signer;
mod stream;
pub mod upstream;
mod verifier;

pub use authority::{Authority, AuthorityError, warn_if_open};
pub use client_certificate::{ClientCertificate, ClientCertificateError};
pub use describe::describe_certificate;
pub use ending::{Cut, EndsAlike, ends_alike};
pub use error::{OurFault, PeerFault, PolicyFault, Side, TlsError};
pub use fault::CertificateFault;
pub use intercept::{Established, Handling, Impersonator, ImpersonatorConfig, KeyLogs};
pub use issuing::{Issuing, IssuingConfig};
pub use key_log::{key_log_file, key_log_line};
pub use leaf_key::KeyType;
pub use learned::{LearnConfig, Learned, LearnedEntry, Lesson, Which};
pub use mint::{Mint, MintConfig, MintError};
pub use outcome::TlsOutcome;
pub use rcgen::SignatureAlgorithm;
pub use resume::{Resumptions, Scope};
pub use revocation::Revocation;
pub use rustls::KeyLog;
pub use rustls_pki_types::UnixTime;
pub use signer::{RemoteKey, SignError, Signer};
pub use stream::{ClientLeg, ServerLeg, Session, TlsStream};
pub use upstream::{Roots, RootsError, Upstream, Verify};
