//! What the HTTP origins answer.
//!
//! | path | answers |
//! |---|---|
//! | `/` | peer, protocol and request fields as text |
//! | `/echo` | the same and the request body's length and SHA-1 as JSON |
//! | `/bytes/N?seed=S` | N bytes of the [`pattern`] |
//! | `/upload` | POST, PUT: the body's length and SHA-1 as JSON |
//! | `/sse?count=N&interval-ms=M` | N server-sent events |
//! | `/ws` | WebSocket echo (HTTP/1.1) |
//! | `/slow?ms=N` | an answer that takes N milliseconds to start and as long again to end |
//! | `/status/N` | status N |
//! | `/gzip` | a text in gzip, whatever the client accepts |

use std::convert::Infallible;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, SERVER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use serde_json::json;
use sha1::{Digest, Sha1};

use super::{Ends, TlsFacts, pattern, sts};

/// A response of the origins.
pub(super) type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The longest pattern: 1 TiB.
const MAX_BYTES: u64 = 1 << 40;
/// The longest form body that the STS stand-in reads.
const MAX_FORM: usize = 64 * 1024;
const MAX_DELAY: Duration = Duration::from_secs(60);

/// A request's circumstances, as the origin saw them.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) ends: Ends,
    pub(super) tls: Option<TlsFacts>,
    /// Field lines in order; in HTTP/1 with the names' case as it came.
    pub(super) fields: Vec<(String, String)>,
}

/// A body that is sent in one piece.
pub(super) fn full(bytes: Bytes) -> UnsyncBoxBody<Bytes, Infallible> {
    Full::new(bytes).boxed_unsync()
}

/// Answers any request.
pub(super) async fn answer(request: Request<Incoming>, seen: Seen) -> Reply {
    let (parts, body) = request.into_parts();
    let host = parts
        .headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| parts.uri.host())
        .unwrap_or_default()
        .to_owned();
    let mut reply = if sts::is_sts_host(&host) {
        answer_sts(&parts, body).await
    } else {
        route(&parts, body, &seen, &host).await
    };
    reply
        .headers_mut()
        .insert(SERVER, HeaderValue::from_static("flowdog-lab-origin"));
    reply
}

async fn route(parts: &http::request::Parts, body: Incoming, seen: &Seen, host: &str) -> Reply {
    let query = parts.uri.query().unwrap_or_default();
    let path = parts.uri.path();
    match (
        &parts.method,
        path.trim_start_matches('/')
            .split_once('/')
            .unwrap_or((path, "")),
    ) {
        (_, ("/", _)) => greeting(parts, seen, host),
        (_, ("/echo", _)) => echo(parts, body, seen, host).await,
        (&Method::GET | &Method::HEAD, ("bytes", len)) => match len.parse() {
            Ok(len @ ..=MAX_BYTES) => {
                let seed = parameter(query, "seed")
                    .and_then(|seed| seed.parse().ok())
                    .unwrap_or(0);
                let body = Pattern {
                    seed,
                    offset: 0,
                    len,
                };
                with_type(
                    Response::new(body.boxed_unsync()),
                    "application/octet-stream",
                )
            }
            _ => text(
                StatusCode::BAD_REQUEST,
                "how many bytes? at most 1099511627776\n",
            ),
        },
        (&Method::POST | &Method::PUT, ("/upload", _)) => match digest(body).await {
            Ok((len, sha1)) => with_json(&json!({ "bytes": len, "sha1": sha1 })),
            Err(_) => text(StatusCode::BAD_REQUEST, "the body did not end well\n"),
        },
        (&Method::GET, ("/sse", _)) => events(query),
        (_, ("/ws", _)) => text(
            StatusCode::UPGRADE_REQUIRED,
            "only a WebSocket handshake gets further here\n",
        ),
        (_, ("/slow", _)) => slow(query).await,
        (_, ("status", code)) => match code
            .parse()
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
        {
            // 1xx is no final answer, and 204 and 304 have no body, which hyper sees to.
            Some(status) if !status.is_informational() => text(status, &format!("{status}\n")),
            _ => text(StatusCode::BAD_REQUEST, "no such status\n"),
        },
        (_, ("/gzip", _)) => gzipped(with_type(
            Response::new(Bytes::from("This text was compressed. ".repeat(100))),
            "text/plain",
        )),
        _ => text(
            StatusCode::NOT_FOUND,
            "nothing here; try /, /echo, /bytes/N, /upload, /sse, /ws, /slow, /status/N, /gzip\n",
        ),
    }
}

fn greeting(parts: &http::request::Parts, seen: &Seen, host: &str) -> Reply {
    let mut body = format!(
        "Hello from {host}.\nYou are {}, you reached {} over {}{}.\nYou asked: {} {}\n\n",
        seen.ends.peer,
        seen.ends.local,
        protocol(parts.version),
        seen.tls
            .as_ref()
            .map(|tls| format!(" and {}", tls.version))
            .unwrap_or_default(),
        parts.method,
        parts.uri,
    );
    for (name, value) in &seen.fields {
        body.push_str(&format!("{name}: {value}\n"));
    }
    text(StatusCode::OK, &body)
}

