//! Key value stores: small tables that functions read with `cf.kvs()`.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sdk::ByteSize;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::settings::Time;
use crate::snapshot::{self, Snapshot};

/// Largest store, in bytes, as in CloudFront (5 MB), where nothing else is configured.
pub const MAX_STORE: u64 = 5 << 20;
/// What may be configured: all of it is in memory.
const SIZES: (usize, usize) = (1 << 10, 64 << 20);
/// How often a store in AWS is read, where nothing else is configured.
const INTERVAL: Duration = Duration::from_secs(60);
/// What may be configured.
const INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
/// Longest key, in bytes, as in CloudFront.
const MAX_KEY: usize = 512;
/// Longest value, in bytes, as in CloudFront.
const MAX_VALUE: usize = 1024;

/// One `[[interceptor.kvs]]`: where a store comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Keys")]
pub struct StoreSource {
    /// What `cf.kvs(id)` names; a function with a single store need not.
    pub id: String,
    /// Where it is.
    pub place: StorePlace,
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    /// A JSON file: `{"key": "value"}`, or the form that CloudFront imports,
    /// `{"data": [{"key": "k", "value": "v"}]}`. Read again when it changes.
    File(PathBuf),
    /// In AWS. Read again at intervals.
    Remote(RemoteStore),
}

/// A store in AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteStore {
    /// The object or table.
    pub place: RemotePlace,
    /// The region; otherwise that of the environment, or the instance.
    pub region: Option<String>,
    /// Another endpoint than the region's own.
    pub endpoint: Option<String>,
    /// How often it is read.
    pub interval: Duration,
    /// Most bytes that are read.
    pub max_size: usize,
    /// Whether there is no start without it.
    pub required: bool,
}

/// An object or a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemotePlace {
    /// An object with a JSON file, as of [`StorePlace::File`].
    S3 {
        /// The bucket.
        bucket: String,
        /// The object's key.
        key: String,
    },
    /// A table with an item for each key.
    DynamoDb {
        /// The table.
        table: String,
        /// The attribute that is the key.
        key: String,
        /// The attribute that is the value.
        value: String,
    },
}

impl fmt::Display for RemotePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::DynamoDb { table, .. } => write!(f, "the DynamoDB table {table}"),
        }
    }
}

/// A source as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    id: String,
    file: Option<PathBuf>,
    s3: Option<String>,
    dynamodb: Option<String>,
    key_attribute: Option<String>,
    value_attribute: Option<String>,
    region: Option<String>,
    endpoint: Option<String>,
    interval: Option<Time>,
    max_size: Option<ByteSize>,
    required: Option<bool>,
}

impl TryFrom<Keys> for StoreSource {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Self, String> {
        let is_remote = keys.region.is_some()
            || keys.endpoint.is_some()
            || keys.interval.is_some()
            || keys.max_size.is_some()
            || keys.required.is_some();
        let has_attributes = keys.key_attribute.is_some() || keys.value_attribute.is_some();
        let place = match (keys.file, keys.s3, keys.dynamodb) {
            (Some(file), None, None) if !is_remote && !has_attributes => {
                return Ok(Self {
                    id: keys.id,
                    place: StorePlace::File(file),
                });
            }
            (Some(_), None, None) => {
                return Err("a store in a file has the keys id and file only".to_owned());
            }
            (None, Some(url), None) if !has_attributes => {
                let parts = url
                    .strip_prefix("s3://")
                    .and_then(|url| url.split_once('/'));
                let parts = parts.filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
                let (bucket, key) =
                    parts.ok_or_else(|| format!("{url:?} is no object: s3://BUCKET/KEY"))?;
                RemotePlace::S3 {
                    bucket: bucket.to_owned(),
                    key: key.to_owned(),
                }
            }
            (None, None, Some(table)) if !table.is_empty() => RemotePlace::DynamoDb {
                table,
                key: keys.key_attribute.unwrap_or_else(|| "key".to_owned()),
                value: keys.value_attribute.unwrap_or_else(|| "value".to_owned()),
            },
            _ => {
                return Err("a store has one of file, s3 and dynamodb; key-attribute and value-attribute belong to dynamodb".to_owned());
            }
        };
        let interval = keys.interval.map_or(INTERVAL, |time| time.0);
        if interval < INTERVALS.0 || interval > INTERVALS.1 {
            return Err(format!(
                "interval is out of range, allowed are {:?} to {:?}",
                INTERVALS.0, INTERVALS.1
            ));
        }
        let default = usize::try_from(MAX_STORE).unwrap_or(usize::MAX);
        let max_size = keys.max_size.map_or(default, |size| size.0);
        if max_size < SIZES.0 || max_size > SIZES.1 {
            return Err(format!(
                "max-size is out of range, allowed are {} to {}",
                ByteSize(SIZES.0),
                ByteSize(SIZES.1)
            ));
        }
        Ok(Self {
            id: keys.id,
            place: StorePlace::Remote(RemoteStore {
                place,
                region: keys.region,
                endpoint: keys.endpoint,
                interval,
                max_size,
                required: keys.required.unwrap_or(false),
            }),
        })
    }
}

