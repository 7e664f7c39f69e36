//! HAR 1.2: what an archive says about an exchange.
//!
//! The names are those of the format, which writes some of them in camel case. Fields of our own
//! begin with an underscore, as the format asks.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use records::Redaction;
use sdk::{Direction, FlowId, FlowInfo, Headers, RequestHead, Version, VpcEndpointId};
use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use crate::content::{self, Shown};
use crate::entry::{Answer, Captured, Entry, Messages, Timings};
use crate::secrets::scrub;
use crate::url;

/// Writes archives, in which secrets are replaced.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) redaction: Redaction,
}

impl Writer {
    /// What stands before the first entry of an archive.
    pub(crate) fn begin(&self, out: &mut impl Write) -> io::Result<()> {
        write!(
            out,
            "{{\"log\":{{\"version\":\"1.2\",\"creator\":{{\"name\":\"flowdog\",\"version\":\"{}\"}},\"entries\":[",
            env!("CARGO_PKG_VERSION")
        )
    }

    /// One entry, on a line of its own, which is added to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, entry: &Entry, is_first: bool) -> io::Result<()> {
        out.extend_from_slice(if is_first { b"\n" } else { b",\n" });
        Ok(serde_json::to_writer(
            out,
            &HarEntry::of(entry, &self.redaction),
        )?)
    }

    /// What stands after the last one.
    pub(crate) fn end(&self, out: &mut impl Write) -> io::Result<()> {
        out.write_all(b"\n]}}\n")
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HarEntry<'a> {
    started_date_time: Text<humantime::Rfc3339Timestamp>,
    time: f64,
    request: HarRequest<'a>,
    response: HarResponse<'a>,
    cache: Empty,
    timings: HarTimings,
    #[serde(rename = "serverIPAddress")]
    server_ip_address: IpAddr,
    connection: Text<FlowId>,
    #[serde(rename = "_flow")]
    flow: HarFlow<'a>,
    #[serde(rename = "_tls", skip_serializing_if = "Option::is_none")]
    tls: Option<HarTls<'a>>,
    #[serde(rename = "_accountId", skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
    #[serde(rename = "_resourceType", skip_serializing_if = "Option::is_none")]
    resource_type: Option<&'static str>,
    #[serde(rename = "_webSocketMessages", skip_serializing_if = "Option::is_none")]
    messages: Option<Vec<HarMessage<'a>>>,
    #[serde(rename = "_webSocketMessagesDropped", skip_serializing_if = "is_zero")]
    messages_dropped: u64,
    #[serde(rename = "_part", skip_serializing_if = "is_zero")]
    part: u64,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the shape that serde wants"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HarRequest<'a> {
    method: &'a str,
    url: String,
    http_version: &'static str,
    cookies: Cookies<'a>,
    headers: Fields<'a>,
    query_string: Vec<Pair<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    post_data: Option<PostData<'a>>,
    headers_size: i64,
    body_size: u64,
    #[serde(rename = "_trailers", skip_serializing_if = "Option::is_none")]
    trailers: Option<Fields<'a>>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HarResponse<'a> {
    status: u16,
    status_text: &'a str,
    http_version: &'static str,
    cookies: Cookies<'a>,
    headers: Fields<'a>,
    content: Content<'a>,
    #[serde(rename = "redirectURL")]
    redirect_url: Cow<'a, str>,
    headers_size: i64,
    body_size: i64,
    #[serde(rename = "_trailers", skip_serializing_if = "Option::is_none")]
    trailers: Option<Fields<'a>>,
    #[serde(rename = "_error", skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Pair<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: Cow<'a, str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PostData<'a> {
    mime_type: &'a str,
    text: String,
    #[serde(rename = "_encoding", skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "_contentEncoding", skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    #[serde(rename = "_truncated", skip_serializing_if = "Option::is_none")]
    truncated: Option<&'static str>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    compression: Option<i64>,
    mime_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(rename = "_contentEncoding", skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    #[serde(rename = "_truncated", skip_serializing_if = "Option::is_none")]
    truncated: Option<&'static str>,
}

#[derive(Debug, Serialize)]
struct HarTimings {
    blocked: i8,
    dns: i8,
    connect: i8,
    ssl: i8,
    send: f64,
    wait: f64,
    receive: f64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HarFlow<'a> {
    id: Text<FlowId>,
    endpoint: Text<VpcEndpointId>,
    client: SocketAddr,
    server: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ec2: Option<&'a sdk::Ec2Host>,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_ec2: Option<&'a sdk::Ec2Host>,
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    context: &'a serde_json::Map<String, serde_json::Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct HarTls<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    ja4: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alpn: Option<Cow<'a, str>>,
    client_version: Hex,
    server_version: Hex,
    client_cipher_suite: Hex,
    server_cipher_suite: Hex,
}

/// As Chrome writes it; mitmproxy reads the same.
#[derive(Debug, Serialize)]
struct HarMessage<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    time: f64,
    opcode: u8,
    data: Cow<'a, str>,
    #[serde(rename = "_truncated", skip_serializing_if = "Option::is_none")]
    truncated: Option<&'static str>,
}

impl<'a> HarEntry<'a> {
    fn of(entry: &'a Entry, redaction: &'a Redaction) -> Self {
        let timings = HarTimings::of(entry.timings);
        let (messages, messages_dropped, part) = match &entry.messages {
            None => (None, 0, 0),
            Some(messages) => (
                Some(said(messages, redaction)),
                messages.dropped,
                messages.part,
            ),
        };
        Self {
            started_date_time: Text(humantime::format_rfc3339_micros(
                entry.began.max(UNIX_EPOCH),
            )),
            time: round(timings.send + timings.wait + timings.receive),
            request: HarRequest::of(entry, redaction),
            response: HarResponse::of(entry, redaction),
            cache: Empty {},
            timings,
            server_ip_address: entry.flow.server.ip(),
            connection: Text(entry.flow.id),
            flow: HarFlow::of(&entry.flow),
            tls: entry.flow.tls.as_ref().map(HarTls::of),
            account_id: entry
                .caller
                .as_ref()
                .and_then(|caller| caller.account.as_deref()),
            resource_type: messages.is_some().then_some("websocket"),
            messages,
            messages_dropped,
            part,
        }
    }
}

impl<'a> HarRequest<'a> {
    fn of(entry: &'a Entry, redaction: &'a Redaction) -> Self {
        let head: &RequestHead = &entry.request;
        let url = url::of(head, &entry.flow);
        let url = redaction.address(&url).into_owned();
        let query_string = url::query(&url);
        let headers = Fields {
            headers: &head.headers,
            redaction,
        };
        Self {
            method: head.method.as_str(),
            http_version: version(head.version),
            cookies: Cookies::Request(headers),
            headers,
            query_string,
            post_data: post_data(&head.headers, &entry.request_body, redaction),
            headers_size: -1,
            body_size: entry.request_body.size,
            trailers: trailers(&entry.request_body, redaction),
            url,
        }
    }
}

impl<'a> HarResponse<'a> {
    fn of(entry: &'a Entry, redaction: &'a Redaction) -> Self {
        let Some(answer) = &entry.response else {
            // What browsers write for exchanges without an answer.
            return Self {
                status: 0,
                status_text: "",
                http_version: version(entry.request.version),
                cookies: Cookies::None,
                headers: Fields::none(redaction),
                content: Content::none(),
                redirect_url: Cow::Borrowed(""),
                headers_size: -1,
                body_size: -1,
                trailers: None,
                error: Some("no answer"),
            };
        };
        let headers = Fields {
            headers: &answer.headers,
            redaction,
        };
        let location = answer.headers.get_str("location").unwrap_or_default();
        Self {
            status: answer.status.as_u16(),
            status_text: &answer.reason,
            http_version: version(answer.version),
            cookies: Cookies::Response(headers),
            headers,
            content: Content::of(answer, redaction),
            redirect_url: redaction.field("location", location),
            headers_size: -1,
            body_size: i64::try_from(answer.body.size).unwrap_or(i64::MAX),
            trailers: trailers(&answer.body, redaction),
            error: None,
        }
    }
}

impl Content<'_> {
    fn none() -> Self {
        Self {
            size: 0,
            compression: None,
            mime_type: "x-unknown",
            text: None,
            encoding: None,
            content_encoding: None,
            truncated: None,
        }
    }
}

