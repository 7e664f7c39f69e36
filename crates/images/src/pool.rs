//! The threads on which images are turned, beside those that carry packets.
//!
//! They are few and start with the first image. What waits for them is bounded by number and by
//! bytes; whoever finds no room, or waits too long, lets the image pass as it is.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sdk::Bytes;
use tokio::sync::oneshot;

use crate::turn::{Bounds, Fault, upside_down};

/// Most threads that turn images at once; a shard's core is not to be theirs.
const MOST_THREADS: usize = 4;
/// Most images that wait for a thread.
const MOST_WAITING: usize = 64;
/// Most bytes that wait for a thread.
const MOST_WAITING_BYTES: usize = 64 << 20;

/// What the threads for images do, all interceptors together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Threads that turn images; none before the first image.
    pub threads: usize,
    /// Images that wait for a thread.
    pub waiting: usize,
    /// Images taken up since the start.
    pub images: u64,
    /// Time the threads took for them.
    pub time: Duration,
}

#[derive(Debug)]
struct Job {
    image: Bytes,
    blur: f32,
    bounds: Bounds,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<u8>, Fault>>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Pool {
    queue: Mutex<Queue>,
    wake: Condvar,
    threads: AtomicUsize,
    images: AtomicU64,
    nanoseconds: AtomicU64,
}

static POOL: OnceLock<Pool> = OnceLock::new();

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the threads for images do.
#[must_use]
pub fn stats() -> PoolStats {
    POOL.get()
        .map_or_else(PoolStats::default, |pool| PoolStats {
            threads: pool.threads.load(Ordering::Relaxed),
            waiting: lock(&pool.queue).jobs.len(),
            images: pool.images.load(Ordering::Relaxed),
            time: Duration::from_nanos(pool.nanoseconds.load(Ordering::Relaxed)),
        })
}

/// Why an image was not turned, beyond what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No room to wait.
    Busy,
    Fault(Fault),
}

/// Turns an image on one of the threads, within `time`.
pub(crate) async fn turn(
    image: Bytes,
    blur: f32,
    bounds: Bounds,
    time: Duration,
) -> Result<Vec<u8>, Refusal> {
    static STARTED: std::sync::Once = std::sync::Once::new();
    let pool = POOL.get_or_init(Pool::default);
    STARTED.call_once(|| pool.start());
    let (answer, answered) = oneshot::channel();
    let deadline = Instant::now() + time;
    {
        let mut queue = lock(&pool.queue);
        let bytes = queue.bytes.saturating_add(image.len());
        let is_full = queue.jobs.len() >= MOST_WAITING || bytes > MOST_WAITING_BYTES;
        if is_full || pool.threads.load(Ordering::Relaxed) == 0 {
            return Err(Refusal::Busy);
        }
        queue.bytes = bytes;
        queue.jobs.push_back(Job {
            image,
            blur,
            bounds,
            deadline,
            answer,
        });
    }
    pool.wake.notify_one();
    // A picture is one step for its decoder: the thread may take longer than anybody waits.
    match tokio::time::timeout(time, answered).await {
        Ok(Ok(result)) => result.map_err(Refusal::Fault),
        Ok(Err(_)) | Err(_) => Err(Refusal::Fault(Fault::TooSlow)),
    }
}

impl Pool {
    fn start(&'static self) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for number in 0..(cores / 2).clamp(1, MOST_THREADS) {
            let started = std::thread::Builder::new()
                .name(format!("images-{number}"))
                .spawn(|| self.work());
            match started {
                Ok(_) => {
                    self.threads.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => tracing::error!(%error, "no thread for images"),
            }
        }
    }

    fn work(&self) {
        loop {
            let job = self.next();
            // Nobody waits for it any more.
            if job.answer.is_closed() {
                continue;
            }
            let began = Instant::now();
            let is_late = || job.answer.is_closed() || Instant::now() > job.deadline;
            let result = upside_down(&job.image, job.blur, &job.bounds, &is_late);
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.nanoseconds.fetch_add(took, Ordering::Relaxed);
            self.images.fetch_add(1, Ordering::Relaxed);
            let _ = job.answer.send(result);
        }
    }

    fn next(&self) -> Job {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.bytes -= job.image.len();
                return job;
            }
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
