//! The keys of the configuration that every function has.

use std::path::PathBuf;
use std::time::Duration;

use sdk::{ByteSize, ConfigFault, ConfigTable, from_table};
use serde::{Deserialize, Deserializer, de};

use crate::engine::Limits;
use crate::function::{Function, Settings};
use crate::kvs::StoreSource;
use crate::pool::MAX_STACK;

/// What bounds a call, as it is written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LimitKeys {
    pub(crate) cpu: Option<Time>,
    pub(crate) memory: Option<ByteSize>,
    pub(crate) stack: Option<ByteSize>,
    pub(crate) give_up: Option<Time>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RealmKind {
    #[default]
    Auto,
    Fresh,
}

/// A time with its unit: `1ms`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no time, expected a number and a unit: \"1ms\""
            ))
        })
    }
}

impl LimitKeys {
    /// The limits, where each is in its range.
    pub(crate) fn limits(self) -> Result<Limits, ConfigFault> {
        let default = Limits::default();
        let time = |key: &str, time: Option<Time>, default, allowed: (u64, u64)| {
            let time = time.map_or(default, |time| time.0);
            let range = Duration::from_micros(allowed.0)..=Duration::from_micros(allowed.1);
            if range.contains(&time) {
                return Ok(time);
            }
            let fault = ConfigFault::new(key, format!("{time:?} is out of range"));
            Err(fault.allowed(format!("{:?} to {:?}", range.start(), range.end())))
        };
        let size = |key: &str, size: Option<ByteSize>, default, least: usize, most: usize| {
            let size = size.map_or(default, |size| size.0);
            if (least..=most).contains(&size) {
                return Ok(size);
            }
            let fault = ConfigFault::new(key, format!("{} is out of range", ByteSize(size)));
            Err(fault.allowed(format!("{} to {}", ByteSize(least), ByteSize(most))))
        };
        Ok(Limits {
            cpu: time("cpu", self.cpu, default.cpu, (50, 1_000_000))?,
            memory: size("memory", self.memory, default.memory, 64 << 10, 256 << 20)?,
            stack: size("stack", self.stack, default.stack, 32 << 10, MAX_STACK)?,
            give_up: time(
                "give-up",
                self.give_up,
                default.give_up,
                (20_000, 10_000_000),
            )?,
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    file: PathBuf,
    cpu: Option<Time>,
    memory: Option<ByteSize>,
    stack: Option<ByteSize>,
    give_up: Option<Time>,
    #[serde(default)]
    realm: RealmKind,
    #[serde(default)]
    kvs: Vec<StoreSource>,
}

impl Function {
    /// A function of the keys `file`, `cpu`, `memory`, `stack`, `give-up`, `realm` and `kvs`, which
    /// mean what they mean for `cloudfront-function`.
    ///
    /// # Errors
    /// What is wrong with a key, the file or a store.
    pub fn from_table(table: &ConfigTable) -> Result<Self, ConfigFault> {
        let keys: Keys = from_table(table)?;
        let limits = LimitKeys {
            cpu: keys.cpu,
            memory: keys.memory,
            stack: keys.stack,
            give_up: keys.give_up,
        };
        let settings = Settings {
            limits: limits.limits()?,
            stores: keys.kvs,
            own_realm: matches!(keys.realm, RealmKind::Fresh),
            ..Settings::default()
        };
        Self::of_config(keys.file, settings)
    }

    /// As [`load`](Self::load), for a configuration.
    pub(crate) fn of_config(file: PathBuf, settings: Settings) -> Result<Self, ConfigFault> {
        Self::load(file, settings).map_err(|error| {
            ConfigFault::new(if error.is_source { "file" } else { "kvs" }, error.what)
        })
    }
}
