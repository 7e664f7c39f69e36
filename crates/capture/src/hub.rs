//! Where the appliance's shards hand over what they see, and readers attach.
//!
//! Nobody attached costs one load of an atomic for each batch of datagrams. With readers, a shard runs each
//! one's [`Filter`] on the packet and copies what passes into that reader's bounded queue; a full
//! queue or an exhausted rate loses the packet and counts it. Nothing here waits.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use wire::geneve;
use wire::gwlb::VpcEndpointId;
use zeroize::Zeroize;

use crate::decrypted::MadeUp;
use crate::filter::{Around, Filter, Verdict};
use crate::names::Names;

/// Most VPC endpoints remembered for the list of interfaces.
const MOST_ENDPOINTS: usize = 1024;
/// The rate of a reader is counted over windows of this many nanoseconds.
const RATE_WINDOW: u64 = 100_000_000;

/// Bounds of the capture service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Readers at once; one more is refused.
    pub readers: usize,
    /// Packets and secrets that may wait for one reader.
    pub queue: usize,
    /// Bytes that may wait for one reader.
    pub queue_bytes: usize,
    /// Bytes per second that one reader may be given; more is lost and counted.
    pub rate: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            readers: 8,
            queue: 16_384,
            queue_bytes: 32 << 20,
            rate: 128 << 20,
        }
    }
}

/// Between whom a packet or a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The client and the appliance: before rewriting.
    Client,
    /// The appliance and the server: after rewriting.
    Server,
}

/// Which way a datagram went, as the appliance sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// It came from the load balancer.
    Received,
    /// It goes back to it.
    Sent,
}

/// What a shard saw, on its way to a reader.
#[derive(Debug)]
pub enum Seen {
    /// A datagram.
    Datagram(Datagram),
    /// A TLS secret.
    Secret(Secret),
    /// A packet made up for what a connection said in clear.
    MadeUp(MadeUp),
}

/// A copy of a datagram.
#[derive(Debug)]
pub struct Datagram {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Which way it went.
    pub direction: Direction,
    /// The VPC endpoint it belongs to.
    pub endpoint: VpcEndpointId,
    /// The load balancer's address and port.
    pub gwlb: SocketAddrV4,
    /// The appliance's address.
    pub local: Ipv4Addr,
    /// From the GENEVE header on.
    pub bytes: Box<[u8]>,
    /// Where in `bytes` the inner IP packet begins.
    pub inner: usize,
}

/// A secret of one TLS session, as the NSS key log format has it. It is wiped when it goes.
pub struct Secret {
    /// The leg it belongs to.
    pub side: Side,
    /// Which of the session's secrets it is, as `CLIENT_TRAFFIC_SECRET_0`.
    pub label: String,
    /// The random of the leg's ClientHello.
    pub client_random: [u8; 32],
    /// The secret.
    pub secret: Vec<u8>,
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secret")
            .field("side", &self.side)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

impl Secret {
    /// The line of the NSS key log format, without its newline.
    #[must_use]
    pub fn line(&self) -> String {
        use std::fmt::Write as _;
        let mut line = format!("{} ", self.label);
        for byte in self.client_random {
            let _ = write!(line, "{byte:02x}");
        }
        line.push(' ');
        for byte in &self.secret {
            let _ = write!(line, "{byte:02x}");
        }
        line
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

/// What a reader wants to see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// The appliance's packets.
    #[default]
    Datagrams,
    /// What these legs of intercepted connections say in clear.
    Decrypted {
        /// The leg to the client.
        client: bool,
        /// The leg to the server.
        server: bool,
    },
}

impl Subject {
    fn has(self, side: Side) -> bool {
        match (self, side) {
            (Self::Datagrams, _) => false,
            (Self::Decrypted { client, .. }, Side::Client) => client,
            (Self::Decrypted { server, .. }, Side::Server) => server,
        }
    }
}

/// What a reader wants to be given.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Packets, or what is said in clear.
    pub subject: Subject,
    /// Which packets, by their inner packet.
    pub filter: Filter,
    /// One VPC endpoint, or all.
    pub endpoint: Option<VpcEndpointId>,
    /// TLS secrets too.
    pub secrets: bool,
}

/// Counts of one reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Datagrams that the filter let through.
    pub seen: u64,
    /// Of these, lost.
    pub dropped: u64,
    /// Secrets lost.
    pub secrets_dropped: u64,
}

