//! The reader's end of the capture service.

#[cfg(unix)]
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use hyper_util::rt::TokioIo;
#[cfg(unix)]
use tokio::net::UnixStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
#[cfg(unix)]
use tonic::transport::Uri;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
#[cfg(unix)]
use tower::service_fn;
use zeroize::Zeroizing;

use crate::address::Address;
use crate::proto::capture_client::CaptureClient;

/// How long reaching the appliance may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where an appliance is, and what it wants to see before it shows anything.
#[derive(Clone, Default)]
pub struct Target {
    /// Where it is; by default [`Target::DEFAULT`].
    pub address: Option<Address>,
    /// The token.
    pub token: Option<Zeroizing<String>>,
    /// Whose certificate the appliance shows, PEM; sets TLS on.
    pub ca: Option<String>,
    /// The name in the appliance's certificate, if it is not its address.
    pub server_name: Option<String>,
    /// Our own certificate and key, PEM.
    pub identity: Option<(String, Zeroizing<String>)>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The appliance cannot be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the appliance at {address}: {why}")]
pub struct Unreachable {
    address: Address,
    why: String,
}

/// A connection to an appliance.
pub type Client = CaptureClient<InterceptedService<Channel, Token>>;

/// Shows the token with each call.
#[derive(Clone, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Target {
    /// Where the appliance listens unless it is told otherwise.
    pub const DEFAULT: &'static str = "unix:/run/flowdog/capture.sock";

    /// Connects.
    ///
    /// # Errors
    /// When the appliance is not there, or its certificate is not the right one.
    pub async fn connect(&self) -> Result<Client, Unreachable> {
        let address = self
            .address
            .clone()
            .unwrap_or_else(|| Address::Unix("/run/flowdog/capture.sock".into()));
        let fault = |why: String| Unreachable {
            address: address.clone(),
            why,
        };
        let channel = match &address {
            #[cfg(not(unix))]
            Address::Unix(_) => {
                let why = "this system has no such sockets; forward a TCP port instead";
                return Err(fault(why.to_owned()));
            }
            #[cfg(unix)]
            Address::Unix(path) => {
                let path = Arc::new(path.clone());
                // The URI is asked for and not used: the connector knows the way.
                Endpoint::from_static("http://flowdog")
                    .connect_timeout(CONNECT)
                    .connect_with_connector(service_fn(move |_: Uri| {
                        let path = Arc::clone(&path);
                        async move { UnixStream::connect(&*path).await.map(TokioIo::new) }
                    }))
                    .await
            }
            Address::Tcp(tcp) => {
                let scheme = if self.ca.is_some() { "https" } else { "http" };
                let mut endpoint = Endpoint::from_shared(format!("{scheme}://{tcp}"))
                    .map_err(|error| fault(error.to_string()))?
                    .connect_timeout(CONNECT);
                if let Some(ca) = &self.ca {
                    let mut tls = ClientTlsConfig::new()
                        .ca_certificate(Certificate::from_pem(ca))
                        .domain_name(
                            self.server_name
                                .clone()
                                .unwrap_or_else(|| tcp.ip().to_string()),
                        );
                    if let Some((certificate, key)) = &self.identity {
                        tls = tls.identity(Identity::from_pem(certificate, key.as_str()));
                    }
                    endpoint = endpoint
                        .tls_config(tls)
                        .map_err(|error| fault(error.to_string()))?;
                }
                endpoint.connect().await
            }
        }
        .map_err(|error| fault(causes(&error)))?;
        let token = self
            .token
            .as_ref()
            .map(|token| MetadataValue::try_from(format!("Bearer {}", token.as_str())))
            .transpose()
            .map_err(|_| fault("the token has characters that no header may have".to_owned()))?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(CaptureClient::with_interceptor(channel, Token(token))
            .max_decoding_message_size(1 << 20))
    }
}

/// The innermost cause is the one that helps.
fn causes(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
