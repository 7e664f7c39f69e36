//! The thread that delivers, and the handle that shards push into.

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use sdk::{Outlet, OutletStats};
use tokio::sync::Notify;

use crate::queue::{Limits, Queue, Report};

/// How often a receiver may look at its clock, while nothing else happens.
const TICK: Duration = Duration::from_secs(1);

/// Takes items to where they belong. Runs on a thread of its own.
#[async_trait]
pub trait Deliver<T>: Send + 'static {
    /// Takes a batch. What the report does not mention is kept back, to be reported on later.
    async fn deliver(&mut self, batch: Vec<T>) -> Report<T>;

    /// Called about once a second, and between batches: to complete what has been kept back for long
    /// enough. Reports on items of earlier batches.
    async fn tick(&mut self) -> Report<T> {
        Report::default()
    }

    /// Nothing more comes: completes what was kept back.
    async fn finish(&mut self) -> Report<T> {
        Report::default()
    }
}

/// A bounded queue with a thread behind it. Dropping it lets the thread deliver what waits and end.
pub struct Pump<T: Send + 'static> {
    shared: Arc<Shared<T>>,
    receiver: Mutex<Option<Box<dyn Deliver<T>>>>,
    start: Once,
}

struct Shared<T> {
    /// What the thread is called.
    name: String,
    queue: Mutex<Queue<T>>,
    batch: usize,
    wake: Notify,
    origin: Instant,
    has_ended: Mutex<bool>,
    ended: Condvar,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Shared<T> {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn set_ended(&self) {
        *lock(&self.has_ended) = true;
        self.ended.notify_all();
    }
}

impl<T: Send + 'static> fmt::Debug for Pump<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("name", &self.shared.name)
            .finish_non_exhaustive()
    }
}

impl<T: Send + 'static> Pump<T> {
    /// A pump to `receiver`. Starts nothing before the first item. `name` is for the thread and the log.
    pub fn new(name: &str, limits: Limits, receiver: impl Deliver<T>) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared {
                name: name.to_owned(),
                queue: Mutex::new(Queue::new(limits)),
                batch: limits.batch,
                wake: Notify::new(),
                origin: Instant::now(),
                has_ended: Mutex::new(false),
                ended: Condvar::new(),
            }),
            receiver: Mutex::new(Some(Box::new(receiver))),
            start: Once::new(),
        })
    }

    /// Adds an item that takes `bytes`, or drops and counts it. Never waits.
    pub fn push(&self, item: T, bytes: usize) -> bool {
        self.start.call_once(|| self.start_thread());
        let (is_taken, waiting) = {
            let mut queue = lock(&self.shared.queue);
            let is_taken = queue.push(item, bytes, self.shared.now());
            (is_taken, queue.waiting())
        };
        // The thread looks by itself when the first of a batch has waited long enough.
        if waiting == 1 || waiting >= self.shared.batch {
            self.shared.wake.notify_one();
        }
        is_taken
    }

    /// Counts an item that could not even be made, for want of memory for instance.
    pub fn drop_one(&self) {
        lock(&self.shared.queue).drop_one();
    }

    fn start_thread(&self) {
        let Some(receiver) = lock(&self.receiver).take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(shared.name.chars().take(15).collect())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => runtime.block_on(run(&shared, receiver)),
                    Err(error) => {
                        tracing::error!(outlet = shared.name, %error, "records cannot be delivered");
                        lock(&shared.queue).give_up();
                    }
                }
                shared.set_ended();
            });
        if let Err(error) = thread {
            tracing::error!(outlet = self.shared.name, %error, "records cannot be delivered");
            lock(&self.shared.queue).give_up();
            self.shared.set_ended();
        }
    }

    fn end(&self) {
        // From here on no thread is started; one that never was has nothing to do.
        self.start.call_once(|| self.shared.set_ended());
        lock(&self.shared.queue).close();
        self.shared.wake.notify_one();
    }
}

impl<T: Send + 'static> Outlet for Pump<T> {
    fn stats(&self) -> OutletStats {
        lock(&self.shared.queue).stats(self.shared.now())
    }

    fn close(&self) {
        self.end();
    }

    fn finish(&self, within: Duration) -> bool {
        self.end();
        let has_ended = lock(&self.shared.has_ended);
        let (has_ended, _) = self
            .shared
            .ended
            .wait_timeout_while(has_ended, within, |has_ended| !*has_ended)
            .unwrap_or_else(PoisonError::into_inner);
        if *has_ended {
            return true;
        }
        drop(has_ended);
        let left = self.stats().waiting;
        tracing::warn!(
            outlet = self.shared.name,
            items = left,
            waited = ?within,
            "records are lost: they could not be delivered in time"
        );
        lock(&self.shared.queue).give_up();
        false
    }
}

