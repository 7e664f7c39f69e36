//! What interception costs in processor time and memory, beside smoltcp in the same run.
//!
//! Prints a measure a line as JSON; `cargo xtask bench tcp` runs it. Times are the
//! least of several rounds that alternate with the yardstick's.

#![expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]
#![expect(clippy::expect_used, reason = "a benchmark that cannot go on ends")]
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

extern crate tcp as flowdog_tcp;

#[path = "../tests/bench/mod.rs"]
mod bench;
#[path = "../../tcp/tests/sim/mod.rs"]
mod sim;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bench::{Tcp, flags, linux_options, server};
use flowdog_dataplane::{
    Config, Dataplane, Disposition, Event, FirstBytes, FlowId, Instant, Leg, ReadOutcome, Verdict,
};
use wire::tcp::{Repr, Seq};

use sim::Host;
use sim::app::App;
use sim::engine::Engine;
use sim::measure::{Path, START, takeovers};
use sim::peer::Smoltcp;

static HELD: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; the counter allocates
// nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` comes from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes moved in one round.
const ROUND: u64 = 32 << 20;
/// Of each end.
const BUFFERS: usize = 1 << 20;
const ROUNDS: usize = 12;
const PATH: Path = Path {
    mtu: 1500,
    megabits: 10_000,
    rtt: 100,
    loss: 0.0,
    queue: 4 << 20,
};

fn main() {
    // `cargo test --all-targets` starts benchmarks too, without this word.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let (mut ours, mut singly) = (f64::MAX, f64::MAX);
    let (mut smoltcp, mut legs) = (f64::MAX, f64::MAX);
    let mut alone = Interception::new(0);
    for _ in 0..ROUNDS {
        ours = ours.min(engine_pair(true));
        singly = singly.min(engine_pair(false));
        smoltcp = smoltcp.min(smoltcp_pair());
        legs = legs.min(alone.round());
    }
    let both_ends = "CPU, both ends, 1500 B, checksums";
    print(
        &format!("{both_ends} / smoltcp"),
        "ns/kB",
        ours,
        smoltcp,
        1.0,
    );
    print(
        &format!("{both_ends}, packet by packet / smoltcp"),
        "ns/kB",
        singly,
        smoltcp,
        1.0,
    );
    let with_geneve = "CPU, two legs with GENEVE and flow table";
    print(
        &format!("{with_geneve} / smoltcp"),
        "ns/kB",
        legs,
        smoltcp,
        1.0,
    );
    for (idle, bound) in [(10_000, 1.25), (100_000, 1.5)] {
        let mut crowded = Interception::new(idle);
        let (mut with_idle, mut beside) = (f64::MAX, f64::MAX);
        for _ in 0..ROUNDS {
            with_idle = with_idle.min(crowded.round());
            beside = beside.min(alone.round());
        }
        let name = format!("CPU, two legs beside {idle} idle flows / alone");
        print(&name, "ns/kB", with_idle, beside, bound);
        if idle == 100_000 {
            let smoltcp = smoltcp_memory();
            let name = "memory of an idle intercepted flow / smoltcp";
            print_bound(name, "B", crowded.bytes_per_idle, smoltcp, 1_200.0);
        }
    }
    let smoltcp = smoltcp_memory();
    let name = "memory of an idle bypassed flow / smoltcp";
    print_bound(name, "B", bypassed_memory(), smoltcp, 200.0);
}

/// A figure that is to be at most so many times the yardstick's.
fn print(measure: &str, unit: &str, value: f64, yardstick: f64, times: f64) {
    print_bound(measure, unit, value, yardstick, yardstick * times);
}

fn print_bound(measure: &str, unit: &str, value: f64, yardstick: f64, bound: f64) {
    println!(
        "{{\"measure\":\"{measure}\",\"unit\":\"{unit}\",\"kind\":\"max\",\"value\":{value:.1},\"yardstick\":{yardstick:.1},\"bound\":{bound:.1}}}"
    );
}

