//! Requests of the object store's client, sent by the client of the `aws` crate.
//!
//! One HTTP stack and one list of roots for everything that leaves the appliance by itself.

use async_trait::async_trait;
use aws::{Client, Fault};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use object_store::client::{
    ClientOptions, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};

/// Makes clients that share one [`Client`].
#[derive(Clone, Debug)]
pub(super) struct Connector(pub(super) Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let response = self.0.fetch(http::Request::from_parts(head, body)).await;
        let response = response.map_err(|fault| {
            let kind = match &fault {
                Fault::Away(_) | Fault::Busy(_) => HttpErrorKind::Connect,
                Fault::Garbled(_) => HttpErrorKind::Decode,
                Fault::NotConfigured(_) | Fault::Refused(_) => HttpErrorKind::Unknown,
            };
            HttpError::new(kind, Failed(fault.to_string()))
        })?;
        let never = |error: core::convert::Infallible| match error {};
        Ok(response.map(|body: Bytes| HttpResponseBody::new(Full::new(body).map_err(never))))
    }
}
