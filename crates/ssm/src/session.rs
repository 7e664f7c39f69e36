//! A session, as its data channel shows it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Instant, UNIX_EPOCH};

use sdk::{Bytes, Direction, Record};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::answer::{self, Ids};
use crate::asciicast::What;
use crate::document::{cut, text_field};
use crate::message::{AgentMessage, MessageType, payload_type};
use crate::recorder::{Opening, Recorder, Recording, file_name};
use crate::stream::{Place, Stream, Utf8};
use crate::typed::{LineRule, TypedLine};
use crate::whereabouts::{Now, Whereabouts, put};

/// Messages typed whose fate is remembered, in case they come again.
const MAX_SENT: usize = 1024;
/// Messages typed ahead of their turn that are refused before the missing one is given up.
const MAX_AHEAD: u32 = 256;
/// Shortest ciphertext: a nonce of 12 bytes and a tag of 16.
const MIN_CIPHERTEXT: usize = 28;
/// Largest window, in characters.
const MAX_WINDOW: u32 = 10_000;

/// What is wanted of sessions.
#[derive(Debug, Default)]
pub(crate) struct Policy {
    /// Rules about typed lines.
    pub(crate) lines: Vec<LineRule>,
    /// Whether sessions are written to files.
    pub(crate) records: bool,
    /// Whether what is typed is in the recording.
    pub(crate) records_input: bool,
    /// Whether sessions end that are encrypted from end to end.
    pub(crate) ends_encrypted: bool,
    /// Whether sessions end that cannot be recorded.
    pub(crate) ends_unrecorded: bool,
}

/// What sessions work with.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) policy: Policy,
    pub(crate) recorder: Recorder,
    pub(crate) ids: Ids,
}

/// What becomes of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) enum Step {
    #[default]
    Forward,
    Replace(Bytes),
    Drop,
}

/// What becomes of a message, and what else is to be done.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) step: Step,
    /// Messages of our own, and which way they go.
    pub(crate) inject: Vec<(Direction, Bytes)>,
    pub(crate) notes: Vec<&'static str>,
    pub(crate) records: Vec<Record>,
}

impl Outcome {
    /// Sends a message of our own.
    pub(crate) fn send(&mut self, direction: Direction, message: AgentMessage) {
        self.inject.push((direction, message.into_bytes()));
    }
}

/// The other way.
pub(crate) const fn back(direction: Direction) -> Direction {
    match direction {
        Direction::ToClient => Direction::ToServer,
        Direction::ToServer => Direction::ToClient,
    }
}

/// What the control channel said when the session was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) owner: Option<String>,
    pub(crate) run_as: Option<String>,
    pub(crate) document: Option<String>,
}

/// What the stream of a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    /// What stands on a terminal.
    Terminal,
    /// Encrypted from end to end, with this KMS key.
    Encrypted(Option<String>),
    /// Something else, such as a forwarded port.
    Other,
}

#[derive(Debug)]
enum Recorded {
    NotYet,
    Running(Recording),
    Refused,
}

/// A typed message that was dealt with.
#[derive(Debug)]
struct Sent {
    /// Of what came.
    digest: [u8; 32],
    /// What was sent on, if it was something else.
    instead: Option<Bytes>,
    /// It was kept back.
    is_dropped: bool,
}

/// Everything that is known of a session.
#[derive(Debug)]
pub(crate) struct Session {
    name: String,
    at: Whereabouts,
    began: Now,
    pub(crate) last: Instant,
    asked: Asked,
    instance: Option<String>,
    content: Content,
    session_type: Option<String>,
    versions: [Option<String>; 2],
    /// Which way the agent's output goes.
    output_way: Option<Direction>,
    output: Stream<(u32, Bytes)>,
    input: Stream<(u32, Bytes)>,
    texts: [Utf8; 3],
    was_joined: bool,
    typed: TypedLine,
    sent: BTreeMap<i64, Sent>,
    ahead: u32,
    recorded: Recorded,
    file: Option<String>,
    size: (u32, u32),
    bytes: [u64; 2],
    exit_code: Option<String>,
    /// We have ended it.
    is_ended: bool,
    /// Why it is over, once it is.
    pub(crate) over: Option<&'static str>,
    has_begun: bool,
    is_finished: bool,
}

