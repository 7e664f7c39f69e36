//! Two independent TCP stacks talk through the data plane over a bad network, in virtual time.
//!
//! Both hosts are smoltcp; the load balancer is the GENEVE header around their packets; the shell is a
//! splice that copies bytes between the legs. Every run is a function of its seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use bench::*;
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
enum Policy {
    Pass,
    Bypass,
    Intercept,
    /// Asks for more bytes and never decides: holding must end by itself.
    NeverDecide,
    Silent,
}

/// One thing that happens to one packet on its way to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Drop,
    Duplicate,
    Delay,
    Corrupt,
}

#[derive(Clone, Debug)]
struct Scenario {
    seed: u64,
    policy: Policy,
    v6: bool,
    bytes: usize,
    loss: f64,
    reorder: f64,
    duplicate: f64,
    corrupt: f64,
    delay: Duration,
    /// What happens to the nth packet that reaches the data plane.
    fault: Option<(usize, Fault)>,
    /// The server says so many bytes before it listens.
    banner: usize,
}

impl Scenario {
    fn clean(seed: u64, policy: Policy) -> Self {
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
            fault: None,
            banner: 0,
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

struct World {
    scenario: Scenario,
    random: SmallRng,
    now: Instant,
    client: Host,
    server: Host,
    dataplane: Dataplane,
    network: BinaryHeap<Reverse<(Instant, u64, Place, Vec<u8>)>>,
    order: u64,
    arrivals: usize,
    splices: BTreeMap<FlowId, Splice>,
    relayed: usize,
    changed: usize,
}

impl World {
    fn new(scenario: Scenario) -> Self {
        let (client_addr, server_addr) = if scenario.v6 {
            (client6(), server6())
        } else {
            (client(), server())
        };
        let mut client = Host::new(client_addr.ip(), scenario.seed.wrapping_mul(3) + 1);
        let mut server = Host::new(server_addr.ip(), scenario.seed.wrapping_mul(5) + 2);
        server.socket().listen(server_addr.port()).unwrap();
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
            let is_raw = matches!(scenario.policy, Policy::Pass | Policy::Bypass);
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
    fn arrive(&mut self, mut inner: Vec<u8>) {
        self.arrivals += 1;
        match self.scenario.fault.filter(|(n, _)| *n == self.arrivals) {
            Some((_, Fault::Drop)) => return,
            Some((_, Fault::Duplicate)) => self.submit(inner.clone()),
            Some((_, Fault::Delay)) => {
                self.order += 1;
                let late = self.now + Duration::from_millis(35);
                self.network
                    .push(Reverse((late, self.order, Place::Middle, inner)));
                return;
            }
            Some((_, Fault::Corrupt)) => {
                if let Some(last) = inner.last_mut() {
                    *last ^= 0x10;
                }
            }
            None => {}
        }
        self.submit(inner);
    }

    fn submit(&mut self, inner: Vec<u8>) {
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
        let (_, dst) = sent.ends();
        let to = if dst.ip() == client().ip() || dst.ip() == client6().ip() {
            Place::Client
        } else {
            Place::Server
        };
        self.launch(to, inner);
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
            Event::Parked { .. } => {}
            Event::FlowOpened { flow, mid_flow } => {
                let verdict = match self.scenario.policy {
                    Policy::Pass => Verdict::Pass,
                    _ if mid_flow => Verdict::Pass,
                    _ => Verdict::Inspect,
                };
                dataplane.set_verdict(flow, verdict, now);
            }
            Event::FirstBytes { flow } => match self.scenario.policy {
                Policy::Intercept => dataplane.set_first_bytes(flow, FirstBytes::Intercept, now),
                Policy::Bypass => dataplane.set_first_bytes(flow, FirstBytes::Bypass, now),
                Policy::NeverDecide => dataplane.set_first_bytes(flow, FirstBytes::NeedMore, now),
                Policy::Pass | Policy::Silent => {}
            },
            Event::Handshake { .. } => {}
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
    fn run(mut self) -> Self {
        let scenario = self.scenario.clone();
        let say: Vec<u8> = (0..scenario.bytes)
            .map(|i| (i * 31 + i / 251 + scenario.seed as usize) as u8)
            .collect();
        let banner = vec![b'#'; scenario.banner];
        let expected: Vec<u8> = banner.iter().chain(&say).copied().collect();
        let (mut said, mut heard, mut echo, mut bannered) = (0, Vec::new(), VecDeque::new(), 0);
        let deadline = self.now + Duration::from_secs(900);
        loop {
            let counters = self.dataplane.counters();
            let unusable = counters.dropped(flowdog_dataplane::DropReason::TcpMalformed);
            let sent_on = counters.hairpinned_packets + counters.transmitted_packets + unusable;
            let is_raw = matches!(scenario.policy, Policy::Pass | Policy::Bypass);
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
                if said == say.len() {
                    socket.close();
                }
            }
            while socket.can_recv() {
                let mut buffer = [0; 4096];
                let len = socket.recv_slice(&mut buffer).unwrap_or(0);
                heard.extend_from_slice(&buffer[..len]);
            }
            // The server.
            let socket = self.server.socket();
            if socket.may_send() && bannered < banner.len() {
                bannered += socket.send_slice(&banner[bannered..]).unwrap_or(0);
            }
            while socket.can_recv() && echo.len() < 20_000 {
                let mut buffer = [0; 4096];
                let len = socket.recv_slice(&mut buffer).unwrap_or(0);
                echo.extend(&buffer[..len]);
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
            if said == say.len() && over(client_state) && over(server_state) && quiet {
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
        assert!(heard == expected, "the echo differs: {scenario:?}");
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

const POLICIES: [Policy; 5] = [
    Policy::Pass,
    Policy::Bypass,
    Policy::Intercept,
    Policy::NeverDecide,
    Policy::Silent,
];

#[test]
fn bytes_arrive_the_same_on_a_clean_path_under_every_policy() {
    for policy in POLICIES {
        for v6 in [false, true] {
            let world = World::new(Scenario {
                v6,
                bytes: 200_000,
                ..Scenario::clean(1, policy)
            })
            .run();
            let taken = usize::from(!matches!(policy, Policy::Pass | Policy::Bypass));
            assert_eq!(world.relayed, taken, "{policy:?}");
            assert_eq!(world.changed, 0, "{policy:?}: smoltcp's SYN needs no edit");
        }
    }
}

#[test]
fn a_take_over_without_loss_makes_nobody_send_anything_twice() {
    let world = World::new(Scenario::clean(2, Policy::Intercept)).run();
    let counters = world.dataplane.counters();
    assert_eq!((counters.takeovers, counters.relays), (1, 0));
    assert_eq!(counters.segments_retransmitted, 0);
}

#[test]
fn every_packet_of_the_handshake_may_be_lost_doubled_late_or_corrupt() {
    for policy in POLICIES {
        for fault in [Fault::Drop, Fault::Duplicate, Fault::Delay, Fault::Corrupt] {
            for n in 1..=10 {
                World::new(Scenario {
                    fault: Some((n, fault)),
                    bytes: 6000,
                    ..Scenario::clean(n as u64, policy)
                })
                .run();
            }
        }
    }
}

#[test]
fn a_server_that_speaks_first_is_bypassed() {
    for seed in 0..5 {
        let world = World::new(Scenario {
            banner: 500,
            ..Scenario::clean(seed, Policy::Intercept)
        })
        .run();
        assert_eq!(world.relayed, 0);
        let reason = flowdog_dataplane::BypassReason::ServerFirst;
        assert_eq!(world.dataplane.counters().bypassed(reason), 1);
    }
}

#[test]
fn bytes_arrive_the_same_over_a_bad_network() {
    // `FLOWDOG_SEEDS=20000` makes it a long run.
    let seeds = std::env::var("FLOWDOG_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok());
    for seed in 0..seeds.unwrap_or(100) {
        let policy = POLICIES[seed as usize % POLICIES.len()];
        let mut random = SmallRng::seed_from_u64(seed);
        World::new(Scenario {
            v6: seed % 2 == 1,
            bytes: random.random_range(1..60_000),
            loss: random.random_range(0.0..0.08),
            reorder: random.random_range(0.0..0.3),
            duplicate: random.random_range(0.0..0.1),
            corrupt: random.random_range(0.0..0.02),
            delay: Duration::from_micros(random.random_range(50..40_000)),
            ..Scenario::clean(seed, policy)
        })
        .run();
    }
}

#[test]
fn one_seed_gives_one_run() {
    let run = || {
        let world = World::new(Scenario {
            loss: 0.05,
            reorder: 0.2,
            ..Scenario::clean(11, Policy::Intercept)
        })
        .run();
        (world.now, world.dataplane.counters().clone())
    };
    assert_eq!(run(), run());
}
