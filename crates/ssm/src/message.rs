//! The binary messages of the Message Gateway Service, in which agent, service and plugin talk.
//!
//! The layout is the one of the public agent: big-endian, a header of 116 bytes, the length of the
//! payload, the payload. The two halves of the message id stand in the other order than in its text.

use core::fmt;

use sdk::Bytes;
use sha2::{Digest, Sha256};

/// What a header says of its own length: everything before the payload's length.
const HEADER: usize = 116;
/// Where the payload begins.
const PAYLOAD: usize = HEADER + 4;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// Acknowledges a message of a stream.
    Acknowledge,
    /// A command to run, from the service.
    AgentJob,
    /// The agent has a command.
    AgentJobAck,
    /// What became of a command, from the agent.
    AgentJobReply,
    /// The service has a reply.
    AgentJobReplyAck,
    /// Whether the agent's end of a session lives.
    AgentSessionState,
    /// The service has heard that a session is over.
    AgentTaskAcknowledge,
    /// A session is over, from the agent.
    AgentTaskComplete,
    /// A session is to end.
    ChannelClosed,
    /// What somebody types, to the agent.
    InputStreamData,
    /// A session is to begin.
    InteractiveShell,
    /// What the agent's program writes.
    OutputStreamData,
    /// Anything else.
    Other,
}

impl MessageType {
    const NAMES: [(Self, &'static str); 12] = [
        (Self::Acknowledge, "acknowledge"),
        (Self::AgentJob, "agent_job"),
        (Self::AgentJobAck, "agent_job_ack"),
        (Self::AgentJobReply, "agent_job_reply"),
        (Self::AgentJobReplyAck, "agent_job_reply_ack"),
        (Self::AgentSessionState, "agent_session_state"),
        (Self::AgentTaskAcknowledge, "agent_task_acknowledge"),
        (Self::AgentTaskComplete, "agent_task_complete"),
        (Self::ChannelClosed, "channel_closed"),
        (Self::InputStreamData, "input_stream_data"),
        (Self::InteractiveShell, "interactive_shell"),
        (Self::OutputStreamData, "output_stream_data"),
    ];

    /// Its name on the wire; empty for [`Other`](Self::Other).
    #[must_use]
    pub fn name(self) -> &'static str {
        let mut names = Self::NAMES.iter();
        names
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, name)| name)
    }

    /// Of the field of 32 bytes: readers trim spaces and NULs on both sides.
    fn of_field(field: &[u8]) -> Self {
        let is_padding = |byte: &u8| *byte == 0 || byte.is_ascii_whitespace();
        let start = field.iter().take_while(|byte| is_padding(byte)).count();
        let end = field.len()
            - field
                .iter()
                .rev()
                .take_while(|byte| is_padding(byte))
                .count();
        let name = field.get(start..end).unwrap_or_default();
        let mut names = Self::NAMES.iter();
        names
            .find(|(_, known)| known.as_bytes() == name)
            .map_or(Self::Other, |(kind, _)| *kind)
    }
}

/// What the payload of a message of a stream is.
pub mod payload_type {
    /// What is written, or typed.
    pub const OUTPUT: u32 = 1;
    /// The size of the window: `{"cols":80,"rows":24}`.
    pub const SIZE: u32 = 3;
    /// The agent says what the session is, and whether it will be encrypted.
    pub const HANDSHAKE_REQUEST: u32 = 5;
    /// The plugin answers.
    pub const HANDSHAKE_RESPONSE: u32 = 6;
    /// The agent says that the session may begin.
    pub const HANDSHAKE_COMPLETE: u32 = 7;
    /// What is written to the standard error.
    pub const STDERR: u32 = 11;
    /// The exit code of a program, as text.
    pub const EXIT_CODE: u32 = 12;
}

/// A message id: a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub u128);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        for (at, digit) in digits.chars().enumerate() {
            if matches!(at, 8 | 12 | 16 | 20) {
                f.write_str("-")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There is less than a header.
    #[error("{0} bytes are less than a header")]
    Short(usize),
    /// The header has another length than we know.
    #[error("the header says that it has {0} bytes instead of 116")]
    HeaderLength(u32),
    /// The payload has another length than the header says.
    #[error("the header says {said} bytes of payload, there are {are}")]
    PayloadLength {
        /// What the header says.
        said: u32,
        /// What there is.
        are: usize,
    },
    /// The digest is not the payload's.
    #[error("the digest is another payload's")]
    Digest,
}

