//! Recordings on their way from the folder to an object store, where that is wished.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
#[cfg(feature = "archive")]
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "archive")]
use sdk::Outlet;
use sdk::{ConfigFault, OutletStats};

/// A file that is younger may have been made a moment ago, and not be held yet.
const YOUNG: Duration = Duration::from_secs(60);
/// Most files of a folder that are taken at a time.
const MOST: usize = 10_000;

/// Moves finished recordings; by default they stay.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moving {
    #[cfg(feature = "archive")]
    to: Option<archive::Moving>,
    /// What was handed over and may still be there.
    pushed: BTreeSet<PathBuf>,
}

impl Moving {
    /// To an object store.
    #[cfg(feature = "archive")]
    pub(crate) fn new(
        to: &str,
        region: Option<String>,
        endpoint: Option<String>,
    ) -> Result<Self, ConfigFault> {
        Ok(Self {
            to: Some(archive::Moving::new("ssm-move", to, region, endpoint)?),
            pushed: BTreeSet::new(),
        })
    }

    #[cfg(not(feature = "archive"))]
    pub(crate) fn new(_: &str, _: Option<String>, _: Option<String>) -> Result<Self, ConfigFault> {
        let fault = ConfigFault::new("to", "this flowdog was built without its feature archive");
        Err(fault.allowed("\"folder\" alone"))
    }

    /// A recording is finished: it goes, and its transcript with it.
    pub(crate) fn push(&mut self, cast: PathBuf) {
        #[cfg(feature = "archive")]
        if let Some(to) = &self.to {
            let transcript = cast.with_extension("txt");
            if transcript.exists() {
                to.push(transcript);
            }
            to.push(cast.clone());
            self.pushed.insert(cast);
        }
        #[cfg(not(feature = "archive"))]
        drop(cast);
    }

    /// Takes the recordings of a folder that nobody writes and nobody has handed over: those of a
    /// process that was killed.
    pub(crate) fn look_for_left(&mut self, folder: &Path) {
        #[cfg(feature = "archive")]
        let moves = self.to.is_some();
        #[cfg(not(feature = "archive"))]
        let moves = false;
        if !moves {
            return;
        }
        self.pushed.retain(|file| file.exists());
        let Ok(files) = fs::read_dir(folder) else {
            return;
        };
        let left: Vec<PathBuf> = files
            .filter_map(|file| Some(file.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ending| ending == "cast"))
            .filter(|path| !self.pushed.contains(path) && is_left(path))
            .take(MOST)
            .collect();
        if !left.is_empty() {
            tracing::info!(
                recordings = left.len(),
                "recordings that were left are moved now"
            );
        }
        for path in left {
            self.push(path);
        }
    }

    /// Files that are on their way, beside `stats`.
    pub(crate) fn add_to(&self, stats: OutletStats) -> OutletStats {
        #[cfg(feature = "archive")]
        if let Some(to) = &self.to {
            let files = to.outlet().stats();
            return OutletStats {
                taken: stats.taken + files.taken,
                written: stats.written + files.written,
                dropped: stats.dropped + files.dropped,
                failed: stats.failed + files.failed,
                waiting: stats.waiting + files.waiting,
                waiting_bytes: stats.waiting_bytes + files.waiting_bytes,
                retried: stats.retried + files.retried,
                diverted: stats.diverted + files.diverted,
                errors: stats.errors + files.errors,
                lag: stats.lag.max(files.lag),
            };
        }
        stats
    }

    /// Waits until all are moved, or the time is over.
    pub(crate) fn finish(&self, within: Duration) -> bool {
        #[cfg(feature = "archive")]
        if let Some(to) = &self.to {
            let outlet: Arc<dyn Outlet> = to.outlet();
            return outlet.finish(within);
        }
        let _ = within;
        true
    }
}

/// Whether nobody writes this recording.
fn is_left(path: &Path) -> bool {
    let age = |file: &File| {
        let modified = file.metadata()?.modified()?;
        Ok::<_, std::io::Error>(
            SystemTime::now()
                .duration_since(modified)
                .unwrap_or_default(),
        )
    };
    File::open(path).is_ok_and(|file| {
        age(&file).is_ok_and(|age| age >= YOUNG) && file.try_lock_shared().is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_left_if_it_is_old_and_nobody_writes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.cast");
        let file = File::create(&path).unwrap();
        assert!(!is_left(&path), "young");
        file.set_modified(SystemTime::now() - Duration::from_secs(61))
            .unwrap();
        assert!(is_left(&path));
        file.lock().unwrap();
        assert!(!is_left(&path), "held");
        drop(file);
        assert!(is_left(&path) && !is_left(&folder.path().join("b.cast")));
    }
}
