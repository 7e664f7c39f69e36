//! Making segments.

use wire::tcp::{Flags, Options, Repr, Seq, Timestamps};

use super::path_mtu::Attempt;
use super::{Connection, Events, Reset, Transmit};
use crate::congestion::Congestion;
use crate::recovery::{Doubt, Phase, Probe};
use crate::sack::Lost;
use crate::send::Next;
use crate::state::State;
use crate::time::Instant;
use crate::timer::Deadline;

/// Segments that pacing would spread over less than this leave together.
const PACING_GRAIN: core::time::Duration = core::time::Duration::from_micros(250);
/// Most that a late timer may be made up for.
const PACING_CREDIT: core::time::Duration = core::time::Duration::from_millis(1);
/// Bytes of headers counted with each segment.
const PACING_OVERHEAD: u32 = 52;

impl Connection {
    /// The next segment to send, or `None` until something happens.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if let Some(reset) = self.owed.reset.take() {
            if core::mem::take(&mut self.owed.reset_at_edge) {
                let seq = self.send.window_edge();
                self.owed.reset = Some(Reset { seq, ..reset });
            }
            let mut flags = Flags::RST;
            if reset.ack.is_some() {
                flags = flags.with(Flags::ACK);
            }
            let repr = Repr {
                seq: reset.seq,
                ack: reset.ack.unwrap_or_default(),
                flags,
                ..Repr::default()
            };
            return Some(self.count_sent(Transmit {
                repr,
                payload_seq: reset.seq,
                payload_len: 0,
            }));
        }
        if self.state == State::Closed {
            return None;
        }
        if self.acks.now > 0 && self.acks.pure {
            return Some(self.acknowledgment(self.send.acceptable_seq(), now));
        }
        if let Some(transmit) = self.owed_segment(now) {
            return Some(transmit);
        }
        if let Some(transmit) = self.data_segment(now) {
            return Some(transmit);
        }
        if self.acks.now > 0 || self.recv.is_update_due(self.acks.segment.into()) {
            return Some(self.acknowledgment(self.send.acceptable_seq(), now));
        }
        None
    }

    /// Segments that timers asked for.
    fn owed_segment(&mut self, now: Instant) -> Option<Transmit> {
        let segment = self.segment_size();
        let stamp = self.clock.map(|clock| clock.value(now));
        if core::mem::take(&mut self.owed.loss_probe) && !self.flight.board.is_empty() {
            // RFC 8985 §7.3: new data if there is some, whatever the congestion window says.
            let transmit = match self.send.next(segment, false) {
                Next::Segment { payload, fin } => {
                    self.recovery.repair.probe = Some(Probe {
                        end: self.send.nxt() + payload + u32::from(fin),
                        retransmission: false,
                        stamp,
                    });
                    Some(self.new_segment(payload, fin, now))
                }
                Next::Nothing | Next::WindowClosed => {
                    self.recovery.repair.probe = Some(Probe {
                        end: self.send.nxt(),
                        retransmission: true,
                        stamp,
                    });
                    self.flight
                        .board
                        .last_unreported()
                        .map(|last| self.retransmission(last, now))
                }
            };
            if transmit.is_some() {
                self.stats.loss_probes = self.stats.loss_probes.wrapping_add(1);
                self.rearm_loss_timer(None, now);
                return transmit;
            }
        }
        if core::mem::take(&mut self.owed.window_probe) {
            if let Next::Segment { payload, fin } = self.send.next(segment, true) {
                return Some(self.new_segment(payload, fin, now));
            }
            // A number that the peer has acknowledged makes it answer with its window, and is not
            // data that a full receiver would have to refuse.
            return Some(self.acknowledgment(self.send.una() - 1, now));
        }
        if core::mem::take(&mut self.owed.keepalive) {
            // RFC 9293 §3.8.4.
            return Some(self.acknowledgment(self.send.nxt() - 1, now));
        }
        None
    }

    /// What is lost, then what is new, as far as the windows allow.
    fn data_segment(&mut self, now: Instant) -> Option<Transmit> {
        let segment = self.segment_size();
        if self.flight.board.is_empty() {
            self.restart_after_idle(now);
        }
        let window = self.window();
        let pipe = self.pipe();
        let next = self.send.next(segment, false);
        // F-RTO tries new data first: its acknowledgment shows whether anything was lost.
        let tries_new = self.recovery.repair.doubt == Some(Doubt::SendingNew)
            && matches!(next, Next::Segment { .. });
        if self.flight.board.lost_count() > 0
            && !tries_new
            && let Some(lost) = self.next_lost(segment)
        {
            // The first segment may always be repaired, the others only within the peer's window,
            // should it have shrunk.
            let first = lost.seq == self.send.una();
            if first || lost.seq < self.send.window_edge() {
                if pipe == 0 || pipe + lost.length <= window {
                    if self.must_wait(now) {
                        return None;
                    }
                    return Some(self.retransmission(lost, now));
                }
                self.flight.limited_until = Some(self.send.nxt());
                return None;
            }
        }
        match next {
            Next::Segment { payload, fin } => {
                if pipe == 0 || pipe + payload <= window {
                    if self.must_wait(now) {
                        return None;
                    }
                    return match self.size_to_try(pipe, window, now) {
                        Attempt::No => Some(self.new_segment(payload, fin, now)),
                        Attempt::Now(larger) => Some(self.new_segment(larger, false, now)),
                        Attempt::Wait => {
                            self.flight.limited_until = Some(self.send.nxt());
                            None
                        }
                    };
                }
                self.flight.limited_until = Some(self.send.nxt());
                None
            }
            Next::WindowClosed => {
                if self.flight.board.is_empty() {
                    self.arm_persist(now);
                }
                None
            }
            Next::Nothing => {
                if pipe < window && self.flight.is_there() && self.send.is_writer_done() {
                    self.flight.board.limit_by_application();
                }
                None
            }
        }
    }

    /// The next segment to send again, none of them larger than `segment`.
    fn next_lost(&mut self, segment: u32) -> Option<Lost> {
        let lost = self.flight.board.next_lost()?;
        if lost.length <= segment {
            return Some(lost);
        }
        self.flight.board.split(segment);
        self.flight.board.next_lost()
    }

    /// Whether pacing holds the next segment back; sets its timer then.
    fn must_wait(&mut self, now: Instant) -> bool {
        if !self.is_ahead_of_pace(now) {
            return false;
        }
        if !self.flight.pace.is_set() {
            // Some segments leave together then: a timer for each would cost more than it smooths.
            self.flight.pace =
                Deadline::after(Instant(self.flight.paced_until / 1000), PACING_GRAIN);
        }
        true
    }

    pub(super) fn is_ahead_of_pace(&self, now: Instant) -> bool {
        self.flight.paced_until > now.0.saturating_mul(1000) && self.pacing_rate().is_some()
    }

    /// Bytes a second.
    fn pacing_rate(&self) -> Option<u64> {
        let srtt = self.rtt.smoothed();
        if let Some(rate) = self.congestion.pacing_rate(srtt) {
            return Some(rate);
        }
        if !self.config.pacing {
            return None;
        }
        // A window in a round trip, and so much more that growth is not slowed: twice in slow start,
        // six fifths after it, as Linux does.
        let micros = srtt?.as_micros().max(1) as u64;
        let window = u64::from(self.congestion.window());
        let percent = if self.congestion.window() < self.congestion.threshold() {
            200
        } else {
            120
        };
        Some((window * 10_000 * percent / micros).max(1))
    }

    /// Notes what left against the pacing rate.
    fn pace(&mut self, length: u32, now: Instant) {
        if let Some(rate) = self.pacing_rate() {
            // A little of what was not used may be made up for.
            let from = self
                .flight
                .paced_until
                .max((now - PACING_CREDIT).0.saturating_mul(1000));
            let nanos = u64::from(length + PACING_OVERHEAD) * 1_000_000_000 / rate;
            self.flight.paced_until = from.saturating_add(nanos);
        }
    }

    /// RFC 5681 §4.1: a window that was not used says little about the path.
    fn restart_after_idle(&mut self, now: Instant) {
        if self.recovery.phase != Phase::Open || self.send.next(1, true) == Next::Nothing {
            return;
        }
        let timeout = self.rtt.timeout(&self.config).as_micros().max(1);
        let timeouts = now.since(self.sent_at).as_micros() / timeout;
        if timeouts > 0 {
            let segment = self.segment_size();
            self.congestion
                .wake(segment, self.config.initial_window, self.send.nxt());
            self.congestion.on_idle(timeouts.min(32) as u32);
            self.sent_at = now;
        }
    }

    fn new_segment(&mut self, payload: u32, fin: bool, now: Instant) -> Transmit {
        let seq = self.send.nxt();
        let length = payload + u32::from(fin);
        let segment = self.segment_size();
        self.congestion
            .wake(segment, self.config.initial_window, seq);
        if self.flight.board.is_empty() {
            self.flight.progress_at = now;
            self.recovery.backoff = 0;
        }
        self.push_new(length, now);
        self.sent_data(seq, length, now)
    }

    /// Another segment of new data leaves behind the one before it, with the same header.
    pub(super) fn note_new_segment(&mut self, payload: u32, now: Instant) {
        self.push_new(payload, now);
        self.account_for(payload, now);
        self.stats.segments_sent = self.stats.segments_sent.wrapping_add(1);
    }

    fn push_new(&mut self, length: u32, now: Instant) {
        self.flight.board.push(self.send.nxt(), length, now);
        self.send.sent(length);
        if self.send.take_room_event() {
            self.events.insert(Events::WRITABLE);
        }
    }

    fn retransmission(&mut self, lost: Lost, now: Instant) -> Transmit {
        self.flight.board.retransmitted(lost, now);
        self.stats.retransmits = self.stats.retransmits.wrapping_add(1);
        let stamp = self.clock.map(|clock| clock.value(now));
        self.recovery.repeats(lost.length, stamp);
        self.sent_data(lost.seq, lost.length, now)
    }

    /// What is counted of every segment with data that leaves.
    fn account_for(&mut self, length: u32, now: Instant) {
        self.sent_at = now;
        self.pace(length, now);
        if matches!(self.recovery.phase, Phase::Fast { .. }) {
            self.recovery.sent(length);
        }
    }

    fn sent_data(&mut self, seq: Seq, length: u32, now: Instant) -> Transmit {
        self.account_for(length, now);
        let payload = self.send.payload_of(seq, length);
        let mut flags = Flags::ACK;
        if payload > 0 && self.send.is_end(seq + payload) {
            flags = flags.with(Flags::PSH);
        }
        if length > payload {
            flags = flags.with(Flags::FIN);
        }
        self.rearm_loss_timer(None, now);
        let repr = self.header(seq, flags, now);
        self.count_sent(Transmit {
            repr,
            payload_seq: seq,
            payload_len: payload as usize,
        })
    }

    /// A segment without data at `seq`, with everything that there is to report.
    fn acknowledgment(&mut self, seq: Seq, now: Instant) -> Transmit {
        let report = self.sack && (self.recv.has_holes() || self.recv.has_duplicate_to_report());
        let owed = self.acks.now;
        let mut repr = self.header(seq, Flags::ACK, now);
        if report {
            repr.options.sack = self
                .recv
                .sack_blocks(if self.clock.is_some() { 3 } else { 4 });
        }
        self.acks.now = owed.saturating_sub(1);
        self.acks.pure = self.acks.now > 0;
        self.count_sent(Transmit {
            repr,
            payload_seq: seq,
            payload_len: 0,
        })
    }

    /// The fields that every segment carries; it acknowledges, so nothing is owed after it.
    fn header(&mut self, seq: Seq, flags: Flags, now: Instant) -> Repr {
        let ack = self.recv.rcv_nxt();
        let window = self.recv.offer_window(self.acks.segment.into());
        self.acks.last_sent = ack;
        self.acks.now = 0;
        self.acks.pure = false;
        self.acks.pending = 0;
        self.acks.pending_bytes = 0;
        self.timers.ack = Deadline::NEVER;
        let timestamps = self.clock.map(|clock| Timestamps {
            tsval: clock.value(now),
            tsecr: clock.recent,
        });
        Repr {
            seq,
            ack,
            flags: if self.acks.echo {
                flags.with(Flags::ECE)
            } else {
                flags
            },
            window,
            options: Options {
                timestamps,
                ..Options::default()
            },
            ..Repr::default()
        }
    }

    fn count_sent(&mut self, transmit: Transmit) -> Transmit {
        self.stats.segments_sent = self.stats.segments_sent.wrapping_add(1);
        transmit
    }
}
