//! What a connection knows about data in flight; none of it outlives a pause.

use wire::tcp::Seq;

use crate::connection::path_mtu::SizeProbe;
use crate::sack::Scoreboard;
use crate::spare::Blank;
use crate::time::Instant;
use crate::timer::Deadline;

/// Everything about data in flight.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) board: Scoreboard,
    /// Data up to here was sent when the congestion window was what limited us.
    pub(crate) limited_until: Option<Seq>,
    /// When SND.UNA last moved, or the flight began.
    pub(crate) progress_at: Instant,
    /// When the retransmission timer last expired.
    pub(crate) expired_at: Instant,
    /// What has left fills the pacing rate up to here, in nanoseconds.
    pub(crate) paced_until: u64,
    /// When pacing lets the next segment leave.
    pub(crate) pace: Deadline,
    /// A segment that tries whether the path carries more.
    pub(crate) size_probe: Option<SizeProbe>,
}

impl Flight {
    const NEW: Self = Self {
        board: Scoreboard::NEW,
        limited_until: None,
        progress_at: Instant::ZERO,
        expired_at: Instant::ZERO,
        paced_until: 0,
        pace: Deadline::NEVER,
        size_probe: None,
    };
}

impl Blank for Flight {
    fn new() -> Self {
        Self::NEW
    }

    fn blank() -> &'static Self {
        static BLANK: Flight = Flight::NEW;
        &BLANK
    }
}
