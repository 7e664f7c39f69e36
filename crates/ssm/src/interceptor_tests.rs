//! Sessions and commands through the interceptor, without sockets.

use sdk::Record;
use sdk::testing::Playbook;
use serde_json::{Value, json};

use super::*;
use crate::message::{MessageId, MessageType, payload_type};

type Kept = Arc<RecordQueue>;

pub(super) struct Play {
    pub(super) play: Playbook,
    outlets: Vec<Arc<dyn Outlet>>,
    records: Kept,
    ids: u128,
}

fn config(text: &str) -> (Ssm, Kept) {
    let records = Arc::new(RecordQueue::new(100));
    let ssm = Ssm::from_config(&text.parse().unwrap()).unwrap();
    ssm.connect(&records);
    (ssm, records)
}

impl Play {
    pub(super) fn new(text: &str) -> Self {
        let (ssm, records) = config(text);
        let outlets = ssm.outlets();
        let play = Playbook::new(ssm);
        Self {
            play,
            outlets,
            records,
            ids: 0,
        }
    }

    pub(super) async fn open(&mut self, path: &str) {
        let request = format!(
            "GET {path} HTTP/1.1\nHost: ssmmessages.eu-west-1.amazonaws.com\nUpgrade: websocket\n\n"
        );
        assert_eq!(self.play.request(&request).await.to_server(), request);
        let opening = json!({
            "MessageSchemaVersion": "1.0", "TokenValue": "secret-token", "ClientInstanceId": "i-0a", "AgentVersion": "3.3",
        });
        let payload = Payload::Text(opening.to_string());
        let direction = Direction::ToServer;
        let passed = self
            .play
            .message(Message {
                direction,
                payload: payload.clone(),
            })
            .await;
        assert_eq!(passed.unwrap().payload, payload);
    }

    async fn data_channel(&mut self) {
        self.open("/v1/data-channel/user-0a1b?role=publish_subscribe")
            .await;
    }

    /// What becomes of bytes.
    pub(super) async fn raw(&mut self, direction: Direction, bytes: Bytes) -> Option<Bytes> {
        let payload = Payload::Binary(bytes);
        match self
            .play
            .message(Message { direction, payload })
            .await?
            .payload
        {
            Payload::Binary(bytes) => Some(bytes),
            Payload::Text(_) => panic!("text"),
        }
    }

    /// What becomes of a message of a stream: its payload at the other side.
    async fn stream(
        &mut self,
        kind: MessageType,
        number: i64,
        payload_type: u32,
        payload: &[u8],
    ) -> Option<Vec<u8>> {
        let id = MessageId(1000 + number as u128);
        let direction = match kind {
            MessageType::OutputStreamData => Direction::ToServer,
            _ => Direction::ToClient,
        };
        let message = AgentMessage::of_stream(kind, id, 1, (number, 0), payload_type, payload);
        let passed =
            AgentMessage::parse(&self.raw(direction, message.clone().into_bytes()).await?).unwrap();
        assert_eq!(
            (passed.id, passed.sequence, passed.kind),
            (id, number, kind)
        );
        Some(passed.payload().to_vec())
    }

    async fn output(&mut self, number: i64, text: &[u8]) {
        let passed = self
            .stream(
                MessageType::OutputStreamData,
                number,
                payload_type::OUTPUT,
                text,
            )
            .await;
        assert_eq!(passed.as_deref(), Some(text));
    }

    async fn typed(&mut self, number: i64, keys: &str) -> Option<String> {
        let passed = self
            .stream(
                MessageType::InputStreamData,
                number,
                payload_type::OUTPUT,
                keys.as_bytes(),
            )
            .await;
        passed.map(|keys| String::from_utf8(keys).unwrap())
    }

