//! One signed request, one connection.
//!
//! The operations used here run a few times a week, so a pool of connections would only be
//! something that breaks while nobody looks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rand::TryRngCore as _;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig as TlsConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::credentials::{Credentials, Region};
use crate::error::{Fault, plain};

/// Bounds of a request.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Longest time for one attempt, from the connection to the end of the answer. Default 5 s.
    pub attempt: Duration,
    /// Attempts for a fault that may pass. Default 3.
    pub attempts: u32,
    /// Pause before the second attempt; doubled before each further one, and cut at random to no
    /// less than a half. Default 200 ms.
    pub pause: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            attempts: 3,
            pause: Duration::from_millis(200),
        }
    }
}

/// Largest answer that is read. The largest one wanted here is an RSA key of a kilobyte.
const MAX_ANSWER: usize = 64 * 1024;

/// Sends requests to services of AWS, or to something that behaves like them.
#[derive(Debug, Clone)]
pub struct Client {
    config: ClientConfig,
    tls: Arc<TlsConfig>,
}

/// An answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Client {
    /// A client that believes the roots of the system, or Mozilla's where there are none.
    ///
    /// # Errors
    /// When the TLS library refuses its configuration.
    pub fn new(config: ClientConfig) -> Result<Self, Fault> {
        let mut roots = RootCertStore::empty();
        let (added, _ignored) =
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = TlsConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Fault::NotConfigured(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            config,
            tls: Arc::new(tls),
        })
    }

    /// An operation of a service that speaks JSON 1.1, repeated while its faults may pass.
    pub(crate) async fn json(
        &self,
        endpoint: &Uri,
        service: &str,
        target: &str,
        body: &serde_json::Value,
        credentials: &Credentials,
        region: &Region,
    ) -> Result<serde_json::Value, Fault> {
        let body = Bytes::from(body.to_string());
        let mut pause = self.config.pause;
        let mut attempt = 1;
        loop {
            let request = signed(endpoint, service, target, body.clone(), credentials, region)?;
            let fault = match self.send(request).await.and_then(|answer| judge(&answer)) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if !fault.is_passing() || attempt >= self.config.attempts {
                return Err(fault);
            }
            tracing::debug!(target, attempt, %fault, "trying again");
            tokio::time::sleep(pause.mul_f64(0.5 + jitter() / 2.0)).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// One request as it is.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        match tokio::time::timeout(self.config.attempt, self.connect_and_send(request)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Fault::Away(format!(
                "no answer within {:?}",
                self.config.attempt
            ))),
        }
    }

    async fn connect_and_send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let uri = request.uri().clone();
        let host = uri
            .host()
            .ok_or_else(|| Fault::NotConfigured(format!("{uri} has no host")))?
            .trim_matches(['[', ']'])
            .to_owned();
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let away = |error: std::io::Error| Fault::Away(format!("{host}:{port}: {error}"));
        let stream = TcpStream::connect((host.as_str(), port))
            .await
            .map_err(away)?;
        if !secure {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|error| Fault::NotConfigured(format!("{host}: {error}")))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(away)?;
        exchange(stream, request).await
    }
}

/// From 0 to 1, at random; 1 where there is no randomness.
fn jitter() -> f64 {
    rand::rngs::OsRng
        .try_next_u32()
        .map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

async fn exchange<S>(stream: S, mut request: Request<Full<Bytes>>) -> Result<Answer, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let away = |error: hyper::Error| Fault::Away(error.to_string());
    // On a connection to the origin itself the target is a path (RFC 9112 §3.2.1).
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .parse::<Uri>()
        .map_err(|error| Fault::NotConfigured(error.to_string()))?;
    *request.uri_mut() = path;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(away)?;
    // Ends with the answer, or with the runtime of this one call.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(away)?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map_err(|error| Fault::Garbled(plain(&error.to_string())))?
        .to_bytes();
    driver.abort();
    Ok(Answer { status, body })
}

fn signed(
    endpoint: &Uri,
    service: &str,
    target: &str,
    body: Bytes,
    credentials: &Credentials,
    region: &Region,
) -> Result<Request<Full<Bytes>>, Fault> {
    let wrong = |error: &dyn std::fmt::Display| Fault::NotConfigured(plain(&error.to_string()));
    let host = endpoint
        .authority()
        .ok_or_else(|| Fault::NotConfigured(format!("{endpoint} has no host")))?
        .as_str();
    let request = Request::builder()
        .method(Method::POST)
        .uri(endpoint)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, "application/x-amz-json-1.1")
        .header("x-amz-target", target)
        .body(())
        .map_err(|error| wrong(&error))?;
    let url = endpoint.to_string();
    sign_request(request, &url, service, body, (credentials, region))
}

