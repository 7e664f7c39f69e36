//! Messages of our own, in the shapes of the agent: acknowledgements and refusals.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::message::{AgentMessage, MessageId, MessageType};

/// Makes ids for messages: different ones, and not to be guessed from outside.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    keys: RandomState,
    count: AtomicU64,
}

impl Ids {
    /// A UUID of version 4.
    pub(crate) fn next(&self) -> MessageId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let high = self.keys.hash_one((count, 0_u8));
        let low = self.keys.hash_one((count, 1_u8));
        let all = u128::from(high) << 64 | u128::from(low);
        let (version, variant) = (0xf_u128 << 76, 0x3_u128 << 62);
        MessageId(all & !version & !variant | 0x4 << 76 | 0x2 << 62)
    }
}

/// Milliseconds since 1970.
pub(crate) fn millis(now: SystemTime) -> u64 {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A time as the agent writes it: `2023-11-14T22:13:20.000Z`.
fn iso(millis: u64) -> String {
    // The year 9999 is the last that can be written.
    let time = UNIX_EPOCH + Duration::from_millis(millis.min(253_402_300_799_999));
    humantime::format_rfc3339_millis(time).to_string()
}

/// Acknowledges a message of a stream, in place of its receiver.
pub(crate) fn acknowledge(message: &AgentMessage, id: MessageId, now: SystemTime) -> AgentMessage {
    let payload = json!({
        "AcknowledgedMessageType": message.kind.name(),
        "AcknowledgedMessageId": message.id.to_string(),
        "AcknowledgedMessageSequenceNumber": message.sequence,
        "IsSequentialMessage": true,
    });
    let created = millis(now);
    AgentMessage::new(
        MessageType::Acknowledge,
        id,
        created,
        payload.to_string().as_bytes(),
    )
}

/// Says that the agent has a command.
pub(crate) fn job_ack(
    message: &AgentMessage,
    job: &str,
    id: MessageId,
    now: SystemTime,
) -> AgentMessage {
    let payload = json!({
        "jobId": job,
        "acknowledgedMessageId": message.id.to_string(),
        "createdDate": iso(message.created),
        "statusCode": "200",
        "errorMessage": "",
    });
    let created = millis(now);
    AgentMessage::new(
        MessageType::AgentJobAck,
        id,
        created,
        payload.to_string().as_bytes(),
    )
}

/// Says that a command has failed, and why.
pub(crate) fn job_failed(job: &str, why: &str, id: MessageId, now: SystemTime) -> AgentMessage {
    let reply = json!({
        "additionalInfo": {
            "agent": {"lang": "en-US", "name": "flowdog", "os": "", "osver": "", "ver": env!("CARGO_PKG_VERSION")},
            "dateTime": iso(millis(now)),
            "runId": "",
            "runtimeStatusCounts": {"Failed": 1},
        },
        "documentStatus": "Failed",
        "documentTraceOutput": why,
        "runtimeStatus": null,
    });
    let payload = json!({
        "schemaVersion": 1,
        "jobId": job,
        "content": reply.to_string(),
        "topic": "aws.ssm.sendCommand",
    });
    let created = millis(now);
    AgentMessage::new(
        MessageType::AgentJobReply,
        id,
        created,
        payload.to_string().as_bytes(),
    )
}

/// Says that a session has failed, and why.
pub(crate) fn task_failed(
    (task, topic): (&str, &str),
    instance: &str,
    why: &str,
    id: MessageId,
    now: SystemTime,
) -> AgentMessage {
    let payload = json!({
        "SchemaVersion": 1,
        "TaskId": task,
        "Topic": topic,
        "FinalTaskStatus": "Failed",
        "IsRoutingFailure": false,
        "AwsAccountId": "",
        "InstanceId": instance,
        "Output": json!({"Output": why}).to_string(),
        "S3Bucket": "",
        "S3UrlSuffix": "",
        "CwlGroup": "",
        "CwlStream": "",
        "RetryNumber": 0,
    });
    let created = millis(now);
    AgentMessage::new(
        MessageType::AgentTaskComplete,
        id,
        created,
        payload.to_string().as_bytes(),
    )
}

/// Tells agent or plugin that a session is over.
pub(crate) fn channel_closed(
    session: &str,
    instance: &str,
    id: MessageId,
    now: SystemTime,
) -> AgentMessage {
    let payload = json!({
        "MessageType": MessageType::ChannelClosed.name(),
        "MessageId": id.to_string(),
        "DestinationId": instance,
        "SessionId": session,
        "SchemaVersion": 1,
        "CreatedDate": iso(millis(now)),
    });
    let created = millis(now);
    AgentMessage::new(
        MessageType::ChannelClosed,
        id,
        created,
        payload.to_string().as_bytes(),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4_and_differ() {
        let ids = Ids::default();
        let made: BTreeSet<_> = (0..1000).map(|_| ids.next().to_string()).collect();
        assert_eq!(made.len(), 1000);
        for id in made {
            let bytes = id.as_bytes();
            assert_eq!((id.len(), bytes[14]), (36, b'4'));
            assert!(b"89ab".contains(&bytes[19]), "{id}");
        }
    }

    #[test]
    fn threat_74_an_acknowledgement_names_type_id_and_number() {
        let message = AgentMessage::of_stream(
            MessageType::InputStreamData,
            MessageId(0x0011_2233_4455_6677_8899_aabb_ccdd_eeff),
            1_700_000_000_000,
            (7, 0),
            1,
            b"x",
        );
        let ack = acknowledge(&message, MessageId(1), UNIX_EPOCH);
        assert_eq!(ack.kind, MessageType::Acknowledge);
        let payload: Value = serde_json::from_slice(ack.payload()).unwrap();
        assert_eq!(
            payload,
            json!({
                "AcknowledgedMessageType": "input_stream_data",
                "AcknowledgedMessageId": "00112233-4455-6677-8899-aabbccddeeff",
                "AcknowledgedMessageSequenceNumber": 7,
                "IsSequentialMessage": true,
            })
        );
        let ack = job_ack(&message, "aws.ssm.c.i-1", MessageId(1), UNIX_EPOCH);
        let payload: Value = serde_json::from_slice(ack.payload()).unwrap();
        assert_eq!(payload["createdDate"], "2023-11-14T22:13:20.000Z");
        assert_eq!(iso(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