/// A table at one moment. Never changed; a newer one takes its place.
#[derive(Debug, Default)]
pub(crate) struct Store {
    values: BTreeMap<String, String>,
    updated: Option<SystemTime>,
    /// The version, where the store was read from something that has versions.
    etag: Option<String>,
}

impl Store {
    /// Reads a file.
    pub(crate) fn load(file: &Path) -> Result<Self, String> {
        let about = |what: String| format!("{}: {what}", file.display());
        let facts = std::fs::metadata(file).map_err(|error| about(error.to_string()))?;
        if facts.len() > MAX_STORE {
            return Err(about(format!(
                "{} bytes are more than {MAX_STORE}",
                facts.len()
            )));
        }
        let text = std::fs::read(file).map_err(|error| about(error.to_string()))?;
        let mut store = Self::parse(&text).map_err(about)?;
        store.updated = facts.modified().ok();
        Ok(store)
    }

    /// Reads either form.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Pair {
            key: String,
            value: String,
        }
        let object: Map<String, Value> =
            serde_json::from_slice(text).map_err(|error| format!("is no JSON object: {error}"))?;
        let mut values = BTreeMap::new();
        match object.get("data") {
            Some(data @ Value::Array(_)) => {
                let pairs: Vec<Pair> = serde_json::from_value(data.clone()).map_err(|error| {
                    format!("\"data\" holds something else than keys and values: {error}")
                })?;
                values.extend(pairs.into_iter().map(|pair| (pair.key, pair.value)));
            }
            _ => {
                for (key, value) in object {
                    let value = match value {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    values.insert(key, value);
                }
            }
        }
        Self::of(values)
    }

    /// A store of these values, if each is of a size that it may have.
    pub(crate) fn of(values: BTreeMap<String, String>) -> Result<Self, String> {
        for (key, value) in &values {
            if key.is_empty() || key.len() > MAX_KEY || value.len() > MAX_VALUE {
                let start: String = key.chars().take(40).collect();
                return Err(format!(
                    "\"{start}\": a key has 1 to {MAX_KEY} bytes, a value at most {MAX_VALUE}"
                ));
            }
        }
        Ok(Self {
            values,
            updated: None,
            etag: None,
        })
    }

    /// Read just now, as this version.
    pub(crate) fn read_now(mut self, etag: Option<String>) -> Self {
        self.updated = Some(SystemTime::now());
        self.etag = etag;
        self
    }

    pub(crate) fn etag(&self) -> Option<&str> {
        self.etag.as_deref()
    }

    pub(crate) fn has_values_of(&self, other: &Self) -> bool {
        self.values == other.values
    }

    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// What `meta()` tells, as JSON.
    pub(crate) fn meta(&self) -> String {
        let time = self
            .updated
            .map(|time| humantime::format_rfc3339_seconds(time).to_string());
        serde_json::json!({
            "creationDateTime": time,
            "lastUpdatedDateTime": time,
            "keyCount": self.values.len(),
        })
        .to_string()
    }
}

/// The stores of one function, by id; `None` for one that could not be read yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stores(Vec<(String, Option<Arc<Store>>)>);

impl Stores {
    /// Reads all; of those in AWS only what `known` has not.
    pub(crate) fn load(sources: &[StoreSource], known: Option<&Self>) -> Result<Self, String> {
        let read = |(at, source): (usize, &StoreSource)| {
            let store = match &source.place {
                StorePlace::File(file) => Some(Arc::new(Store::load(file)?)),
                StorePlace::Remote(remote) => match known.and_then(|known| known.at(at)) {
                    Some(store) => Some(store),
                    None => first(remote)?,
                },
            };
            Ok((source.id.clone(), store))
        };
        let read = sources.iter().enumerate().map(read);
        read.collect::<Result<_, String>>().map(Self)
    }

    /// The store at a place.
    pub(crate) fn at(&self, at: usize) -> Option<Arc<Store>> {
        self.0.get(at).and_then(|(_, store)| store.clone())
    }

    /// The same with another store at a place.
    pub(crate) fn with(&self, at: usize, store: Arc<Store>) -> Self {
        let mut stores = self.clone();
        if let Some((_, slot)) = stores.0.get_mut(at) {
            *slot = Some(store);
        }
        stores
    }

