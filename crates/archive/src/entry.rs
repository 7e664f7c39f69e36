//! One exchange as it is archived.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use records::Caller;
use sdk::{Direction, FlowInfo, Headers, RequestHead, StatusCode, Version, VpcEndpointId};

use crate::budget::Share;

/// What waits to be packed.
#[derive(Debug)]
pub(crate) enum Item {
    /// To be written first.
    Entry(Box<Entry>),
    /// As it will stand in an archive.
    Line(Line),
}

/// An entry that is written, and what an archive's name says of it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) began: SystemTime,
    /// In lower case; empty if archives are not for a host each.
    pub(crate) host: String,
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) text: Vec<u8>,
    /// The memory the text takes.
    pub(crate) share: Share,
}

/// One exchange, or one part of a WebSocket's: everything owned, nothing decoded yet.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Tells entries of one process apart.
    pub(crate) number: u64,
    /// When the head of the request was there.
    pub(crate) began: SystemTime,
    /// How long its parts took.
    pub(crate) timings: Timings,
    /// The flow it belongs to.
    pub(crate) flow: Arc<FlowInfo>,
    /// Who has signed it for AWS.
    pub(crate) caller: Option<Arc<Caller>>,
    /// What was asked.
    pub(crate) request: RequestHead,
    /// The content of the request.
    pub(crate) request_body: Captured,
    /// What was answered; `None` when the exchange ended before there was an answer.
    pub(crate) response: Option<Answer>,
    /// The messages, when the exchange became a WebSocket.
    pub(crate) messages: Option<Messages>,
    /// The memory this entry holds.
    pub(crate) share: Share,
}

/// Bytes of each body of an entry that can be written at once.
const QUICK_BODY: usize = 1024;
/// Memory that such an entry takes.
const QUICK_ENTRY: usize = 16 << 10;

impl Entry {
    /// Whether it takes less time to write it than to hand its many parts to another thread. Not so if
    /// there is much of it, or something to be decoded.
    pub(crate) fn is_quick(&self) -> bool {
        let is_quick = |headers: &Headers, body: &Captured| {
            let length = body.data.len();
            length == 0 || (length <= QUICK_BODY && !headers.contains("content-encoding"))
        };
        self.messages.is_none()
            && self.share.bytes() <= QUICK_ENTRY
            && is_quick(&self.request.headers, &self.request_body)
            && self
                .response
                .as_ref()
                .is_none_or(|answer| is_quick(&answer.headers, &answer.body))
    }
}

#[cfg(any(test, feature = "testing"))]
impl Entry {
    /// A request that took no time and has had no answer, with all memory to itself.
    pub(crate) fn sample(request: &sdk::Request) -> Self {
        Self {
            number: 0,
            began: SystemTime::UNIX_EPOCH,
            timings: Timings::default(),
            flow: Arc::new(sdk::testing::flow()),
            caller: None,
            request: RequestHead::of(request),
            request_body: Captured::default(),
            response: None,
            messages: None,
            share: Share::of(&crate::budget::Budget::new(usize::MAX)),
        }
    }
}

/// The head of a response, and its content.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: StatusCode,
    /// The reason phrase, as far as it is text.
    pub(crate) reason: String,
    /// The HTTP version of the connection.
    pub(crate) version: Version,
    /// The fields.
    pub(crate) headers: Headers,
    /// The content.
    pub(crate) body: Captured,
}

/// How long the parts of an exchange took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timings {
    /// From the request's head to its end, or to the response if that came earlier.
    pub(crate) send: Duration,
    /// From there to the head of the response.
    pub(crate) wait: Duration,
    /// From there to the end of the response.
    pub(crate) receive: Duration,
}

/// The content of a message, as much of it as is kept.
#[derive(Clone, Debug, Default)]
pub(crate) struct Captured {
    /// The first bytes, as they were sent.
    pub(crate) data: Bytes,
    /// How many bytes there were in all.
    pub(crate) size: u64,
    /// Why `data` is not all of them.
    pub(crate) cut: Option<Cut>,
    /// The fields after the content.
    pub(crate) trailers: Option<Headers>,
}

/// Why content is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The sender went away, or somebody gave it up.
    Aborted,
    /// There was more than is kept of one body.
    Long,
    /// All bodies together took too much memory.
    Memory,
}

impl Cut {
    /// A word for the archive.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Aborted => "aborted",
            Self::Long => "long",
            Self::Memory => "memory",
        }
    }
}

/// WebSocket messages, in the order in which they passed.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    /// Those that are kept.
    pub(crate) list: Vec<Said>,
    /// Messages for which there was no room.
    pub(crate) dropped: u64,
    /// A long conversation is archived in parts, of which this is the number.
    pub(crate) part: u64,
}

/// A WebSocket message.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// When it passed.
    pub(crate) at: SystemTime,
    /// Which way.
    pub(crate) direction: Direction,
    /// Whether it is text (opcode 1).
    pub(crate) is_text: bool,
    /// What it said, as much of it as is kept.
    pub(crate) data: Bytes,
    /// How many bytes it had.
    pub(crate) size: usize,
}

#[cfg(test)]
mod tests {
    use sdk::{FieldName, HeaderValue, Method, Request, Target};

    use super::*;

    fn entry(request_body: usize, response_body: usize, coding: Option<&'static str>) -> Entry {
        let request = Request::new(Method::GET, Target::Asterisk);
        let body = |length: usize| Captured {
            data: vec![0; length].into(),
            size: length as u64,
            ..Captured::default()
        };
        let mut headers = Headers::new();
        if let Some(coding) = coding {
            let name = FieldName::from_static("Content-Encoding");
            headers.append(name, HeaderValue::from_static(coding));
        }
        Entry {
            request_body: body(request_body),
            response: Some(Answer {
                status: StatusCode::OK,
                reason: String::new(),
                version: Version::HTTP_11,
                headers,
                body: body(response_body),
            }),
            ..Entry::sample(&request)
        }
    }

    #[test]
    fn what_is_large_or_packed_is_not_written_on_a_shard() {
        assert!(entry(0, QUICK_BODY, None).is_quick());
        assert!(
            entry(QUICK_BODY, 0, Some("gzip")).is_quick(),
            "nothing to undo"
        );
        assert!(!entry(0, QUICK_BODY + 1, None).is_quick());
        assert!(!entry(QUICK_BODY + 1, 0, None).is_quick());
        assert!(!entry(0, 1, Some("gzip")).is_quick());
        let long_heads = |bytes| {
            let mut entry = entry(0, 0, None);
            assert!(entry.share.grow(bytes));
            entry
        };
        assert!(long_heads(QUICK_ENTRY).is_quick());
        assert!(!long_heads(QUICK_ENTRY + 1).is_quick());
        let conversation = Entry {
            messages: Some(Messages::default()),
            ..entry(0, 0, None)
        };
        assert!(!conversation.is_quick());
    }
}