/// Nanoseconds for each 1,000 bytes.
fn per_kilobyte(time: Duration, bytes: u64) -> f64 {
    time.as_nanos() as f64 * 1000.0 / bytes as f64
}

fn apps() -> [App; 2] {
    let mut apps = [App::new(0, ROUND, 0), App::new(1, 0, ROUND)];
    for app in &mut apps {
        app.checks = false;
        app.closes_first = false;
    }
    apps
}

/// Carries packets to and fro without loss or delay until everything has arrived.
fn shuttle(hosts: [&mut dyn Host; 2]) -> f64 {
    let begun = std::time::Instant::now();
    let (mut now, mut packets) = (START, Vec::new());
    while hosts[1].app().received < ROUND {
        now += 50;
        for side in 0..2 {
            hosts[side].turn(now, &mut packets);
            hosts[1 - side].receive_all(&mut packets, now);
        }
    }
    per_kilobyte(begun.elapsed(), ROUND)
}

/// In runs, as the appliance does with UDP_GRO and UDP_SEGMENT, or packet by packet.
fn engine_pair(in_runs: bool) -> f64 {
    // What smoltcp gets: otherwise the window grows, for want of delay and loss, beyond the caches.
    let config = Arc::new(tcp::Config {
        recv_buffer_max: BUFFERS,
        send_buffer_max: BUFFERS,
        ..tcp::Config::default()
    });
    let [left, right] = takeovers(PATH, 1);
    let [app_left, app_right] = apps();
    let mut left = Engine::new(&config, &left, app_left, sim::LEFT, sim::RIGHT, START);
    let mut right = Engine::new(&config, &right, app_right, sim::RIGHT, sim::LEFT, START);
    (left.has_runs, right.has_runs) = (in_runs, in_runs);
    shuttle([&mut left, &mut right])
}

fn smoltcp_pair() -> f64 {
    let [mut left, mut right] = Smoltcp::pair(apps(), PATH.mtu.into(), BUFFERS, 1, START);
    shuttle([&mut left, &mut right])
}

/// Two sockets of smoltcp with the smallest buffers that make sense.
fn smoltcp_memory() -> f64 {
    use smoltcp::socket::tcp::{Socket, SocketBuffer};
    let before = HELD.load(Ordering::Relaxed);
    let buffer = || SocketBuffer::new(vec![0; 4096]);
    let sockets = [
        Box::new(Socket::new(buffer(), buffer())),
        Box::new(Socket::new(buffer(), buffer())),
    ];
    let held = HELD.load(Ordering::Relaxed) - before;
    drop(sockets);
    held as f64
}

fn bypassed_memory() -> f64 {
    const COUNT: usize = 100_000;
    let mut interception = Interception::empty();
    interception.first_bytes = FirstBytes::Bypass;
    let before = HELD.load(Ordering::Relaxed);
    for index in 1..=COUNT as u32 {
        interception.open(index);
    }
    interception.rest();
    (HELD.load(Ordering::Relaxed) - before) as f64 / COUNT as f64
}

/// A data plane with one flow that moves data and some that are silent.
struct Interception {
    dataplane: Dataplane,
    now: Instant,
    first_bytes: FirstBytes,
    flow: Option<FlowId>,
    bytes_per_idle: f64,
    /// Next data of the client, and what the server has got.
    client_seq: Seq,
    server_ack: Seq,
    segment: Vec<u8>,
    datagram: Vec<u8>,
    out: Vec<u8>,
    /// Of the datagrams in `out`.
    sizes: Vec<usize>,
    buffer: Vec<u8>,
}

const CLIENT_ISN: Seq = Seq(1_000);
const SERVER_ISN: Seq = Seq(9_000_000);
const PAYLOAD: usize = 1448;

fn client(index: u32) -> SocketAddr {
    let [_, b, c, d] = index.to_be_bytes();
    (Ipv4Addr::new(10, b, c, d), 40_000).into()
}

