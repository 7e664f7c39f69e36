//! BBR: a model of the path instead of a reaction to loss (Cardwell and others, "BBR:
//! congestion-based congestion control", 2016; the first version, as Linux has it).
//!
//! The model has two figures: the highest rate of delivery in the last ten rounds and the lowest
//! round-trip time in the last ten seconds. Data leaves at that rate, and twice the product of the
//! two may be in flight. Loss that is not caused by a queue of ours changes neither.

use core::time::Duration;

use super::{Congestion, RateSample, Snapshot};
use crate::time::Instant;

/// Gains in thousandths: 2/ln 2 doubles the rate in each round of start-up, its inverse empties
/// the queue that this built.
const HIGH_GAIN: u64 = 2_885;
const DRAIN_GAIN: u64 = 347;
const UNIT: u64 = 1_000;
/// The window allows twice the path's product: delayed acknowledgments come in lumps.
const WINDOW_GAIN: u64 = 2_000;
/// Pacing in the eight phases of a cycle, each a round-trip time long: ask for more, give the queue
/// back, cruise.
const CYCLE: [u64; 8] = [1_250, 750, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT];
/// Rounds over which the rate's maximum is taken.
const RATE_ROUNDS: usize = 10;
/// Rounds without a quarter more rate after which start-up has found the path's rate.
const FULL_ROUNDS: u8 = 3;
/// How long a round-trip minimum is trusted, and how long the queue is emptied to renew it.
const MIN_RTT_VALID: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// Least segments in flight.
const FLOOR_SEGMENTS: u32 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Startup,
    Drain,
    ProbeBandwidth { phase: usize, since: Instant },
    ProbeRtt { until: Option<Instant> },
}

/// The controller.
#[derive(Debug)]
pub(crate) struct Bbr {
    mode: Mode,
    segment: u32,
    initial: u32,
    window: u32,
    /// The window before a recovery or a probe of the round-trip time.
    prior: u32,
    /// Bytes a second.
    pacing: u64,
    /// The best rate of each of the last rounds.
    rates: [u64; RATE_ROUNDS],
    round: usize,
    /// The round ends when something sent after so many delivered bytes is delivered.
    round_end: u32,
    full_rate: u64,
    full_rounds: u8,
    is_full: bool,
    /// Microseconds.
    min_rtt: u32,
    min_rtt_at: Instant,
    /// The first round of a recovery sends only what arrives.
    is_conserving: bool,
}

impl Bbr {
    pub(crate) fn new(segment: u32, initial_segments: u32, now: Instant) -> Self {
        let initial = segment.saturating_mul(initial_segments);
        Self {
            mode: Mode::Startup,
            segment,
            initial,
            window: initial,
            prior: 0,
            pacing: 0,
            rates: [0; RATE_ROUNDS],
            round: 0,
            round_end: 0,
            full_rate: 0,
            full_rounds: 0,
            is_full: false,
            min_rtt: u32::MAX,
            min_rtt_at: now,
            is_conserving: false,
        }
    }

    pub(super) fn with_window(self, window: u32) -> Self {
        Self { window, ..self }
    }

    fn rate(&self) -> u64 {
        self.rates.iter().copied().max().unwrap_or(0)
    }

    fn pacing_gain(&self) -> u64 {
        match self.mode {
            Mode::Startup => HIGH_GAIN,
            Mode::Drain => DRAIN_GAIN,
            Mode::ProbeBandwidth { phase, .. } => CYCLE[phase % CYCLE.len()],
            Mode::ProbeRtt { .. } => UNIT,
        }
    }

    /// The product of rate and round-trip time, times a gain; the first window while it is not known.
    fn product(&self, gain: u64) -> u32 {
        let rate = self.rate();
        if rate == 0 || self.min_rtt == u32::MAX {
            return self.initial;
        }
        let bytes = u128::from(rate) * u128::from(self.min_rtt) * u128::from(gain)
            / (1_000_000 * u128::from(UNIT));
        u32::try_from(bytes)
            .unwrap_or(u32::MAX / 4)
            .min(u32::MAX / 4)
    }

    fn floor(&self) -> u32 {
        FLOOR_SEGMENTS * self.segment
    }

    /// Counts rounds and takes the rate; answers whether a round began.
    fn take_rate(&mut self, sample: &RateSample) -> bool {
        let starts = sample.prior_delivered.wrapping_sub(self.round_end) as i32 >= 0;
        if starts {
            self.round = (self.round + 1) % RATE_ROUNDS;
            self.rates[self.round] = 0;
            self.round_end = sample.delivered;
            self.is_conserving = false;
        }
        // What the application did not fill says nothing about the path, unless it is better than
        // what was known.
        if sample.rate > 0 && (!sample.is_app_limited || sample.rate >= self.rate()) {
            let best = &mut self.rates[self.round];
            *best = (*best).max(sample.rate);
        }
        starts
    }

