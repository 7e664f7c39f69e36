//! A service that speaks JSON 1.1, such as CloudWatch Logs and Data Firehose: one operation at a time,
//! repeated by whoever calls.

use http::Uri;
use serde_json::Value;

use crate::client::{Client, ClientConfig};
use crate::credentials::Region;
use crate::error::{AwsError, Fault};
use crate::session::{Session, parse_endpoint};
use crate::sources::Environment;

/// Which service, and how to reach it.
#[derive(Debug, Clone)]
pub struct JsonSettings {
    /// The service's name in endpoints and signatures, as `firehose`.
    pub service: &'static str,
    /// What `X-Amz-Target` has before the operation, as `Firehose_20150804`.
    pub target: &'static str,
    /// The region; otherwise that of the environment or the instance.
    pub region: Option<Region>,
    /// Another endpoint than the region's own, as of a VPC endpoint.
    pub endpoint: Option<String>,
    /// Where credentials are looked for.
    pub environment: Environment,
}

/// A service of AWS.
#[derive(Debug)]
pub struct JsonService {
    service: &'static str,
    target: &'static str,
    endpoint: Option<String>,
    session: Session,
    client: Client,
}

impl JsonService {
    /// A service to be asked later; nothing is sent.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the TLS library refuses its configuration.
    pub fn new(settings: JsonSettings) -> Result<Self, AwsError> {
        let wrong = |fault| AwsError {
            what: settings.service.to_owned(),
            fault,
        };
        // A batch of some megabytes needs more than a key's signature does.
        let config = ClientConfig {
            attempt: std::time::Duration::from_secs(30),
            attempts: 1,
            answer: 1 << 20,
            ..ClientConfig::default()
        };
        let client = Client::new(config).map_err(wrong)?;
        if let Some(endpoint) = &settings.endpoint {
            parse_endpoint(endpoint).map_err(wrong)?;
        }
        Ok(Self {
            service: settings.service,
            target: settings.target,
            endpoint: settings.endpoint,
            session: Session::new(settings.region, None, settings.environment),
            client,
        })
    }

    /// Calls an operation, once.
    ///
    /// # Errors
    /// When there is no answer, or the service says no.
    pub async fn call(&self, operation: &str, body: &Value) -> Result<Value, AwsError> {
        self.try_call(operation, body)
            .await
            .map_err(|fault| AwsError {
                what: format!("{}:{operation}", self.service),
                fault,
            })
    }

    async fn try_call(&self, operation: &str, body: &Value) -> Result<Value, Fault> {
        let known = self.session.known(&self.client).await?;
        let configured = self.endpoint.as_deref();
        let endpoint: Uri = self
            .session
            .endpoint(self.service, configured, &known.region)?;
        let target = format!("{}.{operation}", self.target);
        let (credentials, region) = (&known.credentials, &known.region);
        let answer = self
            .client
            .json(&endpoint, self.service, &target, body, credentials, region)
            .await;
        if let Err(Fault::Refused(what)) = &answer
            && ["Expired", "UnrecognizedClient", "InvalidSignature"]
                .iter()
                .any(|word| what.contains(word))
        {
            self.session.forget().await;
        }
        answer
    }
}
