//! The segment size that the path carries: lowered when a message says so or when full segments
//! vanish, and tried upwards again later (RFC 4821, RFC 8899).

use wire::tcp::Seq;

use super::{Connection, SMALLEST_SEGMENT};
use crate::congestion::Congestion;
use crate::recovery::Phase;
use crate::sack::Fate;
use crate::send::Next;
use crate::time::Instant;

/// Segment sizes to fall back to when full segments vanish, and to climb up again: Ethernet's, common
/// tunnels, then less than the IPv6 minimum, then what everybody must carry.
const SIZES: [u16; 4] = [1460, 1400, 1200, 536];
/// Expirations in a row before the first step down, and between steps. An outage of one or two
/// seconds is not a path that lost its size.
const EXPIRATIONS_PER_STEP: u8 = 2;
/// Segments that follow a larger one, so that its loss shows without a time-out (RFC 4821 §7.4).
const FOLLOWERS: u32 = 4;
/// Never due.
const UNSET: u32 = 0;

/// A segment on its way that is larger than what the path is known to carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SizeProbe {
    start: Seq,
    mss: u16,
}

/// What is to be done about trying a larger segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt {
    No,
    /// Soon, when there is room for it.
    Wait,
    /// With so much payload.
    Now(u32),
}

impl Connection {
    /// Takes a message that a segment was too big for the path (RFC 1191, RFC 8201): `quoted` is the
    /// sequence number that it quotes, `mss` what fits, before options. It counts only if that segment
    /// is in flight, which somebody off the path does not know (RFC 5927 §4); answers whether it did.
    pub fn packet_too_big(&mut self, quoted: Seq, mss: u16) -> bool {
        let is_in_flight =
            !self.flight.board.is_empty() && quoted >= self.send.una() && quoted < self.send.nxt();
        if is_in_flight {
            self.set_max_segment(mss);
        }
        is_in_flight
    }

    /// Lowers the segment size, before options; the path carries no larger ones.
    pub fn set_max_segment(&mut self, mss: u16) {
        let mss = mss.max(SMALLEST_SEGMENT);
        if mss < self.mss {
            self.mss = mss;
            self.raise_second = UNSET;
            let segment = self.segment_size();
            self.congestion.set_segment_size(segment);
            if self.flight.is_there() {
                self.flight.size_probe = None;
                self.flight.board.split(segment);
            }
        }
    }

    /// Full segments that time out again and again may be too large for the path, whose complaints
    /// do not reach us through a load balancer (RFC 4821 §1).
    pub(super) fn shrink_segments(&mut self) {
        let expirations = self.recovery.backoff;
        if expirations <= EXPIRATIONS_PER_STEP || !expirations.is_multiple_of(EXPIRATIONS_PER_STEP)
        {
            return;
        }
        let Some((_, length)) = self.flight.board.first() else {
            return;
        };
        let is_full = length >= self.segment_size();
        let smaller = SIZES
            .iter()
            .skip(1)
            .find(|&&size| size < self.mss && u32::from(size) < length);
        // A segment that is not full is suspect only above the size that every IPv6 path carries.
        if let Some(&smaller) = smaller
            && (is_full || smaller >= SIZES[2])
        {
            self.set_max_segment(smaller);
            // The new size is to be tried before patience ends, so the back-off begins again; there
            // are few sizes.
            self.recovery.backoff = EXPIRATIONS_PER_STEP;
        }
    }

    /// Whether [`Self::size_to_try`] may have something to say or to note.
    pub(super) fn may_try_size(&self, now: Instant) -> bool {
        let is_waiting = self.raise_second != UNSET && now.as_secs_u32() < self.raise_second;
        self.mss < self.mss_ceiling && !is_waiting
    }

    /// Whether it is time to try a larger segment, with so much in flight of a window.
    pub(super) fn size_to_try(&mut self, pipe: u32, window: u32, now: Instant) -> Attempt {
        if self.mss >= self.mss_ceiling {
            return Attempt::No;
        }
        if self.raise_second == UNSET {
            self.raise_later(now);
        }
        let due = now.as_secs_u32() >= self.raise_second;
        let calm = self.sack
            && self.recovery.phase == Phase::Open
            && self.recovery.backoff == 0
            && self.flight.size_probe.is_none();
        if !due || !calm {
            return Attempt::No;
        }
        let larger = SIZES.iter().rev().copied().find(|&size| size > self.mss);
        let mss = larger.map_or(self.mss_ceiling, |size| size.min(self.mss_ceiling));
        let options = u32::from(self.mss) - self.segment_size();
        let size = u32::from(mss) - options;
        let needed = size + FOLLOWERS * self.segment_size();
        let fits = match self.send.next(needed, false) {
            Next::Segment { payload, .. } => payload == needed && needed <= window,
            Next::Nothing | Next::WindowClosed => false,
        };
        if !fits {
            return Attempt::No;
        }
        if pipe + size > window {
            // Acknowledgments of what is in flight make room within a round trip.
            return Attempt::Wait;
        }
        self.flight.size_probe = Some(SizeProbe {
            start: self.send.nxt(),
            mss,
        });
        self.stats.size_probes = self.stats.size_probes.wrapping_add(1);
        Attempt::Now(size)
    }

    /// Whether the larger segment arrived. Answers true if it was lost and nothing else was: that is
    /// no sign of congestion (RFC 4821 §7.5), and it is sent again in pieces.
    pub(super) fn settle_size_probe(&mut self, now: Instant) -> bool {
        let Some(probe) = self.flight.size_probe else {
            return false;
        };
        match self.flight.board.fate(probe.start) {
            Fate::InFlight => false,
            Fate::Arrived => {
                self.flight.size_probe = None;
                self.mss = probe.mss.max(self.mss);
                let segment = self.segment_size();
                self.congestion.set_segment_size(segment);
                // The next step up need not wait.
                self.raise_second = now.as_secs_u32().max(1);
                false
            }
            Fate::Lost => {
                self.flight.size_probe = None;
                self.raise_later(now);
                let alone = self.flight.board.lost_count() == 1;
                let segment = self.segment_size();
                self.flight.board.split(segment);
                alone && self.recovery.phase == Phase::Open
            }
        }
    }

    fn raise_later(&mut self, now: Instant) {
        let interval = self.config.mtu_raise_interval;
        self.raise_second = (now + interval).as_secs_u32().max(1);
    }
}
