//! The control channel of an agent: commands and their replies, and sessions that are asked for.

use std::collections::VecDeque;

use records::Redaction;
use sdk::{Direction, Record};
use serde_json::{Map, Value};

use crate::answer;
use crate::document::{DocumentRule, blocked_within, command_of, cut, edited, text_field};
use crate::message::{AgentMessage, MessageId, MessageType};
use crate::session::{Asked, Outcome, Step, Tools, back};
use crate::whereabouts::{Now, Whereabouts, put};

/// Messages of ours whose acknowledgement is awaited, and messages that may come again.
const MAX_REMEMBERED: usize = 64;
/// Bytes of a document or reply in a record.
const MAX_TEXT: usize = 64 << 10;

/// Rules about documents, by where they come.
#[derive(Debug, Default)]
pub(crate) struct DocumentRules {
    /// Run Command.
    pub(crate) commands: Vec<DocumentRule>,
    /// Sessions that are asked for.
    pub(crate) sessions: Vec<DocumentRule>,
}

/// What a message of the control channel says about sessions.
#[derive(Debug)]
pub(crate) enum News {
    /// This session has been asked for.
    Asked(String, Asked),
    /// This session is over.
    Closed(String),
}

/// A control channel.
#[derive(Debug)]
pub(crate) struct Control {
    instance: String,
    at: Whereabouts,
    ours: VecDeque<MessageId>,
    seen: VecDeque<MessageId>,
}

impl Control {
    pub(crate) fn new(instance: &str, at: Whereabouts) -> Self {
        Self {
            instance: cut(instance, 256),
            at,
            ours: VecDeque::new(),
            seen: VecDeque::new(),
        }
    }

    /// The first message of the channel, in which the agent says what it is. Its token stays out.
    pub(crate) fn open(&self, text: &str, now: Now) -> Record {
        let value = serde_json::from_str(text).unwrap_or(Value::Null);
        let mut record = record("ssm-agent", &self.instance, &self.at, now);
        put(
            &mut record.fields,
            "agentVersion",
            text_field(&value, "AgentVersion"),
        );
        put(
            &mut record.fields,
            "platform",
            text_field(&value, "PlatformType"),
        );
        record
    }

    /// A message of the channel.
    pub(crate) fn message(
        &mut self,
        message: &AgentMessage,
        direction: Direction,
        rules: &DocumentRules,
        with: &Tools,
        now: Now,
    ) -> (Outcome, Option<News>) {
        let mut outcome = Outcome::default();
        let mut news = None;
        match message.kind {
            MessageType::AgentJob => self.job(message, direction, rules, with, now, &mut outcome),
            MessageType::InteractiveShell => {
                news = self.session(message, direction, rules, with, now, &mut outcome);
            }
            MessageType::AgentJobReply | MessageType::AgentTaskComplete if self.is_new(message) => {
                outcome.records.extend(self.reply(message, now));
            }
            MessageType::AgentJobReplyAck | MessageType::AgentTaskAcknowledge => {
                let names = ["acknowledgedMessageId", "MessageId"];
                let payload = read(message);
                let acked = names.iter().find_map(|name| payload.get(*name)?.as_str());
                // The agent knows nothing of the message that this acknowledges.
                if let Some(at) = self
                    .ours
                    .iter()
                    .position(|id| Some(id.to_string().as_str()) == acked)
                {
                    self.ours.remove(at);
                    outcome.step = Step::Drop;
                }
            }
            MessageType::ChannelClosed => {
                news = text_field(&read(message), "SessionId").map(News::Closed);
            }
            _ => {}
        }
        (outcome, news)
    }

    /// Whether the message comes for the first time, as far as is remembered.
    fn is_new(&mut self, message: &AgentMessage) -> bool {
        let is_new = !self.seen.contains(&message.id);
        if is_new {
            remember(&mut self.seen, message.id);
        }
        is_new
    }

    fn job(
        &mut self,
        message: &AgentMessage,
        direction: Direction,
        rules: &DocumentRules,
        with: &Tools,
        now: Now,
        outcome: &mut Outcome,
    ) {
        let mut payload = read(message);
        let job = text_field(&payload, "JobId").unwrap_or_default();
        let content = payload
            .get("Content")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let mut record = record("ssm-command", &self.instance, &self.at, now);
        describe_command(&mut record.fields, &job, &content);
        put(&mut record.fields, "topic", text_field(&payload, "Topic"));
        if let Some((rule, why)) = blocked_within(message.payload(), &content, &rules.commands) {
            outcome.step = Step::Drop;
            outcome.notes.push("command-blocked");
            put(&mut record.fields, "blockedBy", rule);
            let ack = answer::job_ack(message, &job, with.ids.next(), now.wall);
            outcome.send(back(direction), ack);
            let reply = answer::job_failed(&job, why, with.ids.next(), now.wall);
            remember(&mut self.ours, reply.id);
            outcome.send(back(direction), reply);
        } else if let Some((document, applied)) = edited(&content, &rules.commands) {
            outcome.notes.push("command-edited");
            put(&mut record.fields, "editedBy", applied);
            describe_command(&mut record.fields, &job, &document);
            if let Some(content) = payload.get_mut("Content") {
                *content = document.into();
            }
            let edited = message.with_payload(payload.to_string().as_bytes());
            outcome.step = Step::Replace(edited.into_bytes());
        }
        if self.is_new(message) {
            outcome.records.push(record);
        }
    }

