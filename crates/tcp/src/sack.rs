//! What is in flight: every segment sent and not yet acknowledged, what the peer has reported
//! about it (RFC 2018), and which of it counts as lost (RFC 8985).
//!
//! Segments stand in order of their sequence numbers. A second queue keeps the order of
//! transmission: each transmission enters it once at the back and leaves it once at the front, so
//! looking for late segments costs a constant per packet however large the window is.

mod export;

use std::collections::VecDeque;

use wire::tcp::{SackBlock, Seq};

use crate::congestion::RateSample;
use crate::ranges::RangeSet;
use crate::time::Instant;

/// More ranges than a window of this size can have holes in practice; a peer that reports more is
/// not worth the memory, and what is left out only counts as not received.
const MAX_REPORTED_RANGES: usize = 512;

/// Reported received by the peer, but not yet acknowledged.
const SACKED: u8 = 1;
/// Believed lost and not sent again since.
const LOST: u8 = 2;
/// Sent more than once.
const RETRANSMITTED: u8 = 4;
/// Left while there was nothing to send behind it.
const APP_LIMITED: u8 = 8;

/// One segment in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: Seq,
    /// Sequence numbers it takes, our FIN included.
    length: u32,
    sent_at: Instant,
    /// Counts transmissions; a later transmission of the same segment has another number.
    serial: u32,
    marks: u8,
    /// Bytes that had been delivered when it left, when the last of them had, and how many
    /// microseconds lay between its leaving and that of the segment delivered then.
    delivered: u32,
    send_elapsed: u32,
    delivered_at: Instant,
}

impl Sent {
    fn end(&self) -> Seq {
        self.seq + self.length
    }
    fn is(&self, mark: u8) -> bool {
        self.marks & mark != 0
    }
    fn in_flight(&self) -> bool {
        self.marks & (SACKED | LOST) == 0
    }
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    InFlight,
    Arrived,
    Lost,
}

/// A segment picked for retransmission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    id: u32,
    pub(crate) seq: Seq,
    pub(crate) length: u32,
}

/// The transmission that was delivered last, as far as we know (RACK.segment of RFC 8985 §5.2).
#[derive(Clone, Copy, Debug)]
struct Latest {
    serial: u32,
    rtt: u32,
}

/// What one acknowledgment told, gathered over its parts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Delivery {
    now: Instant,
    /// End of the time that the echoed timestamp names; an echo from before a retransmission
    /// cannot have been caused by it.
    echo_end: Instant,
    minimum_rtt: u32,
    /// Highest delivered sequence number before this acknowledgment.
    highest_before: Option<Seq>,
    /// Sequence numbers newly known to have arrived.
    pub(crate) bytes: u32,
    /// When the earliest and the latest of the newly delivered segments were sent, without those
    /// sent more than once (Karn's algorithm, RFC 6298 §3).
    pub(crate) first_sent: Option<Instant>,
    pub(crate) last_sent: Option<Instant>,
    /// A segment arrived after one that was sent later.
    pub(crate) reordered: bool,
    /// A segment arrived that counted as lost and was not sent again.
    pub(crate) found: bool,
    /// A segment arrived that was sent more than once.
    pub(crate) repeated: bool,
    /// The delivered segment that left with the most bytes delivered before it.
    newest: Option<Sent>,
}

impl Delivery {
    /// Whether anything was delivered.
    pub(crate) fn has_news(&self) -> bool {
        self.newest.is_some()
    }

    pub(crate) fn new(
        board: &Scoreboard,
        minimum_rtt: u32,
        echo_end: Instant,
        now: Instant,
    ) -> Self {
        Self {
            now,
            echo_end,
            minimum_rtt,
            highest_before: board.highest,
            bytes: 0,
            first_sent: None,
            last_sent: None,
            reordered: false,
            found: false,
            repeated: false,
            newest: None,
        }
    }
}

