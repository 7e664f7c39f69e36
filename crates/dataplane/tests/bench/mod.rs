//! A data plane on a bench: what arrives, what must leave, at which time.
#![allow(dead_code, reason = "every test file uses its own part of the bench")]
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

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use flowdog_dataplane::{
    AttachmentId, Config, Dataplane, Disposition, DropReason, Event, FirstBytes, FlowCookie,
    FlowId, Instant, Leg, Outer, Protocol, ReadOutcome, Unseen, Verdict, VpcEndpointId,
    WriteOutcome,
};
use wire::ip::{self, Family};
use wire::tcp::{Flags, Options, Repr, Seq, Timestamps, fill_checksum};
use wire::{geneve, icmp};

pub const ISN_C: Seq = Seq(1_000_000);
pub const ISN_S: Seq = Seq(5_000_000);
pub const E1: VpcEndpointId = VpcEndpointId(0x0123_4567_89ab_cdef);
pub const E2: VpcEndpointId = VpcEndpointId(0x0fed_cba9_8765_4321);

pub fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
pub fn client() -> SocketAddr {
    addr("10.0.0.1:40000")
}
pub fn server() -> SocketAddr {
    addr("10.1.0.2:443")
}
pub fn client6() -> SocketAddr {
    addr("[2001:db8::1]:40000")
}
pub fn server6() -> SocketAddr {
    addr("[2001:db8:1::2]:443")
}
pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
pub fn gwlb(last: u8, port: u16) -> Outer {
    Outer {
        gwlb: SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, last), port),
        local: Ipv4Addr::new(10, 9, 1, 1),
    }
}

/// An inner packet and how it is delivered.
#[derive(Clone, Debug)]
pub struct Packet {
    pub endpoint: VpcEndpointId,
    pub attachment: AttachmentId,
    pub cookie: u32,
    pub outer: Outer,
    pub extra: Vec<u8>,
    pub inner: Vec<u8>,
}

impl Packet {
    pub fn new(inner: Vec<u8>) -> Self {
        Self {
            endpoint: E1,
            attachment: AttachmentId(0),
            cookie: 0x1122_3344,
            outer: gwlb(1, 50_000),
            extra: Vec::new(),
            inner,
        }
    }
    pub fn cookie(mut self, cookie: u32) -> Self {
        self.cookie = cookie;
        self
    }
    pub fn endpoint(mut self, endpoint: VpcEndpointId) -> Self {
        self.endpoint = endpoint;
        self
    }
    pub fn via(mut self, outer: Outer) -> Self {
        self.outer = outer;
        self
    }
    pub fn extra(mut self, extra: &[u8]) -> Self {
        self.extra = extra.to_vec();
        self
    }
    pub fn datagram(&self) -> Vec<u8> {
        let family = match self.inner.first().map(|byte| byte >> 4) {
            Some(6) => Family::V6,
            _ => Family::V4,
        };
        let repr = geneve::Repr {
            endpoint: self.endpoint,
            attachment: self.attachment,
            cookie: FlowCookie(self.cookie),
            family,
            extra: &self.extra,
            ..geneve::Repr::default()
        };
        let mut bytes = vec![0; repr.header_len()];
        repr.emit(&mut bytes);
        bytes.extend_from_slice(&self.inner);
        bytes
    }
}

/// A TCP segment in the making.
#[derive(Clone, Debug)]
pub struct Tcp {
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub repr: Repr,
    pub raw_options: Vec<u8>,
    pub payload: Vec<u8>,
    pub hop_limit: u8,
    pub traffic_class: u8,
}

