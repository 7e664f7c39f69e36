//! Key value stores in AWS: read as a whole at intervals, never while a function waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws::{Environment, ObjectSource, Region, SnapshotSettings, TableSource};

use crate::kvs::{RemotePlace, RemoteStore, Store};

static IS_OFFLINE: AtomicBool = AtomicBool::new(false);
static NOT_ASKED: AtomicUsize = AtomicUsize::new(0);

/// From here on, files of functions are read in this process without asking AWS for their stores: for
/// commands that look at a configuration and do nothing else. Functions find such stores not read yet.
pub fn stay_offline() {
    IS_OFFLINE.store(true, Ordering::Relaxed);
}

/// How many stores were not asked for because of [`stay_offline`].
#[must_use]
pub fn stores_not_asked() -> usize {
    NOT_ASKED.load(Ordering::Relaxed)
}

/// Whether a store is not to be asked for; counts it.
pub(crate) fn is_left_out() -> bool {
    let is_offline = IS_OFFLINE.load(Ordering::Relaxed);
    NOT_ASKED.fetch_add(usize::from(is_offline), Ordering::Relaxed);
    is_offline
}

/// What reading gave.
pub(crate) enum Snapshot {
    /// It is as it was.
    Unchanged,
    /// Another one.
    New(Arc<Store>),
}

/// Reads a store; `known` is what was read before. Blocks, on a thread and a runtime of its own: the
/// caller may be a thread with or without a runtime.
pub(crate) fn read(source: &RemoteStore, known: Option<&Store>) -> Result<Snapshot, String> {
    let run = || -> Result<Snapshot, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let result = runtime.block_on(ask(source, known));
        // A name that is being looked up must not hold the caller.
        runtime.shutdown_timeout(Duration::ZERO);
        result
    };
    let outcome = std::thread::scope(|scope| scope.spawn(run).join());
    outcome
        .unwrap_or_else(|_panic| Err("the thread failed".to_owned()))
        .map_err(|what| format!("{}: {what}", source.place))
}

async fn ask(source: &RemoteStore, known: Option<&Store>) -> Result<Snapshot, String> {
    let region = source.region.as_deref().map(|name| {
        Region::new(name).ok_or_else(|| format!("{name:?} is no region, expected eu-central-1"))
    });
    let settings = SnapshotSettings {
        region: region.transpose()?,
        endpoint: source.endpoint.clone(),
        environment: Environment::of_process(),
        most: source.max_size,
    };
    let text = |error: aws::AwsError| error.to_string();
    match &source.place {
        RemotePlace::S3 { bucket, key } => {
            let object = ObjectSource::new(bucket, key, settings).map_err(text)?;
            let etag = known.and_then(|store| store.etag());
            let Some(version) = object.read(etag).await.map_err(text)? else {
                return Ok(Snapshot::Unchanged);
            };
            let store = Store::parse(&version.body)?;
            Ok(Snapshot::New(Arc::new(store.read_now(version.etag))))
        }
        RemotePlace::DynamoDb { table, key, value } => {
            let table = TableSource::new(table, (key, value), settings).map_err(text)?;
            let store = Store::of(table.read().await.map_err(text)?)?;
            if known.is_some_and(|known| known.has_values_of(&store)) {
                return Ok(Snapshot::Unchanged);
            }
            Ok(Snapshot::New(Arc::new(store.read_now(None))))
        }
    }
}
