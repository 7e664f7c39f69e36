//! A lossy one-way link as a sans-IO queue: packets in with the time, packets out when they are due.
//!
//! Delay, jitter, loss, reordering, duplication, corruption and a rate with a bounded drop-tail queue.
//! All chance comes from a seed, so the same packets at the same times meet the same fate.
//! Times are durations since the start of the lab.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// How far a reordered packet falls behind, at most.
const REORDER_SPAN: Duration = Duration::from_millis(2);
/// Packets on the wire at most (delay line); more are dropped as if the queue were full.
const MAX_IN_FLIGHT: usize = 65_536;
/// Default size of the drop-tail queue in front of a rate limit, in bytes.
const DEFAULT_QUEUE: usize = 1 << 20;

/// The properties of one direction of a link. The default link is perfect and costs nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time from one end to the other.
    pub delay: Duration,
    /// Added to `delay`, uniform between zero and this; alone it does not reorder.
    pub jitter: Duration,
    /// Probability that a packet is lost, 0.0 to 1.0.
    pub loss: f64,
    /// Probability that a packet is held back so that later ones overtake it.
    pub reorder: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that one bit of a packet is flipped.
    pub corrupt: f64,
    /// Bits per second; `None` is unlimited.
    pub rate: Option<u64>,
    /// Bytes that may wait for the rate limit; what does not fit is dropped at the tail.
    pub queue: usize,
    /// Seed of all chance on this link.
    pub seed: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            rate: None,
            queue: DEFAULT_QUEUE,
            seed: 1,
        }
    }
}

impl LinkConfig {
    /// The same link with another seed, so that the links of one lab do not drop in lock-step.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        Self {
            seed,
            ..self.clone()
        }
    }
}

/// A link specification that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSpecError(String);

impl fmt::Display for LinkSpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; a link is written like loss=1%,delay=10ms,jitter=2ms,reorder=2%,duplicate=0.5%,corrupt=0.1%,rate=200mbit,queue=256kb,seed=7",
            self.0
        )
    }
}

impl std::error::Error for LinkSpecError {}

impl FromStr for LinkConfig {
    type Err = LinkSpecError;

    fn from_str(spec: &str) -> Result<Self, LinkSpecError> {
        let mut config = Self::default();
        for part in spec
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| LinkSpecError(format!("`{part}` has no `=`")))?;
            match key.trim() {
                "loss" => config.loss = probability(key, value)?,
                "reorder" => config.reorder = probability(key, value)?,
                "duplicate" => config.duplicate = probability(key, value)?,
                "corrupt" => config.corrupt = probability(key, value)?,
                "delay" => config.delay = duration(key, value)?,
                "jitter" => config.jitter = duration(key, value)?,
                "rate" => config.rate = Some(rate(value)?),
                "queue" => config.queue = size(value)?,
                "seed" => {
                    config.seed = value.parse().map_err(|_| {
                        LinkSpecError(format!("seed `{value}` is not a whole number"))
                    })?;
                }
                other => return Err(LinkSpecError(format!("unknown key `{other}`"))),
            }
        }
        Ok(config)
    }
}

fn probability(key: &str, value: &str) -> Result<f64, LinkSpecError> {
    let (number, divisor) = match value.strip_suffix('%') {
        Some(number) => (number, 100.0),
        None => (value, 1.0),
    };
    match number.trim().parse::<f64>() {
        Ok(parsed) if (0.0..=divisor).contains(&parsed) => Ok(parsed / divisor),
        _ => Err(LinkSpecError(format!(
            "{key} `{value}` is not between 0% and 100%"
        ))),
    }
}

fn duration(key: &str, value: &str) -> Result<Duration, LinkSpecError> {
    let parsed = humantime::parse_duration(value)
        .map_err(|_| LinkSpecError(format!("{key} `{value}` is not a time such as 10ms")))?;
    if parsed > Duration::from_secs(60) {
        return Err(LinkSpecError(format!("{key} `{value}` is more than 60s")));
    }
    Ok(parsed)
}

fn scaled(value: &str, units: &[(&str, u64)]) -> Option<u64> {
    let lower = value.trim().to_ascii_lowercase();
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| lower.strip_suffix(unit).map(|number| (number, *factor)))?;
    number.trim().parse::<u64>().ok()?.checked_mul(factor)
}

fn rate(value: &str) -> Result<u64, LinkSpecError> {
    const UNITS: [(&str, u64); 4] = [
        ("gbit", 1_000_000_000),
        ("mbit", 1_000_000),
        ("kbit", 1_000),
        ("bit", 1),
    ];
    match scaled(value, &UNITS) {
        Some(bits) if bits >= 1_000 => Ok(bits),
        _ => Err(LinkSpecError(format!(
            "rate `{value}` is not like 200mbit (at least 1kbit)"
        ))),
    }
}

fn size(value: &str) -> Result<usize, LinkSpecError> {
    const UNITS: [(&str, u64); 3] = [("mb", 1_000_000), ("kb", 1_000), ("b", 1)];
    scaled(value, &UNITS)
        .and_then(|bytes| usize::try_from(bytes).ok())
        .filter(|bytes| (1_000..=1 << 30).contains(bytes))
        .ok_or_else(|| LinkSpecError(format!("queue `{value}` is not like 256kb (1kb to 1000mb)")))
}

