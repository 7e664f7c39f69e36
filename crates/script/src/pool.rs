//! The threads on which functions run, beside those that carry packets.
//!
//! The engine can be interrupted between two steps of a script, but not within one: `new
//! Array(1e9) + ''` is one step and takes a minute. A watchdog therefore looks at the threads, tells
//! the exchange of a call that does not come back that it failed, and gives its thread up: the thread
//! ends when the step does, and another takes its place meanwhile. Threads that were given up are
//! few at any time, and a function that holds two of them is not called any more until one is back.

use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::engine::{Call, Done, Realm, thread_time};
use crate::fault::Fault;
use crate::function::{Inner, Loaded, NATIVE_STACK};
use crate::program::Entry;

/// Most threads that run scripts at once; fewer on small machines.
const MOST_THREADS: usize = 8;
/// Most threads given up and not back yet; further ones get no replacement.
const MOST_GIVEN_UP: usize = 8;
/// Threads that one function may hold in that state before it is no longer called.
const MOST_STUCK: usize = 2;
/// Most calls that wait for a thread.
const MOST_WAITING: usize = 1024;
/// Most answers that are handed over together, and the longest that the first of them waits while the
/// thread goes on with calls of functions that are quick. Each time somebody is woken costs as much as a
/// call of a small function.
const MOST_HELD: usize = 16;
const LONGEST_HELD: Duration = Duration::from_micros(100);
/// A function whose calls take longer is not quick.
const QUICK: Duration = Duration::from_micros(50);
/// How long calls of quick functions may have to wait for those before them until one more thread is woken,
/// and how many of them. A thread more has caches of its own to fill, and takes the processor from whoever
/// else is at work on the same packets.
const BACKLOG: Duration = Duration::from_micros(200);
const MOST_BACKLOG: u128 = 16;
/// Longest wait for a thread.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// How often the watchdog looks while something runs, and while nothing does.
const BUSY_TICK: Duration = Duration::from_millis(10);
const IDLE_TICK: Duration = Duration::from_millis(200);
/// How often files are looked at.
const FILES_TICK: Duration = Duration::from_secs(1);
/// Stack for scripts, at most: [`crate::Limits::stack`] is checked against it.
pub(crate) const MAX_STACK: usize = 4 << 20;

/// What the threads for scripts do, all functions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Threads that take calls.
    pub threads: usize,
    /// Threads given up and not back yet.
    pub given_up: usize,
    /// Calls that wait for a thread.
    pub waiting: usize,
    /// Calls made since the start.
    pub calls: u64,
    /// Processor time of the threads that make them.
    pub cpu: Duration,
    /// Functions read again because a file changed.
    pub reloads: u64,
    /// Functions not read again because the changed file is broken.
    pub reload_failures: u64,
    /// Key value stores in AWS that were read, changed or not.
    pub store_reads: u64,
    /// Key value stores in AWS that could not be read.
    pub store_failures: u64,
}

#[derive(Debug)]
struct Job {
    function: Arc<Inner>,
    call: Call,
    answer: oneshot::Sender<Done>,
    since: Instant,
}

/// What a thread is at.
#[derive(Debug)]
struct Current {
    since: Instant,
    function: Arc<Inner>,
    answer: oneshot::Sender<Done>,
}

/// What a thread is at, and what it has not handed over yet.
#[derive(Debug, Default)]
struct At {
    current: Option<Current>,
    /// Answers that wait for those after them: whoever is woken for one takes all.
    held: Vec<(oneshot::Sender<Done>, Done)>,
    held_since: Option<Instant>,
}

impl At {
    fn hand_over(&mut self) {
        self.held_since = None;
        for (answer, done) in self.held.drain(..) {
            // Nobody may be waiting any more.
            let _ = answer.send(done);
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.held.len() >= MOST_HELD
            || self
                .held_since
                .is_some_and(|since| now.duration_since(since) >= LONGEST_HELD)
    }
}

#[derive(Debug, Default)]
struct Worker {
    at: Mutex<At>,
    given_up: Arc<AtomicBool>,
    /// Processor time that it has used.
    cpu_nanoseconds: AtomicU64,
}

#[derive(Debug, Default)]
struct Jobs {
    waiting: VecDeque<Job>,
    /// Threads that have nothing to do. The last one is woken first: what it works with is still near the
    /// processor.
    idle: Vec<Thread>,
    /// Somebody is about to wake one of them.
    is_promised: bool,
}

#[derive(Debug, Default)]
struct Pool {
    jobs: Mutex<Jobs>,
    workers: Mutex<Vec<Arc<Worker>>>,
    live: AtomicUsize,
    given_up: AtomicUsize,
    /// Threads in a call of a function that is not quick, given up or not.
    slow: AtomicUsize,
    calls: AtomicU64,
    /// Processor time of threads that were given up.
    cpu_nanoseconds: AtomicU64,
}

static POOL: OnceLock<Arc<Pool>> = OnceLock::new();
/// Functions whose files are looked at. Apart from the pool: reading a configuration starts no thread.
static WATCHED: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());
/// Reloads of functions that are gone.
static RELOADS: AtomicU64 = AtomicU64::new(0);
static RELOAD_FAILURES: AtomicU64 = AtomicU64::new(0);
static STORE_READS: AtomicU64 = AtomicU64::new(0);
static STORE_FAILURES: AtomicU64 = AtomicU64::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks at the files of a function from here on, for as long as it lives.
pub(crate) fn watch(function: &Arc<Inner>) {
    let mut watched = lock(&WATCHED);
    watched.retain(|one| one.strong_count() > 0);
    watched.push(Arc::downgrade(function));
}