    fn session(
        &mut self,
        message: &AgentMessage,
        direction: Direction,
        rules: &DocumentRules,
        with: &Tools,
        now: Now,
        outcome: &mut Outcome,
    ) -> Option<News> {
        let payload = read(message);
        let task = text_field(&payload, "TaskId").unwrap_or_default();
        let content = payload
            .get("Content")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let document = serde_json::from_str(content).unwrap_or(Value::Null);
        let session = text_field(&document, "SessionId").unwrap_or_else(|| task.clone());
        let asked = Asked {
            owner: text_field(&document, "SessionOwner"),
            run_as: text_field(&document, "RunAsUser"),
            document: text_field(&document, "DocumentName"),
        };
        let mut record = record("ssm-session", &self.instance, &self.at, now);
        put(&mut record.fields, "event", "asked");
        put(&mut record.fields, "session", &session);
        put(&mut record.fields, "owner", &asked.owner);
        put(&mut record.fields, "runAs", &asked.run_as);
        put(&mut record.fields, "document", &asked.document);
        if let Some((rule, why)) = blocked_within(message.payload(), content, &rules.sessions) {
            outcome.step = Step::Drop;
            outcome.notes.push("session-blocked");
            put(&mut record.fields, "blockedBy", rule);
            let topic = text_field(&payload, "Topic").unwrap_or_default();
            let names = (task.as_str(), topic.as_str());
            let reply = answer::task_failed(names, &self.instance, why, with.ids.next(), now.wall);
            remember(&mut self.ours, reply.id);
            outcome.send(back(direction), reply);
        }
        if self.is_new(message) {
            outcome.records.push(record);
        }
        (outcome.step == Step::Forward).then_some(News::Asked(session, asked))
    }

    /// What the agent says about a command or a session that is over.
    fn reply(&self, message: &AgentMessage, now: Now) -> Option<Record> {
        let payload = read(message);
        if message.kind == MessageType::AgentTaskComplete {
            let mut record = record("ssm-session", &self.instance, &self.at, now);
            put(&mut record.fields, "event", "complete");
            put(
                &mut record.fields,
                "session",
                text_field(&payload, "TaskId")?,
            );
            put(
                &mut record.fields,
                "status",
                text_field(&payload, "FinalTaskStatus"),
            );
            return Some(record);
        }
        let mut record = record("ssm-command-reply", &self.instance, &self.at, now);
        let job = text_field(&payload, "jobId")?;
        describe_reply(&mut record.fields, &job, payload.get("content")?.as_str()?);
        Some(record)
    }
}

fn remember(ids: &mut VecDeque<MessageId>, id: MessageId) {
    if ids.len() >= MAX_REMEMBERED {
        ids.pop_front();
    }
    ids.push_back(id);
}

fn read(message: &AgentMessage) -> Value {
    serde_json::from_slice(message.payload()).unwrap_or(Value::Null)
}

/// A record with where and for whom.
pub(crate) fn record(kind: &'static str, instance: &str, at: &Whereabouts, now: Now) -> Record {
    let mut fields = Map::new();
    put(
        &mut fields,
        "instance",
        (!instance.is_empty()).then_some(instance),
    );
    at.describe(&mut fields);
    Record {
        kind,
        at: now.wall,
        fields,
    }
}

/// What a command is to do, without the members whose names say that they are secrets.
pub(crate) fn describe_command(fields: &mut Map<String, Value>, job: &str, content: &str) {
    let mut document = serde_json::from_str(content).unwrap_or(Value::Null);
    Redaction::default().json(&mut document);
    put(fields, "job", job);
    let command = text_field(&document, "CommandId");
    put(
        fields,
        "command",
        command.or_else(|| command_of(job).map(str::to_owned)),
    );
    put(fields, "document", text_field(&document, "DocumentName"));
    let text = |name| {
        document
            .get(name)
            .map(|value| cut(&value.to_string(), MAX_TEXT))
    };
    put(fields, "parameters", text("Parameters"));
    put(fields, "content", text("DocumentContent"));
    put(fields, "cancels", text_field(&document, "CancelMessageId"));
}

/// What became of it.
pub(crate) fn describe_reply(fields: &mut Map<String, Value>, job: &str, content: &str) {
    let mut reply = serde_json::from_str(content).unwrap_or(Value::Null);
    Redaction::default().json(&mut reply);
    put(fields, "job", job);
    put(fields, "command", command_of(job));
    put(fields, "status", text_field(&reply, "documentStatus"));
    let output = reply
        .get("runtimeStatus")
        .filter(|status| !status.is_null());
    put(
        fields,
        "output",
        output.map(|status| cut(&status.to_string(), MAX_TEXT)),
    );
    let trace = text_field(&reply, "documentTraceOutput");
    put(fields, "trace", trace.filter(|trace| !trace.is_empty()));
}
