//! EC2's events, as EventBridge puts them into an SQS queue.
//!
//! What an event says is not believed: it only names instances and interfaces to ask EC2 about, so
//! whoever can write into the queue can cause questions and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::ec2::{Ec2Source, error};
use crate::error::{AwsError, Fault};
use crate::session::parse_endpoint;

/// Longest time that SQS waits for a message, and messages at once: the most that it allows.
const WAIT: &str = "20";
const BATCH: &str = "10";
/// Most ids that the events of one batch are read for; with more, everything is asked for.
const MOST_IDS: usize = 1000;
/// Most values of one event that are looked at.
const MOST_VALUES: usize = 10_000;

/// What a batch of events is about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ec2Events {
    /// Messages in the batch.
    pub count: usize,
    /// Instances that are named.
    pub instances: Vec<String>,
    /// Network interfaces that are named.
    pub interfaces: Vec<String>,
    /// Whether an event names neither, so that anything may have changed.
    pub anything: bool,
    /// To say that they are done with.
    receipts: Vec<String>,
}

impl Ec2Source {
    /// Waits up to 20 seconds for events; `None` without a queue.
    ///
    /// # Errors
    /// When the queue cannot be read.
    pub async fn events(&self) -> Result<Option<Ec2Events>, AwsError> {
        let Some(queue) = &self.queue else {
            return Ok(None);
        };
        let answer = self
            .ask_queue(
                queue,
                &[
                    ("Action", "ReceiveMessage"),
                    ("Version", "2012-11-05"),
                    ("MaxNumberOfMessages", BATCH),
                    ("WaitTimeSeconds", WAIT),
                ],
            )
            .await
            .map_err(|fault| error("sqs:ReceiveMessage", fault))?;
        Ok(Some(batch(&answer)))
    }

    /// Takes events out of the queue: what they are about is known now.
    ///
    /// # Errors
    /// When the queue does not say that they are gone; they come again then.
    pub async fn finish(&self, events: &Ec2Events) -> Result<(), AwsError> {
        let (Some(queue), false) = (&self.queue, events.receipts.is_empty()) else {
            return Ok(());
        };
        let mut params = vec![
            ("Action".to_owned(), "DeleteMessageBatch"),
            ("Version".to_owned(), "2012-11-05"),
        ];
        let ids: Vec<String> = (1..=events.receipts.len()).map(|n| n.to_string()).collect();
        for (id, receipt) in ids.iter().zip(&events.receipts) {
            let entry = format!("DeleteMessageBatchRequestEntry.{id}");
            params.push((format!("{entry}.Id"), id));
            params.push((format!("{entry}.ReceiptHandle"), receipt));
        }
        let params: Vec<(&str, &str)> = params.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        self.ask_queue(queue, &params)
            .await
            .map(drop)
            .map_err(|fault| error("sqs:DeleteMessageBatch", fault))
    }

    async fn ask_queue(
        &self,
        queue: &str,
        params: &[(&str, &str)],
    ) -> Result<crate::xml::Element, Fault> {
        let known = self.session.known(&self.client).await?;
        let endpoint = parse_endpoint(queue)?;
        self.poller
            .query(&endpoint, "sqs", params, &known.credentials, &known.region)
            .await
    }
}

/// What the messages of an answer of SQS are about.
fn batch(answer: &crate::xml::Element) -> Ec2Events {
    let mut events = Ec2Events::default();
    let (mut instances, mut interfaces) = (BTreeSet::new(), BTreeSet::new());
    let result = answer.child("ReceiveMessageResult");
    for message in result.into_iter().flat_map(|one| one.children("Message")) {
        events.count += 1;
        events.receipts.push(message.string("ReceiptHandle"));
        let named = instances.len() + interfaces.len();
        let body = message.text("Body").unwrap_or_default();
        read(body, &mut instances, &mut interfaces);
        events.anything |= instances.len() + interfaces.len() == named;
    }
    events.anything &= events.count > 0;
    if instances.len() + interfaces.len() > MOST_IDS {
        events.anything = true;
    }
    events.instances = instances.into_iter().collect();
    events.interfaces = interfaces.into_iter().collect();
    events
}

/// The ids of instances and interfaces anywhere in an event.
fn read(body: &str, instances: &mut BTreeSet<String>, interfaces: &mut BTreeSet<String>) {
    let Ok(event) = serde_json::from_str::<Value>(body) else {
        return;
    };
    let mut waiting = vec![&event];
    for _ in 0..MOST_VALUES {
        match waiting.pop() {
            None => return,
            Some(Value::Array(values)) => waiting.extend(values),
            Some(Value::Object(values)) => waiting.extend(values.values()),
            Some(Value::String(text)) => {
                if is_id(text, "i-") {
                    instances.insert(text.clone());
                } else if is_id(text, "eni-") {
                    interfaces.insert(text.clone());
                }
            }
            Some(_) => {}
        }
    }
}

/// `i-` and 8 or 17 hexadecimal digits.
fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

/// Checks for the fuzzer, which may end it.
pub(crate) mod fuzzing {
    use super::*;

    pub(crate) fn messages(answer: &crate::xml::Element) {
        let events = batch(answer);
        assert_eq!(
            events.count,
            events.receipts.len(),
            "each message is done with"
        );
        let names = !events.instances.is_empty() || !events.interfaces.is_empty();
        assert!(
            events.count == 0 || names || events.anything,
            "no message is for nothing"
        );
        check(&events.instances, "i-");
        check(&events.interfaces, "eni-");
    }

    pub(crate) fn body(text: &str) {
        let (mut instances, mut interfaces) = (BTreeSet::new(), BTreeSet::new());
        read(text, &mut instances, &mut interfaces);
        check(&instances, "i-");
        check(&interfaces, "eni-");
    }

    /// What is asked of EC2 are ids and nothing else.
    fn check<'t>(ids: impl IntoIterator<Item = &'t String>, prefix: &str) {
        for id in ids {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            assert!(id.starts_with(prefix) && id.bytes().all(is_plain), "{id}");
            assert!(id.len() <= 21, "{id}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_what_has_changed_and_nothing_else_is_taken_from_it() {
        let event = r#"{"detail-type": "EC2 Instance State-change Notification", "account": "123456789012",
            "resources": ["arn:aws:ec2:eu-west-1:123456789012:instance/i-0123456789abcdef0"],
            "detail": {"instance-id": "i-0123456789abcdef0", "state": "running",
            "networkInterfaceSet": {"items": [{"networkInterfaceId": "eni-0123456789abcdef1"}]}, "x": "i-nope"}}"#;
        let (mut instances, mut interfaces) = (BTreeSet::new(), BTreeSet::new());
        read(event, &mut instances, &mut interfaces);
        assert_eq!(
            instances.into_iter().collect::<Vec<_>>(),
            ["i-0123456789abcdef0"]
        );
        assert_eq!(
            interfaces.into_iter().collect::<Vec<_>>(),
            ["eni-0123456789abcdef1"]
        );
    }

    #[test]
    fn odd_events_name_nothing_and_large_ones_end() {
        let (mut instances, mut interfaces) = (BTreeSet::new(), BTreeSet::new());
        let large = format!("[{}1]", "1,".repeat(50_000));
        for body in [
            "",
            "{",
            "null",
            "[[[[[]]]]]",
            large.as_str(),
            &"[".repeat(5000),
        ] {
            read(body, &mut instances, &mut interfaces);
        }
        assert!(instances.is_empty() && interfaces.is_empty());
    }
}