/// Counts of the whole service since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Readers attached now.
    pub readers: usize,
    /// Readers that were refused because there were too many.
    pub refused: u64,
    /// Datagrams that some filter let through.
    pub seen: u64,
    /// Of these, lost.
    pub dropped: u64,
    /// TLS secrets lost.
    pub secrets_dropped: u64,
}

/// Somebody who is told whether any reader wants TLS secrets.
type SecretsWanted = Box<dyn Fn(bool) + Send + Sync>;

/// Takes from the shards, gives to the readers.
pub struct Hub {
    limits: Limits,
    /// Whether TLS secrets may be given to anyone.
    secrets: bool,
    /// Readers of datagrams.
    attached: AtomicUsize,
    /// Readers of what clients' and servers' legs say in clear.
    decrypting: [AtomicUsize; 2],
    names: OnceLock<Arc<dyn Names>>,
    secrets_wanted: OnceLock<SecretsWanted>,
    readers: ArcSwap<Vec<Arc<Reader>>>,
    /// Held by whoever attaches or detaches; never by a shard.
    changing: Mutex<Past>,
    endpoints: Mutex<BTreeSet<VpcEndpointId>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("limits", &self.limits)
            .field("secrets", &self.secrets)
            .field("readers", &self.readers.load().len())
            .finish_non_exhaustive()
    }
}

/// Counts of readers that are gone.
#[derive(Debug, Default)]
struct Past {
    refused: u64,
    seen: u64,
    dropped: u64,
    secrets_dropped: u64,
}

#[derive(Debug)]
struct Reader {
    wish: Wish,
    queue: mpsc::Sender<Seen>,
    waiting_bytes: AtomicUsize,
    queue_bytes: usize,
    rate: Rate,
    seen: AtomicU64,
    dropped: AtomicU64,
    secrets_dropped: AtomicU64,
}

/// Bytes used in the running window; approximate where shards meet, and without a lock.
#[derive(Debug)]
struct Rate {
    per_window: u64,
    window: AtomicU64,
    used: AtomicU64,
}

/// A reader's end. Dropping it detaches.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    reader: Arc<Reader>,
    queue: mpsc::Receiver<Seen>,
}

/// There are as many readers as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} readers are attached, which is the limit (capture.readers)")]
pub struct TooManyReaders(pub usize);

impl Hub {
    /// A hub without readers. TLS secrets are given to nobody unless `secrets` says so.
    #[must_use]
    pub fn new(limits: Limits, secrets: bool) -> Self {
        Self {
            limits,
            secrets,
            attached: AtomicUsize::new(0),
            decrypting: [const { AtomicUsize::new(0) }; 2],
            names: OnceLock::new(),
            secrets_wanted: OnceLock::new(),
            readers: ArcSwap::default(),
            changing: Mutex::default(),
            endpoints: Mutex::default(),
        }
    }

    /// Whether TLS secrets may be asked for.
    #[must_use]
    pub fn gives_secrets(&self) -> bool {
        self.secrets
    }

    /// Who knows hosts and endpoints, for filters and lists. The first one stays.
    pub fn set_names(&self, names: Arc<dyn Names>) {
        // A second appliance in one process would bring the same words.
        let _ = self.names.set(names);
    }

    /// Who knows hosts and endpoints, if anybody.
    #[must_use]
    pub fn names(&self) -> Option<&Arc<dyn Names>> {
        self.names.get()
    }

    /// Tells `told` each time a reader that wants TLS secrets comes, or the last one goes.
    pub fn on_secrets_wanted(&self, told: impl Fn(bool) + Send + Sync + 'static) {
        let _ = self.secrets_wanted.set(Box::new(told));
    }

    /// Whether any reader wants what this leg of connections says in clear. One load of an atomic.
    #[must_use]
    pub fn wants_decrypted(&self, side: Side) -> bool {
        let [client, server] = &self.decrypting;
        let count = match side {
            Side::Client => client,
            Side::Server => server,
        };
        count.load(Ordering::Relaxed) != 0
    }

