//! An exchange that is over, and its line of JSON.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sdk::{
    AttachmentId, EndJson, Field, FlowCookie, FlowInfo, Headers, RequestHead, TlsInfo,
    VpcEndpointId,
};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use suffix::etld_plus_one;

use super::LONGEST_RECORD;
use crate::caller::Caller;
use crate::redaction::Redaction;

/// Memory that an exchange takes besides its text.
const OVERHEAD: usize = 1024;

/// What is known of an exchange that is over.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(super) redaction: Arc<Redaction>,
    pub(super) at: SystemTime,
    pub(super) took: Duration,
    pub(super) flow: Arc<FlowInfo>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) request: RequestHead,
    pub(super) response: Option<(u16, Option<String>, Headers)>,
}

impl Finished {
    /// The memory that it takes, more or less.
    pub(super) fn bytes(&self) -> usize {
        let answered = self.response.as_ref();
        let response = answered.map_or(0, |(_, _, headers)| headers.size());
        let path = self.request.target.path_and_query();
        let path = path.map_or(0, |path| path.as_str().len());
        OVERHEAD + path + self.request.headers.size() + response
    }

    /// The line; `None` if it is longer than Firehose takes.
    pub(super) fn line(&self) -> Option<String> {
        let mut line = Vec::with_capacity(TYPICAL_RECORD);
        serde_json::to_writer(&mut line, &self.record()).ok()?;
        line.push(b'\n');
        let line = String::from_utf8(line).ok()?;
        (line.len() <= LONGEST_RECORD).then_some(line)
    }
}

/// Room that most records are content with, so that few are moved while they are written.
const TYPICAL_RECORD: usize = 2048;

#[derive(Serialize)]
struct ExchangeRecord<'a> {
    #[serde(rename = "TLS", skip_serializing_if = "Option::is_none")]
    tls: Option<Tls<'a>>,
    #[serde(rename = "AWS", skip_serializing_if = "Option::is_none")]
    aws: Option<Aws<'a>>,
    #[serde(rename = "Geneve")]
    geneve: Geneve,
    #[serde(rename = "Time", serialize_with = "displayed")]
    time: humantime::Rfc3339Timestamp,
    #[serde(rename = "DurationMillis")]
    duration: u64,
    #[serde(rename = "Method")]
    method: &'a str,
    #[serde(rename = "Host")]
    host: &'a str,
    #[serde(rename = "ETldPlusOne")]
    etld_plus_one: &'a str,
    #[serde(rename = "URL")]
    url: String,
    #[serde(rename = "RequestHeaders")]
    request_headers: Fields<'a>,
    #[serde(rename = "Client")]
    client: EndJson<'a>,
    #[serde(rename = "StatusCode")]
    status: Option<u16>,
    #[serde(rename = "StatusMessage")]
    status_message: Option<&'a str>,
    #[serde(rename = "ResponseHeaders")]
    response_headers: Fields<'a>,
    #[serde(rename = "Server")]
    server: EndJson<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Tls<'a> {
    /// What was agreed on with the client, as numbers of the TLS registry.
    version: u16,
    cipher_suite: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(rename = "JA4")]
    ja4: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Aws<'a> {
    authorization_header: Authorization<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Authorization<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
    account_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Geneve {
    #[serde(serialize_with = "displayed")]
    vpc_endpoint_id: VpcEndpointId,
    #[serde(serialize_with = "displayed")]
    attachment_id: AttachmentId,
    #[serde(serialize_with = "displayed")]
    flow_cookie: FlowCookie,
}

/// What is written as it is displayed.
fn displayed<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

impl Finished {
    fn record(&self) -> ExchangeRecord<'_> {
        let flow = &*self.flow;
        let host = self.request.host().unwrap_or_default();
        let (status, message, headers) = match &self.response {
            Some((status, reason, headers)) => (Some(*status), reason.as_deref(), Some(headers)),
            None => (None, None, None),
        };
        ExchangeRecord {
            tls: flow.tls.as_ref().map(|tls: &TlsInfo| Tls {
                version: tls.client_version,
                cipher_suite: tls.client_cipher_suite,
                server_name: tls.server_name.as_deref(),
                ja4: &tls.ja4,
            }),
            aws: self.caller.as_ref().map(|caller| Aws {
                authorization_header: Authorization {
                    account_id: caller.account.as_deref().unwrap_or_default(),
                    key_id: &caller.key_id,
                    date: &caller.date,
                    region: &caller.region,
                    service: &caller.service,
                },
            }),
            geneve: Geneve {
                vpc_endpoint_id: flow.endpoint,
                attachment_id: flow.attachment,
                flow_cookie: flow.cookie,
            },
            time: humantime::format_rfc3339_millis(self.at),
            duration: u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
            method: self.request.method.as_str(),
            host,
            etld_plus_one: etld_plus_one(host),
            url: self.url(host),
            request_headers: Fields(Some(&self.request.headers), &self.redaction),
            client: EndJson::new(flow.client, flow.client_ec2.as_deref()),
            status,
            status_message: message,
            response_headers: Fields(headers, &self.redaction),
            server: EndJson::new(flow.server, flow.server_ec2.as_deref()),
        }
    }

    fn url(&self, host: &str) -> String {
        let path = self.request.target.path_and_query();
        let path = path.map_or("", sdk::PathAndQuery::as_str);
        let (scheme, usual) = match self.flow.tls {
            Some(_) => ("https", 443),
            None => ("http", 80),
        };
        let mut url = String::with_capacity(host.len() + path.len() + 32);
        url.push_str(scheme);
        url.push_str("://");
        let is_bare = host.contains(':') && !host.starts_with('[');
        url.push_str(if is_bare { "[" } else { "" });
        url.push_str(host);
        url.push_str(if is_bare { "]" } else { "" });
        let port = self.flow.server.port();
        if port != usual {
            let _ = write!(url, ":{port}");
        }
        url.push_str(&self.redaction.address(path));
        url
    }
}

/// Fields by name, in the usual spelling; of a name that comes several times, the first.
struct Fields<'a>(Option<&'a Headers>, &'a Redaction);

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(headers, redaction) = self;
        let mut map = serializer.serialize_map(None)?;
        let mut spelling = String::new();
        let fields = || headers.iter().flat_map(|headers| headers.iter());
        for (at, field) in fields().enumerate() {
            let name = field.name.as_str();
            let is_same = |other: &Field| other.name.as_str().eq_ignore_ascii_case(name);
            if fields().take(at).any(is_same) {
                continue;
            }
            map.serialize_entry(canonical(name, &mut spelling), &redaction.text(field))?;
        }
        map.end()
    }
}

/// `user-agent` as `User-Agent`, so that one query finds both.
fn canonical<'s>(name: &str, spelling: &'s mut String) -> &'s str {
    spelling.clear();
    let mut is_first = true;
    spelling.extend(name.chars().map(|letter| {
        let letter = if is_first {
            letter.to_ascii_uppercase()
        } else {
            letter.to_ascii_lowercase()
        };
        is_first = letter == '-';
        letter
    }));
    spelling
}