#[derive(Deserialize)]
struct Size {
    cols: u32,
    rows: u32,
}

impl Session {
    pub(crate) fn new(name: &str, at: Whereabouts, asked: Asked, now: Now) -> Self {
        Self {
            name: cut(name, 256),
            instance: at.instance().map(str::to_owned),
            at,
            began: now,
            last: now.clock,
            asked,
            content: Content::Terminal,
            session_type: None,
            versions: [None, None],
            output_way: None,
            output: Stream::default(),
            input: Stream::default(),
            texts: Default::default(),
            was_joined: false,
            typed: TypedLine::default(),
            sent: BTreeMap::new(),
            ahead: 0,
            recorded: Recorded::NotYet,
            file: None,
            size: (80, 24),
            bytes: [0, 0],
            exit_code: None,
            is_ended: false,
            over: None,
            has_begun: false,
            is_finished: false,
        }
    }

    /// The first message of a WebSocket, in which the client says who it is. Its token stays out.
    /// Gives the record of the session's beginning, once.
    pub(crate) fn open(&mut self, text: &str) -> Option<Record> {
        if let Ok(value) = serde_json::from_str::<Value>(text) {
            let told = text_field(&value, "ClientInstanceId");
            self.instance = told.or_else(|| self.instance.take());
        }
        let has_begun = core::mem::replace(&mut self.has_begun, true);
        (!has_begun).then(|| self.record("begin", self.began))
    }

    fn record(&self, event: &str, now: Now) -> Record {
        let mut fields = self.about();
        put(&mut fields, "event", event);
        Record {
            kind: "ssm-session",
            at: now.wall,
            fields,
        }
    }

    fn about(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        put(&mut fields, "session", &self.name);
        put(&mut fields, "instance", &self.instance);
        put(&mut fields, "owner", &self.asked.owner);
        put(&mut fields, "runAs", &self.asked.run_as);
        put(&mut fields, "document", &self.asked.document);
        let began = humantime::format_rfc3339_millis(self.began.wall);
        put(&mut fields, "began", began.to_string());
        self.at.describe(&mut fields);
        put(&mut fields, "sessionType", &self.session_type);
        let [agent, client] = &self.versions;
        put(&mut fields, "agentVersion", agent);
        put(&mut fields, "clientVersion", client);
        if let Content::Encrypted(key) = &self.content {
            put(&mut fields, "encrypted", true);
            put(&mut fields, "kmsKey", key);
        }
        put(&mut fields, "file", &self.file);
        fields
    }

    /// Ends the recording; gives the record of the end, once.
    pub(crate) fn finish(&mut self, why: &'static str, with: &Tools, now: Now) -> Option<Record> {
        if core::mem::replace(&mut self.is_finished, true) {
            return None;
        }
        let why = self.over.unwrap_or(why);
        let mut outcome = Outcome::default();
        // What waited for something that never came is still what was written.
        loop {
            self.output.skip();
            let Some((kind, payload)) = self.output.pop() else {
                break;
            };
            self.written(kind, &payload, with, now, &mut outcome);
        }
        let mut record = self.record("end", now);
        let fields = &mut record.fields;
        let [output, input] = self.bytes;
        let lasted = now.clock.saturating_duration_since(self.began.clock);
        put(fields, "seconds", (lasted.as_millis() as f64) / 1000.0);
        put(fields, "outputBytes", output);
        put(fields, "inputBytes", input);
        put(fields, "exitCode", &self.exit_code);
        put(fields, "reason", why);
        let missing = self.output.missing.saturating_add(self.input.missing);
        put(fields, "missingMessages", (missing > 0).then_some(missing));
        if let Recorded::Running(recording) = &mut self.recorded {
            recording.why = why;
            let lost = recording.fate.lost.load(Ordering::Relaxed);
            put(fields, "lostEvents", (lost > 0).then_some(lost));
            let is_cut = recording.fate.full.load(Ordering::Relaxed)
                || recording.fate.failed.load(Ordering::Relaxed);
            put(fields, "incomplete", is_cut.then_some(true));
        }
        self.recorded = Recorded::Refused;
        Some(record)
    }

