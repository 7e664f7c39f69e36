//! The receiving half: which bytes are acceptable, reassembly, the window we advertise, and what
//! we report with SACK.

mod export;

use core::time::Duration;

use wire::tcp::{SackBlock, Seq};

use crate::memory::UNDER_PRESSURE;
use crate::ranges::RangeSet;
use crate::ring::Ring;
use crate::spare::{Blank, Spare};
use crate::time::Instant;

/// What became of an arriving segment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrival {
    /// Bytes that became readable.
    pub(crate) in_order: u32,
    /// The segment closed a hole, or part of one.
    pub(crate) filled_hole: bool,
    /// The segment lies behind a hole.
    pub(crate) out_of_order: bool,
    /// Bytes of it had been received before.
    pub(crate) duplicate: bool,
    /// Bytes of it were refused: no room, or too many ranges.
    pub(crate) refused: bool,
    /// The peer's FIN is in order.
    pub(crate) finished: bool,
}

/// The receiver.
#[derive(Debug)]
pub(crate) struct Receiver {
    /// Offset 0 is `read_seq`.
    ring: Ring,
    read_seq: Seq,
    rcv_nxt: Seq,
    /// Highest right edge offered to the peer.
    edge: Seq,
    /// Most bytes stored, from `read_seq` on, now and ever.
    limit: u32,
    limit_max: u32,
    /// The budget of all connections is used up.
    is_pressed: bool,
    /// Bytes read since `round_since`.
    round_read: u32,
    round_since: Instant,
    shift: u8,
    finished: bool,
    has_fin: bool,
    max_ranges: u16,
    /// Where the peer's FIN stands, if it came early.
    fin: Seq,
    holes: Spare<Holes>,
}

/// What arrived out of order, or twice.
#[derive(Debug)]
struct Holes {
    /// Data behind holes.
    ranges: RangeSet,
    /// A member of each of the ranges that changed last, newest first (RFC 2018 §4).
    recent: [Seq; 4],
    recent_len: u8,
    /// A duplicate to be reported once (RFC 2883).
    duplicate: Option<SackBlock>,
}

impl Holes {
    const NEW: Self = Self {
        ranges: RangeSet::NEW,
        recent: [Seq(0); 4],
        recent_len: 0,
        duplicate: None,
    };
}

impl Blank for Holes {
    fn new() -> Self {
        Self::NEW
    }

    fn blank() -> &'static Self {
        static BLANK: Holes = Holes::NEW;
        &BLANK
    }
}

impl Receiver {
    pub(crate) fn new(
        rcv_nxt: Seq,
        promised: Seq,
        shift: u8,
        [limit, limit_max]: [usize; 2],
        max_ranges: usize,
        now: Instant,
    ) -> Self {
        let shift = shift.min(14);
        // No more can be announced, and what was announced in our name is a promise.
        let limit_max = limit_max.clamp(1, 0xffff << shift) as u32;
        let promise = promised.since(rcv_nxt).max(0) as u32;
        Self {
            ring: Ring::default(),
            read_seq: rcv_nxt,
            rcv_nxt,
            edge: promised.max(rcv_nxt),
            limit: (limit as u32).max(promise).clamp(1, limit_max),
            limit_max,
            is_pressed: false,
            round_read: 0,
            round_since: now,
            shift,
            finished: false,
            has_fin: false,
            max_ranges: max_ranges.min(u16::MAX.into()) as u16,
            fin: rcv_nxt,
            holes: Spare::BLANK,
        }
    }

