//! Which files there are, and which of them are looked into.
//!
//! Folders that say by their names that they hold nothing of what is asked for are left out unseen; with
//! buckets, days are, and then objects by their names.

use core::ops::ControlFlow;
use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _};

use super::source::{Local, Memory, Object, PIECE, Source};
use super::wanted::Wanted;
use super::{Fault, Tell, Told, read_one};
use crate::store::{Address, Remote, RemoteSettings};

/// Files of one folder, or objects of one day.
const MAX_FILES: usize = 1_000_000;
/// Folders below folders.
const MAX_DEPTH: usize = 32;
/// Smaller objects are read whole, with one request each, some of them at once.
const SMALL: u64 = 2 << 20;
const AT_ONCE: usize = 8;

const ENDING: &str = ".parquet";

type Done = Result<ControlFlow<()>, Fault>;

/// Reads a folder, or a single file.
pub(super) fn folder(root: &Path, wanted: &Wanted, tell: &mut Tell<'_>) -> Done {
    let away = |error: std::io::Error| Fault::Away(format!("{}: {error}", root.display()));
    // The root may be a link; what is below is not followed.
    if fs::metadata(root).map_err(away)?.is_file() {
        return file(root, wanted, tell);
    }
    // That the folder itself may be a partition is what the whole path says.
    let mut parts = root.components();
    if !parts.all(|part| wanted.may_be_in(&part.as_os_str().to_string_lossy())) {
        return Ok(ControlFlow::Continue(()));
    }
    below(root, 0, wanted, tell)
}

fn below(folder: &Path, depth: usize, wanted: &Wanted, tell: &mut Tell<'_>) -> Done {
    let away = |error: std::io::Error| Fault::Away(format!("{}: {error}", folder.display()));
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(away)? {
        let entry = entry.map_err(away)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(away)?;
        // Unfinished files begin with a dot.
        let is_meant = !name.starts_with('.')
            && (kind.is_dir() && wanted.may_be_in(&name)
                || kind.is_file() && name.ends_with(ENDING));
        if is_meant {
            entries.push((entry.file_name(), kind.is_dir()));
        }
        if entries.len() > MAX_FILES {
            return Err(Fault::Away(format!(
                "{}: more than {MAX_FILES} files in one folder",
                folder.display()
            )));
        }
    }
    entries.sort();
    for (name, is_folder) in entries {
        let path = folder.join(name);
        let done = if !is_folder {
            file(&path, wanted, tell)?
        } else if depth < MAX_DEPTH {
            below(&path, depth + 1, wanted, tell)?
        } else {
            let why = format!("{}: folders are too deep", path.display());
            return Err(Fault::Away(why));
        };
        if done.is_break() {
            return Ok(done);
        }
    }
    Ok(ControlFlow::Continue(()))
}

fn file(path: &Path, wanted: &Wanted, tell: &mut Tell<'_>) -> Done {
    let name = path.to_string_lossy();
    let opened = File::open(path).and_then(|file| {
        let size = file.metadata()?.len();
        Ok(Local { file, size })
    });
    match opened {
        Ok(source) => read_one(Arc::new(source), &name, wanted, tell),
        // Somebody tidies up.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(gone(&name, tell)),
        Err(error) => Err(Fault::Away(format!("{name}: {error}"))),
    }
}

fn gone(name: &str, tell: &mut Tell<'_>) -> ControlFlow<()> {
    tell(Told::Skipped {
        file: name.to_owned(),
        why: "it is gone".to_owned(),
    })
}

/// Reads a bucket, on this thread.
pub(super) fn bucket(
    address: Address,
    settings: &RemoteSettings,
    wanted: &Wanted,
    tell: &mut Tell<'_>,
) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::Away(error.to_string()))?;
    let place = address.to_string();
    let prefix = object_store::path::Path::parse(&address.prefix)
        .map_err(|error| Fault::Away(format!("{place}: {error}")))?;
    let mut parts = prefix.parts();
    if !parts.all(|part| wanted.may_be_in(part.as_ref())) {
        return Ok(ControlFlow::Continue(()));
    }
    let away = |error: &dyn core::fmt::Display| Fault::Away(format!("{place}: {error}"));
    let remote = Remote::to_read(address, settings.clone());
    let store = runtime
        .block_on(remote.store())
        .map_err(|error| away(&error))?;
    let bucket = Bucket {
        store,
        runtime: &runtime,
        wanted,
    };
    let top = runtime.block_on(store.list_with_delimiter(Some(&prefix)));
    let top = top.map_err(|error| away(&error))?;
    let done = bucket.objects(top.objects, tell)?;
    let mut days = top.common_prefixes;
    days.sort();
    for day in days {
        let name = day.filename().unwrap_or_default();
        if done.is_break() || !wanted.may_be_in(name) {
            continue;
        }
        let objects = runtime
            .block_on(bucket.list(&day))
            .map_err(|error| away(&error))?;
        if bucket.objects(objects, tell)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(done)
}

struct Bucket<'a> {
    store: &'a Arc<dyn ObjectStore>,
    runtime: &'a tokio::runtime::Runtime,
    wanted: &'a Wanted,
}

impl Bucket<'_> {
    async fn list(&self, prefix: &object_store::path::Path) -> Result<Vec<ObjectMeta>, String> {
        let mut objects = Vec::new();
        let mut found = self.store.list(Some(prefix));
        while let Some(object) = found.try_next().await.map_err(|error| error.to_string())? {
            if self.is_meant(&object) {
                objects.push(object);
            }
            if objects.len() > MAX_FILES {
                return Err(format!("more than {MAX_FILES} objects below {prefix}"));
            }
        }
        Ok(objects)
    }

    fn is_meant(&self, object: &ObjectMeta) -> bool {
        let mut parts = object.location.parts();
        object.location.as_ref().ends_with(ENDING)
            && parts.all(|part| self.wanted.may_be_in(part.as_ref()))
    }

    fn objects(&self, mut objects: Vec<ObjectMeta>, tell: &mut Tell<'_>) -> Done {
        objects.retain(|object| self.is_meant(object));
        objects.sort_by(|one, other| one.location.cmp(&other.location));
        let fetched = objects.into_iter().map(|object| async move {
            let whole = match object.size {
                ..=SMALL => Some(self.store.get_range(&object.location, 0..object.size).await),
                _ => None,
            };
            (object, whole)
        });
        let mut fetched = stream::iter(fetched).buffered(AT_ONCE);
        while let Some((object, whole)) = self.runtime.block_on(fetched.next()) {
            let name = object.location.as_ref();
            let source: Arc<dyn Source> = match whole {
                Some(Ok(bytes)) => Arc::new(Memory(bytes)),
                Some(Err(object_store::Error::NotFound { .. })) => {
                    if gone(name, tell).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                    continue;
                }
                Some(Err(error)) => return Err(Fault::Away(format!("{name}: {error}"))),
                None => Arc::new(Object {
                    store: Arc::clone(self.store),
                    path: object.location.clone(),
                    size: object.size,
                    runtime: self.runtime.handle().clone(),
                }),
            };
            if read_one(source, name, self.wanted, tell)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

const _: () = assert!(SMALL <= PIECE as u64);