/// What happened on a link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LinkStats {
    /// Packets that entered.
    pub packets: u64,
    /// Packets that came out at the far end, duplicates included.
    pub delivered: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets that did not fit into the queue.
    pub queue_drops: u64,
    /// Packets held back for others to overtake.
    pub reordered: u64,
    /// Extra copies made.
    pub duplicated: u64,
    /// Packets with a flipped bit.
    pub corrupted: u64,
}

impl LinkStats {
    /// Adds another link's numbers to this one.
    pub fn add(&mut self, other: &Self) {
        self.packets += other.packets;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.queue_drops += other.queue_drops;
        self.reordered += other.reordered;
        self.duplicated += other.duplicated;
        self.corrupted += other.corrupted;
    }
}

struct InFlight {
    due: Duration,
    order: u64,
    packet: Vec<u8>,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    /// The earliest packet is the greatest: `BinaryHeap` pops the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.order).cmp(&(self.due, self.order))
    }
}

/// One direction of a link.
pub struct Link {
    config: LinkConfig,
    rng: SmallRng,
    in_flight: BinaryHeap<InFlight>,
    order: u64,
    /// When the transmitter has sent everything it accepted so far.
    transmitter_free_at: Duration,
    /// Due time of the last packet that was not reordered: jitter never makes one overtake another.
    last_due: Duration,
    stats: LinkStats,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("config", &self.config)
            .field("in_flight", &self.in_flight.len())
            .field("stats", &self.stats)
            .finish()
    }
}

