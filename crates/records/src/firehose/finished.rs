//! An exchange that is over, and its line of JSON.

use core::cell::RefCell;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sdk::{EndJson, Field, FlowInfo, Headers, RequestHead};
use suffix::etld_plus_one;

use super::LONGEST_RECORD;
use crate::caller::Caller;
use crate::json::{self, Object};
use crate::per_flow::PerFlow;
use crate::redaction::Redaction;

/// What is known of an exchange that is over.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) redaction: Arc<Redaction>,
    pub(super) at: SystemTime,
    pub(super) flow: Arc<FlowInfo>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) request: RequestHead,
    pub(super) response: Option<(u16, Option<String>, Headers)>,
}

impl Finished {
    /// The line; `None` if it is longer than Firehose takes.
    ///
    /// It is made where the exchange ends, from what is in the processor's cache still: to hand its many
    /// parts to another thread takes longer than to write them.
    pub(super) fn line(&self, took: Duration) -> Option<String> {
        let line = json::made(|line| {
            Object::write(line, |record| self.record(record, took));
            line.push(b'\n');
        });
        let line = String::from_utf8(line).ok()?;
        (line.len() <= LONGEST_RECORD).then_some(line)
    }

    fn record(&self, record: &mut Object<'_>, took: Duration) {
        thread_local! {
            static FLOWS: RefCell<PerFlow<Vec<u8>>> = const { RefCell::new(PerFlow::new()) };
        }
        FLOWS.with_borrow_mut(|flows| {
            let make = |of: &FlowInfo| json::members(|record| flow(record, of));
            record.members(flows.of(&self.flow, make).map_or(&[], Vec::as_slice));
        });
        if let Some(caller) = &self.caller {
            record.object("AWS", |aws| {
                aws.object("AuthorizationHeader", |header| {
                    header.text("KeyId", &caller.key_id);
                    header.text("Date", &caller.date);
                    header.text("Region", &caller.region);
                    header.text("Service", &caller.service);
                    header.text("AccountId", caller.account.as_deref().unwrap_or_default());
                });
            });
        }
        record.displayed("Time", humantime::format_rfc3339_millis(self.at));
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        record.value("DurationMillis", &millis);
        let host = self.request.host().unwrap_or_default();
        record.token("Method", self.request.method.as_str());
        record.text("Host", host);
        record.text("ETldPlusOne", etld_plus_one(host));
        record.text("URL", &self.url(host));
        let (status, reason, headers) = match &self.response {
            Some((status, reason, headers)) => (Some(*status), reason.as_deref(), Some(headers)),
            None => (None, None, None),
        };
        self.fields(record, "RequestHeaders", Some(&self.request.headers));
        record.value("StatusCode", &status);
        match reason {
            Some(reason) => record.text("StatusMessage", reason),
            None => record.value("StatusMessage", &()),
        }
        self.fields(record, "ResponseHeaders", headers);
    }

    /// Fields by name, in the usual spelling; of a name that comes several times, the first.
    fn fields(&self, record: &mut Object<'_>, name: &str, headers: Option<&Headers>) {
        record.object(name, |object| {
            let mut spelling = String::new();
            let fields = || headers.iter().flat_map(|headers| headers.iter());
            let mut marks = 0;
            for (at, field) in fields().enumerate() {
                let name = field.name.as_str();
                let is_same = |other: &Field| other.name.as_str().eq_ignore_ascii_case(name);
                let may_be_there = marks & mark(name) != 0;
                marks |= mark(name);
                if !(may_be_there && fields().take(at).any(is_same)) {
                    let text = self.redaction.text(field);
                    object.text(canonical(name, &mut spelling), &text);
                }
            }
        });
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

/// What all records of a flow begin with.
fn flow(record: &mut Object<'_>, flow: &FlowInfo) {
    if let Some(tls) = &flow.tls {
        record.object("TLS", |object| {
            // What was agreed on with the client, as numbers of the TLS registry.
            object.value("Version", &tls.client_version);
            object.value("CipherSuite", &tls.client_cipher_suite);
            if let Some(name) = &tls.server_name {
                object.text("ServerName", name);
            }
            object.text("JA4", &tls.ja4);
        });
    }
    record.object("Geneve", |geneve| {
        geneve.displayed("VpcEndpointId", flow.endpoint);
        geneve.displayed("AttachmentId", flow.attachment);
        geneve.displayed("FlowCookie", flow.cookie);
    });
    let client = EndJson::new(flow.client, flow.client_ec2.as_deref());
    record.value("Client", &client);
    let server = EndJson::new(flow.server, flow.server_ec2.as_deref());
    record.value("Server", &server);
}

/// One of 64 bits for a name in any case: most names of a message have a bit of their own, and need not be
/// compared with all the others.
fn mark(name: &str) -> u64 {
    let letter = |byte: Option<&u8>| byte.map_or(0, |byte| usize::from(byte.to_ascii_lowercase()));
    let (first, last) = (name.as_bytes().first(), name.as_bytes().last());
    1 << ((name.len() * 7 + letter(first) + letter(last) * 3) % 64)
}

/// `user-agent` as `User-Agent`, so that one query finds both.
fn canonical<'s>(name: &str, spelling: &'s mut String) -> &'s str {
    spelling.clear();
    spelling.push_str(name);
    spelling.make_ascii_lowercase();
    let begins = name.match_indices('-').map(|(at, _)| at + 1);
    for at in core::iter::once(0).chain(begins) {
        if let Some(letter) = spelling.get_mut(at..at + 1) {
            letter.make_ascii_uppercase();
        }
    }
    spelling
}
