//! Key value stores: small tables that functions read with `cf.kvs()`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::{Map, Value};

/// Largest store, in bytes, as in CloudFront (5 MB).
pub const MAX_STORE: u64 = 5 << 20;
/// Longest key, in bytes, as in CloudFront.
const MAX_KEY: usize = 512;
/// Longest value, in bytes, as in CloudFront.
const MAX_VALUE: usize = 1024;

/// One `[[interceptor.kvs]]`: where a store comes from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreSource {
    /// What `cf.kvs(id)` names; a function with a single store need not.
    pub id: String,
    /// A JSON file: `{"key": "value"}`, or the form that CloudFront imports,
    /// `{"data": [{"key": "k", "value": "v"}]}`.
    pub file: PathBuf,
}

/// A table at one moment. Never changed; a newer one takes its place.
#[derive(Debug, Default)]
pub(crate) struct Store {
    values: BTreeMap<String, String>,
    updated: Option<SystemTime>,
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
        })
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

/// The stores of one function, by id.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stores(Vec<(String, Arc<Store>)>);

impl Stores {
    /// Reads all.
    pub(crate) fn load(sources: &[StoreSource]) -> Result<Self, String> {
        let read =
            |source: &StoreSource| Ok((source.id.clone(), Arc::new(Store::load(&source.file)?)));
        sources
            .iter()
            .map(read)
            .collect::<Result<_, String>>()
            .map(Self)
    }

    /// The store called `id`; without a name, the only one.
    pub(crate) fn find(&self, id: &str) -> Option<&Store> {
        match (&self.0[..], id) {
            ([(_, only)], "") => Some(only),
            (all, id) => all
                .iter()
                .find(|(name, _)| name == id)
                .map(|(_, store)| &**store),
        }
    }

    pub(crate) fn unknown(&self, id: &str) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| name.as_str()).collect();
        format!(
            "there is no key value store \"{id}\"; configured are: {}",
            names.join(", ")
        )
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
                    .map(|id| ((*id).to_owned(), Arc::default()))
                    .collect(),
            )
        };
        assert!(stores(&["a"]).find("").is_some());
        assert!(stores(&["a", "b"]).find("").is_none());
        assert!(stores(&["a", "b"]).find("b").is_some());
        assert!(stores(&["a", "b"]).unknown("c").ends_with("a, b"));
    }
}
