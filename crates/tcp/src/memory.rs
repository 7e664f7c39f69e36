//! What all connections together may hold in their buffers.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// A budget of buffer bytes that connections share.
///
/// Below three quarters buffers grow with what their paths need. From there on none grows, and
/// once the budget is used up a connection queues and promises no more than `UNDER_PRESSURE`
/// bytes beyond what it had promised already, and drops what arrives behind holes: everything
/// still moves, slowly.
#[derive(Debug)]
pub struct Memory {
    limit: usize,
    used: AtomicUsize,
}

/// Bytes that each direction of a connection may still use when the budget is used up.
pub(crate) const UNDER_PRESSURE: u32 = 16 * 1024;

impl Memory {
    /// A budget of so many bytes.
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    /// Bytes in the buffers of all connections that share the budget.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Bytes that there are.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn may_grow(&self) -> bool {
        self.used() < self.limit / 4 * 3
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.used() >= self.limit
    }

    /// A connection that held `before` bytes now holds `after`.
    pub(crate) fn change(&self, before: usize, after: usize) {
        if after > before {
            self.used.fetch_add(after - before, Relaxed);
        } else if after < before {
            self.used.fetch_sub(before - after, Relaxed);
        }
    }
}
