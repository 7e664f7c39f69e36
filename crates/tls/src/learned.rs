//! What flows taught: names that are better passed, for the client that showed it.
//!
//! A server that wants the client's own certificate, and a client that believes nobody but the
//! real server, cannot be intercepted. The connection that shows it is lost; the next one of the
//! same source to the same name passes unread.
//!
//! A source can only ever speak for itself: a name is passed for others once enough distinct
//! sources behind the same VPC endpoint agree, and never before.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls_pki_types::UnixTime;

/// What a flow that failed says about the next one like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lesson {
    /// The server asks for a client certificate.
    ClientCertificate,
    /// The client ended the connection after our certificate, without a word. It takes two of
    /// these: people close windows, too.
    ClientLeft,
    /// The client hid the name it wants behind another one, and demands that the server knows it.
    EncryptedHello,
    /// The client says that it does not believe our certificate.
    ClientRejected,
    /// The server's certificate is bad, and the rule says to pass such servers.
    ServerCertificate,
}

impl Lesson {
    /// The word used for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientCertificate => "client_certificate",
            Self::ClientLeft => "client_left",
            Self::EncryptedHello => "encrypted_hello",
            Self::ClientRejected => "client_rejected",
            Self::ServerCertificate => "server_certificate",
        }
    }
}

/// One lesson, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LearnedEntry {
    /// The VPC endpoint.
    pub endpoint: u64,
    /// Who taught it.
    pub source: IpAddr,
    /// The server's name, or its address.
    pub name: String,
    /// What it was.
    pub lesson: Lesson,
    /// Whether the source is passed for it.
    pub is_certain: bool,
    /// Until when it holds, in seconds since 1970.
    pub until: u64,
}

/// Which lessons to forget: those that fit everything that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Which {
    /// Behind this VPC endpoint.
    pub endpoint: Option<u64>,
    /// Taught by this source.
    pub source: Option<IpAddr>,
    /// About this name, in lower case.
    pub name: Option<String>,
}

/// Bounds of what is learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnConfig {
    /// How long a lesson holds. Default 12 hours.
    pub time: Duration,
    /// Distinct sources after which a name is passed for all behind their VPC endpoint; 0: never.
    /// Default 5.
    pub sources: usize,
    /// Lessons kept. Default 65,536.
    pub entries: usize,
}

impl Default for LearnConfig {
    fn default() -> Self {
        Self {
            time: Duration::from_secs(12 * 3600),
            sources: 5,
            entries: 65_536,
        }
    }
}

/// Most lessons of one source: nobody fills the table alone.
const PER_SOURCE: usize = 256;

/// The lessons of the present configuration; a new one begins without any.
#[derive(Debug)]
pub struct Learned {
    config: LearnConfig,
    table: Mutex<Table>,
    /// Lessons in the table, to be read without the lock.
    entries: AtomicUsize,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    names: HashMap<Place, Vec<Entry>>,
    per_source: HashMap<(u64, IpAddr), usize>,
}

/// A name behind a VPC endpoint: two endpoints may use the same addresses.
type Place = (u64, String);

#[derive(Debug, Clone, Copy)]
struct Entry {
    source: IpAddr,
    /// In seconds since 1970.
    until: u64,
    certain: bool,
    lesson: Lesson,
}

impl Default for Learned {
    fn default() -> Self {
        Self::new(LearnConfig::default())
    }
}