impl Interception {
    fn empty() -> Self {
        let config = Config {
            max_intercepted: 1 << 20,
            ..Config::default()
        };
        Self {
            dataplane: Dataplane::new(config, 7),
            now: Instant::from_millis(1_000_000),
            first_bytes: FirstBytes::Intercept,
            flow: None,
            bytes_per_idle: 0.0,
            client_seq: CLIENT_ISN + 6,
            server_ack: CLIENT_ISN + 6,
            segment: vec![7; PAYLOAD],
            datagram: Vec::new(),
            out: Vec::new(),
            sizes: Vec::new(),
            buffer: vec![0; 1 << 14],
        }
    }

    fn new(idle: u32) -> Self {
        let mut interception = Self::empty();
        let before = HELD.load(Ordering::Relaxed);
        for index in 1..=idle {
            interception.open(index);
        }
        interception.rest();
        let held = HELD.load(Ordering::Relaxed) - before;
        interception.bytes_per_idle = held as f64 / f64::from(idle.max(1));
        interception.open(0);
        interception
    }

    /// Long enough for everything that was in use a moment ago to be given back.
    fn rest(&mut self) {
        for _ in 0..100 {
            self.now += Duration::from_millis(300);
            self.dataplane.handle_timeout(self.now);
            self.drain();
        }
    }

    /// Gives the data plane a packet.
    fn give(&mut self, tcp: &Tcp) {
        self.datagram = tcp.packet().datagram();
        self.give_datagram();
    }

    fn give_datagram(&mut self) {
        let outer = bench::gwlb(1, 50_000);
        let disposition = self
            .dataplane
            .handle_datagram(&mut self.datagram, outer, self.now);
        assert!(!matches!(disposition, Disposition::Dropped(_)));
    }

    /// Everything that leaves stands in `out` then, one behind the other, as the shell gathers it.
    fn drain(&mut self) {
        self.out.clear();
        self.sizes.clear();
        loop {
            let before = self.sizes.len();
            while let Some(event) = self.dataplane.poll_event() {
                match event {
                    Event::Parked { .. } | Event::ServerSpoke { .. } => {}
                    Event::FlowOpened { flow, .. } => {
                        self.dataplane.set_verdict(flow, Verdict::Inspect, self.now);
                    }
                    Event::FirstBytes { flow } => {
                        self.flow = Some(flow);
                        self.dataplane
                            .set_first_bytes(flow, self.first_bytes, self.now);
                    }
                    Event::LegsReady { flow }
                    | Event::Readable { flow, .. }
                    | Event::Writable { flow, .. } => {
                        while let ReadOutcome::Bytes(count) =
                            self.dataplane
                                .read(flow, Leg::Client, &mut self.buffer, self.now)
                        {
                            let bytes = &self.buffer[..count];
                            self.dataplane.write(flow, Leg::Server, bytes, self.now);
                        }
                    }
                    Event::Handshake { .. } | Event::LegClosed { .. } | Event::FlowEnded { .. } => {
                    }
                }
            }
            while let Some(run) =
                self.dataplane
                    .poll_transmit_run(usize::MAX, self.now, &mut self.out)
            {
                self.sizes.extend(std::iter::repeat_n(run.len, run.count));
            }
            if self.sizes.len() == before {
                return;
            }
        }
    }

    /// What the last drain gave.
    fn sent(&self) -> Vec<Vec<u8>> {
        let mut rest = self.out.as_slice();
        let mut sent = Vec::new();
        for size in &self.sizes {
            let (datagram, others) = rest.split_at(*size);
            sent.push(datagram.to_vec());
            rest = others;
        }
        sent
    }