/// Adds a signature to a request. `url` is the whole of what its own URI may hold only the path of.
pub(crate) fn sign_request(
    mut request: Request<()>,
    url: &str,
    service: &str,
    body: Bytes,
    (credentials, region): (&Credentials, &Region),
) -> Result<Request<Full<Bytes>>, Fault> {
    let wrong = |error: &dyn std::fmt::Display| Fault::NotConfigured(plain(&error.to_string()));
    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id.clone(),
        credentials.secret_access_key.clone(),
        credentials.session_token.clone(),
        credentials.expires,
        "flowdog",
    )
    .into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_str())
        .name(service)
        .time(SystemTime::now())
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| wrong(&error))?;
    let headers: Vec<(&str, &str)> = request
        .headers()
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
        .collect();
    let signable = SignableRequest::new(
        request.method().as_str(),
        url,
        headers.into_iter(),
        SignableBody::Bytes(&body),
    )
    .map_err(|error| wrong(&error))?;
    let (instructions, _signature) = sign(signable, &params.into())
        .map_err(|error| wrong(&error))?
        .into_parts();
    instructions.apply_to_request_http1x(&mut request);
    Ok(request.map(|()| Full::new(body)))
}

/// Sorts an answer: what it says, or what kind of no it is.
fn judge(answer: &Answer) -> Result<serde_json::Value, Fault> {
    let json: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    if (200..300).contains(&answer.status) {
        return json.ok_or_else(|| Fault::Garbled("the body is not JSON".to_owned()));
    }
    let text = |key: &str| {
        json.as_ref()
            .and_then(|json| json.get(key))
            .and_then(|value| value.as_str())
    };
    // `com.amazonaws.kms#NotFoundException` in some versions of the protocol.
    let kind = text("__type").map_or("", |kind| kind.rsplit('#').next().unwrap_or(kind));
    let message = text("message").or_else(|| text("Message")).unwrap_or("");
    let what = plain(format!("{} {kind} {message}", answer.status).trim_end());
    /// What the services call "later": AWS's common errors, and those of KMS.
    const LATER: [&str; 9] = [
        "DependencyTimeoutException",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "RequestLimitExceeded",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
    ];
    if answer.status >= 500 || answer.status == 429 || LATER.contains(&kind) {
        return Err(Fault::Busy(what));
    }
    Err(Fault::Refused(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn later_is_told_from_never() {
        let throttled = judge(&answer(400, r#"{"__type":"ThrottlingException"}"#));
        assert!(throttled.unwrap_err().is_passing());
        assert!(judge(&answer(503, "<html>")).unwrap_err().is_passing());
        let denied = judge(&answer(
            400,
            r#"{"__type":"a#AccessDeniedException","Message":"no\nway"}"#,
        ))
        .unwrap_err();
        assert_eq!(
            denied,
            Fault::Refused("400 AccessDeniedException no way".to_owned())
        );
        assert!(!judge(&answer(200, "<html>")).unwrap_err().is_passing());
        assert!(judge(&answer(200, "{}")).is_ok());
    }

    #[test]
    fn a_request_is_signed_for_its_service_and_region_and_carries_no_secret() {
        let credentials = Credentials {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "planted-secret".to_owned(),
            session_token: Some("token".to_owned()),
            expires: None,
            source: "test",
        };
        let request = signed(
            &Uri::from_static("https://kms.eu-west-1.amazonaws.com/"),
            "kms",
            "TrentService.Sign",
            Bytes::from_static(b"{}"),
            &credentials,
            &Region::new("eu-west-1").unwrap(),
        )
        .unwrap();
        let authorization = request.headers()["authorization"].to_str().unwrap();
        assert!(authorization.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"));
        assert!(authorization.contains("/eu-west-1/kms/aws4_request"));
        for name in ["host", "x-amz-date", "x-amz-security-token", "x-amz-target"] {
            assert!(authorization.contains(name), "{name} is signed");
        }
        assert!(!format!("{request:?}").contains("planted-secret"));
    }
}