impl<'a> Content<'a> {
    fn of(answer: &'a Answer, redaction: &Redaction) -> Self {
        let Shown {
            text,
            is_base64,
            size,
            content_encoding,
            truncated,
        } = content::show(&answer.headers, &answer.body, redaction);
        let saved = i64::try_from(size).unwrap_or(i64::MAX)
            - i64::try_from(answer.body.size).unwrap_or(i64::MAX);
        Self {
            size,
            compression: (saved != 0 && content_encoding.is_none()).then_some(saved),
            mime_type: answer
                .headers
                .get_str("content-type")
                .unwrap_or("x-unknown"),
            text,
            encoding: is_base64.then_some("base64"),
            content_encoding,
            truncated,
        }
    }
}

fn post_data<'a>(
    headers: &'a Headers,
    body: &Captured,
    redaction: &Redaction,
) -> Option<PostData<'a>> {
    if body.size == 0 {
        return None;
    }
    let shown = content::show(headers, body, redaction);
    Some(PostData {
        mime_type: headers.get_str("content-type").unwrap_or("x-unknown"),
        text: shown.text.unwrap_or_default(),
        encoding: shown.is_base64.then_some("base64"),
        content_encoding: shown.content_encoding,
        truncated: shown.truncated,
    })
}

impl HarTimings {
    fn of(timings: Timings) -> Self {
        // The connection is not made for one exchange; what it took stands in the flow log.
        const NOT_APPLICABLE: i8 = -1;
        Self {
            blocked: NOT_APPLICABLE,
            dns: NOT_APPLICABLE,
            connect: NOT_APPLICABLE,
            ssl: NOT_APPLICABLE,
            send: millis(timings.send),
            wait: millis(timings.wait),
            receive: millis(timings.receive),
        }
    }
}

