//! One line per flow at its end: who, to whom, how much, and what was decided by whom.
//!
//! Shards put records into a bounded queue and never wait; one thread writes. What does not fit is
//! counted and lost.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane::{FlowEnd, FlowSummary};
use serde_json::{Map, Value, json};

use crate::config::{FlowLog as Settings, FlowLogFormat, FlowLogOutput};
use crate::opening::Note;
use crate::telemetry::{self, Telemetry};

/// A flow that has ended.
#[derive(Debug)]
pub(crate) struct FlowRecord {
    /// When its first packet came.
    pub(crate) start: SystemTime,
    pub(crate) summary: FlowSummary,
    pub(crate) note: Note,
}

/// Where shards put their records.
#[derive(Clone, Debug)]
pub(crate) struct FlowLog {
    queue: SyncSender<FlowRecord>,
    telemetry: Arc<Telemetry>,
}

impl FlowLog {
    /// Opens the output and starts the thread that writes; `None` if flows are not logged. The
    /// thread ends with the last shard, after it has written everything.
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
        let (queue, records) = sync_channel(settings.queue);
        let (format, counters) = (settings.format, Arc::clone(telemetry));
        std::thread::Builder::new()
            .name("flow-log".to_owned())
            .spawn(move || write_all(&records, output, format, &counters))?;
        Ok(Some(Self {
            queue,
            telemetry: Arc::clone(telemetry),
        }))
    }

    /// Adds a record if there is room for it.
    pub(crate) fn push(&self, record: FlowRecord) {
        if self.queue.try_send(record).is_err() {
            telemetry::add(&self.telemetry.flow_records_lost);
        }
    }
}

fn write_all(
    records: &Receiver<FlowRecord>,
    output: Box<dyn Write + Send>,
    format: FlowLogFormat,
    telemetry: &Telemetry,
) {
    let mut output = io::BufWriter::new(output);
    let mut lines = String::new();
    loop {
        let record = match records.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Nothing waits: whoever reads along sees what there is.
                if let Err(error) = output.flush() {
                    tracing::debug!(%error, "flow log");
                }
                match records.recv() {
                    Ok(record) => record,
                    Err(_) => break,
                }
            }
        };
        lines.clear();
        match format {
            FlowLogFormat::Json => json_line(&record, &mut lines),
            FlowLogFormat::Text => text_lines(&record, &mut lines),
        }
        match output.write_all(lines.as_bytes()) {
            Ok(()) => telemetry::add(&telemetry.flow_records),
            Err(error) => {
                telemetry::add(&telemetry.flow_records_lost);
                tracing::debug!(%error, "flow log");
            }
        }
    }
    // The end of the process flushes nothing by itself.
    if let Err(error) = output.flush() {
        tracing::debug!(%error, "flow log");
    }
}

fn end_word(end: FlowEnd) -> &'static str {
    match end {
        FlowEnd::Finished => "finished",
        FlowEnd::Reset => "reset",
        FlowEnd::Idle => "idle",
        FlowEnd::TimedOut => "timed-out",
        FlowEnd::Replaced => "replaced",
        FlowEnd::Evicted => "evicted",
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Milliseconds: more would not be true.
    Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

/// One JSON object; keys without a value are left out.
fn json_line(record: &FlowRecord, out: &mut String) {
    let FlowRecord {
        start,
        summary,
        note,
    } = record;
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            fields.insert(key.to_owned(), value);
        }
    };
    let has_ports = matches!(summary.key.protocol.0, 6 | 17);
    put("type", "flow".into());
    put("start", seconds(*start).into());
    put("end", seconds(*start + summary.duration).into());
    put("endpoint", summary.key.endpoint.to_string().into());
    put("protocol", summary.key.protocol.0.into());
    put("clientAddress", summary.client.ip().to_string().into());
    put("serverAddress", summary.server.ip().to_string().into());
    if has_ports {
        put("clientPort", summary.client.port().into());
        put("serverPort", summary.server.port().into());
    }
    put("clientPackets", summary.packets[0].into());
    put("clientBytes", summary.bytes[0].into());
    put("serverPackets", summary.packets[1].into());
    put("serverBytes", summary.bytes[1].into());
    put("closed", end_word(summary.end).into());
    put("verdict", verdict(record).into());
    put("rule", json!(note.rule.as_deref()));
    put("acceptor", json!(note.acceptor));
    put("reason", json!(note.reason.as_deref()));
    put("application", json!(note.application));
    put("serverName", json!(note.server_name));
    put("httpHost", json!(note.http_host));
    put("ja4", json!(note.ja4));
    if !note.context.is_empty() {
        put("context", Value::Object(note.context.clone()));
    }
    out.push_str(&Value::Object(fields).to_string());
    out.push('\n');
}

/// What became of the flow in the end.
fn verdict(record: &FlowRecord) -> &'static str {
    match (record.summary.intercepted, record.note.verdict) {
        (true, _) => "intercept",
        (false, "drop") => "drop",
        (false, "reset") => "reset",
        // Never taken over, so it was passed.
        (false, _) => "pass",
    }
}

/// The default fields of VPC flow logs, version 2: one line for each direction that had packets.
/// The endpoint stands for the interface; account and the rest that is not known are `-`.
fn text_lines(record: &FlowRecord, out: &mut String) {
    let summary = &record.summary;
    let action = match verdict(record) {
        "drop" | "reset" => "REJECT",
        _ => "ACCEPT",
    };
    let ends = [
        (summary.client, summary.server),
        (summary.server, summary.client),
    ];
    for (side, (from, to)) in ends.into_iter().enumerate() {
        if summary.packets[side] == 0 {
            continue;
        }
        out.push_str(&format!(
            "2 - {} {} {} {} {} {} {} {} {} {} {action} OK\n",
            summary.key.endpoint,
            from.ip(),
            to.ip(),
            from.port(),
            to.port(),
            summary.key.protocol.0,
            summary.packets[side],
            summary.bytes[side],
            // Whole seconds, as there.
            seconds(record.start).floor(),
            seconds(record.start + summary.duration).floor(),
        ));
    }
}
