//! Rows that wait for others of their day and domain: which become a file, and when.
//!
//! Domains are what peers say, so that the number of those who wait at the same time is bounded: rows
//! of further domains share one. Takes the time as an argument.

use core::time::Duration;
use std::collections::BTreeMap;

/// What stands for domains that found no place of their own. No registrable domain has one label.
pub(super) const OTHER: &str = "other";

/// Partitions beyond the limit, for rows of further domains: one a day. Days are many only where
/// exchanges last for days.
const SPARE: usize = 4;

/// When a partition's rows become a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Rows of one.
    pub(super) rows: usize,
    /// Since its first row.
    pub(super) every: Duration,
    /// Bytes of all of them; the largest goes when there are more.
    pub(super) bytes: usize,
    /// Partitions at a time.
    pub(super) partitions: usize,
}

/// Where a row belongs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Partition {
    /// `2026-11-28`
    pub(super) day: String,
    /// A registrable domain.
    pub(super) domain: String,
}

#[derive(Debug)]
struct Growing<R> {
    rows: Vec<R>,
    bytes: usize,
    since: Duration,
}

/// Partitions that grow.
#[derive(Debug)]
pub(super) struct Partitions<R> {
    limits: Limits,
    growing: BTreeMap<Partition, Growing<R>>,
    bytes: usize,
    /// Rows that went to [`OTHER`], since this was asked for last.
    diverted: usize,
}

/// Rows that become a file now.
pub(super) type Complete<R> = (Partition, Vec<R>);

impl<R> Partitions<R> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            growing: BTreeMap::new(),
            bytes: 0,
            diverted: 0,
        }
    }

    /// Adds a row of so many bytes; returns what is complete now.
    pub(super) fn add(
        &mut self,
        mut partition: Partition,
        (row, bytes): (R, usize),
        now: Duration,
    ) -> Vec<Complete<R>> {
        let mut complete = Vec::new();
        let is_full = self.growing.len() >= self.limits.partitions;
        if is_full && !self.growing.contains_key(&partition) {
            OTHER.clone_into(&mut partition.domain);
            self.diverted += 1;
        }
        if self.growing.len() >= self.limits.partitions + SPARE
            && !self.growing.contains_key(&partition)
        {
            complete.extend(self.take_most(|growing| (core::cmp::Reverse(growing.since), 0)));
        }
        let growing = self
            .growing
            .entry(partition.clone())
            .or_insert_with(|| Growing {
                rows: Vec::new(),
                bytes: 0,
                since: now,
            });
        growing.rows.push(row);
        growing.bytes += bytes;
        self.bytes += bytes;
        if growing.rows.len() >= self.limits.rows {
            complete.extend(self.take(&partition));
        }
        while self.bytes > self.limits.bytes {
            match self.take_most(|growing| (core::cmp::Reverse(Duration::ZERO), growing.bytes)) {
                Some(largest) => complete.push(largest),
                None => break,
            }
        }
        complete
    }

    /// What has waited for long enough.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Complete<R>> {
        let every = self.limits.every;
        let due: Vec<Partition> = self
            .growing
            .iter()
            .filter(|(_, growing)| now.saturating_sub(growing.since) >= every)
            .map(|(partition, _)| partition.clone())
            .collect();
        due.iter()
            .filter_map(|partition| self.take(partition))
            .collect()
    }

    /// Everything.
    pub(super) fn all(&mut self) -> Vec<Complete<R>> {
        self.bytes = 0;
        core::mem::take(&mut self.growing)
            .into_iter()
            .map(|(partition, growing)| (partition, growing.rows))
            .collect()
    }

    /// How many rows were put with others' since the last call.
    pub(super) fn take_diverted(&mut self) -> usize {
        core::mem::take(&mut self.diverted)
    }

    fn take(&mut self, partition: &Partition) -> Option<Complete<R>> {
        let (partition, growing) = self.growing.remove_entry(partition)?;
        self.bytes -= growing.bytes;
        Some((partition, growing.rows))
    }

    /// The partition of which this is the most.
    fn take_most<K: Ord>(&mut self, key: impl Fn(&Growing<R>) -> K) -> Option<Complete<R>> {
        let most = self
            .growing
            .iter()
            .max_by_key(|(_, growing)| key(growing))
            .map(|(partition, _)| partition.clone())?;
        self.take(&most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn partitions(rows: usize, bytes: usize) -> Partitions<u32> {
        Partitions::new(Limits {
            rows,
            every: 10 * S,
            bytes,
            partitions: 2,
        })
    }

    fn of(day: &str, domain: &str) -> Partition {
        Partition {
            day: day.to_owned(),
            domain: domain.to_owned(),
        }
    }

    fn names(complete: &[Complete<u32>]) -> Vec<(&str, &[u32])> {
        complete
            .iter()
            .map(|(partition, rows)| (partition.domain.as_str(), rows.as_slice()))
            .collect()
    }

    #[test]
    fn rows_become_a_file_by_number_and_by_time() {
        let mut all = partitions(2, 100);
        assert!(all.add(of("d", "a"), (1, 1), S).is_empty());
        assert!(all.add(of("d", "b"), (2, 1), 2 * S).is_empty());
        let full = all.add(of("d", "a"), (3, 1), 3 * S);
        assert_eq!(names(&full), [("a", [1, 3].as_slice())]);
        assert!(all.add(of("d", "a"), (4, 1), 4 * S).is_empty());
        assert!(all.due(11 * S).is_empty());
        assert_eq!(names(&all.due(12 * S)), [("b", [2].as_slice())]);
        assert_eq!(names(&all.all()), [("a", [4].as_slice())]);
        assert!(all.all().is_empty() && all.bytes == 0);
    }

    #[test]
    fn without_room_the_largest_goes() {
        let mut all = partitions(100, 10);
        all.add(of("d", "a"), (1, 4), S);
        all.add(of("d", "a"), (2, 3), S);
        all.add(of("d", "b"), (3, 3), S);
        let full = all.add(of("d", "b"), (4, 3), S);
        assert_eq!(names(&full), [("a", [1, 2].as_slice())]);
        assert_eq!(all.bytes, 6);
        let alone = all.add(of("d", "b"), (5, 50), S);
        assert_eq!(names(&alone), [("b", [3, 4, 5].as_slice())]);
    }

    #[test]
    fn threat_68_names_that_peers_make_up_share_one_place() {
        let mut all = partitions(1000, 1_000_000);
        for number in 0..100 {
            all.add(of("d", &format!("n{number}.example")), (number, 1), S);
        }
        assert_eq!(all.growing.len(), 3);
        assert_eq!((all.take_diverted(), all.take_diverted()), (98, 0));
        // A partition that is there goes on growing.
        all.add(of("d", "n1.example"), (100, 1), S);
        assert_eq!(all.take_diverted(), 0);
        // Days cannot be made up for ever either.
        let mut complete = Vec::new();
        for day in 0..50 {
            complete.extend(all.add(of(&day.to_string(), "x.example"), (day, 1), 2 * S));
        }
        assert_eq!(all.growing.len(), 2 + SPARE);
        let rest = all.all();
        let rows: usize = complete
            .iter()
            .chain(&rest)
            .map(|(_, rows)| rows.len())
            .sum();
        assert_eq!(rows, 151);
    }
}
