//! Between the queue and whoever takes lines: exchanges become lines here, away from the traffic.

use async_trait::async_trait;

use super::finished::Finished;
use super::{BATCH_BYTES, LONGEST_RECORD};
use crate::pump::Deliver;
use crate::queue::Report;

/// What waits to be written.
#[derive(Debug)]
pub(crate) enum Item {
    /// An exchange that is over.
    Exchange(Box<Finished>),
    /// A line that was not taken.
    Line(String),
}

/// Gives lines to whoever takes them, no more at a time than Firehose allows.
#[derive(Debug)]
pub(super) struct Writing<D>(pub(super) D);

impl<D: Deliver<String>> Writing<D> {
    async fn hand_on(&mut self, lines: Vec<String>, report: &mut Report<Item>) {
        if lines.is_empty() {
            return;
        }
        let taken = self.0.deliver(lines).await;
        report.written += taken.written;
        report.refused += taken.refused;
        report.retried += taken.retried;
        report
            .failed
            .extend(taken.failed.into_iter().map(Item::Line));
        if taken.error.is_some() {
            report.error = taken.error;
        }
    }
}

#[async_trait]
impl<D: Deliver<String>> Deliver<Item> for Writing<D> {
    async fn deliver(&mut self, batch: Vec<Item>) -> Report<Item> {
        let mut report = Report::default();
        let (mut lines, mut bytes) = (Vec::with_capacity(batch.len()), 0);
        for item in batch {
            let line = match item {
                Item::Line(line) => Some(line),
                Item::Exchange(exchange) => exchange.line(),
            };
            let Some(line) = line else {
                report.refused += 1;
                report.error = Some(format!("a record is longer than {LONGEST_RECORD} bytes"));
                continue;
            };
            if bytes + line.len() > BATCH_BYTES {
                self.hand_on(std::mem::take(&mut lines), &mut report).await;
                bytes = 0;
            }
            bytes += line.len();
            lines.push(line);
        }
        self.hand_on(lines, &mut report).await;
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is short and remembers how much came at once.
    #[derive(Default)]
    struct Short(Vec<usize>);

    #[async_trait]
    impl Deliver<String> for Short {
        async fn deliver(&mut self, batch: Vec<String>) -> Report<String> {
            self.0.push(batch.iter().map(String::len).sum());
            let (failed, taken): (Vec<_>, Vec<_>) =
                batch.into_iter().partition(|line| line.len() > 400_000);
            Report {
                failed,
                ..Report::written(taken.len())
            }
        }
    }

    #[tokio::test]
    async fn no_call_has_more_than_firehose_allows_and_lines_that_failed_come_back() {
        let mut writing = Writing(Short::default());
        let batch =
            [900_000, 1, 900_000, 900_000, 300_000, 2].map(|length| Item::Line("x".repeat(length)));
        let report = writing.deliver(batch.into()).await;
        assert_eq!((report.written, report.failed.len()), (3, 3));
        assert_eq!(writing.0.0, [2_700_001, 300_002]);
        let report = writing.deliver(report.failed).await;
        assert_eq!((report.written, report.failed.len()), (0, 3));
    }
}
