//! What an acknowledgment does: SND.UNA, round-trip times, loss detection, recovery, windows.

use wire::tcp::{Repr, SackBlock, Seq};

use super::Connection;
use crate::congestion::Congestion;
use crate::recovery::{DUP_THRESHOLD, Doubt, Phase, Undo};
use crate::sack::Delivery;
use crate::send::Next;
use crate::state::{Events, State};
use crate::time::Instant;

impl Connection {
    /// Takes the acknowledgment of an acceptable segment with `length` sequence numbers.
    pub(super) fn handle_ack(&mut self, repr: &Repr, length: u32, now: Instant) {
        let una = self.send.una();
        let advanced = repr.ack > una;
        let flight = self.pipe();
        let echo = self.echo(repr, now);
        let echo_end = match echo {
            // The echoed millisecond ends so long ago.
            Some(age) => Instant(
                now.0
                    .saturating_sub(u64::from(age) * 1000)
                    .saturating_add(1000),
            ),
            None => Instant(u64::MAX),
        };
        let minimum = self.rtt.minimum_micros().unwrap_or(0);
        let mut delivery = Delivery::new(&self.flight.board, minimum, echo_end, now);
        let has_reports = self.flight.board.sacked_count() > 0;

        if advanced {
            let bytes = self.send.acknowledge(repr.ack);
            self.stats.bytes_acked = self.stats.bytes_acked.wrapping_add(u64::from(bytes));
            self.flight.board.acknowledge(repr.ack, &mut delivery);
            self.flight.progress_at = now;
            self.recovery.backoff = 0;
        }
        let duplicate_reported = self.sack && self.take_reports(repr, una, &mut delivery);
        if delivery.reordered {
            self.recovery.reordering_seen();
        }
        let window_changed = repr.ack >= una
            && self
                .send
                .update_window(repr.seq, repr.ack, repr.window, advanced);
        // Without reports, what arrived with a repeated segment may have waited behind it for long.
        let is_old = delivery.repeated && !has_reports;
        self.measure(&delivery, advanced, echo, is_old, now);
        let dup_delivered = self.count_duplicates(repr, una, length, advanced, window_changed);
        let delivered = delivery.bytes.saturating_sub(dup_delivered.repaid) + dup_delivered.new;

        let undone = advanced && self.undo_by_echo(repr, echo.is_some())
            || self.settle_doubt(&delivery, advanced, length, window_changed)
            || duplicate_reported && self.undo_by_duplicates(repr);
        self.settle_probe(repr, advanced, length, duplicate_reported);

        let lost_before = self.flight.board.lost_count();
        let look_again = self.detect_loss(una, advanced, now);
        let lost_more = self.flight.board.lost_count() > lost_before;
        let spared = self.settle_size_probe(now);
        if delivery.has_news()
            && let Some(sample) = self.flight.board.delivery_rate(&delivery, lost_more)
        {
            let srtt = self.rtt.smoothed();
            self.congestion.on_delivery(&sample, srtt, now);
        }
        self.step_recovery(
            repr.ack,
            delivered,
            flight,
            advanced && !lost_more,
            undone || spared,
            now,
        );

        let memory = &self.config.memory;
        self.send.set_pressed(memory.is_used_up());
        if memory.may_grow() {
            self.send.follow(self.congestion.window());
        }
        if self.send.take_room_event() {
            self.events.insert(Events::WRITABLE);
        }
        if advanced && self.send.is_fin_acknowledged() {
            self.state = self.state.after_fin_acked();
            match self.state {
                State::TimeWait => self.linger(now),
                State::Closed => {
                    self.close();
                    return;
                }
                _ => {}
            }
        }
        self.rearm_loss_timer(look_again, now);
        self.watch_memory(now);
    }

    /// Looks for late segments when the reordering timer fires.
    pub(super) fn detect_late(&mut self, now: Instant) {
        let flight = self.pipe();
        let look_again = self.detect_loss(self.send.una(), false, now);
        let spared = self.settle_size_probe(now);
        self.step_recovery(self.send.una(), 0, flight, false, spared, now);
        self.rearm_loss_timer(look_again, now);
    }

    /// The age of a timestamp echoed by the peer, if it is one of ours.
    fn echo(&self, repr: &Repr, now: Instant) -> Option<u32> {
        let clock = self.clock.as_ref()?;
        let timestamps = repr.options.timestamps?;
        clock.age(timestamps.tsecr, now)
    }

    /// Takes the SACK blocks; answers whether the first one reports a duplicate (RFC 2883 §5).
    fn take_reports(&mut self, repr: &Repr, una: Seq, delivery: &mut Delivery) -> bool {
        let blocks = &repr.options.sack;
        let Some(first) = blocks[0] else { return false };
        let inside = |block: &SackBlock| {
            blocks[1].is_some_and(|second| second.left <= block.left && block.right <= second.right)
        };
        let duplicate = first.left < first.right
            && first.right <= self.send.nxt()
            && first.left >= una - self.send.max_window()
            && (first.right <= repr.ack || inside(&first));
        if duplicate {
            self.recovery
                .duplicate_reported(self.send.una(), self.send.nxt());
        }
        for block in blocks.iter().skip(usize::from(duplicate)).flatten() {
            let left = block.left.max(self.send.una());
            // A report of what was never sent is a lie or a stray.
            if left < block.right && block.right <= self.send.nxt() {
                self.flight.board.report(
                    SackBlock {
                        left,
                        right: block.right,
                    },
                    delivery,
                );
            }
        }
        duplicate
    }

