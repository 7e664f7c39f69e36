//! From the pump to the store: entries are packed into archives as they come, and a complete archive
//! becomes a file.

use async_trait::async_trait;
use records::{Deliver, Report};

use crate::entry::Entry;
use crate::files::{File, Files};
use crate::pack::{Lost, Packing};

/// Writes archives to a place that is opened with the first of them.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) files: Files,
    pub(crate) packing: Packing,
}

impl Delivery {
    async fn write(&mut self, complete: Vec<Result<File, Lost>>) -> Report<Entry> {
        let mut report = Report::default();
        for file in complete {
            self.take(file, &mut report);
        }
        self.files.write(&mut report).await;
        report
    }

    fn take(&mut self, file: Result<File, Lost>, report: &mut Report<Entry>) {
        match file {
            Ok(file) => self.files.push(file),
            Err(lost) => {
                report.error = Some(lost.error.to_string());
                report.refused += lost.entries;
            }
        }
    }
}

#[async_trait]
impl Deliver<Entry> for Delivery {
    /// Entries are reported on when their file is written.
    async fn deliver(&mut self, batch: Vec<Entry>) -> Report<Entry> {
        let now = self.files.now();
        let add = |entry| self.packing.add(entry, now).transpose();
        let complete = batch.into_iter().filter_map(add).collect();
        self.write(complete).await
    }

    async fn tick(&mut self) -> Report<Entry> {
        let complete = self.packing.due(self.files.now());
        self.write(complete).await
    }

    async fn finish(&mut self) -> Report<Entry> {
        let mut report = Report::default();
        for file in self.packing.all() {
            self.take(file, &mut report);
        }
        self.files.finish(&mut report).await;
        report
    }
}
