//! `websocket-records`: a record of each WebSocket message.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use regex::{Captures, Regex};
use sdk::{
    ByteSize, ConfigFault, ConfigTable, Direction, Exchange, Filter, InterceptError, Interceptor,
    InterceptorKind, Message, MessageStep, Payload, Record, RecordQueue, Request, Step, Subject,
    async_trait, from_table,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::{REDACTED, Redaction, RedactionConfig};

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "websocket-records",
    summary: "Makes a record of each WebSocket message, without secrets.",
    build: WebsocketRecords::build,
};

/// Longest path in a record, in bytes.
const MAX_PATH: usize = 1024;
/// A member of JSON with a text as its value; also inside a text of JSON, where quotes are escaped.
const MEMBER: &str = r#"(?x)
    (?<head> \\*" (?<name> [^"\\]+ ) \\*" \s*:\s* )
    (?: (?<plain> "(?: [^"\\] | \\. )*" ) | (?<open> \\+" ) (?: [^"\\] | \\+[^"\\] )* )"#;
/// Schemes and parameters that are followed by a secret.
const WORD: &str = r#"((?i:\b(?:bearer|basic)\s+|\bx-amz-(?:signature|security-token)["']?\s*[=:]\s*["']?))[^\s"'&,;]+"#;

/// Makes records; changes nothing.
#[derive(Debug)]
pub struct WebsocketRecords {
    when: Option<Filter>,
    max_content: usize,
    redaction: Redaction,
    member: Regex,
    word: Regex,
    records: OnceLock<Arc<RecordQueue>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which WebSockets, by their request. Default: all.
    when: Option<Filter>,
    /// Most bytes of a message that are recorded; "0B": none. Default: 16KiB.
    max_content: ByteSize,
    /// Members of JSON that are recorded though their names promise secrets. Default: none.
    show_parameters: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            when: None,
            max_content: ByteSize(16 << 10),
            show_parameters: Vec::new(),
        }
    }
}

/// What is remembered of a WebSocket.
#[derive(Debug, Default)]
struct Seen {
    messages: u64,
}

impl WebsocketRecords {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        Ok(Arc::new(Self::from_config(table)?))
    }

    fn from_config(table: &ConfigTable) -> Result<Self, ConfigFault> {
        let config: Config = from_table(table)?;
        if config.when.as_ref().is_some_and(Filter::needs_response) {
            let fault = ConfigFault::new("when", "looks at the response");
            return Err(fault.allowed("conditions on the request"));
        }
        if config.max_content.0 > 1 << 20 {
            let fault = ConfigFault::new(
                "max-content",
                format!("{} is out of range", config.max_content),
            );
            return Err(fault.allowed("0B to 1MiB"));
        }
        let redaction = Redaction::new(&RedactionConfig {
            show_parameters: config.show_parameters,
            ..RedactionConfig::default()
        });
        let expression = |text| {
            Regex::new(text).map_err(|error| ConfigFault {
                key: None,
                message: error.to_string(),
                allowed: None,
            })
        };
        Ok(Self {
            when: config.when,
            max_content: config.max_content.0,
            redaction,
            member: expression(MEMBER)?,
            word: expression(WORD)?,
            records: OnceLock::new(),
        })
    }

    /// Text without what says that it is a secret.
    fn redacted<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let hide = |found: &Captures<'_>| {
            let part = |name| found.name(name).map_or("", |part| part.as_str());
            let head = part("head");
            match (self.redaction.is_secret_name(part("name")), part("open")) {
                (true, "") => format!("{head}\"{REDACTED}\""),
                // The quote at the end was left where it is.
                (true, open) => format!("{head}{open}{REDACTED}"),
                // There may be JSON in it, whose quotes are escaped; so this goes no deeper.
                (false, "") => format!("{head}{}", self.redacted(part("plain"))),
                (false, _) => found.get(0).map_or("", |all| all.as_str()).to_owned(),
            }
        };
        let text = self.member.replace_all(text, hide);
        let with = format!("${{1}}{REDACTED}");
        match self.word.replace_all(&text, with) {
            Cow::Owned(text) => Cow::Owned(text),
            Cow::Borrowed(_) => text,
        }
    }

    fn record(&self, message: &Message, number: u64, exchange: &Exchange) -> Record {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        let flow = &exchange.flow;
        put("source", flow.client.to_string().into());
        put("server", flow.server.to_string().into());
        put("endpoint", flow.endpoint.to_string().into());
        put("host", exchange.request.host().into());
        // The query may hold a signature or a token.
        put("path", start(exchange.request.path(), MAX_PATH).into());
        let direction = match message.direction {
            Direction::ToClient => "to-client",
            Direction::ToServer => "to-server",
        };
        put("direction", direction.into());
        put("number", number.into());
        put("size", message.payload.as_bytes().len().into());
        let is_cut = match &message.payload {
            Payload::Text(text) => {
                put("opcode", 1.into());
                // Redacted first: half of a secret is one, too.
                let text = self.redacted(text);
                let part = start(&text, self.max_content);
                put("text", part.into());
                part.len() < text.len()
            }
            Payload::Binary(bytes) => {
                put("opcode", 2.into());
                let part = bytes.get(..self.max_content).unwrap_or(bytes);
                put("data", base64_simd::STANDARD.encode_to_string(part).into());
                part.len() < bytes.len()
            }
        };
        if is_cut {
            put("truncated", true.into());
        }
        Record {
            kind: "websocket-message",
            at: SystemTime::now(),
            fields,
        }
    }
}

