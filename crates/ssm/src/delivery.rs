//! Run Command on the older path, the Message Delivery Service (`ec2messages`): JSON over HTTP.
//!
//! Nothing can be answered here in the agent's place. A command that is not to be run arrives as a
//! document that no agent can run, which says why; the agent reports that itself.

use sdk::Record;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::control::{describe_command, describe_reply, record};
use crate::document::{DocumentRule, blocked_within, edited, text_field};
use crate::whereabouts::{Now, Whereabouts, put};

/// What the operations' names begin with, in `X-Amz-Target`.
const SERVICE: &str = "EC2WindowsMessageDeliveryService.";

/// Operations that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// The agent asks for commands.
    GetMessages,
    /// The agent says what became of one.
    SendReply,
}

impl Operation {
    /// Of a value of `X-Amz-Target`.
    pub(crate) fn of(target: &str) -> Option<Self> {
        match target.strip_prefix(SERVICE)? {
            "GetMessages" => Some(Self::GetMessages),
            "SendReply" => Some(Self::SendReply),
            _ => None,
        }
    }
}

/// What becomes of an answer to `GetMessages`.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// The answer, if it changes.
    pub(crate) instead: Option<String>,
    pub(crate) notes: Vec<&'static str>,
    pub(crate) records: Vec<Record>,
}

/// Looks at the commands in an answer; `None` if it cannot be read.
pub(crate) fn messages(
    text: &str,
    rules: &[DocumentRule],
    at: &Whereabouts,
    now: Now,
) -> Option<Messages> {
    let mut answer: Value = serde_json::from_str(text).ok()?;
    let destination = text_field(&answer, "Destination").unwrap_or_default();
    let mut result = Messages::default();
    let mut is_changed = false;
    for message in answer
        .get_mut("Messages")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        let id = text_field(message, "MessageId").unwrap_or_default();
        let instance = text_field(message, "Destination").unwrap_or_else(|| destination.clone());
        let payload = message
            .get("Payload")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let mut record = record("ssm-command", &instance, at, now);
        describe_command(&mut record.fields, &id, &payload);
        put(&mut record.fields, "topic", text_field(message, "Topic"));
        let whole = message.to_string();
        let instead = if let Some((rule, why)) = blocked_within(whole.as_bytes(), &payload, rules) {
            result.notes.push("command-blocked");
            put(&mut record.fields, "blockedBy", rule);
            Some(refusal(&payload, why))
        } else if let Some((document, applied)) = edited(&payload, rules) {
            result.notes.push("command-edited");
            put(&mut record.fields, "editedBy", applied);
            describe_command(&mut record.fields, &id, &document);
            Some(document)
        } else {
            None
        };
        result.records.push(record);
        if let Some(instead) = instead {
            is_changed = true;
            if message.get("PayloadDigest").and_then(Value::as_str) == Some(&digest(&payload))
                && let Some(place) = message.get_mut("PayloadDigest")
            {
                *place = digest(&instead).into();
            }
            if let Some(place) = message.get_mut("Payload") {
                *place = instead.into();
            }
        }
    }
    result.instead = is_changed.then(|| answer.to_string());
    Some(result)
}

/// The record of a `SendReply`.
pub(crate) fn reply(text: &str, at: &Whereabouts, now: Now) -> Option<Record> {
    let request: Value = serde_json::from_str(text).ok()?;
    let mut record = record(
        "ssm-command-reply",
        at.instance().unwrap_or_default(),
        at,
        now,
    );
    let id = text_field(&request, "MessageId")?;
    describe_reply(&mut record.fields, &id, request.get("Payload")?.as_str()?);
    Some(record)
}

/// A document that an agent refuses with a text that names its schema version.
fn refusal(payload: &str, why: &str) -> String {
    let document = serde_json::from_str(payload).unwrap_or(Value::Null);
    json!({
        "CommandId": text_field(&document, "CommandId").unwrap_or_default(),
        "DocumentName": text_field(&document, "DocumentName").unwrap_or_default(),
        "DocumentContent": {"schemaVersion": why},
        "Parameters": {},
    })
    .to_string()
}

fn digest(payload: &str) -> String {
    let digest = Sha256::digest(payload.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
