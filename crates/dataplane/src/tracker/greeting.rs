//! The server's first bytes in a protocol in which both ends speak at once, kept until the client's
//! arrive.
//!
//! An HTTP/2 server sends its SETTINGS without waiting for the client's preface (RFC 9113 §3.4), and on
//! a short path they overtake it. Forwarded, they would make the connection one in which the server
//! speaks first, and it could not be taken over. Other servers' greetings are held only where whoever
//! decides about the flow wants to hear them
//! ([`Verdict::InspectEither`](crate::Verdict::InspectEither)), or where it matters that the client's
//! first bytes are seen ([`Dataplane::guard`](crate::Dataplane::guard)).

use wire::tcp::{Flags, Seq};

use super::hold::Held;
use crate::seen::{Seen, Tcp};
use crate::{Config, Instant};

/// Segments kept at most: SETTINGS and what a server sends right behind them.
const MAX_SEGMENTS: usize = 8;
/// Bytes of datagrams kept at most.
const MAX_BYTES: usize = 64 * 1024;

/// What the server said first.
#[derive(Debug)]
pub(crate) struct Greeting {
    segments: Vec<Held>,
    bytes: usize,
    until: Instant,
    /// Whether the shell was told of it.
    pub(crate) is_announced: bool,
}

impl Greeting {
    /// Whether a server's first segment is an HTTP/2 SETTINGS frame: a length that is a multiple of six,
    /// type 4, no flags, stream 0 (RFC 9113 §4.1, §6.5).
    pub(crate) fn begins(seen: &Seen, tcp: &Tcp, datagram: &[u8], next: Seq) -> bool {
        let Some(segment) = seen.segment(datagram) else {
            return false;
        };
        tcp.seq == next
            && !tcp.has(Flags::FIN)
            && matches!(
                segment.payload(),
                [0, 0, length, 4, 0, 0, 0, 0, 0, ..] if length % 6 == 0
            )
    }

    /// An empty one that is kept no longer than first bytes are.
    pub(crate) fn new(config: &Config, now: Instant) -> Self {
        Self {
            segments: Vec::new(),
            bytes: 0,
            until: now + config.hold_time,
            is_announced: false,
        }
    }

    /// Keeps a segment; `false` if it does not fit.
    pub(crate) fn add(&mut self, seen: &Seen, tcp: &Tcp, datagram: &[u8]) -> bool {
        if tcp.has(Flags::FIN)
            || self.segments.len() >= MAX_SEGMENTS
            || self.bytes + datagram.len() > MAX_BYTES
        {
            return false;
        }
        self.bytes += datagram.len();
        self.segments.push(Held::new(seen, tcp, datagram));
        true
    }

    /// Memory that the datagrams take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps it once more as long, for the shell to answer.
    pub(crate) fn prolong(&mut self, config: &Config, now: Instant) {
        self.until = now + config.hold_time;
    }

    /// When the client had its chance to speak.
    pub(crate) fn deadline(&self) -> Instant {
        self.until
    }

    /// The segments as they came.
    pub(crate) fn into_segments(self) -> Vec<Held> {
        self.segments
    }
}
