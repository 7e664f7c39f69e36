//! How fast leaves are made, however many are asked for.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A leaky bucket: each leaf puts its share of a second in, time takes it out again, and what
/// stands above the brim is how long the next one waits.
#[derive(Debug)]
pub(super) struct Pace {
    /// What one leaf costs: a second divided by the rate.
    each: Duration,
    /// How much may be used at once after a quiet time.
    brim: Duration,
    level: Mutex<Level>,
}

#[derive(Debug)]
struct Level {
    filled: Duration,
    at: Instant,
}

impl Pace {
    /// `per_second` leaves, of which `burst` may come at once.
    pub(super) fn new(per_second: u32, burst: u32) -> Self {
        let each = Duration::from_secs(1) / per_second.max(1);
        Self {
            each,
            brim: each * burst,
            level: Mutex::new(Level {
                filled: Duration::ZERO,
                at: Instant::now(),
            }),
        }
    }

    /// Waits until one more leaf may be made.
    pub(super) async fn wait(&self) {
        let pause = self.reserve(Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn reserve(&self, now: Instant) -> Duration {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(level.at);
        level.at = level.at.max(now);
        level.filled = level.filled.saturating_sub(passed) + self.each;
        level.filled.saturating_sub(self.brim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_free_and_then_each_waits_its_turn() {
        let pace = Pace::new(10, 3);
        let start = Instant::now();
        let waits: Vec<u128> = (0..6).map(|_| pace.reserve(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100, 200, 300]);
        // After a quiet second the burst is there again, and no larger than before.
        let later = start + Duration::from_secs(10);
        let waits: Vec<u128> = (0..4).map(|_| pace.reserve(later).as_millis()).collect();
        assert_eq!(waits, [0, 0, 0, 100]);
    }
}
