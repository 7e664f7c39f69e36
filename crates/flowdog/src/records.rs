//! Where the records of hooks go: a line of JSON each, written by a thread of its own.
//!
//! Shards put records into a bounded queue and never wait. What does not fit is counted and lost.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, UNIX_EPOCH};

use sdk::{Record, RecordQueue};
use serde_json::Value;

use crate::config::{FlowLogOutput, Records as Settings};
use crate::telemetry::Telemetry;

/// How long a record waits at most before it is written: often enough for whoever reads along.
const PAUSE: Duration = Duration::from_millis(100);
/// Records taken from the queue at once.
const BATCH: usize = 1024;

/// The thread that writes; ends, with everything written, when this is dropped.
#[derive(Debug)]
pub(crate) struct Records {
    queue: Arc<RecordQueue>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Records {
    /// Opens the output and starts the thread; `None` if records are not kept.
    pub(crate) fn start(
        settings: &Settings,
        telemetry: &Arc<Telemetry>,
    ) -> io::Result<Option<Self>> {
        let output: Box<dyn Write + Send> = match &settings.output {
            FlowLogOutput::Off => return Ok(None),
            FlowLogOutput::Stdout => Box::new(io::stdout()),
            FlowLogOutput::File(path) => {
                Box::new(OpenOptions::new().create(true).append(true).open(path)?)
            }
        };
        let queue = Arc::new(RecordQueue::new(settings.queue));
        let stop = Arc::new(AtomicBool::new(false));
        let (records, stopped) = (Arc::clone(&queue), Arc::clone(&stop));
        let telemetry = Arc::clone(telemetry);
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || write_all(&records, &stopped, output, &telemetry))?;
        Ok(Some(Self {
            queue,
            stop,
            thread: Some(thread),
        }))
    }

    /// Where shards put their records.
    pub(crate) fn queue(&self) -> Arc<RecordQueue> {
        Arc::clone(&self.queue)
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there has been told by its own message.
            let _ = thread.join();
        }
    }
}

fn write_all(
    queue: &RecordQueue,
    stop: &AtomicBool,
    output: Box<dyn Write + Send>,
    telemetry: &Telemetry,
) {
    let mut output = io::BufWriter::new(output);
    loop {
        // Asked first: what was put in before the stop is still taken.
        let is_last = stop.load(Ordering::Acquire);
        loop {
            let batch = queue.take(BATCH);
            if batch.is_empty() {
                break;
            }
            for record in batch {
                let written = output.write_all(line(record).as_bytes());
                count(telemetry, written);
            }
        }
        telemetry
            .records_dropped
            .store(queue.dropped(), Ordering::Relaxed);
        if let Err(error) = output.flush() {
            tracing::debug!(%error, "records");
        }
        if is_last {
            return;
        }
        std::thread::park_timeout(PAUSE);
    }
}

fn count(telemetry: &Telemetry, written: io::Result<()>) {
    match written {
        Ok(()) => crate::telemetry::add(&telemetry.records_written),
        Err(error) => {
            crate::telemetry::add(&telemetry.records_failed);
            tracing::debug!(%error, "records");
        }
    }
}

/// One line: JSON leaves no control character in a text unescaped.
fn line(record: Record) -> String {
    let mut fields = record.fields;
    let since = record.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Milliseconds: more would not be true.
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let time = Duration::from_millis(millis).as_secs_f64();
    fields.insert("type".to_owned(), record.kind.into());
    fields.insert("time".to_owned(), time.into());
    let mut line = Value::Object(fields).to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_66_a_record_is_one_line_whatever_it_holds() {
        let mut fields = serde_json::Map::new();
        fields.insert(
            "name".to_owned(),
            "a\n{\"type\":\"flow\"}\u{1b}[2J\u{0}".into(),
        );
        let text = line(Record {
            kind: "dns",
            at: UNIX_EPOCH + Duration::from_millis(1500),
            fields,
        });
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.trim_end().chars().any(char::is_control), "{text:?}");
        let back: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&back["type"], &back["time"]), (&"dns".into(), &1.5.into()));
    }
}
