//! Packets of a flow that waits for its verdict.

use wire::tcp::Seq;

use crate::Instant;
use crate::event::Outer;

/// The packets, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Park {
    pub(crate) packets: Vec<(Vec<u8>, Outer)>,
    pub(crate) bytes: usize,
    pub(crate) deadline: Instant,
    /// The sequence number of the SYN that opened the flow, if one did.
    pub(crate) isn: Option<Seq>,
    /// Until when the shell waits for one more packet.
    pub(crate) awaited: Option<Instant>,
}

impl Park {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self {
            packets: Vec::new(),
            bytes: 0,
            deadline,
            isn: None,
            awaited: None,
        }
    }

    pub(crate) fn push(&mut self, datagram: &[u8], outer: Outer) {
        self.bytes += datagram.len();
        self.packets.push((datagram.to_vec(), outer));
    }
}
