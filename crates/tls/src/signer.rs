//! The one thing a certificate authority does with its private key.

use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;
use zeroize::Zeroize;

/// A private key that signs certificates, wherever it lives: in this process, in a hardware
/// token, or behind a cloud API.
///
/// The key itself is never asked for, only signatures and the public half.
pub trait Signer: Send + Sync + fmt::Debug {
    /// The signature algorithm, which also names the kind of key.
    fn algorithm(&self) -> &'static SignatureAlgorithm;

    /// The public key as it stands in the BIT STRING of a SubjectPublicKeyInfo (RFC 5280 §4.1).
    fn public_key(&self) -> &[u8];

    /// Signs a to-be-signed certificate, hashing included, and gives the signature as X.509
    /// carries it (ECDSA as DER). May block.
    ///
    /// # Errors
    ///
    /// When the key cannot be reached or refuses.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;

    /// Whether [`sign`](Self::sign) may take longer than a packet loop can wait (about a
    /// millisecond). Slow signers are called on the blocking pool.
    fn is_slow(&self) -> bool;

    /// Whether the key lives outside this process, where it can be away, slow or expensive. Such
    /// a key signs intermediates and never leaves.
    fn is_remote(&self) -> bool {
        false
    }
}

/// The kinds of key that a remote signer may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RemoteKey {
    /// ECDSA on P-256, with SHA-256.
    EcdsaP256,
    /// ECDSA on P-384, with SHA-384.
    EcdsaP384,
    /// RSA with PKCS#1 v1.5 padding and SHA-256, which every verifier of the last 20 years knows.
    Rsa,
}

impl RemoteKey {
    /// What [`Signer::algorithm`] answers for this kind.
    #[must_use]
    pub fn algorithm(self) -> &'static SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }

    /// The digest that is signed, for signers that do not hash: SHA-384 with P-384, else SHA-256.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::EcdsaP256 | Self::Rsa => &aws_lc_rs::digest::SHA256,
            Self::EcdsaP384 => &aws_lc_rs::digest::SHA384,
        };
        aws_lc_rs::digest::digest(algorithm, message)
            .as_ref()
            .to_vec()
    }

    /// Reads a SubjectPublicKeyInfo (RFC 5280 §4.1.2.7): the kind, and the content of its BIT
    /// STRING as [`Signer::public_key`] wants it. `None` for every other kind of key.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Option<(Self, Vec<u8>)> {
        let (_, info) = SubjectPublicKeyInfo::from_der(der).ok()?;
        Self::of_parsed(&info)
    }

    pub(crate) fn of_parsed(info: &SubjectPublicKeyInfo<'_>) -> Option<(Self, Vec<u8>)> {
        /// id-ecPublicKey and rsaEncryption (RFC 3279 §2.3), the curves of RFC 5480 §2.1.1.1.
        const EC: &str = "1.2.840.10045.2.1";
        const RSA: &str = "1.2.840.113549.1.1.1";
        const P256: &str = "1.2.840.10045.3.1.7";
        const P384: &str = "1.3.132.0.34";
        let curve = || {
            let oid = info.algorithm.parameters.as_ref()?.as_oid().ok()?;
            Some(oid.to_id_string())
        };
        let kind = match info.algorithm.algorithm.to_id_string().as_str() {
            RSA => Self::Rsa,
            EC => match curve()?.as_str() {
                P256 => Self::EcdsaP256,
                P384 => Self::EcdsaP384,
                _ => return None,
            },
            _ => return None,
        };
        Some((kind, info.subject_public_key.data.to_vec()))
    }
}

/// Why a signer gave no signature. The text is for the log and holds no secret.
#[derive(Debug, Clone, thiserror::Error)]
#[error("signing failed: {0}")]
pub struct SignError(pub String);

/// A key in this process's memory.
pub(crate) struct LocalSigner(KeyPair);

impl LocalSigner {
    pub(crate) fn new(mut key: KeyPair) -> Self {
        // It signs with the library's own key, which is wiped when it is dropped; the serialised one
        // beside it would stay in memory.
        key.zeroize();
        Self(key)
    }
}

impl fmt::Debug for LocalSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never derived: the pair holds the private key.
        f.debug_struct("LocalSigner")
            .field("algorithm", self.0.algorithm())
            .finish_non_exhaustive()
    }
}

impl Signer for LocalSigner {
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }

    fn public_key(&self) -> &[u8] {
        self.0.public_key_raw()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        SigningKey::sign(&self.0, message).map_err(|error| SignError(error.to_string()))
    }

    fn is_slow(&self) -> bool {
        // RSA signatures take 1 to 10 ms, elliptic curves well under 0.2 ms.
        [
            &rcgen::PKCS_RSA_SHA256,
            &rcgen::PKCS_RSA_SHA384,
            &rcgen::PKCS_RSA_SHA512,
        ]
        .iter()
        .any(|rsa| *rsa == self.0.algorithm())
    }
}

/// Lets the certificate writer use any signer.
#[derive(Debug, Clone)]
pub(crate) struct SignerKey(pub(crate) Arc<dyn Signer>);

impl PublicKeyData for SignerKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for SignerKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|error| {
            // The writer's error type has no room for a cause.
            tracing::warn!(%error, "the certificate authority's key gave no signature");
            rcgen::Error::RemoteKeyError
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_48_a_local_key_signs_and_keeps_no_serialised_copy() {
        let key = KeyPair::generate().unwrap();
        assert!(!key.serialized_der().is_empty());
        let signer = LocalSigner::new(key);
        assert!(signer.0.serialized_der().is_empty());
        let signature = signer.sign(b"message").unwrap();
        aws_lc_rs::signature::UnparsedPublicKey::new(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1,
            signer.public_key(),
        )
        .verify(b"message", &signature)
        .unwrap();
    }
}
