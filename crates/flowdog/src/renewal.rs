//! Keeps an intermediate at hand: one at the start, the next one in time.
//!
//! On a thread of its own, because the authority's key may take its time; nothing on the packet
//! path ever waits for it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tls::UnixTime;

use crate::config::{Config, WhenAway};

/// How often the thread looks whether it is time.
const LOOK: Duration = Duration::from_secs(1);

/// The thread that renews. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Renewal {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Takes over the intermediate of the configuration before, or makes the first one.
///
/// # Errors
/// The authority's word, where its key is away and the configuration says not to go on without it.
pub(crate) fn prepare(config: &Config, before: Option<&Config>) -> Result<(), String> {
    let Some(impersonator) = &config.tls.impersonator else {
        return Ok(());
    };
    if let Some(file) = &config.tls.key_log {
        tracing::warn!(file = %file.display(), "the secrets of intercepted TLS connections are written to a file");
    }
    let issuing = impersonator.mint().issuing();
    let old = before.and_then(|config| config.tls.impersonator.as_ref());
    if let Some(old) = old {
        issuing.adopt(old.mint().issuing());
    }
    let now = UnixTime::now();
    if issuing.current(now).is_some() {
        return Ok(());
    }
    let Err(error) = issuing.renew(now) else {
        tracing::info!("the certificate authority signed an intermediate");
        return Ok(());
    };
    if config.tls.when_away() == WhenAway::Bypass {
        tracing::warn!(%error, "the certificate authority's key is away: TLS is passed unread until it is back");
        return Ok(());
    }
    Err(error.to_string())
}

impl Renewal {
    pub(crate) fn spawn(config: Arc<ArcSwap<Config>>) -> io::Result<Self> {
        let (stop, stopped) = channel::<()>();
        let thread = std::thread::Builder::new()
            .name("flowdog-renewal".to_owned())
            .spawn(move || {
                while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                    look(&config.load_full());
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A renewal that is under way ends within the bounds of its requests; the process must
        // not wait for that.
        if let Some(thread) = self.thread.take()
            && thread.is_finished()
        {
            let _ended = thread.join();
        }
    }
}

fn look(config: &Config) {
    let Some(impersonator) = &config.tls.impersonator else {
        return;
    };
    let issuing = impersonator.mint().issuing();
    let now = UnixTime::now();
    if !issuing.is_due(now) {
        return;
    }
    match issuing.renew(now) {
        Ok(()) => tracing::info!("the certificate authority signed the next intermediate"),
        Err(error) => {
            let left = issuing.expires().map(|end| {
                let now = SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .map_or(0, |now| now.as_secs());
                Duration::from_secs(u64::try_from(end).unwrap_or(0).saturating_sub(now))
            });
            tracing::warn!(%error, ?left, "no new intermediate; trying again, and going on with the present one");
        }
    }
}
