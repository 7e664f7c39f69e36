//! HAR 1.2: what an archive says about an exchange.
//!
//! The names are those of the format, which writes some of them in camel case. Fields of our own
//! begin with an underscore, as the format asks.

use core::cell::RefCell;
use std::time::{Duration, UNIX_EPOCH};

use records::json::{self, List, Object};
use records::{PerFlow, Redaction};
use sdk::{Direction, FlowInfo, Headers, TlsInfo, Version};

use crate::content::{self, Content};
use crate::entry::{Answer, Captured, Entry, Line, Messages, Said, Timings};
use crate::secrets::scrub;
use crate::url;

/// What stands before an entry, unless it is the first of its archive, which needs no comma.
const BETWEEN: &[u8] = b",\n";
/// What a format calls a type of content that nobody knows.
const UNKNOWN_TYPE: &str = "x-unknown";
/// What it writes for a number that is not known or means nothing here.
const NOT_APPLICABLE: i8 = -1;

/// Writes archives, in which secrets are replaced.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) redaction: Redaction,
    /// Whether archives are for a host each.
    pub(crate) is_by_host: bool,
}

impl Writer {
    /// What stands before the first entry of an archive.
    pub(crate) const BEGIN: &str = concat!(
        "{\"log\":{\"version\":\"1.2\",\"creator\":{\"name\":\"flowdog\",\"version\":\"",
        env!("CARGO_PKG_VERSION"),
        "\"},\"entries\":["
    );
    /// What stands after the last one.
    pub(crate) const END: &str = "\n]}}\n";

    /// The entry as it stands in an archive, after another one.
    pub(crate) fn write(&self, entry: Entry) -> Line {
        let text = json::made(|text| {
            text.extend_from_slice(BETWEEN);
            Object::write(text, |object| self.entry(object, &entry));
        });
        let host = if self.is_by_host {
            let host = entry.request.host().unwrap_or_default();
            host.to_ascii_lowercase()
        } else {
            String::new()
        };
        let mut share = entry.share;
        share.set(text.len());
        Line {
            number: entry.number,
            began: entry.began,
            host,
            endpoint: entry.flow.endpoint,
            text,
            share,
        }
    }

    fn entry(&self, object: &mut Object<'_>, entry: &Entry) {
        let began = entry.began.max(UNIX_EPOCH);
        object.displayed("startedDateTime", humantime::format_rfc3339_micros(began));
        let Timings {
            send,
            wait,
            receive,
        } = entry.timings;
        let [send, wait, receive] = [send, wait, receive].map(millis);
        object.value("time", &round(send + wait + receive));
        object.object("request", |request| self.request(request, entry));
        object.object("response", |response| match &entry.response {
            Some(answer) => self.response(response, answer),
            None => no_response(response, entry.request.version),
        });
        object.object("cache", |_| {});
        object.object("timings", |timings| {
            // The connection is not made for one exchange; what it took stands in the flow log.
            for name in ["blocked", "dns", "connect", "ssl"] {
                timings.value(name, &NOT_APPLICABLE);
            }
            timings.value("send", &send);
            timings.value("wait", &wait);
            timings.value("receive", &receive);
        });
        thread_local! {
            static FLOWS: RefCell<PerFlow<Vec<u8>>> = const { RefCell::new(PerFlow::new()) };
        }
        FLOWS.with_borrow_mut(|flows| {
            let make = |of: &FlowInfo| json::members(|object| connection(object, of));
            object.members(flows.of(&entry.flow, make).map_or(&[], Vec::as_slice));
        });
        let caller = entry.caller.as_ref();
        if let Some(account) = caller.and_then(|caller| caller.account.as_deref()) {
            object.text("_accountId", account);
        }
        if let Some(messages) = &entry.messages {
            self.messages(object, messages);
        }
    }