impl Link {
    /// An empty link.
    #[must_use]
    pub fn new(config: LinkConfig) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(config.seed),
            config,
            in_flight: BinaryHeap::new(),
            order: 0,
            transmitter_free_at: Duration::ZERO,
            last_due: Duration::ZERO,
            stats: LinkStats::default(),
        }
    }

    /// Puts a packet on the link; it comes out of [`Link::pop`] when it is due, if it survives.
    pub fn push(&mut self, mut packet: Vec<u8>, now: Duration) {
        self.stats.packets += 1;
        if self.chance(self.config.loss) {
            self.stats.lost += 1;
            return;
        }
        let Some(sent) = self.transmit(packet.len(), now) else {
            self.stats.queue_drops += 1;
            return;
        };
        if self.in_flight.len() >= MAX_IN_FLIGHT {
            self.stats.queue_drops += 1;
            return;
        }
        if !packet.is_empty() && self.chance(self.config.corrupt) {
            let at = self.rng.random_range(0..packet.len());
            let bit = self.rng.random_range(0..8_u32);
            if let Some(byte) = packet.get_mut(at) {
                *byte ^= 1 << bit;
            }
            self.stats.corrupted += 1;
        }
        let mut due = sent + self.config.delay;
        if !self.config.jitter.is_zero() {
            due += self.config.jitter.mul_f64(self.rng.random::<f64>());
        }
        due = due.max(self.last_due);
        if self.chance(self.config.reorder) {
            self.stats.reordered += 1;
            due += REORDER_SPAN.mul_f64(self.rng.random_range(0.25..1.0));
        } else {
            self.last_due = due;
        }
        if self.chance(self.config.duplicate) {
            self.stats.duplicated += 1;
            self.enqueue(packet.clone(), due);
        }
        self.enqueue(packet, due);
    }

    /// The next packet that is due at `now`.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.in_flight.peek()?.due > now {
            return None;
        }
        let packet = self.in_flight.pop()?.packet;
        self.stats.delivered += 1;
        Some(packet)
    }

    /// When the next packet is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        self.in_flight.peek().map(|packet| packet.due)
    }

    /// The numbers so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.stats
    }

    fn chance(&mut self, probability: f64) -> bool {
        // No draw for impossible events: a perfect link costs no random numbers.
        probability > 0.0 && self.rng.random::<f64>() < probability
    }

    /// When the last bit of the packet leaves, or `None` if the queue is full.
    fn transmit(&mut self, len: usize, now: Duration) -> Option<Duration> {
        let Some(rate) = self.config.rate else {
            return Some(now);
        };
        let start = self.transmitter_free_at.max(now);
        let waiting_bits = (start - now).as_secs_f64() * rate as f64;
        if waiting_bits / 8.0 + len as f64 > self.config.queue.max(len) as f64 {
            return None;
        }
        self.transmitter_free_at = start + Duration::from_secs_f64(len as f64 * 8.0 / rate as f64);
        Some(self.transmitter_free_at)
    }

    fn enqueue(&mut self, packet: Vec<u8>, due: Duration) {
        self.order += 1;
        self.in_flight.push(InFlight {
            due,
            order: self.order,
            packet,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn run(config: LinkConfig, packets: u32, gap: Duration) -> (Vec<u32>, LinkStats) {
        let mut link = Link::new(config);
        let mut out = Vec::new();
        let mut now = Duration::ZERO;
        for number in 0..packets {
            link.push(number.to_be_bytes().to_vec(), now);
            now += gap;
            while let Some(packet) = link.pop(now) {
                out.push(u32::from_be_bytes(packet.try_into().unwrap()));
            }
        }
        while let Some(packet) = link.pop(now + Duration::from_secs(100)) {
            out.push(u32::from_be_bytes(packet.try_into().unwrap()));
        }
        (out, link.stats())
    }

    #[test]
    fn a_spec_sets_every_property() {
        let config: LinkConfig =
            "loss=1%,delay=10ms, jitter=2ms,reorder=2%,duplicate=0.5%,corrupt=0.1%,rate=200mbit,queue=256kb,seed=7"
                .parse()
                .unwrap();
        assert_eq!(config.loss, 0.01);
        assert_eq!(config.delay, millis(10));
        assert_eq!(config.jitter, millis(2));
        assert_eq!(config.reorder, 0.02);
        assert_eq!(config.duplicate, 0.005);
        assert_eq!(config.corrupt, 0.001);
        assert_eq!(config.rate, Some(200_000_000));
        assert_eq!(config.queue, 256_000);
        assert_eq!(config.seed, 7);
        assert_eq!("".parse::<LinkConfig>().unwrap(), LinkConfig::default());
    }

    #[test]
    fn a_wrong_spec_names_its_fault() {
        for (spec, word) in [
            ("loss=101%", "loss"),
            ("loss=-1%", "loss"),
            ("delay=ten", "delay"),
            ("delay=2h", "60s"),
            ("rate=fast", "rate"),
            ("speed=1", "speed"),
            ("loss", "="),
            ("seed=x", "seed"),
            ("queue=1", "queue"),
        ] {
            let error = spec.parse::<LinkConfig>().unwrap_err().to_string();
            assert!(error.contains(word), "{spec}: {error}");
        }
    }

    #[test]
    fn a_perfect_link_delivers_at_once_and_in_order() {
        let (out, stats) = run(LinkConfig::default(), 100, Duration::ZERO);
        assert_eq!(out, (0..100).collect::<Vec<_>>());
        assert_eq!(stats.delivered, 100);
    }

    #[test]
    fn loss_duplication_and_corruption_come_at_their_rate() {
        let config = LinkConfig {
            loss: 0.05,
            duplicate: 0.02,
            corrupt: 0.03,
            seed: 3,
            ..LinkConfig::default()
        };
        let (_, stats) = run(config, 20_000, millis(1));
        assert!((900..1_100).contains(&stats.lost), "{stats:?}");
        assert!((320..440).contains(&stats.duplicated), "{stats:?}");
        assert!((490..650).contains(&stats.corrupted), "{stats:?}");
        assert_eq!(
            stats.delivered,
            stats.packets - stats.lost + stats.duplicated
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_fate_and_another_seed_another() {
        let config = LinkConfig {
            loss: 0.3,
            reorder: 0.3,
            seed: 9,
            ..LinkConfig::default()
        };
        let first = run(config.clone(), 500, millis(1));
        assert_eq!(first, run(config.clone(), 500, millis(1)));
        assert_ne!(first.0, run(config.with_seed(10), 500, millis(1)).0);
    }

    #[test]
    fn reordering_lets_later_packets_overtake_and_jitter_alone_does_not() {
        let shuffled = LinkConfig {
            reorder: 0.1,
            ..LinkConfig::default()
        };
        let (out, stats) = run(shuffled, 1_000, Duration::from_micros(100));
        assert!(stats.reordered > 50);
        assert!(out.windows(2).any(|pair| pair[0] > pair[1]));
        let jittery = LinkConfig {
            delay: millis(5),
            jitter: millis(20),
            ..LinkConfig::default()
        };
        let (out, _) = run(jittery, 1_000, Duration::from_micros(100));
        assert!(out.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn delay_holds_a_packet_exactly_as_long() {
        let mut link = Link::new(LinkConfig {
            delay: millis(10),
            ..LinkConfig::default()
        });
        link.push(vec![1], millis(5));
        assert_eq!(link.next_due(), Some(millis(15)));
        assert_eq!(link.pop(millis(14)), None);
        assert_eq!(link.pop(millis(15)), Some(vec![1]));
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_drops_at_the_tail() {
        // 1000 bytes at 8 Mbit/s take one millisecond.
        let config = LinkConfig {
            rate: Some(8_000_000),
            queue: 3_000,
            ..LinkConfig::default()
        };
        let mut link = Link::new(config);
        for _ in 0..5 {
            link.push(vec![0; 1_000], Duration::ZERO);
        }
        assert_eq!(link.stats().queue_drops, 2);
        assert_eq!(link.pop(Duration::from_micros(999)), None);
        assert!(link.pop(Duration::from_micros(1_001)).is_some());
        assert_eq!(link.pop(Duration::from_micros(1_001)), None);
        assert!(link.pop(Duration::from_micros(2_001)).is_some());
        assert!(link.pop(Duration::from_micros(3_001)).is_some());
        assert_eq!(link.next_due(), None);
    }
}
