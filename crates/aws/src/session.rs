//! Who asks a service where: region, credentials, and the role that is assumed.

use std::time::{Duration, Instant, SystemTime};

use http::Uri;
use tokio::sync::Mutex;

use crate::client::Client;
use crate::credentials::{Credentials, Region};
use crate::error::Fault;
use crate::sources::{self, Environment};

/// Credentials without an end may still be exchanged, in a file for instance.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Temporary credentials are renewed so long before their end.
const AHEAD: Duration = Duration::from_secs(60);

/// A role of another account, or of one's own.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) arn: String,
    pub(crate) external_id: Option<String>,
}

/// Region and credentials, kept until they end.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) region: Option<Region>,
    pub(crate) role: Option<Role>,
    pub(crate) environment: Environment,
    known: Mutex<Option<Known>>,
}

/// What a request is signed with.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) region: Region,
    pub(crate) credentials: Credentials,
    since: Instant,
}

impl Known {
    fn holds(&self) -> bool {
        let ended = self
            .credentials
            .expires
            .is_some_and(|end| SystemTime::now() + AHEAD > end);
        !ended && self.since.elapsed() < LOOK_AGAIN
    }
}

impl Session {
    pub(crate) fn new(
        region: Option<Region>,
        role: Option<Role>,
        environment: Environment,
    ) -> Self {
        Self {
            region,
            role,
            environment,
            known: Mutex::default(),
        }
    }

    /// What to sign with now.
    pub(crate) async fn known(&self, client: &Client) -> Result<Known, Fault> {
        let mut kept = self.known.lock().await;
        if let Some(known) = kept.as_ref().filter(|known| known.holds()) {
            return Ok(known.clone());
        }
        let region = sources::region(self.region.as_ref(), &self.environment, client).await?;
        let mut credentials = sources::credentials(&self.environment, client).await?;
        if let Some(role) = &self.role {
            credentials = self.assume(role, &region, &credentials, client).await?;
        }
        let known = Known {
            region,
            credentials,
            since: Instant::now(),
        };
        *kept = Some(known.clone());
        Ok(known)
    }

    /// Forgets the credentials: they were refused.
    pub(crate) async fn forget(&self) {
        *self.known.lock().await = None;
    }

    /// The endpoint of a service: configured, of the environment, or the region's own.
    pub(crate) fn endpoint(
        &self,
        service: &str,
        configured: Option<&str>,
        region: &Region,
    ) -> Result<Uri, Fault> {
        let variable = format!("AWS_ENDPOINT_URL_{}", service.to_ascii_uppercase());
        let endpoint = configured
            .map(str::to_owned)
            .or_else(|| self.environment.get(&variable))
            .or_else(|| self.environment.get("AWS_ENDPOINT_URL"))
            .unwrap_or_else(|| {
                format!("https://{service}.{}.{}/", region.as_str(), region.domain())
            });
        parse_endpoint(&endpoint)
    }

    /// sts:AssumeRole (API version 2011-06-15).
    async fn assume(
        &self,
        role: &Role,
        region: &Region,
        credentials: &Credentials,
        client: &Client,
    ) -> Result<Credentials, Fault> {
        let endpoint = self.endpoint("sts", None, region)?;
        let mut params = vec![
            ("Action", "AssumeRole"),
            ("Version", "2011-06-15"),
            ("RoleArn", role.arn.as_str()),
            ("RoleSessionName", "flowdog"),
            ("DurationSeconds", "3600"),
        ];
        if let Some(id) = &role.external_id {
            params.push(("ExternalId", id));
        }
        let answer = client
            .query(&endpoint, "sts", &params, credentials, region)
            .await?;
        let garbled = || Fault::Garbled("the role's credentials cannot be read".to_owned());
        let given = answer
            .child("AssumeRoleResult")
            .and_then(|result| result.child("Credentials"))
            .ok_or_else(garbled)?;
        let get = |key| given.text(key).map(str::to_owned).ok_or_else(garbled);
        Ok(Credentials {
            access_key_id: get("AccessKeyId")?,
            secret_access_key: get("SecretAccessKey")?,
            session_token: Some(get("SessionToken")?),
            // An hour was asked for; they are renewed after minutes.
            expires: None,
            source: "role",
        })
    }
}

/// An `http` or `https` URL with a host.
pub(crate) fn parse_endpoint(text: &str) -> Result<Uri, Fault> {
    let not = |what: &str| Fault::NotConfigured(format!("{text}: {what}"));
    let endpoint: Uri = text.parse().map_err(|_| not("is not a URL"))?;
    let right =
        matches!(endpoint.scheme_str(), Some("http" | "https")) && endpoint.host().is_some();
    right
        .then_some(endpoint)
        .ok_or_else(|| not("is not an http:// or https:// URL"))
}
