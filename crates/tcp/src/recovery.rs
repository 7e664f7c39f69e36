//! What a connection does about loss: the phase it is in, how fast a recovery sends (PRR,
//! RFC 9937), the tolerance for reordering and the loss probe (RFC 8985), and the memory that
//! allows a needless reduction to be taken back (RFC 4015, RFC 5682, RFC 2883).

use wire::tcp::{SackBlock, Seq};

use crate::congestion::Snapshot;
use crate::spare::{Blank, Spare};

/// Duplicate acknowledgments, or reported segments, that mean loss (RFC 5681 §3.2).
pub(crate) const DUP_THRESHOLD: u32 = 3;
/// Recoveries for which a widened tolerance lasts (RFC 8985 §6.2 step 4).
const TOLERANCE_LASTS: u8 = 16;

/// Where the sender stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No loss is known.
    Open,
    /// Repairing what acknowledgments showed to be lost, until `point` is acknowledged.
    Fast { point: Seq },
    /// Repairing after the retransmission timer expired, until `point` is acknowledged.
    Timeout { point: Seq },
}

/// A loss probe whose fate is open (RFC 8985 §7.4).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    pub(crate) end: Seq,
    pub(crate) retransmission: bool,
    /// Our timestamp on it; an older echo comes from the original.
    pub(crate) stamp: Option<u32>,
}

/// How to take a reduction back. Three signs show that it was needless: an echo from before the
/// first retransmission (RFC 4015), an answer to what was never sent again although a time-out
/// held it for lost (RFC 5682), and reports that all retransmissions were duplicates (RFC 2883).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo {
    pub(crate) before: Snapshot,
    /// Our timestamp on the first retransmission, once it has left.
    pub(crate) first_retransmission: Option<u32>,
    /// The echo that could have shown it has come, and did not.
    pub(crate) is_echo_spent: bool,
    /// SND.UNA when the repair began.
    since: Seq,
    /// Sequence numbers sent again and not reported as duplicates.
    repeated: u32,
}

impl Undo {
    pub(crate) fn new(before: Snapshot, una: Seq) -> Self {
        Self {
            before,
            first_retransmission: None,
            is_echo_spent: false,
            since: una,
            repeated: 0,
        }
    }
}

/// What is open after a time-out: were the segments lost, or only late (F-RTO, RFC 5682 §2.1)?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The first segment was sent again; nothing was heard since.
    Asked,
    /// It was acknowledged, so new data goes out in the place of more repetitions. The next
    /// acknowledgment tells.
    SendingNew,
}

/// Loss state of a connection.
#[derive(Debug)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// Consecutive expirations of the retransmission or persist timer.
    pub(crate) backoff: u8,
    /// A loss probe was answered with "I have that": the peer delays the acknowledgment of a lone
    /// segment, so such probes have to wait longer.
    pub(crate) peer_delays: bool,
    tolerance: Tolerance,
    pub(crate) repair: Spare<Repair>,
}

/// What only a connection in trouble, or lately in trouble, needs to know.
#[derive(Debug)]
pub(crate) struct Repair {
    pub(crate) probe: Option<Probe>,
    pub(crate) undo: Option<Undo>,
    pub(crate) doubt: Option<Doubt>,
    /// Bytes that duplicate acknowledgments stand for, without SACK.
    pub(crate) dup_bytes: u32,
    pub(crate) dup_acks: u32,
    prr: Prr,
    /// End of the round in which a duplicate was reported, so that each round counts once.
    round: Option<Seq>,
}

impl Repair {
    const NEW: Self = Self {
        probe: None,
        undo: None,
        doubt: None,
        dup_bytes: 0,
        dup_acks: 0,
        prr: Prr {
            delivered: 0,
            sent: 0,
            flight_at_start: 0,
            window: 0,
        },
        round: None,
    };
}

impl Blank for Repair {
    fn new() -> Self {
        Self::NEW
    }

    fn blank() -> &'static Self {
        static BLANK: Repair = Repair::NEW;
        &BLANK
    }
}

/// Proportional rate reduction (RFC 9937 §6): what a recovery may send follows what arrives.
#[derive(Debug)]
struct Prr {
    delivered: u32,
    sent: u32,
    flight_at_start: u32,
    window: u32,
}

