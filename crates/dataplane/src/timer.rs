//! A hierarchical timer wheel: one deadline per flow, O(1) to set, O(levels) to find the next.
//!
//! Levels have 64 slots; a slot of level `k` spans 64^k ticks. An entry sits at the level whose span
//! its distance fits and moves down when its slot is reached. Entries are linked through a node per
//! flow index, so setting and cancelling never search or allocate for a known index.

use crate::Instant;

/// Microseconds per tick, as a shift: 256 µs.
const TICK_SHIFT: u32 = 8;
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// 64^5 ticks are 76 hours.
const LEVELS: usize = 5;
const HORIZON: u64 = 1 << (SLOT_BITS * LEVELS as u32);
const NONE: u32 = u32::MAX;
/// The last tick that a node can hold.
const LATEST: u64 = (1 << 48) - 1;

/// A flow's place in the wheel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    previous: u32,
    next: u32,
    /// `level * SLOTS + slot`, or `UNSET`.
    bucket: u16,
    /// 48 bits of ticks are two thousand years.
    tick_high: u16,
    tick_low: u32,
}

const UNSET: u16 = u16::MAX;
const IDLE: Node = Node {
    previous: NONE,
    next: NONE,
    bucket: UNSET,
    tick_high: 0,
    tick_low: 0,
};

impl Node {
    fn tick(&self) -> u64 {
        u64::from(self.tick_high) << 32 | u64::from(self.tick_low)
    }
}

/// Nodes per chunk. Chunks are allocated as indices appear, so that growing copies nothing and keeps
/// little in reserve.
const CHUNK: usize = 1024;

/// A node for each index.
#[derive(Debug, Default)]
struct Nodes(Vec<Box<[Node]>>);

impl Nodes {
    fn get(&self, index: u32) -> Option<&Node> {
        self.0
            .get(index as usize / CHUNK)?
            .get(index as usize % CHUNK)
    }

    fn get_mut(&mut self, index: u32) -> Option<&mut Node> {
        self.0
            .get_mut(index as usize / CHUNK)?
            .get_mut(index as usize % CHUNK)
    }

    /// Makes room for a node.
    fn reach(&mut self, index: u32) {
        while self.0.len() <= index as usize / CHUNK {
            self.0.push(vec![IDLE; CHUNK].into_boxed_slice());
        }
    }
}

/// The wheel.
#[derive(Debug)]
pub(crate) struct TimerWheel {
    nodes: Nodes,
    heads: [u32; SLOTS * LEVELS],
    occupied: [u64; LEVELS],
    tick: u64,
}

impl TimerWheel {
    pub(crate) fn new() -> Self {
        Self {
            nodes: Nodes::default(),
            heads: [NONE; SLOTS * LEVELS],
            occupied: [0; LEVELS],
            tick: 0,
        }
    }

    /// Sets the deadline of `index` unless it already has an earlier one. A deadline that moved later
    /// is noticed when the earlier one fires: the owner then asks again.
    pub(crate) fn schedule(&mut self, index: u32, at: Instant) {
        let tick = ceil_tick(at).min(LATEST).max(self.tick);
        self.nodes.reach(index);
        if let Some(node) = self.nodes.get(index)
            && node.bucket != UNSET
        {
            if node.tick() <= tick {
                return;
            }
            self.unlink(index);
        }
        self.link(index, tick);
    }

    /// Forgets the deadline of `index`.
    pub(crate) fn cancel(&mut self, index: u32) {
        if self
            .nodes
            .get(index)
            .is_some_and(|node| node.bucket != UNSET)
        {
            self.unlink(index);
        }
    }

