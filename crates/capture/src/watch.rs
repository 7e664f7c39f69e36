//! From what shards saw to what a reader is shown: sides, flows, sampling, and secrets in front of
//! the packets that need them.
//!
//! A reader of pcapng decrypts a packet only with secrets that stand before it in the file. TLS makes
//! them while the handshake's packets are already there, so packets wait in order behind a
//! handshake whose secrets have not come, for at most [`HOLD`] and within [`HELD`]: whatever
//! happens, order and packets are kept.
//!
//! Time comes in with the packets and with [`Watch::poll`]; nothing here reads a clock.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;

use wire::gwlb::VpcEndpointId;
use wire::ip::{self, Fragment};
use wire::tcp::{Flags, Segment};
use wire::udp;

use crate::filter::{Around, Filter, Verdict};
use crate::hello::{self, Name};
use crate::hub::{Datagram, Direction, Secret, Side};
use crate::names::Names;

/// How long a packet may wait for secrets, in nanoseconds.
pub const HOLD: u64 = 500_000_000;
/// Packets that may wait for secrets.
pub const HELD: usize = 8192;
/// How long a flow's packets may wait for its server name, in nanoseconds.
const NAMELESS: u64 = 10_000_000_000;
/// Packets of one flow that may wait for its server name, and of all flows.
const UNNAMED: usize = 64;
const UNNAMED_IN_ALL: usize = 4096;
/// Flows remembered in each of two generations.
const FLOWS: usize = 32_768;
/// Handshakes remembered until their secrets are there.
const HANDSHAKES: usize = 16_384;

/// What a reader is shown of the datagrams that its filter let through.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which sides of a flow.
    pub sides: Vec<Side>,
    /// Whole datagrams too, as the load balancer exchanged them.
    pub outer: bool,
    /// One of so many flows; 0 and 1 for all.
    pub sample: u32,
    /// Hold packets until their secrets are there.
    pub secrets: bool,
    /// The filter, for the part of it that asks for the server name of connections; the rest has been
    /// seen to where the packets come from.
    pub filter: Filter,
    /// Who knows hosts, for that filter.
    pub names: Option<Arc<dyn Names>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sides: vec![Side::Client, Side::Server],
            outer: false,
            sample: 0,
            secrets: false,
            filter: Filter::default(),
            names: None,
        }
    }
}

/// Something to show.
#[derive(Debug)]
pub enum Item {
    /// A packet.
    Packet(Packet),
    /// A secret of a flow whose packets are shown.
    Secret {
        /// The flow.
        flow: u64,
        /// The secret.
        secret: Secret,
    },
}

/// A datagram that belongs to a flow.
#[derive(Debug)]
pub struct Packet {
    /// The same for all packets of a flow.
    pub flow: u64,
    /// Between whom it went.
    pub side: Side,
    /// The datagram.
    pub datagram: Datagram,
}

/// Sorts what one reader is shown.
#[derive(Debug)]
pub struct Watch {
    options: Options,
    flows: Generations,
    /// Whose handshake a client random belongs to, and how much of it is known.
    handshakes: HashMap<[u8; 32], Handshake>,
    /// Handshakes in the order in which they began, to forget the oldest.
    begun: VecDeque<[u8; 32]>,
    /// Connections whose server name decides and is not known yet, and the order they came in.
    unnamed: HashMap<Key, Unnamed>,
    unnamed_order: VecDeque<Key>,
    unnamed_packets: usize,
    queue: VecDeque<Held>,
}

/// A connection whose ClientHello is not whole yet.
#[derive(Debug, Default)]
struct Unnamed {
    packets: Vec<Datagram>,
    /// What the client has sent, in order.
    said: Vec<u8>,
    /// The sequence number that follows it.
    next: Option<u32>,
}

#[derive(Debug)]
struct Held {
    item: Item,
    /// The handshake whose secrets must come first.
    waits_for: Option<[u8; 32]>,
}

#[derive(Debug)]
struct Handshake {
    flow: u64,
    side: Side,
    /// Labels that have come, as bits of [`label_bit`].
    labels: u8,
    /// Its secrets will not come: the flow is not intercepted.
    given_up: bool,
}

impl Handshake {
    fn is_complete(&self) -> bool {
        self.given_up || self.labels & TLS12 != 0 || self.labels & TLS13 == TLS13
    }
}

const TLS12: u8 = 1;
const TLS13: u8 = 0b11110;