/// Everything in flight.
#[derive(Debug)]
pub(crate) struct Scoreboard {
    segments: VecDeque<Sent>,
    /// Name of the first of `segments`; names count up and wrap.
    first_id: u32,
    /// Transmissions in order of time: name and serial. Entries whose serial is not that of the
    /// segment any more are skipped when they reach the front.
    order: VecDeque<(u32, u32)>,
    next_serial: u32,
    /// No segment before this name is lost and waiting.
    lost_hint: u32,
    lost_count: u32,
    sacked_count: u32,
    /// Sequence numbers in flight: neither reported nor lost ("pipe" of RFC 6675 §4).
    pipe: u32,
    reported: RangeSet,
    highest: Option<Seq>,
    latest: Option<Latest>,
    rate: Rate,
}

/// The account of deliveries from which the path's rate is estimated (Cheng and others, "Delivery
/// rate estimation", draft-cheng-iccrg-delivery-rate-estimation).
#[derive(Debug)]
struct Rate {
    /// Bytes delivered; wraps.
    delivered: u32,
    delivered_at: Instant,
    /// When the segment that was delivered last left.
    first_sent: Instant,
    /// Until so many bytes are delivered, what leaves does not show what the path could carry.
    app_limited: Option<u32>,
}

impl Rate {
    fn stamp(&mut self, segment: &mut Sent, flight: u32) {
        let now = segment.sent_at;
        if flight == 0 {
            self.first_sent = now;
            self.delivered_at = now;
        }
        segment.delivered = self.delivered;
        segment.delivered_at = self.delivered_at;
        segment.send_elapsed = now.0.saturating_sub(self.first_sent.0).min(1 << 31) as u32;
        segment.marks &= !APP_LIMITED;
        if self.app_limited.is_some() {
            segment.marks |= APP_LIMITED;
        }
    }
}

impl Scoreboard {
    pub(crate) const NEW: Self = Self {
        segments: VecDeque::new(),
        first_id: 0,
        order: VecDeque::new(),
        next_serial: 0,
        lost_hint: 0,
        lost_count: 0,
        sacked_count: 0,
        pipe: 0,
        reported: RangeSet::NEW,
        highest: None,
        latest: None,
        rate: Rate {
            delivered: 0,
            delivered_at: Instant::ZERO,
            first_sent: Instant::ZERO,
            app_limited: None,
        },
    };

    /// Notes the first transmission of `length` numbers from `seq` on, the end of the queue.
    pub(crate) fn push(&mut self, seq: Seq, length: u32, now: Instant) {
        let id = self.first_id.wrapping_add(self.segments.len() as u32);
        let serial = self.next_serial;
        self.next_serial = serial.wrapping_add(1);
        let mut segment = Sent {
            seq,
            length,
            sent_at: now,
            serial,
            marks: 0,
            delivered: 0,
            send_elapsed: 0,
            delivered_at: now,
        };
        self.rate.stamp(&mut segment, self.pipe);
        self.segments.push_back(segment);
        self.order.push_back((id, serial));
        self.pipe += length;
    }

    /// The lowest lost segment that waits for retransmission.
    pub(crate) fn next_lost(&mut self) -> Option<Lost> {
        if self.lost_count == 0 {
            return None;
        }
        let start = self.lost_hint.wrapping_sub(self.first_id) as usize;
        let start = if start < self.segments.len() {
            start
        } else {
            0
        };
        let index = start
            + self
                .segments
                .range(start..)
                .position(|segment| segment.is(LOST))?;
        let id = self.first_id.wrapping_add(index as u32);
        self.lost_hint = id;
        let segment = self.segments[index];
        Some(Lost {
            id,
            seq: segment.seq,
            length: segment.length,
        })
    }

    /// The highest segment that was not reported, for a loss probe.
    pub(crate) fn last_unreported(&self) -> Option<Lost> {
        let index = self
            .segments
            .iter()
            .rposition(|segment| !segment.is(SACKED))?;
        let segment = self.segments[index];
        Some(Lost {
            id: self.first_id.wrapping_add(index as u32),
            seq: segment.seq,
            length: segment.length,
        })
    }

