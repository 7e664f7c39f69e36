//! The sink that writes lines to a file or to the standard output.

use std::fs::OpenOptions;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use sdk::{Record, Sink, SinkError, async_trait};

use super::form;
use crate::config::{FlowLogFormat, FlowLogOutput};

/// Lines of records, at the end of a file.
pub(crate) struct LineSink {
    format: FlowLogFormat,
    /// None for the standard output.
    path: Option<PathBuf>,
    output: Mutex<BufWriter<Box<dyn Write + Send>>>,
    /// Someone has moved the file away and wants a new one.
    reopen: AtomicBool,
}

impl std::fmt::Debug for LineSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineSink")
            .field("path", &self.path)
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}

impl LineSink {
    /// Opens the output; `None` if there is none.
    pub(crate) fn open(output: &FlowLogOutput, format: FlowLogFormat) -> io::Result<Option<Self>> {
        let path = match output {
            FlowLogOutput::Off => return Ok(None),
            FlowLogOutput::Stdout => None,
            FlowLogOutput::File(path) => Some(path.clone()),
        };
        Ok(Some(Self {
            format,
            output: Mutex::new(BufWriter::new(open(path.as_ref())?)),
            path,
            reopen: AtomicBool::new(false),
        }))
    }

    /// Opens the file anew before the next record, so that a file that was moved away ends there.
    pub(crate) fn reopen(&self) {
        self.reopen.store(true, Ordering::Relaxed);
    }
}

fn open(path: Option<&PathBuf>) -> io::Result<Box<dyn Write + Send>> {
    Ok(match path {
        None => Box::new(io::stdout()),
        Some(path) => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

// Blocks its thread, which is its own.
#[async_trait]
impl Sink for LineSink {
    async fn write(&self, batch: &[Record]) -> Result<(), SinkError> {
        let failed = |error: io::Error| SinkError {
            message: error.to_string(),
            lost: batch.len(),
        };
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        if self.reopen.swap(false, Ordering::Relaxed) {
            output.flush().map_err(failed)?;
            match open(self.path.as_ref()) {
                Ok(fresh) => *output = BufWriter::new(fresh),
                // The old one still takes records.
                Err(error) => tracing::error!(%error, file = ?self.path, "flow log not reopened"),
            }
        }
        let mut lines = String::new();
        for record in batch {
            match self.format {
                FlowLogFormat::Json => form::json_line(record, &mut lines),
                FlowLogFormat::Text => form::text_lines(record, &mut lines),
            }
        }
        // Whoever reads along sees what there is.
        output
            .write_all(lines.as_bytes())
            .and_then(|()| output.flush())
            .map_err(failed)
    }
}
