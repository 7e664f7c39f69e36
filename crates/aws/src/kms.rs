//! A certificate authority's key that never leaves KMS.
//!
//! Two operations: `GetPublicKey` when the root certificate is made, `Sign` then and at each
//! renewal of the intermediate. Messages are sent RAW: KMS hashes them, so that what was signed
//! can be read in its audit log's size limits and nobody can sign a bare hash. A certificate is
//! far below the 4,096 bytes that RAW allows.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use serde_json::json;
use tls::{RemoteKey, SignError, Signer};

use crate::client::{Client, ClientConfig};
use crate::credentials::Region;
use crate::error::{AwsError, Fault};
use crate::sources::{self, Environment};

/// Most bytes that `Sign` takes RAW.
const MOST_RAW: usize = 4096;

/// Where a key is and how to reach it.
#[derive(Debug, Clone)]
pub struct KmsSettings {
    /// Key id, key ARN, alias name (`alias/…`) or alias ARN.
    pub key: String,
    /// The region; otherwise that of a key's ARN, the environment, or the instance.
    pub region: Option<Region>,
    /// Another endpoint than the region's own, as of a VPC endpoint.
    pub endpoint: Option<String>,
    /// Bounds of each request.
    pub client: ClientConfig,
    /// Where credentials are looked for.
    pub environment: Environment,
}

impl KmsSettings {
    /// A key with everything else as the environment says.
    #[must_use]
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            region: None,
            endpoint: None,
            client: ClientConfig::default(),
            environment: Environment::of_process(),
        }
    }
}

/// An asymmetric KMS key.
#[derive(Debug, Clone)]
pub struct KmsKey {
    settings: KmsSettings,
    client: Client,
}

impl KmsKey {
    /// A key to be asked later; nothing is sent.
    ///
    /// # Errors
    /// When the TLS library refuses its configuration.
    pub fn new(settings: KmsSettings) -> Result<Self, AwsError> {
        let client = Client::new(settings.client.clone()).map_err(|fault| AwsError {
            what: "kms".to_owned(),
            fault,
        })?;
        Ok(Self { settings, client })
    }

    /// Asks for the public key. Blocks.
    ///
    /// # Errors
    /// When KMS does not answer or refuses, or the key is not one that signs certificates.
    pub fn public_key(&self) -> Result<(RemoteKey, Vec<u8>), AwsError> {
        let answer = self.call("GetPublicKey", json!({ "KeyId": self.settings.key }))?;
        let what = "kms:GetPublicKey";
        let usage = answer.get("KeyUsage").and_then(|usage| usage.as_str());
        if usage.is_some_and(|usage| usage != "SIGN_VERIFY") {
            return Err(error(
                what,
                Fault::Refused("the key's usage is not SIGN_VERIFY".to_owned()),
            ));
        }
        let spki = bytes(&answer, "PublicKey").ok_or_else(|| {
            error(
                what,
                Fault::Garbled("there is no PublicKey in it".to_owned()),
            )
        })?;
        RemoteKey::of_spki(&spki).ok_or_else(|| {
            error(
                what,
                Fault::Refused(
                    "the key's spec is none of ECC_NIST_P256, ECC_NIST_P384, RSA_2048, RSA_3072, RSA_4096"
                        .to_owned(),
                ),
            )
        })
    }

    /// The key as a signer of certificates, once its kind and public key are known: from
    /// [`public_key`](Self::public_key), or from the root certificate.
    #[must_use]
    pub fn signer(self, kind: RemoteKey, public_key: Vec<u8>) -> Arc<dyn Signer> {
        Arc::new(KmsSigner {
            key: self,
            kind,
            public_key,
        })
    }

