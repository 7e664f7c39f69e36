//! One direction of a path.

use rand::Rng;
use rand::rngs::SmallRng;

use super::IP_HEADER;

/// Rate, delay, queue and everything that may go wrong.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) bits_per_second: u64,
    pub(crate) delay: u64,
    /// Up to this much more for each packet: packets overtake each other.
    pub(crate) jitter: u64,
    pub(crate) loss: f64,
    pub(crate) duplicate: f64,
    pub(crate) corrupt: f64,
    /// Bytes that wait at most; more are dropped at the tail.
    pub(crate) queue: u64,
    /// Packets with more bytes vanish.
    pub(crate) mtu: usize,
    pub(crate) carried: u64,
    busy_until: f64,
}

impl Link {
    pub(crate) fn new(bits_per_second: u64, delay: u64) -> Self {
        Self {
            bits_per_second,
            delay,
            jitter: 0,
            loss: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            queue: 4 << 20,
            mtu: 9000,
            carried: 0,
            busy_until: 0.0,
        }
    }

    pub(crate) fn carry(
        &mut self,
        packet: Vec<u8>,
        now: u64,
        rng: &mut SmallRng,
        mut deliver: impl FnMut(u64, Vec<u8>),
    ) {
        self.carried += 1;
        let start = self.busy_until.max(now as f64);
        let waiting = (start - now as f64) * self.bits_per_second as f64 / 8e6;
        if waiting + packet.len() as f64 > self.queue as f64 || packet.len() > self.mtu {
            return;
        }
        self.busy_until = start + packet.len() as f64 * 8e6 / self.bits_per_second as f64;
        if rng.random_bool(self.loss) {
            return;
        }
        let copies = if rng.random_bool(self.duplicate) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut packet = packet.clone();
            if rng.random_bool(self.corrupt) {
                let at = rng.random_range(IP_HEADER..packet.len());
                packet[at] ^= 1 << rng.random_range(0..8);
            }
            let jitter = if self.jitter > 0 {
                rng.random_range(0..=self.jitter)
            } else {
                0
            };
            deliver(self.busy_until as u64 + self.delay + jitter, packet);
        }
    }
}
