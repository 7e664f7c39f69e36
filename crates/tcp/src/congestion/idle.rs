//! CUBIC between two times of sending: the windows, in sixteen bytes.

use core::time::Duration;

use super::cubic::UNLIMITED;
use super::{Congestion, Snapshot};
use crate::time::Instant;

/// What CUBIC remembers while nothing is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    pub(super) window: u32,
    pub(super) threshold: u32,
    /// As in [`super::cubic::Cubic`].
    pub(super) w_max: u32,
    pub(super) prior: u32,
}

impl Idle {
    pub(super) fn new(segment: u32, initial_segments: u32) -> Self {
        Self {
            window: segment.saturating_mul(initial_segments),
            threshold: UNLIMITED,
            w_max: 0,
            prior: 0,
        }
    }
}

/// Nothing is in flight, so nothing is acknowledged and nothing lost.
impl Congestion for Idle {
    fn window(&self) -> u32 {
        self.window
    }

    fn threshold(&self) -> u32 {
        self.threshold
    }

    fn on_ack(&mut self, _: u32, _: Option<Duration>, _: Instant) {}

    fn on_round_trip(&mut self, _: u32, _: wire::tcp::Seq, _: wire::tcp::Seq) {}

    fn on_loss(&mut self) {}

    fn on_timeout(&mut self, _: bool) {}

    fn on_idle(&mut self, _: u32) {}

    fn set_segment_size(&mut self, bytes: u32) {
        self.window = self.window.max(bytes);
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            window: self.window,
            threshold: self.threshold,
        }
    }

    fn restore(&mut self, _: Snapshot) {}
}
