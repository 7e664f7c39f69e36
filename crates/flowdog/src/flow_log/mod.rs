//! One record per flow at its end, and in between if wanted: who, to whom, how much, and what was
//! decided by whom.
//!
//! Shards put flows into a bounded queue and never wait. One thread makes records of them and puts
//! each into the queue of every sink; each sink has a thread, so that a slow one delays no other. What
//! does not fit is counted and lost.

mod file;
mod form;

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant, SystemTime};

use dataplane::FlowSummary;
use sdk::{RecordQueue, Sink};
use tokio::sync::Notify;

pub(crate) use file::LineSink;
pub(crate) use form::verdict;

use crate::config::FlowLog as Settings;
use crate::opening::Note;
use crate::telemetry::{self, Telemetry};

/// Most records that a sink gets at once.
const BATCH: usize = 256;
/// How long the end of the appliance waits for sinks that are slow.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// A flow at a moment that is worth a record.
#[derive(Debug)]
pub(crate) struct FlowRecord {
    /// When its first packet came.
    pub(crate) start: SystemTime,
    pub(crate) stage: Stage,
    /// What it was, or is so far.
    pub(crate) summary: FlowSummary,
    pub(crate) note: Note,
}

/// Which moment of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It goes on.
    Lives,
    Ended,
    /// It lives, and the appliance ends.
    Stopped,
}

/// Where shards put their records.
#[derive(Clone, Debug)]
pub(crate) struct FlowLog {
    queue: SyncSender<FlowRecord>,
    telemetry: Arc<Telemetry>,
}

/// What the appliance keeps of the log: to have files opened anew, and to wait for the last records.
#[derive(Debug)]
pub(crate) struct Keeper {
    lines: Option<Arc<LineSink>>,
    /// Told nothing, and closed when every sink is done.
    done: Receiver<()>,
}

impl Keeper {
    /// Opens files anew that have been moved away.
    pub(crate) fn reopen(&self) {
        if let Some(lines) = &self.lines {
            lines.reopen();
        }
    }

    /// Waits until the records of shards that have ended are where they belong.
    pub(crate) fn finish(&self) {
        if self.done.recv_timeout(LAST_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!(waited = ?LAST_WAIT, "sinks of the flow log do not come to an end");
        }
    }
}

impl FlowLog {
    /// Opens the output and starts the threads; `None` if nobody wants records. They end with the last
    /// shard, after everything has been written.
    pub(crate) fn start(
        settings: &Settings,
        sinks: &[Arc<dyn Sink>],
        telemetry: &Arc<Telemetry>,
    ) -> io::Result<Option<(Self, Keeper)>> {
        let lines = LineSink::open(&settings.output, settings.format)?.map(Arc::new);
        let own = lines.iter().map(|lines| Arc::clone(lines) as Arc<dyn Sink>);
        let sinks: Vec<Arc<dyn Sink>> = own.chain(sinks.iter().cloned()).collect();
        if sinks.is_empty() {
            return Ok(None);
        }
        let (all_done, done) = channel();
        let mut outlets = Vec::new();
        for sink in sinks {
            let outlet = Outlet::start(sink, settings.queue, telemetry, all_done.clone())?;
            outlets.push(outlet);
        }
        let (queue, flows) = sync_channel(settings.queue);
        let counters = Arc::clone(telemetry);
        std::thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || distribute(&flows, &outlets, &counters))?;
        let log = Self {
            queue,
            telemetry: Arc::clone(telemetry),
        };
        Ok(Some((log, Keeper { lines, done })))
    }

    /// Adds a flow if there is room for it.
    pub(crate) fn push(&self, record: FlowRecord) {
        if self.queue.try_send(record).is_err() {
            telemetry::add(&self.telemetry.flow_records_lost);
        }
    }
}

fn distribute(flows: &Receiver<FlowRecord>, outlets: &[Outlet], telemetry: &Telemetry) {
    while let Ok(flow) = flows.recv() {
        let record = form::record(flow);
        if let Some((last, others)) = outlets.split_last() {
            for outlet in others {
                outlet.push(record.clone(), telemetry);
            }
            last.push(record, telemetry);
        }
    }
}

/// The way to one sink; closed when dropped.
struct Outlet {
    queue: Arc<RecordQueue>,
    news: Arc<Notify>,
    /// None when it is closed.
    open: Option<Sender<()>>,
}

impl Outlet {
    fn start(
        sink: Arc<dyn Sink>,
        limit: usize,
        telemetry: &Arc<Telemetry>,
        done: Sender<()>,
    ) -> io::Result<Self> {
        let queue = Arc::new(RecordQueue::new(limit));
        let news = Arc::new(Notify::new());
        let (open, closed) = channel();
        let pump = Pump {
            sink,
            queue: Arc::clone(&queue),
            news: Arc::clone(&news),
            closed,
            telemetry: Arc::clone(telemetry),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                runtime.block_on(pump.run());
                // A name that is being looked up must not hold anyone.
                runtime.shutdown_background();
                drop(done);
            })?;
        Ok(Self {
            queue,
            news,
            open: Some(open),
        })
    }

    fn push(&self, record: sdk::Record, telemetry: &Telemetry) {
        if !self.queue.push(record) {
            telemetry::add(&telemetry.flow_records_lost);
        }
        self.news.notify_one();
    }
}

impl Drop for Outlet {
    fn drop(&mut self) {
        // Closed first, so that whoever wakes sees it.
        self.open = None;
        self.news.notify_one();
    }
}

struct Pump {
    sink: Arc<dyn Sink>,
    queue: Arc<RecordQueue>,
    news: Arc<Notify>,
    closed: Receiver<()>,
    telemetry: Arc<Telemetry>,
}

impl Pump {
    async fn run(self) {
        let mut told: Option<Instant> = None;
        loop {
            // Looked at before the queue: what was put in before the end is still taken.
            let ends = self.closed.try_recv() == Err(std::sync::mpsc::TryRecvError::Disconnected);
            let batch = self.queue.take(BATCH);
            if batch.is_empty() {
                if ends {
                    break;
                }
                self.news.notified().await;
                continue;
            }
            let mut lost = 0;
            if let Err(error) = self.sink.write(&batch).await {
                lost = error.lost.min(batch.len());
                // One line a minute: whoever has a full disk has enough trouble.
                if told.is_none_or(|at| at.elapsed() > Duration::from_secs(60)) {
                    told = Some(Instant::now());
                    tracing::error!(sink = ?self.sink, %error, "records of flows are lost");
                }
            }
            let written = batch.len() - lost;
            telemetry::add_many(&self.telemetry.flow_records, written);
            telemetry::add_many(&self.telemetry.flow_records_lost, lost);
        }
        if let Err(error) = self.sink.flush().await {
            telemetry::add_many(&self.telemetry.flow_records_lost, error.lost);
            tracing::error!(sink = ?self.sink, %error, "records of flows are lost");
        }
    }
}