    /// Notes that a segment leaves once more.
    pub(crate) fn retransmitted(&mut self, lost: Lost, now: Instant) {
        let index = lost.id.wrapping_sub(self.first_id) as usize;
        let serial = self.next_serial;
        let Some(segment) = self.segments.get_mut(index) else {
            return;
        };
        let flight = self.pipe;
        if segment.is(LOST) {
            self.lost_count -= 1;
            self.pipe += segment.length;
        }
        segment.marks = (segment.marks & !LOST) | RETRANSMITTED;
        segment.sent_at = now;
        segment.serial = serial;
        self.rate.stamp(segment, flight);
        self.next_serial = serial.wrapping_add(1);
        self.order.push_back((lost.id, serial));
    }

    /// Takes a cumulative acknowledgment.
    pub(crate) fn acknowledge(&mut self, ack: Seq, delivery: &mut Delivery) {
        while let Some(&segment) = self.segments.front() {
            if segment.end() > ack {
                break;
            }
            self.segments.pop_front();
            self.first_id = self.first_id.wrapping_add(1);
            if segment.is(SACKED) {
                self.sacked_count -= 1;
            } else {
                self.deliver(segment, delivery);
            }
            if segment.is(LOST) {
                self.lost_count -= 1;
            }
        }
        let mut delivered = 0;
        if let Some(segment) = self.segments.front_mut()
            && segment.seq < ack
        {
            let part = ack.since(segment.seq) as u32;
            segment.seq = ack;
            segment.length -= part;
            if segment.in_flight() {
                self.pipe -= part;
            }
            if !segment.is(SACKED) {
                delivered = part;
            }
        }
        delivery.bytes += delivered;
        self.reported.remove_before(ack);
        if self.segments.is_empty() {
            self.order.clear();
            self.reported.clear();
        }
    }

    /// Takes a SACK block that lies within what is in flight; answers whether it told anything.
    pub(crate) fn report(&mut self, block: SackBlock, delivery: &mut Delivery) -> bool {
        let hull = self.reported.hull(block.left, block.right);
        let mut cursor = block.left;
        if self.reported.first_gap(cursor, block.right).is_none() {
            return false;
        }
        // A segment counts when all of it is reported, which may take several blocks.
        while let Some(gap) = self.reported.first_gap(cursor, block.right) {
            cursor = gap.end;
            let mut index = self
                .segments
                .partition_point(|segment| segment.end() <= gap.start);
            while let Some(segment) = self.segments.get_mut(index) {
                if segment.seq >= gap.end {
                    break;
                }
                if !segment.is(SACKED) && segment.seq >= hull.start && segment.end() <= hull.end {
                    let before = *segment;
                    segment.marks = (segment.marks | SACKED) & !LOST;
                    self.sacked_count += 1;
                    if before.is(LOST) {
                        self.lost_count -= 1;
                    }
                    self.deliver(before, delivery);
                }
                index += 1;
            }
        }
        self.reported
            .insert(block.left, block.right, MAX_REPORTED_RANGES)
    }

    /// Marks as lost what was sent longer ago than the latest delivered transmission by more than
    /// `tolerance` microseconds (RFC 8985 §6.2 step 5). Answers when to look again.
    pub(crate) fn detect_late(&mut self, tolerance: u32, now: Instant) -> Option<Instant> {
        let latest = self.latest?;
        while let Some(&(id, serial)) = self.order.front() {
            let index = id.wrapping_sub(self.first_id) as usize;
            let Some(segment) = self.segments.get(index) else {
                self.order.pop_front();
                continue;
            };
            if segment.serial != serial || !segment.in_flight() {
                self.order.pop_front();
                continue;
            }
            if serial.wrapping_sub(latest.serial) as i32 >= 0 {
                return None;
            }
            let due = Instant(segment.sent_at.0 + u64::from(latest.rtt) + u64::from(tolerance));
            if due > now {
                return Some(due);
            }
            self.mark_lost(index);
            self.order.pop_front();
        }
        None
    }

    /// Marks the first segment lost if it is in flight; answers whether it was.
    pub(crate) fn lose_first(&mut self) -> bool {
        let in_flight = self.segments.front().is_some_and(Sent::in_flight);
        if in_flight {
            self.mark_lost(0);
        }
        in_flight
    }