    fn look_for_full(&mut self, round_starts: bool, sample: &RateSample) {
        if self.is_full || !round_starts || sample.is_app_limited {
            return;
        }
        let rate = self.rate();
        if rate >= self.full_rate / 4 * 5 {
            self.full_rate = rate;
            self.full_rounds = 0;
        } else {
            self.full_rounds += 1;
            self.is_full = self.full_rounds >= FULL_ROUNDS;
        }
    }

    fn step_mode(&mut self, sample: &RateSample, now: Instant) {
        if self.mode == Mode::Startup && self.is_full {
            self.mode = Mode::Drain;
        }
        if self.mode == Mode::Drain && sample.flight <= self.product(UNIT) {
            self.mode = Mode::ProbeBandwidth {
                phase: 2,
                since: now,
            };
        }
        if let Mode::ProbeBandwidth { phase, since } = self.mode {
            let has_lasted = now.since(since).as_micros() > u128::from(self.min_rtt);
            let gain = CYCLE[phase % CYCLE.len()];
            let is_over = match gain {
                UNIT => has_lasted,
                gain if gain > UNIT => {
                    has_lasted && (sample.has_lost || sample.flight >= self.product(gain))
                }
                _ => has_lasted || sample.flight <= self.product(UNIT),
            };
            if is_over {
                self.mode = Mode::ProbeBandwidth {
                    phase: (phase + 1) % CYCLE.len(),
                    since: now,
                };
            }
        }
    }

    fn step_min_rtt(&mut self, sample: &RateSample, now: Instant) {
        let has_expired = now.since(self.min_rtt_at) > MIN_RTT_VALID;
        if let Some(rtt) = sample.rtt
            && (rtt <= self.min_rtt || has_expired)
        {
            self.min_rtt = rtt.max(1);
            self.min_rtt_at = now;
        }
        match self.mode {
            Mode::ProbeRtt { until: None } if sample.flight <= self.floor() => {
                self.mode = Mode::ProbeRtt {
                    until: Some(now + PROBE_RTT),
                };
            }
            Mode::ProbeRtt { until: Some(until) } if now >= until => {
                self.min_rtt_at = now;
                self.window = self.window.max(self.prior);
                self.mode = if self.is_full {
                    Mode::ProbeBandwidth {
                        phase: 2,
                        since: now,
                    }
                } else {
                    Mode::Startup
                };
            }
            Mode::ProbeRtt { .. } => {}
            _ if has_expired => {
                self.prior = self.window;
                self.mode = Mode::ProbeRtt { until: None };
            }
            _ => {}
        }
    }

    fn step_pacing(&mut self, srtt: Option<Duration>) {
        let rate = if self.rate() > 0 {
            self.rate()
        } else {
            let micros = srtt.map_or(1_000, |srtt| srtt.as_micros().max(1) as u64);
            u64::from(self.initial) * 1_000_000 / micros
        };
        // A hundredth less than the model, so that a queue does not stand.
        let pacing = rate * self.pacing_gain() / UNIT * 99 / 100;
        if self.is_full || pacing > self.pacing {
            self.pacing = pacing.max(u64::from(self.segment));
        }
    }

    fn step_window(&mut self, sample: &RateSample) {
        let acked = sample.acked;
        if self.is_conserving {
            self.window = self.window.max(sample.flight + acked);
        } else {
            let gain = if self.is_full { WINDOW_GAIN } else { HIGH_GAIN };
            // What one wake-up of the pacer sends is in flight besides.
            let target = self.product(gain).saturating_add(6 * self.segment);
            let larger = self.window.saturating_add(acked);
            if self.is_full {
                self.window = larger.min(target);
            } else if self.window < target || sample.delivered < self.initial {
                self.window = larger;
            }
        }
        self.window = self.window.max(self.floor());
        if matches!(self.mode, Mode::ProbeRtt { .. }) {
            self.window = self.window.min(self.floor());
        }
    }
}

impl Congestion for Bbr {
    fn window(&self) -> u32 {
        self.window
    }

    fn threshold(&self) -> u32 {
        u32::MAX
    }

    fn on_ack(&mut self, _: u32, _: Option<Duration>, _: Instant) {}

    fn on_round_trip(&mut self, _: u32, _: wire::tcp::Seq, _: wire::tcp::Seq) {}

