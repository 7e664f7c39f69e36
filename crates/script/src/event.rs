//! The event: what a function is told about a request or response.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use sdk::{Ec2Host, FlowInfo, HeaderValue, Headers, Request, RequestHead, Response, Target};
use serde_json::Value;

use crate::engine::Item;
use crate::program::Entry;
use crate::rules::Profile;

/// A name with its values, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) values: Vec<Item>,
    /// Of a query parameter or cookie: there was no `=`.
    pub(crate) is_bare: bool,
}

pub(crate) type Names = Vec<Named>;

/// The request part of an event. What has names and values is made when somebody asks for it: most
/// functions look at little. It is made anew for each who asks: the thread of a function and that of the
/// exchange would otherwise free what the other has taken, and that costs both more than to make it.
#[derive(Debug, Default)]
pub(crate) struct SeenRequest {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) raw_query: Option<String>,
    fields: Headers,
    /// HTTP/2 has the host elsewhere.
    authority: Option<String>,
    profile: Profile,
    /// Query, headers and cookies of an event in JSON.
    given: Option<[Names; 3]>,
}

/// The response part of an event.
#[derive(Debug, Default)]
pub(crate) struct SeenResponse {
    pub(crate) status: u16,
    pub(crate) description: String,
    fields: Headers,
    profile: Profile,
    /// Headers and cookies of an event in JSON.
    given: Option<[Names; 2]>,
}

/// What one event shows of an exchange.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) place: Place,
    /// What `cf.edgeLocation` gives, as JSON.
    pub(crate) edge: Arc<str>,
    pub(crate) request: Arc<SeenRequest>,
    pub(crate) what: What,
}

/// What the event is about.
#[derive(Debug)]
pub(crate) enum What {
    Request,
    Response(SeenResponse),
    Message {
        direction: &'static str,
        encoding: &'static str,
        data: String,
    },
}

impl Shown {
    pub(crate) fn entry(&self) -> Entry {
        match self.what {
            What::Request => Entry::ViewerRequest,
            What::Response(_) => Entry::ViewerResponse,
            What::Message { .. } => Entry::WebSocketMessage,
        }
    }

    pub(crate) fn response(&self) -> Option<&SeenResponse> {
        match &self.what {
            What::Response(seen) => Some(seen),
            _ => None,
        }
    }

    /// The event's `context`, as JSON.
    pub(crate) fn context(&self) -> String {
        let place = &self.place;
        let mut out = String::with_capacity(1024);
        out.push_str("{\"distributionDomainName\":");
        string(&mut out, &place.domain);
        out.push_str(",\"distributionId\":");
        string(&mut out, &place.id);
        let _ = write!(
            out,
            ",\"eventType\":\"{}\",\"requestId\":",
            self.entry().event_type()
        );
        string(&mut out, &place.request_id);
        out.push_str(",\"flow\":");
        flow(&mut out, &place.flow);
        out.push('}');
        out
    }
}

/// What an event says of a WebSocket message.
pub(crate) fn message_part(message: &sdk::Message) -> What {
    use base64::Engine as _;
    let (encoding, data) = match &message.payload {
        sdk::Payload::Text(text) => ("text", text.clone()),
        sdk::Payload::Binary(bytes) => (
            "base64",
            base64::engine::general_purpose::STANDARD.encode(bytes),
        ),
    };
    let direction = match message.direction {
        sdk::Direction::ToServer => "to-server",
        sdk::Direction::ToClient => "to-client",
    };
    What::Message {
        direction,
        encoding,
        data,
    }
}

/// The `context` of an event.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) domain: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) request_id: Arc<str>,
    pub(crate) flow: Arc<FlowInfo>,
}

fn add(names: &mut Names, name: &str, item: Item, is_bare: bool) {
    match names.iter_mut().find(|named| named.name == name) {
        Some(named) => named.values.push(item),
        None => names.push(Named {
            name: name.to_owned(),
            values: vec![item],
            is_bare,
        }),
    }
}

fn plain(value: impl Into<String>) -> Item {
    Item {
        value: value.into(),
        attributes: None,
    }
}

