//! A small HTTP/1.1 client for questions: POST, a bounded answer, connections kept for reuse.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rand::TryRngCore as _;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::wire_form::MAX_ANSWER;

/// Most connections kept open between questions.
const MOST_IDLE: usize = 64;
/// Pause before the second attempt; doubled before each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What came back: the status, and a body of at most 64 KiB.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    #[cfg_attr(
        not(feature = "aws"),
        expect(dead_code, reason = "only Lambda says something in a header")
    )]
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// What went wrong, and whether it may be better in a moment.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    pub(crate) what: String,
    pub(crate) passes: bool,
}

impl CallError {
    fn passing(what: impl std::fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            passes: true,
        }
    }

    pub(crate) fn lasting(what: impl std::fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            passes: false,
        }
    }
}

/// A client for one URL.
#[derive(Debug)]
pub(crate) struct Client {
    host: String,
    port: u16,
    /// For `https`.
    tls: Option<TlsConnectorAndName>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

#[derive(Clone)]
struct TlsConnectorAndName(TlsConnector, ServerName<'static>);

impl std::fmt::Debug for TlsConnectorAndName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.1).finish()
    }
}

impl Client {
    /// For an `http` or `https` URL.
    ///
    /// # Errors
    /// What is wrong with the URL, or with the system's roots.
    pub(crate) fn new(url: &Uri) -> Result<Self, String> {
        let host = url.host().ok_or("has no host")?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let (tls, usual_port) = match url.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                let config = tls::client_config().map_err(|error| error.to_string())?;
                (
                    Some(TlsConnectorAndName(TlsConnector::from(config), name)),
                    443,
                )
            }
            _ => return Err("begins neither with http:// nor with https://".to_owned()),
        };
        Ok(Self {
            port: url.port_u16().unwrap_or(usual_port),
            host,
            tls,
            idle: Mutex::default(),
        })
    }

    /// Asks until there is an answer that is no passing fault. Whoever calls sets the time limit.
    /// `make` is called for each attempt, since a signature has a time in it.
    pub(crate) async fn call(
        &self,
        make: impl AsyncFn() -> Result<Request<Full<Bytes>>, CallError>,
        judge: impl Fn(&Reply) -> Result<(), CallError>,
    ) -> Result<Reply, CallError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let judged = match self.once(make().await?).await {
                Ok(reply) => judge(&reply).map(|()| reply),
                Err(error) => Err(error),
            };
            match judged {
                Err(error) if error.passes => {
                    tracing::debug!(host = self.host, error = error.what, "asking again");
                }
                other => return other,
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One attempt; a second one at once if a kept connection turns out to be dead.
    async fn once(&self, request: Request<Full<Bytes>>) -> Result<Reply, CallError> {
        while let Some(mut connection) = self.take_idle() {
            // A question has no effects, so it may be repeated.
            if connection.ready().await.is_ok()
                && let Ok(reply) = self.exchange(connection, request.clone()).await
            {
                return Ok(reply);
            }
        }
        let connection = self.connect().await?;
        self.exchange(connection, request).await
    }

    fn take_idle(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop()
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(|error| CallError::passing(format!("{}:{}: {error}", self.host, self.port)))?;
        // Without this the last piece of a question may wait for an acknowledgement.
        stream.set_nodelay(true).map_err(CallError::passing)?;
        match &self.tls {
            None => {
                let (sender, connection) = handshake(TokioIo::new(stream))
                    .await
                    .map_err(CallError::passing)?;
                tokio::task::spawn_local(connection);
                Ok(sender)
            }
            Some(TlsConnectorAndName(connector, name)) => {
                let stream = connector
                    .connect(name.clone(), stream)
                    .await
                    .map_err(CallError::passing)?;
                let (sender, connection) = handshake(TokioIo::new(stream))
                    .await
                    .map_err(CallError::passing)?;
                tokio::task::spawn_local(connection);
                Ok(sender)
            }
        }
    }

    async fn exchange(
        &self,
        mut connection: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Reply, CallError> {
        let response = connection
            .send_request(request)
            .await
            .map_err(CallError::passing)?;
        let (head, body) = response.into_parts();
        // An answer that is too large is not read to its end: its connection is closed.
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| CallError::lasting(format!("the answer was not read: {error}")))?
            .to_bytes();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE && !connection.is_closed() {
            idle.push(connection);
        }
        Ok(Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body,
        })
    }
}

/// Half to all of a pause, so that many who failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = rand::rngs::OsRng.try_next_u32().unwrap_or(u32::MAX);
    pause.mul_f64(0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0)
}

/// Throttles and faults of the server may pass; anything else but success does not.
pub(crate) fn judge_status(reply: &Reply) -> Result<(), CallError> {
    match reply.status {
        200..=299 => Ok(()),
        429 | 500..=599 => Err(CallError::passing(format!("status {}", reply.status))),
        status => Err(CallError::lasting(format!("status {status}"))),
    }
}

/// A POST of JSON to the path of a URL.
pub(crate) fn post_json(url: &Uri, body: &Bytes) -> Result<Request<Full<Bytes>>, CallError> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    Request::post(path)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body.clone()))
        .map_err(CallError::lasting)
}

mod tls {
    use super::Arc;

    /// Believes the roots of the operating system.
    pub(super) fn client_config() -> Result<Arc<rustls::ClientConfig>, rustls::Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}
