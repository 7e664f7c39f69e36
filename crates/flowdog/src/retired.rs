//! Outlets of configurations that were replaced: flows that began with one still feed it, and what it
//! holds is to be delivered before the process ends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sdk::Outlet;

/// Outlets that are remembered. Beyond it the oldest goes: it still delivers by itself, but the end of
/// the process does not wait for it.
const MOST: usize = 64;

/// Outlets that are no longer configured and not yet empty.
#[derive(Debug, Default)]
pub(crate) struct Retired(Mutex<Vec<Arc<dyn Outlet>>>);

impl Retired {
    /// Remembers these. Those of the configuration in force must not be among them.
    pub(crate) fn add(&self, outlets: impl IntoIterator<Item = Arc<dyn Outlet>>) {
        self.tend();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(outlets);
        let over = all.len().saturating_sub(MOST);
        if over > 0 {
            tracing::warn!(
                outlets = over,
                "the configuration is replaced faster than records are delivered: the end will not wait for all of them"
            );
            all.drain(..over);
        }
    }

    /// Lets go of those that are empty and that nobody feeds any more.
    pub(crate) fn tend(&self) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|outlet| {
            if Arc::strong_count(outlet) > 1 {
                return true;
            }
            outlet.close();
            outlet.stats().waiting > 0
        });
    }

    /// Those that are left.
    pub(crate) fn take(&self) -> Vec<Arc<dyn Outlet>> {
        core::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What outlets hold is delivered to the end, all at the same time.
pub(crate) fn finish(outlets: &[Arc<dyn Outlet>], within: Duration) {
    std::thread::scope(|scope| {
        for outlet in outlets {
            // What could not be delivered has been told.
            scope.spawn(move || outlet.finish(within));
        }
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use sdk::OutletStats;

    use super::*;

    #[derive(Debug, Default)]
    struct Fake {
        waiting: AtomicU64,
        closed: AtomicBool,
    }

    impl Outlet for Fake {
        fn stats(&self) -> OutletStats {
            OutletStats {
                waiting: self.waiting.load(Ordering::Relaxed),
                ..OutletStats::default()
            }
        }

        fn close(&self) {
            self.closed.store(true, Ordering::Relaxed);
        }

        fn finish(&self, _: Duration) -> bool {
            self.waiting.store(0, Ordering::Relaxed);
            true
        }
    }

    fn outlet(waiting: u64) -> Arc<Fake> {
        Arc::new(Fake {
            waiting: waiting.into(),
            ..Fake::default()
        })
    }

    #[test]
    fn an_outlet_is_kept_while_it_is_fed_or_holds_something() {
        let retired = Retired::default();
        let (fed, full) = (outlet(0), outlet(1));
        let count = || retired.0.lock().unwrap().len();
        retired.add([Arc::clone(&fed) as Arc<dyn Outlet>, outlet(0), outlet(2)]);
        let weak = Arc::downgrade(&full);
        retired.add([full as Arc<dyn Outlet>]);
        assert_eq!(count(), 3, "the empty one is gone");
        retired.tend();
        assert!(!fed.closed.load(Ordering::Relaxed), "a flow feeds it");
        let full = weak.upgrade().unwrap();
        assert!(full.closed.load(Ordering::Relaxed));
        full.waiting.store(0, Ordering::Relaxed);
        drop((fed, full));
        retired.tend();
        assert_eq!(count(), 1);
        let left = retired.take();
        finish(&left, Duration::ZERO);
        assert_eq!((left.len(), left[0].stats().waiting, count()), (1, 0, 0));
    }

    #[test]
    fn no_more_are_kept_than_the_limit() {
        let retired = Retired::default();
        for _ in 0..MOST * 2 {
            retired.add([outlet(1) as Arc<dyn Outlet>]);
        }
        assert_eq!(retired.take().len(), MOST);
    }
}
