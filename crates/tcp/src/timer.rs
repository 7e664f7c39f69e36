//! When a connection wants to be woken, and why.

use core::time::Duration;

use crate::time::Instant;

/// An instant or never, in eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(u64);

impl Deadline {
    pub(crate) const NEVER: Self = Self(u64::MAX);

    pub(crate) fn after(now: Instant, delay: Duration) -> Self {
        Self::at(now + delay)
    }

    pub(crate) fn at(when: Instant) -> Self {
        Self(when.0)
    }

    pub(crate) fn is_set(self) -> bool {
        self != Self::NEVER
    }

    pub(crate) fn instant(self) -> Option<Instant> {
        self.is_set().then_some(Instant(self.0))
    }

    pub(crate) fn is_due(self, now: Instant) -> bool {
        self.0 <= now.0 && self.is_set()
    }
}

/// What the loss timer waits for; a connection needs only one of them at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossTimer {
    /// A segment that may be late rather than lost (RFC 8985 §6.2 step 5).
    Reordering,
    /// No acknowledgment for the tail (RFC 8985 §7).
    Probe,
    /// Retransmission (RFC 6298 §5).
    Retransmission,
    /// The peer's window is too small (RFC 9293 §3.8.6.1).
    Persist,
}

/// The timers of a connection.
#[derive(Debug)]
pub(crate) struct Timers {
    pub(crate) loss: Deadline,
    pub(crate) loss_kind: LossTimer,
    /// A delayed acknowledgment.
    pub(crate) ack: Deadline,
    /// The next look at whether the peer is alive, set lazily, so it may come early. In TIME-WAIT
    /// its end.
    pub(crate) keepalive: Deadline,
    /// The next look at whether empty buffers can be given back.
    pub(crate) release: Deadline,
}

impl Timers {
    pub(crate) const fn new() -> Self {
        Self {
            loss: Deadline::NEVER,
            loss_kind: LossTimer::Retransmission,
            ack: Deadline::NEVER,
            keepalive: Deadline::NEVER,
            release: Deadline::NEVER,
        }
    }

    /// The earliest of them.
    pub(crate) fn earliest(&self) -> Deadline {
        self.loss
            .min(self.ack)
            .min(self.keepalive)
            .min(self.release)
    }
}
