//! From the pump to the store: rows wait for others of their partition, become a file, and the file is
//! tried until it is written.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use records::{Deliver, Report, etld_plus_one};

use super::columns::Writer;
use super::partitions::{Complete, Partition, Partitions};
use super::row::Row;
use crate::budget::Share;
use crate::key::{Stamp, plain};
use crate::store::Objects;

/// What stands for hosts without a registrable domain, such as addresses: readers take it for null.
const NO_DOMAIN: &str = "__HIVE_DEFAULT_PARTITION__";

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Attempts for a file once nothing more comes: two minutes or so. Whoever ends the appliance waits
/// less, and a configuration that was replaced does not try for ever.
const LAST_ATTEMPTS: u32 = 10;

/// Rows on their way into files.
#[derive(Debug)]
pub(super) struct Delivery {
    objects: Objects,
    writer: Writer,
    partitions: Partitions<Row>,
    /// Files that are to be written, the oldest first.
    files: VecDeque<File>,
    /// What no other process has.
    id: String,
    number: u64,
    origin: Instant,
    /// Attempts that the first file has had.
    attempts: u32,
    not_before: Duration,
    random: SmallRng,
}

/// A file that is whole; it holds the memory of its rows until it is written.
#[derive(Debug)]
struct File {
    key: String,
    data: Bytes,
    shares: Vec<Share>,
}

impl Delivery {
    pub(super) fn new(
        objects: Objects,
        writer: Writer,
        partitions: Partitions<Row>,
        id: String,
    ) -> Self {
        Self {
            objects,
            writer,
            partitions,
            files: VecDeque::new(),
            id,
            number: 0,
            origin: Instant::now(),
            attempts: 0,
            not_before: Duration::ZERO,
            random: SmallRng::from_os_rng(),
        }
    }

    fn add(&mut self, row: Row, report: &mut Report<Row>) {
        let host = row.request.host().unwrap_or_default().to_ascii_lowercase();
        let partition = Partition {
            day: Stamp::of(row.at).date,
            domain: match etld_plus_one(&host) {
                "" => NO_DOMAIN.to_owned(),
                domain => plain(domain),
            },
        };
        let bytes = row.share.bytes();
        let now = self.origin.elapsed();
        for complete in self.partitions.add(partition, (row, bytes), now) {
            self.make(complete, report);
        }
    }

    /// Rows become a file.
    fn make(&mut self, (partition, rows): Complete<Row>, report: &mut Report<Row>) {
        let Some(first) = rows.first() else {
            return;
        };
        let Partition { day, domain } = partition;
        let (time, id) = (Stamp::of(first.at).time, &self.id);
        self.number += 1;
        let number = self.number;
        let key = format!("date={day}/etld1={domain}/{time}-{id}-{number}.parquet");
        match self.writer.file(&rows) {
            Ok(data) => self.files.push_back(File {
                key,
                data,
                shares: rows.into_iter().map(|row| row.share).collect(),
            }),
            Err(error) => {
                report.error = Some(format!("{key}: {error}"));
                report.refused += rows.len();
            }
        }
    }

    /// Writes files until one fails.
    async fn write(&mut self, report: &mut Report<Row>) {
        while let Some(file) = self.files.front() {
            if self.origin.elapsed() < self.not_before {
                return;
            }
            if self.attempts > 0 {
                report.retried += file.shares.len();
            }
            match self.objects.put(&file.key, file.data.clone()).await {
                Ok(()) => {
                    report.written += file.shares.len();
                    self.files.pop_front();
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
                    self.not_before = self.origin.elapsed() + pause;
                }
            }
        }
    }
}

#[async_trait]
impl Deliver<Row> for Delivery {
    /// Rows are reported on when their file is written.
    async fn deliver(&mut self, batch: Vec<Row>) -> Report<Row> {
        let mut report = Report::default();
        for row in batch {
            self.add(row, &mut report);
        }
        report.diverted = self.partitions.take_diverted();
        self.write(&mut report).await;
        report
    }

    async fn tick(&mut self) -> Report<Row> {
        let mut report = Report::default();
        for complete in self.partitions.due(self.origin.elapsed()) {
            self.make(complete, &mut report);
        }
        self.write(&mut report).await;
        report
    }

    async fn finish(&mut self) -> Report<Row> {
        let mut report = Report::default();
        for complete in self.partitions.all() {
            self.make(complete, &mut report);
        }
        self.attempts = 0;
        self.not_before = Duration::ZERO;
        loop {
            self.write(&mut report).await;
            if self.files.is_empty() || self.attempts >= LAST_ATTEMPTS {
                return report;
            }
            tokio::time::sleep(self.not_before.saturating_sub(self.origin.elapsed())).await;
        }
    }
}