/// A message, checked: lengths and digest are right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentMessage {
    /// What it is.
    pub kind: MessageType,
    /// When it was made: milliseconds since 1970.
    pub created: u64,
    /// Its place in its stream.
    pub sequence: i64,
    /// Bit 0: the first of a stream; bit 1: the last.
    pub flags: u64,
    /// Its name.
    pub id: MessageId,
    /// What the payload is, in streams: see [`payload_type`].
    pub payload_type: u32,
    /// All of its bytes, as they came.
    raw: Bytes,
}

impl AgentMessage {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] when a length or the digest is not right. The digest of an empty payload is not
    /// looked at, as nobody does.
    pub fn parse(raw: &Bytes) -> Result<Self, Malformed> {
        let short = || Malformed::Short(raw.len());
        let header_length = u32::from_be_bytes(field(raw, 0).ok_or_else(short)?);
        let said = u32::from_be_bytes(field(raw, HEADER).ok_or_else(short)?);
        if header_length as usize != HEADER {
            return Err(Malformed::HeaderLength(header_length));
        }
        let payload = raw.get(PAYLOAD..).unwrap_or_default();
        let are = payload.len();
        if said as usize != are {
            return Err(Malformed::PayloadLength { said, are });
        }
        let digest: [u8; 32] = field(raw, 80).ok_or_else(short)?;
        if are > 0 && Sha256::digest(payload).as_slice() != digest {
            return Err(Malformed::Digest);
        }
        let low = u64::from_be_bytes(field(raw, 64).ok_or_else(short)?);
        let high = u64::from_be_bytes(field(raw, 72).ok_or_else(short)?);
        Ok(Self {
            kind: MessageType::of_field(raw.get(4..36).unwrap_or_default()),
            created: u64::from_be_bytes(field(raw, 40).ok_or_else(short)?),
            sequence: i64::from_be_bytes(field(raw, 48).ok_or_else(short)?),
            flags: u64::from_be_bytes(field(raw, 56).ok_or_else(short)?),
            id: MessageId(u128::from(high) << 64 | u128::from(low)),
            payload_type: u32::from_be_bytes(field(raw, 112).ok_or_else(short)?),
            raw: raw.clone(),
        })
    }

    /// A new message: no part of a stream, schema version 1, payload type 0.
    #[must_use]
    pub fn new(kind: MessageType, id: MessageId, created: u64, payload: &[u8]) -> Self {
        Self::of_stream(kind, id, created, (0, 0), 0, payload)
    }

    /// A new message with its place in a stream: sequence number and flags.
    #[must_use]
    pub fn of_stream(
        kind: MessageType,
        id: MessageId,
        created: u64,
        (sequence, flags): (i64, u64),
        payload_type: u32,
        payload: &[u8],
    ) -> Self {
        let mut header = Vec::with_capacity(PAYLOAD);
        header.extend((HEADER as u32).to_be_bytes());
        header.extend(format!("{:32}", kind.name()).as_bytes());
        header.extend(1_u32.to_be_bytes());
        header.extend(created.to_be_bytes());
        header.extend(sequence.to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend((id.0 as u64).to_be_bytes());
        header.extend(((id.0 >> 64) as u64).to_be_bytes());
        header.extend([0; 32]);
        header.extend(payload_type.to_be_bytes());
        Self {
            kind,
            created,
            sequence,
            flags,
            id,
            payload_type,
            raw: assemble(&header, payload),
        }
    }

    /// The same message with another payload: digest and length are made anew, everything else stays.
    #[must_use]
    pub fn with_payload(&self, payload: &[u8]) -> Self {
        Self {
            raw: assemble(self.raw.get(..HEADER).unwrap_or_default(), payload),
            ..self.clone()
        }
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.raw.get(PAYLOAD..).unwrap_or_default()
    }

    /// All of its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.raw
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

/// A header with the payload's digest and length, and the payload.
fn assemble(header: &[u8], payload: &[u8]) -> Bytes {
    let mut raw = Vec::with_capacity(PAYLOAD + payload.len());
    raw.extend_from_slice(header);
    if let Some(digest) = raw.get_mut(80..112) {
        digest.copy_from_slice(&Sha256::digest(payload));
    }
    // A payload comes from a WebSocket message, which is bounded far below 4 GiB.
    raw.extend(
        u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    raw.extend_from_slice(payload);
    raw.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Made by a script from the documented layout.
    const VECTOR: &str = "00000074696e7075745f73747265616d5f64617461202020202020202020202020202020\
        000000010000018bcfe5680000000000000000070000000000000000\
        8899aabbccddeeff00112233445566773674c13c3eb42ef32effd127a689c6118191a811bca335ffa3f509eff051d253\
        00000001000000066c73202d6c0d";

    fn vector() -> Bytes {
        let digits: Vec<_> = VECTOR.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte =
            |pair: &[u8]| u8::from_str_radix(core::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect::<Vec<_>>().into()
    }

    #[test]
    fn the_vector_is_read_and_written() {
        let raw = vector();
        assert_eq!(raw.len(), 126);
        let message = AgentMessage::parse(&raw).unwrap();
        assert_eq!(message.kind, MessageType::InputStreamData);
        assert_eq!(message.created, 1_700_000_000_000);
        assert_eq!(
            (message.sequence, message.flags, message.payload_type),
            (7, 0, 1)
        );
        assert_eq!(
            message.id.to_string(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(message.payload(), b"ls -l\r");
        let written = AgentMessage::of_stream(
            message.kind,
            message.id,
            message.created,
            (7, 0),
            1,
            b"ls -l\r",
        );
        assert_eq!(written, message);
        assert_eq!(written.into_bytes(), raw);
    }

    #[test]
    fn threat_74_lengths_and_digests_that_lie_are_told() {
        let raw = vector();
        let with = |at: usize, byte: u8| {
            let mut raw = raw.to_vec();
            raw[at] = byte;
            AgentMessage::parse(&raw.into())
        };
        assert_eq!(with(3, 0x75), Err(Malformed::HeaderLength(117)));
        assert_eq!(with(0, 0xff), Err(Malformed::HeaderLength(0xff00_0074)));
        assert_eq!(
            with(119, 5),
            Err(Malformed::PayloadLength { said: 5, are: 6 })
        );
        let huge = Malformed::PayloadLength {
            said: 0xff00_0006,
            are: 6,
        };
        assert_eq!(with(116, 0xff), Err(huge));
        assert_eq!(with(80, 0), Err(Malformed::Digest));
        assert_eq!(with(125, b'\n'), Err(Malformed::Digest));
        for length in 0..120 {
            assert_eq!(
                AgentMessage::parse(&raw.slice(..length)),
                Err(Malformed::Short(length))
            );
        }
        let are = 5;
        let cut = AgentMessage::parse(&raw.slice(..125));
        assert_eq!(cut, Err(Malformed::PayloadLength { said: 6, are }));
    }

    #[test]
    fn an_unknown_type_and_an_empty_payload_with_any_digest_are_no_fault() {
        let mut raw = vector().slice(..120).to_vec();
        raw[4..36].copy_from_slice(b"\0start_publication\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
        raw[119] = 0;
        let raw = Bytes::from(raw);
        let message = AgentMessage::parse(&raw).unwrap();
        assert_eq!(message.kind, MessageType::Other);
        assert_eq!(message.into_bytes(), raw);
    }

    #[test]
    fn threat_74_an_edit_keeps_everything_but_payload_digest_and_length() {
        let message = AgentMessage::parse(&vector()).unwrap();
        let edited = message.with_payload(b"true\r");
        let again = AgentMessage::parse(&edited.clone().into_bytes()).unwrap();
        assert_eq!(edited, again);
        assert_eq!(again.payload(), b"true\r");
        let (before, after) = (vector(), again.into_bytes());
        assert_eq!(before[..80], after[..80]);
        assert_eq!(before[112..116], after[112..116]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            kind in 0..MessageType::NAMES.len(), id: u128, created: u64, sequence: i64, flags: u64,
            payload_type: u32, payload: Vec<u8>, other: Vec<u8>,
        ) {
            let kind = MessageType::NAMES[kind].0;
            let message = AgentMessage::of_stream(
                kind, MessageId(id), created, (sequence, flags), payload_type, &payload,
            );
            prop_assert_eq!(AgentMessage::parse(&message.clone().into_bytes()), Ok(message.clone()));
            prop_assert_eq!(message.payload(), &payload[..]);
            let edited = message.with_payload(&other);
            prop_assert_eq!(AgentMessage::parse(&edited.clone().into_bytes()), Ok(edited.clone()));
            prop_assert_eq!(edited.with_payload(&payload), message);
        }
    }
}
