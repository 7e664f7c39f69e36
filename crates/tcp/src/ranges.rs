//! Sets of sequence numbers as sorted, disjoint ranges.
//!
//! The receiver notes here what it holds behind holes, the sender what the peer has reported with
//! SACK. All members of one set lie within half of the sequence space of each other.

use wire::tcp::Seq;

/// Sequence numbers from `start` up to but without `end`; never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) start: Seq,
    pub(crate) end: Seq,
}

/// A set of sequence numbers.
///
/// Invariant: ranges ascend, are not empty, and do not touch.
#[derive(Debug)]
pub(crate) struct RangeSet {
    ranges: Vec<Range>,
}

impl RangeSet {
    pub(crate) const NEW: Self = Self { ranges: Vec::new() };

    /// Adds `start..end`; answers `false`, and changes nothing, if that would make more than
    /// `limit` ranges.
    pub(crate) fn insert(&mut self, start: Seq, end: Seq, limit: usize) -> bool {
        let first = self.ranges.partition_point(|range| range.end < start);
        let after = first + self.ranges[first..].partition_point(|range| range.start <= end);
        if first == after {
            if self.ranges.len() >= limit {
                return false;
            }
            self.ranges.insert(first, Range { start, end });
        } else {
            let merged = Range {
                start: self.ranges[first].start.min(start),
                end: self.ranges[after - 1].end.max(end),
            };
            self.ranges[first] = merged;
            self.ranges.drain(first + 1..after);
        }
        true
    }

    /// The first part of `start..end` that is not in the set.
    pub(crate) fn first_gap(&self, start: Seq, end: Seq) -> Option<Range> {
        let index = self.ranges.partition_point(|range| range.end <= start);
        let mut start = start;
        let mut gap_end = end;
        if let Some(range) = self.ranges.get(index) {
            if range.start <= start {
                start = range.end;
                if let Some(next) = self.ranges.get(index + 1) {
                    gap_end = gap_end.min(next.start);
                }
            } else {
                gap_end = gap_end.min(range.start);
            }
        }
        (start < gap_end).then_some(Range {
            start,
            end: gap_end,
        })
    }

    /// The range that contains `seq`.
    pub(crate) fn find(&self, seq: Seq) -> Option<Range> {
        let index = self.ranges.partition_point(|range| range.end <= seq);
        self.ranges
            .get(index)
            .copied()
            .filter(|range| range.start <= seq)
    }

    /// `start..end` together with the ranges it touches.
    pub(crate) fn hull(&self, start: Seq, end: Seq) -> Range {
        let first = self.ranges.partition_point(|range| range.end < start);
        let after = first + self.ranges[first..].partition_point(|range| range.start <= end);
        if first == after {
            Range { start, end }
        } else {
            Range {
                start: self.ranges[first].start.min(start),
                end: self.ranges[after - 1].end.max(end),
            }
        }
    }

    /// Removes everything before `seq`.
    pub(crate) fn remove_before(&mut self, seq: Seq) {
        let gone = self.ranges.partition_point(|range| range.end <= seq);
        if gone > 0 {
            self.ranges.drain(..gone);
        }
        if let Some(first) = self.ranges.first_mut() {
            first.start = first.start.max(seq);
        }
    }

    /// The lowest range.
    pub(crate) fn first(&self) -> Option<Range> {
        self.ranges.first().copied()
    }

    /// The highest range.
    pub(crate) fn last(&self) -> Option<Range> {
        self.ranges.last().copied()
    }

    /// All ranges, from the highest down.
    pub(crate) fn descending(&self) -> impl Iterator<Item = Range> {
        self.ranges.iter().rev().copied()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Gives the memory back if the set is empty.
    pub(crate) fn release_if_empty(&mut self) {
        if self.ranges.is_empty() {
            self.ranges = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SPAN: usize = 200;

    /// The reference: one bit for each sequence number.
    #[derive(Clone)]
    struct Bitmap([bool; SPAN]);

    impl Bitmap {
        fn runs(&self) -> Vec<(usize, usize)> {
            let mut runs = Vec::new();
            let mut index = 0;
            while index < SPAN {
                if self.0[index] {
                    let start = index;
                    while index < SPAN && self.0[index] {
                        index += 1;
                    }
                    runs.push((start, index));
                }
                index += 1;
            }
            runs
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(usize, usize),
        RemoveBefore(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            8 => (0..SPAN - 1, 1..20usize).prop_map(|(at, len)| Step::Insert(at, (at + len).min(SPAN))),
            1 => (0..SPAN).prop_map(Step::RemoveBefore),
        ];
        prop::collection::vec(step, 1..60)
    }

    proptest! {
        /// The base lets ranges lie across the wrap of the sequence space.
        #[test]
        fn agrees_with_a_bitmap(base in prop_oneof![any::<u32>(), Just(u32::MAX - 100)], steps in steps(), limit in 1..30usize) {
            let at = |index: usize| Seq(base) + index as u32;
            let mut set = RangeSet::NEW;
            let mut bits = Bitmap([false; SPAN]);
            for step in steps {
                match step {
                    Step::Insert(start, end) => {
                        let mut after = bits.clone();
                        after.0[start..end].fill(true);
                        // The gaps, one after the other, are the zero bits of the span.
                        let mut cursor = at(start);
                        let mut filled = bits.clone();
                        while let Some(gap) = set.first_gap(cursor, at(end)) {
                            let (from, to) = (gap.start.since(Seq(base)) as usize, gap.end.since(Seq(base)) as usize);
                            prop_assert!(filled.0[from..to].iter().all(|bit| !bit));
                            filled.0[from..to].fill(true);
                            cursor = gap.end;
                        }
                        prop_assert!(filled.0 == after.0);
                        let hull = set.hull(at(start), at(end));
                        let taken = set.insert(at(start), at(end), limit);
                        if taken {
                            bits = after;
                            prop_assert_eq!(set.find(at(start)), Some(hull));
                        } else {
                            prop_assert!(after.runs().len() > limit);
                        }
                    }
                    Step::RemoveBefore(index) => {
                        set.remove_before(at(index));
                        bits.0[..index].fill(false);
                    }
                }
                let runs: Vec<_> = set
                    .ranges
                    .iter()
                    .map(|range| (range.start.since(Seq(base)) as usize, range.end.since(Seq(base)) as usize))
                    .collect();
                prop_assert_eq!(runs, bits.runs());
                for index in 0..SPAN {
                    prop_assert_eq!(set.find(at(index)).is_some(), bits.0[index]);
                }
            }
        }
    }
}
