//! Files that are whole: written in the order in which they came, and each is tried until it is.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use records::Report;

use crate::budget::Share;
use crate::store::Objects;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Attempts for a file once nothing more comes: two minutes or so. Whoever ends the appliance waits
/// less, and a configuration that was replaced does not try for ever.
const LAST_ATTEMPTS: u32 = 10;

/// A file that is whole.
#[derive(Debug)]
pub(crate) struct File {
    /// Its name; a later attempt has the same, so that there is one in the end, whatever became of the
    /// first.
    pub(crate) key: String,
    pub(crate) data: Bytes,
    /// How many entries or rows are in it.
    pub(crate) items: usize,
    /// The memory it holds until it is written.
    #[expect(dead_code, reason = "it is given back when the file is dropped")]
    pub(crate) held: Vec<Share>,
}

/// Files that are to be written, the oldest first.
#[derive(Debug)]
pub(crate) struct Files {
    objects: Objects,
    waiting: VecDeque<File>,
    origin: Instant,
    /// Attempts that the first file has had.
    attempts: u32,
    not_before: Duration,
    random: SmallRng,
}

impl Files {
    pub(crate) fn new(objects: Objects) -> Self {
        Self {
            objects,
            waiting: VecDeque::new(),
            origin: Instant::now(),
            attempts: 0,
            not_before: Duration::ZERO,
            random: SmallRng::from_os_rng(),
        }
    }

    /// The time, on the clock of these files.
    pub(crate) fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    pub(crate) fn push(&mut self, file: File) {
        self.waiting.push_back(file);
    }

    /// Writes files until one fails, or none is left. Reports on what is in them.
    pub(crate) async fn write<T>(&mut self, report: &mut Report<T>) {
        while let Some(file) = self.waiting.front() {
            if self.now() < self.not_before {
                return;
            }
            if self.attempts > 0 {
                report.retried += file.items;
            }
            match self.objects.put(&file.key, file.data.clone()).await {
                Ok(()) => {
                    report.written += file.items;
                    self.waiting.pop_front();
                    self.attempts = 0;
                }
                Err(error) => {
                    report.error = Some(format!("{}: {error}", file.key));
                    self.attempts += 1;
                    let doubled = FIRST_PAUSE * 2_u32.pow(self.attempts.min(16) - 1);
                    // Half of it for certain, so that appliances that failed together do not return
                    // together.
                    let part = self.random.random_range(0.5..=1.0);
                    let pause = doubled.min(LONGEST_PAUSE).mul_f64(part);
                    self.not_before = self.now() + pause;
                }
            }
        }
    }

    /// Nothing more comes: writes everything, as far as the place takes it.
    pub(crate) async fn finish<T>(&mut self, report: &mut Report<T>) {
        self.attempts = 0;
        self.not_before = Duration::ZERO;
        loop {
            self.write(report).await;
            if self.waiting.is_empty() || self.attempts >= LAST_ATTEMPTS {
                return;
            }
            tokio::time::sleep(self.not_before.saturating_sub(self.now())).await;
        }
    }
}