    pub(super) async fn control(
        &mut self,
        direction: Direction,
        kind: MessageType,
        payload: &Value,
    ) -> Option<Value> {
        self.ids += 1;
        let message =
            AgentMessage::new(kind, MessageId(self.ids), 1, payload.to_string().as_bytes());
        let passed = self.raw(direction, message.into_bytes()).await?;
        let passed = AgentMessage::parse(&passed).unwrap();
        assert_eq!(passed.id, MessageId(self.ids));
        Some(serde_json::from_slice(passed.payload()).unwrap())
    }

    pub(super) fn injected(&mut self) -> Vec<(Direction, MessageType, Value)> {
        let messages = self.play.injected().into_iter();
        messages
            .map(|message| {
                let parsed =
                    AgentMessage::parse(&Bytes::copy_from_slice(message.payload.as_bytes()))
                        .unwrap();
                let payload = serde_json::from_slice(parsed.payload()).unwrap();
                (message.direction, parsed.kind, payload)
            })
            .collect()
    }

    /// Ends everything and gives the records.
    pub(super) fn end(self) -> Vec<Record> {
        drop(self.play);
        for outlet in self.outlets {
            assert!(outlet.finish(Duration::from_secs(30)));
            let stats = outlet.stats();
            assert_eq!(stats.taken, stats.written + stats.dropped + stats.failed);
        }
        let records = self.records.take(100);
        for record in &records {
            let text = Value::Object(record.fields.clone()).to_string();
            assert!(!text.contains("secret-token"), "{text}");
            assert!(!text.chars().any(char::is_control), "{text}");
        }
        records
    }
}

fn files(folder: &tempfile::TempDir, ending: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == ending));
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

const SHELL: &str = r#"{"AgentVersion":"3.3.1","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream"}}]}"#;

#[tokio::test]
async fn a_session_is_a_recording_with_who_where_and_when() {
    let folder = tempfile::tempdir().unwrap();
    let mut play = Play::new(&format!("folder = {:?}\ninput = true", folder.path()));
    let asked = json!({
        "SessionId": "user-0a1b", "SessionOwner": "arn:aws:iam::1:user/ann", "DocumentName": "SSM-SessionManagerRunShell",
    });
    play.open("/v1/control-channel/i-0a?role=subscribe&stream=input")
        .await;
    let shell = json!({"Content": asked.to_string(), "TaskId": "user-0a1b", "Topic": "t", "SchemaVersion": 1});
    assert_eq!(
        play.control(Direction::ToClient, MessageType::InteractiveShell, &shell)
            .await,
        Some(shell)
    );

    play.data_channel().await;
    let request = payload_type::HANDSHAKE_REQUEST;
    play.stream(MessageType::OutputStreamData, 0, request, SHELL.as_bytes())
        .await
        .unwrap();
    let size = |columns: u32| format!("{{\"cols\":{columns},\"rows\":30}}");
    play.stream(
        MessageType::InputStreamData,
        0,
        payload_type::SIZE,
        size(100).as_bytes(),
    )
    .await
    .unwrap();
    // Split inside a character, out of order and twice.
    play.output(1, b"$ h\xc3").await;
    play.output(3, b"\x1b[31mred\x1b[0m\r\n").await;
    play.output(2, b"\xa9\r\n").await;
    play.output(1, b"$ h\xc3").await;
    play.output(3, b"\x1b[31mred\x1b[0m\r\n").await;
    assert_eq!(play.typed(1, "ls\r").await.as_deref(), Some("ls\r"));
    play.stream(
        MessageType::InputStreamData,
        2,
        payload_type::SIZE,
        size(90).as_bytes(),
    )
    .await
    .unwrap();
    let exit = payload_type::EXIT_CODE;
    play.stream(MessageType::OutputStreamData, 4, exit, b"3")
        .await
        .unwrap();
    let records = play.end();

    let casts = files(&folder, "cast");
    let lines: Vec<Value> = casts[0]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let header = &lines[0];
    assert_eq!(
        (&header["version"], &header["width"], &header["height"]),
        (&json!(2), &json!(100), &json!(30))
    );
    let about = &header["flowdog"];
    for (name, value) in [
        ("session", "user-0a1b"),
        ("instance", "i-0a"),
        ("owner", "arn:aws:iam::1:user/ann"),
        ("region", "eu-west-1"),
        ("endpoint", "vpce-00123456789abcdef"),
        ("source", "10.0.0.10:40000"),
        ("sessionType", "Standard_Stream"),
        ("agentVersion", "3.3.1"),
    ] {
        assert_eq!(about[name], value, "{name}: {about}");
    }
    let events: Vec<_> = lines[1..]
        .iter()
        .map(|line| (line[1].as_str().unwrap(), line[2].as_str().unwrap()))
        .collect();
    assert_eq!(
        events,
        [
            ("o", "$ h"),
            ("o", "\u{e9}\r\n"),
            ("o", "\u{1b}[31mred\u{1b}[0m\r\n"),
            ("i", "ls\r"),
            ("r", "90x30")
        ]
    );
    let transcript = &files(&folder, "txt")[0];
    assert!(
        transcript.ends_with("\n\n$ h\u{e9}\nred\n\n[stopped]\n"),
        "{transcript}"
    );

    let kinds: Vec<_> = records
        .iter()
        .map(|r| (r.kind, r.fields.get("event").and_then(Value::as_str)))
        .collect();
    let expected = [
        ("ssm-agent", None),
        ("ssm-session", Some("asked")),
        ("ssm-session", Some("begin")),
        ("ssm-session", Some("end")),
    ];
    assert_eq!(kinds, expected);
    let end = &records[3].fields;
    assert_eq!(
        (&end["exitCode"], &end["outputBytes"]),
        (&json!("3"), &json!(SHELL.len() + 4 + 3 + 14 + 1))
    );
}