impl Learned {
    /// Nothing learned yet.
    #[must_use]
    pub fn new(config: LearnConfig) -> Self {
        Self {
            config,
            table: Mutex::default(),
            entries: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Notes what a flow of `source` behind `endpoint` to `name` taught. True when this is news:
    /// the next such flow is passed.
    pub fn note(
        &self,
        endpoint: u64,
        source: IpAddr,
        name: &str,
        lesson: Lesson,
        now: UnixTime,
    ) -> bool {
        let now = now.as_secs();
        let mut table = self.lock();
        let place = (endpoint, name.to_ascii_lowercase());
        let known = table
            .names
            .get_mut(&place)
            .and_then(|entries| entries.iter_mut().find(|entry| entry.source == source));
        let until = now.saturating_add(self.config.time.as_secs());
        if let Some(entry) = known {
            let before = entry.certain && entry.until > now;
            let again = lesson == Lesson::ClientLeft && entry.until > now;
            *entry = Entry {
                source,
                until,
                lesson,
                certain: before || again || lesson != Lesson::ClientLeft,
            };
            return entry.certain && !before;
        }
        if self.entries.load(Ordering::Relaxed) >= self.config.entries
            || table.held_by(endpoint, source) >= PER_SOURCE
        {
            let left = table.forget(now);
            self.entries.store(left, Ordering::Relaxed);
            if left >= self.config.entries || table.held_by(endpoint, source) >= PER_SOURCE {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
        let certain = lesson != Lesson::ClientLeft;
        table.names.entry(place).or_default().push(Entry {
            source,
            until,
            certain,
            lesson,
        });
        *table.per_source.entry((endpoint, source)).or_default() += 1;
        self.entries.fetch_add(1, Ordering::Relaxed);
        certain
    }

    /// Whether a flow of `source` to `name` is to be passed.
    #[must_use]
    pub fn passes(&self, endpoint: u64, source: IpAddr, name: &str, now: UnixTime) -> bool {
        if self.entries.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let now = now.as_secs();
        let table = self.lock();
        let Some(entries) = table.names.get(&(endpoint, name.to_ascii_lowercase())) else {
            return false;
        };
        let holds = |entry: &&Entry| entry.certain && entry.until > now;
        // There is one entry per source, so entries count sources.
        let agree = entries.iter().filter(holds).count();
        entries
            .iter()
            .filter(holds)
            .any(|entry| entry.source == source)
            || self.config.sources > 0 && agree >= self.config.sources
    }

    /// The lessons that hold at `now`, by endpoint, name and source.
    #[must_use]
    pub fn list(&self, now: UnixTime) -> Vec<LearnedEntry> {
        let now = now.as_secs();
        let table = self.lock();
        let mut list: Vec<_> = table
            .names
            .iter()
            .flat_map(|((endpoint, name), entries)| {
                let holds = entries.iter().filter(|entry| entry.until > now);
                holds.map(|entry| LearnedEntry {
                    endpoint: *endpoint,
                    source: entry.source,
                    name: name.clone(),
                    lesson: entry.lesson,
                    is_certain: entry.certain,
                    until: entry.until,
                })
            })
            .collect();
        drop(table);
        list.sort_by(|a, b| (a.endpoint, &a.name, a.source).cmp(&(b.endpoint, &b.name, b.source)));
        list
    }

    /// Forgets lessons; gives how many.
    pub fn forget(&self, which: &Which, now: UnixTime) -> usize {
        let mut table = self.lock();
        let before = table.forget(now.as_secs());
        let fits = |wanted: Option<bool>| wanted.unwrap_or(true);
        table.names.retain(|(endpoint, name), entries| {
            let here = fits(which.endpoint.map(|wanted| wanted == *endpoint))
                && fits(which.name.as_ref().map(|wanted| wanted == name));
            entries.retain(|entry| !(here && fits(which.source.map(|it| it == entry.source))));
            !entries.is_empty()
        });
        let left = table.forget(now.as_secs());
        self.entries.store(left, Ordering::Relaxed);
        before - left
    }

    /// Lessons in memory.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Lessons that found no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn held_by(&self, endpoint: u64, source: IpAddr) -> usize {
        self.per_source
            .get(&(endpoint, source))
            .copied()
            .unwrap_or(0)
    }

    /// Drops what is over; gives what is left.
    fn forget(&mut self, now: u64) -> usize {
        let mut per_source = HashMap::new();
        self.names.retain(|(endpoint, _), entries| {
            entries.retain(|entry| entry.until > now);
            for entry in &*entries {
                *per_source.entry((*endpoint, entry.source)).or_default() += 1;
            }
            !entries.is_empty()
        });
        self.per_source = per_source;
        self.per_source.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(1_000_000 + seconds))
    }

    fn host(number: u8) -> IpAddr {
        [10, 0, 0, number].into()
    }

    #[test]
    fn threat_47_a_client_can_only_speak_for_itself_until_enough_others_agree() {
        let learned = Learned::default();
        let note = |source, name| learned.note(1, source, name, Lesson::ClientRejected, at(0));
        for _ in 0..1000 {
            note(host(1), "Pinned.Example");
        }
        assert!(learned.passes(1, host(1), "pinned.example", at(1)));
        assert!(!learned.passes(1, host(9), "pinned.example", at(1)));
        assert!(!learned.passes(1, host(1), "other.example", at(1)));
        assert!(
            !learned.passes(2, host(1), "pinned.example", at(1)),
            "another endpoint"
        );
        for source in 2..=4 {
            note(host(source), "pinned.example");
        }
        assert!(
            !learned.passes(1, host(9), "pinned.example", at(1)),
            "four agree"
        );
        note(host(5), "pinned.example");
        assert!(
            learned.passes(1, host(9), "pinned.example", at(1)),
            "five agree"
        );
        assert!(
            !learned.passes(2, host(9), "pinned.example", at(1)),
            "but not elsewhere"
        );
    }

    #[test]
    fn lessons_can_be_listed_and_revoked() {
        let learned = Learned::default();
        for (source, name) in [(1, "a.example"), (1, "b.example"), (2, "a.example")] {
            learned.note(1, host(source), name, Lesson::ClientRejected, at(0));
        }
        learned.note(2, host(1), "a.example", Lesson::ClientLeft, at(0));
        let names = |learned: &Learned| -> Vec<_> {
            let list = learned.list(at(1));
            list.into_iter()
                .map(|one| (one.endpoint, one.name, one.source, one.is_certain))
                .collect()
        };
        assert_eq!(
            names(&learned),
            [
                (1, "a.example".to_owned(), host(1), true),
                (1, "a.example".to_owned(), host(2), true),
                (1, "b.example".to_owned(), host(1), true),
                (2, "a.example".to_owned(), host(1), false),
            ]
        );
        let which = Which {
            endpoint: Some(1),
            name: Some("a.example".to_owned()),
            ..Which::default()
        };
        assert_eq!(learned.forget(&which, at(1)), 2);
        assert_eq!(learned.entries(), 2);
        assert!(!learned.passes(1, host(1), "a.example", at(1)));
        assert!(learned.passes(1, host(1), "b.example", at(1)));
        let of_source = Which {
            source: Some(host(1)),
            ..Which::default()
        };
        assert_eq!(learned.forget(&of_source, at(1)), 2);
        assert_eq!(learned.forget(&Which::default(), at(1)), 0);
        assert!(learned.list(at(1)).is_empty());
    }

    #[test]
    fn a_lesson_ends_with_its_time() {
        let learned = Learned::default();
        assert!(learned.note(1, host(1), "a", Lesson::ClientCertificate, at(0)));
        assert!(
            !learned.note(1, host(1), "a", Lesson::ClientCertificate, at(0)),
            "no news"
        );
        assert!(learned.passes(1, host(1), "a", at(12 * 3600 - 1)));
        assert!(!learned.passes(1, host(1), "a", at(12 * 3600)));
    }

    #[test]
    fn a_client_that_leaves_without_a_word_is_believed_the_second_time() {
        let learned = Learned::default();
        assert!(!learned.note(1, host(1), "a", Lesson::ClientLeft, at(0)));
        assert!(!learned.passes(1, host(1), "a", at(0)));
        assert!(learned.note(1, host(1), "a", Lesson::ClientLeft, at(10)));
        assert!(learned.passes(1, host(1), "a", at(10)));
    }

    #[test]
    fn neither_one_source_nor_many_can_fill_more_than_their_share() {
        let learned = Learned::new(LearnConfig {
            entries: 600,
            ..LearnConfig::default()
        });
        let flood = |source| {
            for name in 0..1000 {
                learned.note(
                    1,
                    host(source),
                    &format!("{name}.example"),
                    Lesson::ClientRejected,
                    at(0),
                );
            }
        };
        flood(1);
        assert_eq!(learned.entries(), PER_SOURCE);
        flood(2);
        flood(3);
        assert_eq!(learned.entries(), 600);
        assert!(learned.refused() > 0);
        // What is over makes room.
        assert!(learned.note(1, host(4), "new", Lesson::ClientRejected, at(13 * 3600)));
        assert_eq!(learned.entries(), 1);
    }
}