    fn request(&self, object: &mut Object<'_>, entry: &Entry) {
        let head = &entry.request;
        let url = url::of(head, &entry.flow);
        let url = self.redaction.address(&url);
        object.token("method", head.method.as_str());
        object.text("url", &url);
        object.token("httpVersion", version(head.version));
        object.list("cookies", |list| {
            self.cookies(list, &head.headers, "cookie", usize::MAX);
        });
        object.list("headers", |list| self.fields(list, &head.headers));
        object.list("queryString", |list| {
            for (name, value) in url::query(&url) {
                pair(list, &name, &value);
            }
        });
        if entry.request_body.size > 0 {
            object.object("postData", |object| {
                self.post_data(object, &head.headers, &entry.request_body);
            });
        }
        object.value("headersSize", &NOT_APPLICABLE);
        object.value("bodySize", &entry.request_body.size);
        self.trailers(object, &entry.request_body);
    }

    fn response(&self, object: &mut Object<'_>, answer: &Answer) {
        object.value("status", &answer.status.as_u16());
        object.text("statusText", &answer.reason);
        object.token("httpVersion", version(answer.version));
        object.list("cookies", |list| {
            self.cookies(list, &answer.headers, "set-cookie", 1);
        });
        object.list("headers", |list| self.fields(list, &answer.headers));
        object.object("content", |content| self.content(content, answer));
        let location = answer.headers.get_str("location").unwrap_or_default();
        object.text("redirectURL", &self.redaction.field("location", location));
        object.value("headersSize", &NOT_APPLICABLE);
        object.value("bodySize", &answer.body.size);
        self.trailers(object, &answer.body);
    }

    fn post_data(&self, object: &mut Object<'_>, headers: &Headers, body: &Captured) {
        let shown = content::show(headers, body, &self.redaction);
        object.text("mimeType", mime_type(headers));
        match &shown.content {
            Content::Text(text) => object.text("text", text),
            Content::Bytes(bytes) => {
                object.base64("text", bytes);
                object.token("_encoding", "base64");
            }
        }
        marks(object, shown.content_encoding, shown.truncated);
    }

    fn content(&self, object: &mut Object<'_>, answer: &Answer) {
        let shown = content::show(&answer.headers, &answer.body, &self.redaction);
        object.value("size", &shown.size);
        let saved = i128::from(shown.size) - i128::from(answer.body.size);
        if saved != 0 && shown.content_encoding.is_none() {
            object.value("compression", &saved);
        }
        object.text("mimeType", mime_type(&answer.headers));
        match &shown.content {
            Content::Text(text) if text.is_empty() => {}
            Content::Text(text) => object.text("text", text),
            Content::Bytes(bytes) => {
                object.base64("text", bytes);
                object.token("encoding", "base64");
            }
        }
        marks(object, shown.content_encoding, shown.truncated);
    }

    fn trailers(&self, object: &mut Object<'_>, body: &Captured) {
        if let Some(trailers) = &body.trailers {
            object.list("_trailers", |list| self.fields(list, trailers));
        }
    }

    fn fields(&self, list: &mut List<'_>, headers: &Headers) {
        for field in headers {
            list.object(|pair| {
                pair.token("name", field.name.as_str());
                pair.text("value", &self.redaction.text(field));
            });
        }
    }

    /// The cookies in fields of this name, as far as those show them: the first `most` pairs of each.
    fn cookies(&self, list: &mut List<'_>, headers: &Headers, name: &str, most: usize) {
        for field in headers.iter().filter(|field| field.name == *name) {
            let text = self.redaction.text(field);
            let pairs = text.split(';').take(most);
            for (name, value) in pairs.filter_map(|pair| pair.split_once('=')) {
                pair(list, name.trim(), value.trim());
            }
        }
    }

    /// As Chrome writes them; mitmproxy reads the same.
    fn messages(&self, object: &mut Object<'_>, messages: &Messages) {
        object.text("_resourceType", "websocket");
        object.list("_webSocketMessages", |list| {
            for said in &messages.list {
                list.object(|object| self.message(object, said));
            }
        });
        if messages.dropped > 0 {
            object.value("_webSocketMessagesDropped", &messages.dropped);
        }
        if messages.part > 0 {
            object.value("_part", &messages.part);
        }
    }