    /// Takes a segment that passed [`Self::is_acceptable`].
    ///
    /// Bytes received first win: a peer, or somebody in the middle, that sends other bytes for the
    /// same sequence numbers does not change what was already seen.
    pub(crate) fn accept(&mut self, seq: Seq, payload: &[u8], fin: bool) -> Arrival {
        let mut arrival = Arrival::default();
        let mut seq = seq;
        let mut payload = payload;
        let mut fin = fin;
        if seq < self.rcv_nxt {
            let known = self.rcv_nxt.since(seq) as u32;
            let dropped = known.min(payload.len() as u32);
            if dropped > 0 {
                self.holes.duplicate = Some(SackBlock {
                    left: seq,
                    right: seq + dropped,
                });
                arrival.duplicate = true;
            }
            if known > payload.len() as u32 {
                // The FIN, if any, lies before RCV.NXT too.
                fin = false;
            }
            payload = &payload[dropped as usize..];
            seq = self.rcv_nxt;
        }
        // Nothing follows a FIN, and no more is stored than was agreed.
        let bound = self.storage_bound();
        let last = self.fin().map_or(bound, |fin| fin.min(bound));
        let room = last.since(seq).max(0) as u32;
        if payload.len() as u32 > room {
            arrival.refused = true;
            payload = &payload[..room as usize];
            fin = false;
        }
        let end = seq + payload.len() as u32;
        if fin
            && !self.has_fin
            && self
                .holes
                .ranges
                .last()
                .is_none_or(|range| range.end <= end)
        {
            self.has_fin = true;
            self.fin = end;
            arrival.out_of_order |= end != self.rcv_nxt && payload.is_empty();
        }
        if !payload.is_empty() {
            if seq == self.rcv_nxt {
                self.append(seq, payload, &mut arrival);
            } else {
                self.insert(seq, payload, &mut arrival);
            }
        }
        if self.fin() == Some(self.rcv_nxt) && !self.finished {
            self.rcv_nxt += 1;
            self.finished = true;
            arrival.finished = true;
        }
        arrival
    }

    /// Whether `length` bytes from `seq` on are next, behind nothing that is missing, and all fit:
    /// then [`Self::append_run`] may take them.
    pub(crate) fn takes_run(&self, seq: Seq, length: u32) -> bool {
        let end = seq + length;
        seq == self.rcv_nxt
            && end <= self.edge
            && end <= self.storage_bound()
            && !self.has_fin
            && self.holes.ranges.is_empty()
    }

    /// Takes the payloads of segments that follow each other, in one go.
    pub(crate) fn append_run(&mut self, payloads: &[&[u8]], length: u32) {
        let offset = self.rcv_nxt.since(self.read_seq) as u32;
        self.ring.write_all_at(offset, payloads, length as usize);
        self.rcv_nxt += length;
    }

    /// Widens the window of a flow whose application reads a quarter of it or more in one round
    /// trip: the peer's next rounds must not find it too small (Fisk and Feng, "Dynamic
    /// right-sizing", 2001). What arrives is at most what the window allows, so the next step comes
    /// a round trip later.
    pub(crate) fn adapt(&mut self, round_trip: Duration, may_grow: bool, now: Instant) {
        if now.since(self.round_since) < round_trip {
            return;
        }
        if may_grow && self.round_read >= self.limit / 4 {
            self.limit = self.limit.saturating_mul(2).min(self.limit_max);
        }
        self.round_read = 0;
        self.round_since = now;
    }

    pub(crate) fn set_pressed(&mut self, is_pressed: bool) {
        self.is_pressed = is_pressed;
    }

    /// Notes that `left..right`, received before, came again, for the next D-SACK. What lies
    /// further back than a buffer was not sent by this peer.
    pub(crate) fn note_duplicate(&mut self, left: Seq, right: Seq) {
        let right = right.min(self.rcv_nxt);
        if left < right && self.rcv_nxt.since(left) as u32 <= self.limit {
            self.holes.duplicate = Some(SackBlock { left, right });
        }
    }