async fn echo(parts: &http::request::Parts, body: Incoming, seen: &Seen, host: &str) -> Reply {
    let Ok((len, sha1)) = digest(body).await else {
        return text(StatusCode::BAD_REQUEST, "the body did not end well\n");
    };
    with_json(&json!({
        "peer": seen.ends.peer.to_string(),
        "local": seen.ends.local.to_string(),
        "host": host,
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "protocol": protocol(parts.version),
        "tls": seen.tls.as_ref().map(|tls| tls.version),
        "server-name": seen.tls.as_ref().and_then(|tls| tls.server_name.clone()),
        "headers": seen.fields,
        "body": { "bytes": len, "sha1": sha1 },
    }))
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/?",
    }
}

/// Length and SHA-1 of a body.
async fn digest(mut body: Incoming) -> Result<(u64, String), hyper::Error> {
    let mut sha1 = Sha1::new();
    let mut len = 0;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            sha1.update(&data);
            len += data.len() as u64;
        }
    }
    Ok((len, hex(&sha1.finalize())))
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn events(query: &str) -> Reply {
    let count = parameter(query, "count")
        .and_then(|count| count.parse().ok())
        .unwrap_or(5u32)
        .min(100_000);
    let interval = milliseconds(query, "interval-ms").unwrap_or(Duration::from_millis(50));
    let events = stream::unfold(0, move |n| async move {
        if n == count {
            return None;
        }
        if n != 0 {
            tokio::time::sleep(interval).await;
        }
        let event = format!("id: {n}\nevent: tick\ndata: {{\"n\":{n}}}\n\n");
        Some((Ok::<_, Infallible>(Frame::data(Bytes::from(event))), n + 1))
    });
    let mut reply = with_type(
        Response::new(StreamBody::new(events).boxed_unsync()),
        "text/event-stream",
    );
    reply
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    reply
}

async fn slow(query: &str) -> Reply {
    let delay = milliseconds(query, "ms").unwrap_or(Duration::from_secs(1));
    tokio::time::sleep(delay).await;
    let parts = stream::unfold(0, move |n| async move {
        let text = match n {
            0 => "slowly ",
            1 => {
                tokio::time::sleep(delay).await;
                "but surely\n"
            }
            _ => return None,
        };
        Some((
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes()))),
            n + 1,
        ))
    });
    with_type(
        Response::new(StreamBody::new(parts).boxed_unsync()),
        "text/plain",
    )
}

async fn answer_sts(parts: &http::request::Parts, body: Incoming) -> Reply {
    let form = http_body_util::Limited::new(body, MAX_FORM).collect().await;
    let Ok(form) = form else {
        return text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the form is too long, or did not end well\n",
        );
    };
    let form = form.to_bytes();
    let reply = if form.is_empty() {
        sts::answer(parts.uri.query().unwrap_or_default())
    } else {
        sts::answer(&String::from_utf8_lossy(&form))
    };
    if accepts_gzip(&parts.headers) {
        gzipped(reply)
    } else {
        reply.map(full)
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| {
            coding
                .split(';')
                .next()
                .is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip"))
        })
}

fn gzipped(reply: Response<Bytes>) -> Reply {
    let (mut parts, body) = reply.into_parts();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Writing to memory does not fail.
    let compressed = encoder.write_all(&body).and_then(|()| encoder.finish());
    let Ok(compressed) = compressed else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "could not compress\n");
    };
    parts
        .headers
        .insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(parts, full(compressed.into()))
}

fn text(status: StatusCode, body: &str) -> Reply {
    let mut reply = with_type(
        Response::new(full(Bytes::copy_from_slice(body.as_bytes()))),
        "text/plain",
    );
    *reply.status_mut() = status;
    reply
}

fn with_json(value: &serde_json::Value) -> Reply {
    with_type(
        Response::new(full(Bytes::from(format!("{value}\n")))),
        "application/json",
    )
}

fn with_type<B>(mut reply: Response<B>, content_type: &'static str) -> Response<B> {
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query.split('&').find_map(|pair| {
        pair.split_once('=')
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value)
    })
}

fn milliseconds(query: &str, name: &str) -> Option<Duration> {
    let value = parameter(query, name)?.parse().ok()?;
    Some(Duration::from_millis(value).min(MAX_DELAY))
}

/// A body made as it is sent.
struct Pattern {
    seed: u64,
    offset: u64,
    len: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.len - self.offset;
        if left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = BytesMut::zeroed(left.min(64 * 1024) as usize);
        pattern::fill(self.seed, self.offset, &mut chunk);
        self.offset += chunk.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(chunk.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.offset == self.len
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len - self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_found_among_codings_with_weights() {
        let headers = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, value.parse().unwrap());
            headers
        };
        assert!(accepts_gzip(&headers("br;q=1.0, GZIP;q=0.8")));
        assert!(!accepts_gzip(&headers("identity, deflate")));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn sts_knows_one_action() {
        let reply = sts::answer("Version=2011-06-15&Action=GetCallerIdentity");
        assert_eq!(reply.status(), StatusCode::OK);
        assert!(String::from_utf8_lossy(reply.body()).contains(sts::USER_ID));
        assert_eq!(
            sts::answer("Action=AssumeRole").status(),
            StatusCode::BAD_REQUEST
        );
        assert!(sts::is_sts_host("sts.eu-west-1.amazonaws.com:443"));
        assert!(sts::is_sts_host("sts.lab.name"));
        assert!(!sts::is_sts_host("sts.example.com"));
        assert!(!sts::is_sts_host("any.lab.name"));
    }
}