    /// A message of the data channel.
    pub(crate) fn message(
        &mut self,
        message: &AgentMessage,
        direction: Direction,
        with: &Tools,
        now: Now,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.last = now.clock;
        let way = match message.kind {
            MessageType::OutputStreamData => direction,
            MessageType::InputStreamData => back(direction),
            MessageType::ChannelClosed => {
                self.over = self.over.or(Some("closed"));
                return outcome;
            }
            _ => return outcome,
        };
        if self.is_ended {
            outcome.step = Step::Drop;
            outcome.send(
                back(direction),
                answer::acknowledge(message, with.ids.next(), now.wall),
            );
            return outcome;
        }
        if *self.output_way.get_or_insert(way) != way {
            // Nobody is both ends of a session: this is made up, to be taken for something else.
            outcome.notes.push("wrong-way");
            if !with.policy.lines.is_empty() {
                outcome.step = Step::Drop;
            }
            return outcome;
        }
        if message.kind == MessageType::OutputStreamData {
            self.output(message, with, now, &mut outcome);
        } else {
            self.input(message, direction, with, now, &mut outcome);
        }
        let is_forbidden =
            with.policy.ends_encrypted && matches!(self.content, Content::Encrypted(_));
        if is_forbidden && !self.is_ended {
            outcome.notes.push("encrypted-ended");
            self.end("encrypted", with, now, &mut outcome);
        }
        if with.policy.ends_unrecorded && !self.is_ended && self.lacks_recording(with) {
            outcome.notes.push("unrecorded-ended");
            self.end("unrecorded", with, now, &mut outcome);
        }
        outcome
    }

    /// Tells the client, agent or plugin, that the session is over.
    fn end(&mut self, why: &'static str, with: &Tools, now: Now, outcome: &mut Outcome) {
        self.is_ended = true;
        self.over = Some(why);
        let instance = self.instance.as_deref().unwrap_or_default();
        let closed = answer::channel_closed(&self.name, instance, with.ids.next(), now.wall);
        outcome.send(Direction::ToClient, closed);
    }

    fn lacks_recording(&self, with: &Tools) -> bool {
        with.policy.records
            && self.content == Content::Terminal
            && match &self.recorded {
                Recorded::NotYet => false,
                Recorded::Refused => true,
                Recorded::Running(Recording { fate, .. }) => {
                    fate.failed.load(Ordering::Relaxed)
                        || fate.full.load(Ordering::Relaxed)
                        || fate.lost.load(Ordering::Relaxed) > 0
                }
            }
    }

    fn output(&mut self, message: &AgentMessage, with: &Tools, now: Now, outcome: &mut Outcome) {
        let payload = message.payload();
        if message.payload_type == payload_type::HANDSHAKE_REQUEST {
            self.handshake(payload, outcome);
        }
        if self.output.was_joined(message.sequence) {
            self.was_joined = true;
            outcome.notes.push("session-joined");
        }
        let (kind, size) = (message.payload_type, payload.len());
        let payload = Bytes::copy_from_slice(payload);
        if self
            .output
            .push(message.sequence, (kind, payload), size, now.clock)
            == Place::Again
        {
            outcome.notes.push("repeated");
            return;
        }
        while let Some((kind, payload)) = self.output.pop() {
            self.written(kind, &payload, with, now, outcome);
        }
    }