/// A value as text: UTF-8 as it is, anything else as ISO 8859-1.
pub(crate) fn text_of(value: &HeaderValue) -> String {
    let bytes = value.as_bytes();
    core::str::from_utf8(bytes).map_or_else(
        |_| bytes.iter().map(|byte| char::from(*byte)).collect(),
        str::to_owned,
    )
}

fn fields(headers: &Headers, profile: Profile, cookies: &str) -> Names {
    let mut names = Names::with_capacity(headers.len());
    for field in headers {
        let name = field.name.as_str();
        if name.eq_ignore_ascii_case(cookies) {
            continue;
        }
        let name = name.to_ascii_lowercase();
        if !profile.hides(&name) {
            add(&mut names, &name, plain(text_of(&field.value)), false);
        }
    }
    names
}

/// The cookies of a request (RFC 6265 §4.2).
fn sent_cookies(headers: &Headers) -> Names {
    let mut names = Names::new();
    for value in headers.get_all("cookie") {
        for pair in text_of(value)
            .split(';')
            .map(str::trim)
            .filter(|pair| !pair.is_empty())
        {
            match pair.split_once('=') {
                Some((name, value)) => add(&mut names, name, plain(value), false),
                None => add(&mut names, pair, plain(""), true),
            }
        }
    }
    names
}

/// A cookie that is set (RFC 6265 §4.1): its name, and the rest.
pub(crate) fn set_cookie(value: &str) -> (String, Item) {
    let (pair, attributes) = value.split_once(';').unwrap_or((value, ""));
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let attributes = attributes.trim();
    let item = Item {
        value: value.trim().to_owned(),
        // There even when there are none, as in CloudFront's types.
        attributes: Some(attributes.to_owned()),
    };
    (name.trim().to_owned(), item)
}

fn set_cookies(headers: &Headers) -> Names {
    let mut names = Names::new();
    for value in headers.get_all("set-cookie") {
        let (name, item) = set_cookie(&text_of(value));
        add(&mut names, &name, item, false);
    }
    names
}

/// Query parameters as they came: nothing is decoded.
fn parameters(query: &str) -> Names {
    let mut names = Names::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((name, value)) => add(&mut names, name, plain(value), false),
            None => add(&mut names, pair, plain(""), true),
        }
    }
    names
}

impl SeenRequest {
    pub(crate) fn of(request: &Request, profile: Profile) -> Self {
        Self::from_parts(
            request.method.as_str(),
            &request.target,
            &request.headers,
            profile,
        )
    }

    pub(crate) fn of_head(head: &RequestHead, profile: Profile) -> Self {
        Self::from_parts(head.method.as_str(), &head.target, &head.headers, profile)
    }

    fn from_parts(method: &str, target: &Target, headers: &Headers, profile: Profile) -> Self {
        let (uri, raw_query) = match target.path_and_query() {
            Some(path) => (path.path(), path.query()),
            None => ("*", None),
        };
        Self {
            method: method.to_owned(),
            uri: uri.to_owned(),
            raw_query: raw_query.map(str::to_owned),
            authority: target
                .authority()
                .filter(|_| !headers.contains("host"))
                .map(|authority| authority.as_str().to_owned()),
            fields: headers.clone(),
            profile,
            ..Self::default()
        }
    }

    pub(crate) fn query(&self) -> Cow<'_, Names> {
        match &self.given {
            Some([query, _, _]) => Cow::Borrowed(query),
            None => Cow::Owned(parameters(self.raw_query.as_deref().unwrap_or_default())),
        }
    }

    pub(crate) fn headers(&self) -> Cow<'_, Names> {
        if let Some([_, headers, _]) = &self.given {
            return Cow::Borrowed(headers);
        }
        let mut names = fields(&self.fields, self.profile, "cookie");
        if let Some(authority) = &self.authority {
            let host = Named {
                name: "host".to_owned(),
                values: vec![plain(authority.as_str())],
                is_bare: false,
            };
            names.insert(0, host);
        }
        Cow::Owned(names)
    }

    pub(crate) fn cookies(&self) -> Cow<'_, Names> {
        match &self.given {
            Some([_, _, cookies]) => Cow::Borrowed(cookies),
            None => Cow::Owned(sent_cookies(&self.fields)),
        }
    }

    /// Reads the request part of an event in JSON.
    pub(crate) fn from_json(event: &Value) -> Self {
        let request = event.get("request").unwrap_or(&Value::Null);
        let text = |key: &str| {
            request
                .get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let query = names_of(request.get("querystring"));
        let raw_query = (!query.is_empty()).then(|| crate::apply::query_text(&query));
        Self {
            method: text("method"),
            uri: text("uri"),
            raw_query,
            given: Some([
                query,
                names_of(request.get("headers")),
                names_of(request.get("cookies")),
            ]),
            ..Self::default()
        }
    }
}