#[tokio::test]
async fn what_is_typed_is_recorded_only_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut play = Play::new(&format!("folder = {:?}", folder.path()));
    play.data_channel().await;
    play.output(0, b"Password: ").await;
    play.typed(0, "hunter2\r").await.unwrap();
    play.end();
    assert!(!files(&folder, "cast")[0].contains("hunter2"));
}

#[tokio::test]
async fn a_session_goes_on_after_its_websocket_was_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut play = Play::new(&format!("folder = {:?}", folder.path()));
    play.data_channel().await;
    play.output(0, b"one\r\n").await;
    play.data_channel().await;
    play.output(0, b"one\r\n").await;
    play.output(1, b"two\r\n").await;
    let closed = json!({"MessageType": "channel_closed", "SessionId": "user-0a1b"});
    assert!(
        play.control(Direction::ToClient, MessageType::ChannelClosed, &closed)
            .await
            .is_some()
    );
    let records = play.end();
    let transcripts = files(&folder, "txt");
    assert_eq!(transcripts.len(), 1);
    assert!(
        transcripts[0].ends_with("\n\none\ntwo\n\n[closed]\n"),
        "{transcripts:?}"
    );
    assert_eq!(records.len(), 2);
    assert_eq!(records[1].fields["reason"], "closed");
}

const LINES: &str = r#"
    [[rule]]
    name = "no-rm"
    on = "input"
    find = 'rm\s+-rf'
"#;

