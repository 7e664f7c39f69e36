//! Arriving segments, in the order of RFC 9293 §3.10.7.4.

use wire::tcp::{Flags, Repr, Seq};

use super::{Connection, Reset};
use crate::state::{Events, State};
use crate::time::Instant;
use crate::timer::Deadline;

/// Challenge acknowledgments allowed in a second (RFC 5961 §7 leaves the figure open).
const CHALLENGES_PER_SECOND: u8 = 10;
/// How often a receiver that knows no round-trip time looks whether its window is large enough.
const UNKNOWN_ROUND_TRIP: core::time::Duration = core::time::Duration::from_millis(100);

impl Connection {
    /// Takes a segment whose checksum was verified. `ce` says that its IP header carried the mark
    /// "congestion experienced" (RFC 3168).
    pub fn handle_segment(&mut self, repr: &Repr, payload: &[u8], ce: bool, now: Instant) {
        self.stats.segments_received = self.stats.segments_received.wrapping_add(1);
        let flags = repr.flags;
        let fin = flags.contains(Flags::FIN);
        let length = payload.len() as u32 + u32::from(fin);
        if self.state == State::Closed {
            self.answer_in_closed(repr, length);
            return;
        }
        // RFC 5961 §4.2: whatever its sequence number. If the peer has really started again, it
        // answers the challenge with a RST that is exactly right.
        if flags.contains(Flags::SYN) {
            self.drop_with_challenge(now);
            return;
        }
        let reset = flags.contains(Flags::RST);
        if !reset && !self.passes_paws(repr, length, now) {
            return;
        }

        // First: sequence number.
        let mut payload = payload;
        let mut fin = fin;
        if !self.recv.is_acceptable(repr.seq, length) {
            if reset {
                self.count_dropped();
                return;
            }
            if !self.answer_unacceptable(repr.seq, payload.len() as u32, length, now) {
                return;
            }
            // What stands at the edge of a closed window may carry an acknowledgment.
            payload = &[];
            fin = false;
        }

        // Second: RST (RFC 5961 §3.2). A peer whose last data lies behind a hole resets from
        // behind that data.
        if reset {
            if repr.seq == self.recv.rcv_nxt() || self.recv.highest() == Some(repr.seq) {
                self.events.insert(Events::RESET);
                self.close();
            } else {
                self.drop_with_challenge(now);
            }
            return;
        }
        if !flags.contains(Flags::ACK) {
            self.count_dropped();
            return;
        }

        // Fifth: ACK (RFC 5961 §5.2). An older one than ours is ignored, its data is not.
        if repr.ack > self.send.nxt() || repr.ack < self.send.una() - self.send.max_window() {
            self.drop_with_challenge(now);
            return;
        }
        self.heard(flags, ce, now);
        self.handle_ack(repr, length, now);
        if self.state == State::Closed {
            return;
        }
        self.note_timestamp(repr, now);

        // Seventh and eighth: the payload and FIN.
        if length > 0 && self.state.may_receive() {
            self.take_data(repr.seq, payload, fin, now);
        } else if fin {
            // A repeated FIN: our acknowledgment was lost.
            self.acknowledge_now(false);
            if self.state == State::TimeWait {
                self.linger(now);
            }
        }
    }

    /// The peer is there, and says what the network does.
    pub(super) fn heard(&mut self, flags: Flags, ce: bool, now: Instant) {
        self.peer.heard_at = now;
        self.peer.probes = 0;
        if self.acks.ecn && flags.contains(Flags::CWR) {
            self.acks.echo = false;
        }
        if self.acks.ecn && ce {
            self.acks.echo = true;
        }
    }

    /// Lets the window follow what the application reads, after data was stored.
    pub(super) fn adapt_window(&mut self, now: Instant) {
        let round_trip = self.rtt.smoothed().unwrap_or(UNKNOWN_ROUND_TRIP);
        let may_grow = self.config.memory.may_grow();
        self.recv.adapt(round_trip, may_grow, now);
        self.settle_memory();
    }

    fn take_data(&mut self, seq: Seq, payload: &[u8], fin: bool, now: Instant) {
        self.recv.set_pressed(self.config.memory.is_used_up());
        let arrival = self.recv.accept(seq, payload, fin);
        self.adapt_window(now);
        let full = payload.len().min(usize::from(u16::MAX)) as u16;
        self.acks.segment = self.acks.segment.max(full);
        if arrival.in_order > 0 {
            self.stats.bytes_received = self
                .stats
                .bytes_received
                .wrapping_add(u64::from(arrival.in_order));
            self.events.insert(Events::READABLE);
        }
        self.stats.out_of_order = self
            .stats
            .out_of_order
            .wrapping_add(arrival.out_of_order.into());
        self.stats.duplicates = self.stats.duplicates.wrapping_add(arrival.duplicate.into());
        if arrival.refused {
            self.count_dropped();
        }
        if arrival.finished {
            self.events.insert(Events::PEER_FINISHED);
            self.state = self.state.after_peer_fin();
            if self.state == State::TimeWait {
                self.linger(now);
            }
        }

        // RFC 9293 §3.8.6.3, RFC 5681 §4.2: at once for anything unusual, otherwise for every
        // second segment whatever its size, so that no peer's Nagle waits for us.
        if arrival.out_of_order || arrival.duplicate || arrival.refused {
            self.acknowledge_now(true);
        } else if arrival.finished || arrival.filled_hole || self.recv.has_holes() {
            self.acknowledge_now(false);
        } else if !payload.is_empty() {
            self.count_in_order(1, payload.len() as u32, now);
        }
        self.acks.data_at = now;
        self.watch_memory(now);
    }