    /// What the agent says about the session before it begins.
    fn handshake(&mut self, payload: &[u8], outcome: &mut Outcome) {
        let Ok(request) = serde_json::from_slice::<Value>(payload) else {
            return;
        };
        let [agent, _] = &mut self.versions;
        *agent = text_field(&request, "AgentVersion");
        let actions = request
            .get("RequestedClientActions")
            .and_then(Value::as_array);
        for action in actions.into_iter().flatten() {
            let parameters = action.get("ActionParameters").unwrap_or(&Value::Null);
            match action.get("ActionType").and_then(Value::as_str) {
                Some("KMSEncryption") => {
                    if !matches!(self.content, Content::Encrypted(_)) {
                        outcome.notes.push("session-encrypted");
                    }
                    self.content = Content::Encrypted(text_field(parameters, "KMSKeyId"));
                }
                Some("SessionType") => {
                    let name = text_field(parameters, "SessionType");
                    let is_terminal = name.as_deref() != Some("Port");
                    if !is_terminal && self.content == Content::Terminal {
                        self.content = Content::Other;
                    }
                    self.session_type = name;
                }
                _ => {}
            }
        }
    }

    /// A piece of the output, in its turn.
    fn written(
        &mut self,
        kind: u32,
        payload: &[u8],
        with: &Tools,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let [output, _] = &mut self.bytes;
        *output += payload.len() as u64;
        let is_text = matches!(
            kind,
            payload_type::OUTPUT | payload_type::STDERR | payload_type::EXIT_CODE
        );
        if !is_text || self.content != Content::Terminal {
            return;
        }
        if core::mem::take(&mut self.was_joined) && is_ciphertext(payload) {
            self.content = Content::Encrypted(None);
            outcome.notes.push("session-encrypted");
            return;
        }
        let [out, error, _] = &mut self.texts;
        let text = match kind {
            payload_type::EXIT_CODE => {
                self.exit_code = Some(cut(&String::from_utf8_lossy(payload), 32));
                return;
            }
            payload_type::STDERR => error.decode(payload),
            _ => out.decode(payload),
        };
        self.happened(What::Output, text, with, now, outcome);
    }

    /// Adds to the recording; begins it with the first thing that is worth it.
    fn happened(
        &mut self,
        what: What,
        text: String,
        with: &Tools,
        now: Now,
        outcome: &mut Outcome,
    ) {
        if !with.policy.records || text.is_empty() {
            return;
        }
        if matches!(self.recorded, Recorded::NotYet) {
            let since = self
                .began
                .wall
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let stamp = humantime::format_rfc3339_seconds(self.began.wall).to_string();
            let name = format!(
                "{}-{}",
                stamp.replace(['-', ':'], ""),
                file_name(&self.name)
            );
            let instance = self.instance.as_deref().unwrap_or("an unknown instance");
            let opening = Opening {
                title: format!("{} on {instance}", self.name),
                timestamp: since.as_secs(),
                size: self.size,
                about: Value::Object(self.about()),
                name: name.clone(),
            };
            self.recorded = match with.recorder.open(opening) {
                Some(recording) => {
                    self.file = Some(format!("{name}.cast"));
                    Recorded::Running(recording)
                }
                None => {
                    outcome.notes.push("recording-refused");
                    Recorded::Refused
                }
            };
        }
        if let Recorded::Running(recording) = &self.recorded {
            let lost = recording.fate.lost.load(Ordering::Relaxed);
            recording.event(
                now.clock.saturating_duration_since(self.began.clock),
                what,
                text,
            );
            if recording.fate.lost.load(Ordering::Relaxed) > lost {
                outcome.notes.push("recording-event-lost");
            }
        }
    }

