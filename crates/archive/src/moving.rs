//! Finished files of a folder, moved into an object store: recordings of sessions, files of packets.
//!
//! The folder is where a file waits: it goes when its object is whole. What could not be moved before
//! the end stays in the folder, for whoever uses it next.

use core::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use records::{Deliver, Limits, Pump, Report};
use sdk::{ConfigFault, Outlet};

use crate::config::{place, remote};
use crate::key::Stamp;
use crate::store::{Objects, Place};

/// Files that wait to be moved, at most; further ones stay in the folder.
const MOST_WAITING: usize = 10_000;

/// Moves files; cheap to clone.
#[derive(Clone)]
pub struct Moving(Arc<Pump<PathBuf>>);

impl fmt::Debug for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Moving").field(&self.0).finish()
    }
}

impl Moving {
    /// To `to`, as in `s3://BUCKET/PREFIX`, with the region and the endpoint of S3 if they are not the
    /// usual ones. Nothing is sent before there is a file. `name` is for the log.
    ///
    /// # Errors
    /// The fault names the key: `to`, `region` or `endpoint`.
    pub fn new(
        name: &str,
        to: &str,
        region: Option<String>,
        endpoint: Option<String>,
    ) -> Result<Self, ConfigFault> {
        let place = place(to)?;
        if matches!(place, Place::Folder(_)) {
            let fault = ConfigFault::new("to", "is a folder");
            return Err(fault.allowed(
                "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX",
            ));
        }
        let number = OsRng.try_next_u32().map_err(|error| {
            ConfigFault::new("to", format!("there is no randomness for names: {error}"))
        })?;
        let mover = Mover {
            objects: Objects::new(place, remote(region, endpoint)?),
            id: format!("{number:08x}"),
        };
        let limits = Limits {
            items: MOST_WAITING,
            batch: 1,
            linger: Duration::ZERO,
            // A file is safe where it is; it goes when it can.
            attempts: u32::MAX,
            ..Limits::default()
        };
        Ok(Self(Pump::new(name, limits, mover)))
    }

    /// Moves a finished file. It goes away when its object is whole. Never waits; a file for which there
    /// is no room stays where it is, counted as dropped.
    pub fn push(&self, file: PathBuf) {
        self.0.push(file, 0);
    }

    /// The numbers, and the end: files that could not be moved by then stay where they are.
    #[must_use]
    pub fn outlet(&self) -> Arc<dyn Outlet> {
        Arc::clone(&self.0) as _
    }
}

/// Works behind the pump, on its thread.
#[derive(Debug)]
struct Mover {
    objects: Objects,
    /// What no other process has: two appliances may have files of one name.
    id: String,
}

impl Mover {
    /// The day of the file, its name, and what tells appliances apart.
    fn key(&self, file: &Path) -> io::Result<String> {
        let day = Stamp::of(fs::metadata(file)?.modified()?).date;
        let part = |part: Option<&std::ffi::OsStr>| {
            part.map(|part| part.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let (stem, ending) = (part(file.file_stem()), part(file.extension()));
        let plain = |part: &str| -> String {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.@+=".contains(c);
            part.chars()
                .map(|c| if is_plain(c) { c } else { '_' })
                .collect()
        };
        let (stem, ending) = (plain(&stem), plain(&ending));
        Ok(format!("{day}/{stem}-{}.{ending}", self.id))
    }

    async fn work_on(&mut self, file: &Path) -> Result<(), Fault> {
        let gone = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => Fault::Gone,
            _ => Fault::Later(error.to_string()),
        };
        let key = self.key(file).map_err(gone)?;
        let opened = fs::File::open(file).map_err(gone)?;
        let put = self.objects.put_file(&key, opened).await;
        put.map_err(Fault::Later)?;
        // Its object is whole: what is left here would only be moved twice.
        if let Err(error) = fs::remove_file(file) {
            tracing::warn!(file = %file.display(), %error, "a file that was moved cannot be removed");
        }
        Ok(())
    }
}

enum Fault {
    /// Somebody took the file away.
    Gone,
    Later(String),
}

#[async_trait]
impl Deliver<PathBuf> for Mover {
    async fn deliver(&mut self, batch: Vec<PathBuf>) -> Report<PathBuf> {
        let mut report = Report::default();
        for file in batch {
            match self.work_on(&file).await {
                Ok(()) => report.written += 1,
                Err(Fault::Gone) => {
                    report.error = Some(format!("{} is gone", file.display()));
                    report.refused += 1;
                }
                Err(Fault::Later(error)) => {
                    report.error = Some(format!("{}: {error}", file.display()));
                    report.failed.push(file);
                }
            }
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_key() {
        let fault = |to: &str, endpoint: Option<&str>| {
            let endpoint = endpoint.map(str::to_owned);
            Moving::new("test", to, None, endpoint).unwrap_err()
        };
        for (fault, key) in [
            (fault("", None), "to"),
            (fault("/var/lib", None), "to"),
            (fault("s3://b", Some("h:1")), "endpoint"),
        ] {
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
            assert!(fault.allowed.is_some(), "{fault}");
        }
    }

    #[test]
    fn what_cannot_be_moved_stays_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (file, gone) = (folder.path().join("a.cast"), folder.path().join("b.cast"));
        fs::write(&file, "kept").unwrap();
        // Nobody listens there.
        let endpoint = Some("http://127.0.0.1:9".to_owned());
        let region = Some("eu-central-1".to_owned());
        let moving = Moving::new("test", "s3://b/p", region, endpoint).unwrap();
        let outlet = moving.outlet();
        moving.push(gone);
        moving.push(file.clone());
        assert!(!outlet.finish(Duration::from_millis(500)));
        let stats = outlet.stats();
        assert_eq!((stats.taken, stats.written, stats.failed), (2, 0, 2));
        assert_eq!(fs::read(file).unwrap(), b"kept");
    }
}
