//! How much processor time a call may still take.
//!
//! The processor time of a thread is a system call away, the time on the wall is not. A thread cannot use
//! more of the one than passes of the other, so that the former is asked for only when the latter is over,
//! or when the last answer is too old to begin with.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The part of a budget that may have passed since the processor time was read, when a call begins: the
/// call has to bear it.
const STALE: u32 = 16;

thread_local! {
    /// When the processor time of this thread was read, and what it was.
    static READ: Cell<Option<(Instant, Duration)>> = const { Cell::new(None) };
}

fn read() -> (Instant, Duration) {
    let cpu = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
    let read = (Instant::now(), cpu.map_or(Duration::ZERO, Duration::from));
    READ.set(Some(read));
    read
}

/// Processor time that this thread had used when it was last looked at.
pub(crate) fn thread_time() -> Duration {
    READ.get().map_or(Duration::ZERO, |(_, cpu)| cpu)
}

/// The end of a call, for the interrupt handler.
#[derive(Debug)]
pub(super) struct Budget {
    begin: Cell<(Instant, Duration)>,
    time: Cell<Duration>,
    has_fired: Cell<bool>,
    given_up: Arc<AtomicBool>,
}

impl Budget {
    pub(super) fn new(given_up: Arc<AtomicBool>) -> Self {
        Self {
            begin: Cell::new(read()),
            time: Cell::default(),
            has_fired: Cell::default(),
            given_up,
        }
    }

    /// Begins a call; a little of what was used before it may count.
    pub(super) fn begin(&self, time: Duration) {
        let known = READ
            .get()
            .filter(|(wall, _)| wall.elapsed() <= time / STALE);
        self.start(known.unwrap_or_else(read), time);
    }

    /// Begins a call of which exactly what it uses counts.
    pub(super) fn begin_exactly(&self, time: Duration) {
        self.start(read(), time);
    }

    fn start(&self, begin: (Instant, Duration), time: Duration) {
        self.begin.set(begin);
        self.time.set(time);
        self.has_fired.set(false);
    }

    /// Processor time since the beginning.
    pub(super) fn spent(&self) -> Duration {
        read().1.saturating_sub(self.begin.get().1)
    }

    pub(super) fn has_fired(&self) -> bool {
        self.has_fired.get()
    }

    /// Whether it is over; once it is, it stays so.
    pub(super) fn is_spent(&self) -> bool {
        let time = self.time.get();
        let is_spent = self.has_fired.get()
            || self.given_up.load(Ordering::Relaxed)
            || (self.begin.get().0.elapsed() >= time && self.spent() >= time);
        if is_spent {
            self.has_fired.set(true);
        }
        is_spent
    }
}