impl Tcp {
    pub fn new(src: SocketAddr, dst: SocketAddr, flags: Flags, seq: Seq, ack: Seq) -> Self {
        Self {
            src,
            dst,
            repr: Repr {
                seq,
                ack,
                flags,
                window: 64_000,
                ..Repr::default()
            },
            raw_options: Vec::new(),
            payload: Vec::new(),
            hop_limit: 61,
            traffic_class: 0x28,
        }
    }
    pub fn options(mut self, options: Options) -> Self {
        self.repr.options = options;
        self
    }
    pub fn raw_options(mut self, raw: &[u8]) -> Self {
        self.raw_options = raw.to_vec();
        self
    }
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }
    pub fn window(mut self, window: u16) -> Self {
        self.repr.window = window;
        self
    }
    pub fn timestamps(mut self, tsval: u32, tsecr: u32) -> Self {
        self.repr.options.timestamps = Some(Timestamps { tsval, tsecr });
        self
    }
    pub fn segment(&self) -> Vec<u8> {
        let repr = Repr {
            src_port: self.src.port(),
            dst_port: self.dst.port(),
            ..self.repr
        };
        let mut bytes = vec![0; repr.header_len()];
        repr.emit(&mut bytes);
        bytes.extend_from_slice(&self.raw_options);
        while !bytes.len().is_multiple_of(4) {
            bytes.push(1);
        }
        bytes[12] = (bytes.len() as u8 / 4) << 4 | bytes[12] & 0x0f;
        bytes.extend_from_slice(&self.payload);
        fill_checksum(&mut bytes, self.src.ip(), self.dst.ip());
        bytes
    }
    pub fn inner(&self) -> Vec<u8> {
        ip_packet(
            self.src,
            self.dst,
            Protocol::TCP,
            self.hop_limit,
            self.traffic_class,
            &self.segment(),
        )
    }
    pub fn packet(&self) -> Packet {
        Packet::new(self.inner())
    }
}

pub fn ip_packet(
    src: SocketAddr,
    dst: SocketAddr,
    protocol: Protocol,
    hop_limit: u8,
    traffic_class: u8,
    payload: &[u8],
) -> Vec<u8> {
    let repr = ip::Repr {
        src: src.ip(),
        dst: dst.ip(),
        protocol,
        hop_limit,
        traffic_class,
        dont_fragment: true,
        ident: 77,
        payload_len: payload.len(),
    };
    let mut bytes = vec![0; repr.header_len()];
    repr.emit(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

pub fn udp(src: SocketAddr, dst: SocketAddr, payload: &[u8]) -> Packet {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&src.port().to_be_bytes());
    bytes.extend_from_slice(&dst.port().to_be_bytes());
    bytes.extend_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(payload);
    Packet::new(ip_packet(src, dst, Protocol::UDP, 64, 0, &bytes))
}

pub fn other(src: SocketAddr, dst: SocketAddr, protocol: Protocol, payload: &[u8]) -> Packet {
    Packet::new(ip_packet(src, dst, protocol, 64, 0, payload))
}

pub fn echo(src: SocketAddr, dst: SocketAddr, request: bool) -> Packet {
    let echo = icmp::Echo {
        request,
        ident: 1,
        sequence: 1,
        payload: b"ping",
    };
    let mut bytes = vec![0; echo.message_len()];
    echo.emit(&mut bytes, src.ip(), dst.ip());
    let protocol = if src.is_ipv6() {
        Protocol::ICMPV6
    } else {
        Protocol::ICMP
    };
    other(src, dst, protocol, &bytes)
}

pub fn flags(text: &str) -> Flags {
    text.chars().fold(Flags::default(), |flags, letter| {
        flags.with(match letter {
            'S' => Flags::SYN,
            'A' => Flags::ACK,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            'E' => Flags::ECE,
            'C' => Flags::CWR,
            'N' => Flags::AE,
            other => panic!("no TCP flag {other}"),
        })
    })
}

pub fn linux_options(tsval: u32, tsecr: u32) -> Options {
    Options {
        mss: Some(1460),
        window_scale: Some(7),
        sack_permitted: true,
        timestamps: Some(Timestamps { tsval, tsecr }),
        ..Options::default()
    }
}

pub fn syn() -> Tcp {
    Tcp::new(client(), server(), flags("S"), ISN_C, Seq(0)).options(linux_options(1000, 0))
}
pub fn syn_ack() -> Tcp {
    Tcp::new(server(), client(), flags("SA"), ISN_S, ISN_C + 1).options(linux_options(9000, 1000))
}
/// A segment from the client whose payload starts `at` bytes after its SYN.
pub fn from_client(at: u32, payload: &[u8]) -> Tcp {
    Tcp::new(client(), server(), flags("A"), ISN_C + 1 + at, ISN_S + 1)
        .window(500)
        .timestamps(1010, 9000)
        .payload(payload)
}
/// A segment from the server whose payload starts `at` bytes after its SYN, acknowledging `acked`
/// client bytes.
pub fn from_server(at: u32, acked: u32, payload: &[u8]) -> Tcp {
    Tcp::new(
        server(),
        client(),
        flags("A"),
        ISN_S + 1 + at,
        ISN_C + 1 + acked,
    )
    .window(500)
    .timestamps(9010, 1010)
    .payload(payload)
}
pub fn with_flags(mut tcp: Tcp, letters: &str) -> Tcp {
    tcp.repr.flags = flags(letters);
    tcp
}

/// A datagram that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub outer: Outer,
    pub bytes: Vec<u8>,
    /// Who sent it, if it went past the hooks of the shell.
    pub hooked: Option<Leg>,
}

