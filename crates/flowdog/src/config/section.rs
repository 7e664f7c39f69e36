//! One table of the document while it is read: typed look-ups, each with its fault, and at the
//! end a fault for each key that nobody asked for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Collector;
use super::value;
use sdk::ByteSize;

/// A table of the document and the name it has there.
#[derive(Debug)]
pub(crate) struct Section<'d> {
    /// `gwlb`, `rule[2]`; empty for the document itself.
    path: String,
    /// Where the table begins; faults about what is missing point here.
    offset: usize,
    table: Option<&'d DeTable<'d>>,
    known: BTreeSet<&'static str>,
}

/// A value of the document with the key it stands under.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'d> {
    pub(crate) key: String,
    pub(crate) offset: usize,
    pub(crate) value: &'d DeValue<'d>,
}

impl<'d> Section<'d> {
    pub(crate) fn new(
        path: impl Into<String>,
        offset: usize,
        table: Option<&'d DeTable<'d>>,
    ) -> Self {
        Self {
            path: path.into(),
            offset,
            table,
            known: BTreeSet::new(),
        }
    }

    /// Where the table begins.
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    /// The whole name of one of its keys.
    pub(crate) fn name_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// The value under a key, which thereby is a known one.
    pub(crate) fn entry(&mut self, key: &'static str) -> Option<Entry<'d>> {
        self.known.insert(key);
        self.peek(key)
    }

    /// The value under a key, without making the key a known one.
    pub(crate) fn peek(&self, key: &str) -> Option<Entry<'d>> {
        let (name, value) = self.table?.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Entry {
            key: self.name_of(key),
            offset: name.span().start,
            value: value.get_ref(),
        })
    }

    /// A table inside; an absent one reads as empty.
    pub(crate) fn table(&mut self, key: &'static str, faults: &mut Collector<'_>) -> Self {
        let Some(entry) = self.entry(key) else {
            return Section::new(self.name_of(key), self.offset, None);
        };
        let table = entry.value.as_table();
        if table.is_none() {
            let allowed = format!("a table, [{}]", entry.key);
            faults.add(entry.offset, &entry.key, entry.found(), Some(&allowed));
        }
        Section::new(entry.key, entry.offset, table)
    }

    /// An array of tables inside (`[[rule]]`); each is named with its number, from 1.
    pub(crate) fn tables(&mut self, key: &'static str, faults: &mut Collector<'_>) -> Vec<Self> {
        let Some(entry) = self.entry(key) else {
            return Vec::new();
        };
        let Some(items) = entry.value.as_array() else {
            faults.add(
                entry.offset,
                &entry.key,
                entry.found(),
                Some(&format!("tables, [[{key}]]")),
            );
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = format!("{}[{}]", entry.key, index + 1);
            let offset = item.span().start;
            match item.get_ref().as_table() {
                Some(table) => sections.push(Section::new(path, offset, Some(table))),
                None => faults.add(
                    offset,
                    path,
                    "is not a table",
                    Some(&format!("tables, [[{key}]]")),
                ),
            }
        }
        sections
    }

    /// A string that `parse` understands.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        faults: &mut Collector<'_>,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let entry = self.entry(key)?;
        let parsed = entry.value.as_str().and_then(parse);
        if parsed.is_none() {
            faults.add(entry.offset, &entry.key, entry.found(), Some(allowed));
        }
        parsed
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        words: &[(&str, T)],
        faults: &mut Collector<'_>,
    ) -> Option<T> {
        let allowed = list(words.iter().map(|(word, _)| *word));
        self.parsed(key, &allowed, faults, |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, meaning)| *meaning)
        })
    }

    /// Any string.
    pub(crate) fn string(
        &mut self,
        key: &'static str,
        faults: &mut Collector<'_>,
    ) -> Option<String> {
        self.parsed(key, "a string", faults, |text| Some(text.to_owned()))
    }

    /// A path; a relative one starts from the folder of the configuration file.
    pub(crate) fn path(
        &mut self,
        key: &'static str,
        faults: &mut Collector<'_>,
    ) -> Option<PathBuf> {
        let folder = faults.folder();
        self.parsed(key, "the path of a file", faults, |text| {
            (!text.is_empty()).then(|| folder.join(text))
        })
    }

    /// A duration with its unit, within bounds.
    pub(crate) fn duration(
        &mut self,
        key: &'static str,
        low: Duration,
        high: Duration,
        faults: &mut Collector<'_>,
    ) -> Option<Duration> {
        let allowed = format!(
            "a duration with its unit, as \"{}\", from {} to {}",
            humantime::format_duration(low.max(Duration::from_secs(1))),
            humantime::format_duration(low),
            humantime::format_duration(high)
        );
        self.parsed(key, &allowed, faults, |text| {
            value::duration(text).filter(|duration| (low..=high).contains(duration))
        })
    }

    /// A size with its unit, within bounds.
    pub(crate) fn size(
        &mut self,
        key: &'static str,
        low: ByteSize,
        high: ByteSize,
        faults: &mut Collector<'_>,
    ) -> Option<ByteSize> {
        let allowed = format!(
            "a size with its unit (B, KiB, MiB, GiB, kB, MB, GB), from \"{low}\" to \"{high}\""
        );
        self.parsed(key, &allowed, faults, |text| {
            text.parse().ok().filter(|size| (low..=high).contains(size))
        })
    }

    /// A whole number within bounds.
    pub(crate) fn number(
        &mut self,
        key: &'static str,
        low: u64,
        high: u64,
        faults: &mut Collector<'_>,
    ) -> Option<u64> {
        let entry = self.entry(key)?;
        let number = entry.integer().and_then(|n| u64::try_from(n).ok());
        let fitting = number.filter(|number| (low..=high).contains(number));
        if fitting.is_none() {
            let allowed = format!("a whole number from {low} to {high}");
            faults.add(entry.offset, &entry.key, entry.found(), Some(&allowed));
        }
        fitting
    }

    /// Several values under one key; a single value needs no brackets.
    pub(crate) fn several<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        faults: &mut Collector<'_>,
        parse: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let entry = self.entry(key)?;
        let mut values = Vec::new();
        match entry.value.as_array() {
            Some(items) => {
                for item in items.iter() {
                    match parse(item.get_ref()) {
                        Some(value) => values.push(value),
                        None => faults.add(
                            item.span().start,
                            &entry.key,
                            found(item.get_ref()),
                            Some(allowed),
                        ),
                    }
                }
                if items.is_empty() {
                    faults.add(
                        entry.offset,
                        &entry.key,
                        "is empty: leave the key out if it is not to restrict anything",
                        Some(allowed),
                    );
                }
            }
            None => match parse(entry.value) {
                Some(value) => values.push(value),
                None => faults.add(entry.offset, &entry.key, entry.found(), Some(allowed)),
            },
        }
        Some(values)
    }

    /// Several values where an empty array means the same as no key at all.
    pub(crate) fn optional_list<T>(
        &mut self,
        key: &'static str,
        allowed: &str,
        faults: &mut Collector<'_>,
        parse: impl Fn(&DeValue<'_>) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.known.insert(key);
        let empty = self
            .peek(key)?
            .value
            .as_array()
            .is_some_and(|items| items.is_empty());
        if empty {
            return Some(Vec::new());
        }
        self.several(key, allowed, faults, parse)
    }

    /// Whether the document has this table.
    pub(crate) fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The whole names of the keys that were asked for.
    pub(crate) fn known_names(&self) -> impl Iterator<Item = String> + '_ {
        self.known.iter().map(|key| self.name_of(key))
    }

    /// The `name` of every table of an array of tables.
    pub(crate) fn declared_names(&self, key: &str) -> BTreeSet<String> {
        let tables = self.peek(key).and_then(|entry| entry.value.as_array());
        tables
            .into_iter()
            .flat_map(|items| items.iter())
            .filter_map(|item| {
                item.get_ref()
                    .get("name")?
                    .get_ref()
                    .as_str()
                    .map(str::to_owned)
            })
            .collect()
    }

    /// Where a path inside the table, as `set[0].name`, stands; the nearest place that exists.
    pub(crate) fn offset_of(&self, path: &str) -> usize {
        let mut segments = path
            .split(['.', '[', ']'])
            .filter(|segment| !segment.is_empty());
        let Some(first) = segments.next().and_then(|first| self.peek(first)) else {
            return self.offset;
        };
        let (mut offset, mut value) = (first.offset, first.value);
        for segment in segments {
            let inner = match value {
                DeValue::Table(table) => table
                    .iter()
                    .find(|(name, _)| name.get_ref() == segment)
                    .map(|(name, value)| (name.span().start, value.get_ref())),
                DeValue::Array(items) => segment
                    .parse::<usize>()
                    .ok()
                    .and_then(|index| items.get(index))
                    .map(|item| (item.span().start, item.get_ref())),
                _ => None,
            };
            let Some(inner) = inner else { break };
            (offset, value) = inner;
        }
        offset
    }

    /// Keys that were never asked for are faults.
    pub(crate) fn refuse_unknown(&self, faults: &mut Collector<'_>) {
        for (name, _) in self.table.into_iter().flat_map(DeTable::iter) {
            let name: &Spanned<_> = name;
            let key: &str = name.get_ref();
            if self.known.contains(key) {
                continue;
            }
            let what = match value::did_you_mean(key, self.known.iter().copied()) {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => "unknown key".to_owned(),
            };
            let allowed = list(self.known.iter().copied());
            faults.add(name.span().start, self.name_of(key), what, Some(&allowed));
        }
    }

    /// The keys that were not asked for, as a table for someone else to read.
    pub(crate) fn remaining(&self) -> toml::Table {
        let mut remaining = toml::Table::new();
        for (name, value) in self.table.into_iter().flat_map(DeTable::iter) {
            let key: &str = name.get_ref();
            if !self.known.contains(key) {
                remaining.insert(key.to_owned(), plain(value.get_ref()));
            }
        }
        remaining
    }
}