    /// Takes one index whose deadline has come. Call until it answers `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<u32> {
        let target = now.0 >> TICK_SHIFT;
        loop {
            let next = self.earliest();
            let Some((level, tick)) = next.filter(|(_, tick)| *tick <= target) else {
                self.tick = self.tick.max(target);
                return None;
            };
            self.tick = self.tick.max(tick);
            if level == 0 {
                let head = self.heads.get(self.bucket(0)).copied();
                let index = head.filter(|head| *head != NONE)?;
                self.unlink(index);
                return Some(index);
            }
            // A tick that starts a slot starts one at every lower level too. Once it is the current
            // tick those slots count as a whole turn away, so they are emptied here.
            for level in (1..=level).rev() {
                self.cascade(self.bucket(level));
            }
        }
    }

    /// The current slot of a level.
    fn bucket(&self, level: usize) -> usize {
        level * SLOTS + (self.tick >> (SLOT_BITS * level as u32)) as usize % SLOTS
    }

    /// When [`TimerWheel::expire`] has something to do next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.earliest()
            .map(|(_, tick)| Instant::from_micros(tick << TICK_SHIFT))
    }

    /// The level and the first tick of the occupied slot that comes first; on a tie the higher level,
    /// so that its entries move down before the lower one fires.
    fn earliest(&self) -> Option<(usize, u64)> {
        let mut best: Option<(usize, u64)> = None;
        for (level, occupied) in self.occupied.iter().enumerate() {
            if *occupied == 0 {
                continue;
            }
            let shift = SLOT_BITS * level as u32;
            let base = self.tick >> shift;
            let ahead = occupied.rotate_right((base % SLOTS as u64) as u32);
            let distance = if level == 0 {
                u64::from(ahead.trailing_zeros())
            } else {
                // What is in the current slot of a higher level is a whole turn away.
                match ahead & !1 {
                    0 => SLOTS as u64,
                    later => u64::from(later.trailing_zeros()),
                }
            };
            let tick = (base + distance) << shift;
            if best.is_none_or(|(_, earliest)| tick <= earliest) {
                best = Some((level, tick));
            }
        }
        best
    }

    fn cascade(&mut self, bucket: usize) {
        let mut index = self.heads.get(bucket).copied().unwrap_or(NONE);
        while index != NONE {
            let Some(node) = self.nodes.get(index).copied() else {
                return;
            };
            self.unlink(index);
            self.link(index, node.tick().max(self.tick));
            index = node.next;
        }
    }

    fn link(&mut self, index: u32, tick: u64) {
        let distance = (tick - self.tick).min(HORIZON - 1);
        let level = match distance.checked_ilog2() {
            Some(bits) => (bits / SLOT_BITS) as usize,
            None => 0,
        };
        // Beyond the horizon an entry fires early and is set again by its owner.
        let slot_tick = self.tick + distance;
        let slot = (slot_tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let bucket = level * SLOTS + slot;
        let Some(head) = self.heads.get_mut(bucket) else {
            return;
        };
        let next = core::mem::replace(head, index);
        if let Some(node) = self.nodes.get_mut(next) {
            node.previous = index;
        }
        if let Some(node) = self.nodes.get_mut(index) {
            *node = Node {
                previous: NONE,
                next,
                bucket: bucket as u16,
                tick_high: (tick >> 32) as u16,
                tick_low: tick as u32,
            };
        }
        self.set_occupied(bucket, true);
    }

    fn unlink(&mut self, index: u32) {
        let Some(node) = self.nodes.get_mut(index) else {
            return;
        };
        let Node {
            previous,
            next,
            bucket,
            ..
        } = core::mem::replace(node, IDLE);
        if let Some(next) = self.nodes.get_mut(next) {
            next.previous = previous;
        }
        if let Some(previous) = self.nodes.get_mut(previous) {
            previous.next = next;
        } else if let Some(head) = self.heads.get_mut(usize::from(bucket)) {
            *head = next;
            if next == NONE {
                self.set_occupied(bucket.into(), false);
            }
        }
    }

    fn set_occupied(&mut self, bucket: usize, occupied: bool) {
        if let Some(bits) = self.occupied.get_mut(bucket / SLOTS) {
            let bit = 1u64 << (bucket % SLOTS);
            *bits = if occupied { *bits | bit } else { *bits & !bit };
        }
    }
}

fn ceil_tick(at: Instant) -> u64 {
    at.0.div_ceil(1 << TICK_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Random;

    fn fired(wheel: &mut TimerWheel, now: Instant) -> Vec<u32> {
        let mut fired = Vec::new();
        while let Some(index) = wheel.expire(now) {
            fired.push(index);
        }
        fired
    }

    #[test]
    fn deadlines_fire_in_time_and_once() {
        let mut wheel = TimerWheel::new();
        wheel.schedule(0, Instant::from_millis(10));
        wheel.schedule(1, Instant::from_millis(350_000));
        assert!(fired(&mut wheel, Instant::from_micros(9_999)).is_empty());
        assert_eq!(fired(&mut wheel, Instant::from_micros(10_300)), [0]);
        assert!(fired(&mut wheel, Instant::from_millis(349_999)).is_empty());
        assert_eq!(fired(&mut wheel, Instant::from_millis(350_001)), [1]);
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn an_earlier_deadline_replaces_a_later_one_but_not_the_other_way() {
        let mut wheel = TimerWheel::new();
        wheel.schedule(3, Instant::from_millis(100));
        wheel.schedule(3, Instant::from_millis(5));
        wheel.schedule(3, Instant::from_millis(500));
        assert_eq!(fired(&mut wheel, Instant::from_millis(6)), [3]);
        assert!(fired(&mut wheel, Instant::from_millis(1000)).is_empty());
        wheel.schedule(3, Instant::from_millis(2000));
        wheel.cancel(3);
        assert!(fired(&mut wheel, Instant::from_millis(3000)).is_empty());
    }

    #[test]
    fn the_wheel_agrees_with_a_sorted_list() {
        let mut random = Random::new(42);
        for round in 0..20 {
            let mut wheel = TimerWheel::new();
            let mut expected: Vec<(u64, u32)> = Vec::new();
            let mut now = Instant::from_millis(random.below(1 << 30) as u64);
            let _ = fired(&mut wheel, now);
            for index in 0..500u32 {
                let span = 1usize << (random.below(34) + 1);
                let at = now + core::time::Duration::from_micros(random.below(span) as u64);
                wheel.schedule(index, at);
                expected.push((ceil_tick(at) << TICK_SHIFT, index));
                if random.below(10) == 0 {
                    wheel.cancel(index);
                    expected.pop();
                }
            }
            expected.sort_unstable();
            while let Some(next) = wheel.next() {
                now = next;
                let due = fired(&mut wheel, now);
                for index in due {
                    let at = expected
                        .iter()
                        .position(|(_, i)| *i == index)
                        .map(|p| expected.remove(p).0);
                    assert_eq!(at, Some(now.0), "round {round}, index {index}");
                }
            }
            assert!(expected.is_empty(), "{expected:?}");
        }
    }
}
