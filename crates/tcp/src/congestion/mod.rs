//! How much may be in flight.
//!
//! Loss detection and recovery (`recovery.rs`) are the same for every controller; a controller
//! only says how the window moves.

mod cubic;

use core::time::Duration;

pub(crate) use cubic::Cubic;

use crate::time::Instant;

/// What a controller remembers from before a reduction, to be restored if that was needless.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Snapshot {
    pub(crate) window: u32,
    pub(crate) threshold: u32,
}

/// A congestion controller; windows are in bytes.
pub(crate) trait Congestion {
    /// The congestion window.
    fn window(&self) -> u32;

    /// The slow-start threshold: the window that a recovery aims at.
    fn threshold(&self) -> u32;

    /// `acked` bytes were acknowledged while the window was what limited the sender.
    /// Never lowers the window.
    fn on_ack(&mut self, acked: u32, srtt: Option<Duration>, now: Instant);

    /// A round-trip sample in microseconds, with the end of the flight: drives the exit of slow
    /// start by delay.
    fn on_round_trip(&mut self, micros: u32, una: wire::tcp::Seq, nxt: wire::tcp::Seq);

    /// Data was lost: once per recovery.
    fn on_loss(&mut self);

    /// The retransmission timer expired; `first` tells the first time of an episode from its
    /// repetitions.
    fn on_timeout(&mut self, first: bool);

    /// The sender was idle for this many time-outs.
    fn on_idle(&mut self, timeouts: u32);

    /// The segment size changed.
    fn set_segment_size(&mut self, bytes: u32);

    /// For a later [`Congestion::restore`].
    fn snapshot(&self) -> Snapshot;

    /// The reduction since `snapshot` was needless.
    fn restore(&mut self, snapshot: Snapshot);
}
