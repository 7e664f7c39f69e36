//! How much memory all that waits to be archived may take, together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that several holders share.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Room for `limit` bytes.
    #[must_use]
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    fn take(&self, bytes: usize) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let after = used.checked_add(bytes)?;
                (after <= self.limit).then_some(after)
            });
        taken.is_ok()
    }
}

/// Bytes that a share takes at once, where there are so many: all threads count in one place, and to meet
/// there for each piece of an entry costs more than a little room.
const STEP: usize = 4096;

/// Bytes of a [`Budget`] that one entry holds; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    bytes: usize,
    /// Bytes taken from the budget: those and what is left of the last step.
    taken: usize,
}

impl Share {
    /// Holds nothing yet.
    #[must_use]
    pub(crate) fn of(budget: &Arc<Budget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
            taken: 0,
        }
    }

    /// A share of the same budget that holds nothing.
    #[must_use]
    pub(crate) fn another(&self) -> Self {
        Self::of(&self.budget)
    }

    /// Holds `bytes` more; `false`, and nothing changes, when there is no room for them.
    #[must_use]
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let Some(wanted) = self.bytes.checked_add(bytes) else {
            return false;
        };
        if let Some(more) = wanted.checked_sub(self.taken).filter(|more| *more > 0) {
            let steps = [more.checked_next_multiple_of(STEP).unwrap_or(more), more];
            let Some(step) = steps.into_iter().find(|step| self.budget.take(*step)) else {
                return false;
            };
            self.taken += step;
        }
        self.bytes = wanted;
        true
    }

    /// Holds `bytes` from now on, whatever was held; says whether there is room for them. If not, it
    /// holds them all the same: they are there.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        self.bytes = bytes;
        // Half of it may be left over.
        if (bytes..=bytes.saturating_mul(2)).contains(&self.taken) {
            return self.budget.used.load(Ordering::Relaxed) <= self.budget.limit;
        }
        let used = match bytes.checked_sub(self.taken) {
            Some(more) => self.budget.used.fetch_add(more, Ordering::Relaxed) + more,
            None => self
                .budget
                .used
                .fetch_sub(self.taken - bytes, Ordering::Relaxed),
        };
        self.taken = bytes;
        used <= self.budget.limit
    }

    /// Bytes that are held.
    #[must_use]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(budget: &Budget) -> usize {
        budget.used.load(Ordering::Relaxed)
    }

    #[test]
    fn shares_never_exceed_the_budget_and_come_back() {
        let budget = Budget::new(10);
        let (mut one, mut other) = (Share::of(&budget), Share::of(&budget));
        assert!(one.grow(6) && !other.grow(5) && other.grow(4));
        assert!(!one.grow(1) && !one.grow(usize::MAX));
        assert_eq!((one.bytes(), other.bytes(), used(&budget)), (6, 4, 10));
        drop(one);
        assert!(other.grow(6));
        assert!(other.set(3) && used(&budget) == 3);
        assert!(other.set(10) && !other.set(12));
        assert_eq!((other.bytes(), used(&budget)), (12, 12));
        let mut third = Share::of(&budget);
        assert!(!third.grow(1));
        let mut greedy = Share::of(&budget);
        assert!(
            !greedy.set(12) && !other.set(12),
            "it is another's, and no room all the same"
        );
        drop((other, greedy));
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn pieces_of_an_entry_are_counted_together() {
        let budget = Budget::new(2 * STEP + 1);
        let mut share = Share::of(&budget);
        assert!(share.grow(1) && share.grow(STEP - 1));
        assert_eq!((share.bytes(), used(&budget)), (STEP, STEP));
        assert!(share.grow(STEP) && share.grow(1) && !share.grow(1));
        assert_eq!(share.bytes(), used(&budget));
        // What is left of it is less than what it is.
        assert!(share.set(STEP + 1) && used(&budget) == 2 * STEP + 1);
        assert!(share.set(STEP) && used(&budget) == STEP);
    }
}