fn label_bit(label: &str) -> u8 {
    match label {
        "CLIENT_RANDOM" => TLS12,
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET" => 0b10,
        "SERVER_HANDSHAKE_TRAFFIC_SECRET" => 0b100,
        "CLIENT_TRAFFIC_SECRET_0" => 0b1000,
        "SERVER_TRAFFIC_SECRET_0" => 0b1_0000,
        _ => 0,
    }
}

/// Addresses and ports in an order that is the same for both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    endpoint: VpcEndpointId,
    protocol: u8,
    low: SocketAddr,
    high: SocketAddr,
}

#[derive(Clone, Debug, Default)]
struct Flow {
    /// The server name; the outer `None` while it is not known.
    server_name: Option<Option<Arc<str>>>,
    /// The client is at `low`; none before the first packet.
    client_is_low: Option<bool>,
    /// The random of the last ClientHello between the client and the appliance.
    client_hello: Option<[u8; 32]>,
    /// The random of the last ClientHello between the appliance and the server.
    server_hello: Option<[u8; 32]>,
}

/// Remembers at least [`FLOWS`] and at most twice as many, without looking for the oldest.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Key, Flow>,
    old: HashMap<Key, Flow>,
}

impl Generations {
    fn at(&mut self, key: Key) -> &mut Flow {
        if !self.young.contains_key(&key) {
            let flow = self.old.remove(&key).unwrap_or_default();
            if self.young.len() >= FLOWS {
                self.old = std::mem::take(&mut self.young);
            }
            self.young.insert(key, flow);
        }
        self.young.entry(key).or_default()
    }
}

/// What can be read off one packet.
struct Reading<'a> {
    /// The sequence number and the bytes of a TCP segment.
    said: Option<(u32, &'a [u8])>,
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
    /// It opens a TCP connection: whoever sends it is the client.
    syn: bool,
    /// It answers that.
    syn_ack: bool,
    /// The random of a TLS ClientHello.
    hello: Option<[u8; 32]>,
}

impl Watch {
    /// Begins to watch.
    #[must_use]
    pub fn new(options: Options) -> Self {
        Self {
            options,
            flows: Generations::default(),
            handshakes: HashMap::new(),
            begun: VecDeque::new(),
            unnamed: HashMap::new(),
            unnamed_order: VecDeque::new(),
            unnamed_packets: 0,
            queue: VecDeque::new(),
        }
    }

    /// Takes a datagram.
    pub fn datagram(&mut self, datagram: Datagram) {
        if !self.options.filter.asks_server_name() {
            self.admit(datagram);
            return;
        }
        let Some(reading) = datagram.bytes.get(datagram.inner..).and_then(read) else {
            return;
        };
        let key = reading.key(datagram.endpoint);
        if reading.syn {
            // A new connection, which may have another name.
            if datagram.direction == Direction::Received {
                self.forget_unnamed(&key);
                self.flows.at(key).server_name = None;
            }
        } else if reading.protocol != 6 {
            self.flows.at(key).server_name = Some(None);
        }
        if let Some(name) = self.flows.at(key).server_name.clone() {
            if self.judge(&datagram, Some(name.as_deref())) == Verdict::Yes {
                self.admit(datagram);
            }
            return;
        }
        match self.judge(&datagram, None) {
            Verdict::Yes => self.admit(datagram),
            Verdict::No => {}
            Verdict::Later => self.wait_for_name(key, datagram),
        }
    }

    fn judge(&self, datagram: &Datagram, server_name: Option<Option<&str>>) -> Verdict {
        let around = Around {
            endpoint: datagram.endpoint,
            names: self.options.names.as_deref(),
            server_name,
        };
        let inner = datagram.bytes.get(datagram.inner..).unwrap_or_default();
        self.options.filter.judge(inner, &around)
    }

