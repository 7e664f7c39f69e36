//! The keys of `use = "parquet"`.

use core::time::Duration;

use records::RedactionConfig;
use sdk::{ByteSize, ConfigFault, ConfigTable, Filter, from_table};
use serde::Deserialize;

use super::columns::Compression;
use crate::config::{Time, period, place, remote, within};
use crate::store::{Place, RemoteSettings};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Keys {
    to: String,
    when: Option<Filter>,
    rows: usize,
    every: Time,
    partitions: usize,
    memory: ByteSize,
    compression: Compression,
    region: Option<String>,
    endpoint: Option<String>,
    show_fields: Vec<String>,
    show_parameters: Vec<String>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            to: String::new(),
            when: None,
            rows: 50_000,
            every: Time(Duration::from_secs(60)),
            partitions: 100,
            memory: ByteSize(64 << 20),
            compression: Compression::default(),
            region: None,
            endpoint: None,
            show_fields: Vec::new(),
            show_parameters: Vec::new(),
        }
    }
}

/// What is configured, checked.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) place: Place,
    pub(super) remote: RemoteSettings,
    pub(super) when: Option<Filter>,
    /// Rows of a file, at most.
    pub(super) rows: usize,
    /// How long a row waits for others, at most.
    pub(super) every: Duration,
    /// Files that grow at the same time.
    pub(super) partitions: usize,
    /// Bytes of memory for everything that is not written yet.
    pub(super) memory: usize,
    pub(super) compression: Compression,
    /// Secrets that are shown.
    pub(super) redaction: RedactionConfig,
}

impl Settings {
    pub(super) fn read(table: &ConfigTable) -> Result<Self, ConfigFault> {
        let keys: Keys = from_table(table)?;
        let place = place(&keys.to)?;
        within("rows", keys.rows, 1, 1_000_000)?;
        within("partitions", keys.partitions, 1, 10_000)?;
        within("memory", keys.memory.0, 1 << 20, 16 << 30)?;
        period(keys.every)?;
        Ok(Self {
            place,
            remote: remote(keys.region, keys.endpoint)?,
            when: keys.when,
            rows: keys.rows,
            every: keys.every.0,
            partitions: keys.partitions,
            memory: keys.memory.0,
            compression: keys.compression,
            redaction: RedactionConfig {
                show_fields: keys.show_fields,
                show_parameters: keys.show_parameters,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, start) in [
            ("", "to: is missing; allowed: an absolute folder"),
            ("to = 'tables'", "to: \"tables\" is no place"),
            (
                "to = '/a'\nrows = 0",
                "rows: 0 is out of range; allowed: 1 to",
            ),
            ("to = '/a'\nevery = '10ms'", "every: 10ms is out of range"),
            ("to = '/a'\npartitions = 0", "partitions: 0 is out of range"),
            ("to = '/a'\nmemory = '1B'", "memory: 1 is out of range"),
            (
                "to = '/a'\ncompression = 'zstd'",
                "compression: unknown variant",
            ),
            ("to = '/a'\nregion = 'x/y'", "region: \"x/y\" is no region"),
            ("to = '/a'\nkey = 'b'", "key: unknown key"),
        ] {
            let fault = Settings::read(&config.parse().unwrap()).unwrap_err();
            assert!(fault.to_string().starts_with(start), "{fault}");
            assert!(fault.allowed.is_some(), "{fault}");
        }
        assert!(Settings::read(&"to = 's3://b/p'".parse().unwrap()).is_ok());
    }
}
