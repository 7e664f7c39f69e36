//! What can go wrong between us and a token.

use std::path::PathBuf;

/// Why a key in a token gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Pkcs11Error {
    /// The library cannot be loaded or does not start.
    #[error("{}: cannot use this PKCS#11 library: {reason}", path.display())]
    Module {
        /// `module-path` of the URI.
        path: PathBuf,
        /// The loader's or the library's word.
        reason: String,
    },
    /// No token has what the URI asks for.
    #[error("no token fits {wanted}; there are: {present}")]
    NoToken {
        /// The URI's attributes of the token.
        wanted: String,
        /// The labels of the tokens that are there.
        present: String,
    },
    /// More than one token has it.
    #[error("{count} tokens fit {wanted}; name one by `serial` too")]
    ManyTokens {
        /// How many.
        count: usize,
        /// The URI's attributes of the token.
        wanted: String,
    },
    /// The PIN's file cannot be read.
    #[error("{}: cannot read the PIN: {source}", path.display())]
    PinFile {
        /// `pin-source` of the URI.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// The token wants a PIN and there is none.
    #[error(
        "the token wants a PIN: name its file with `pin-source` in the URI, or set {}",
        crate::PIN_VARIABLE
    )]
    NoPin,
    /// The token refused to let us in.
    #[error("the token refused the PIN: {0}")]
    Login(String),
    /// The key is not there, or is there more than once.
    #[error("{count} {what} in the token fit {wanted}; one is needed")]
    Keys {
        /// How many were found.
        count: usize,
        /// Private or public keys.
        what: &'static str,
        /// The URI's attributes of the key.
        wanted: String,
    },
    /// The key is of a kind that cannot be an authority's.
    #[error("the key is neither ECDSA P-256, P-384 nor RSA")]
    UnsupportedKey,
    /// A call failed.
    #[error("the token answered: {0}")]
    Token(String),
}

impl From<cryptoki::error::Error> for Pkcs11Error {
    fn from(error: cryptoki::error::Error) -> Self {
        Self::Token(error.to_string())
    }
}