impl<'a> HarFlow<'a> {
    fn of(flow: &'a FlowInfo) -> Self {
        Self {
            id: Text(flow.id),
            endpoint: Text(flow.endpoint),
            client: flow.client,
            server: flow.server,
            client_ec2: flow.client_ec2.as_deref(),
            server_ec2: flow.server_ec2.as_deref(),
            context: &flow.context,
        }
    }
}

impl<'a> HarTls<'a> {
    fn of(tls: &'a sdk::TlsInfo) -> Self {
        Self {
            server_name: tls.server_name.as_deref(),
            ja4: &tls.ja4,
            alpn: tls.alpn.as_deref().map(String::from_utf8_lossy),
            client_version: Hex(tls.client_version),
            server_version: Hex(tls.server_version),
            client_cipher_suite: Hex(tls.client_cipher_suite),
            server_cipher_suite: Hex(tls.server_cipher_suite),
        }
    }
}

fn said<'a>(messages: &'a Messages, redaction: &Redaction) -> Vec<HarMessage<'a>> {
    let one = |said: &crate::entry::Said| HarMessage {
        kind: match said.direction {
            Direction::ToServer => "send",
            Direction::ToClient => "receive",
        },
        time: said
            .at
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64(),
        opcode: if said.is_text { 1 } else { 2 },
        data: if said.is_text {
            let text = String::from_utf8_lossy(&said.data);
            scrub(&text, redaction).into_owned().into()
        } else {
            STANDARD.encode(&said.data).into()
        },
        truncated: (said.size > said.data.len()).then_some("long"),
    };
    messages.list.iter().map(one).collect()
}

fn millis(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1000.0)
}

/// To a microsecond: more would not be true.
fn round(millis: f64) -> f64 {
    (millis * 1000.0).round() / 1000.0
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/1.1",
    }
}

/// What is written as it is displayed.
#[derive(Debug)]
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// A code point of the TLS registry, as that writes it.
#[derive(Debug)]
struct Hex(u16);

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("0x{:04x}", self.0))
    }
}

/// Fields as a list of pairs.
#[derive(Clone, Copy, Debug)]
struct Fields<'a> {
    headers: &'a Headers,
    redaction: &'a Redaction,
}

impl<'a> Fields<'a> {
    fn none(redaction: &'a Redaction) -> Self {
        const NONE: &Headers = &Headers::new();
        Self {
            headers: NONE,
            redaction,
        }
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.headers.iter().map(|field| Pair {
            name: field.name.as_str().into(),
            value: self.redaction.text(field),
        }))
    }
}

fn trailers<'a>(body: &'a Captured, redaction: &'a Redaction) -> Option<Fields<'a>> {
    let headers = body.trailers.as_ref()?;
    Some(Fields { headers, redaction })
}

/// The cookies in fields, as far as those show them.
#[derive(Clone, Copy, Debug)]
enum Cookies<'a> {
    None,
    /// All pairs of `Cookie`.
    Request(Fields<'a>),
    /// The first pair of each `Set-Cookie`.
    Response(Fields<'a>),
}

impl Serialize for Cookies<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        let (fields, name, most) = match self {
            Self::None => return list.end(),
            Self::Request(fields) => (fields, "cookie", usize::MAX),
            Self::Response(fields) => (fields, "set-cookie", 1),
        };
        for field in fields.headers.iter().filter(|field| field.name == *name) {
            let text = fields.redaction.text(field);
            for (name, value) in text
                .split(';')
                .take(most)
                .filter_map(|pair| pair.split_once('='))
            {
                list.serialize_element(&Pair {
                    name: name.trim().into(),
                    value: value.trim().into(),
                })?;
            }
        }
        list.end()
    }
}