    fn input(
        &mut self,
        message: &AgentMessage,
        direction: Direction,
        with: &Tools,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let payload = message.payload();
        let number = message.sequence;
        if with.policy.lines.is_empty() || self.content != Content::Terminal {
            let (kind, size) = (message.payload_type, payload.len());
            let piece = (kind, Bytes::copy_from_slice(payload));
            if self.input.push(number, piece, size, now.clock) == Place::Again {
                outcome.notes.push("repeated");
            }
            while let Some((kind, payload)) = self.input.pop() {
                self.typed(kind, &payload, with, now, outcome);
            }
            return;
        }
        // With rules, what reaches the agent is what was judged: each message once and in its turn.
        let digest: [u8; 32] = Sha256::digest(payload).into();
        match self.input.place(number) {
            Place::Next => {}
            Place::Again => {
                let sent = self.sent.get(&number).filter(|sent| sent.digest == digest);
                match sent {
                    Some(Sent {
                        instead,
                        is_dropped: false,
                        ..
                    }) => {
                        outcome.notes.push("repeated");
                        if let Some(instead) = instead {
                            outcome.step =
                                Step::Replace(message.with_payload(instead).into_bytes());
                        }
                    }
                    // Not what was judged, or not known any more.
                    _ => {
                        outcome.notes.push("input-refused");
                        outcome.step = Step::Drop;
                        outcome.send(
                            back(direction),
                            answer::acknowledge(message, with.ids.next(), now.wall),
                        );
                    }
                }
                return;
            }
            Place::Ahead => {
                self.ahead += 1;
                if self.ahead <= MAX_AHEAD {
                    // Not acknowledged, so it comes again, after the one before it.
                    outcome.notes.push("input-ahead");
                    outcome.step = Step::Drop;
                    return;
                }
                self.input.resume_at(number);
            }
        }
        self.input.advance();
        self.ahead = 0;
        let mut sent = Sent {
            digest,
            instead: None,
            is_dropped: false,
        };
        let mut applied = Vec::new();
        if message.payload_type == payload_type::OUTPUT {
            let judged = self.typed.judge(payload, &with.policy.lines);
            applied = judged.rules;
            if judged.ends {
                sent.is_dropped = true;
                outcome.step = Step::Drop;
                outcome.send(
                    back(direction),
                    answer::acknowledge(message, with.ids.next(), now.wall),
                );
                self.end("blocked", with, now, outcome);
            } else if let Some(keys) = judged.keys {
                outcome.step = Step::Replace(message.with_payload(&keys).into_bytes());
                sent.instead = Some(keys.into());
            }
        }
        let passed = sent.instead.clone();
        let is_dropped = sent.is_dropped;
        self.sent.insert(number, sent);
        if self.sent.len() > MAX_SENT {
            self.sent.pop_first();
        }
        if !is_dropped {
            let payload = passed.as_deref().unwrap_or(payload);
            self.typed(message.payload_type, payload, with, now, outcome);
        }
        for rule in applied {
            outcome.notes.push("input-blocked");
            let remark = format!("rule {rule}");
            self.happened(What::Marker, remark, with, now, outcome);
            let mut record = self.record("rule", now);
            put(&mut record.fields, "rule", rule);
            outcome.records.push(record);
        }
    }

    /// A piece of the input, in its turn.
    fn typed(&mut self, kind: u32, payload: &[u8], with: &Tools, now: Now, outcome: &mut Outcome) {
        let [_, input] = &mut self.bytes;
        *input += payload.len() as u64;
        match kind {
            payload_type::SIZE => {
                let Ok(Size { cols, rows }) = serde_json::from_slice(payload) else {
                    return;
                };
                let is_sane = (1..=MAX_WINDOW).contains(&cols) && (1..=MAX_WINDOW).contains(&rows);
                if !is_sane || self.size == (cols, rows) {
                    return;
                }
                self.size = (cols, rows);
                if matches!(self.recorded, Recorded::Running(_)) {
                    self.happened(What::Resize, format!("{cols}x{rows}"), with, now, outcome);
                }
            }
            payload_type::HANDSHAKE_RESPONSE => {
                if let Ok(response) = serde_json::from_slice::<Value>(payload) {
                    let [_, client] = &mut self.versions;
                    *client = text_field(&response, "ClientVersion");
                }
            }
            payload_type::OUTPUT
                if with.policy.records_input && self.content == Content::Terminal =>
            {
                let [.., keys] = &mut self.texts;
                let text = keys.decode(payload);
                self.happened(What::Input, text, with, now, outcome);
            }
            _ => {}
        }
    }
}

/// Whether this looks like ciphertext: no text, also when its first and last character were cut.
fn is_ciphertext(payload: &[u8]) -> bool {
    payload.len() >= MIN_CIPHERTEXT
        && payload.get(3..payload.len() - 3).is_some_and(|middle| {
            let mut utf8 = Utf8::default();
            utf8.decode(middle)
                .matches(char::REPLACEMENT_CHARACTER)
                .count()
                > 3
        })
}
