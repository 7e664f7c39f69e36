//! How much may be in flight.
//!
//! Loss detection and recovery (`recovery.rs`) are the same for every controller; a controller
//! only says how the window moves.

mod bbr;
mod cubic;
mod idle;

use core::time::Duration;

use bbr::Bbr;
use cubic::Cubic;
use idle::Idle;

use crate::time::Instant;

/// How the congestion window moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// CUBIC (RFC 9438) with HyStart++ (RFC 9406): fair to what most of the Internet uses.
    #[default]
    Cubic,
    /// BBR, version 1: fills paths whose loss is not a sign of a full queue, at the cost of flows
    /// that share a small queue with it. Always paced.
    Bbr,
}

/// What one acknowledgment tells about the rate at which the path delivers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateSample {
    /// Bytes a second; 0 if it says nothing.
    pub(crate) rate: u64,
    /// Bytes delivered so far (wraps), and when the newest delivered segment left.
    pub(crate) delivered: u32,
    pub(crate) prior_delivered: u32,
    /// That segment left while there was nothing to send behind it.
    pub(crate) is_app_limited: bool,
    /// A round-trip time in microseconds.
    pub(crate) rtt: Option<u32>,
    /// Bytes newly delivered.
    pub(crate) acked: u32,
    /// Bytes in flight now.
    pub(crate) flight: u32,
    /// This acknowledgment revealed a loss.
    pub(crate) has_lost: bool,
}

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

    /// The rate at which the path delivers.
    fn on_delivery(&mut self, _: &RateSample, _: Option<Duration>, _: Instant) {}

    /// A fast recovery begins with so much in flight.
    fn on_recovery(&mut self, _: u32) {}

    /// A recovery, fast or by time-out, is over.
    fn on_recovered(&mut self) {}

    /// Bytes a second at which data leaves, for a controller that cannot do without.
    fn pacing_rate(&self, _: Option<Duration>) -> Option<u64> {
        None
    }

    /// Whether the window holds in recovery too, in the place of PRR.
    fn has_own_recovery(&self) -> bool {
        false
    }

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

/// The controller of a connection.
#[derive(Debug)]
pub(crate) enum Controller {
    /// CUBIC of a connection that sends nothing.
    Idle(Idle),
    Cubic(Box<Cubic>),
    Bbr(Box<Bbr>),
}

impl Controller {
    pub(crate) fn new(
        algorithm: Algorithm,
        segment: u32,
        initial_segments: u32,
        now: Instant,
    ) -> Self {
        match algorithm {
            Algorithm::Cubic => Self::Idle(Idle::new(segment, initial_segments)),
            Algorithm::Bbr => Self::Bbr(Box::new(Bbr::new(segment, initial_segments, now))),
        }
    }

    /// For an export: the windows.
    pub(crate) fn parts(&self) -> [u32; 4] {
        let idle = match self {
            Self::Idle(idle) => *idle,
            Self::Cubic(cubic) => cubic.rest(),
            Self::Bbr(bbr) => {
                let Snapshot { window, threshold } = bbr.snapshot();
                return [window, threshold, 0, 0];
            }
        };
        [idle.window, idle.threshold, idle.w_max, idle.prior]
    }

    /// From an export. BBR learns its path anew, from the window that it had.
    pub(crate) fn import(
        algorithm: Algorithm,
        [window, threshold, w_max, prior]: [u32; 4],
        segment: u32,
        initial_segments: u32,
        now: Instant,
    ) -> Self {
        const MOST: u32 = u32::MAX / 4;
        let window = window.clamp(segment, MOST);
        match algorithm {
            Algorithm::Cubic => Self::Idle(Idle {
                window,
                threshold: threshold.max(2 * segment),
                w_max: w_max.min(MOST),
                prior: prior.min(MOST),
            }),
            Algorithm::Bbr => {
                let bbr = Bbr::new(segment, initial_segments, now);
                Self::Bbr(Box::new(bbr.with_window(window)))
            }
        }
    }

    /// Data is about to leave.
    pub(crate) fn wake(&mut self, segment: u32, initial_segments: u32, nxt: wire::tcp::Seq) {
        if let Self::Idle(idle) = self {
            let cubic = Cubic::resume(idle, segment, initial_segments, nxt);
            *self = Self::Cubic(Box::new(cubic));
        }
    }

    /// Nothing was sent for a while; answers whether nothing but windows is remembered now.
    pub(crate) fn rest(&mut self) -> bool {
        if let Self::Cubic(cubic) = self {
            *self = Self::Idle(cubic.rest());
        }
        matches!(self, Self::Idle(_))
    }

    fn get(&self) -> &dyn Congestion {
        match self {
            Self::Idle(idle) => idle,
            Self::Cubic(cubic) => cubic.as_ref(),
            Self::Bbr(bbr) => bbr.as_ref(),
        }
    }

    fn get_mut(&mut self) -> &mut dyn Congestion {
        match self {
            Self::Idle(idle) => idle,
            Self::Cubic(cubic) => cubic.as_mut(),
            Self::Bbr(bbr) => bbr.as_mut(),
        }
    }
}

impl Congestion for Controller {
    fn window(&self) -> u32 {
        self.get().window()
    }
    fn threshold(&self) -> u32 {
        self.get().threshold()
    }
    fn on_ack(&mut self, acked: u32, srtt: Option<Duration>, now: Instant) {
        self.get_mut().on_ack(acked, srtt, now);
    }
    fn on_round_trip(&mut self, micros: u32, una: wire::tcp::Seq, nxt: wire::tcp::Seq) {
        self.get_mut().on_round_trip(micros, una, nxt);
    }
    fn on_delivery(&mut self, sample: &RateSample, srtt: Option<Duration>, now: Instant) {
        self.get_mut().on_delivery(sample, srtt, now);
    }
    fn on_recovery(&mut self, flight: u32) {
        self.get_mut().on_recovery(flight);
    }
    fn on_recovered(&mut self) {
        self.get_mut().on_recovered();
    }
    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        self.get().pacing_rate(srtt)
    }
    fn has_own_recovery(&self) -> bool {
        self.get().has_own_recovery()
    }
    fn on_loss(&mut self) {
        self.get_mut().on_loss();
    }
    fn on_timeout(&mut self, first: bool) {
        self.get_mut().on_timeout(first);
    }
    fn on_idle(&mut self, timeouts: u32) {
        self.get_mut().on_idle(timeouts);
    }
    fn set_segment_size(&mut self, bytes: u32) {
        self.get_mut().set_segment_size(bytes);
    }
    fn snapshot(&self) -> Snapshot {
        self.get().snapshot()
    }
    fn restore(&mut self, snapshot: Snapshot) {
        self.get_mut().restore(snapshot);
    }
}