    /// Remembers a VPC endpoint for the list of interfaces. For each new flow, not each packet.
    pub fn see_endpoint(&self, endpoint: VpcEndpointId) {
        let mut endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if endpoints.len() < MOST_ENDPOINTS {
            endpoints.insert(endpoint);
        }
    }

    /// The VPC endpoints seen since the start.
    #[must_use]
    pub fn endpoints(&self) -> Vec<VpcEndpointId> {
        let endpoints = self
            .endpoints
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        endpoints.iter().copied().collect()
    }

    /// A shard received or sends a datagram, from its GENEVE header on.
    #[inline]
    pub fn datagram(
        &self,
        direction: Direction,
        datagram: &[u8],
        gwlb: SocketAddrV4,
        local: Ipv4Addr,
    ) {
        if self.is_attached() {
            self.offer(direction, datagram, gwlb, local);
        }
    }

    /// Whether anybody reads. Who comes or goes is noticed a moment later.
    #[inline]
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed) != 0
    }

    #[cold]
    fn offer(&self, direction: Direction, datagram: &[u8], gwlb: SocketAddrV4, local: Ipv4Addr) {
        let Ok(packet) = geneve::Packet::parse(datagram) else {
            return;
        };
        let inner = packet.inner();
        let mut time = 0;
        for reader in self.readers.load().iter() {
            let wish = &reader.wish;
            if wish.subject != Subject::Datagrams || !self.fits(wish, packet.endpoint(), inner) {
                continue;
            }
            if time == 0 {
                time = now();
            }
            reader.give(
                time,
                || {
                    Seen::Datagram(Datagram {
                        time,
                        direction,
                        endpoint: packet.endpoint(),
                        gwlb,
                        local,
                        bytes: datagram.into(),
                        inner: datagram.len() - inner.len(),
                    })
                },
                datagram.len(),
            );
        }
    }

    /// Whether a reader may want a packet. Where the server name decides, it sees for itself.
    fn fits(&self, wish: &Wish, endpoint: VpcEndpointId, inner: &[u8]) -> bool {
        let around = Around {
            endpoint,
            names: self.names.get().map(|names| &**names),
            server_name: None,
        };
        wish.endpoint.is_none_or(|one| one == endpoint)
            && wish.filter.judge(inner, &around) != Verdict::No
    }

    /// What a leg said in clear, as a packet.
    pub fn made_up(&self, packet: MadeUp) {
        for reader in self.readers.load().iter() {
            if reader.wish.subject.has(packet.side)
                && self.fits(&reader.wish, packet.endpoint, &packet.bytes)
            {
                let copy = || {
                    Seen::MadeUp(MadeUp {
                        bytes: packet.bytes.clone(),
                        ..packet
                    })
                };
                reader.give(packet.time, copy, packet.bytes.len());
            }
        }
    }

    /// A TLS session has a new secret.
    pub fn secret(&self, side: Side, label: &str, client_random: &[u8], secret: &[u8]) {
        let Ok(client_random) = <[u8; 32]>::try_from(client_random) else {
            return;
        };
        for reader in self
            .readers
            .load()
            .iter()
            .filter(|reader| reader.wish.secrets)
        {
            let item = Seen::Secret(Secret {
                side,
                label: label.to_owned(),
                client_random,
                secret: secret.to_vec(),
            });
            if reader.queue.try_send(item).is_err() {
                reader.secrets_dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Attaches a reader.
    ///
    /// # Errors
    /// When there are as many readers as may be.
    pub fn attach(self: &Arc<Self>, mut wish: Wish) -> Result<Subscription, TooManyReaders> {
        let mut past = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readers = Vec::clone(&self.readers.load());
        if readers.len() >= self.limits.readers {
            past.refused += 1;
            return Err(TooManyReaders(self.limits.readers));
        }
        wish.secrets &= self.secrets;
        let (sender, queue) = mpsc::channel(self.limits.queue);
        let reader = Arc::new(Reader {
            wish,
            queue: sender,
            waiting_bytes: AtomicUsize::new(0),
            queue_bytes: self.limits.queue_bytes,
            rate: Rate {
                per_window: self.limits.rate / (1_000_000_000 / RATE_WINDOW),
                window: AtomicU64::new(0),
                used: AtomicU64::new(0),
            },
            seen: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            secrets_dropped: AtomicU64::new(0),
        });
        readers.push(Arc::clone(&reader));
        self.replace(readers);
        Ok(Subscription {
            hub: Arc::clone(self),
            reader,
            queue,
        })
    }

    fn detach(&self, reader: &Arc<Reader>) {
        let mut past = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readers = Vec::clone(&self.readers.load());
        readers.retain(|other| !Arc::ptr_eq(other, reader));
        self.replace(readers);
        let counts = reader.counts();
        past.seen += counts.seen;
        past.dropped += counts.dropped;
        past.secrets_dropped += counts.secrets_dropped;
    }

    /// The caller holds `changing`.
    fn replace(&self, readers: Vec<Arc<Reader>>) {
        let count = |fits: &dyn Fn(&Wish) -> bool| {
            readers.iter().filter(|reader| fits(&reader.wish)).count()
        };
        let datagrams = count(&|wish| wish.subject == Subject::Datagrams);
        let secrets = count(&|wish| wish.secrets);
        let decrypting =
            [Side::Client, Side::Server].map(|side| count(&|wish| wish.subject.has(side)));
        self.readers.store(Arc::new(readers));
        self.attached.store(datagrams, Ordering::Relaxed);
        for (place, count) in self.decrypting.iter().zip(decrypting) {
            place.store(count, Ordering::Relaxed);
        }
        if let Some(told) = self.secrets_wanted.get() {
            told(secrets > 0);
        }
    }

    /// Counts since the start.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let past = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let readers = self.readers.load();
        let sum = |count: fn(&Counts) -> u64| -> u64 {
            readers.iter().map(|reader| count(&reader.counts())).sum()
        };
        Totals {
            readers: readers.len(),
            refused: past.refused,
            seen: past.seen + sum(|counts| counts.seen),
            dropped: past.dropped + sum(|counts| counts.dropped),
            secrets_dropped: past.secrets_dropped + sum(|counts| counts.secrets_dropped),
        }
    }
}

impl Reader {
    fn give(&self, time: u64, item: impl FnOnce() -> Seen, size: usize) {
        self.seen.fetch_add(1, Ordering::Relaxed);
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        let fits = waiting.saturating_add(size) <= self.queue_bytes && self.rate.allows(time, size);
        if !fits {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        // A place first: a packet that will be lost is not copied.
        match self.queue.try_reserve() {
            Ok(place) => {
                self.waiting_bytes.fetch_add(size, Ordering::Relaxed);
                place.send(item());
            }
            Err(_) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            seen: self.seen.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            secrets_dropped: self.secrets_dropped.load(Ordering::Relaxed),
        }
    }
}

impl Rate {
    fn allows(&self, time: u64, size: usize) -> bool {
        let window = time / RATE_WINDOW;
        if self.window.swap(window, Ordering::Relaxed) != window {
            self.used.store(0, Ordering::Relaxed);
        }
        self.used.fetch_add(size as u64, Ordering::Relaxed) < self.per_window
    }
}

impl Subscription {
    /// The next thing that was seen; waits for it. None once the hub is gone.
    pub async fn next(&mut self) -> Option<Seen> {
        let seen = self.queue.recv().await;
        let len = match &seen {
            Some(Seen::Datagram(datagram)) => datagram.bytes.len(),
            Some(Seen::MadeUp(packet)) => packet.bytes.len(),
            Some(Seen::Secret(_)) | None => 0,
        };
        self.reader.waiting_bytes.fetch_sub(len, Ordering::Relaxed);
        seen
    }

    /// What this reader saw and lost so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.reader.counts()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.detach(&self.reader);
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::datagram;

    const GWLB: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 40_000);
    const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn hub(limits: Limits) -> Arc<Hub> {
        Arc::new(Hub::new(limits, true))
    }

    fn see(hub: &Hub, datagram: &[u8]) {
        hub.datagram(Direction::Received, datagram, GWLB, LOCAL);
    }

    #[test]
    fn a_reader_gets_what_its_filter_and_endpoint_let_through() {
        let hub = hub(Limits::default());
        let wish = Wish {
            filter: Filter::parse("tcp dst port 443").unwrap(),
            endpoint: Some(VpcEndpointId(7)),
            ..Wish::default()
        };
        let mut subscription = hub.attach(wish).unwrap();
        see(&hub, &datagram(7, 443, b"yes"));
        see(&hub, &datagram(7, 80, b"no"));
        see(&hub, &datagram(8, 443, b"no"));
        see(&hub, b"not GENEVE");
        assert_eq!(subscription.counts().seen, 1);
        let Ok(Seen::Datagram(seen)) = subscription.queue.try_recv() else {
            panic!("nothing came");
        };
        assert!(seen.bytes.ends_with(b"yes"));
        assert_eq!(seen.bytes[seen.inner] >> 4, 4);
    }

    #[test]
    fn threat_65_a_slow_reader_loses_packets_and_nothing_waits_for_it() {
        let hub = hub(Limits {
            queue: 2,
            ..Limits::default()
        });
        let subscription = hub.attach(Wish::default()).unwrap();
        for _ in 0..10 {
            see(&hub, &datagram(1, 443, b""));
        }
        let counts = subscription.counts();
        assert_eq!((counts.seen, counts.dropped), (10, 8));
        drop(subscription);
        let totals = hub.totals();
        assert_eq!((totals.readers, totals.seen, totals.dropped), (0, 10, 8));
    }

    #[test]
    fn threat_65_a_reader_gets_no_more_than_its_rate_and_its_bytes() {
        let one = datagram(1, 443, &[0; 1000]);
        let slow = hub(Limits {
            rate: 10 * 5 * one.len() as u64,
            ..Limits::default()
        });
        let subscription = slow.attach(Wish::default()).unwrap();
        for _ in 0..1000 {
            see(&slow, &one);
        }
        // A window's worth, or two where the clock moved on in between.
        assert!(subscription.counts().dropped >= 1000 - 3 * 5);
        let full = hub(Limits {
            queue_bytes: 3 * one.len(),
            ..Limits::default()
        });
        let subscription = full.attach(Wish::default()).unwrap();
        for _ in 0..10 {
            see(&full, &one);
        }
        assert_eq!(subscription.counts().dropped, 7);
    }

    #[test]
    fn threat_65_secrets_go_only_to_readers_that_ask_where_they_are_allowed() {
        let forbidding = Arc::new(Hub::new(Limits::default(), false));
        let wish = || Wish {
            secrets: true,
            ..Wish::default()
        };
        let mut refused = forbidding.attach(wish()).unwrap();
        forbidding.secret(Side::Client, "CLIENT_RANDOM", &[1; 32], &[2; 48]);
        assert!(refused.queue.try_recv().is_err());

        let allowing = hub(Limits::default());
        let mut other = allowing.attach(Wish::default()).unwrap();
        let mut asking = allowing.attach(wish()).unwrap();
        allowing.secret(Side::Client, "CLIENT_RANDOM", &[1; 32], &[2; 48]);
        assert!(other.queue.try_recv().is_err());
        let Ok(Seen::Secret(secret)) = asking.queue.try_recv() else {
            panic!("no secret came");
        };
        assert!(!format!("{secret:?}").contains("2, 2"));
    }

    #[test]
    fn threat_65_nobody_is_asked_for_secrets_while_no_reader_wants_them() {
        let hub = hub(Limits::default());
        let (tell, told) = std::sync::mpsc::channel();
        hub.on_secrets_wanted(move |wanted| tell.send(wanted).unwrap());
        let other = hub.attach(Wish::default()).unwrap();
        assert!(!told.recv().unwrap());
        let asking = hub.attach(Wish {
            secrets: true,
            ..Wish::default()
        });
        assert!(told.recv().unwrap());
        drop(asking);
        assert!(!told.recv().unwrap());
        drop(other);
    }

    #[test]
    fn one_reader_too_many_is_refused() {
        let hub = hub(Limits {
            readers: 1,
            ..Limits::default()
        });
        let first = hub.attach(Wish::default()).unwrap();
        assert_eq!(hub.attach(Wish::default()).unwrap_err(), TooManyReaders(1));
        drop(first);
        assert!(hub.attach(Wish::default()).is_ok());
        assert_eq!(hub.totals().refused, 1);
    }
}
