//! Signed requests that invoke a Lambda function.
//!
//! Unlike the other operations these are many and in a hurry, so only the request is made here:
//! who sends it keeps the connections. Credentials are looked up once and again before they end.

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::Full;

use crate::client::{Client, ClientConfig, encoded, sign_request};
use crate::credentials::Region;
use crate::error::{AwsError, Fault};
use crate::session::{Known, Session, parse_endpoint};
use crate::sources::Environment;

/// Where a function is.
#[derive(Debug, Clone)]
pub struct LambdaSettings {
    /// Name, `name:alias`, or ARN.
    pub function: String,
    /// The region; otherwise that of the function's ARN, the environment, or the instance.
    pub region: Option<Region>,
    /// Another endpoint than the region's own, as of a VPC endpoint.
    pub endpoint: Option<String>,
    /// Where credentials are looked for.
    pub environment: Environment,
}

/// A function to be invoked.
#[derive(Debug)]
pub struct LambdaFunction {
    function: String,
    endpoint: Option<String>,
    session: Session,
    client: Client,
}

impl LambdaFunction {
    /// A function to be asked later; nothing is sent.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the TLS library refuses its configuration.
    pub fn new(settings: LambdaSettings) -> Result<Self, AwsError> {
        let client = Client::new(ClientConfig::default()).map_err(invoke_error)?;
        if let Some(endpoint) = &settings.endpoint {
            parse_endpoint(endpoint).map_err(invoke_error)?;
        }
        if settings.function.is_empty() || settings.function.len() > 256 {
            let what = "a function is a name, name:alias or ARN of up to 256 characters";
            return Err(invoke_error(Fault::NotConfigured(what.to_owned())));
        }
        // A function's ARN says its region.
        let region = settings.region.or_else(|| region_of(&settings.function));
        Ok(Self {
            session: Session::new(region, None, settings.environment),
            function: settings.function,
            endpoint: settings.endpoint,
            client,
        })
    }

    /// A synchronous invocation with this payload: where to send it, and the request for the path
    /// there. It holds for five minutes (the limit of a signature's age).
    ///
    /// # Errors
    /// When there are no credentials, or no region.
    pub async fn invocation(
        &self,
        payload: Bytes,
    ) -> Result<(Uri, Request<Full<Bytes>>), AwsError> {
        let (endpoint, known) = self.known().await.map_err(invoke_error)?;
        let request = self
            .request(&endpoint, &known, payload)
            .map_err(invoke_error)?;
        Ok((endpoint, request))
    }

    async fn known(&self) -> Result<(Uri, Known), Fault> {
        let known = self.session.known(&self.client).await?;
        let configured = self.endpoint.as_deref();
        let endpoint = self.session.endpoint("lambda", configured, &known.region)?;
        Ok((endpoint, known))
    }

    fn request(
        &self,
        endpoint: &Uri,
        known: &Known,
        payload: Bytes,
    ) -> Result<Request<Full<Bytes>>, Fault> {
        let wrong = |error: http::Error| Fault::NotConfigured(error.to_string());
        let authority = endpoint.authority().map_or("", |one| one.as_str());
        let scheme = endpoint.scheme_str().unwrap_or("https");
        let path = format!(
            "{}/2015-03-31/functions/{}/invocations",
            endpoint.path().trim_end_matches('/'),
            encoded(&self.function)
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(&path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header("x-amz-invocation-type", "RequestResponse")
            .body(())
            .map_err(wrong)?;
        let url = format!("{scheme}://{authority}{path}");
        let signer = (&known.credentials, &known.region);
        sign_request(request, &url, "lambda", payload, signer)
    }
}

fn invoke_error(fault: Fault) -> AwsError {
    AwsError {
        what: "lambda:Invoke".to_owned(),
        fault,
    }
}

/// `arn:aws:lambda:REGION:...`.
fn region_of(function: &str) -> Option<Region> {
    let mut parts = function.split(':');
    let is_arn = parts.next() == Some("arn");
    is_arn.then(|| parts.nth(2).and_then(Region::new)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, endpoint: Option<&str>) -> Result<LambdaFunction, AwsError> {
        LambdaFunction::new(LambdaSettings {
            function: name.to_owned(),
            region: Region::new("eu-west-1"),
            endpoint: endpoint.map(str::to_owned),
            environment: Environment::of(&[
                ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
                ("AWS_SECRET_ACCESS_KEY", "planted-secret"),
                ("AWS_SESSION_TOKEN", "token"),
            ]),
        })
    }

    #[tokio::test]
    async fn an_invocation_is_signed_for_its_region_and_shows_no_secret() {
        let one = function(
            "arn:aws:lambda:eu-central-1:123456789012:function:gate",
            None,
        )
        .unwrap();
        let (endpoint, request) = one.invocation(Bytes::from_static(b"{}")).await.unwrap();
        assert_eq!(endpoint, "https://lambda.eu-west-1.amazonaws.com/");
        assert_eq!(
            request.uri(),
            "/2015-03-31/functions/arn%3Aaws%3Alambda%3Aeu-central-1%3A123456789012%3Afunction%3Agate/invocations"
        );
        assert_eq!(request.headers()["host"], "lambda.eu-west-1.amazonaws.com");
        let authorization = request.headers()["authorization"].to_str().unwrap();
        assert!(authorization.contains("/eu-west-1/lambda/aws4_request"));
        assert!(authorization.contains("x-amz-security-token"));
        assert!(!format!("{one:?} {request:?}").contains("planted-secret"));
    }

    #[test]
    fn endpoints_and_functions_that_cannot_be_are_refused() {
        assert!(function("gate", Some("http://127.0.0.1:4566")).is_ok());
        for (name, endpoint) in [
            ("gate", Some("ftp://a/")),
            ("gate", Some("x y")),
            ("", None),
        ] {
            assert!(function(name, endpoint).is_err(), "{name} {endpoint:?}");
        }
        assert_eq!(
            region_of("arn:aws:lambda:eu-central-1:1:function:f"),
            Region::new("eu-central-1")
        );
        assert_eq!(region_of("gate:live"), None);
    }
}