    /// Marks everything lost that was not reported: the retransmission timer expired. A peer that
    /// does not acknowledge the first segment although it reported it has thrown it away (RFC 2018
    /// §8), so then nothing that it reported counts.
    pub(crate) fn lose_all(&mut self) {
        if self
            .segments
            .front()
            .is_some_and(|segment| segment.is(SACKED))
        {
            self.reported.clear();
            self.sacked_count = 0;
            for segment in &mut self.segments {
                if segment.is(SACKED) {
                    segment.marks = (segment.marks & !SACKED) | LOST;
                    self.lost_count += 1;
                }
            }
        }
        for index in 0..self.segments.len() {
            if self.segments[index].in_flight() {
                self.mark_lost(index);
            }
        }
        self.order.clear();
        self.lost_hint = self.first_id;
    }

    /// Takes back that segments were lost: they had only been late.
    pub(crate) fn find_all(&mut self) {
        for segment in &mut self.segments {
            if segment.is(LOST) {
                segment.marks &= !LOST;
                self.pipe += segment.length;
            }
        }
        self.lost_count = 0;
        self.rebuild_order();
    }

    /// Cuts segments to at most `length` sequence numbers: the path carries no larger ones.
    pub(crate) fn split(&mut self, length: u32) {
        if length == 0 || self.segments.iter().all(|segment| segment.length <= length) {
            return;
        }
        let mut pieces = VecDeque::with_capacity(self.segments.len() * 2);
        self.lost_count = 0;
        self.sacked_count = 0;
        for segment in &self.segments {
            let mut rest = *segment;
            while rest.length > 0 {
                let piece = Sent {
                    length: rest.length.min(length),
                    ..rest
                };
                rest.seq += piece.length;
                rest.length -= piece.length;
                self.lost_count += u32::from(piece.is(LOST));
                self.sacked_count += u32::from(piece.is(SACKED));
                pieces.push_back(piece);
            }
        }
        self.segments = pieces;
        self.lost_hint = self.first_id;
        self.rebuild_order();
    }

    /// Gives the memory back if nothing is in flight.
    pub(crate) fn release_if_empty(&mut self) {
        if self.segments.is_empty() {
            self.segments = VecDeque::new();
            self.order = VecDeque::new();
            self.reported.release_if_empty();
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }
    pub(crate) fn holds_memory(&self) -> bool {
        self.segments.capacity() > 0
    }
    /// Everything that there was to send has left, and more would have been allowed.
    pub(crate) fn limit_by_application(&mut self) {
        self.rate.app_limited = Some(self.rate.delivered.wrapping_add(self.pipe));
    }

    /// Accounts for one acknowledgment, after all of its parts: the rate of delivery since the newest
    /// segment that it delivers left. `None` if it delivers nothing.
    pub(crate) fn delivery_rate(
        &mut self,
        delivery: &Delivery,
        has_lost: bool,
    ) -> Option<RateSample> {
        let segment = delivery.newest?;
        let now = delivery.now;
        let rate = &mut self.rate;
        rate.delivered = rate.delivered.wrapping_add(delivery.bytes);
        rate.delivered_at = now;
        rate.first_sent = rate.first_sent.max(segment.sent_at);
        if let Some(until) = rate.app_limited
            && (rate.delivered.wrapping_sub(until) as i32) > 0
        {
            rate.app_limited = None;
        }
        // Whichever is longer: the time in which it was sent, or that in which it was delivered.
        // Acknowledgments that a link bunches make the latter too short.
        let acked = now.since(segment.delivered_at).as_micros() as u64;
        let interval = acked.max(segment.send_elapsed.into());
        let bytes = u64::from(rate.delivered.wrapping_sub(segment.delivered));
        let is_usable = interval >= delivery.minimum_rtt.into() && interval > 0;
        Some(RateSample {
            rate: if is_usable {
                bytes.saturating_mul(1_000_000) / interval
            } else {
                0
            },
            delivered: rate.delivered,
            prior_delivered: segment.delivered,
            is_app_limited: segment.is(APP_LIMITED),
            rtt: delivery
                .last_sent
                .map(|sent| now.since(sent).as_micros().min(u128::from(u32::MAX)) as u32),
            acked: delivery.bytes,
            flight: self.pipe,
            has_lost,
        })
    }

    /// What became of the segment that begins at `seq`.
    pub(crate) fn fate(&self, seq: Seq) -> Fate {
        let index = self
            .segments
            .partition_point(|segment| segment.end() <= seq);
        match self.segments.get(index) {
            Some(segment) if segment.is(LOST) => Fate::Lost,
            Some(segment) if segment.is(SACKED) => Fate::Arrived,
            Some(segment) if segment.seq <= seq => Fate::InFlight,
            _ => Fate::Arrived,
        }
    }

    /// Sequence numbers in flight.
    pub(crate) fn pipe(&self) -> u32 {
        self.pipe
    }
    /// Segments that wait for retransmission.
    pub(crate) fn lost_count(&self) -> u32 {
        self.lost_count
    }
    /// Segments reported but not acknowledged.
    pub(crate) fn sacked_count(&self) -> u32 {
        self.sacked_count
    }
    /// Segments not acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.segments.len()
    }
    /// When the first segment left last, and its length.
    pub(crate) fn first(&self) -> Option<(Instant, u32)> {
        self.segments
            .front()
            .map(|segment| (segment.sent_at, segment.length))
    }