/// How late a segment may be before it counts as lost.
#[derive(Debug)]
struct Tolerance {
    reordering_seen: bool,
    /// Quarters of the minimum round-trip time.
    multiplier: u8,
    lasts: u8,
}

impl Recovery {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Open,
            backoff: 0,
            peer_delays: false,
            tolerance: Tolerance {
                reordering_seen: false,
                multiplier: 1,
                lasts: 0,
            },
            repair: Spare::BLANK,
        }
    }

    /// Forgets what a pause makes worthless.
    pub(crate) fn rest(&mut self) {
        if self.phase == Phase::Open {
            self.repair.release();
        }
    }

    /// Enters fast recovery with `flight` bytes outstanding before the loss was noticed.
    pub(crate) fn enter_fast(&mut self, point: Seq, flight: u32) {
        self.phase = Phase::Fast { point };
        self.repair.probe = None;
        self.repair.prr = Prr {
            delivered: 0,
            sent: 0,
            flight_at_start: flight.max(1),
            window: 0,
        };
    }

    /// Enters repair by time-out.
    pub(crate) fn enter_timeout(&mut self, point: Seq) {
        self.phase = Phase::Timeout { point };
        let repair = &mut *self.repair;
        repair.probe = None;
        repair.doubt = None;
        repair.dup_bytes = 0;
        repair.dup_acks = 0;
    }

    /// Leaves either repair.
    pub(crate) fn leave(&mut self) {
        if matches!(self.phase, Phase::Fast { .. }) {
            self.tolerance.recovery_ended();
        }
        self.phase = Phase::Open;
        let repair = &mut *self.repair;
        repair.probe = None;
        repair.doubt = None;
        repair.dup_bytes = 0;
        repair.dup_acks = 0;
    }

    /// Notes that `length` numbers leave once more to repair a loss; `stamp` is our timestamp on
    /// them.
    pub(crate) fn repeats(&mut self, length: u32, stamp: Option<u32>) {
        if self.phase != Phase::Open
            && let Some(undo) = &mut self.repair.undo
        {
            undo.repeated = undo.repeated.saturating_add(length);
            undo.first_retransmission = undo.first_retransmission.or(stamp);
        }
    }

    /// Takes a reported duplicate; answers whether everything that the last repair sent had been
    /// there already. Reports come after the repair is over, too.
    pub(crate) fn was_needless(&mut self, duplicate: SackBlock) -> bool {
        if self.repair.undo.is_none() {
            return false;
        }
        let Some(undo) = &mut self.repair.undo else {
            return false;
        };
        if undo.repeated == 0 || duplicate.left < undo.since {
            return false;
        }
        let length = duplicate.right.since(duplicate.left).max(0) as u32;
        undo.repeated = undo.repeated.saturating_sub(length);
        undo.repeated == 0
    }

    /// One acknowledgment during fast recovery (RFC 9937 §6.2). `pipe` is what is in flight,
    /// `target` the slow-start threshold; `progress` says that data was acknowledged and no
    /// further loss found.
    pub(crate) fn pace(
        &mut self,
        delivered: u32,
        pipe: u32,
        target: u32,
        segment: u32,
        progress: bool,
    ) {
        let prr = &mut self.repair.prr;
        prr.delivered = prr.delivered.saturating_add(delivered);
        let mut allowance = if pipe > target {
            let share = (u64::from(prr.delivered) * u64::from(target))
                .div_ceil(u64::from(prr.flight_at_start));
            (share as u32).saturating_sub(prr.sent)
        } else {
            let mut allowance = prr.delivered.saturating_sub(prr.sent).max(delivered);
            if progress {
                allowance += segment;
            }
            allowance.min(target - pipe)
        };
        if prr.sent == 0 {
            // The first retransmission leaves at once.
            allowance = allowance.max(segment);
        }
        prr.window = pipe + allowance;
    }

    /// The window during fast recovery.
    pub(crate) fn window(&self) -> u32 {
        self.repair.prr.window
    }

    /// Bytes left while in fast recovery.
    pub(crate) fn sent(&mut self, bytes: u32) {
        self.repair.prr.sent = self.repair.prr.sent.saturating_add(bytes);
    }

    /// The tolerance for reordering in microseconds (RFC 8985 §6.2 step 4).
    pub(crate) fn tolerance(&self, sacked: u32, minimum_rtt: u32, smoothed_rtt: u32) -> u32 {
        if !self.tolerance.reordering_seen && (self.phase != Phase::Open || sacked >= DUP_THRESHOLD)
        {
            return 0;
        }
        (minimum_rtt / 4)
            .saturating_mul(self.tolerance.multiplier.into())
            .min(smoothed_rtt)
    }

    /// The tolerance's state, for an export.
    pub(crate) fn tolerance_parts(&self) -> [u8; 3] {
        let tolerance = &self.tolerance;
        [
            tolerance.reordering_seen.into(),
            tolerance.multiplier,
            tolerance.lasts,
        ]
    }

    pub(crate) fn set_tolerance(&mut self, [seen, multiplier, lasts]: [u8; 3]) {
        self.tolerance = Tolerance {
            reordering_seen: seen != 0,
            multiplier: multiplier.max(1),
            lasts,
        };
    }

    /// A segment arrived after one sent later.
    pub(crate) fn reordering_seen(&mut self) {
        self.tolerance.reordering_seen = true;
    }

    /// The peer reported a duplicate: something was sent again needlessly.
    pub(crate) fn duplicate_reported(&mut self, una: Seq, nxt: Seq) {
        let tolerance = &mut self.tolerance;
        if self.repair.round.is_none_or(|end| una >= end) {
            self.repair.round = Some(nxt);
            tolerance.multiplier = tolerance.multiplier.saturating_add(1);
            tolerance.lasts = TOLERANCE_LASTS;
            // A retransmission that was not needed is reordering, seen from the other side.
            tolerance.reordering_seen = true;
        }
    }
}

