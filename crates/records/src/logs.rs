//! A receiver of lines: CloudWatch Logs, by PutLogEvents.
//!
//! Limits of one call (API reference, `PutLogEvents`): 1,048,576 bytes, counting 26 for each event;
//! 10,000 events; events in the order of their time, within 24 hours.

use std::time::{SystemTime, UNIX_EPOCH};

use aws::{AwsError, Fault, JsonService};
use serde_json::{Value, json};

use crate::queue::{Limits, Report};

/// Bytes of one call, less some for who sends it.
const MOST_BYTES: usize = 1_000_000;
/// What each event counts besides its text.
pub(crate) const EVENT_OVERHEAD: usize = 26;
/// Events of one call.
const MOST_EVENTS: usize = 10_000;
/// The longest event: 256 KiB, which every region takes.
const LONGEST: usize = 256 * 1024 - EVENT_OVERHEAD;

/// A line and when it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: SystemTime,
    pub(crate) line: String,
}

/// A log stream.
#[derive(Debug)]
pub(crate) struct LogStream {
    service: JsonService,
    group: String,
    stream: String,
    is_known: bool,
}

/// What fits one call.
pub(crate) fn limits(limits: Limits) -> Limits {
    Limits {
        batch: limits.batch.min(MOST_EVENTS),
        batch_bytes: limits.batch_bytes.min(MOST_BYTES),
        ..limits
    }
}

impl LogStream {
    pub(crate) fn new(service: JsonService, group: String, stream: String) -> Self {
        Self {
            service,
            group,
            stream,
            is_known: false,
        }
    }

    /// Puts events, at most as [`limits`] says.
    pub(crate) async fn put(&mut self, mut events: Vec<Event>) -> Report<Event> {
        let before = events.len();
        events.retain(|event| event.line.len() <= LONGEST);
        let too_long = before - events.len();
        events.sort_by_key(|event| event.at);
        let mut report = match self.try_put(&events).await {
            Ok(rejected) => Report {
                written: events.len() - rejected,
                refused: rejected,
                error: (rejected > 0).then(|| format!("{rejected} events are too old or too new")),
                ..Report::default()
            },
            Err(error) if error.fault.is_passing() => Report::failed(events, error.to_string()),
            // No credentials yet, or no rights: an operator may mend it while the events wait.
            Err(error) => Report::failed(events, error.to_string()),
        };
        report.refused += too_long;
        report
    }

    async fn try_put(&mut self, events: &[Event]) -> Result<usize, AwsError> {
        if events.is_empty() {
            return Ok(0);
        }
        if !self.is_known {
            self.create().await?;
        }
        let list: Vec<Value> = events
            .iter()
            .map(|event| json!({"timestamp": millis(event.at), "message": event.line.trim_end()}))
            .collect();
        let answer = self
            .call("PutLogEvents", json!({"logEvents": list}))
            .await
            .inspect_err(|error| {
                // Somebody has deleted it: made anew the next time.
                self.is_known &= !is(error, "ResourceNotFoundException");
            })?;
        Ok(rejected(&answer, events.len()))
    }

    async fn create(&mut self) -> Result<(), AwsError> {
        for operation in ["CreateLogGroup", "CreateLogStream"] {
            match self.call(operation, json!({})).await {
                Ok(_) => {}
                Err(error) if is(&error, "ResourceAlreadyExistsException") => {}
                // Who may only put events finds the stream made by somebody else.
                Err(error) if is(&error, "AccessDeniedException") => {}
                Err(error) => return Err(error),
            }
        }
        self.is_known = true;
        Ok(())
    }

    async fn call(&self, operation: &str, mut body: Value) -> Result<Value, AwsError> {
        if let Some(body) = body.as_object_mut() {
            body.insert("logGroupName".to_owned(), self.group.clone().into());
            if operation != "CreateLogGroup" {
                body.insert("logStreamName".to_owned(), self.stream.clone().into());
            }
        }
        self.service.call(operation, &body).await
    }
}

fn is(error: &AwsError, kind: &str) -> bool {
    matches!(&error.fault, Fault::Refused(what) if what.contains(kind))
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How many of `count` events were left out, as `rejectedLogEventsInfo` says by index.
fn rejected(answer: &Value, count: usize) -> usize {
    let Some(info) = answer.get("rejectedLogEventsInfo") else {
        return 0;
    };
    let index = |name: &str| {
        info.get(name)
            .and_then(Value::as_u64)
            .map(|index| usize::try_from(index).unwrap_or(usize::MAX))
    };
    let old = index("tooOldLogEventEndIndex").max(index("expiredLogEventEndIndex"));
    let new = index("tooNewLogEventStartIndex")
        .unwrap_or(count)
        .min(count);
    let old = old.map_or(0, |last| last.saturating_add(1).min(new));
    old + (count - new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejected_events_are_counted_once() {
        for (info, expected) in [
            (json!({}), 0),
            (json!({"rejectedLogEventsInfo": {}}), 0),
            (
                json!({"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1}}),
                2,
            ),
            (
                json!({"rejectedLogEventsInfo": {"tooNewLogEventStartIndex": 8}}),
                2,
            ),
            (
                json!({"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": 1, "expiredLogEventEndIndex": 3, "tooNewLogEventStartIndex": 9}}),
                5,
            ),
            (
                json!({"rejectedLogEventsInfo": {"tooOldLogEventEndIndex": u64::MAX, "tooNewLogEventStartIndex": 5}}),
                10,
            ),
        ] {
            assert_eq!(rejected(&info, 10), expected, "{info}");
        }
    }
}