    fn mark_lost(&mut self, index: usize) {
        let segment = &mut self.segments[index];
        segment.marks |= LOST;
        self.pipe -= segment.length;
        self.lost_count += 1;
        let id = self.first_id.wrapping_add(index as u32);
        // A hint that names an acknowledged segment means the first one.
        let hint_index = self.lost_hint.wrapping_sub(self.first_id) as usize;
        let hint_index = if hint_index < self.segments.len() {
            hint_index
        } else {
            0
        };
        if self.lost_count == 1 || index < hint_index {
            self.lost_hint = id;
        }
    }

    /// Accounts for a segment that arrived; `segment` is as it was before.
    fn deliver(&mut self, segment: Sent, delivery: &mut Delivery) {
        if segment.in_flight() {
            self.pipe -= segment.length;
        }
        delivery.bytes += segment.length;
        let newer = delivery
            .newest
            .is_none_or(|newest| segment.serial.wrapping_sub(newest.serial) as i32 > 0);
        if newer {
            delivery.newest = Some(segment);
        }
        let rtt = delivery
            .now
            .0
            .saturating_sub(segment.sent_at.0)
            .min(u64::from(u32::MAX)) as u32;
        delivery.found |= segment.is(LOST) && !segment.is(RETRANSMITTED);
        delivery.repeated |= segment.is(RETRANSMITTED);
        if segment.is(RETRANSMITTED) {
            // RFC 8985 §6.2 step 2: what cannot be the answer to the last transmission is no news
            // about it.
            if segment.sent_at >= delivery.echo_end || rtt < delivery.minimum_rtt {
                return;
            }
        } else {
            delivery.first_sent = Some(
                delivery
                    .first_sent
                    .map_or(segment.sent_at, |sent| sent.min(segment.sent_at)),
            );
            delivery.last_sent = Some(
                delivery
                    .last_sent
                    .map_or(segment.sent_at, |sent| sent.max(segment.sent_at)),
            );
            delivery.reordered |= delivery
                .highest_before
                .is_some_and(|highest| segment.end() < highest);
        }
        let end = segment.end();
        self.highest = Some(self.highest.map_or(end, |highest| highest.max(end)));
        let later = self
            .latest
            .is_none_or(|latest| segment.serial.wrapping_sub(latest.serial) as i32 > 0);
        if later {
            self.latest = Some(Latest {
                serial: segment.serial,
                rtt,
            });
        }
    }

    /// Renumbers the transmissions in flight by their times. All of them then count as later than
    /// the latest delivered one, which delays the next judgement but cannot make a wrong one.
    fn rebuild_order(&mut self) {
        let mut live: Vec<usize> = (0..self.segments.len())
            .filter(|&index| self.segments[index].in_flight())
            .collect();
        live.sort_by_key(|&index| (self.segments[index].sent_at, index));
        self.order.clear();
        for index in live {
            let serial = self.next_serial;
            self.next_serial = serial.wrapping_add(1);
            self.segments[index].serial = serial;
            self.order
                .push_back((self.first_id.wrapping_add(index as u32), serial));
        }
    }
}

#[cfg(test)]
mod tests;
