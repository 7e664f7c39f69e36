//! Signals: drain on SIGTERM and SIGINT, reload on SIGHUP.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::appliance::{RunError, Running};

/// How often the control thread looks at the shards.
const LOOK: Duration = Duration::from_millis(100);

/// The signals that the appliance understands, caught from here on.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

pub(crate) async fn run(running: Running, mut signals: Signals) -> Result<(), RunError> {
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => {
                drain(&running, &mut signals, "SIGTERM").await;
                break;
            }
            _ = signals.interrupt.recv() => {
                drain(&running, &mut signals, "SIGINT").await;
                break;
            }
            _ = signals.hang_up.recv() => {
                // The faults are in the log; the configuration before stays in force.
                let _ = running.reload();
            }
            _ = look.tick() => {
                running.tend();
                if let Some(index) = running.ended_shard() {
                    tracing::error!(shard = index, "a shard ended; stopping, so that whoever supervises can start anew");
                    running.stop();
                    return Err(RunError::ShardEnded(index));
                }
            }
        }
    }
    running.stop();
    tracing::info!("flowdog has stopped");
    Ok(())
}

/// Unhealthy and bypassing, until nothing is intercepted any more or patience ends.
async fn drain(running: &Running, signals: &mut Signals, signal: &'static str) {
    let (deadline, grace) = running.drain_times();
    running.begin_drain();
    tracing::info!(
        signal,
        ?deadline,
        "draining: health checks fail, new flows are judged and not intercepted"
    );
    let began = Instant::now();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            signal = signals.stop() => {
                tracing::warn!(signal, "second signal: not waiting any longer");
                break;
            }
            _ = look.tick() => {
                let left = running.intercepted().await;
                let waited = began.elapsed();
                if left == Some(0) && waited >= grace {
                    tracing::info!(?waited, "drained");
                    return;
                }
                if waited >= deadline {
                    tracing::warn!(left, "the deadline has come: intercepted flows that are left are reset");
                    break;
                }
            }
        }
    }
    running.reset_all();
    // The shards send the resets before they obey the order to stop.
}
