//! From entries to objects: who goes into which, and when one is full.

use std::collections::BTreeMap;
use std::io::{self, Write as _};

use bytes::Bytes;

use crate::entry::Entry;
use crate::har::Writer;
use crate::key::{Facts, Template};
use crate::object::{Compression, Packer};

/// Groups of entries with objects of their own in one batch; entries of further hosts share one. Hosts
/// are what peers say, and each object costs a request.
const MAX_GROUPS: usize = 64;
/// What stands for those further hosts.
const OTHER: &str = "other";

/// An object that is ready to be written.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) key: String,
    pub(crate) data: Bytes,
    /// How many of the entries are in it.
    pub(crate) entries: usize,
}

/// Makes objects of entries.
#[derive(Debug)]
pub(crate) struct Packing {
    pub(crate) template: Template,
    pub(crate) compression: Compression,
    /// Bytes of an object before compression, after which the next one begins.
    pub(crate) object_size: usize,
    /// What no other process has.
    pub(crate) id: String,
    pub(crate) writer: Writer,
}

impl Packing {
    /// Entries that share objects, in the order in which they came.
    pub(crate) fn group(&self, entries: Vec<Entry>) -> Vec<Vec<Entry>> {
        let mut groups: BTreeMap<(String, u64), Vec<Entry>> = BTreeMap::new();
        for entry in entries {
            let mut group = (self.host(&entry), 0);
            if self.template.is_by_endpoint() {
                group.1 = entry.flow.endpoint.0;
            }
            if groups.len() >= MAX_GROUPS && !groups.contains_key(&group) {
                OTHER.clone_into(&mut group.0);
            }
            groups.entry(group).or_default().push(entry);
        }
        groups.into_values().collect()
    }

    fn host(&self, entry: &Entry) -> String {
        if self.template.is_by_host() {
            let host = entry.request.host().unwrap_or_default();
            host.to_ascii_lowercase()
        } else {
            String::new()
        }
    }

    /// An object of as many of the entries, which share objects, as go into one: at least one. The
    /// same first entry gives the same name.
    pub(crate) fn pack(&self, entries: &[Entry]) -> io::Result<Object> {
        let first = entries.first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut out = Counted {
            packer: Packer::new(self.compression),
            bytes: 0,
        };
        self.writer.begin(&mut out)?;
        let mut taken = 0;
        let mut line = Vec::new();
        for entry in entries {
            line.clear();
            self.writer.write(&mut line, entry, taken == 0)?;
            // At once: an encoder's call costs as much for three bytes as for a thousand.
            out.write_all(&line)?;
            taken += 1;
            if out.bytes >= self.object_size {
                break;
            }
        }
        self.writer.end(&mut out)?;
        let key = self.template.fill(&Facts {
            at: first.began,
            host: &self.host(first),
            endpoint: &first.flow.endpoint.to_string(),
            id: &format!("{}-{}", self.id, first.number),
        });
        Ok(Object {
            key: format!("{key}.har{}", self.compression.extension()),
            data: out.packer.finish()?.into(),
            entries: taken,
        })
    }
}

/// Knows how much was written before it was made smaller.
struct Counted {
    packer: Packer,
    bytes: usize,
}

impl io::Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.packer.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
