//! The ways to both hosts and back, measured in TCP handshakes for those who keep records.
//!
//! Beside the flow table, because a flow has no room for it: an entry lives from the SYN to the end of
//! the handshake.

use core::time::Duration;
use std::collections::BTreeMap;

use wire::tcp::Flags;

use crate::seen::Tcp;
use crate::{Instant, Leg};

/// Handshakes under way, by the place of their flow in the table; no more than there are flows.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips(BTreeMap<u32, Handshake>);

#[derive(Clone, Copy, Debug)]
struct Handshake {
    /// When the SYN was sent on.
    asked: Instant,
    /// When the SYN-ACK came, and how long after.
    answered: Option<(Instant, Duration)>,
}

/// The way to the client and to the server, and back.
pub(crate) type Measured = [Option<Duration>; 2];

impl RoundTrips {
    /// A SYN came, and is sent on: now, or later if it waits for a verdict.
    pub(crate) fn ask(&mut self, index: u32, now: Instant) {
        let answered = None;
        let asked = now;
        self.0.insert(index, Handshake { asked, answered });
    }

    /// A packet of the flow: the server's is the SYN-ACK, the client's next one answers that. What was
    /// sent twice is answered by nobody knows which (Karn), so it ends the measurement. Answers with
    /// what was measured when there is nothing more to come.
    pub(crate) fn note(
        &mut self,
        index: u32,
        from: Leg,
        tcp: Option<&Tcp>,
        now: Instant,
    ) -> Option<Measured> {
        let Some(handshake) = self.0.get_mut(&index) else {
            return Some([None; 2]);
        };
        let is = |flags: Flags| {
            tcp.is_some_and(|tcp| Flags(tcp.flags.0 & Flags::SYN.with(Flags::ACK).0) == flags)
        };
        let measured = match (handshake.answered, from) {
            (None, Leg::Server) if is(Flags::SYN.with(Flags::ACK)) => {
                handshake.answered = Some((now, now.since(handshake.asked)));
                return None;
            }
            (None, _) => [None; 2],
            (Some((at, server)), Leg::Client) if is(Flags::ACK) => {
                [Some(now.since(at)), Some(server)]
            }
            (Some((_, server)), _) => [None, Some(server)],
        };
        self.forget(index);
        Some(measured)
    }

    /// The flow is over.
    pub(crate) fn forget(&mut self, index: u32) {
        self.0.remove(&index);
    }
}

#[cfg(test)]
mod tests {
    use wire::tcp::Seq;

    use super::*;

    fn tcp(flags: Flags) -> Tcp {
        Tcp {
            seq: Seq(0),
            ack: Seq(0),
            flags,
            window: 0,
            segment_at: 0,
            payload_len: 0,
        }
    }

    #[test]
    fn both_ways_are_measured_unless_a_packet_came_twice() {
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        let millis = |millis| Some(Duration::from_millis(millis));
        let (syn, ack) = (tcp(Flags::SYN), tcp(Flags::ACK));
        let both = tcp(Flags::SYN.with(Flags::ACK));
        let mut trips = RoundTrips::default();
        trips.ask(1, at(0));
        // It waited for a verdict.
        trips.ask(1, at(100));
        assert_eq!(trips.note(1, Leg::Server, Some(&both), at(130)), None);
        let measured = trips.note(1, Leg::Client, Some(&ack), at(135));
        assert_eq!(measured, Some([millis(5), millis(30)]));
        trips.ask(2, at(0));
        assert_eq!(
            trips.note(2, Leg::Client, Some(&syn), at(1)),
            Some([None; 2])
        );
        trips.ask(3, at(0));
        assert_eq!(trips.note(3, Leg::Server, Some(&both), at(30)), None);
        let again = trips.note(3, Leg::Server, Some(&both), at(31));
        assert_eq!(again, Some([None, millis(30)]));
        assert!(trips.0.is_empty(), "nothing is left behind");
    }
}
