//! Sessions that clients resume with us, each in a scope of its own.
//!
//! A resumed session skips the certificate, and with it the check on which a decision rested. So a ticket
//! is good only where nothing that led to the decision has changed: the same client behind the same VPC
//! endpoint, the same server address and name, the same rule and its policy, the same minted leaf, the
//! same protocol. All of that is hashed into the [`Scope`], and the scope is authenticated with the
//! ticket: in any other place it does not decrypt, and the handshake is a full one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::{digest, rand};
use rustls::ServerConfig;
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::time_provider::TimeProvider;

/// Where a session may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Scope([u8; 32]);

impl Scope {
    /// The scope of a flow: who speaks to whom, behind which VPC endpoint, under which rule.
    #[must_use]
    pub fn new(endpoint: u64, client: IpAddr, server: SocketAddr, rule: &str) -> Self {
        Self([0; 32]).with(&[
            &endpoint.to_be_bytes(),
            client.to_string().as_bytes(),
            server.to_string().as_bytes(),
            rule.as_bytes(),
        ])
    }

    /// A narrower one.
    #[must_use]
    pub(crate) fn with(self, parts: &[&[u8]]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&self.0);
        for part in parts {
            // The length keeps apart what stands side by side.
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut scope = [0; 32];
        scope.copy_from_slice(context.finish().as_ref());
        Self(scope)
    }
}

/// How often sessions were resumed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resumptions {
    /// By clients, with us.
    pub client: u64,
    /// By us, with servers.
    pub server: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    client: AtomicU64,
    server: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, client: bool, server: bool) {
        self.client.fetch_add(u64::from(client), Ordering::Relaxed);
        self.server.fetch_add(u64::from(server), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Resumptions {
        Resumptions {
            client: self.client.load(Ordering::Relaxed),
            server: self.server.load(Ordering::Relaxed),
        }
    }
}

/// Each ticket key encrypts for so long, and decrypts for as long again; then it is gone, and with it
/// the forward secrecy of older sessions is back. In seconds.
const TURN: u64 = 6 * 3600;

/// Sessions of clients of TLS 1.2 without tickets.
const SESSION_IDS: usize = 1024;

/// The memory of the client legs: ticket keys that turn, and sessions by id.
pub(crate) struct Tickets {
    keys: Mutex<Keys>,
    by_id: Arc<ServerSessionMemoryCache>,
    clock: Arc<dyn TimeProvider>,
}

#[derive(Default)]
struct Keys {
    current: Option<Key>,
    previous: Option<Key>,
}

struct Key {
    name: [u8; KEY_NAME],
    key: Arc<RandomizedNonceKey>,
    /// In seconds since 1970.
    since: u64,
}

const KEY_NAME: usize = 8;

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl Key {
    fn make(now: u64) -> Option<Self> {
        let (mut name, mut bytes) = ([0; KEY_NAME], zeroize::Zeroizing::new([0; 32]));
        rand::fill(&mut name).ok()?;
        rand::fill(bytes.as_mut()).ok()?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, bytes.as_ref()).ok()?;
        Some(Self {
            name,
            key: Arc::new(key),
            since: now,
        })
    }

    fn is_within(&self, now: u64, age: u64) -> bool {
        now.saturating_sub(self.since) < age
    }
}

impl Tickets {
    pub(crate) fn new(clock: Arc<dyn TimeProvider>) -> Arc<Self> {
        Arc::new(Self {
            keys: Mutex::default(),
            by_id: ServerSessionMemoryCache::new(SESSION_IDS),
            clock,
        })
    }

    /// Lets a configuration resume sessions, and only those of this scope.
    pub(crate) fn allow(self: &Arc<Self>, config: &mut ServerConfig, scope: Scope) {
        config.ticketer = Arc::new(Scoped {
            tickets: Arc::clone(self),
            scope,
        });
        config.session_storage = Arc::new(Scoped {
            tickets: Arc::clone(self),
            scope,
        });
        // What browsers use up when they open the next connections.
        config.send_tls13_tickets = 2;
    }

    /// The key to encrypt with, or the one of that name to decrypt with.
    fn key(&self, name: Option<&[u8]>) -> Option<([u8; KEY_NAME], Arc<RandomizedNonceKey>)> {
        let now = self.clock.current_time()?.as_secs();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if !keys
            .current
            .as_ref()
            .is_some_and(|key| key.is_within(now, TURN))
        {
            keys.previous = keys.current.take();
            keys.current = Key::make(now);
        }
        let fresh = |key: &&Key| key.is_within(now, 2 * TURN);
        keys.previous = keys.previous.take().filter(|key| fresh(&key));
        let found = match name {
            None => keys.current.as_ref(),
            Some(name) => [&keys.current, &keys.previous]
                .into_iter()
                .flatten()
                .find(|key| key.name == name),
        };
        found.map(|key| (key.name, Arc::clone(&key.key)))
    }
}

