//! A private key inside a token, as a signer of certificates.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use tls::{RemoteKey, SignError, SignatureAlgorithm, Signer};
use zeroize::Zeroizing;

use crate::der;
use crate::error::Pkcs11Error;
use crate::uri::Pkcs11Uri;

/// A key that a URI names. Nothing is loaded and nobody is asked until it is needed.
#[derive(Debug, Clone)]
pub struct Pkcs11Key {
    uri: Pkcs11Uri,
}

/// The libraries in this process. One may be started once only (PKCS#11 §5.4), and is never
/// unloaded: some do not survive it.
static MODULES: LazyLock<Mutex<HashMap<PathBuf, Pkcs11>>> = LazyLock::new(Mutex::default);

impl Pkcs11Key {
    /// The key of this name.
    #[must_use]
    pub fn new(uri: Pkcs11Uri) -> Self {
        Self { uri }
    }

    /// Asks the token for the public half: its kind, and the BIT STRING of its
    /// SubjectPublicKeyInfo. Blocks.
    ///
    /// # Errors
    /// When the library, the token or the key cannot be used.
    pub fn public_key(&self) -> Result<(RemoteKey, Vec<u8>), Pkcs11Error> {
        /// The DER of the curves' OIDs, as CKA_EC_PARAMS has them: secp256r1 and secp384r1
        /// (RFC 5480 §2.1.1.1).
        const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        const P384: &[u8] = &[6, 5, 0x2b, 0x81, 4, 0, 0x22];
        let session = self.session()?;
        let key = self.find(&session, ObjectClass::PUBLIC_KEY, "public keys")?;
        let mut found = Public::default();
        let wanted = [
            AttributeType::KeyType,
            AttributeType::EcParams,
            AttributeType::EcPoint,
            AttributeType::Modulus,
            AttributeType::PublicExponent,
        ];
        // What a key does not have is left out of the answer.
        for attribute in session.get_attributes(key, &wanted)? {
            match attribute {
                Attribute::KeyType(kind) => found.kind = Some(kind),
                Attribute::EcParams(curve) => found.curve = curve,
                Attribute::EcPoint(point) => found.point = point,
                Attribute::Modulus(modulus) => found.modulus = modulus,
                Attribute::PublicExponent(exponent) => found.exponent = exponent,
                _ => {}
            }
        }
        match (found.kind, found.curve.as_slice()) {
            (Some(KeyType::EC), P256) => Ok((RemoteKey::EcdsaP256, found.point())),
            (Some(KeyType::EC), P384) => Ok((RemoteKey::EcdsaP384, found.point())),
            (Some(KeyType::RSA), _) => Ok((
                RemoteKey::Rsa,
                der::rsa_public_key(&found.modulus, &found.exponent),
            )),
            _ => Err(Pkcs11Error::UnsupportedKey),
        }
    }

    /// The key as a signer of certificates, once its kind and public key are known: from
    /// [`public_key`](Self::public_key), or from the root certificate.
    #[must_use]
    pub fn signer(self, kind: RemoteKey, public_key: Vec<u8>) -> Arc<dyn Signer> {
        Arc::new(TokenSigner {
            key: self,
            kind,
            public_key,
        })
    }

    fn sign(&self, kind: RemoteKey, message: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        let session = self.session()?;
        let key = self.find(&session, ObjectClass::PRIVATE_KEY, "private keys")?;
        match kind {
            RemoteKey::Rsa => Ok(session.sign(&Mechanism::Sha256RsaPkcs, key, message)?),
            // Every token signs a digest; few hash for ECDSA.
            RemoteKey::EcdsaP256 | RemoteKey::EcdsaP384 => {
                let raw = session.sign(&Mechanism::Ecdsa, key, &kind.digest(message))?;
                der::ecdsa_signature(&raw).ok_or_else(|| {
                    Pkcs11Error::Token(format!("a signature of {} bytes", raw.len()))
                })
            }
        }
    }