impl Sent {
    pub fn cookie(&self) -> u32 {
        geneve::Packet::parse(&self.bytes).unwrap().cookie().0
    }
    pub fn header(&self) -> Vec<u8> {
        geneve::Packet::parse(&self.bytes)
            .unwrap()
            .header()
            .to_vec()
    }
    pub fn inner(&self) -> Vec<u8> {
        let geneve = geneve::Packet::parse(&self.bytes).unwrap();
        ip::Packet::parse(geneve.inner()).unwrap().bytes().to_vec()
    }
    pub fn ends(&self) -> (SocketAddr, SocketAddr) {
        let inner = self.inner();
        let packet = ip::Packet::parse(&inner).unwrap();
        let (src, dst) = match wire::tcp::Segment::parse(packet.payload()) {
            Ok(segment) if packet.protocol() == Protocol::TCP => {
                (segment.src_port(), segment.dst_port())
            }
            _ => (0, 0),
        };
        (
            SocketAddr::new(packet.src(), src),
            SocketAddr::new(packet.dst(), dst),
        )
    }
    /// The TCP header and payload, after checking lengths and checksums.
    pub fn tcp(&self) -> (Repr, Vec<u8>) {
        let inner = self.inner();
        let packet = ip::Packet::parse(&inner).unwrap();
        assert!(packet.verify_checksum(), "IP checksum");
        assert!(inner.len() <= 8500, "inner packet of {} bytes", inner.len());
        let segment = wire::tcp::Segment::parse(packet.payload()).unwrap();
        assert!(
            segment.verify_checksum(packet.src(), packet.dst()),
            "TCP checksum"
        );
        (segment.repr(), segment.payload().to_vec())
    }
    pub fn is_reset(&self) -> bool {
        self.tcp().0.flags.contains(Flags::RST)
    }
}

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Hairpin(Sent),
    Absorbed,
    Dropped(DropReason),
}

/// The data plane with a clock and everything that came out of it.
pub struct Bench {
    pub dataplane: Dataplane,
    pub now: Instant,
    /// What `FlowOpened` is answered with, if anything.
    pub verdict: Option<Verdict>,
    /// What is said to hold when first bytes cannot be had, if anything.
    pub guard: Option<Unseen>,
    /// What `FirstBytes` is answered with, if anything.
    pub first_bytes: Option<FirstBytes>,
    pub events: Vec<Event>,
    pub sent: Vec<Sent>,
}

