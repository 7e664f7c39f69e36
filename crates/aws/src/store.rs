//! What a client of an object store needs: credentials and region as they are found now, and one
//! request over a connection of its own.

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;

use crate::client::{Client, ClientConfig};
use crate::credentials::{Credentials, Region};
use crate::error::{AwsError, Fault};
use crate::session::Session;
use crate::sources::Environment;

/// Credentials and region, looked up where AWS's own tools look, and kept until they end.
#[derive(Debug)]
pub struct CredentialSource {
    session: Session,
    client: Client,
}

impl CredentialSource {
    /// A source to be asked later; nothing is sent. `region` goes before what the environment says.
    ///
    /// # Errors
    /// When the TLS library refuses its configuration.
    pub fn new(region: Option<Region>, environment: Environment) -> Result<Self, AwsError> {
        let client = Client::new(ClientConfig::default()).map_err(lookup_error)?;
        Ok(Self {
            session: Session::new(region, None, environment),
            client,
        })
    }

    /// The region and credentials to sign with now.
    ///
    /// # Errors
    /// When there is no region, or there are no credentials.
    pub async fn get(&self) -> Result<(Region, Credentials), AwsError> {
        let known = self.session.known(&self.client).await;
        let known = known.map_err(lookup_error)?;
        Ok((known.region, known.credentials))
    }

    /// The endpoint that the environment names for a service, if it names one.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> Option<String> {
        let environment = &self.session.environment;
        environment
            .get(&format!(
                "AWS_ENDPOINT_URL_{}",
                service.to_ascii_uppercase()
            ))
            .or_else(|| environment.get("AWS_ENDPOINT_URL"))
    }
}

fn lookup_error(fault: Fault) -> AwsError {
    AwsError {
        what: "credentials".to_owned(),
        fault,
    }
}

impl Client {
    /// Sends a request that somebody else has made and signed, once, over a connection of its own.
    ///
    /// # Errors
    /// [`Fault::Away`] when there was no answer, [`Fault::Garbled`] when it was too large or no HTTP.
    pub async fn fetch(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, Fault> {
        if !request.headers().contains_key(header::HOST) {
            let host = request.uri().authority().map_or("", |host| host.as_str());
            let host = host
                .parse()
                .map_err(|_| Fault::NotConfigured(format!("{} has no host", request.uri())))?;
            request.headers_mut().insert(header::HOST, host);
        }
        self.send_whole(request.map(Full::new)).await
    }
}
