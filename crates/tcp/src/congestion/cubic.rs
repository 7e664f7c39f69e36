//! CUBIC (RFC 9438) with HyStart++ (RFC 9406).

use core::time::Duration;

use wire::tcp::Seq;

use super::idle::Idle;
use super::{Congestion, Snapshot};
use crate::time::Instant;

/// Multiplicative decrease (RFC 9438 §4.6).
const BETA: f64 = 0.7;
/// Scale of the cubic, segments per second cubed (RFC 9438 §5).
const C: f64 = 0.4;
/// Additive increase that matches Reno's average window (RFC 9438 §4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// "No threshold yet".
pub(super) const UNLIMITED: u32 = u32::MAX;

/// Bounds for the rise of the round-trip time that ends slow start, and samples needed per round
/// (RFC 9406 §4.3).
const MIN_RISE_MICROS: u32 = 4_000;
const MAX_RISE_MICROS: u32 = 16_000;
const SAMPLES_PER_ROUND: u8 = 8;
/// Rounds of conservative slow start before congestion avoidance, and its divisor of growth.
const CONSERVATIVE_ROUNDS: u8 = 5;
const CONSERVATIVE_DIVISOR: u32 = 4;

/// The controller.
#[derive(Debug)]
pub(crate) struct Cubic {
    window: f64,
    threshold: u32,
    segment: u32,
    initial_segments: u32,
    /// Start of the congestion avoidance stage; `None` until its first acknowledgment.
    epoch: Option<Instant>,
    /// Windows in bytes: before the last reduction, and Reno's estimate.
    w_max: f64,
    w_est: f64,
    /// The window at the last reduction; beyond it Reno's estimate grows by a segment per round.
    prior: f64,
    /// Seconds until the curve is back at `w_max`.
    k: f32,
    start: SlowStart,
}

/// The state of HyStart++.
#[derive(Debug)]
struct SlowStart {
    round_end: Seq,
    last_min: u32,
    current_min: u32,
    baseline: u32,
    samples: u8,
    /// Rounds of conservative slow start done; `None` in ordinary slow start.
    conservative: Option<u8>,
}

impl Cubic {
    /// Begins, or goes on after a rest, with a new congestion avoidance stage.
    pub(super) fn resume(idle: &Idle, segment: u32, initial_segments: u32, nxt: Seq) -> Self {
        Self {
            window: f64::from(idle.window),
            threshold: idle.threshold,
            segment,
            initial_segments,
            epoch: None,
            w_max: f64::from(idle.w_max),
            w_est: 0.0,
            prior: f64::from(idle.prior),
            k: 0.0,
            start: SlowStart {
                round_end: nxt,
                last_min: u32::MAX,
                current_min: u32::MAX,
                baseline: u32::MAX,
                samples: 0,
                conservative: None,
            },
        }
    }

    /// What a rest leaves.
    pub(super) fn rest(&self) -> Idle {
        Idle {
            window: self.window as u32,
            threshold: self.threshold,
            w_max: self.w_max as u32,
            prior: self.prior as u32,
        }
    }

    fn reduce(&mut self) {
        let segment = f64::from(self.segment);
        // RFC 9438 §4.7: a flow whose window shrinks from loss to loss releases its share sooner.
        self.w_max = if self.window < self.w_max {
            self.window * (1.0 + BETA) / 2.0
        } else {
            self.window
        };
        self.prior = self.window;
        self.threshold = (self.window * BETA).max(2.0 * segment) as u32;
        self.epoch = None;
    }

    fn avoid(&mut self, acked: f64, srtt: Option<Duration>, now: Instant) {
        let segment = f64::from(self.segment);
        let epoch = *self.epoch.get_or_insert_with(|| {
            if self.w_max <= self.window {
                self.w_max = self.window;
                self.k = 0.0;
            } else {
                self.k = ((self.w_max - self.window) / segment / C).cbrt() as f32;
            }
            self.w_est = self.window;
            now
        });
        let t = (now.since(epoch) + srtt.unwrap_or_default()).as_secs_f64();
        let ahead = t - f64::from(self.k);
        let curve = self.w_max + C * ahead * ahead * ahead * segment;
        let alpha = if self.w_est >= self.prior { 1.0 } else { ALPHA };
        self.w_est += alpha * segment * acked / self.window;
        if curve < self.w_est {
            self.window = self.window.max(self.w_est);
        } else {
            let target = curve.clamp(self.window, self.window * 1.5);
            self.window += (target - self.window) * acked / self.window;
        }
    }
}

