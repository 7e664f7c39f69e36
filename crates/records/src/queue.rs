//! The engine of a pump: what waits, what is on its way, when to try again. Takes the time and the
//! jitter as arguments.

use core::time::Duration;
use std::collections::VecDeque;

use sdk::OutletStats;

/// What a pump may hold, and how it tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most items that wait.
    pub items: usize,
    /// Most bytes of items that wait.
    pub bytes: usize,
    /// Most items handed over at once.
    pub batch: usize,
    /// Most bytes handed over at once; one item that is larger goes alone.
    pub batch_bytes: usize,
    /// How long the first items of a batch wait for more, unless the batch is full.
    pub linger: Duration,
    /// The pause after the first failure; it doubles with each further one.
    pub pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// Attempts after which an item is given up.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            items: 65_536,
            bytes: 64 << 20,
            batch: 500,
            batch_bytes: 4 << 20,
            linger: Duration::from_secs(1),
            pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            attempts: 10,
        }
    }
}

/// What became of a batch, and of items of earlier ones that were not reported on yet.
#[derive(Debug)]
pub struct Report<T> {
    /// Items that are where they belong.
    pub written: usize,
    /// Items that will never be taken.
    pub refused: usize,
    /// Items to be tried again.
    pub failed: Vec<T>,
    /// Items that whoever took them has tried once more by himself.
    pub retried: usize,
    /// Items put with others, because there was no place of their own.
    pub diverted: usize,
    /// What went wrong, for the log.
    pub error: Option<String>,
}

impl<T> Default for Report<T> {
    fn default() -> Self {
        Self {
            written: 0,
            refused: 0,
            failed: Vec::new(),
            retried: 0,
            diverted: 0,
            error: None,
        }
    }
}

impl<T> Report<T> {
    /// So many items are written.
    #[must_use]
    pub fn written(written: usize) -> Self {
        Self {
            written,
            ..Self::default()
        }
    }

    /// Nothing of the batch was taken; all of it is to be tried again.
    #[must_use]
    pub fn failed(batch: Vec<T>, error: impl Into<String>) -> Self {
        Self {
            failed: batch,
            error: Some(error.into()),
            ..Self::default()
        }
    }
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    bytes: usize,
    since: Duration,
}

/// A batch on its way.
#[derive(Debug)]
struct Sent {
    since: Duration,
    /// The size of each item is not known any more; the mean serves those that come back.
    mean_bytes: usize,
}

/// Items on their way out.
#[derive(Debug)]
pub struct Queue<T> {
    limits: Limits,
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// Items that failed, which go before all others.
    again: VecDeque<Waiting<T>>,
    /// Attempts that the items in `again` have had.
    attempts: u32,
    not_before: Duration,
    sent: Option<Sent>,
    /// Items handed over and not reported on.
    inside: u64,
    /// Since when the oldest of those is there.
    inside_since: Option<Duration>,
    closed: bool,
    /// What was on its way has been counted.
    given_up: bool,
    stats: OutletStats,
}

