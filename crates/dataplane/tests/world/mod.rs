//! Two hosts and the data plane between them, in virtual time.
//!
//! Both hosts are smoltcp; the load balancer is the GENEVE header around their packets; the shell is a
//! splice that copies bytes between the legs. Every run is a function of its seed.
#![allow(dead_code, reason = "every test file uses its own part of the world")]
#![allow(unreachable_pub, reason = "a module shared by test files")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test may fail by panicking"
)]
#![allow(
    clippy::allow_attributes,
    reason = "an unused part is an error in one test file and none in another"
)]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::bench::*;
use flowdog_dataplane::{
    Config, Dataplane, Disposition, Event, FirstBytes, FlowId, Instant, Leg, ReadOutcome, Verdict,
    WriteOutcome,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as HostInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use wire::ip;

/// A network card with two queues.
#[derive(Default)]
struct Card {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut bytes = vec![0; len];
        let result = f(&mut bytes);
        self.0.push_back(bytes);
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;
    fn receive(&mut self, _: HostInstant) -> Option<(Received, Sending<'_>)> {
        let bytes = self.received.pop_front()?;
        Some((Received(bytes), Sending(&mut self.sent)))
    }
    fn transmit(&mut self, _: HostInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

struct Host {
    card: Card,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Host {
    fn new(address: IpAddr, seed: u64) -> Self {
        let mut card = Card::default();
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut card, HostInstant::ZERO);
        let prefix = if address.is_ipv4() { 8 } else { 16 };
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address.into(), prefix)).unwrap();
        });
        let mut sockets = SocketSet::new(Vec::new());
        let buffer = || SocketBuffer::new(vec![0; 65_535]);
        let handle = sockets.add(Socket::new(buffer(), buffer()));
        Self {
            card,
            interface,
            sockets,
            handle,
        }
    }
    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut::<Socket<'_>>(self.handle)
    }
    fn poll(&mut self, now: Instant) {
        let now = HostInstant::from_micros(now.0 as i64);
        self.interface.poll(now, &mut self.card, &mut self.sockets);
    }
    fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let now = HostInstant::from_micros(now.0 as i64);
        let at = self.interface.poll_at(now, &self.sockets)?;
        Some(Instant::from_micros(at.total_micros().max(0) as u64))
    }
}

/// What the shell does with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// There is no flowdog: packets go on as they are.
    Absent,
    Pass,
    Bypass,
    Intercept,
    /// Asks for more bytes and never decides: holding must end by itself.
    NeverDecide,
    Silent,
}

/// One thing that happens to one packet on its way to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Drop,
    Duplicate,
    Delay,
    Corrupt,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub policy: Policy,
    pub v6: bool,
    pub bytes: usize,
    pub loss: f64,
    pub reorder: f64,
    pub duplicate: f64,
    pub corrupt: f64,
    pub delay: Duration,
    /// What happens to the nth packet on its way to the data plane, and from there on.
    pub faults: Vec<(Hop, usize, Fault)>,
    /// The server says so many bytes before it listens.
    pub banner: usize,
    /// The verdict on the flow comes with the so-manieth packet.
    pub verdict_at: usize,
    /// First bytes that the shell wants to see before it decides.
    pub wants: usize,
    pub dialogue: Dialogue,
}

/// Where something happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hop {
    Before,
    After,
}

/// How the two applications talk, and how that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialogue {
    /// The client hears what it says, and both close.
    Echo,
    /// Nobody listens.
    Refused,
    /// The server has read everything and gives up.
    ServerAborts,
    /// The client has heard everything and gives up.
    ClientAborts,
}

/// How a connection ended for an application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Finished,
    Reset,
    /// By itself.
    Aborted,
}

/// What the two applications got to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub client: (Vec<u8>, End),
    pub server: (Vec<u8>, End),
}