#[tokio::test]
async fn threat_74_a_blocked_line_keeps_number_and_id_and_a_repetition_is_the_same() {
    let mut play = Play::new(LINES);
    play.data_channel().await;
    play.output(0, b"$ ").await;
    assert_eq!(play.typed(0, "rm -rf").await.as_deref(), Some("rm -rf"));
    let blocked = "\u{5}\u{15}# blocked by policy\r";
    for _ in 0..2 {
        assert_eq!(play.typed(1, " /\r").await.as_deref(), Some(blocked));
    }
    // The same number with other keys is not what was judged.
    assert_eq!(play.typed(1, "rm -rf /\r").await, None);
    let (direction, kind, ack) = play.injected().remove(0);
    assert_eq!(
        (direction, kind),
        (Direction::ToServer, MessageType::Acknowledge)
    );
    assert_eq!(ack["AcknowledgedMessageSequenceNumber"], 1);
    assert_eq!(ack["AcknowledgedMessageType"], "input_stream_data");
    // What comes before its turn comes again.
    assert_eq!(play.typed(3, "f /\r").await, None);
    assert_eq!(play.injected(), []);
    assert_eq!(play.typed(2, "rm -r").await.as_deref(), Some("rm -r"));
    assert_eq!(play.typed(3, "f /\r").await.as_deref(), Some(blocked));
    let notes = play.play.stats().notes;
    assert_eq!(
        (
            notes["input-blocked"],
            notes["input-refused"],
            notes["input-ahead"]
        ),
        (2, 1, 1)
    );
    let records = play.end();
    assert_eq!(
        records
            .iter()
            .filter(|r| r.fields["event"] == "rule")
            .count(),
        2
    );
}

#[tokio::test]
async fn threat_74_a_session_ends_with_an_acknowledged_message_and_a_word_to_the_agent() {
    let mut play = Play::new(&LINES.replace("find", "action = \"end\"\nfind"));
    play.data_channel().await;
    play.output(0, b"$ ").await;
    assert_eq!(play.typed(0, "rm -rf /\r").await, None);
    let injected = play.injected();
    let kinds: Vec<_> = injected
        .iter()
        .map(|(direction, kind, _)| (*direction, *kind))
        .collect();
    assert_eq!(
        kinds,
        [
            (Direction::ToServer, MessageType::Acknowledge),
            (Direction::ToClient, MessageType::ChannelClosed)
        ]
    );
    assert_eq!(injected[1].2["SessionId"], "user-0a1b");
    assert_eq!(play.typed(1, "ls\r").await, None);
    assert_eq!(play.injected().len(), 1);
    assert_eq!(play.end().last().unwrap().fields["reason"], "blocked");
}

#[tokio::test]
async fn threat_74_lies_and_unknown_messages_pass_byte_for_byte_or_close() {
    let mut bytes = AgentMessage::new(MessageType::InputStreamData, MessageId(1), 1, b"ls\r")
        .into_bytes()
        .to_vec();
    bytes[119] = 2;
    let lie = Bytes::from(bytes.clone());
    bytes[119] = 3;
    bytes[4..36].copy_from_slice(b"pause_publication_of_tomorrow   ");
    let unknown = Bytes::from(bytes);
    let mut play = Play::new("");
    play.data_channel().await;
    for bytes in [&lie, &unknown, &Bytes::from_static(b"x"), &Bytes::new()] {
        assert_eq!(
            play.raw(Direction::ToClient, bytes.clone()).await.as_ref(),
            Some(bytes)
        );
    }
    assert_eq!(play.play.stats().notes["malformed"], 3);
    let mut play = Play::new(LINES);
    play.data_channel().await;
    assert_eq!(
        play.raw(Direction::ToClient, unknown.clone()).await,
        Some(unknown)
    );
    assert_eq!(play.raw(Direction::ToClient, lie.clone()).await, None);
    assert_eq!(play.play.stats().aborted, 1);
}

const KMS: &str = r#"{"AgentVersion":"3.3","RequestedClientActions":[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"arn:aws:kms:eu-west-1:1:key/k"}}]}"#;

