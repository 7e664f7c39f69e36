//! From the pump to the store: rows wait for others of their partition, become a file, and the file is
//! tried until it is written.

use async_trait::async_trait;
use records::{Deliver, Report, etld_plus_one};

use super::columns::Writer;
use super::partitions::{Complete, Partition, Partitions};
use super::row::Row;
use crate::files::{File, Files};
use crate::key::{Stamp, plain};
use crate::store::Objects;

/// What stands for hosts without a registrable domain, such as addresses: readers take it for null.
const NO_DOMAIN: &str = "__HIVE_DEFAULT_PARTITION__";

/// Rows on their way into files.
#[derive(Debug)]
pub(super) struct Delivery {
    files: Files,
    writer: Writer,
    partitions: Partitions<Row>,
    /// What no other process has.
    id: String,
    number: u64,
}

impl Delivery {
    pub(super) fn new(
        objects: Objects,
        writer: Writer,
        partitions: Partitions<Row>,
        id: String,
    ) -> Self {
        Self {
            files: Files::new(objects),
            writer,
            partitions,
            id,
            number: 0,
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
        let now = self.files.now();
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
            Ok(data) => self.files.push(File {
                key,
                data,
                items: rows.len(),
                held: rows.into_iter().map(|row| row.share).collect(),
            }),
            Err(error) => {
                report.error = Some(format!("{key}: {error}"));
                report.refused += rows.len();
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
        self.files.write(&mut report).await;
        report
    }

    async fn tick(&mut self) -> Report<Row> {
        let mut report = Report::default();
        for complete in self.partitions.due(self.files.now()) {
            self.make(complete, &mut report);
        }
        self.files.write(&mut report).await;
        report
    }

    async fn finish(&mut self) -> Report<Row> {
        let mut report = Report::default();
        for complete in self.partitions.all() {
            self.make(complete, &mut report);
        }
        self.files.finish(&mut report).await;
        report
    }
}
