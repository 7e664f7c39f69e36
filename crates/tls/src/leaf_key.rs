//! Private keys for minted leaves. None of them is ever the authority's key.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{KeyPair, PublicKeyData, RsaKeySize, SubjectPublicKeyInfo};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Mutex;
use tokio::time::Instant;
use zeroize::Zeroize;

use crate::hello::{self, ClientHello};
use crate::mint::MintError;

/// The kind of key in a minted leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// ECDSA on P-256: the default, understood by every client of the last ten years.
    EcdsaP256,
    /// RSA with 2048 bits, for clients that offer nothing else.
    Rsa2048,
}

impl KeyType {
    /// What this client can verify in the version that was agreed on with the server.
    #[must_use]
    pub fn for_client(hello: &ClientHello, version: u16) -> Self {
        /// ecdsa_secp256r1_sha256, RFC 8446 §4.2.3.
        const ECDSA_P256_SHA256: u16 = 0x0403;
        /// secp256r1, RFC 8446 §4.2.7.
        const P256: u16 = 23;
        /// The suites of TLS 1.2 with an ECDSA certificate that we speak: AES-128-GCM and
        /// AES-256-GCM (RFC 5289 §3.2), ChaCha20-Poly1305 (RFC 7905 §2).
        const ECDHE_ECDSA: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
        let mut ecdsa = hello.offers_scheme(ECDSA_P256_SHA256);
        if version < hello::TLS13 {
            // Up to TLS 1.2 the cipher suite names the kind of key, and the list of groups
            // limits the curves of certificates too (RFC 8422 §5.1).
            ecdsa &= ECDHE_ECDSA
                .iter()
                .any(|suite| hello.cipher_suites.contains(suite));
            ecdsa &= hello.groups.is_empty() || hello.groups.contains(&P256);
        }
        if ecdsa {
            Self::EcdsaP256
        } else {
            Self::Rsa2048
        }
    }
}

/// A key that a leaf can be made for: its public half for the certificate, and a handle that
/// signs handshakes.
#[derive(Clone)]
pub(crate) struct LeafKey {
    pub(crate) public: Arc<SubjectPublicKeyInfo>,
    pub(crate) signing: Arc<dyn rustls::sign::SigningKey>,
}

impl fmt::Debug for LeafKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeafKey")
            .field("algorithm", &self.signing.algorithm())
            .finish_non_exhaustive()
    }
}

impl LeafKey {
    fn generate(kind: KeyType) -> Result<Self, MintError> {
        let mut pair = match kind {
            KeyType::EcdsaP256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyType::Rsa2048 => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048)
            }
        }?;
        let public = SubjectPublicKeyInfo::from_der(&pair.subject_public_key_info())?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialized_der()));
        let signing = aws_lc_rs::sign::any_supported_type(&der);
        // The TLS library has its own copy by now; the serialised one must not outlive this.
        drop(der);
        pair.zeroize();
        Ok(Self {
            public: Arc::new(public),
            signing: signing.map_err(MintError::Key)?,
        })
    }
}

/// Where leaf keys come from.
///
/// An elliptic-curve key costs less than the signature on its certificate, so every leaf gets
/// one of its own. An RSA key costs a tenth of a second: one is shared by many leaves and
/// replaced after [`RSA_USES`] of them or [`RSA_AGE`].
#[derive(Debug, Default)]
pub(crate) struct KeyPool {
    rsa: Mutex<Option<SharedKey>>,
}

#[derive(Debug)]
struct SharedKey {
    key: LeafKey,
    made: Instant,
    uses: u32,
}

/// Leaves per RSA key.
const RSA_USES: u32 = 1000;
/// Age at which an RSA key is replaced.
const RSA_AGE: Duration = Duration::from_secs(24 * 3600);

impl KeyPool {
    pub(crate) async fn take(&self, kind: KeyType) -> Result<LeafKey, MintError> {
        match kind {
            KeyType::EcdsaP256 => LeafKey::generate(kind),
            KeyType::Rsa2048 => self.take_rsa().await,
        }
    }

    async fn take_rsa(&self) -> Result<LeafKey, MintError> {
        // Held while a key is made, so that a burst of clients waits for one key and not for many.
        let mut shared = self.rsa.lock().await;
        if let Some(current) = shared.as_mut()
            && current.uses < RSA_USES
            && current.made.elapsed() < RSA_AGE
        {
            current.uses += 1;
            return Ok(current.key.clone());
        }
        let key = tokio::task::spawn_blocking(|| LeafKey::generate(KeyType::Rsa2048))
            .await
            .map_err(|_panicked| MintError::Interrupted)??;
        *shared = Some(SharedKey {
            key: key.clone(),
            made: Instant::now(),
            uses: 1,
        });
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(suites: &[u16], schemes: &[u16], groups: &[u16]) -> ClientHello {
        ClientHello {
            cipher_suites: suites.to_vec(),
            signature_schemes: schemes.to_vec(),
            groups: groups.to_vec(),
            ..ClientHello::default()
        }
    }

    #[test]
    fn a_client_that_knows_only_rsa_gets_an_rsa_key() {
        assert_eq!(
            KeyType::for_client(&hello(&[0x1301], &[0x0804], &[29]), hello::TLS13),
            KeyType::Rsa2048
        );
        // ECDHE_RSA suites only.
        assert_eq!(
            KeyType::for_client(&hello(&[0xc02f], &[0x0403, 0x0804], &[23]), hello::TLS12),
            KeyType::Rsa2048
        );
        // No curve that the certificate could be on.
        assert_eq!(
            KeyType::for_client(&hello(&[0xc02b], &[0x0403], &[29]), hello::TLS12),
            KeyType::Rsa2048
        );
    }

    #[test]
    fn every_other_client_gets_an_ecdsa_key() {
        assert_eq!(
            KeyType::for_client(&hello(&[0x1301], &[0x0403], &[29]), hello::TLS13),
            KeyType::EcdsaP256
        );
        assert_eq!(
            KeyType::for_client(&hello(&[0xc02b], &[0x0403], &[29, 23]), hello::TLS12),
            KeyType::EcdsaP256
        );
    }

    #[tokio::test]
    async fn ecdsa_keys_are_never_shared_and_rsa_keys_are_for_a_while() {
        let pool = KeyPool::default();
        let one = pool.take(KeyType::EcdsaP256).await.unwrap();
        let two = pool.take(KeyType::EcdsaP256).await.unwrap();
        assert_ne!(one.public.der_bytes(), two.public.der_bytes());
        let one = pool.take(KeyType::Rsa2048).await.unwrap();
        let two = pool.take(KeyType::Rsa2048).await.unwrap();
        assert_eq!(one.public.der_bytes(), two.public.der_bytes());
        pool.rsa.lock().await.as_mut().unwrap().uses = RSA_USES;
        let three = pool.take(KeyType::Rsa2048).await.unwrap();
        assert_ne!(one.public.der_bytes(), three.public.der_bytes());
    }
}
