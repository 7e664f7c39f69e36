//! What is said of an exchange in the columns of a table.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use records::{Caller, Redaction, etld_plus_one};
use sdk::{Ec2Host, Headers, TlsInfo};

use super::row::Row;
use crate::url;

/// Names and values, each name once.
pub(super) type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A row as people ask for it: text, numbers and pairs, without secrets.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// Milliseconds since 1970.
    pub(super) time: i64,
    pub(super) duration: i64,
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    pub(super) etld_plus_one: &'a str,
    pub(super) url: String,
    pub(super) status: Option<i32>,
    pub(super) status_message: Option<&'a str>,
    pub(super) endpoint: String,
    pub(super) attachment: String,
    pub(super) cookie: String,
    pub(super) client: Host<'a>,
    pub(super) server: Host<'a>,
    pub(super) tls: Option<&'a TlsInfo>,
    pub(super) caller: Option<&'a Caller>,
    pub(super) request_headers: Pairs<'a>,
    pub(super) response_headers: Pairs<'a>,
}

/// One end of a flow.
#[derive(Debug)]
pub(super) struct Host<'a> {
    pub(super) address: String,
    pub(super) port: i32,
    pub(super) ec2: Option<&'a Ec2Host>,
}

impl<'a> Host<'a> {
    fn new(address: SocketAddr, ec2: Option<&'a Ec2Host>) -> Self {
        Self {
            address: address.ip().to_string(),
            port: address.port().into(),
            ec2,
        }
    }
}

impl<'a> Facts<'a> {
    pub(super) fn of(row: &'a Row, redaction: &Redaction) -> Self {
        let flow = &*row.flow;
        let host = row.request.host().unwrap_or_default();
        let address = url::of(&row.request, flow);
        let millis = |time: core::time::Duration| i64::try_from(time.as_millis());
        let time = row.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            time: millis(time).unwrap_or(i64::MAX),
            duration: millis(row.took).unwrap_or(i64::MAX),
            method: row.request.method.as_str(),
            host,
            etld_plus_one: etld_plus_one(host),
            url: redaction.address(&address).into_owned(),
            status: row.answer.as_ref().map(|answer| answer.status.into()),
            status_message: row
                .answer
                .as_ref()
                .and_then(|answer| answer.reason.as_deref()),
            endpoint: flow.endpoint.to_string(),
            attachment: flow.attachment.to_string(),
            cookie: flow.cookie.to_string(),
            client: Host::new(flow.client, flow.client_ec2.as_deref()),
            server: Host::new(flow.server, flow.server_ec2.as_deref()),
            tls: flow.tls.as_ref(),
            caller: row.caller.as_deref(),
            request_headers: pairs(&row.request.headers, redaction),
            response_headers: row
                .answer
                .as_ref()
                .map(|answer| pairs(&answer.headers, redaction))
                .unwrap_or_default(),
        }
    }
}

/// Fields by name in lower case; of a name that comes several times, the first: keys of a map are
/// there once.
fn pairs<'a>(headers: &'a Headers, redaction: &Redaction) -> Pairs<'a> {
    let mut pairs: Pairs<'a> = Vec::with_capacity(headers.len());
    for field in headers.iter() {
        let name = field.name.as_str();
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        let value = redaction.text(field);
        pairs.push((name, value));
    }
    // Stable: the first of a name stays.
    pairs.sort_by(|one, other| one.0.cmp(&other.0));
    pairs.dedup_by(|later, first| later.0 == first.0);
    pairs
}