    /// Round-trip samples (RFC 6298 §3, RFC 7323 §4.1): our own clock of microseconds where the
    /// segment was sent once, the echoed timestamp where it was not.
    fn measure(
        &mut self,
        delivery: &Delivery,
        advanced: bool,
        echo: Option<u32>,
        is_old: bool,
        now: Instant,
    ) {
        let micros = |sent: Instant| now.0.saturating_sub(sent.0).min(u64::from(u32::MAX)) as u32;
        if let (Some(first), Some(last), false) = (delivery.first_sent, delivery.last_sent, is_old)
        {
            // The earliest contains the peer's delay, which the time-out has to bear.
            self.rtt.sample(micros(first), now);
            self.rtt.sample_minimum(micros(last), now);
            self.congestion
                .on_round_trip(micros(last), self.send.una(), self.send.nxt());
        } else if advanced
            && delivery.bytes > 0
            && let Some(age) = echo
        {
            // The echoed millisecond had begun up to a millisecond before the segment left.
            self.rtt
                .sample(age.saturating_mul(1000).saturating_add(500), now);
        }
    }

    /// Duplicate acknowledgments as RFC 5681 §2 defines them, for peers without SACK.
    fn count_duplicates(
        &mut self,
        repr: &Repr,
        una: Seq,
        length: u32,
        advanced: bool,
        window_changed: bool,
    ) -> Duplicates {
        let mut counted = Duplicates::default();
        if self.sack {
            return counted;
        }
        if advanced {
            if self.recovery.repair.dup_acks > 0 || self.recovery.repair.dup_bytes > 0 {
                let repair = &mut *self.recovery.repair;
                counted.repaid = repair.dup_bytes.min(repr.ack.since(una) as u32);
                repair.dup_bytes -= counted.repaid;
                repair.dup_acks = 0;
            }
        } else if repr.ack == una && length == 0 && !window_changed && !self.flight.board.is_empty()
        {
            self.recovery.repair.dup_acks = self.recovery.repair.dup_acks.saturating_add(1);
            // No more segments can have left than there are behind the first one.
            let most = (self.flight.board.count() as u32 - 1).saturating_mul(self.segment_size());
            let bytes = self
                .segment_size()
                .min(most.saturating_sub(self.recovery.repair.dup_bytes));
            self.recovery.repair.dup_bytes += bytes;
            counted.new = bytes;
        }
        counted
    }

    /// RFC 4015 §3.2: the echo comes from before the first retransmission, so the original had
    /// arrived and nothing was lost.
    fn undo_by_echo(&mut self, repr: &Repr, echo_is_ours: bool) -> bool {
        // Looking first: a connection that never lost anything has no place for this.
        if self.recovery.repair.undo.is_none() {
            return false;
        }
        let Some(undo) = &mut self.recovery.repair.undo else {
            return false;
        };
        let (Some(retransmitted), Some(timestamps), false) = (
            undo.first_retransmission,
            repr.options.timestamps,
            undo.is_echo_spent,
        ) else {
            return false;
        };
        undo.is_echo_spent = true;
        if !echo_is_ours || (timestamps.tsecr.wrapping_sub(retransmitted) as i32) >= 0 {
            return false;
        }
        self.undo();
        true
    }

    /// F-RTO (RFC 5682 §2.1, §3.1): an acknowledgment of what was not sent again, that repeats
    /// cannot have caused, shows that the time-out came too early.
    fn settle_doubt(
        &mut self,
        delivery: &Delivery,
        advanced: bool,
        length: u32,
        window_changed: bool,
    ) -> bool {
        let Some(doubt) = self.recovery.repair.doubt else {
            return false;
        };
        if delivery.found && !delivery.repeated {
            self.undo();
            return true;
        }
        let is_duplicate = !advanced && length == 0 && !window_changed;
        self.recovery.repair.doubt = match doubt {
            Doubt::Asked if !advanced => Some(doubt),
            // Only where there is something new to send; repeating is the better use otherwise.
            Doubt::Asked => match self.send.next(self.segment_size(), false) {
                Next::Segment { .. } => Some(Doubt::SendingNew),
                Next::Nothing | Next::WindowClosed => None,
            },
            Doubt::SendingNew if advanced || is_duplicate => None,
            Doubt::SendingNew => Some(doubt),
        };
        false
    }

    /// RFC 2883 §4, RFC 3708: all that was sent again had arrived before.
    fn undo_by_duplicates(&mut self, repr: &Repr) -> bool {
        let needless = repr.options.sack[0].is_some_and(|first| self.recovery.was_needless(first));
        if needless {
            self.undo();
        }
        needless
    }