    fn message(&self, object: &mut Object<'_>, said: &Said) {
        let kind = match said.direction {
            Direction::ToServer => "send",
            Direction::ToClient => "receive",
        };
        let since = said.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        object.text("type", kind);
        object.value("time", &since.as_secs_f64());
        object.value("opcode", if said.is_text { &1 } else { &2 });
        if said.is_text {
            let text = String::from_utf8_lossy(&said.data);
            object.text("data", &scrub(&text, &self.redaction));
        } else {
            object.base64("data", &said.data);
        }
        if said.size > said.data.len() {
            object.text("_truncated", "long");
        }
    }
}

/// What browsers write for exchanges without an answer.
fn no_response(object: &mut Object<'_>, of_request: Version) {
    object.value("status", &0);
    object.text("statusText", "");
    object.token("httpVersion", version(of_request));
    object.list("cookies", |_| {});
    object.list("headers", |_| {});
    object.object("content", |content| {
        content.value("size", &0);
        content.text("mimeType", UNKNOWN_TYPE);
    });
    object.text("redirectURL", "");
    object.value("headersSize", &NOT_APPLICABLE);
    object.value("bodySize", &NOT_APPLICABLE);
    object.text("_error", "no answer");
}

/// What all entries of a flow say of it.
fn connection(object: &mut Object<'_>, of: &FlowInfo) {
    object.displayed("serverIPAddress", of.server.ip());
    object.displayed("connection", of.id);
    object.object("_flow", |object| flow(object, of));
    if let Some(agreed) = &of.tls {
        object.object("_tls", |object| tls(object, agreed));
    }
}

fn flow(object: &mut Object<'_>, flow: &FlowInfo) {
    object.displayed("id", flow.id);
    object.displayed("endpoint", flow.endpoint);
    object.displayed("client", flow.client);
    object.displayed("server", flow.server);
    if let Some(host) = &flow.client_ec2 {
        object.value("clientEc2", &**host);
    }
    if let Some(host) = &flow.server_ec2 {
        object.value("serverEc2", &**host);
    }
    if !flow.context.is_empty() {
        object.value("context", &flow.context);
    }
}

fn tls(object: &mut Object<'_>, tls: &TlsInfo) {
    if let Some(name) = &tls.server_name {
        object.text("serverName", name);
    }
    object.text("ja4", &tls.ja4);
    if let Some(alpn) = &tls.alpn {
        object.text("alpn", &String::from_utf8_lossy(alpn));
    }
    // Code points of the TLS registry, as that writes them.
    for (name, number) in [
        ("clientVersion", tls.client_version),
        ("serverVersion", tls.server_version),
        ("clientCipherSuite", tls.client_cipher_suite),
        ("serverCipherSuite", tls.server_cipher_suite),
    ] {
        object.displayed(name, format_args!("0x{number:04x}"));
    }
}

impl Line {
    /// The entry's text in an archive.
    pub(crate) fn bytes(&self, is_first: bool) -> &[u8] {
        self.text.get(usize::from(is_first)..).unwrap_or_default()
    }
}

fn pair(list: &mut List<'_>, name: &str, value: &str) {
    list.object(|pair| {
        pair.text("name", name);
        pair.text("value", value);
    });
}

/// What is wrong with content that is shown.
fn marks(object: &mut Object<'_>, content_encoding: Option<&str>, truncated: Option<&str>) {
    if let Some(coding) = content_encoding {
        object.text("_contentEncoding", coding);
    }
    if let Some(why) = truncated {
        object.text("_truncated", why);
    }
}

fn mime_type(headers: &Headers) -> &str {
    headers.get_str("content-type").unwrap_or(UNKNOWN_TYPE)
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