impl<T> Queue<T> {
    /// Nothing waits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            waiting: VecDeque::new(),
            bytes: 0,
            again: VecDeque::new(),
            attempts: 0,
            not_before: Duration::ZERO,
            sent: None,
            inside: 0,
            inside_since: None,
            closed: false,
            given_up: false,
            stats: OutletStats::default(),
        }
    }

    /// Adds an item that takes `bytes`; one for which there is no room is dropped and counted. Says
    /// whether it was added.
    pub fn push(&mut self, item: T, bytes: usize, now: Duration) -> bool {
        self.stats.taken += 1;
        let has_room = !self.closed
            && self.waiting() < self.limits.items
            && self.bytes.saturating_add(bytes) <= self.limits.bytes;
        if has_room {
            self.bytes += bytes;
            self.waiting.push_back(Waiting {
                item,
                bytes,
                since: now,
            });
        } else {
            self.stats.dropped += 1;
        }
        has_room
    }

    /// Counts an item that could not even be made.
    pub fn drop_one(&mut self) {
        self.stats.taken += 1;
        self.stats.dropped += 1;
    }

    /// The next batch, if it is time for one. Follow it with [`Queue::report`].
    pub fn take(&mut self, now: Duration) -> Option<Vec<T>> {
        if self.sent.is_some() || self.due()? > now {
            return None;
        }
        let from = if self.again.is_empty() {
            self.attempts = 0;
            &mut self.waiting
        } else {
            self.stats.retried += self.again.len().min(self.limits.batch) as u64;
            &mut self.again
        };
        let since = from.front()?.since;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = from.front() {
            let is_full = batch.len() >= self.limits.batch
                || (!batch.is_empty() && bytes + next.bytes > self.limits.batch_bytes);
            if is_full {
                break;
            }
            if let Some(next) = from.pop_front() {
                bytes += next.bytes;
                batch.push(next.item);
            }
        }
        self.bytes -= bytes;
        self.inside += batch.len() as u64;
        self.inside_since.get_or_insert(since);
        self.sent = Some(Sent {
            since,
            mean_bytes: bytes / batch.len().max(1),
        });
        Some(batch)
    }

    /// What became of the batch that was taken last, or, between batches, of items that whoever took
    /// them had kept back. `jitter`, from 0 to 1, spreads the next attempt.
    pub fn report(&mut self, report: Report<T>, jitter: f64, now: Duration) {
        if self.given_up {
            return;
        }
        let sent = self.sent.take();
        let (written, refused) = (report.written as u64, report.refused as u64);
        let failed = report.failed.len() as u64;
        self.inside = self.inside.saturating_sub(written + refused + failed);
        if self.inside == 0 {
            self.inside_since = None;
        } else if written > 0 {
            self.inside_since = sent.as_ref().map(|sent| sent.since).or(Some(now));
        }
        self.stats.written += written;
        self.stats.failed += refused;
        self.stats.retried += report.retried as u64;
        self.stats.diverted += report.diverted as u64;
        if report.error.is_some() || refused > 0 || failed > 0 {
            self.stats.errors += 1;
        }
        if report.failed.is_empty() {
            if self.again.is_empty() {
                self.attempts = 0;
            }
            return;
        }
        self.attempts += 1;
        if self.attempts >= self.limits.attempts {
            self.stats.failed += failed;
            self.attempts = 0;
            return;
        }
        let (since, bytes) = sent.map_or((now, 0), |sent| (sent.since, sent.mean_bytes));
        for item in report.failed.into_iter().rev() {
            self.bytes += bytes;
            self.again.push_front(Waiting { item, bytes, since });
        }
        let doublings = self.attempts.saturating_sub(1).min(20);
        let doubled = self.limits.pause.saturating_mul(1 << doublings);
        let pause = doubled.min(self.limits.longest_pause);
        // Half of it for certain, so that appliances that failed together do not return together.
        self.not_before = now + pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0);
    }

    /// When [`Queue::take`] has something; `None` while there is nothing.
    #[must_use]
    pub fn due(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(self.not_before);
        }
        let oldest = self.waiting.front()?.since;
        let is_full =
            self.waiting.len() >= self.limits.batch || self.bytes >= self.limits.batch_bytes;
        Some(if is_full || self.closed {
            Duration::ZERO
        } else {
            oldest + self.limits.linger
        })
    }

    /// Nothing more is taken, and nothing waits for company.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing waits and nothing will; something may still be kept back by whoever took it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.closed && self.waiting() == 0 && self.sent.is_none()
    }

    /// Items that wait to be handed over.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len() + self.again.len()
    }

    /// Counts all that is left as failed: there is no more time.
    pub fn give_up(&mut self) {
        (self.closed, self.given_up) = (true, true);
        let left = self.waiting() as u64 + self.inside;
        self.stats.failed += left;
        self.waiting.clear();
        self.again.clear();
        (self.bytes, self.inside, self.sent, self.inside_since) = (0, 0, None, None);
    }

    /// The numbers.
    #[must_use]
    pub fn stats(&self, now: Duration) -> OutletStats {
        let since = [&self.waiting, &self.again]
            .into_iter()
            .filter_map(|queue| queue.front().map(|first| first.since))
            .chain(self.inside_since)
            .min();
        OutletStats {
            waiting: self.waiting() as u64 + self.inside,
            waiting_bytes: self.bytes as u64,
            lag: since.map_or(Duration::ZERO, |since| now.saturating_sub(since)),
            ..self.stats
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn limits() -> Limits {
        Limits {
            items: 10,
            bytes: 1000,
            batch: 4,
            batch_bytes: 100,
            linger: S,
            pause: S,
            longest_pause: 8 * S,
            attempts: 3,
        }
    }

    fn adds_up(queue: &Queue<u32>, now: Duration) -> OutletStats {
        let stats = queue.stats(now);
        assert_eq!(
            stats.taken,
            stats.written + stats.dropped + stats.failed + stats.waiting,
            "{stats:?}"
        );
        stats
    }

    #[test]
    fn a_batch_is_full_or_has_waited() {
        let mut queue = Queue::new(limits());
        for number in 0..3 {
            assert!(queue.push(number, 10, S));
        }
        assert_eq!(queue.take(S), None);
        assert_eq!(queue.due(), Some(2 * S));
        queue.push(3, 10, S);
        assert_eq!(queue.take(S), Some(vec![0, 1, 2, 3]));
        queue.push(4, 10, 2 * S);
        assert_eq!(queue.take(9 * S), None, "one batch at a time");
        queue.report(Report::written(4), 0.0, 2 * S);
        assert_eq!(queue.take(3 * S), Some(vec![4]));
        assert_eq!(adds_up(&queue, 5 * S).lag, 3 * S);
    }

    #[test]
    fn a_batch_ends_before_it_is_too_heavy_and_a_heavy_item_goes_alone() {
        let mut queue = Queue::new(limits());
        for (number, bytes) in [(0, 60), (1, 60), (2, 500), (3, 1)] {
            assert!(queue.push(number, bytes, S));
        }
        for expected in [vec![0], vec![1], vec![2], vec![3]] {
            let batch = queue.take(9 * S).unwrap();
            assert_eq!(batch, expected);
            queue.report(Report::written(1), 0.0, 9 * S);
        }
        assert_eq!(adds_up(&queue, 9 * S).waiting_bytes, 0);
    }

    #[test]
    fn threat_34_what_does_not_fit_is_dropped_and_counted() {
        let mut queue = Queue::new(limits());
        let taken = (0..15).filter(|number| queue.push(*number, 1, S)).count();
        assert_eq!((taken, queue.push(99, 1, S)), (10, false));
        let stats = adds_up(&queue, S);
        assert_eq!((stats.waiting, stats.dropped), (10, 6));
        let mut queue = Queue::new(limits());
        assert!(queue.push(0, 900, S) && !queue.push(1, 101, S) && queue.push(2, 100, S));
        adds_up(&queue, S);
    }

    #[test]
    fn only_failed_items_are_tried_again_later_and_later_and_given_up() {
        let mut queue = Queue::new(limits());
        for number in 0..4 {
            queue.push(number, 10, S);
        }
        let mut now = S;
        let mut batch = queue.take(now).unwrap();
        let mut pauses = Vec::new();
        loop {
            // Number 2 is never taken.
            let written = batch.iter().filter(|number| **number != 2).count();
            let report = Report {
                written,
                failed: vec![2],
                error: Some("busy".into()),
                ..Report::default()
            };
            queue.report(report, 1.0, now);
            adds_up(&queue, now);
            let Some(due) = queue.due() else { break };
            assert_eq!(queue.take(now), None);
            pauses.push(due - now);
            now = due;
            batch = queue.take(now).unwrap();
            assert_eq!(batch, [2]);
        }
        assert_eq!(pauses, [S, 2 * S]);
        let stats = adds_up(&queue, now);
        assert_eq!((stats.written, stats.failed, stats.retried), (3, 1, 2));
    }

    #[test]
    fn items_that_are_kept_back_are_reported_on_later() {
        let mut queue = Queue::new(limits());
        for number in 0..4 {
            queue.push(number, 10, S);
        }
        queue.take(S).unwrap();
        queue.report(Report::default(), 0.0, S);
        assert_eq!(adds_up(&queue, 4 * S).lag, 3 * S);
        assert_eq!(queue.waiting(), 0);
        queue.report(Report::written(4), 0.0, 5 * S);
        let stats = adds_up(&queue, 5 * S);
        assert_eq!((stats.written, stats.lag), (4, Duration::ZERO));
    }

    #[test]
    fn what_is_left_at_the_end_is_counted_once() {
        let mut queue = Queue::new(limits());
        for number in 0..6 {
            queue.push(number, 10, S);
        }
        let batch = queue.take(S).unwrap();
        queue.close();
        assert!(!queue.push(9, 1, S));
        queue.give_up();
        queue.report(Report::written(batch.len()), 0.0, S);
        let stats = adds_up(&queue, S);
        assert_eq!((stats.failed, stats.written, stats.waiting), (6, 0, 0));
    }

    /// An hour with a receiver that is down half of the time: what waits stays within its limits, and
    /// the counts add up at every step.
    #[test]
    fn threat_34_an_hour_with_outages_loses_only_what_is_counted() {
        let mut queue = Queue::new(Limits {
            items: 1000,
            bytes: 100_000,
            batch: 100,
            batch_bytes: 100_000,
            attempts: u32::MAX,
            ..limits()
        });
        let (mut delivered, mut random) = (0_u64, 12345_u64);
        let mut next = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            (random >> 33) % below
        };
        let tick = Duration::from_millis(10);
        let mut now = S;
        let mut number = 0;
        while now < 3600 * S {
            for _ in 0..next(4) {
                number += 1;
                queue.push(number, 100, now);
            }
            let is_up = (now.as_secs() / 60).is_multiple_of(2);
            if let Some(mut batch) = queue.take(now) {
                let report = if is_up {
                    let failed = batch.split_off(batch.len() - next(2) as usize);
                    delivered += batch.len() as u64;
                    let error = (!failed.is_empty()).then(|| "some".to_owned());
                    let written = batch.len();
                    Report {
                        written,
                        failed,
                        error,
                        ..Report::default()
                    }
                } else {
                    Report::failed(batch, "down")
                };
                queue.report(report, 0.5, now);
            }
            let stats = adds_up(&queue, now);
            assert!(stats.waiting <= 1100 && stats.waiting_bytes <= 110_000);
            now += tick;
        }
        queue.close();
        while let Some(due) = queue.due() {
            now = now.max(due);
            let Some(batch) = queue.take(now) else { break };
            delivered += batch.len() as u64;
            queue.report(Report::written(batch.len()), 0.5, now);
        }
        let stats = adds_up(&queue, now);
        assert_eq!((stats.waiting, stats.written), (0, delivered));
        assert!(stats.dropped > 0 && stats.failed == 0 && stats.written > 10_000);
        assert_eq!(stats.taken, u64::from(number));
    }
}