impl Tolerance {
    fn recovery_ended(&mut self) {
        self.lasts = self.lasts.saturating_sub(1);
        if self.lasts == 0 {
            self.multiplier = 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recovery_sends_in_proportion_to_what_arrives() {
        let mut recovery = Recovery::new();
        recovery.enter_fast(Seq(100_000), 100_000);
        let (mut pipe, mut sent) = (95_000u32, 0u32);
        for _ in 0..60 {
            pipe = pipe.saturating_sub(1000);
            recovery.pace(1000, pipe, 70_000, 1000, false);
            while pipe + 1000 <= recovery.window() {
                recovery.sent(1000);
                sent += 1000;
                pipe += 1000;
            }
        }
        // Seven segments leave for ten that arrive.
        assert!((40_000..=46_000).contains(&sent), "{sent}");
    }

    #[test]
    fn heavy_loss_is_repaired_in_slow_start_but_not_above_the_target() {
        let mut recovery = Recovery::new();
        recovery.enter_fast(Seq(100_000), 100_000);
        let mut pipe = 10_000u32;
        for _ in 0..200 {
            pipe -= 1000;
            recovery.pace(1000, pipe, 70_000, 1000, true);
            assert!(recovery.window() <= 70_000);
            while pipe + 1000 <= recovery.window() {
                recovery.sent(1000);
                pipe += 1000;
            }
        }
        assert_eq!(pipe, 70_000);
    }

    #[test]
    fn tolerance_widens_with_reported_duplicates_and_narrows_again() {
        let mut recovery = Recovery::new();
        assert_eq!(recovery.tolerance(0, 8000, 10_000), 2000);
        assert_eq!(recovery.tolerance(3, 8000, 10_000), 0);
        recovery.duplicate_reported(Seq(0), Seq(1000));
        recovery.duplicate_reported(Seq(500), Seq(2000));
        assert_eq!(recovery.tolerance(3, 8000, 10_000), 4000);
        recovery.duplicate_reported(Seq(1000), Seq(2000));
        assert_eq!(recovery.tolerance(3, 8000, 10_000), 6000);
        for _ in 0..TOLERANCE_LASTS {
            recovery.enter_fast(Seq(0), 1);
            recovery.leave();
        }
        assert_eq!(recovery.tolerance(3, 8000, 10_000), 2000);
    }
}
