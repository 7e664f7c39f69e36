//! Where records go: the trait of extensions that take them, and the queue before them that never
//! makes traffic wait.

use core::fmt;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

/// Something that happened, for people and programs that look at it later.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What kind of thing: kebab-case, such as `exchange`.
    pub kind: &'static str,
    /// When it happened.
    pub at: SystemTime,
    /// What there is to say about it.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// Takes records to where they are kept.
///
/// Runs beside the traffic, fed from a [`RecordQueue`]; a slow or failing sink costs records,
/// never packets.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug {
    /// Takes a batch. Records of a batch that could not be written are counted as lost.
    ///
    /// # Errors
    /// [`SinkError`] when the batch, or a part of it, was not taken.
    async fn write(&self, batch: &[Record]) -> Result<(), SinkError>;

    /// Finishes what is under way; called when the appliance drains.
    ///
    /// # Errors
    /// [`SinkError`] when records were lost.
    async fn flush(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Records were not taken.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({lost} records lost)")]
pub struct SinkError {
    /// What went wrong.
    pub message: String,
    /// How many records are lost.
    pub lost: usize,
}

/// Records on their way to a sink: bounded, and never in the way of who brings them.
#[derive(Debug)]
pub struct RecordQueue {
    limit: usize,
    state: Mutex<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    records: VecDeque<Record>,
    dropped: u64,
}

impl RecordQueue {
    /// Room for `limit` records.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::default(),
        }
    }

    /// Adds a record; a full queue drops and counts it instead. Says whether it was added.
    pub fn push(&self, record: Record) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let room = state.records.len() < self.limit;
        if room {
            state.records.push_back(record);
        } else {
            state.dropped += 1;
        }
        room
    }

    /// Takes up to `most` records, oldest first.
    pub fn take(&self, most: usize) -> Vec<Record> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let count = state.records.len().min(most);
        state.records.drain(..count).collect()
    }

    /// How many records wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .records
            .len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many records did not fit since start.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: u64) -> Record {
        let fields = [("number".to_owned(), number.into())].into_iter().collect();
        Record {
            kind: "test",
            at: SystemTime::UNIX_EPOCH,
            fields,
        }
    }

    #[derive(Debug, Default)]
    struct Keeps(Mutex<Vec<Record>>);

    #[async_trait]
    impl Sink for Keeps {
        async fn write(&self, batch: &[Record]) -> Result<(), SinkError> {
            if batch.len() > 2 {
                return Err(SinkError {
                    message: "too many at once".into(),
                    lost: batch.len(),
                });
            }
            self.0.lock().unwrap().extend_from_slice(batch);
            Ok(())
        }
    }

    #[test]
    fn threat_34_a_full_queue_drops_and_counts_the_newest() {
        let queue = RecordQueue::new(2);
        let added: Vec<_> = (0..5).map(|number| queue.push(record(number))).collect();
        assert_eq!(added, [true, true, false, false, false]);
        assert_eq!((queue.len(), queue.dropped()), (2, 3));
        assert_eq!(queue.take(1), [record(0)]);
        assert!(queue.push(record(9)));
        assert_eq!(queue.take(10), [record(1), record(9)]);
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn batches_reach_the_sink_in_order_and_losses_are_told() {
        let (queue, sink) = (RecordQueue::new(10), Keeps::default());
        for number in 0..7 {
            queue.push(record(number));
        }
        sink.write(&queue.take(2)).await.unwrap();
        sink.write(&queue.take(2)).await.unwrap();
        let error = sink.write(&queue.take(3)).await.unwrap_err();
        assert_eq!(error.to_string(), "too many at once (3 records lost)");
        sink.flush().await.unwrap();
        assert_eq!(
            *sink.0.lock().unwrap(),
            (0..4).map(record).collect::<Vec<_>>()
        );
    }
}