    fn on_delivery(&mut self, sample: &RateSample, srtt: Option<Duration>, now: Instant) {
        let round_starts = self.take_rate(sample);
        self.look_for_full(round_starts, sample);
        self.step_mode(sample, now);
        self.step_min_rtt(sample, now);
        self.step_pacing(srtt);
        self.step_window(sample);
    }

    fn on_loss(&mut self) {}

    fn on_recovery(&mut self, flight: u32) {
        if !matches!(self.mode, Mode::ProbeRtt { .. }) {
            self.prior = self.window;
        }
        self.is_conserving = true;
        self.window = flight.max(self.floor());
    }

    fn on_recovered(&mut self) {
        self.is_conserving = false;
        self.window = self.window.max(self.prior);
    }

    fn on_timeout(&mut self, _: bool) {
        self.prior = self.prior.max(self.window);
        self.full_rate = 0;
        self.is_conserving = false;
        self.window = self.segment;
    }

    fn on_idle(&mut self, _: u32) {}

    fn set_segment_size(&mut self, bytes: u32) {
        self.segment = bytes;
    }

    fn pacing_rate(&self, srtt: Option<Duration>) -> Option<u64> {
        if self.pacing > 0 {
            return Some(self.pacing);
        }
        let micros = srtt?.as_micros().max(1) as u64;
        Some((u64::from(self.initial) * 1_000_000 / micros * HIGH_GAIN / UNIT).max(1))
    }

    fn has_own_recovery(&self) -> bool {
        true
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            window: self.window,
            threshold: u32::MAX,
        }
    }

    fn restore(&mut self, snapshot: Snapshot) {
        self.is_conserving = false;
        self.window = self.window.max(snapshot.window).max(self.prior);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path of 10 MB/s and 20 ms, one acknowledgment a millisecond.
    fn path(bbr: &mut Bbr, millis: u64, rate: u64, rtt: u32) {
        let mut delivered = 0u32;
        for step in 1..=millis {
            let acked = (rate / 1000) as u32;
            delivered = delivered.wrapping_add(acked);
            let sample = RateSample {
                rate,
                delivered,
                prior_delivered: delivered.saturating_sub(acked * rtt / 1000),
                is_app_limited: false,
                rtt: Some(rtt),
                acked,
                flight: bbr.window().min(200_000),
                has_lost: false,
            };
            bbr.on_delivery(&sample, None, Instant::from_millis(step));
        }
    }

    #[test]
    fn the_model_finds_the_rate_and_paces_around_it() {
        let mut bbr = Bbr::new(1000, 10, Instant::ZERO);
        path(&mut bbr, 2_000, 10_000_000, 20_000);
        assert!(bbr.is_full);
        assert!(matches!(bbr.mode, Mode::ProbeBandwidth { .. }));
        let pacing = bbr.pacing_rate(None).unwrap_or(0);
        assert!((7_000_000..=12_500_000).contains(&pacing), "{pacing}");
        // Twice 200 kB, and what a wake-up sends.
        assert_eq!(bbr.window(), 406_000);
    }

    #[test]
    fn the_round_trip_minimum_is_renewed_every_ten_seconds_with_an_empty_queue() {
        let mut bbr = Bbr::new(1000, 10, Instant::ZERO);
        path(&mut bbr, 2_000, 10_000_000, 20_000);
        let mut probed = false;
        let mut sample = RateSample {
            rate: 10_000_000,
            delivered: 1 << 30,
            prior_delivered: 1 << 30,
            is_app_limited: false,
            rtt: Some(30_000),
            acked: 10_000,
            flight: 0,
            has_lost: false,
        };
        for step in 2_000..14_000 {
            sample.flight = bbr.window().min(200_000);
            bbr.on_delivery(&sample, None, Instant::from_millis(step));
            probed |= bbr.window() == 4_000;
        }
        assert!(probed);
        assert!(!matches!(bbr.mode, Mode::ProbeRtt { .. }));
        assert_eq!(bbr.min_rtt, 30_000);
    }

    #[test]
    fn a_loss_conserves_for_a_round_and_gives_the_window_back() {
        let mut bbr = Bbr::new(1000, 10, Instant::ZERO);
        path(&mut bbr, 2_000, 10_000_000, 20_000);
        bbr.on_recovery(100_000);
        assert_eq!(bbr.window(), 100_000);
        bbr.on_recovered();
        assert_eq!(bbr.window(), 406_000);
        bbr.on_timeout(true);
        assert_eq!(bbr.window(), 1000);
        bbr.on_recovered();
        assert_eq!(bbr.window(), 406_000);
    }
}