impl<T: Send + 'static> Drop for Pump<T> {
    fn drop(&mut self) {
        self.end();
    }
}

async fn run<T: Send + 'static>(shared: &Shared<T>, mut receiver: Box<dyn Deliver<T>>) {
    let mut random = SmallRng::from_os_rng();
    let mut last_tick = shared.now();
    loop {
        let batch = lock(&shared.queue).take(shared.now());
        match batch {
            Some(batch) => {
                let report = receiver.deliver(batch).await;
                take_report(shared, report, &mut random);
            }
            None if lock(&shared.queue).is_done() => break,
            None => wait(shared).await,
        }
        if shared.now().saturating_sub(last_tick) >= TICK {
            let report = receiver.tick().await;
            take_report(shared, report, &mut random);
            last_tick = shared.now();
        }
    }
    let report = receiver.finish().await;
    take_report(shared, report, &mut random);
    // What the receiver has not reported on by now is nowhere.
    lock(&shared.queue).give_up();
}

/// Until a batch is due, somebody calls, or it is time for a tick.
async fn wait<T>(shared: &Shared<T>) {
    let due = lock(&shared.queue).due();
    let pause = due.map_or(TICK, |due| due.saturating_sub(shared.now()).min(TICK));
    // Running out of time is what is waited for.
    let _ = tokio::time::timeout(pause, shared.wake.notified()).await;
}

fn take_report<T>(shared: &Shared<T>, report: Report<T>, random: &mut SmallRng) {
    if let Some(error) = &report.error {
        tracing::warn!(
            outlet = shared.name,
            error,
            refused = report.refused,
            to_repeat = report.failed.len(),
            "records not delivered"
        );
    }
    lock(&shared.queue).report(report, random.random(), shared.now());
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Keeps numbers; refuses odd ones, and all while it is down.
    struct Keeps {
        kept: Arc<Mutex<Vec<u32>>>,
        is_down: Arc<AtomicBool>,
    }

    #[async_trait]
    impl Deliver<u32> for Keeps {
        async fn deliver(&mut self, batch: Vec<u32>) -> Report<u32> {
            if self.is_down.load(Ordering::Relaxed) {
                return Report::failed(batch, "down");
            }
            let before = batch.len();
            let even: Vec<u32> = batch.into_iter().filter(|n| n % 2 == 0).collect();
            lock(&self.kept).extend(&even);
            Report {
                written: even.len(),
                refused: before - even.len(),
                ..Report::default()
            }
        }
    }

    fn pump(is_down: bool) -> (Arc<Pump<u32>>, Arc<Mutex<Vec<u32>>>, Arc<AtomicBool>) {
        let kept = Arc::default();
        let is_down = Arc::new(AtomicBool::new(is_down));
        let receiver = Keeps {
            kept: Arc::clone(&kept),
            is_down: Arc::clone(&is_down),
        };
        let limits = Limits {
            items: 100,
            pause: Duration::from_millis(5),
            attempts: u32::MAX,
            ..Limits::default()
        };
        (Pump::new("test", limits, receiver), kept, is_down)
    }

    #[test]
    fn what_was_pushed_is_delivered_before_the_end() {
        let (pump, kept, _) = pump(false);
        for number in 0..100 {
            assert!(pump.push(number, 1));
        }
        assert!(pump.finish(Duration::from_secs(60)));
        assert_eq!(*lock(&kept), (0..100).step_by(2).collect::<Vec<_>>());
        let stats = pump.stats();
        assert_eq!((stats.written, stats.failed, stats.waiting), (50, 50, 0));
        assert!(!pump.push(1, 1), "nothing is taken after the end");
    }

    #[test]
    fn threat_34_a_receiver_that_is_down_costs_records_and_time_of_nobody() {
        let (pump, kept, is_down) = pump(true);
        for number in 0..150 {
            pump.push(number * 2, 1);
        }
        assert!(!pump.finish(Duration::from_millis(50)));
        let stats = pump.stats();
        assert_eq!((stats.dropped, stats.failed), (50, 100));
        is_down.store(false, Ordering::Relaxed);
        assert!(lock(&kept).is_empty());
    }

    #[test]
    fn a_pump_that_is_dropped_delivers_what_it_has() {
        let (pump, kept, _) = pump(false);
        pump.push(2, 1);
        let shared = Arc::clone(&pump.shared);
        drop(pump);
        let ended = lock(&shared.has_ended);
        let (ended, _) = shared
            .ended
            .wait_timeout_while(ended, Duration::from_secs(60), |ended| !*ended)
            .unwrap();
        assert!(*ended);
        assert_eq!(*lock(&kept), [2]);
    }

    #[test]
    fn nothing_runs_before_the_first_item() {
        let (pump, _, _) = pump(false);
        assert!(lock(&pump.receiver).is_some());
        assert!(pump.finish(Duration::ZERO));
    }
}
