//! One signed request, one connection.
//!
//! The operations used here run now and then, so a pool of connections would only be something that
//! breaks while nobody looks.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings,
    UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http::{Method, Request, Response, Uri, header};
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
use crate::xml::Element;

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
    /// Largest answer that is read, in bytes. Default 64 KiB; the largest one that KMS gives is a key
    /// of a kilobyte.
    pub answer: usize,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            attempt: Duration::from_secs(5),
            attempts: 3,
            pause: Duration::from_millis(200),
            answer: 64 * 1024,
        }
    }
}

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
    /// What tells this version of the body from others.
    pub(crate) etag: Option<String>,
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
        // DynamoDB has an older version of the protocol, which differs in name only.
        let content_type = match service {
            "dynamodb" => "application/x-amz-json-1.0",
            _ => "application/x-amz-json-1.1",
        };
        let form = Form {
            content_type,
            target: Some(target),
        };
        let make = || signed(endpoint, service, &form, body.clone(), credentials, region);
        self.repeat(target, make, judge).await
    }

    /// An operation of a service that speaks the query protocol: parameters in a form, the answer in
    /// XML. Repeated while its faults may pass.
    pub(crate) async fn query(
        &self,
        endpoint: &Uri,
        service: &str,
        params: &[(&str, &str)],
        credentials: &Credentials,
        region: &Region,
    ) -> Result<Element, Fault> {
        let mut body = String::new();
        for (key, value) in params {
            if !body.is_empty() {
                body.push('&');
            }
            let _ = write!(body, "{key}={}", encoded(value));
        }
        let body = Bytes::from(body);
        let form = Form {
            content_type: "application/x-www-form-urlencoded; charset=utf-8",
            target: None,
        };
        let make = || signed(endpoint, service, &form, body.clone(), credentials, region);
        let what = params.first().map_or("", |(_, action)| action);
        self.repeat(what, make, judge_xml).await
    }

    pub(crate) async fn repeat<T>(
        &self,
        what: &str,
        make: impl Fn() -> Result<Request<Full<Bytes>>, Fault>,
        judge: impl Fn(&Answer) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut pause = self.config.pause;
        let mut attempt = 1;
        loop {
            let fault = match self.send(make()?).await.and_then(|answer| judge(&answer)) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if !fault.is_passing() || attempt >= self.config.attempts {
                return Err(fault);
            }
            tracing::debug!(what, attempt, %fault, "trying again");
            tokio::time::sleep(pause.mul_f64(0.5 + jitter() / 2.0)).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// One request as it is.
    pub(crate) async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let response = self.send_whole(request).await?;
        let etag = response.headers().get(header::ETAG);
        Ok(Answer {
            status: response.status().as_u16(),
            etag: etag.and_then(|tag| tag.to_str().ok()).map(str::to_owned),
            body: response.into_body(),
        })
    }

    /// The same, with the fields of the answer.
    pub(crate) async fn send_whole(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Fault> {
        match tokio::time::timeout(self.config.attempt, self.connect_and_send(request)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(Fault::Away(format!(
                "no answer within {:?}",
                self.config.attempt
            ))),
        }
    }

    async fn connect_and_send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Fault> {
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
            return exchange(stream, request, self.config.answer).await;
        }
        let name = ServerName::try_from(host.clone())
            .map_err(|error| Fault::NotConfigured(format!("{host}: {error}")))?;
        let stream = TlsConnector::from(Arc::clone(&self.tls))
            .connect(name, stream)
            .await
            .map_err(away)?;
        exchange(stream, request, self.config.answer).await
    }
}

/// Percent-encoded (RFC 3986 §2.3), for a segment of a path or a field of a form.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// From 0 to 1, at random; 1 where there is no randomness.
fn jitter() -> f64 {
    rand::rngs::OsRng
        .try_next_u32()
        .map_or(1.0, |number| f64::from(number) / f64::from(u32::MAX))
}

async fn exchange<S>(
    stream: S,
    mut request: Request<Full<Bytes>>,
    most: usize,
) -> Result<Response<Bytes>, Fault>
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
    let (head, body) = response.into_parts();
    let body = Limited::new(body, most)
        .collect()
        .await
        .map_err(|error| Fault::Garbled(plain(&error.to_string())))?
        .to_bytes();
    driver.abort();
    Ok(Response::from_parts(head, body))
}

/// How a POST says what its body is.
struct Form<'a> {
    content_type: &'static str,
    /// The operation, where it does not stand in the body.
    target: Option<&'a str>,
}