    /// A session in the token, logged in where the token wants that. One for each use: a token that
    /// was pulled out or restarted in between is met afresh.
    fn session(&self) -> Result<Session, Pkcs11Error> {
        let module = module(&self.uri.module)?;
        let slot = self.slot(&module)?;
        let token = module.get_token_info(slot)?;
        let session = module.open_ro_session(slot)?;
        if !token.login_required() {
            return Ok(session);
        }
        let pin = self.pin()?;
        if pin.is_none() && !token.protected_authentication_path() {
            return Err(Pkcs11Error::NoPin);
        }
        match session.login(UserType::User, pin.as_ref()) {
            // The login is the whole process's (PKCS#11 §5.6).
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(session),
            Err(error) => Err(Pkcs11Error::Login(error.to_string())),
        }
    }

    fn slot(&self, module: &Pkcs11) -> Result<Slot, Pkcs11Error> {
        let mut fitting = Vec::new();
        let mut labels = Vec::new();
        for slot in module.get_slots_with_token()? {
            let token = module.get_token_info(slot)?;
            let fits = |wanted: &Option<String>, has: &str| {
                wanted
                    .as_ref()
                    .is_none_or(|wanted| wanted == has.trim_end())
            };
            labels.push(format!("{:?}", token.label().trim_end()));
            if token.token_initialized()
                && fits(&self.uri.token, token.label())
                && fits(&self.uri.serial, token.serial_number())
                && fits(&self.uri.manufacturer, token.manufacturer_id())
                && fits(&self.uri.model, token.model())
            {
                fitting.push(slot);
            }
        }
        let wanted = self.uri.token_text();
        match fitting.as_slice() {
            [slot] => Ok(*slot),
            [] => Err(Pkcs11Error::NoToken {
                wanted,
                present: if labels.is_empty() {
                    "none".to_owned()
                } else {
                    labels.join(", ")
                },
            }),
            several => Err(Pkcs11Error::ManyTokens {
                count: several.len(),
                wanted,
            }),
        }
    }

    fn find(
        &self,
        session: &Session,
        class: ObjectClass,
        what: &'static str,
    ) -> Result<ObjectHandle, Pkcs11Error> {
        let mut template = vec![Attribute::Class(class)];
        template.extend(
            self.uri
                .object
                .as_ref()
                .map(|label| Attribute::Label(label.clone().into_bytes())),
        );
        template.extend(self.uri.id.clone().map(Attribute::Id));
        let found = session.find_objects(&template)?;
        match found.as_slice() {
            [key] => Ok(*key),
            several => Err(Pkcs11Error::Keys {
                count: several.len(),
                what,
                wanted: self.uri.key_text(),
            }),
        }
    }

    fn pin(&self) -> Result<Option<AuthPin>, Pkcs11Error> {
        let text = match &self.uri.pin_source {
            Some(path) => {
                tls::warn_if_open(path, "the PIN");
                let text =
                    std::fs::read_to_string(path).map_err(|source| Pkcs11Error::PinFile {
                        path: path.clone(),
                        source,
                    })?;
                Some(Zeroizing::new(text))
            }
            None => std::env::var(crate::PIN_VARIABLE).ok().map(Zeroizing::new),
        };
        Ok(text.map(|text| AuthPin::from(text.trim_end_matches(['\r', '\n']))))
    }
}

/// What a token says of a public key.
#[derive(Default)]
struct Public {
    kind: Option<KeyType>,
    curve: Vec<u8>,
    point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl Public {
    fn point(&self) -> Vec<u8> {
        der::octet_string(&self.point).to_vec()
    }
}

/// The library at this path, loaded and started once per process.
fn module(path: &Path) -> Result<Pkcs11, Pkcs11Error> {
    let fault = |error: Error| Pkcs11Error::Module {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let module = Pkcs11::new(path).map_err(fault)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(fault(error)),
    }
    tracing::info!(module = %path.display(), "loaded a PKCS#11 library");
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

#[derive(Debug)]
struct TokenSigner {
    key: Pkcs11Key,
    kind: RemoteKey,
    public_key: Vec<u8>,
}

impl Signer for TokenSigner {
    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.kind.algorithm()
    }

    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let signed = self.key.sign(self.kind, message);
        signed.map_err(|error| SignError(error.to_string()))
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn is_remote(&self) -> bool {
        true
    }
}