#[tokio::test]
async fn threat_74_an_encrypted_session_is_metadata_and_its_payloads_are_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let mut play = Play::new(&format!("folder = {:?}\n{LINES}", folder.path()));
    play.data_channel().await;
    let request = payload_type::HANDSHAKE_REQUEST;
    play.stream(MessageType::OutputStreamData, 0, request, KMS.as_bytes())
        .await
        .unwrap();
    play.output(1, b"not really ciphertext but who knows").await;
    assert_eq!(
        play.typed(0, "rm -rf /\r").await.as_deref(),
        Some("rm -rf /\r")
    );
    let records = play.end();
    assert_eq!(files(&folder, "cast").len(), 0);
    let end = &records.last().unwrap().fields;
    assert_eq!(
        (&end["encrypted"], &end["inputBytes"]),
        (&json!(true), &json!(9))
    );
    assert_eq!(end["kmsKey"], "arn:aws:kms:eu-west-1:1:key/k");

    let mut play = Play::new("encrypted = \"end\"");
    play.data_channel().await;
    play.stream(MessageType::OutputStreamData, 0, request, KMS.as_bytes())
        .await;
    assert_eq!(play.injected()[0].1, MessageType::ChannelClosed);
    // A session that was joined shows no handshake; ciphertext is known by being no text.
    let mut play = Play::new(&format!("folder = {:?}", folder.path()));
    play.data_channel().await;
    let cipher: Vec<u8> = (0..64_u8).map(|byte| byte.wrapping_mul(151)).collect();
    play.output(900, &cipher).await;
    play.end();
    assert_eq!(files(&folder, "cast").len(), 0);
}

#[tokio::test]
async fn threat_74_nobody_is_both_ends_of_a_session() {
    let mut play = Play::new(LINES);
    play.data_channel().await;
    let forged = AgentMessage::of_stream(
        MessageType::OutputStreamData,
        MessageId(5),
        1,
        (0, 0),
        payload_type::HANDSHAKE_REQUEST,
        KMS.as_bytes(),
    );
    // Whoever types sends both: the handshake that would stop the rules, and then the line.
    assert!(
        play.raw(Direction::ToClient, forged.into_bytes())
            .await
            .is_some()
    );
    assert_eq!(play.typed(0, "rm -rf /\r").await, None);
    assert_eq!(play.play.stats().notes["wrong-way"], 1);
}