impl Congestion for Cubic {
    fn window(&self) -> u32 {
        self.window as u32
    }

    fn threshold(&self) -> u32 {
        self.threshold
    }

    fn on_ack(&mut self, acked: u32, srtt: Option<Duration>, now: Instant) {
        let window = self.window as u32;
        let mut acked = acked;
        if window < self.threshold {
            let growth = match self.start.conservative {
                Some(_) => acked / CONSERVATIVE_DIVISOR,
                None => acked,
            };
            let growth = growth.min(self.threshold - window);
            self.window = (self.window + f64::from(growth)).min(f64::from(u32::MAX / 4));
            if window + growth < self.threshold {
                return;
            }
            acked = acked.saturating_sub(growth);
        }
        self.avoid(f64::from(acked), srtt, now);
        self.window = self.window.min(f64::from(u32::MAX / 4));
    }

    fn on_round_trip(&mut self, micros: u32, una: Seq, nxt: Seq) {
        if (self.window as u32) >= self.threshold {
            return;
        }
        let start = &mut self.start;
        if una > start.round_end {
            start.round_end = nxt;
            start.last_min = start.current_min;
            start.current_min = u32::MAX;
            start.samples = 0;
            if let Some(rounds) = &mut start.conservative {
                *rounds += 1;
                if *rounds >= CONSERVATIVE_ROUNDS {
                    self.threshold = self.window as u32;
                    self.start.conservative = None;
                    return;
                }
            }
        }
        start.current_min = start.current_min.min(micros);
        start.samples = start.samples.saturating_add(1);
        if start.samples < SAMPLES_PER_ROUND || start.last_min == u32::MAX {
            return;
        }
        match start.conservative {
            None => {
                let rise = (start.last_min / 8).clamp(MIN_RISE_MICROS, MAX_RISE_MICROS);
                if start.current_min >= start.last_min.saturating_add(rise) {
                    start.baseline = start.current_min;
                    start.conservative = Some(0);
                }
            }
            // The rise was a jitter: back to ordinary slow start.
            Some(_) if start.current_min < start.baseline => start.conservative = None,
            Some(_) => {}
        }
    }

    fn on_loss(&mut self) {
        self.reduce();
        self.window = f64::from(self.threshold);
        self.start.conservative = None;
    }

    fn on_timeout(&mut self, first: bool) {
        if first {
            self.reduce();
        }
        self.epoch = None;
        self.start.conservative = None;
        self.window = f64::from(self.segment);
    }

    fn on_idle(&mut self, timeouts: u32) {
        // RFC 2861 §3: half for each time-out, not below the restart window; what the window was
        // worth is remembered in the threshold. The path may have changed meanwhile.
        let floor = f64::from(self.segment) * f64::from(self.initial_segments);
        if self.window > floor {
            if self.threshold != UNLIMITED {
                self.threshold = self.threshold.max((self.window * 0.75) as u32);
            }
            self.window = (self.window / f64::from(1u32 << timeouts.min(16))).max(floor);
        }
        self.epoch = None;
    }