    /// `segments` with `bytes` arrived in order, and nothing about them was unusual.
    pub(super) fn count_in_order(&mut self, segments: u8, bytes: u32, now: Instant) {
        let acks = &mut self.acks;
        acks.pending = acks.pending.saturating_add(segments);
        acks.pending_bytes = acks.pending_bytes.saturating_add(bytes);
        if now.since(acks.data_at) > self.rtt.timeout(&self.config) {
            acks.quick = self.config.quick_acks;
        }
        let two = acks.pending >= 2 || acks.pending_bytes >= 2 * u32::from(acks.segment);
        let quick = acks.quick.min(segments);
        acks.quick -= quick;
        if quick > 0 || two {
            self.acknowledge_now(false);
        } else if !self.timers.ack.is_set() {
            self.timers.ack = Deadline::after(now, self.config.max_ack_delay);
        }
    }

    /// RFC 7323 §5.3. Segments without the option are let through: what removes options from some
    /// segments of a connection must not stop it (§3.2 says SHOULD drop).
    fn passes_paws(&mut self, repr: &Repr, length: u32, now: Instant) -> bool {
        if !self.is_from_the_past(repr, now) {
            return true;
        }
        self.count_dropped();
        if length > 0 {
            // An acknowledgment without data that was overtaken needs no answer.
            if repr.seq < self.recv.rcv_nxt() {
                self.note_duplicate(repr.seq, length);
            }
            self.acknowledge_now(true);
        }
        false
    }

    pub(super) fn is_from_the_past(&self, repr: &Repr, now: Instant) -> bool {
        match (&self.clock, repr.options.timestamps) {
            (Some(clock), Some(timestamps)) => {
                let older = (timestamps.tsval.wrapping_sub(clock.recent) as i32) < 0;
                older && !clock.is_recent_stale(now)
            }
            _ => false,
        }
    }

    /// RFC 7323 §4.3 (2): TS.Recent follows the segment that our last acknowledgment waits for.
    pub(super) fn note_timestamp(&mut self, repr: &Repr, now: Instant) {
        let last_ack = self.acks.last_sent;
        if let (Some(clock), Some(timestamps)) = (&mut self.clock, repr.options.timestamps)
            && repr.seq <= last_ack
        {
            let newer = timestamps.tsval.wrapping_sub(clock.recent) as i32 >= 0;
            if newer || clock.is_recent_stale(now) {
                clock.recent = timestamps.tsval;
                clock.recent_is_ours = true;
                clock.recent_at = now.as_secs_u32();
            }
        }
    }

    /// Answers a segment outside the window; says whether its acknowledgment may still be used.
    fn answer_unacceptable(&mut self, seq: Seq, payload: u32, length: u32, now: Instant) -> bool {
        self.count_dropped();
        if length == 0 {
            // Limited, because two ends that disagree would answer each other for ever.
            self.challenge(now);
            return false;
        }
        if seq < self.recv.rcv_nxt() {
            self.stats.duplicates = self.stats.duplicates.wrapping_add(1);
            if payload > 0 {
                self.note_duplicate(seq, payload);
            }
            if self.state == State::TimeWait && length > payload {
                self.linger(now);
            }
        }
        self.acknowledge_now(true);
        seq == self.recv.rcv_nxt()
    }

    fn note_duplicate(&mut self, seq: Seq, length: u32) {
        if self.sack {
            self.recv.note_duplicate(seq, seq + length);
        }
    }

    /// RFC 9293 §3.10.7.1.
    fn answer_in_closed(&mut self, repr: &Repr, length: u32) {
        self.count_dropped();
        if repr.flags.contains(Flags::RST) {
            return;
        }
        let reset = if repr.flags.contains(Flags::ACK) {
            Reset {
                seq: repr.ack,
                ack: None,
            }
        } else {
            let syn = u32::from(repr.flags.contains(Flags::SYN));
            Reset {
                seq: Seq(0),
                ack: Some(repr.seq + length + syn),
            }
        };
        self.owed.reset = Some(reset);
    }

    fn drop_with_challenge(&mut self, now: Instant) {
        self.count_dropped();
        self.challenge(now);
    }

    /// A challenge acknowledgment, at most ten in a second (RFC 5961 §7).
    fn challenge(&mut self, now: Instant) {
        let second = now.as_secs_u32();
        if second != self.peer.challenge_second {
            self.peer.challenge_second = second;
            self.peer.challenges = 0;
        }
        if self.peer.challenges < CHALLENGES_PER_SECOND {
            self.peer.challenges += 1;
            self.stats.challenge_acks = self.stats.challenge_acks.wrapping_add(1);
            self.acknowledge_now(true);
        }
    }

    /// An acknowledgment leaves with the next [`Connection::poll_transmit`]. A peer without SACK
    /// counts duplicates, so it gets one for each.
    pub(super) fn acknowledge_now(&mut self, pure: bool) {
        self.acks.pure |= pure;
        self.acks.now = if pure && !self.sack {
            (self.acks.now + 1).min(8)
        } else {
            self.acks.now.max(1)
        };
    }

    pub(super) fn count_dropped(&mut self) {
        self.stats.dropped = self.stats.dropped.wrapping_add(1);
    }
}