    /// Keeps a packet until the ClientHello of its connection is whole.
    fn wait_for_name(&mut self, key: Key, datagram: Datagram) {
        if !self.unnamed.contains_key(&key) {
            self.unnamed_order.push_back(key);
        }
        let time = datagram.time;
        let unnamed = self.unnamed.entry(key).or_default();
        let mut name = Name::NeedMore;
        // The client's side only: flowdog's own hello asks for the same server.
        if datagram.direction == Direction::Received
            && let Some(reading) = datagram.bytes.get(datagram.inner..).and_then(read)
            && let Some((sequence, said)) = reading.said.filter(|(_, said)| !said.is_empty())
            && unnamed.next.is_none_or(|next| next == sequence)
            && (unnamed.next.is_some() || reading.source.port() != reading.server_port())
        {
            let len = u32::try_from(said.len()).unwrap_or(0);
            unnamed.next = Some(sequence.wrapping_add(len));
            unnamed.said.extend_from_slice(said);
            name = hello::server_name(&unnamed.said);
        }
        unnamed.packets.push(datagram);
        self.unnamed_packets += 1;
        let first = unnamed.packets.first().map_or(time, |first| first.time);
        let given_up = unnamed.packets.len() >= UNNAMED
            || unnamed.said.len() > hello::MAX
            || time.saturating_sub(first) >= NAMELESS;
        match name {
            Name::Is(name) => self.name(key, Some(name.into())),
            Name::None => self.name(key, None),
            Name::NeedMore if given_up => self.name(key, None),
            Name::NeedMore => {}
        }
        while self.unnamed_packets > UNNAMED_IN_ALL {
            let Some(oldest) = self.unnamed_order.pop_front() else {
                return;
            };
            self.name(oldest, None);
        }
    }

    /// The name of a connection is known, or it is known that there is none.
    fn name(&mut self, key: Key, name: Option<Arc<str>>) {
        self.flows.at(key).server_name = Some(name.clone());
        for datagram in self.forget_unnamed(&key) {
            if self.judge(&datagram, Some(name.as_deref())) == Verdict::Yes {
                self.admit(datagram);
            }
        }
    }

    fn forget_unnamed(&mut self, key: &Key) -> Vec<Datagram> {
        let Some(unnamed) = self.unnamed.remove(key) else {
            return Vec::new();
        };
        self.unnamed_order.retain(|other| other != key);
        self.unnamed_packets -= unnamed.packets.len();
        unnamed.packets
    }

    /// Takes a datagram that is to be shown, if its flow and side are.
    fn admit(&mut self, datagram: Datagram) {
        let Some(reading) = datagram.bytes.get(datagram.inner..).and_then(read) else {
            return;
        };
        let key = reading.key(datagram.endpoint);
        let low = key.low;
        let high = key.high;
        let flow_id = hash(&key);
        if self.options.sample > 1 && !flow_id.is_multiple_of(u64::from(self.options.sample)) {
            return;
        }
        let flow = self.flows.at(key);
        if reading.syn || reading.syn_ack {
            flow.client_is_low = Some((reading.source == low) == reading.syn);
        }
        // Seen from its middle: servers have the lower port nearly always.
        let client_is_low = *flow
            .client_is_low
            .get_or_insert_with(|| low.port() > high.port());
        let from_client = (reading.source == low) == client_is_low;
        let side = match (datagram.direction, from_client) {
            (Direction::Received, true) | (Direction::Sent, false) => Side::Client,
            (Direction::Received, false) | (Direction::Sent, true) => Side::Server,
        };
        let mut waits_for = None;
        if self.options.secrets {
            let (own, other) = match side {
                Side::Client => (&mut flow.client_hello, flow.server_hello),
                Side::Server => (&mut flow.server_hello, flow.client_hello),
            };
            if let Some(random) = reading.hello {
                *own = Some(random);
                self.begin(random, flow_id, side, other == Some(random));
            } else {
                waits_for = own.filter(|random| self.lacks_secrets(random));
            }
        }
        if !self.options.outer && !self.options.sides.contains(&side) {
            return;
        }
        self.queue.push_back(Held {
            item: Item::Packet(Packet {
                flow: flow_id,
                side,
                datagram,
            }),
            waits_for,
        });
    }

    /// Takes a secret; it goes on if its flow is watched.
    pub fn secret(&mut self, secret: Secret) {
        let Some(handshake) = self.handshakes.get_mut(&secret.client_random) else {
            return;
        };
        if handshake.side != secret.side {
            return;
        }
        handshake.labels |= label_bit(&secret.label);
        let flow = handshake.flow;
        // In front of every packet that waits: they are the ones that may need it.
        self.queue.push_front(Held {
            item: Item::Secret { flow, secret },
            waits_for: None,
        });
    }