impl SeenResponse {
    pub(crate) fn of(response: &Response, profile: Profile) -> Self {
        let description = match &response.reason {
            Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
            None => response
                .status
                .canonical_reason()
                .unwrap_or_default()
                .to_owned(),
        };
        Self {
            status: response.status.as_u16(),
            description,
            fields: response.headers.clone(),
            profile,
            ..Self::default()
        }
    }

    pub(crate) fn headers(&self) -> Cow<'_, Names> {
        match &self.given {
            Some([headers, _]) => Cow::Borrowed(headers),
            None => Cow::Owned(fields(&self.fields, self.profile, "set-cookie")),
        }
    }

    pub(crate) fn cookies(&self) -> Cow<'_, Names> {
        match &self.given {
            Some([_, cookies]) => Cow::Borrowed(cookies),
            None => Cow::Owned(set_cookies(&self.fields)),
        }
    }

    /// Reads the response part of an event in JSON.
    pub(crate) fn from_json(event: &Value) -> Self {
        let response = event.get("response").unwrap_or(&Value::Null);
        Self {
            status: response
                .get("statusCode")
                .and_then(Value::as_u64)
                .and_then(|status| u16::try_from(status).ok())
                .unwrap_or(0),
            description: response
                .get("statusDescription")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            given: Some([
                names_of(response.get("headers")),
                names_of(response.get("cookies")),
            ]),
            ..Self::default()
        }
    }
}

fn names_of(value: Option<&Value>) -> Names {
    let item = |value: &Value| Item {
        value: value
            .get("value")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        attributes: value
            .get("attributes")
            .and_then(Value::as_str)
            .map(str::to_owned),
    };
    let members = value.and_then(Value::as_object).into_iter().flatten();
    members
        .map(|(name, value)| Named {
            name: name.clone(),
            values: match value.get("multiValue").and_then(Value::as_array) {
                Some(values) => values.iter().map(item).collect(),
                None => vec![item(value)],
            },
            is_bare: false,
        })
        .collect()
}

/// The event of a DNS message, `message` being JSON.
#[must_use]
pub fn dns_event(message: &str, flow_info: &FlowInfo) -> String {
    let mut out = format!(
        "{{\"version\":\"1.0\",\"context\":{{\"eventType\":\"{}\",\"flow\":",
        Entry::Dns.event_type()
    );
    flow(&mut out, flow_info);
    let client = flow_info.client.ip();
    let _ = write!(
        out,
        "}},\"viewer\":{{\"ip\":\"{client}\"}},\"dns\":{message}}}"
    );
    out
}