    fn sign(&self, kind: RemoteKey, message: &[u8]) -> Result<Vec<u8>, AwsError> {
        let what = "kms:Sign";
        if message.len() > MOST_RAW {
            return Err(error(
                what,
                Fault::Refused(format!(
                    "{} bytes are more than the {MOST_RAW} that KMS signs",
                    message.len()
                )),
            ));
        }
        let algorithm = match kind {
            RemoteKey::EcdsaP256 => "ECDSA_SHA_256",
            RemoteKey::EcdsaP384 => "ECDSA_SHA_384",
            RemoteKey::Rsa => "RSASSA_PKCS1_V1_5_SHA_256",
        };
        let answer = self.call(
            "Sign",
            json!({
                "KeyId": self.settings.key,
                "Message": STANDARD.encode(message),
                "MessageType": "RAW",
                "SigningAlgorithm": algorithm,
            }),
        )?;
        bytes(&answer, "Signature").ok_or_else(|| {
            error(
                what,
                Fault::Garbled("there is no Signature in it".to_owned()),
            )
        })
    }

    /// One operation, on a thread and a runtime of its own: the caller may be a thread with or
    /// without a runtime, and this happens twice a week.
    fn call(
        &self,
        operation: &str,
        body: serde_json::Value,
    ) -> Result<serde_json::Value, AwsError> {
        let what = format!("kms:{operation}");
        let target = format!("TrentService.{operation}");
        let run = || -> Result<serde_json::Value, Fault> {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| Fault::NotConfigured(error.to_string()))?;
            let result = runtime.block_on(self.ask(&target, &body));
            // A name that is being looked up must not hold the caller.
            runtime.shutdown_timeout(Duration::ZERO);
            result
        };
        let outcome = std::thread::scope(|scope| scope.spawn(run).join());
        outcome
            .unwrap_or_else(|_panic| Err(Fault::Away("the request's thread failed".to_owned())))
            .map_err(|fault| AwsError { what, fault })
    }

    async fn ask(
        &self,
        target: &str,
        body: &serde_json::Value,
    ) -> Result<serde_json::Value, Fault> {
        let settings = &self.settings;
        let configured = settings.region.clone().or_else(|| region_of(&settings.key));
        let region =
            sources::region(configured.as_ref(), &settings.environment, &self.client).await?;
        let endpoint = settings
            .endpoint
            .clone()
            .or_else(|| settings.environment.get("AWS_ENDPOINT_URL_KMS"))
            .or_else(|| settings.environment.get("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| format!("https://kms.{}.{}/", region.as_str(), region.domain()));
        let endpoint: Uri = endpoint
            .parse()
            .map_err(|error| Fault::NotConfigured(format!("{endpoint}: {error}")))?;
        // Fresh for every use: temporary ones would have ended by the next.
        let credentials = sources::credentials(&settings.environment, &self.client).await?;
        self.client
            .json(&endpoint, "kms", target, body, &credentials, &region)
            .await
    }
}

/// [`Signer`] over a [`KmsKey`].
#[derive(Debug)]
pub struct KmsSigner {
    key: KmsKey,
    kind: RemoteKey,
    public_key: Vec<u8>,
}

impl Signer for KmsSigner {
    fn algorithm(&self) -> &'static tls::SignatureAlgorithm {
        self.kind.algorithm()
    }

    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.key
            .sign(self.kind, message)
            .map_err(|error| SignError(error.to_string()))
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// The region in `arn:aws:kms:REGION:ACCOUNT:key/ID`.
fn region_of(key: &str) -> Option<Region> {
    let mut parts = key.split(':');
    let (arn, service) = (parts.next()?, parts.nth(1)?);
    if arn != "arn" || service != "kms" {
        return None;
    }
    Region::new(parts.next()?)
}

fn bytes(answer: &serde_json::Value, key: &str) -> Option<Vec<u8>> {
    STANDARD.decode(answer.get(key)?.as_str()?).ok()
}

fn error(what: &str, fault: Fault) -> AwsError {
    AwsError {
        what: what.to_owned(),
        fault,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_knows_its_region() {
        let arn = "arn:aws:kms:eu-west-3:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
        assert_eq!(region_of(arn), Region::new("eu-west-3"));
        for other in [
            "alias/flowdog",
            "1234abcd",
            "arn:aws:s3:eu-west-3:x",
            "arn:",
        ] {
            assert_eq!(region_of(other), None, "{other}");
        }
    }
}