/// The beginning of a text, at most so many bytes.
fn start(text: &str, most: usize) -> &str {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[async_trait(?Send)]
impl Interceptor for WebsocketRecords {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let when = self.when.as_ref();
        if when.is_none_or(|when| when.matches(&Subject::request(request, exchange))) {
            exchange.extensions.insert(Seen::default());
        }
        Ok(Step::Continue)
    }

    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let (Some(seen), Some(records)) =
            (exchange.extensions.get_mut::<Seen>(), self.records.get())
        else {
            return Ok(MessageStep::Forward);
        };
        let number = seen.messages;
        seen.messages += 1;
        if !records.push(self.record(message, number, exchange)) {
            exchange.note("record-lost");
        }
        Ok(MessageStep::Forward)
    }

    fn connect(&self, records: &Arc<RecordQueue>) {
        // The appliance has one place for them.
        let _ = self.records.set(Arc::clone(records));
    }

    fn wants_messages(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use sdk::Bytes;
    use sdk::testing::Playbook;

    use super::*;

    fn play(config: &str) -> (Playbook, Arc<RecordQueue>) {
        let interceptor = WebsocketRecords::from_config(&config.parse().unwrap()).unwrap();
        let records = Arc::new(RecordQueue::new(4));
        interceptor.connect(&records);
        (Playbook::new(interceptor), records)
    }

    async fn open(play: &mut Playbook) {
        let request =
            "GET /chat?X-Amz-Signature=abc HTTP/1.1\nHost: lab.name\nUpgrade: websocket\n\n";
        play.request(request).await;
    }

    async fn send(play: &mut Playbook, direction: Direction, payload: Payload) {
        let message = Message { direction, payload };
        assert_eq!(play.message(message.clone()).await, Some(message));
    }

    fn text(text: &str) -> Payload {
        Payload::Text(text.to_owned())
    }

    #[tokio::test]
    async fn each_message_is_a_record() {
        let (mut play, records) = play("max-content = \"6B\"");
        open(&mut play).await;
        send(&mut play, Direction::ToServer, text("hell\u{e9} you")).await;
        let binary = Payload::Binary(Bytes::from_static(b"\0\xff"));
        send(&mut play, Direction::ToClient, binary).await;
        let records = records.take(10);
        let first = &records[0].fields;
        assert_eq!(
            Value::Object(first.clone()),
            serde_json::json!({
                "source": "10.0.0.10:40000", "server": "192.0.2.80:443", "endpoint": "vpce-00123456789abcdef",
                "host": "lab.name", "path": "/chat", "direction": "to-server", "number": 0, "size": 10,
                "opcode": 1, "text": "hell\u{e9}", "truncated": true,
            })
        );
        let second = &records[1].fields;
        assert_eq!(
            (&second["number"], &second["opcode"]),
            (&1.into(), &2.into())
        );
        assert_eq!(
            (&second["data"], second.get("truncated")),
            (&"AP8=".into(), None)
        );
    }

    #[tokio::test]
    async fn threat_67_secrets_are_not_recorded() {
        let (mut play, records) = play("");
        open(&mut play).await;
        let message = r#"{"TokenValue":"s3cr\"et","a":{"sessionToken" : "s3cret","PASSWORD":"s3cret","tokens":3},
            "in":"{\"apiKey\":\"s3cret\\/\",\"b\":1}","note":"Authorization: Bearer s3cret.x, then","url":"https://h/?X-Amz-Signature=s3cret&x=1","ok":"fine"}"#;
        send(&mut play, Direction::ToServer, text(message)).await;
        let told = records.take(1)[0].fields["text"]
            .as_str()
            .unwrap()
            .to_owned();
        assert!(!told.contains("s3cr"), "{told}");
        for kept in [
            r#""tokens":3"#,
            r#"\"b\":1"#,
            r#""ok":"fine""#,
            "&x=1",
            ", then",
        ] {
            assert!(told.contains(kept), "{kept}: {told}");
        }
        let (mut play, records) = self::play(
            "show-parameters = [\"token-value\", \"sessiontoken\", \"password\", \"api-key\"]",
        );
        open(&mut play).await;
        send(&mut play, Direction::ToServer, text(message)).await;
        let told = records.take(1)[0].fields["text"].to_string();
        assert!(
            told.contains("TokenValue") && told.matches("s3cr").count() == 4,
            "{told}"
        );
    }

    #[tokio::test]
    async fn threat_34_a_full_queue_loses_records_and_no_message() {
        let (mut play, records) = play("");
        open(&mut play).await;
        for _ in 0..6 {
            send(&mut play, Direction::ToServer, text("x")).await;
        }
        assert_eq!((records.len(), records.dropped()), (4, 2));
        assert_eq!(play.stats().notes["record-lost"], 2);
    }

    #[tokio::test]
    async fn only_what_is_meant_is_recorded() {
        let (mut play, records) = play(r#"when = 'path == "/other"'"#);
        open(&mut play).await;
        send(&mut play, Direction::ToServer, text("x")).await;
        assert!(records.is_empty());
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            (
                "when = 'status == 200'",
                "when: looks at the response; allowed: conditions on the request",
            ),
            (
                "max-content = \"2MiB\"",
                "max-content: 2MiB is out of range; allowed: 0B to 1MiB",
            ),
        ] {
            let fault = WebsocketRecords::build(&config.parse().unwrap()).unwrap_err();
            assert_eq!(fault.to_string(), expected);
        }
    }
}