impl Bench {
    pub fn new(config: Config) -> Self {
        Self {
            dataplane: Dataplane::new(config, 7),
            now: Instant::from_millis(1_000_000),
            verdict: None,
            guard: None,
            first_bytes: None,
            events: Vec::new(),
            sent: Vec::new(),
        }
    }
    pub fn with_verdict(verdict: Verdict) -> Self {
        let mut bench = Self::new(Config::default());
        bench.verdict = Some(verdict);
        bench
    }
    /// A bench on which the handshake is done and inspected.
    pub fn open() -> Self {
        let mut bench = Self::with_verdict(Verdict::Inspect);
        bench.handshake();
        bench
    }
    /// A bench with a connection that was taken over after the client said `hello`.
    pub fn intercepted() -> Self {
        let mut bench = Self::open();
        bench.first_bytes = Some(FirstBytes::Intercept);
        bench.give(&from_client(0, b"hello").packet());
        assert_eq!(bench.dataplane.intercepted_flows(), 1);
        bench.events.clear();
        bench.sent.clear();
        bench
    }
    pub fn handshake(&mut self) {
        for packet in [syn(), syn_ack(), from_client(0, b"")] {
            let out = self.give(&packet.packet());
            assert_eq!(out.len(), 1, "the handshake is forwarded");
            assert_eq!(out[0].inner(), packet.inner());
            self.pass(ms(5));
        }
        self.sent.clear();
        self.events.clear();
    }
    /// Lets time pass, and runs what becomes due on the way.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.dataplane.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.dataplane.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
        self.dataplane.handle_timeout(self.now);
        self.drain();
    }
    /// Delivers a datagram; what leaves other than by hairpin is in `sent`.
    pub fn deliver(&mut self, packet: &Packet) -> Answer {
        self.deliver_bytes(packet.datagram(), packet.outer)
    }
    pub fn deliver_bytes(&mut self, mut bytes: Vec<u8>, outer: Outer) -> Answer {
        let disposition = self.dataplane.handle_datagram(&mut bytes, outer, self.now);
        let answer = match disposition {
            Disposition::Hairpin { len } => {
                bytes.truncate(len);
                Answer::Hairpin(Sent {
                    outer,
                    bytes,
                    hooked: None,
                })
            }
            Disposition::Hooked { from, len, .. } => {
                bytes.truncate(len);
                Answer::Hairpin(Sent {
                    outer,
                    bytes,
                    hooked: Some(from),
                })
            }
            Disposition::Absorbed => Answer::Absorbed,
            Disposition::Dropped(reason) => Answer::Dropped(reason),
        };
        self.drain();
        answer
    }
    /// Delivers a datagram and answers with everything that left because of it.
    pub fn give(&mut self, packet: &Packet) -> Vec<Sent> {
        let before = self.sent.len();
        match self.deliver(packet) {
            Answer::Hairpin(sent) => {
                let mut out = vec![sent];
                out.extend_from_slice(&self.sent[before..]);
                out
            }
            _ => self.sent[before..].to_vec(),
        }
    }
    /// Polls until nothing comes out.
    pub fn drain(&mut self) {
        loop {
            let mut idle = true;
            while let Some(event) = self.dataplane.poll_event() {
                idle = false;
                self.events.push(event);
                match event {
                    Event::FlowOpened { flow, .. } => {
                        if let Some(unseen) = self.guard {
                            self.dataplane.guard(flow, unseen);
                        }
                        if let Some(verdict) = self.verdict {
                            self.dataplane.set_verdict(flow, verdict, self.now);
                        }
                    }
                    Event::FirstBytes { flow } => {
                        if let Some(answer) = self.first_bytes {
                            self.dataplane.set_first_bytes(flow, answer, self.now);
                        }
                    }
                    _ => {}
                }
            }
            let mut bytes = Vec::new();
            while let Some(transmit) = self.dataplane.poll_transmit(self.now, &mut bytes) {
                idle = false;
                assert_eq!(bytes.len(), transmit.len);
                self.sent.push(Sent {
                    outer: transmit.outer,
                    bytes: std::mem::take(&mut bytes),
                    hooked: transmit.hooked,
                });
            }
            if idle {
                return;
            }
        }
    }
    pub fn flow_opened(&self) -> FlowId {
        self.events
            .iter()
            .rev()
            .find_map(|event| match event {
                Event::FlowOpened { flow, .. } => Some(*flow),
                _ => None,
            })
            .expect("a flow was opened")
    }
    pub fn opened(&self) -> usize {
        let opened = |event: &&Event| matches!(event, Event::FlowOpened { .. });
        self.events.iter().filter(opened).count()
    }
    /// The only flow, by asking for it.
    pub fn only_flow(&self) -> FlowId {
        (0..64)
            .flat_map(|index| (1..64).map(move |generation| FlowId { index, generation }))
            .find(|id| self.dataplane.flow(*id).is_some())
            .expect("a flow is there")
    }
    pub fn read(&mut self, leg: Leg) -> (Vec<u8>, ReadOutcome) {
        let flow = self.only_flow();
        let mut all = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            match self.dataplane.read(flow, leg, &mut buffer, self.now) {
                ReadOutcome::Bytes(n) => all.extend_from_slice(&buffer[..n]),
                outcome => {
                    self.drain();
                    return (all, outcome);
                }
            }
        }
    }
    pub fn write(&mut self, leg: Leg, bytes: &[u8]) -> WriteOutcome {
        let flow = self.only_flow();
        let outcome = self.dataplane.write(flow, leg, bytes, self.now);
        self.drain();
        outcome
    }
    pub fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.sent)
    }
}
