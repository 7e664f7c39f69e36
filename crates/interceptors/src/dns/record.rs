//! A DNS message as a record: a query, or an answer with what it says.

use core::net::{Ipv4Addr, Ipv6Addr};

use sdk::{HookContext, Leg, Record};
use serde_json::{Map, Value, json};

use super::message::{Found, Message, kind, kind_name, rcode_name, read_u16};

/// Answers told in one record.
const MAX_ANSWERS: usize = 32;

/// What carried the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The record of a message; `action` says what was done with it, if anything.
pub(super) fn record(
    message: &Message<'_>,
    transport: Transport,
    action: Option<&str>,
    context: &HookContext<'_>,
) -> Record {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            fields.insert(key.to_owned(), value);
        }
    };
    let is_answer = context.from == Leg::Server;
    put("message", if is_answer { "answer" } else { "query" }.into());
    put("transport", transport.as_str().into());
    put("endpoint", context.flow.endpoint.to_string().into());
    put("client", context.flow.client.to_string().into());
    put("server", context.flow.server.to_string().into());
    put("id", message.id().into());
    if let Some(question) = &message.question {
        put("name", question.name.clone().into());
        put("recordType", kind_name(question.kind).into());
    }
    if message.opcode() != 0 {
        put("opcode", message.opcode().into());
    }
    if is_answer {
        put("rcode", rcode_name(message.rcode()).into());
        let found = message.records.get(..message.answers).unwrap_or_default();
        let told = found.iter().take(MAX_ANSWERS);
        let answers: Vec<Value> = told.map(|found| answer(message, found)).collect();
        put("answers", answers.into());
        if found.len() > MAX_ANSWERS {
            put("answersLeftOut", (found.len() - MAX_ANSWERS).into());
        }
        if message.is_truncated() {
            put("truncated", true.into());
        }
    }
    put("action", json!(action));
    Record {
        kind: "dns",
        at: context.now,
        fields,
    }
}

/// A message as a judge sees it; all of its answers.
pub(super) fn told(
    message: &Message<'_>,
    transport: Transport,
    is_answer: bool,
) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| fields.insert(key.to_owned(), value);
    put("message", if is_answer { "answer" } else { "query" }.into());
    put("transport", transport.as_str().into());
    put("id", message.id().into());
    if let Some(question) = &message.question {
        put("name", question.name.clone().into());
        put("type", kind_name(question.kind).into());
    }
    if is_answer {
        put("rcode", rcode_name(message.rcode()).into());
        let found = message.records.get(..message.answers).unwrap_or_default();
        let answers: Vec<Value> = found.iter().map(|found| answer(message, found)).collect();
        put("answers", answers.into());
        put("truncated", message.is_truncated().into());
    }
    fields
}

fn answer(message: &Message<'_>, found: &Found) -> Value {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), kind_name(found.kind).into());
    fields.insert("ttl".to_owned(), message.ttl(found).into());
    if let Some(data) = data(message, found) {
        fields.insert("data".to_owned(), data.into());
    }
    Value::Object(fields)
}

/// The data of a record as text, for types whose data is an address or a name.
fn data(message: &Message<'_>, found: &Found) -> Option<String> {
    let bytes = message.data(found);
    let at = found.data.start;
    match found.kind {
        kind::A => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string()),
        kind::AAAA => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        kind::CNAME | kind::NS | kind::PTR => message.name(at),
        kind::MX => Some(format!("{} {}", read_u16(bytes, 0)?, message.name(at + 2)?)),
        kind::SRV => {
            let [priority, weight, port] = [0, 2, 4].map(|at| read_u16(bytes, at));
            let name = message.name(at + 6)?;
            Some(format!("{} {} {} {name}", priority?, weight?, port?))
        }
        _ => None,
    }
}