/// What CloudFront does not have: the flow. Everything of ours is under this one key.
pub(crate) fn flow(out: &mut String, flow: &FlowInfo) {
    let _ = write!(
        out,
        "{{\"endpointId\":\"{}\",\"flowCookie\":\"{}\",\"protocol\":{},\
         \"client\":{{\"address\":\"{}\",\"port\":{}}},\"server\":{{\"address\":\"{}\",\"port\":{}}}",
        flow.endpoint,
        flow.cookie,
        flow.protocol.0,
        flow.client.ip(),
        flow.client.port(),
        flow.server.ip(),
        flow.server.port()
    );
    if let Some(tls) = &flow.tls {
        let _ = write!(
            out,
            ",\"tls\":{{\"clientVersion\":{},\"serverVersion\":{},\"clientCipherSuite\":{},\"serverCipherSuite\":{}",
            tls.client_version,
            tls.server_version,
            tls.client_cipher_suite,
            tls.server_cipher_suite
        );
        if let Some(name) = &tls.server_name {
            out.push_str(",\"serverName\":");
            string(out, name);
        }
        if let Some(alpn) = &tls.alpn {
            out.push_str(",\"alpn\":");
            string(out, &String::from_utf8_lossy(alpn));
        }
        out.push('}');
    }
    for (name, host) in [
        ("sourceInstance", &flow.client_ec2),
        ("destinationInstance", &flow.server_ec2),
    ] {
        if let Some(host) = host {
            let _ = write!(out, ",\"{name}\":");
            instance(out, host);
        }
    }
    if !flow.context.is_empty() {
        out.push_str(",\"context\":{");
        let mut first = true;
        for (key, value) in &flow.context {
            if !core::mem::take(&mut first) {
                out.push(',');
            }
            string(out, key);
            let _ = write!(out, ":{value}");
        }
        out.push('}');
    }
    out.push('}');
}

/// What EC2 knows of a host, with the names that acceptors are told.
fn instance(out: &mut String, host: &Ec2Host) {
    out.push('{');
    let facts = [
        ("InstanceId", host.instance_id.as_deref()),
        ("InterfaceId", host.interface_id.as_deref()),
        ("AccountId", Some(host.account_id.as_str())),
        ("VpcId", Some(host.vpc_id.as_str())),
        ("SubnetId", Some(host.subnet_id.as_str())),
    ];
    for (key, value) in facts {
        if let Some(value) = value {
            let _ = write!(out, "\"{key}\":");
            string(out, value);
            out.push(',');
        }
    }
    out.push_str("\"SecurityGroups\":[");
    for (at, group) in host.security_groups.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        string(out, group);
    }
    out.push_str("],\"Tags\":{");
    for (at, (key, value)) in host.tags.iter().enumerate() {
        out.push_str(if at > 0 { "," } else { "" });
        string(out, key);
        out.push(':');
        string(out, value);
    }
    out.push_str("}}");
}

/// A JSON string (RFC 8259 §7).
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    while let Some(at) = rest
        .bytes()
        .position(|byte| byte < 0x20 || byte == b'"' || byte == b'\\')
    {
        let (plain, special) = rest.split_at(at);
        out.push_str(plain);
        let mut chars = special.chars();
        match chars.next() {
            Some('"') => out.push_str("\\\""),
            Some('\\') => out.push_str("\\\\"),
            Some(c) => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            None => {}
        }
        rest = chars.as_str();
    }
    out.push_str(rest);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn context_flow_tells_what_ec2_and_acceptors_know() {
        let mut info = sdk::testing::flow();
        info.client_ec2 = Some(Arc::new(Ec2Host {
            instance_id: Some("i-1".to_owned()),
            interface_id: Some("eni-1".to_owned()),
            account_id: "123456789012".to_owned(),
            vpc_id: "vpc-1".to_owned(),
            subnet_id: "subnet-1".to_owned(),
            security_groups: vec!["sg-1".to_owned(), "sg-2".to_owned()],
            tags: [("Name".to_owned(), "a \"b\"".to_owned())].into(),
        }));
        info.server_ec2 = Some(Arc::new(Ec2Host::default()));
        info.context.insert("team".to_owned(), "blue".into());
        let event = dns_event(r#"{"name":"a.b"}"#, &info);
        let event: Value = serde_json::from_str(&event).unwrap();
        assert_eq!(event["dns"]["name"], "a.b");
        assert_eq!(event["context"]["eventType"], "dns");
        assert_eq!(event["viewer"]["ip"], info.client.ip().to_string());
        let flow = &event["context"]["flow"];
        assert_eq!(
            flow["sourceInstance"],
            json!({"InstanceId": "i-1", "InterfaceId": "eni-1", "AccountId": "123456789012",
                "VpcId": "vpc-1", "SubnetId": "subnet-1", "SecurityGroups": ["sg-1", "sg-2"],
                "Tags": {"Name": "a \"b\""}})
        );
        assert!(flow["destinationInstance"].get("InstanceId").is_none());
        assert_eq!(flow["context"], json!({"team": "blue"}));
    }
}