    /// The next thing to show. None while the first packet waits for its secrets.
    pub fn poll(&mut self, now: u64) -> Option<Item> {
        let head = self.queue.front()?;
        if let (Some(random), Item::Packet(packet)) = (&head.waits_for, &head.item) {
            let ready = self.queue.len() > HELD
                || now.saturating_sub(packet.datagram.time) >= HOLD
                || !self.lacks_secrets(random);
            if !ready {
                return None;
            }
        }
        self.queue.pop_front().map(|held| held.item)
    }

    /// When [`poll`](Self::poll) shows more even if nothing comes.
    #[must_use]
    pub fn due(&self) -> Option<u64> {
        match &self.queue.front()?.item {
            Item::Packet(packet) => Some(packet.datagram.time.saturating_add(HOLD)),
            Item::Secret { .. } => Some(0),
        }
    }

    fn begin(&mut self, random: [u8; 32], flow: u64, side: Side, passed: bool) {
        if let Some(known) = self.handshakes.get_mut(&random) {
            // The same hello on the other side: it was passed as it came, and has no secrets.
            known.given_up |= passed;
            return;
        }
        if self.begun.len() >= HANDSHAKES
            && let Some(oldest) = self.begun.pop_front()
        {
            self.handshakes.remove(&oldest);
        }
        self.begun.push_back(random);
        self.handshakes.insert(
            random,
            Handshake {
                flow,
                side,
                labels: 0,
                given_up: passed,
            },
        );
    }

    fn lacks_secrets(&self, random: &[u8; 32]) -> bool {
        self.handshakes
            .get(random)
            .is_some_and(|handshake| !handshake.is_complete())
    }
}

impl Reading<'_> {
    fn key(&self, endpoint: VpcEndpointId) -> Key {
        Key::between(endpoint, self.protocol, self.source, self.destination)
    }

    /// Servers have the lower port nearly always.
    fn server_port(&self) -> u16 {
        self.source.port().min(self.destination.port())
    }
}

impl Key {
    fn between(endpoint: VpcEndpointId, protocol: u8, one: SocketAddr, other: SocketAddr) -> Self {
        Self {
            endpoint,
            protocol,
            low: one.min(other),
            high: one.max(other),
        }
    }
}

/// The number of a flow, the same for whichever packets of it and whoever names its ends first.
pub(crate) fn flow_id(
    endpoint: VpcEndpointId,
    protocol: u8,
    one: SocketAddr,
    other: SocketAddr,
) -> u64 {
    hash(&Key::between(endpoint, protocol, one, other))
}

fn hash(key: &Key) -> u64 {
    // The same numbers at every start: a flow can be named in a conversation about two captures.
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn read(inner: &[u8]) -> Option<Reading<'_>> {
    let packet = ip::Packet::parse(inner).ok()?;
    let mut reading = Reading {
        said: None,
        protocol: packet.protocol().0,
        source: SocketAddr::new(packet.src(), 0),
        destination: SocketAddr::new(packet.dst(), 0),
        syn: false,
        syn_ack: false,
        hello: None,
    };
    if !matches!(packet.fragment(), Fragment::Whole) {
        return Some(reading);
    }
    match reading.protocol {
        6 => {
            if let Ok(segment) = Segment::parse(packet.payload()) {
                reading.source.set_port(segment.src_port());
                reading.destination.set_port(segment.dst_port());
                let flags = segment.flags();
                let syn = flags.contains(Flags::SYN);
                reading.syn = syn && !flags.contains(Flags::ACK);
                reading.syn_ack = syn && flags.contains(Flags::ACK);
                reading.hello = client_random(segment.payload());
                reading.said = Some((segment.seq().0, segment.payload()));
            }
        }
        17 => {
            if let Ok(datagram) = udp::Datagram::parse(packet.payload()) {
                reading.source.set_port(datagram.src_port());
                reading.destination.set_port(datagram.dst_port());
            }
        }
        _ => {}
    }
    Some(reading)
}

