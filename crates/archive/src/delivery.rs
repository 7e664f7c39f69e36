//! From the pump to the store: entries are packed into archives as they come, and a complete archive
//! becomes a file.

use std::sync::Arc;

use async_trait::async_trait;
use records::{Deliver, Report};

use crate::entry::Item;
use crate::files::{File, Files};
use crate::har::Writer;
use crate::pack::{Lost, Packing};

/// Writes archives to a place that is opened with the first of them.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) files: Files,
    pub(crate) packing: Packing,
    pub(crate) writer: Arc<Writer>,
}

impl Delivery {
    async fn write(&mut self, complete: Vec<Result<File, Lost>>) -> Report<Item> {
        let mut report = Report::default();
        for file in complete {
            self.take(file, &mut report);
        }
        self.files.write(&mut report).await;
        report
    }

    fn take(&mut self, file: Result<File, Lost>, report: &mut Report<Item>) {
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
impl Deliver<Item> for Delivery {
    /// Entries are reported on when their file is written.
    async fn deliver(&mut self, batch: Vec<Item>) -> Report<Item> {
        let now = self.files.now();
        let add = |item| {
            let line = match item {
                Item::Entry(entry) => self.writer.write(*entry),
                Item::Line(line) => line,
            };
            self.packing.add(&line, now).transpose()
        };
        let complete = batch.into_iter().filter_map(add).collect();
        self.write(complete).await
    }

    async fn tick(&mut self) -> Report<Item> {
        let complete = self.packing.due(self.files.now());
        self.write(complete).await
    }

    async fn finish(&mut self) -> Report<Item> {
        let mut report = Report::default();
        for file in self.packing.all() {
            self.take(file, &mut report);
        }
        self.files.finish(&mut report).await;
        report
    }
}