impl Scenario {
    pub fn clean(seed: u64, policy: Policy) -> Self {
        Self {
            seed,
            policy,
            v6: false,
            bytes: 20_000,
            loss: 0.0,
            reorder: 0.0,
            duplicate: 0.0,
            corrupt: 0.0,
            delay: Duration::from_millis(5),
            faults: Vec::new(),
            banner: 0,
            verdict_at: 0,
            wants: 1,
            dialogue: Dialogue::Echo,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Middle,
    Client,
    Server,
}

#[derive(Default)]
struct Splice {
    /// Bytes read from a leg that the other leg had no room for: to the server, to the client.
    pending: [Vec<u8>; 2],
    finished: [bool; 2],
    shut: [bool; 2],
}

pub struct World {
    scenario: Scenario,
    random: SmallRng,
    pub now: Instant,
    client: Host,
    server: Host,
    pub dataplane: Dataplane,
    /// A flow without a verdict.
    undecided: Option<FlowId>,
    network: BinaryHeap<Reverse<(Instant, u64, Place, Vec<u8>)>>,
    order: u64,
    arrivals: usize,
    departures: usize,
    splices: BTreeMap<FlowId, Splice>,
    pub relayed: usize,
    pub changed: usize,
    pub seen: Option<Seen>,
}

impl World {
    pub fn new(scenario: Scenario) -> Self {
        let (client_addr, server_addr) = if scenario.v6 {
            (client6(), server6())
        } else {
            (client(), server())
        };
        let mut client = Host::new(client_addr.ip(), scenario.seed.wrapping_mul(3) + 1);
        let mut server = Host::new(server_addr.ip(), scenario.seed.wrapping_mul(5) + 2);
        if scenario.dialogue != Dialogue::Refused {
            server.socket().listen(server_addr.port()).unwrap();
        }
        let Host {
            interface,
            sockets,
            handle,
            ..
        } = &mut client;
        sockets
            .get_mut::<Socket<'_>>(*handle)
            .connect(
                interface.context(),
                (server_addr.ip(), server_addr.port()),
                client_addr.port(),
            )
            .unwrap();
        Self {
            random: SmallRng::seed_from_u64(scenario.seed),
            now: Instant::from_millis(10),
            client,
            server,
            dataplane: Dataplane::new(Config::default(), scenario.seed),
            network: BinaryHeap::new(),
            order: 0,
            arrivals: 0,
            departures: 0,
            undecided: None,
            seen: None,
            splices: BTreeMap::new(),
            relayed: 0,
            changed: 0,
            scenario,
        }
    }

    fn launch(&mut self, to: Place, bytes: Vec<u8>) {
        let scenario = &self.scenario;
        if self.random.random_bool(scenario.loss) {
            return;
        }
        let copies = 1 + usize::from(self.random.random_bool(scenario.duplicate));
        for _ in 0..copies {
            let mut delay = scenario.delay;
            if self.random.random_bool(scenario.reorder) {
                delay += Duration::from_micros(self.random.random_range(0..20_000));
            }
            let mut bytes = bytes.clone();
            // Two flips on two hops can cancel out in the checksum; where the middle does not verify
            // it, only one hop flips.
            let is_raw = matches!(
                scenario.policy,
                Policy::Pass | Policy::Bypass | Policy::Absent
            );
            let may_flip = to == Place::Middle || !is_raw;
            if may_flip && self.random.random_bool(scenario.corrupt) && bytes.len() > 40 {
                let at = self.random.random_range(40..bytes.len());
                bytes[at] ^= 1 << self.random.random_range(0..8);
            }
            self.order += 1;
            self.network
                .push(Reverse((self.now + delay, self.order, to, bytes)));
        }
    }

    /// A packet reaches the load balancer and the data plane.
    fn arrive(&mut self, inner: Vec<u8>) {
        self.arrivals += 1;
        self.decide();
        for inner in self.suffer(Hop::Before, self.arrivals, Place::Middle, inner) {
            self.submit(inner);
        }
    }

    /// What becomes of a packet whose turn it may be to meet with a fault.
    fn suffer(&mut self, hop: Hop, n: usize, to: Place, mut inner: Vec<u8>) -> Vec<Vec<u8>> {
        let faults = &self.scenario.faults;
        let fault = faults.iter().find(|one| (one.0, one.1) == (hop, n));
        match fault.map(|(_, _, fault)| *fault) {
            Some(Fault::Drop) => return Vec::new(),
            Some(Fault::Duplicate) => return vec![inner.clone(), inner],
            Some(Fault::Delay) => {
                self.order += 1;
                let late = self.now + Duration::from_millis(35);
                self.network.push(Reverse((late, self.order, to, inner)));
                return Vec::new();
            }
            Some(Fault::Corrupt) => {
                if let Some(last) = inner.last_mut() {
                    *last ^= 0x10;
                }
            }
            None => {}
        }
        vec![inner]
    }

    fn decide(&mut self) {
        if self.arrivals >= self.scenario.verdict_at
            && let Some(flow) = self.undecided.take()
        {
            self.dataplane.set_verdict(flow, Verdict::Inspect, self.now);
            self.drain();
        }
    }

    fn submit(&mut self, inner: Vec<u8>) {
        if self.scenario.policy == Policy::Absent {
            self.forward(inner);
            return;
        }
        let packet = Packet::new(inner);
        let mut datagram = packet.datagram();
        let original = datagram.clone();
        match self
            .dataplane
            .handle_datagram(&mut datagram, packet.outer, self.now)
        {
            Disposition::Hairpin { len } => {
                self.changed += usize::from(datagram[..len] != original[..]);
                self.leave(&datagram[..len]);
            }
            Disposition::Absorbed | Disposition::Hooked { .. } | Disposition::Dropped(_) => {}
        }
        self.drain();
    }

    fn leave(&mut self, datagram: &[u8]) {
        let sent = Sent {
            outer: gwlb(1, 50_000),
            bytes: datagram.to_vec(),
            hooked: None,
        };
        let inner = sent.inner();
        assert!(inner.len() <= 8500);
        self.forward(inner);
    }

    /// An inner packet goes on to its host.
    fn forward(&mut self, inner: Vec<u8>) {
        let dst = ip::Packet::parse(&inner).unwrap().dst();
        let to = if dst == client().ip() || dst == client6().ip() {
            Place::Client
        } else {
            Place::Server
        };
        self.departures += 1;
        for inner in self.suffer(Hop::After, self.departures, to, inner) {
            self.launch(to, inner);
        }
    }

    fn drain(&mut self) {
        loop {
            let mut idle = true;
            while let Some(event) = self.dataplane.poll_event() {
                idle = false;
                self.on_event(event);
            }
            let mut bytes = Vec::new();
            while self.dataplane.poll_transmit(self.now, &mut bytes).is_some() {
                idle = false;
                self.leave(&std::mem::take(&mut bytes));
            }
            if idle {
                return;
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        let (dataplane, now) = (&mut self.dataplane, self.now);
        match event {
            Event::FlowOpened { flow, mid_flow } => {
                if !mid_flow && self.scenario.verdict_at > self.arrivals {
                    self.undecided = Some(flow);
                    return;
                }
                let verdict = match self.scenario.policy {
                    Policy::Pass => Verdict::Pass,
                    _ if mid_flow => Verdict::Pass,
                    _ => Verdict::Inspect,
                };
                dataplane.set_verdict(flow, verdict, now);
            }
            Event::FirstBytes { flow }
                if dataplane.held(flow).map_or(0, <[u8]>::len) < self.scenario.wants =>
            {
                dataplane.set_first_bytes(flow, FirstBytes::NeedMore, now);
            }
            Event::FirstBytes { flow } => match self.scenario.policy {
                Policy::Intercept => dataplane.set_first_bytes(flow, FirstBytes::Intercept, now),
                Policy::Bypass => dataplane.set_first_bytes(flow, FirstBytes::Bypass, now),
                Policy::NeverDecide => dataplane.set_first_bytes(flow, FirstBytes::NeedMore, now),
                Policy::Absent | Policy::Pass | Policy::Silent => {}
            },
            Event::Handshake { .. } | Event::Parked { .. } | Event::ServerSpoke { .. } => {}
            Event::LegsReady { flow } => {
                self.relayed += 1;
                self.splices.insert(flow, Splice::default());
                self.splice(flow);
            }
            Event::Readable { flow, .. }
            | Event::Writable { flow, .. }
            | Event::LegClosed { flow, .. } => self.splice(flow),
            Event::FlowEnded { flow, .. } => {
                self.splices.remove(&flow);
            }
        }
    }

    fn splice(&mut self, flow: FlowId) {
        let Some(splice) = self.splices.get_mut(&flow) else {
            return;
        };
        let (dataplane, now) = (&mut self.dataplane, self.now);
        for (n, from) in [(0, Leg::Client), (1, Leg::Server)] {
            loop {
                if splice.pending[n].is_empty() {
                    if splice.finished[n] {
                        if !splice.shut[n] {
                            splice.shut[n] = true;
                            dataplane.shutdown(flow, from.other(), now);
                        }
                        break;
                    }
                    let mut buffer = [0; 3000];
                    match dataplane.read(flow, from, &mut buffer, now) {
                        ReadOutcome::Bytes(len) => splice.pending[n] = buffer[..len].to_vec(),
                        ReadOutcome::Empty => break,
                        ReadOutcome::Finished => splice.finished[n] = true,
                        ReadOutcome::Reset | ReadOutcome::TimedOut => {
                            dataplane.abort(flow, now);
                            return;
                        }
                    }
                } else {
                    match dataplane.write(flow, from.other(), &splice.pending[n], now) {
                        WriteOutcome::Bytes(len) => {
                            splice.pending[n].drain(..len);
                        }
                        WriteOutcome::Full => break,
                        WriteOutcome::Reset | WriteOutcome::TimedOut => {
                            dataplane.abort(flow, now);
                            return;
                        }
                    }
                }
            }
        }
    }

    /// Runs until both hosts are done; the client says `bytes` and hears them again.
    pub fn run(mut self) -> Self {
        let scenario = self.scenario.clone();
        let say: Vec<u8> = (0..scenario.bytes)
            .map(|i| (i * 31 + i / 251 + scenario.seed as usize) as u8)
            .collect();
        let banner = vec![b'#'; scenario.banner];
        let expected: Vec<u8> = banner.iter().chain(&say).copied().collect();
        let (mut said, mut heard, mut echo, mut bannered) = (0, Vec::new(), VecDeque::new(), 0);
        let mut served = Vec::new();
        let mut ends = [None; 2];
        let echoes = matches!(scenario.dialogue, Dialogue::Echo | Dialogue::ClientAborts);
        let deadline = self.now + Duration::from_secs(900);
        loop {
            let counters = self.dataplane.counters();
            let unusable = counters.dropped(flowdog_dataplane::DropReason::TcpMalformed);
            let sent_on = counters.hairpinned_packets + counters.transmitted_packets + unusable;
            let is_raw = matches!(
                scenario.policy,
                Policy::Pass | Policy::Bypass | Policy::Absent
            );
            let made = counters.acks_synthesised;
            if self.now >= deadline && is_raw && counters.received_packets + made == sent_on {
                // Every packet went on as it came: the two hosts stall without our help, as smoltcp
                // does on some bad networks.
                assert!(expected.starts_with(&heard));
                return self;
            }
            assert!(
                self.now < deadline,
                "stalled at {said} said, {} heard: {scenario:?}, client {:?}, server {:?}, {:?}",
                heard.len(),
                self.client.socket().state(),
                self.server.socket().state(),
                self.dataplane.counters(),
            );
            self.client.poll(self.now);
            self.server.poll(self.now);
            // The client.
            let socket = self.client.socket();
            let may_talk = heard.len() >= banner.len();
            if socket.may_send() && said < say.len() && may_talk {
                said += socket.send_slice(&say[said..]).unwrap_or(0);
                if said == say.len() && scenario.dialogue == Dialogue::Echo {
                    socket.close();
                }
            }
            while socket.can_recv() {
                let mut buffer = [0; 4096];
                let len = socket.recv_slice(&mut buffer).unwrap_or(0);
                heard.extend_from_slice(&buffer[..len]);
            }
            if scenario.dialogue == Dialogue::ClientAborts && heard == expected {
                socket.abort();
                ends[0] = Some(End::Aborted);
            }
            let has_ended = |state| {
                matches!(
                    state,
                    State::CloseWait | State::LastAck | State::Closing | State::TimeWait
                )
            };
            if has_ended(socket.state()) {
                ends[0] = Some(End::Finished);
            }
            // The server.
            let socket = self.server.socket();
            if socket.may_send() && bannered < banner.len() {
                bannered += socket.send_slice(&banner[bannered..]).unwrap_or(0);
            }
            while socket.can_recv() && echo.len() < 20_000 {
                let mut buffer = [0; 4096];
                let len = socket.recv_slice(&mut buffer).unwrap_or(0);
                served.extend_from_slice(&buffer[..len]);
                if echoes {
                    echo.extend(&buffer[..len]);
                }
            }
            if has_ended(socket.state()) {
                ends[1] = Some(End::Finished);
            }
            if scenario.dialogue == Dialogue::ServerAborts && served == say {
                socket.abort();
                ends[1] = Some(End::Aborted);
            }
            while socket.can_send() && !echo.is_empty() && bannered == banner.len() {
                let (front, _) = echo.as_slices();
                let len = socket.send_slice(front).unwrap_or(0);
                echo.drain(..len);
                if len == 0 {
                    break;
                }
            }
            if socket.state() == State::CloseWait && echo.is_empty() && !socket.can_recv() {
                socket.close();
            }
            self.client.poll(self.now);
            self.server.poll(self.now);
            while let Some(bytes) = self.client.card.sent.pop_front() {
                self.launch(Place::Middle, bytes);
            }
            while let Some(bytes) = self.server.card.sent.pop_front() {
                self.launch(Place::Middle, bytes);
            }
            let client_state = self.client.socket().state();
            let server_state = self.server.socket().state();
            let over = |state| matches!(state, State::Closed | State::TimeWait);
            let quiet = self.network.is_empty();
            let has_said = said == say.len() || scenario.dialogue == Dialogue::Refused;
            if has_said && over(client_state) && over(server_state) && quiet {
                break;
            }
            let next = [
                self.network.peek().map(|Reverse((at, ..))| *at),
                self.client.poll_at(self.now),
                self.server.poll_at(self.now),
                self.dataplane.poll_timeout(),
            ];
            let next = next.into_iter().flatten().min().unwrap_or(deadline);
            self.now = next.max(self.now + Duration::from_micros(1));
            self.dataplane.handle_timeout(self.now);
            self.drain();
            while let Some(Reverse((at, ..))) = self.network.peek() {
                if *at > self.now {
                    break;
                }
                let Some(Reverse((_, _, place, bytes))) = self.network.pop() else {
                    break;
                };
                match place {
                    Place::Middle => self.arrive(bytes),
                    Place::Client => self.client.card.received.push_back(bytes),
                    Place::Server => self.server.card.received.push_back(bytes),
                }
            }
        }
        if scenario.dialogue == Dialogue::Echo {
            assert!(heard == expected, "the echo differs: {scenario:?}");
        }
        let [client, server] = ends.map(|end| end.unwrap_or(End::Reset));
        self.seen = Some(Seen {
            client: (heard, client),
            server: (served, server),
        });
        // What is left of the flow goes without another packet.
        let end = self.now + Duration::from_secs(1000);
        while let Some(at) = self.dataplane.poll_timeout().filter(|at| *at < end) {
            self.now = self.now.max(at);
            self.dataplane.handle_timeout(self.now);
            self.drain();
        }
        assert_eq!(self.dataplane.flows_active(), 0, "{scenario:?}");
        assert_eq!(
            self.dataplane.held_bytes() + self.dataplane.parked_bytes(),
            0
        );
        self
    }
}