    fn set_segment_size(&mut self, bytes: u32) {
        self.segment = bytes;
        self.window = self.window.max(f64::from(bytes));
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            window: self.window as u32,
            threshold: self.threshold,
        }
    }

    fn restore(&mut self, snapshot: Snapshot) {
        self.window = self.window.max(f64::from(snapshot.window));
        self.threshold = snapshot.threshold;
        self.w_max = self.w_max.max(self.window);
        self.epoch = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(segment: u32, initial_segments: u32) -> Cubic {
        let idle = Idle::new(segment, initial_segments);
        Cubic::resume(&idle, segment, initial_segments, Seq(0))
    }

    const RTT: Option<Duration> = Some(Duration::from_millis(100));

    #[test]
    fn slow_start_doubles_per_round_from_ten_segments() {
        let mut cubic = new(1000, 10);
        for _ in 0..10 {
            cubic.on_ack(1000, RTT, Instant::ZERO);
        }
        assert_eq!(cubic.window(), 20_000);
    }

    #[test]
    fn the_curve_returns_to_the_old_window_after_k_seconds() {
        let mut cubic = new(1000, 1000);
        cubic.on_loss();
        assert_eq!(cubic.window(), 700_000);
        assert_eq!(cubic.threshold(), 700_000);
        // K is the cube root of 300 segments / 0.4, 9.09 s.
        let mut now = Instant::ZERO;
        let mut at_k = 0;
        for round in 0..130 {
            for _ in 0..10 {
                cubic.on_ack(cubic.window() / 10, RTT, now);
                now += Duration::from_millis(10);
            }
            if round == 89 {
                at_k = cubic.window();
            }
        }
        assert!((960_000..=1_040_000).contains(&at_k), "{at_k}");
        assert!(cubic.window() > 1_020_000);
    }

    /// The average window in segments when every `distance`-th segment is lost.
    fn average_window(distance: u32, rtt: Duration) -> f64 {
        let mut cubic = new(1000, 10);
        cubic.on_loss();
        let (mut now, mut sum, mut rounds, mut carried) = (Instant::ZERO, 0.0, 0.0, 0);
        for round in 0..20_000 {
            // One round: the window is acknowledged in steps of two segments.
            let segments = cubic.window() / 1000;
            for _ in 0..segments.div_ceil(2) {
                cubic.on_ack(2000, Some(rtt), now);
                carried += 2;
                if carried >= distance {
                    carried = 0;
                    cubic.on_loss();
                }
            }
            now += rtt;
            if round >= 10_000 {
                sum += f64::from(cubic.window()) / 1000.0;
                rounds += 1.0;
            }
        }
        sum / rounds
    }

    /// RFC 9438 §4.3 wants Reno's share where Reno is doing well: the square root of 3/(2p).
    #[test]
    fn on_short_paths_the_average_window_is_renos() {
        for distance in [100u32, 300, 1000] {
            let reno = (1.5 * f64::from(distance)).sqrt();
            let ratio = average_window(distance, Duration::from_millis(10)) / reno;
            assert!((0.85..=1.15).contains(&ratio), "1/{distance}: {ratio}");
        }
    }

    /// RFC 9438 §5.1: 1.054 (RTT/p)^(3/4) segments where the cubic rules.
    #[test]
    fn on_long_paths_the_average_window_is_cubics() {
        let rtt = Duration::from_millis(100);
        for distance in [10_000u32, 100_000] {
            let cubic = 1.054 * (0.1 * f64::from(distance)).powf(0.75);
            let ratio = average_window(distance, rtt) / cubic;
            assert!((0.85..=1.2).contains(&ratio), "1/{distance}: {ratio}");
        }
    }

    #[test]
    fn an_acknowledgment_never_lowers_the_window() {
        let mut cubic = new(1460, 10);
        let mut now = Instant::ZERO;
        for step in 0..20_000u32 {
            let before = cubic.window();
            cubic.on_ack(1460 * (1 + step % 3), RTT, now);
            assert!(cubic.window() >= before);
            now += Duration::from_micros(700);
            if step % 700 == 699 {
                cubic.on_loss();
            }
            if step % 5_000 == 4_999 {
                cubic.on_timeout(true);
            }
        }
    }

    #[test]
    fn rising_delay_ends_slow_start_before_loss_does() {
        let mut cubic = new(1000, 10);
        let mut una = Seq(0);
        let mut now = Instant::ZERO;
        for round in 0..12u32 {
            let flight = cubic.window();
            let nxt = una + flight;
            // The queue begins to build in the fifth round.
            let micros = 20_000 + round.saturating_sub(4) * 5_000;
            for _ in 0..flight / 1000 {
                una += 1000;
                cubic.on_round_trip(micros, una, nxt);
                cubic.on_ack(1000, RTT, now);
            }
            now += Duration::from_micros(micros.into());
        }
        assert_ne!(cubic.threshold(), UNLIMITED);
        assert!(cubic.window() < 2_000_000, "{}", cubic.window());
    }

    #[test]
    fn a_needless_reduction_is_undone() {
        let mut cubic = new(1000, 100);
        let before = cubic.snapshot();
        cubic.on_timeout(true);
        assert_eq!(cubic.window(), 1000);
        cubic.restore(before);
        assert_eq!((cubic.window(), cubic.threshold()), (100_000, UNLIMITED));
    }
}