impl Entry<'_> {
    /// What stands there, for a message.
    pub(crate) fn found(&self) -> String {
        found(self.value)
    }

    fn integer(&self) -> Option<i64> {
        integer(self.value)
    }
}

/// What stands there, for a message.
pub(crate) fn found(value: &DeValue<'_>) -> String {
    match value {
        // A long value would bury the message that it is quoted in.
        DeValue::String(text) if text.chars().count() > 60 => {
            format!(
                "\"{}…\" is not valid here",
                text.chars().take(60).collect::<String>()
            )
        }
        DeValue::String(text) => format!("\"{text}\" is not valid here"),
        DeValue::Integer(number) => format!("{number} is not valid here"),
        DeValue::Float(number) => format!("{} is not valid here", number.as_str()),
        DeValue::Boolean(value) => format!("{value} is not valid here"),
        DeValue::Datetime(_) => "a date is not valid here".to_owned(),
        DeValue::Array(_) => "an array is not valid here".to_owned(),
        DeValue::Table(_) => "a table is not valid here".to_owned(),
    }
}

/// A whole number of the document.
pub(crate) fn integer(value: &DeValue<'_>) -> Option<i64> {
    let integer = value.as_integer()?;
    i64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn plain(value: &DeValue<'_>) -> toml::Value {
    match value {
        DeValue::String(text) => toml::Value::String(text.to_string()),
        DeValue::Integer(_) => toml::Value::Integer(integer(value).unwrap_or(i64::MAX)),
        DeValue::Float(number) => toml::Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(value) => toml::Value::Boolean(*value),
        DeValue::Datetime(date) => toml::Value::Datetime(*date),
        DeValue::Array(items) => {
            toml::Value::Array(items.iter().map(|item| plain(item.get_ref())).collect())
        }
        DeValue::Table(table) => toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.get_ref().to_string(), plain(value.get_ref())))
                .collect(),
        ),
    }
}

/// Words as a list for a message.
pub(crate) fn list<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    words.into_iter().collect::<Vec<_>>().join(", ")
}
