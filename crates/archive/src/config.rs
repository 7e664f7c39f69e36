//! The keys of `use = "har"`, and those that everything with a place for objects has.

use core::time::Duration;

use aws::{Environment, Region};
use records::RedactionConfig;
use sdk::{ByteSize, ConfigFault, ConfigTable, Filter, from_table};
use serde::{Deserialize, Deserializer, de};

use crate::key::Template;
use crate::object::Compression;
use crate::store::{ALLOWED, Place, RemoteSettings};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Keys {
    to: String,
    key: String,
    when: Option<Filter>,
    entries: usize,
    every: Time,
    object_size: ByteSize,
    body: ByteSize,
    memory: ByteSize,
    messages: bool,
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
            key: "{date}/{endpoint}/{time}-{id}".to_owned(),
            when: None,
            entries: 1000,
            every: Time(Duration::from_secs(60)),
            object_size: ByteSize(32 << 20),
            body: ByteSize(64 << 10),
            memory: ByteSize(64 << 20),
            messages: true,
            compression: Compression::default(),
            region: None,
            endpoint: None,
            show_fields: Vec::new(),
            show_parameters: Vec::new(),
        }
    }
}

/// A number and a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Duration);

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            de::Error::custom(format!(
                "{text:?} is no time, expected a number and a unit: \"60s\""
            ))
        })
    }
}

/// What is configured, checked.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    pub(crate) remote: RemoteSettings,
    pub(crate) template: Template,
    pub(crate) when: Option<Filter>,
    /// Entries of an object, at most.
    pub(crate) entries: usize,
    /// How long an entry waits for others, at most.
    pub(crate) every: Duration,
    /// Bytes of an object before compression, after which the next one begins.
    pub(crate) object_size: usize,
    /// Bytes that are kept of a body.
    pub(crate) body: usize,
    /// Bytes of memory for everything that is not written yet.
    pub(crate) memory: usize,
    /// Whether messages of WebSockets are read.
    pub(crate) messages: bool,
    pub(crate) compression: Compression,
    /// Secrets that are shown.
    pub(crate) redaction: RedactionConfig,
}

impl Settings {
    pub(crate) fn read(table: &ConfigTable) -> Result<Self, ConfigFault> {
        let keys: Keys = from_table(table)?;
        let place = place(&keys.to)?;
        let template = Template::parse(&keys.key).map_err(|error| {
            ConfigFault::new("key", error.to_string()).allowed(
                "a relative path with {id}, and if you like {date}, {hour}, {time}, {endpoint}, {host}",
            )
        })?;
        within("entries", keys.entries, 1, 100_000)?;
        within("object-size", keys.object_size.0, 64 << 10, 1 << 30)?;
        within("body", keys.body.0, 0, 16 << 20)?;
        within("memory", keys.memory.0, 1 << 20, 16 << 30)?;
        period(keys.every)?;
        let remote = remote(keys.region, keys.endpoint)?;
        Ok(Self {
            place,
            remote,
            template,
            when: keys.when,
            entries: keys.entries,
            every: keys.every.0,
            object_size: keys.object_size.0,
            body: keys.body.0,
            memory: keys.memory.0,
            messages: keys.messages,
            compression: keys.compression,
            redaction: RedactionConfig {
                show_fields: keys.show_fields,
                show_parameters: keys.show_parameters,
            },
        })
    }
}

/// Where objects go, as the key `to` says.
pub(crate) fn place(to: &str) -> Result<Place, ConfigFault> {
    if to.is_empty() {
        return Err(ConfigFault::new("to", "is missing").allowed(ALLOWED));
    }
    to.parse()
        .map_err(|error| ConfigFault::new("to", format!("{error}")).allowed(ALLOWED))
}

/// The keys `region` and `endpoint`.
pub(crate) fn remote(
    region: Option<String>,
    endpoint: Option<String>,
) -> Result<RemoteSettings, ConfigFault> {
    let region = match region {
        None => None,
        Some(name) => Some(Region::new(&name).ok_or_else(|| {
            ConfigFault::new("region", format!("{name:?} is no region"))
                .allowed("a region's name, such as \"eu-central-1\"")
        })?),
    };
    let is_url = |url: &String| url.starts_with("https://") || url.starts_with("http://");
    if endpoint.as_ref().is_some_and(|url| !is_url(url)) {
        let fault = ConfigFault::new("endpoint", "is no URL");
        return Err(fault.allowed("a URL that begins with https:// or http://"));
    }
    Ok(RemoteSettings {
        region,
        endpoint,
        environment: Environment::of_process(),
    })
}

/// The key `every`: how long something waits before it is written.
pub(crate) fn period(every: Time) -> Result<(), ConfigFault> {
    if (Duration::from_secs(1)..=Duration::from_secs(86_400)).contains(&every.0) {
        return Ok(());
    }
    let fault = ConfigFault::new("every", format!("{:?} is out of range", every.0));
    Err(fault.allowed("1s to 1d"))
}

/// Whether the number of a key is in its range.
pub(crate) fn within(
    key: &str,
    value: usize,
    least: usize,
    most: usize,
) -> Result<(), ConfigFault> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let fault = ConfigFault::new(key, format!("{value} is out of range"));
    Err(fault.allowed(format!("{least} to {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, start) in [
            ("", "to: is missing; allowed: an absolute folder"),
            ("to = 'har'", "to: \"har\" is no place"),
            ("to = '/a'\nkey = '../{id}'", "key: it is no relative path"),
            ("to = '/a'\nkey = '{date}'", "key: it lacks {id}"),
            (
                "to = '/a'\nentries = 0",
                "entries: 0 is out of range; allowed: 1 to",
            ),
            ("to = '/a'\nevery = '10ms'", "every: 10ms is out of range"),
            (
                "to = '/a'\nbody = '1GiB'",
                "body: 1073741824 is out of range",
            ),
            ("to = '/a'\nregion = 'x/y'", "region: \"x/y\" is no region"),
            ("to = '/a'\nendpoint = 'h:1'", "endpoint: is no URL"),
            (
                "to = '/a'\ncompression = 'br'",
                "compression: unknown variant",
            ),
            ("to = '/a'\nbucket = 'b'", "bucket: unknown key"),
        ] {
            let fault = Settings::read(&config.parse().unwrap()).unwrap_err();
            assert!(fault.to_string().starts_with(start), "{fault}");
            assert!(fault.allowed.is_some(), "{fault}");
        }
        assert!(Settings::read(&"to = 's3://b/p'".parse().unwrap()).is_ok());
    }
}