    /// Moves bytes to `out`.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> usize {
        let count = out.len().min(self.readable());
        self.ring.copy_at(0, &mut out[..count]);
        self.ring.advance(count as u32);
        self.read_seq += count as u32;
        self.round_read = self.round_read.saturating_add(count as u32);
        count
    }

    /// The window field for the next segment; what it promises is remembered.
    ///
    /// The right edge moves when it gains a segment or half the buffer (RFC 9293 §3.8.6.2.2) and
    /// does not retreat.
    pub(crate) fn offer_window(&mut self, segment: u32) -> u16 {
        let (field, promised) = self.next_window(segment);
        self.edge = self.edge.max(promised);
        field
    }

    /// Whether the application has read so much that the peer should be told.
    ///
    /// A peer that still has room for some segments will send them, and their acknowledgments
    /// carry the window; one that has none waits for us. The window must at least double, so that
    /// a slow reader does not cause a segment with each read.
    pub(crate) fn is_update_due(&self, segment: u32) -> bool {
        if self.finished || self.has_fin {
            return false;
        }
        let current = self.edge.since(self.rcv_nxt).max(0) as u32;
        if current >= segment.saturating_mul(4).min(self.limit / 2) {
            return false;
        }
        let (_, promised) = self.next_window(segment);
        let next = promised.since(self.rcv_nxt).max(0) as u32;
        next >= current.saturating_mul(2) && next - current >= segment.min(self.limit / 2).max(1)
    }

    /// The SACK blocks for an acknowledgment, at most `limit`: first a duplicate (RFC 2883 §4),
    /// then the ranges by how recently they changed (RFC 2018 §4).
    pub(crate) fn sack_blocks(&mut self, limit: usize) -> [Option<SackBlock>; 4] {
        let mut blocks = [None; 4];
        let limit = limit.min(4);
        let mut count = 0;
        if self.has_duplicate_to_report()
            && let Some(block) = self.holes.duplicate.take()
            && limit > 0
        {
            blocks[0] = Some(block);
            count = 1;
        }
        if self.holes.ranges.is_empty() {
            if self.holes.recent_len > 0 {
                self.holes.recent_len = 0;
            }
            return blocks;
        }
        let reported_from = count;
        let holes = &*self.holes;
        let recent = holes
            .recent
            .iter()
            .take(holes.recent_len.into())
            .filter_map(|&seq| holes.ranges.find(seq));
        for range in recent.chain(holes.ranges.descending().take(4)) {
            if count >= limit {
                break;
            }
            let block = Some(SackBlock {
                left: range.start,
                right: range.end,
            });
            if !blocks[reported_from..count].contains(&block) {
                blocks[count] = block;
                count += 1;
            }
        }
        blocks
    }

    /// RFC 9293 §3.10.7.4, first check, against the highest edge ever offered.
    ///
    /// One number beyond the edge is accepted for segments without data: a peer that probed a
    /// closed window with a byte acknowledges from behind that byte.
    pub(crate) fn is_acceptable(&self, seq: Seq, length: u32) -> bool {
        if length == 0 {
            return seq >= self.rcv_nxt && seq <= self.edge + 1;
        }
        seq < self.edge && seq + length > self.rcv_nxt
    }

    pub(crate) fn rcv_nxt(&self) -> Seq {
        self.rcv_nxt
    }

    pub(crate) fn readable(&self) -> usize {
        (self.rcv_nxt.since(self.read_seq) as usize).saturating_sub(usize::from(self.finished))
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finished
    }

    pub(crate) fn has_holes(&self) -> bool {
        !self.holes.ranges.is_empty()
    }

    /// The end of the highest data behind a hole.
    pub(crate) fn highest(&self) -> Option<Seq> {
        self.holes.ranges.last().map(|range| range.end)
    }

    pub(crate) fn has_duplicate_to_report(&self) -> bool {
        self.holes.duplicate.is_some()
    }

    /// Bytes allocated.
    pub(crate) fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Whether a release may give anything back.
    pub(crate) fn holds_memory(&self) -> bool {
        self.capacity() > 0 || self.holes.is_there()
    }

    fn fin(&self) -> Option<Seq> {
        self.has_fin.then_some(self.fin)
    }

    pub(crate) fn release_if_empty(&mut self) {
        self.ring.release_if_empty();
        if self.holes.ranges.is_empty() && !self.has_duplicate_to_report() {
            self.holes.release();
        }
    }

    /// A window rounded to the scale may promise a little more than the limit.
    fn storage_bound(&self) -> Seq {
        self.read_seq + self.limit + self.slack()
    }

    fn slack(&self) -> u32 {
        if self.shift == 0 {
            0
        } else {
            (self.limit / 8).max(1 << self.shift)
        }
    }

    fn next_window(&self, segment: u32) -> (u16, Seq) {
        let want = self.read_seq
            + if self.is_pressed {
                self.limit.min(UNDER_PRESSURE)
            } else {
                self.limit
            };
        let gain = want.since(self.edge);
        let edge = if gain >= segment.min(self.limit / 2) as i32 && gain > 0 {
            want
        } else {
            self.edge
        };
        let window = edge.since(self.rcv_nxt).max(0) as u32;
        let mut field = window >> self.shift;
        if (field << self.shift) < window && self.rcv_nxt + (field << self.shift) < self.edge {
            // Rounding down would pull the edge back; round up as long as there is room. Where
            // there is not, the edge retreats by less than the scale, which RFC 7323 §2.4 tells
            // receivers to tolerate, as `is_acceptable` does.
            let larger = field + 1;
            if self.rcv_nxt + (larger << self.shift) <= self.storage_bound() {
                field = larger;
            }
        }
        let field = field.min(0xffff);
        (field as u16, self.rcv_nxt + (field << self.shift))
    }

    /// In-order data.
    fn append(&mut self, seq: Seq, payload: &[u8], arrival: &mut Arrival) {
        let before = self.rcv_nxt;
        let end = seq + payload.len() as u32;
        if self.holes.ranges.is_empty() {
            self.ring.write_at(seq.since(self.read_seq) as u32, payload);
            self.rcv_nxt = end;
        } else {
            arrival.filled_hole = true;
            arrival.duplicate |= !self.store(seq, payload);
            self.rcv_nxt = end;
            while let Some(range) = self.holes.ranges.first()
                && range.start <= self.rcv_nxt
            {
                self.rcv_nxt = self.rcv_nxt.max(range.end);
                self.holes.ranges.remove_before(range.end);
            }
        }
        arrival.in_order = self.rcv_nxt.since(before) as u32;
    }

    /// Data behind a hole.
    fn insert(&mut self, seq: Seq, payload: &[u8], arrival: &mut Arrival) {
        let end = seq + payload.len() as u32;
        arrival.out_of_order = true;
        if self.is_pressed {
            arrival.refused = true;
            return;
        }
        // Memory is taken up to the far end, so the first look is whether it may be kept.
        if let Some(gap) = self.holes.ranges.first_gap(seq, end) {
            let gap_is_all = gap.start == seq && gap.end == end;
            let mut stored = true;
            if !gap_is_all {
                arrival.duplicate = true;
                stored = self.store(seq, payload);
            }
            if !self.holes.ranges.insert(seq, end, self.max_ranges.into()) {
                arrival.refused = true;
                return;
            }
            if gap_is_all {
                self.ring.write_at(seq.since(self.read_seq) as u32, payload);
            }
            arrival.duplicate |= !stored;
        } else {
            arrival.duplicate = true;
            self.holes.duplicate = Some(SackBlock {
                left: seq,
                right: end,
            });
        }
        let holes = &mut *self.holes;
        holes.recent.rotate_right(1);
        holes.recent[0] = seq;
        holes.recent_len = (holes.recent_len + 1).min(4);
        self.forget_repeated_recent();
    }

    /// Writes the parts that are not there yet; answers whether all of it was new.
    fn store(&mut self, seq: Seq, payload: &[u8]) -> bool {
        let end = seq + payload.len() as u32;
        let mut cursor = seq;
        let mut new = 0;
        while let Some(gap) = self.holes.ranges.first_gap(cursor, end) {
            let from = gap.start.since(seq) as usize;
            let to = gap.end.since(seq) as usize;
            self.ring
                .write_at(gap.start.since(self.read_seq) as u32, &payload[from..to]);
            new += to - from;
            cursor = gap.end;
        }
        new == payload.len()
    }

    /// Keeps one entry for each range, so that four entries name four ranges.
    fn forget_repeated_recent(&mut self) {
        let newest = self.holes.ranges.find(self.holes.recent[0]);
        let mut kept = 1;
        for index in 1..usize::from(self.holes.recent_len) {
            let range = self.holes.ranges.find(self.holes.recent[index]);
            if range.is_some() && range != newest {
                self.holes.recent[kept] = self.holes.recent[index];
                kept += 1;
            }
        }
        self.holes.recent_len = kept as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receiver(limit: usize, shift: u8) -> Receiver {
        Receiver::new(Seq(1000), Seq(1000), shift, [limit; 2], 8, Instant::ZERO)
    }

    fn block(left: u32, right: u32) -> Option<SackBlock> {
        Some(SackBlock {
            left: Seq(left),
            right: Seq(right),
        })
    }

    fn text(receiver: &mut Receiver) -> String {
        let mut out = vec![0; receiver.readable()];
        receiver.read(&mut out);
        String::from_utf8(out).expect("ascii")
    }

    #[test]
    fn bytes_received_first_win_over_later_overlapping_ones() {
        let mut r = receiver(1000, 0);
        r.accept(Seq(1004), b"EFGH", false);
        r.accept(Seq(1002), b"cdefghij", false);
        assert_eq!(r.readable(), 0);
        let arrival = r.accept(Seq(1000), b"ABCDE", false);
        assert!(arrival.filled_hole);
        assert_eq!(arrival.in_order, 10);
        assert_eq!(text(&mut r), "ABcdEFGHij");
    }

    #[test]
    fn sack_reports_the_newest_range_first_and_duplicates_before_all() {
        let mut r = receiver(10_000, 0);
        for at in [1100u32, 1300, 1500, 1700, 1900] {
            r.accept(Seq(at), &[0; 10], false);
        }
        assert_eq!(
            r.sack_blocks(4),
            [
                block(1900, 1910),
                block(1700, 1710),
                block(1500, 1510),
                block(1300, 1310)
            ]
        );
        r.accept(Seq(1310), &[0; 5], false);
        assert_eq!(
            r.sack_blocks(3),
            [
                block(1300, 1315),
                block(1900, 1910),
                block(1700, 1710),
                None
            ]
        );
        r.accept(Seq(1502), &[0; 5], false);
        assert_eq!(
            r.sack_blocks(3),
            [
                block(1502, 1507),
                block(1500, 1510),
                block(1300, 1315),
                None
            ]
        );
        r.accept(Seq(1000), &[0; 100], false);
        r.accept(Seq(1000), &[0; 50], false);
        assert_eq!(r.sack_blocks(4)[0], block(1000, 1050));
    }

    #[test]
    fn early_fin_counts_when_the_hole_before_it_is_filled() {
        let mut r = receiver(1000, 0);
        assert!(!r.accept(Seq(1003), b"def", true).finished);
        // Data behind the FIN is nonsense.
        assert!(r.accept(Seq(1006), b"xyz", false).refused);
        let arrival = r.accept(Seq(1000), b"abc", false);
        assert!(arrival.finished);
        assert_eq!(r.rcv_nxt(), Seq(1007));
        assert_eq!(text(&mut r), "abcdef");
        assert_eq!(r.readable(), 0);
    }

    #[test]
    fn window_closes_as_data_waits_and_opens_in_large_steps() {
        let mut r = receiver(1000, 0);
        assert_eq!(r.offer_window(100), 1000);
        r.accept(Seq(1000), &[7; 1000], false);
        assert_eq!(r.offer_window(100), 0);
        let mut out = [0; 60];
        r.read(&mut out);
        assert!(!r.is_update_due(100));
        assert_eq!(r.offer_window(100), 0);
        r.read(&mut out);
        assert!(r.is_update_due(100));
        assert_eq!(r.offer_window(100), 120);
    }

    #[test]
    fn data_beyond_the_limit_is_refused_even_where_more_was_promised() {
        let mut r = Receiver::new(Seq(0), Seq(5000), 0, [1000; 2], 8, Instant::ZERO);
        assert!(r.is_acceptable(Seq(4000), 10));
        assert!(r.accept(Seq(4000), &[0; 10], false).refused);
        let arrival = r.accept(Seq(500), &[0; 600], false);
        assert!(arrival.refused && arrival.out_of_order);
        assert_eq!(r.highest(), Some(Seq(1000)));
        // The promise stands all the same.
        assert_eq!(r.offer_window(100), 5000);
    }

    #[test]
    fn the_edge_does_not_retreat_by_rounding_to_the_scale() {
        let mut r = receiver(1 << 20, 7);
        let mut edge = Seq(1000);
        let mut seq = Seq(1000);
        for step in 0..3000u32 {
            let field = r.offer_window(1448);
            let next = r.rcv_nxt() + (u32::from(field) << 7);
            if next < edge {
                assert!(
                    edge.since(next) < 128 && r.readable() > 1 << 20,
                    "step {step}"
                );
            }
            edge = edge.max(next);
            let payload = vec![1; 1 + (step as usize * 37) % 1448];
            if r.is_acceptable(seq, payload.len() as u32) {
                r.accept(seq, &payload, false);
                seq = r.rcv_nxt();
            }
        }
        assert!(r.readable() <= (1 << 20) + (1 << 17));
    }

    #[test]
    fn more_ranges_than_allowed_are_refused() {
        let mut r = receiver(10_000, 0);
        for index in 0..20u32 {
            let arrival = r.accept(Seq(1010 + index * 20), &[0; 10], false);
            assert_eq!(arrival.refused, index >= 8);
        }
    }
}