    /// Takes the last reduction back: nothing had been lost.
    fn undo(&mut self) {
        if let Some(undo) = self.recovery.repair.undo.take() {
            self.stats.undone = self.stats.undone.wrapping_add(1);
            self.congestion.restore(undo.before);
            self.flight.board.find_all();
            self.recovery.reordering_seen();
            self.recovery.leave();
        }
    }

    /// RFC 8985 §7.4: whether the loss probe repaired a loss, which then counts as one.
    fn settle_probe(&mut self, repr: &Repr, advanced: bool, length: u32, duplicate_reported: bool) {
        let Some(probe) = self.recovery.repair.probe else {
            return;
        };
        if repr.ack < probe.end {
            return;
        }
        let echo = repr.options.timestamps.map(|timestamps| timestamps.tsecr);
        let answers_original = probe
            .stamp
            .zip(echo)
            .is_some_and(|(stamp, echo)| advanced && (echo.wrapping_sub(stamp) as i32) < 0);
        if !probe.retransmission || duplicate_reported || answers_original {
            self.recovery.peer_delays |= probe.retransmission;
            self.recovery.repair.probe = None;
        } else if repr.ack > probe.end {
            self.recovery.repair.probe = None;
            if self.recovery.phase == Phase::Open {
                self.congestion.on_loss();
            }
        } else if !advanced && length == 0 && repr.options.sack[0].is_none() {
            self.recovery.repair.probe = None;
        }
    }

    /// Marks what is lost; answers when to look again.
    fn detect_loss(&mut self, una: Seq, advanced: bool, now: Instant) -> Option<Instant> {
        if self.flight.board.is_empty() {
            return None;
        }
        if self.sack {
            let smoothed = self.rtt.smoothed().map_or(0, |rtt| rtt.as_micros() as u32);
            let minimum = self.rtt.minimum_micros().unwrap_or(smoothed);
            let tolerance =
                self.recovery
                    .tolerance(self.flight.board.sacked_count(), minimum, smoothed);
            return self.flight.board.detect_late(tolerance, now);
        }
        // RFC 5681 §3.2, and RFC 6582 §3.2 for the acknowledgment that leaves a hole.
        match self.recovery.phase {
            Phase::Open if self.recovery.repair.dup_acks >= DUP_THRESHOLD => {
                self.flight.board.lose_first();
            }
            Phase::Fast { point }
                if advanced && self.send.una() > una && self.send.una() < point =>
            {
                self.flight.board.lose_first();
            }
            Phase::Open | Phase::Fast { .. } | Phase::Timeout { .. } => {}
        }
        None
    }

    /// Moves between the phases and lets the window follow.
    fn step_recovery(
        &mut self,
        ack: Seq,
        delivered: u32,
        flight: u32,
        progress: bool,
        // What is lost is not a sign of congestion.
        spared: bool,
        now: Instant,
    ) {
        let segment = self.segment_size();
        match self.recovery.phase {
            Phase::Fast { point } | Phase::Timeout { point } if ack >= point => {
                self.recovery.leave();
                if let Some(undo) = &mut self.recovery.repair.undo {
                    undo.is_echo_spent = true;
                }
                self.congestion.on_recovered();
            }
            Phase::Open | Phase::Fast { .. } | Phase::Timeout { .. } => {}
        }
        if self.recovery.phase == Phase::Open && self.flight.board.lost_count() > 0 && !spared {
            self.recovery.repair.undo =
                Some(Undo::new(self.congestion.snapshot(), self.send.una()));
            self.congestion.on_loss();
            self.congestion.on_recovery(self.pipe() + delivered);
            self.recovery.enter_fast(self.send.nxt(), flight);
            self.stats.recoveries = self.stats.recoveries.wrapping_add(1);
        }
        match self.recovery.phase {
            Phase::Fast { .. } => {
                let (pipe, target) = (self.pipe(), self.congestion.threshold());
                self.recovery
                    .pace(delivered, pipe, target, segment, progress);
            }
            Phase::Open | Phase::Timeout { .. } => {
                // RFC 9438 §4.2 counts only what is acknowledged while the window is in full use. What
                // is reported behind a hole may be the first sign of loss and lets nothing grow.
                let window = self.congestion.window();
                let in_slow_start = window < self.congestion.threshold();
                let limited = self.flight.limited_until.is_some_and(|until| ack <= until)
                    || (in_slow_start && flight >= window / 2)
                    || matches!(self.recovery.phase, Phase::Timeout { .. });
                if progress && delivered > 0 && limited {
                    self.congestion.on_ack(delivered, self.rtt.smoothed(), now);
                }
            }
        }
        if self.flight.limited_until.is_some_and(|until| ack > until) {
            self.flight.limited_until = None;
        }
    }
}

/// What duplicate acknowledgments without SACK say about bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Duplicates {
    /// Newly presumed to have arrived.
    new: u32,
    /// Acknowledged now and presumed before.
    repaid: u32,
}
