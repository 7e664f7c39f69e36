//! One direction of a path.

use rand::Rng;
use rand::rngs::SmallRng;

use super::IP_HEADER;
use super::middlebox::{self, Strip};

/// Loss that comes in bursts (Gilbert and Elliott): a good state without, a bad one with loss. States
/// change with packets, and a burst ends with time too: a sender that backs off would otherwise meet
/// one burst for many minutes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bursts {
    /// Probabilities, for each packet, of entering and of leaving the bad state.
    pub(crate) enter: f64,
    pub(crate) leave: f64,
    /// Loss in the bad state.
    pub(crate) loss: f64,
}

/// The longest burst of loss.
const LONGEST_BURST: u64 = 5_000_000;

/// A queue that drops what has waited for more than 5 ms for more than 100 ms, ever more often
/// (RFC 8289).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CoDel {
    above_since: Option<f64>,
    next_drop: f64,
    drops: u32,
}

impl CoDel {
    /// Whether a packet that leaves the queue at `at` after `waited`, both in microseconds, is
    /// dropped.
    fn drops(&mut self, at: f64, waited: f64) -> bool {
        const TARGET: f64 = 5_000.0;
        const INTERVAL: f64 = 100_000.0;
        if waited < TARGET {
            *self = Self::default();
            return false;
        }
        let since = *self.above_since.get_or_insert(at);
        if self.drops == 0 {
            if at - since < INTERVAL {
                return false;
            }
        } else if at < self.next_drop {
            return false;
        }
        self.drops += 1;
        self.next_drop = at + INTERVAL / f64::from(self.drops).sqrt();
        true
    }
}

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
    pub(crate) bursts: Option<Bursts>,
    pub(crate) codel: Option<CoDel>,
    /// A middlebox takes options out of every segment.
    pub(crate) strip: Option<Strip>,
    /// Somebody off the path adds a segment beside so many.
    pub(crate) spoof: f64,
    /// The receiving interface shows what came in so many microseconds together.
    pub(crate) gathers: u64,
    pub(crate) carried: u64,
    bad_since: Option<u64>,
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
            bursts: None,
            codel: None,
            strip: None,
            spoof: 0.0,
            gathers: 1,
            carried: 0,
            bad_since: None,
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
        if let Some(codel) = &mut self.codel
            && codel.drops(start, start - now as f64)
        {
            return;
        }
        self.busy_until = start + packet.len() as f64 * 8e6 / self.bits_per_second as f64;
        if rng.random_bool(self.loss) {
            return;
        }
        if let Some(bursts) = self.bursts {
            if self
                .bad_since
                .is_some_and(|since| now >= since + LONGEST_BURST)
            {
                self.bad_since = None;
            }
            match self.bad_since {
                Some(_) if rng.random_bool(bursts.leave) => self.bad_since = None,
                None if rng.random_bool(bursts.enter) => self.bad_since = Some(now),
                Some(_) | None => {}
            }
            if self.bad_since.is_some() && rng.random_bool(bursts.loss) {
                return;
            }
        }
        let mut packet = packet;
        if self.spoof > 0.0 && rng.random_bool(self.spoof) {
            let forged = middlebox::forge(&packet, rng);
            deliver(self.busy_until as u64 + self.delay, forged);
        }
        if let Some(strip) = self.strip {
            packet = middlebox::strip(&packet, strip);
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
            let at = self.busy_until as u64 + self.delay + jitter;
            deliver(at.next_multiple_of(self.gathers), packet);
        }
    }
}