fn signed(
    endpoint: &Uri,
    service: &str,
    form: &Form<'_>,
    body: Bytes,
    credentials: &Credentials,
    region: &Region,
) -> Result<Request<Full<Bytes>>, Fault> {
    let wrong = |error: &dyn std::fmt::Display| Fault::NotConfigured(plain(&error.to_string()));
    let host = endpoint
        .authority()
        .ok_or_else(|| Fault::NotConfigured(format!("{endpoint} has no host")))?
        .as_str();
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(endpoint)
        .header(header::HOST, host)
        .header(header::CONTENT_TYPE, form.content_type);
    if let Some(target) = form.target {
        request = request.header("x-amz-target", target);
    }
    let request = request.body(()).map_err(|error| wrong(&error))?;
    let url = endpoint.to_string();
    sign_request(request, &url, service, body, (credentials, region))
}

/// Adds a signature to a request without a body, as S3 wants it: the path is signed as it is sent, and
/// a header says what the body's hash is.
pub(crate) fn sign_object_request(
    request: Request<()>,
    signer: (&Credentials, &Region),
) -> Result<Request<Full<Bytes>>, Fault> {
    let mut settings = SigningSettings::default();
    settings.percent_encoding_mode = PercentEncodingMode::Single;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
    let url = request.uri().to_string();
    sign_with(settings, request, &url, "s3", Bytes::new(), signer)
}

/// Adds a signature to a request. `url` is the whole of what its own URI may hold only the path of.
pub(crate) fn sign_request(
    request: Request<()>,
    url: &str,
    service: &str,
    body: Bytes,
    signer: (&Credentials, &Region),
) -> Result<Request<Full<Bytes>>, Fault> {
    sign_with(
        SigningSettings::default(),
        request,
        url,
        service,
        body,
        signer,
    )
}

fn sign_with(
    settings: SigningSettings,
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
        .settings(settings)
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
    Err(refusal(answer.status, kind, message))
}

/// Sorts an answer of the query protocol: EC2 has `<Response><Errors><Error>`, STS and SQS have
/// `<ErrorResponse><Error>`, S3 has `<Error>`.
pub(crate) fn judge_xml(answer: &Answer) -> Result<Element, Fault> {
    let text = std::str::from_utf8(&answer.body)
        .map_err(|_binary| Fault::Garbled("the body is not text".to_owned()));
    let root = text.and_then(Element::parse);
    if (200..300).contains(&answer.status) {
        return root;
    }
    let root = root.unwrap_or_default();
    let error = root.child("Error").or_else(|| {
        let errors = root.child("Errors")?;
        errors.child("Error")
    });
    // S3's error is the document itself.
    let error = error.or_else(|| root.text("Code").map(|_| &root));
    let text = |key| error.and_then(|error| error.text(key)).unwrap_or_default();
    Err(refusal(answer.status, text("Code"), text("Message")))
}

/// An answer that is no success.
fn refusal(status: u16, kind: &str, message: &str) -> Fault {
    let what = plain(format!("{status} {kind} {message}").trim_end());
    /// What the services call "later": AWS's common errors, and those of KMS, EC2, S3 and DynamoDB.
    const LATER: [&str; 14] = [
        "DependencyTimeoutException",
        "InternalError",
        "InternalFailure",
        "KMSInternalException",
        "KeyUnavailableException",
        "LimitExceededException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "Unavailable",
        "ThrottlingException",
    ];
    if status >= 500 || status == 429 || LATER.contains(&kind) {
        Fault::Busy(what)
    } else {
        Fault::Refused(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        Answer {
            status,
            etag: None,
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
    fn errors_of_the_query_protocol_are_sorted_in_both_of_their_forms() {
        let ec2 = "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>slow</Message></Error></Errors></Response>";
        assert!(judge_xml(&answer(400, ec2)).unwrap_err().is_passing());
        let sts = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>";
        assert_eq!(
            judge_xml(&answer(403, sts)).unwrap_err(),
            Fault::Refused("403 AccessDenied no".to_owned())
        );
        let s3 = "<Error><Code>NoSuchKey</Code><Message>none</Message></Error>";
        assert_eq!(
            judge_xml(&answer(404, s3)).unwrap_err(),
            Fault::Refused("404 NoSuchKey none".to_owned())
        );
        assert!(judge_xml(&answer(503, "<html>")).unwrap_err().is_passing());
        assert!(!judge_xml(&answer(200, "<html>")).unwrap_err().is_passing());
        assert!(judge_xml(&answer(200, "<r/>")).is_ok());
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
            &Form {
                content_type: "application/x-amz-json-1.1",
                target: Some("TrentService.Sign"),
            },
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