/// The random of a ClientHello (RFC 8446 §4.1.2) at the beginning of a segment: record type 22,
/// version 3.x, handshake type 1.
fn client_random(payload: &[u8]) -> Option<[u8; 32]> {
    match payload {
        [22, 3, _, _, _, 1, _, _, _, 3, _, rest @ ..] => rest.first_chunk().copied(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{GWLB, LOCAL, Tcp, client_hello, segment, wrapped};

    const CLIENT: u16 = 50_000;
    const SERVER: u16 = 443;

    fn seen(direction: Direction, time: u64, from: u16, to: u16, payload: &[u8]) -> Datagram {
        let tcp = Tcp {
            source: from,
            destination: to,
            syn: false,
            ack: true,
        };
        let inner = segment(tcp, payload);
        let bytes = wrapped(1, &inner);
        Datagram {
            time,
            direction,
            endpoint: VpcEndpointId(1),
            gwlb: GWLB,
            local: LOCAL,
            inner: bytes.len() - inner.len(),
            bytes: bytes.into(),
        }
    }

    fn secret(side: Side, label: &str, random: u8) -> Secret {
        Secret {
            side,
            label: label.to_owned(),
            client_random: [random; 32],
            secret: vec![9; 48],
        }
    }

    fn watch() -> Watch {
        Watch::new(Options {
            secrets: true,
            ..Options::default()
        })
    }

    fn words(watch: &mut Watch, now: u64) -> Vec<String> {
        std::iter::from_fn(|| watch.poll(now))
            .map(|item| match item {
                Item::Packet(packet) => format!("{:?} {}", packet.side, packet.datagram.time),
                Item::Secret { secret, .. } => format!("{:?} {}", secret.side, secret.label),
            })
            .collect()
    }

    #[test]
    fn both_directions_of_a_leg_are_one_side() {
        let mut watch = watch();
        watch.datagram(seen(Direction::Received, 1, CLIENT, SERVER, b"a"));
        watch.datagram(seen(Direction::Sent, 2, CLIENT, SERVER, b"a"));
        watch.datagram(seen(Direction::Received, 3, SERVER, CLIENT, b"b"));
        watch.datagram(seen(Direction::Sent, 4, SERVER, CLIENT, b"b"));
        assert_eq!(
            words(&mut watch, 4),
            ["Client 1", "Server 2", "Server 3", "Client 4"]
        );
    }

    #[test]
    fn packets_wait_in_order_until_the_secrets_of_their_handshake_are_there() {
        let mut watch = watch();
        watch.datagram(seen(
            Direction::Received,
            1,
            CLIENT,
            SERVER,
            &client_hello(1),
        ));
        watch.datagram(seen(Direction::Sent, 2, CLIENT, SERVER, &client_hello(2)));
        watch.datagram(seen(Direction::Received, 3, SERVER, CLIENT, b"sh"));
        watch.datagram(seen(Direction::Received, 4, CLIENT, 80, b"another flow"));
        assert_eq!(words(&mut watch, 4), ["Client 1", "Server 2"]);
        for label in [
            "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
            "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            "CLIENT_TRAFFIC_SECRET_0",
        ] {
            watch.secret(secret(Side::Server, label, 2));
        }
        assert_eq!(words(&mut watch, 5).len(), 3, "secrets, and no packet yet");
        watch.secret(secret(Side::Server, "SERVER_TRAFFIC_SECRET_0", 2));
        assert_eq!(
            words(&mut watch, 5),
            ["Server SERVER_TRAFFIC_SECRET_0", "Server 3", "Client 4"]
        );
    }

    #[test]
    fn secrets_that_never_come_hold_nothing_for_long() {
        let mut watch = watch();
        watch.datagram(seen(
            Direction::Received,
            1,
            CLIENT,
            SERVER,
            &client_hello(1),
        ));
        watch.datagram(seen(Direction::Sent, 2, SERVER, CLIENT, b"sh"));
        assert_eq!(words(&mut watch, HOLD), ["Client 1"]);
        assert_eq!(watch.due(), Some(2 + HOLD));
        assert_eq!(words(&mut watch, 2 + HOLD), ["Client 2"]);
        for time in 0..HELD as u64 + 2 {
            watch.datagram(seen(Direction::Sent, time, SERVER, CLIENT, b"x"));
        }
        assert_eq!(words(&mut watch, 0).len(), 2);
    }

    #[test]
    fn a_flow_that_is_passed_waits_for_no_secrets() {
        let mut watch = watch();
        watch.datagram(seen(
            Direction::Received,
            1,
            CLIENT,
            SERVER,
            &client_hello(1),
        ));
        watch.datagram(seen(Direction::Sent, 2, CLIENT, SERVER, &client_hello(1)));
        watch.datagram(seen(Direction::Received, 3, SERVER, CLIENT, b"sh"));
        assert_eq!(words(&mut watch, 3).len(), 3);
    }

    #[test]
    fn threat_65_secrets_of_flows_that_are_not_watched_are_not_shown() {
        let mut watch = watch();
        watch.datagram(seen(
            Direction::Received,
            1,
            CLIENT,
            SERVER,
            &client_hello(1),
        ));
        watch.secret(secret(Side::Client, "CLIENT_RANDOM", 7));
        watch.secret(secret(Side::Server, "CLIENT_RANDOM", 1));
        assert_eq!(words(&mut watch, 1), ["Client 1"]);
    }

    /// A hello that asks for `name`, and the connection before and behind it.
    fn named(watch: &mut Watch, client: u16, name: &str) {
        let mut hello = vec![1, 0, 0, 0, 3, 3];
        hello.extend([1; 32]);
        hello.extend([0, 0, 2, 0x13, 1, 1, 0]);
        let len = |more: usize| u16::try_from(name.len() + more).unwrap().to_be_bytes();
        for more in [9, 0] {
            hello.extend(len(more));
            if more == 9 {
                hello.extend([0, 0]);
                hello.extend(len(5));
                hello.extend(len(3));
                hello.push(0);
            }
        }
        hello.extend(name.as_bytes());
        let body = u16::try_from(hello.len() - 4).unwrap().to_be_bytes();
        hello[2..4].copy_from_slice(&body);
        let mut record = vec![22, 3, 1];
        record.extend(u16::try_from(hello.len()).unwrap().to_be_bytes());
        record.extend(hello);
        let (first, second) = record.split_at(60);
        watch.datagram(seen(Direction::Received, 1, client, SERVER, b""));
        watch.datagram(seen(Direction::Sent, 2, SERVER, client, b""));
        let mut part = |time, at: usize, bytes: &[u8]| {
            let mut datagram = seen(Direction::Received, time, client, SERVER, bytes);
            let place = datagram.inner + 24;
            let sequence = 1000 + u32::try_from(at).unwrap();
            datagram.bytes[place..place + 4].copy_from_slice(&sequence.to_be_bytes());
            watch.datagram(datagram);
        };
        part(3, 0, first);
        // Sent twice: known already.
        part(4, 0, first);
        part(5, 60, second);
        watch.datagram(seen(Direction::Sent, 6, SERVER, client, b"hello"));
    }

    #[test]
    fn a_connection_is_shown_whole_or_not_at_all_once_its_server_name_is_known() {
        let mut watch = Watch::new(Options {
            filter: Filter::parse("sni *.example.com").unwrap(),
            ..Options::default()
        });
        named(&mut watch, 50_000, "www.example.com");
        assert_eq!(words(&mut watch, 9).len(), 6);
        named(&mut watch, 50_001, "www.example.org");
        assert_eq!(words(&mut watch, 9), [""; 0]);
        // Whoever says nothing that can be understood has no name.
        for time in 0..UNNAMED as u64 + 5 {
            watch.datagram(seen(Direction::Received, time, 50_002, SERVER, b""));
        }
        assert!(words(&mut watch, 9).is_empty());
        assert_eq!(watch.unnamed_packets, 0);
        assert!(watch.unnamed.is_empty() && watch.unnamed_order.is_empty());
    }

    #[test]
    fn threat_70_what_waits_for_server_names_is_bounded() {
        let mut watch = Watch::new(Options {
            filter: Filter::parse("not sni x").unwrap(),
            ..Options::default()
        });
        let count = u16::try_from(UNNAMED_IN_ALL).unwrap() + 100;
        for port in 0..count {
            watch.datagram(seen(Direction::Received, 1, 20_000 + port, SERVER, b""));
        }
        assert!(watch.unnamed_packets <= UNNAMED_IN_ALL);
        assert_eq!(words(&mut watch, 1).len(), 100, "the oldest have no name");
    }

    #[test]
    fn a_sample_has_whole_flows() {
        let mut watch = Watch::new(Options {
            sample: 4,
            ..Options::default()
        });
        let mut shown = 0;
        for port in 0..400 {
            watch.datagram(seen(Direction::Received, 1, 50_000 + port, SERVER, b"a"));
            watch.datagram(seen(Direction::Received, 1, SERVER, 50_000 + port, b"b"));
            let count = words(&mut watch, 1).len();
            assert!(count == 0 || count == 2);
            shown += count / 2;
        }
        assert!((60..140).contains(&shown), "{shown} of 400");
    }
}
