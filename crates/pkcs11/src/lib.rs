//! A certificate authority's key in a PKCS#11 token: a hardware security module, a smart card.
//!
//! The key is named by a `pkcs11:` URI ([RFC 7512](https://www.rfc-editor.org/rfc/rfc7512)),
//! which says where the token's library is too. The library is the vendor's C code; it is loaded
//! into this process when the first signature is needed, and called once per renewal of the
//! intermediate, on a thread that no packet waits for.
//!
//! Invariants:
//! - A PIN is read when it is needed, from a file or the environment, is overwritten afterwards,
//!   and never shows in `Debug` output, logs or errors.
//! - Nothing is written to the token.
#![forbid(unsafe_code)]

mod der;
mod error;
mod key;
mod uri;

pub use error::Pkcs11Error;
pub use key::Pkcs11Key;
pub use uri::{Pkcs11Uri, UriFault};

/// The environment variable that holds the PIN where the URI names no `pin-source`.
pub const PIN_VARIABLE: &str = "FLOWDOG_PKCS11_PIN";