    /// A handshake, five bytes from the client, and their acknowledgment.
    fn open(&mut self, index: u32) {
        let client = client(index);
        let syn = Tcp::new(client, server(), flags("S"), CLIENT_ISN, Seq(0))
            .options(linux_options(1_000, 0));
        let answer = Tcp::new(server(), client, flags("SA"), SERVER_ISN, CLIENT_ISN + 1)
            .options(linux_options(9_000, 1_000));
        let hello = self.client_says(index, CLIENT_ISN + 1, b"hello");
        let ack = self.client_says(index, CLIENT_ISN + 1, b"");
        let done = self.server_says(index, CLIENT_ISN + 6);
        for tcp in [&syn, &answer, &ack, &hello, &done] {
            self.give(tcp);
            self.drain();
        }
    }

    fn client_says(&self, index: u32, seq: Seq, payload: &[u8]) -> Tcp {
        Tcp::new(client(index), server(), flags("A"), seq, SERVER_ISN + 1)
            .timestamps(1_010, 9_000)
            .payload(payload)
    }

    fn server_says(&self, index: u32, ack: Seq) -> Tcp {
        Tcp::new(server(), client(index), flags("A"), SERVER_ISN + 1, ack).window(8_000)
    }

    /// Moves [`ROUND`] bytes from the client to the server; only the data plane's time counts, and
    /// that of the copy between the legs.
    fn round(&mut self) -> f64 {
        let (mut spent, mut moved) = (Duration::ZERO, 0);
        while moved < ROUND {
            self.now += Duration::from_micros(100);
            let mut datagrams = Vec::new();
            for _ in 0..64 {
                let tcp = self.client_says(0, self.client_seq, &self.segment);
                datagrams.push(tcp.packet().datagram());
                self.client_seq += PAYLOAD as u32;
            }
            let mut sent = Vec::new();
            spent += self.timed(datagrams, &mut sent);
            // The server acknowledges every second segment.
            while !sent.is_empty() {
                let mut acks = Vec::new();
                for pair in sent.chunks(2) {
                    for datagram in pair {
                        self.take(datagram, &mut moved);
                    }
                    let ack = self.server_says(0, self.server_ack);
                    acks.push(ack.timestamps(9_010, 1_010).packet().datagram());
                }
                sent.clear();
                let mut more = Vec::new();
                spent += self.timed(acks, &mut more);
                sent.extend(more.into_iter().filter(|one| one.len() > 1_000));
            }
        }
        per_kilobyte(spent, moved)
    }

    /// The datagrams come one behind the other, as UDP_GRO gives them.
    fn timed(&mut self, datagrams: Vec<Vec<u8>>, sent: &mut Vec<Vec<u8>>) -> Duration {
        let stride = datagrams.first().map_or(0, Vec::len);
        let mut bytes = datagrams.concat();
        let mut rest = bytes.as_mut_slice();
        let begun = std::time::Instant::now();
        while !rest.is_empty() {
            let outer = bench::gwlb(1, 50_000);
            let (count, disposition) = self.dataplane.handle_run(rest, stride, outer, self.now);
            assert!(!matches!(disposition, Disposition::Dropped(_)));
            let taken = rest.len().min(count * stride);
            rest = rest.split_at_mut(taken).1;
        }
        self.dataplane.handle_timeout(self.now);
        self.drain();
        let spent = begun.elapsed();
        sent.extend(self.sent());
        spent
    }

    /// The server's view of a datagram: data in order moves its acknowledgment.
    fn take(&mut self, datagram: &[u8], moved: &mut u64) {
        let sent = bench::Sent {
            outer: bench::gwlb(1, 50_000),
            bytes: datagram.to_vec(),
            hooked: None,
        };
        let inner = sent.inner();
        let packet = wire::ip::Packet::parse(&inner).expect("a packet of our own");
        let segment = wire::tcp::Segment::parse(packet.payload()).expect("a segment of our own");
        let Repr { seq, dst_port, .. } = segment.repr();
        let length = segment.payload().len();
        if dst_port == server().port() && length > 0 && seq == self.server_ack {
            self.server_ack += length as u32;
            *moved += length as u64;
        }
    }
}
