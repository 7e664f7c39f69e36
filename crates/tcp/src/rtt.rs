//! Round-trip time and the retransmission time-out (RFC 6298).

use core::time::Duration;

use crate::codec::{ImportError, Reader};
use crate::config::Config;
use crate::time::Instant;

/// How long a minimum stays valid: routes change (RFC 8985 §6.2 asks for a windowed minimum).
const MINIMUM_VALID_SECONDS: u32 = 60;

/// The estimator; microseconds inside.
#[derive(Debug)]
pub(crate) struct Rtt {
    /// 0 before the first measurement.
    smoothed: u32,
    variation: u32,
    minimum: u32,
    /// In seconds.
    minimum_at: u32,
}

impl Rtt {
    /// Starts from the round trip of the observed handshake, if there was one.
    pub(crate) fn new(seed: Option<Duration>, now: Instant) -> Self {
        let mut rtt = Self {
            smoothed: 0,
            variation: 0,
            minimum: u32::MAX,
            minimum_at: now.as_secs_u32(),
        };
        if let Some(seed) = seed {
            rtt.sample(seed.as_micros().min(60_000_000) as u32, now);
            // A handshake's time may contain the peer's thinking; it must not become the minimum
            // that loss detection trusts.
            rtt.minimum = u32::MAX;
        }
        rtt
    }

    /// For an export: all figures, the last one the minimum's age in seconds.
    pub(crate) fn parts(&self, now: Instant) -> [u32; 4] {
        let age = now.as_secs_u32().wrapping_sub(self.minimum_at);
        [self.smoothed, self.variation, self.minimum, age]
    }

    pub(crate) fn import(input: &mut Reader<'_>, now: Instant) -> Result<Self, ImportError> {
        Ok(Self {
            smoothed: input.u32()?,
            variation: input.u32()?,
            minimum: input.u32()?.max(1),
            minimum_at: now.as_secs_u32().wrapping_sub(input.u32()?),
        })
    }

    /// Takes a measurement (RFC 6298 §2.2, §2.3).
    pub(crate) fn sample(&mut self, micros: u32, now: Instant) {
        let micros = micros.max(1);
        match self.smoothed {
            0 => {
                self.smoothed = micros;
                self.variation = micros / 2;
            }
            smoothed => {
                let deviation = smoothed.abs_diff(micros);
                self.variation = (self.variation / 4 * 3)
                    .saturating_add(self.variation % 4 * 3 / 4 + deviation / 4);
                self.smoothed = ((u64::from(smoothed) * 7 + u64::from(micros)) / 8).max(1) as u32;
            }
        }
        self.sample_minimum(micros, now);
    }

    /// Takes a measurement for the minimum only.
    pub(crate) fn sample_minimum(&mut self, micros: u32, now: Instant) {
        let second = now.as_secs_u32();
        if micros <= self.minimum || second.wrapping_sub(self.minimum_at) > MINIMUM_VALID_SECONDS {
            self.minimum = micros.max(1);
            self.minimum_at = second;
        }
    }

    /// The smoothed round-trip time.
    pub(crate) fn smoothed(&self) -> Option<Duration> {
        (self.smoothed > 0).then(|| Duration::from_micros(self.smoothed.into()))
    }

    /// The lowest recent measurement in microseconds; falls back to the smoothed one.
    pub(crate) fn minimum_micros(&self) -> Option<u32> {
        if self.minimum == u32::MAX {
            (self.smoothed > 0).then_some(self.smoothed)
        } else {
            Some(self.minimum)
        }
    }

    /// Four times the variation: what a round trip may take beyond the smoothed time (RFC 6298 §2.3).
    pub(crate) fn spread(&self) -> Duration {
        Duration::from_micros(u64::from(self.variation) * 4)
    }

    /// The time-out before back-off.
    ///
    /// RFC 6298 §2.3 with the floor in the place of the clock granularity G, so that a peer that
    /// delays acknowledgments does not cause time-outs on a long path with little variation.
    pub(crate) fn timeout(&self, config: &Config) -> Duration {
        match self.smoothed {
            0 => config.initial_rto,
            smoothed => {
                let margin = self.spread().max(config.min_rto);
                (Duration::from_micros(smoothed.into()) + margin).min(config.max_rto)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_sample_sets_the_estimate_and_later_ones_smooth_it() {
        let config = Config {
            min_rto: Duration::from_millis(10),
            ..Config::default()
        };
        let mut rtt = Rtt::new(None, Instant::ZERO);
        assert_eq!(rtt.timeout(&config), Duration::from_secs(1));
        rtt.sample(100_000, Instant::ZERO);
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(100)));
        assert_eq!(rtt.timeout(&config), Duration::from_millis(300));
        rtt.sample(180_000, Instant::ZERO);
        assert_eq!(rtt.smoothed(), Some(Duration::from_millis(110)));
        // 3/4 of 50 ms and 1/4 of 80 ms.
        assert_eq!(
            rtt.timeout(&config),
            Duration::from_micros(110_000 + 4 * 57_500)
        );
    }

    #[test]
    fn a_steady_path_keeps_the_floor_above_its_round_trip() {
        let mut rtt = Rtt::new(None, Instant::ZERO);
        for _ in 0..100 {
            rtt.sample(300_000, Instant::ZERO);
        }
        assert_eq!(rtt.timeout(&Config::default()), Duration::from_millis(500));
    }

    #[test]
    fn the_minimum_is_forgotten_after_a_minute() {
        let mut rtt = Rtt::new(None, Instant::ZERO);
        rtt.sample(1_000, Instant::ZERO);
        rtt.sample(9_000, Instant::from_millis(59_000));
        assert_eq!(rtt.minimum_micros(), Some(1_000));
        rtt.sample(9_000, Instant::from_millis(61_000));
        assert_eq!(rtt.minimum_micros(), Some(9_000));
    }
}
