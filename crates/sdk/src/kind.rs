//! How a kind of interceptor is named in the config and made from it.

use core::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::{ConfigTable, Interceptor};

/// A kind of interceptor: what `use = "..."` in an `[[interceptor]]` of the config names.
#[derive(Clone, Copy)]
pub struct InterceptorKind {
    /// The value of `use`: kebab-case.
    pub name: &'static str,
    /// What it does, in one sentence, for `flowdog check` and the docs.
    pub summary: &'static str,
    /// Makes one from the keys of its table, without those every interceptor has (`name`, `use`,
    /// `on-error`).
    pub build: fn(&ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault>,
}

impl fmt::Debug for InterceptorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InterceptorKind")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a config, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigFault {
    /// The key at fault, as a path inside the table: `request[2].name`.
    pub key: Option<String>,
    /// What is wrong with it.
    pub message: String,
    /// What is allowed instead.
    pub allowed: Option<String>,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(allowed) = &self.allowed {
            write!(f, "; allowed: {allowed}")?;
        }
        Ok(())
    }
}

impl ConfigFault {
    /// The value of `key` is wrong.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: Some(key.into()),
            message: message.into(),
            allowed: None,
        }
    }

    /// The same fault, saying what is allowed.
    #[must_use]
    pub fn allowed(mut self, allowed: impl Into<String>) -> Self {
        self.allowed = Some(allowed.into());
        self
    }
}

/// Reads a table into a config struct. Give the struct `#[serde(deny_unknown_fields, rename_all =
/// "kebab-case")]`, so that a misspelt key is a fault and not ignored.
///
/// # Errors
/// A [`ConfigFault`] that names the key.
pub fn from_table<T: DeserializeOwned>(table: &ConfigTable) -> Result<T, ConfigFault> {
    serde_path_to_error::deserialize(toml::Value::Table(table.clone())).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        fault_of(&path, inner.message())
    })
}

/// Serde's texts, taken apart: "unknown field `a`, expected one of `b`, `c`",
/// "missing field `a`", "invalid type: integer `1`, expected a string".
fn fault_of(path: &str, message: &str) -> ConfigFault {
    let path = if path == "." { "" } else { path };
    let below = |key: &str| {
        let parent = path
            .strip_suffix(key)
            .map_or(path, |parent| parent.trim_end_matches('.'));
        if parent.is_empty() {
            key.to_owned()
        } else {
            format!("{parent}.{key}")
        }
    };
    let message = message.trim();
    let (what, allowed) = match message.split_once(", expected ") {
        Some((what, allowed)) => (
            what,
            Some(allowed.trim_start_matches("one of ").replace('`', "")),
        ),
        None => (message, None),
    };
    if let Some(key) = what.strip_prefix("unknown field ") {
        return ConfigFault {
            key: Some(below(key.trim_matches('`'))),
            message: "unknown key".to_owned(),
            allowed,
        };
    }
    if let Some(key) = what.strip_prefix("missing field ") {
        return ConfigFault {
            key: Some(below(key.trim_matches('`'))),
            message: "missing key".to_owned(),
            allowed,
        };
    }
    ConfigFault {
        key: (!path.is_empty()).then(|| path.to_owned()),
        message: what.replace('`', "\""),
        allowed,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields, rename_all = "kebab-case")]
    struct Config {
        #[serde(rename = "max-size")]
        _max_size: u32,
        #[serde(default, rename = "mode")]
        _mode: Mode,
        #[serde(default, rename = "edit")]
        _edits: Vec<Edit>,
    }

    #[derive(Debug, Default, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        #[default]
        Fast,
        Slow,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Edit {
        #[serde(rename = "name")]
        _name: String,
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (text, fault) in [
            (
                "max-size = 1\nmaxsize = 2",
                "maxsize: unknown key; allowed: max-size, mode, edit",
            ),
            ("", "max-size: missing key"),
            (
                "max-size = \"1\"",
                "max-size: invalid type: string \"1\"; allowed: u32",
            ),
            (
                "max-size = 1\nmode = \"medium\"",
                "mode: unknown variant \"medium\"; allowed: fast or slow",
            ),
            (
                "max-size = 1\n[[edit]]\nname = \"a\"\n[[edit]]\nname = 1",
                "edit[1].name: invalid type: integer \"1\"; allowed: a string",
            ),
            (
                "max-size = 1\n[[edit]]\nnmae = \"a\"",
                "edit[0].nmae: unknown key; allowed: name",
            ),
        ] {
            let fault_found = from_table::<Config>(&text.parse().unwrap()).unwrap_err();
            assert_eq!(fault_found.to_string(), fault, "{text}");
        }
        assert!(from_table::<Config>(&"max-size = 1".parse().unwrap()).is_ok());
    }
}
