//! From entries to archives: who goes into which, and when one is complete.
//!
//! Entries are packed as they come. What they held goes back at once, and an archive that grows holds
//! little more than what it will be in the end.

use core::time::Duration;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::sync::Arc;

use crate::budget::{Budget, Share};
use crate::entry::Line;
use crate::files::File;
use crate::har::Writer;
use crate::key::{Facts, Template};
use crate::object::{Compression, Packer};

/// Archives that grow at the same time; entries of further hosts and endpoints share one more. Hosts
/// are what peers say, and each object costs a request.
const MAX_OPEN: usize = 128;
/// What stands for those further ones.
const OTHER: &str = "other";

/// How archives are made.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) template: Template,
    pub(crate) compression: Compression,
    /// Entries of an archive, at most.
    pub(crate) entries: usize,
    /// How long an archive grows, at most.
    pub(crate) every: Duration,
    /// Bytes of an archive before compression, after which the next one begins.
    pub(crate) object_size: usize,
    /// What no other process has.
    pub(crate) id: String,
}

/// Makes archives of entries. Takes the time as an argument.
#[derive(Debug)]
pub(crate) struct Packing {
    rules: Rules,
    budget: Arc<Budget>,
    open: BTreeMap<Group, Archive>,
}

/// Entries that share archives: the host and the endpoint, as far as names of objects have them;
/// `None` for those that found no place of their own.
type Group = Option<(String, u64)>;

/// An archive that grows.
#[derive(Debug)]
struct Archive {
    key: String,
    packer: Packer,
    entries: usize,
    /// Bytes before compression.
    bytes: usize,
    since: Duration,
    share: Share,
}

/// Entries that cannot be archived.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) entries: usize,
    pub(crate) error: io::Error,
}

impl Packing {
    /// Archives that grow hold memory of `budget`.
    pub(crate) fn new(rules: Rules, budget: &Arc<Budget>) -> Self {
        Self {
            rules,
            budget: Arc::clone(budget),
            open: BTreeMap::new(),
        }
    }

    /// Adds an entry; gives the archive back that is complete with it.
    pub(crate) fn add(&mut self, line: &Line, now: Duration) -> Result<Option<File>, Lost> {
        let group = self.group(line);
        if !self.open.contains_key(&group) {
            let archive = self.begin(line, &group, now).map_err(lost(1))?;
            self.open.insert(group.clone(), archive);
        }
        let Some(archive) = self.open.get_mut(&group) else {
            return Ok(None);
        };
        let text = line.bytes(archive.entries == 0);
        // At once: an encoder's call costs as much for three bytes as for a thousand.
        archive.packer.write_all(text).map_err(lost(1))?;
        archive.entries += 1;
        archive.bytes += text.len();
        let has_room = archive.share.set(archive.packer.memory());
        let is_complete = archive.entries >= self.rules.entries
            || archive.bytes >= self.rules.object_size
            // What is complete can be written, and then its memory is free.
            || !has_room;
        if is_complete {
            self.complete(&group).transpose()
        } else {
            Ok(None)
        }
    }

    /// Archives that have grown for long enough.
    pub(crate) fn due(&mut self, now: Duration) -> Vec<Result<File, Lost>> {
        let every = self.rules.every;
        self.complete_all(|archive| now.saturating_sub(archive.since) >= every)
    }

    /// All archives.
    pub(crate) fn all(&mut self) -> Vec<Result<File, Lost>> {
        self.complete_all(|_| true)
    }

    fn group(&self, line: &Line) -> Group {
        let endpoint = if self.rules.template.is_by_endpoint() {
            line.endpoint.0
        } else {
            0
        };
        let group = Some((line.host.clone(), endpoint));
        let has_place = self.open.len() < MAX_OPEN || self.open.contains_key(&group);
        group.filter(|_| has_place)
    }

    fn begin(&self, line: &Line, group: &Group, now: Duration) -> io::Result<Archive> {
        let (host, endpoint) = match group {
            Some((host, _)) => (host.as_str(), line.endpoint.to_string()),
            None => (OTHER, OTHER.to_owned()),
        };
        let key = self.rules.template.fill(&Facts {
            at: line.began,
            host,
            endpoint: &endpoint,
            id: &format!("{}-{}", self.rules.id, line.number),
        });
        let mut packer = Packer::new(self.rules.compression);
        packer.write_all(Writer::BEGIN.as_bytes())?;
        Ok(Archive {
            key: format!("{key}.har{}", self.rules.compression.extension()),
            packer,
            entries: 0,
            bytes: 0,
            since: now,
            share: Share::of(&self.budget),
        })
    }

    fn complete_all(&mut self, is_due: impl Fn(&Archive) -> bool) -> Vec<Result<File, Lost>> {
        let due = self.open.iter().filter(|(_, archive)| is_due(archive));
        let due: Vec<Group> = due.map(|(group, _)| group.clone()).collect();
        due.iter()
            .filter_map(|group| self.complete(group))
            .collect()
    }

    fn complete(&mut self, group: &Group) -> Option<Result<File, Lost>> {
        let mut archive = self.open.remove(group)?;
        let data = archive.packer.write_all(Writer::END.as_bytes());
        let data = data.and_then(|()| archive.packer.finish());
        Some(data.map_err(lost(archive.entries)).map(|data| {
            let mut share = archive.share;
            share.set(data.len());
            File {
                key: archive.key,
                data: data.into(),
                items: archive.entries,
                held: vec![share],
            }
        }))
    }
}

fn lost(entries: usize) -> impl FnOnce(io::Error) -> Lost {
    move |error| Lost { entries, error }
}