    /// The store called `id`; without a name, the only one.
    pub(crate) fn find(&self, id: &str) -> Result<&Store, String> {
        let found = match (&self.0[..], id) {
            ([only], "") => Some(only),
            (all, id) => all.iter().find(|(name, _)| name == id),
        };
        match found {
            Some((_, Some(store))) => Ok(store),
            Some((name, None)) => Err(format!("the key value store \"{name}\" is not read yet")),
            None => Err(self.unknown(id)),
        }
    }

    fn unknown(&self, id: &str) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        format!(
            "there is no key value store \"{id}\"; configured are: {}",
            names.join(", ")
        )
    }
}

/// What is there at the start; `None` where it may start without.
fn first(remote: &RemoteStore) -> Result<Option<Arc<Store>>, String> {
    if snapshot::is_left_out() {
        return Ok(None);
    }
    match snapshot::read(remote, None) {
        Ok(Snapshot::New(store)) => Ok(Some(store)),
        Ok(Snapshot::Unchanged) => Ok(None),
        Err(what) if remote.required => Err(what),
        Err(what) => {
            tracing::warn!(%what, "key value store not read, functions that ask for it fail until it is");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_store_are_read() {
        for text in [
            r#"{"a": "1", "b": {"c": 2}}"#,
            r#"{"data": [{"key": "a", "value": "1"}, {"key": "b", "value": "{\"c\":2}"}]}"#,
        ] {
            let store = Store::parse(text.as_bytes()).unwrap();
            assert_eq!(store.value("a"), Some("1"));
            assert_eq!(store.value("b"), Some(r#"{"c":2}"#));
            assert_eq!(store.value("c"), None);
            assert!(store.meta().contains("\"keyCount\":2"));
        }
    }

    #[test]
    fn a_store_keeps_cloudfronts_limits() {
        let long = "k".repeat(MAX_KEY + 1);
        let large = "v".repeat(MAX_VALUE + 1);
        for text in [
            "[]".to_owned(),
            "{".to_owned(),
            r#"{"": "v"}"#.to_owned(),
            format!(r#"{{"{long}": "v"}}"#),
            format!(r#"{{"k": "{large}"}}"#),
            r#"{"data": [{"key": 1, "value": "v"}]}"#.to_owned(),
        ] {
            assert!(Store::parse(text.as_bytes()).is_err(), "{text:.60}");
        }
    }

    #[test]
    fn a_single_store_needs_no_name() {
        let stores = |ids: &[&str]| {
            Stores(
                ids.iter()
                    .map(|id| ((*id).to_owned(), Some(Arc::default())))
                    .collect(),
            )
        };
        assert!(stores(&["a"]).find("").is_ok());
        assert!(stores(&["a", "b"]).find("").is_err());
        assert!(stores(&["a", "b"]).find("b").is_ok());
        let unknown = stores(&["a", "b"]).find("c").unwrap_err();
        assert!(unknown.ends_with("a, b"), "{unknown}");
        let absent = Stores(vec![("a".to_owned(), None)]).find("").unwrap_err();
        assert!(absent.ends_with("is not read yet"), "{absent}");
    }

    #[test]
    fn a_source_is_a_file_an_object_or_a_table() {
        let read = |text: &str| toml::from_str::<StoreSource>(text).map_err(|e| e.to_string());
        let remote = |text: &str| match read(text).unwrap().place {
            StorePlace::Remote(remote) => remote,
            StorePlace::File(file) => panic!("{file:?}"),
        };
        let object = remote("id = 'a'\ns3 = 's3://b/c/d.json'\ninterval = '5s'\nmax-size = '1MiB'");
        assert_eq!(object.place.to_string(), "s3://b/c/d.json");
        assert_eq!((object.interval.as_secs(), object.max_size), (5, 1 << 20));
        let table = remote("id = 'a'\ndynamodb = 't'\nvalue-attribute = 'v'\nrequired = true");
        let (key, value) = ("key".to_owned(), "v".to_owned());
        let place = RemotePlace::DynamoDb {
            table: "t".to_owned(),
            key,
            value,
        };
        assert_eq!((table.place, table.required), (place, true));
        assert_eq!(table.interval, INTERVAL);
        for (text, expected) in [
            ("", "has one of file, s3 and dynamodb"),
            ("file = 'a'\ns3 = 's3://b/c'", "has one of"),
            ("file = 'a'\ninterval = '1m'", "id and file only"),
            ("s3 = 's3://b'", "s3://BUCKET/KEY"),
            ("s3 = 's3://b/c'\nkey-attribute = 'k'", "belong to dynamodb"),
            (
                "dynamodb = 't'\ninterval = '1ms'",
                "interval is out of range",
            ),
            (
                "dynamodb = 't'\nmax-size = '1GiB'",
                "max-size is out of range",
            ),
            ("dynamodb = 't'\nsize = 1", "unknown field"),
        ] {
            let error = read(&format!("id = 'a'\n{text}")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