/// The memory as one scope sees it.
#[derive(Debug)]
struct Scoped {
    tickets: Arc<Tickets>,
    scope: Scope,
}

impl ProducesTickets for Scoped {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TURN as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.tickets.key(None)?;
        let mut sealed = plain.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(self.scope.0), &mut sealed)
            .ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(KEY_NAME)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (_, key) = self.tickets.key(Some(name))?;
        let mut opened = sealed.to_vec();
        let plain = key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(self.scope.0),
                &mut opened,
            )
            .ok()?;
        Some(plain.to_vec())
    }
}

impl Scoped {
    fn place(&self, key: &[u8]) -> Vec<u8> {
        [&self.scope.0, key].concat()
    }
}

impl StoresServerSessions for Scoped {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        self.tickets.by_id.put(self.place(&key), value)
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.tickets.by_id.get(&self.place(key))
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.tickets.by_id.take(&self.place(key))
    }

    fn can_cache(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls_pki_types::UnixTime;

    use super::*;

    #[derive(Debug)]
    struct Clock(AtomicU64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            let now = self.0.load(Ordering::Relaxed);
            Some(UnixTime::since_unix_epoch(Duration::from_secs(now)))
        }
    }

    fn scope(rule: &str) -> Scope {
        let server = "192.0.2.1:443".parse().unwrap();
        Scope::new(1, [10, 0, 0, 1].into(), server, rule)
    }

    fn scoped(tickets: &Arc<Tickets>, rule: &str) -> Scoped {
        Scoped {
            tickets: Arc::clone(tickets),
            scope: scope(rule),
        }
    }

    #[test]
    fn threat_42_a_ticket_opens_in_its_own_scope_only() {
        let tickets = Tickets::new(Arc::new(Clock(AtomicU64::new(1_000_000))));
        let ticket = scoped(&tickets, "a").encrypt(b"secret").unwrap();
        assert_eq!(scoped(&tickets, "a").decrypt(&ticket).unwrap(), b"secret");
        assert_eq!(scoped(&tickets, "b").decrypt(&ticket), None);
        for at in 0..ticket.len() {
            let mut bent = ticket.clone();
            bent[at] ^= 1;
            assert_eq!(scoped(&tickets, "a").decrypt(&bent), None, "{at}");
            assert_eq!(scoped(&tickets, "a").decrypt(&ticket[..at]), None);
        }
        // Sessions by id as well.
        assert!(scoped(&tickets, "a").put(vec![1], vec![2]));
        assert_eq!(scoped(&tickets, "a").get(&[1]), Some(vec![2]));
        assert_eq!(scoped(&tickets, "b").get(&[1]), None);
        // Another appliance, or another configuration, has other keys.
        let others = Tickets::new(Arc::new(Clock(AtomicU64::new(1_000_000))));
        assert_eq!(scoped(&others, "a").decrypt(&ticket), None);
    }

    #[test]
    fn threat_42_ticket_keys_turn_and_are_forgotten() {
        let clock = Arc::new(Clock(AtomicU64::new(1_000_000)));
        let tickets = Tickets::new(Arc::<Clock>::clone(&clock));
        let scoped = scoped(&tickets, "a");
        let first = scoped.encrypt(b"1").unwrap();
        clock.0.fetch_add(TURN, Ordering::Relaxed);
        let second = scoped.encrypt(b"2").unwrap();
        assert_ne!(first[..KEY_NAME], second[..KEY_NAME]);
        assert_eq!(scoped.decrypt(&first).unwrap(), b"1");
        clock.0.fetch_add(TURN, Ordering::Relaxed);
        assert_eq!(scoped.decrypt(&first), None);
        assert_eq!(scoped.decrypt(&second).unwrap(), b"2");
        clock.0.fetch_add(2 * TURN, Ordering::Relaxed);
        assert_eq!(scoped.decrypt(&second), None, "also after a long silence");
    }

    #[test]
    fn every_part_of_a_scope_counts() {
        let base = scope("a");
        let server = "192.0.2.1:443".parse().unwrap();
        for other in [
            scope("b"),
            Scope::new(2, [10, 0, 0, 1].into(), server, "a"),
            Scope::new(1, [10, 0, 0, 2].into(), server, "a"),
            Scope::new(
                1,
                [10, 0, 0, 1].into(),
                "192.0.2.1:444".parse().unwrap(),
                "a",
            ),
            base.with(&[b"x"]),
        ] {
            assert_ne!(base, other);
        }
        assert_ne!(base.with(&[b"a", b"b"]), base.with(&[b"ab"]));
        assert_ne!(base.with(&[b"a", b""]), base.with(&[b"a"]));
    }
}
