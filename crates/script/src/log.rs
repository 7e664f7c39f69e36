//! What functions log, on its way to the log of the appliance.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Lines of log that functions may write in a second, each function for itself.
const LOG_LINES: u32 = 200;

/// Lines that may still be written in this second.
#[derive(Debug)]
pub(crate) struct LogBudget(Mutex<(Instant, u32)>);

impl Default for LogBudget {
    fn default() -> Self {
        Self(Mutex::new((Instant::now(), 0)))
    }
}

impl LogBudget {
    fn take(&self) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.elapsed() >= Duration::from_secs(1) {
            *state = (Instant::now(), 0);
        }
        state.1 += 1;
        if state.1 == LOG_LINES {
            tracing::warn!("a function logs too much: the rest of this second is lost");
        }
        state.1 < LOG_LINES
    }

    /// Writes the lines of a call.
    pub(crate) fn write(&self, log: &[String], about: &str) {
        for line in log {
            if self.take() {
                // Control characters in a line would be lines of somebody else.
                let line: String = line
                    .chars()
                    .map(|c| if c.is_control() { ' ' } else { c })
                    .collect();
                tracing::info!(target: "script", request_id = about, line, "console.log");
            }
        }
    }
}