#[tokio::test]
async fn both_ends_of_a_session_may_be_behind_one_address() {
    let (ssm, records) = config(LINES);
    let ssm: Arc<dyn Interceptor> = Arc::new(ssm);
    let play = || Play {
        outlets: Vec::new(),
        play: Playbook::from_arc(Arc::clone(&ssm)),
        records: Arc::clone(&records),
        ids: 0,
    };
    let (mut agent, mut plugin) = (play(), play());
    agent.data_channel().await;
    let request =
        "GET /v1/data-channel/user-0a1b HTTP/1.1\nHost: ssmmessages.eu-west-1.lab.name\n\n";
    plugin.play.request(request).await;
    let text = Payload::Text(r#"{"TokenValue":"t","ClientId":"c"}"#.to_owned());
    let direction = Direction::ToServer;
    plugin
        .play
        .message(Message {
            direction,
            payload: text,
        })
        .await;
    agent.output(0, b"$ ").await;
    let (kind, output) = (MessageType::OutputStreamData, payload_type::OUTPUT);
    let message = AgentMessage::of_stream(kind, MessageId(1), 1, (0, 0), output, b"$ ");
    let bytes = message.into_bytes();
    assert_eq!(
        plugin.raw(Direction::ToClient, bytes.clone()).await,
        Some(bytes)
    );
    assert!(!agent.play.stats().notes.contains_key("wrong-way"));
}

#[tokio::test]
async fn other_hosts_and_paths_are_not_looked_at() {
    let mut play = Play::new("");
    for (host, path) in [
        ("example.com", "/v1/data-channel/s"),
        (
            "ssmmessages.eu-west-1.amazonaws.com.evil.example",
            "/v1/data-channel/s",
        ),
        ("ssmmessages.eu-west-1.amazonaws.com", "/v2/data-channel/s"),
        ("ssmmessages.eu-west-1.amazonaws.com", "/v1/other/s"),
    ] {
        play.play
            .request(&format!("GET {path} HTTP/1.1\nHost: {host}\n\n"))
            .await;
        let junk = Bytes::from_static(b"junk");
        assert_eq!(
            play.raw(Direction::ToClient, junk.clone()).await,
            Some(junk)
        );
    }
    assert_eq!(play.end(), []);
    assert_eq!(
        channel_of("//v1/data%2Dchannel/a%2Fb/"),
        Some(("data-channel".into(), "a/b".into()))
    );
    assert_eq!(channel_of("/v1/data-channel"), None);
}

#[tokio::test]
async fn one_session_too_many_is_not_recorded_or_not_let_be() {
    let folder = tempfile::tempdir().unwrap();
    let folder = format!("folder = {:?}\nmax-sessions = 1\n", folder.path());
    for (unrecorded, passes) in [("pass", true), ("end", false)] {
        let (ssm, _) = config(&format!("{folder}unrecorded = {unrecorded:?}"));
        let ssm: Arc<dyn Interceptor> = Arc::new(ssm);
        let play = |ssm: &Arc<dyn Interceptor>| Play {
            outlets: ssm.outlets(),
            play: Playbook::from_arc(Arc::clone(ssm)),
            records: Arc::new(RecordQueue::new(1)),
            ids: 0,
        };
        let (mut first, mut second) = (play(&ssm), play(&ssm));
        first.data_channel().await;
        let request =
            "GET /v1/data-channel/other HTTP/1.1\nHost: ssmmessages.eu-west-1.lab.name\n\n";
        second.play.request(request).await;
        let junk = Bytes::from_static(b"junk");
        assert_eq!(
            second.raw(Direction::ToServer, junk).await.is_some(),
            passes
        );
        assert_eq!(second.play.stats().notes["session-refused"], 1);
    }
}

#[test]
fn faults_name_the_key_and_what_is_allowed() {
    let rule = |text: &str| format!("[[rule]]\nname = \"a\"\non = \"input\"\nfind = \"a\"\n{text}");
    for (config, expected) in [
        (
            "hosts = [\"a b\"]".to_owned(),
            "hosts[0]: \"a b\" is no pattern for hosts",
        ),
        (
            "folder = \"/no/such\"".to_owned(),
            "folder: /no/such is no folder",
        ),
        (
            "max-recording = \"1KiB\"".to_owned(),
            "max-recording: 1KiB is out of range; allowed: 64KiB to 16GiB",
        ),
        (
            "max-sessions = 0".to_owned(),
            "max-sessions: 0 is out of range",
        ),
        (
            "idle = \"5s\"".to_owned(),
            "idle: \"5s\" is no such duration; allowed: 1m to 48h",
        ),
        (
            "unrecorded = \"end\"".to_owned(),
            "unrecorded: nothing is recorded without \"folder\"",
        ),
        (
            rule("with = \"a\\u0003\""),
            "rule[0].with: holds a control character",
        ),
        (rule("action = \"edit\""), "rule[0].with: missing key"),
        (
            rule("action = \"drop\""),
            "rule[0].action: unknown variant \"drop\"",
        ),
        (
            rule("").replace("find = \"a\"", "find = \"(\""),
            "rule[0].find: ",
        ),
        (
            rule("action = \"end\"").replace("input", "command"),
            "rule[0].action: a command is no session",
        ),
        (
            rule("action = \"end\"").replace("input", "session"),
            "rule[0].action: a session that is asked for",
        ),
        (
            rule("").replace("\"a\"\non", "\"\"\non"),
            "rule[0].name: \"\" is no name",
        ),
        (
            "foldr = \"a\"".to_owned(),
            "foldr: unknown key; allowed: hosts, message-hosts, folder",
        ),
    ] {
        let table = config.parse().unwrap();
        let fault = Ssm::from_config(&table).unwrap_err().to_string();
        assert!(fault.starts_with(expected), "{config}\n  {fault}");
    }
}