/// What the threads for scripts do.
#[must_use]
pub fn stats() -> PoolStats {
    let mut stats = PoolStats {
        reloads: RELOADS.load(Ordering::Relaxed),
        reload_failures: RELOAD_FAILURES.load(Ordering::Relaxed),
        store_reads: STORE_READS.load(Ordering::Relaxed),
        store_failures: STORE_FAILURES.load(Ordering::Relaxed),
        ..PoolStats::default()
    };
    if let Some(pool) = POOL.get() {
        stats.threads = pool.live.load(Ordering::Relaxed);
        stats.given_up = pool.given_up.load(Ordering::Relaxed);
        stats.waiting = lock(&pool.jobs).waiting.len();
        stats.calls = pool.calls.load(Ordering::Relaxed);
        let mut cpu = pool.cpu_nanoseconds.load(Ordering::Relaxed);
        for worker in &*lock(&pool.workers) {
            cpu = cpu.saturating_add(worker.cpu_nanoseconds.load(Ordering::Relaxed));
        }
        stats.cpu = Duration::from_nanos(cpu);
    }
    stats
}

pub(crate) fn count_reload(is_success: bool) {
    let counter = if is_success {
        &RELOADS
    } else {
        &RELOAD_FAILURES
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn count_store(is_success: bool) {
    let counter = if is_success {
        &STORE_READS
    } else {
        &STORE_FAILURES
    };
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Starts the threads, if there is a function to call: whoever serves traffic begins with it, so that
/// files and stores are looked at from then on.
pub fn start() {
    let has_functions = lock(&WATCHED).iter().any(|one| one.strong_count() > 0);
    if has_functions {
        POOL.get_or_init(Pool::start);
    }
}

pub(crate) async fn call(function: &Arc<Inner>, call: Call) -> Done {
    match submit(function, call) {
        Ok((answer, promise)) => {
            if promise.is_some() {
                // Who else is ready on this thread may have a call, too.
                tokio::task::yield_now().await;
                drop(promise);
            }
            answer
                .await
                .unwrap_or_else(|_| Done::failed(Fault::Overloaded))
        }
        Err(fault) => Done::failed(fault),
    }
}

pub(crate) fn call_and_wait(function: &Arc<Inner>, call: Call) -> Done {
    match submit(function, call) {
        Ok((answer, promise)) => {
            drop(promise);
            answer
                .blocking_recv()
                .unwrap_or_else(|_| Done::failed(Fault::Overloaded))
        }
        Err(fault) => Done::failed(fault),
    }
}

/// Wakes a thread when it is dropped, if none has come by then.
struct Promise(Arc<Pool>);

impl Drop for Promise {
    fn drop(&mut self) {
        let wanted = {
            let mut jobs = lock(&self.0.jobs);
            let is_wanted = jobs.is_promised && !jobs.waiting.is_empty();
            jobs.is_promised = false;
            is_wanted.then(|| jobs.idle.pop()).flatten()
        };
        wake(wanted);
    }
}

fn wake(thread: Option<Thread>) {
    if let Some(thread) = thread {
        thread.unpark();
    }
}

fn submit(
    function: &Arc<Inner>,
    call: Call,
) -> Result<(oneshot::Receiver<Done>, Option<Promise>), Fault> {
    let pool = POOL.get_or_init(Pool::start);
    let is_stuck = function.stuck.load(Ordering::Relaxed) >= MOST_STUCK;
    let live = pool.live.load(Ordering::Relaxed);
    if is_stuck || live == 0 {
        return Err(Fault::Overloaded);
    }
    let (answer, answered) = oneshot::channel();
    let job = Job {
        function: Arc::clone(function),
        call,
        answer,
        since: Instant::now(),
    };
    let backlog = backlog(function.pace(), pool.slow.load(Ordering::Relaxed));
    let mut promise = None;
    let wanted = {
        let mut jobs = lock(&pool.jobs);
        if jobs.waiting.len() >= MOST_WAITING {
            return Err(Fault::Overloaded);
        }
        jobs.waiting.push_back(job);
        if jobs.waiting.len() > backlog {
            jobs.is_promised = false;
            jobs.idle.pop()
        } else {
            if jobs.idle.len() >= live && !jobs.is_promised {
                jobs.is_promised = true;
                promise = Some(Promise(Arc::clone(pool)));
            }
            // A thread that is at work takes the next call by itself, most of the time before another
            // would have woken up. If it does not, the watchdog wakes one.
            None
        }
    };
    wake(wanted);
    Ok((answered, promise))
}

/// Calls that may wait before one more thread is woken: calls of a function that takes `pace`, while `slow`
/// threads are at something that takes longer than all of them.
fn backlog(pace: Duration, slow: usize) -> usize {
    if pace > QUICK || slow > 0 {
        return 1;
    }
    (BACKLOG.as_nanos() / pace.as_nanos().max(1)).min(MOST_BACKLOG) as usize
}

impl Pool {
    fn start() -> Arc<Self> {
        let pool = Arc::new(Self::default());
        let watchdog = Arc::clone(&pool);
        pool.fill();
        let started = thread::Builder::new()
            .name("script-watchdog".to_owned())
            // It compiles files that have changed, on a thread of their own.
            .spawn(move || watchdog.watch());
        if let Err(error) = started {
            tracing::error!(%error, "no watchdog for scripts: none is called");
            pool.live.store(0, Ordering::Relaxed);
        }
        pool
    }

    /// Starts threads until there are as many as there should be.
    fn fill(self: &Arc<Self>) {
        let wanted = thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, MOST_THREADS);
        while self.live.load(Ordering::Relaxed) < wanted
            && self.given_up.load(Ordering::Relaxed) <= MOST_GIVEN_UP
        {
            let worker = Arc::new(Worker::default());
            let (pool, own) = (Arc::clone(self), Arc::clone(&worker));
            let started = thread::Builder::new()
                .name("script".to_owned())
                .stack_size(MAX_STACK + NATIVE_STACK)
                .spawn(move || pool.work(&own));
            if let Err(error) = started {
                tracing::error!(%error, "cannot start a thread for scripts");
                return;
            }
            lock(&self.workers).push(worker);
            self.live.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn next_job(&self, worker: &Worker) -> Job {
        let mut has_handed_over = false;
        let mut jobs = lock(&self.jobs);
        loop {
            if let Some(job) = jobs.waiting.pop_front() {
                return job;
            }
            if !std::mem::replace(&mut has_handed_over, true) {
                drop(jobs);
                lock(&worker.at).hand_over();
                jobs = lock(&self.jobs);
                continue;
            }
            let this = thread::current();
            jobs.idle.push(this.clone());
            drop(jobs);
            thread::park();
            jobs = lock(&self.jobs);
            // It may have woken up by itself.
            jobs.idle.retain(|idle| idle.id() != this.id());
        }
    }

    fn work(&self, worker: &Worker) {
        let mut realms = Realms::default();
        loop {
            let Job {
                function,
                call,
                answer,
                ..
            } = self.next_job(worker);
            if answer.is_closed() {
                // The exchange is gone.
                continue;
            }
            let since = Instant::now();
            let is_slow = function.pace() > QUICK;
            {
                let mut at = lock(&worker.at);
                if is_slow || at.is_due(since) {
                    at.hand_over();
                }
                at.current = Some(Current {
                    since,
                    function: Arc::clone(&function),
                    answer,
                });
            }
            self.slow.fetch_add(usize::from(is_slow), Ordering::Relaxed);
            let called = std::panic::catch_unwind(AssertUnwindSafe(|| {
                realms.call(&function, &call, worker)
            }));
            self.slow.fetch_sub(usize::from(is_slow), Ordering::Relaxed);
            let done = called.unwrap_or_else(|_| {
                tracing::error!(function = %function.name(), "the engine panicked");
                realms = Realms::default();
                Done::failed(Fault::Thrown("the engine panicked".to_owned()))
            });
            self.calls.fetch_add(1, Ordering::Relaxed);
            let cpu = u64::try_from(thread_time().as_nanos()).unwrap_or(u64::MAX);
            let counted = worker.cpu_nanoseconds.swap(cpu, Ordering::Relaxed);
            let now = Instant::now();
            function.took(now.duration_since(since));
            let mut at = lock(&worker.at);
            let Some(current) = at.current.take() else {
                drop(at);
                // Given up, and replaced; what it had used before was counted then.
                self.cpu_nanoseconds
                    .fetch_add(cpu.saturating_sub(counted), Ordering::Relaxed);
                function.stuck.fetch_sub(1, Ordering::Relaxed);
                self.given_up.fetch_sub(1, Ordering::Relaxed);
                tracing::info!(function = %function.name(), "a thread that was given up is back, and ends");
                return;
            };
            at.held.push((current.answer, done));
            at.held_since.get_or_insert(now);
        }
    }

    /// Gives up threads that do not come back, and looks at files.
    fn watch(self: &Arc<Self>) {
        let mut files_due = Instant::now();
        loop {
            let is_busy = self.look();
            self.fill();
            if Instant::now() >= files_due {
                let watched: Vec<_> = lock(&WATCHED).iter().filter_map(Weak::upgrade).collect();
                for function in &watched {
                    function.look_at_files();
                    function.look_at_stores();
                }
                files_due = Instant::now() + FILES_TICK;
            }
            thread::sleep(if is_busy { BUSY_TICK } else { IDLE_TICK });
        }
    }

    /// Whether anything runs.
    fn look(&self) -> bool {
        let mut is_busy = false;
        let mut lost = Vec::new();
        lock(&self.workers).retain(|worker| {
            let mut at = lock(&worker.at);
            if at.is_due(Instant::now()) {
                at.hand_over();
            }
            let late = at.current.take_if(|current| {
                is_busy = true;
                current.since.elapsed() >= current.function.settings.limits.give_up
            });
            let Some(late) = late else {
                return true;
            };
            // The engine looks at it where it can.
            worker.given_up.store(true, Ordering::Relaxed);
            let cpu = worker.cpu_nanoseconds.load(Ordering::Relaxed);
            self.cpu_nanoseconds.fetch_add(cpu, Ordering::Relaxed);
            lost.push(late);
            false
        });
        for Current {
            function, answer, ..
        } in lost
        {
            let limit = function.settings.limits.give_up;
            tracing::warn!(function = %function.name(), ?limit, "a call did not come back, its thread is given up");
            function.stuck.fetch_add(1, Ordering::Relaxed);
            self.given_up.fetch_add(1, Ordering::Relaxed);
            self.live.fetch_sub(1, Ordering::Relaxed);
            // Nobody may be waiting any more.
            let _ = answer.send(Done::failed(Fault::Stuck(limit)));
        }
        let mut jobs = lock(&self.jobs);
        while jobs
            .waiting
            .front()
            .is_some_and(|job| job.since.elapsed() > LONGEST_WAIT)
        {
            if let Some(job) = jobs.waiting.pop_front() {
                let _ = job.answer.send(Done::failed(Fault::Overloaded));
            }
        }
        let has_waiting = !jobs.waiting.is_empty();
        let wanted = has_waiting.then(|| jobs.idle.pop()).flatten();
        drop(jobs);
        wake(wanted);
        is_busy || has_waiting
    }
}

/// The realms of one thread.
#[derive(Default)]
struct Realms {
    by_function: HashMap<u64, (Weak<Inner>, Arc<Loaded>, Realm)>,
}

impl Realms {
    fn call(&mut self, function: &Arc<Inner>, call: &Call, worker: &Worker) -> Done {
        let loaded = function.loaded.load();
        let is_current = self
            .by_function
            .get(&function.id)
            .is_some_and(|(_, known, _)| Arc::ptr_eq(known, &loaded));
        if !is_current {
            self.by_function
                .retain(|_, (function, _, _)| function.strong_count() > 0);
            self.by_function.remove(&function.id);
            let made = Realm::new(
                Arc::clone(&loaded.program),
                function.settings.limits,
                Arc::clone(&worker.given_up),
            );
            match made {
                Ok(realm) => {
                    let entry = (Arc::downgrade(function), Arc::clone(&loaded), realm);
                    self.by_function.insert(function.id, entry);
                }
                Err(fault) => return Done::failed(fault),
            }
        }
        let Some((_, loaded, realm)) = self.by_function.get_mut(&function.id) else {
            return Done::failed(Fault::Overloaded);
        };
        let origins = (call.entry == Entry::ViewerRequest).then(|| Arc::clone(&function.origins));
        let done = realm.call(call, Arc::clone(&loaded.stores), origins);
        if done.fault().is_some_and(Fault::spoils_realm) {
            self.by_function.remove(&function.id);
        }
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_calls_wait_for_each_other_and_not_for_slow_ones() {
        let micros = Duration::from_micros;
        for (pace, slow, calls) in [
            (micros(0), 0, 16),
            (micros(10), 0, 16),
            (micros(20), 0, 10),
            (QUICK, 0, 4),
            (QUICK + micros(1), 0, 1),
            (micros(10), 1, 1),
        ] {
            assert_eq!(backlog(pace, slow), calls, "{pace:?}, {slow} slow");
        }
    }
}
