//! Sockets over the engine in virtual time: what packetdrill's scripts need of an operating system.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Config, Connection, Flags, Instant, Repr, Seq, State, Takeover};
use wire::{ip, tcp};

use crate::sim::peer::Offer;

/// How far the clock runs for a packet that a script waits for.
const PATIENCE: Duration = Duration::from_secs(600);
/// What the server's end of every connection announces.
const OFFER: Offer = Offer {
    isn: 0x1000_0000,
    mss: 1460,
    shift: Some(8),
    sack: true,
    timestamps: true,
    window: 65_535,
};

/// An operating system with one application.
pub(crate) struct Stack {
    now: Instant,
    config: Arc<Config>,
    sockets: BTreeMap<i32, Socket>,
    streams: Vec<Stream>,
    sent: VecDeque<(Instant, Vec<u8>)>,
}

enum Socket {
    Fresh {
        port: u16,
    },
    Listening(Box<Listener>),
    /// An index into the streams.
    Open(usize),
}

#[derive(Default)]
struct Listener {
    port: u16,
    half_open: Option<HalfOpen>,
    ready: VecDeque<usize>,
}

struct HalfOpen {
    syn: Repr,
    answer: Repr,
    local: IpAddr,
    remote: IpAddr,
    at: Instant,
}

struct Stream {
    connection: Connection,
    local: SocketAddr,
    remote: SocketAddr,
}

/// What a call that would block gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Refusal {
    WouldBlock,
    BadDescriptor,
    BrokenPipe,
}

impl Stack {
    pub(crate) fn new() -> Self {
        Self {
            // The clock of the timestamps has run before.
            now: Instant(1_000_000_000),
            config: Arc::new(Config {
                keepalive: None,
                ..Config::default()
            }),
            sockets: BTreeMap::new(),
            streams: Vec::new(),
            sent: VecDeque::new(),
        }
    }

    pub(crate) fn open(&mut self, fd: i32) {
        self.sockets.insert(fd, Socket::Fresh { port: 0 });
    }

    pub(crate) fn bind(&mut self, fd: i32, to: u16) -> Result<(), Refusal> {
        match self.sockets.get_mut(&fd) {
            Some(Socket::Fresh { port }) => *port = to,
            _ => return Err(Refusal::BadDescriptor),
        }
        Ok(())
    }

    pub(crate) fn listen(&mut self, fd: i32) -> Result<(), Refusal> {
        let Some(Socket::Fresh { port }) = self.sockets.get(&fd) else {
            return Err(Refusal::BadDescriptor);
        };
        let listener = Listener {
            port: *port,
            ..Listener::default()
        };
        self.sockets
            .insert(fd, Socket::Listening(Box::new(listener)));
        Ok(())
    }

    /// Gives the next connection the descriptor `new`.
    pub(crate) fn accept(&mut self, fd: i32, new: i32) -> Result<SocketAddr, Refusal> {
        let Some(Socket::Listening(listener)) = self.sockets.get_mut(&fd) else {
            return Err(Refusal::BadDescriptor);
        };
        let index = listener.ready.pop_front().ok_or(Refusal::WouldBlock)?;
        self.sockets.insert(new, Socket::Open(index));
        Ok(self.streams[index].remote)
    }

    fn stream(&mut self, fd: i32) -> Result<&mut Stream, Refusal> {
        match self.sockets.get(&fd) {
            Some(Socket::Open(index)) => Ok(&mut self.streams[*index]),
            _ => Err(Refusal::BadDescriptor),
        }
    }

    pub(crate) fn read(&mut self, fd: i32, out: &mut [u8]) -> Result<usize, Refusal> {
        let stream = self.stream(fd)?;
        let count = stream.connection.read(out);
        let at_end = stream.connection.is_read_finished();
        self.transmit();
        if count == 0 && !at_end && !out.is_empty() {
            return Err(Refusal::WouldBlock);
        }
        Ok(count)
    }

    pub(crate) fn write(&mut self, fd: i32, bytes: &[u8]) -> Result<usize, Refusal> {
        let stream = self.stream(fd)?;
        let count = stream.connection.write(bytes);
        self.transmit();
        let state = self.stream(fd)?.connection.state();
        match count {
            0 if !matches!(state, State::Established | State::CloseWait) => {
                Err(Refusal::BrokenPipe)
            }
            0 if !bytes.is_empty() => Err(Refusal::WouldBlock),
            count => Ok(count),
        }
    }

    pub(crate) fn shutdown(&mut self, fd: i32) -> Result<(), Refusal> {
        self.stream(fd)?.connection.shutdown();
        self.transmit();
        Ok(())
    }

    /// Closes both directions; unread data makes that a reset (RFC 9293 §3.6.1).
    pub(crate) fn close(&mut self, fd: i32) -> Result<(), Refusal> {
        if let Ok(stream) = self.stream(fd) {
            if stream.connection.readable() > 0 {
                stream.connection.abort();
            } else {
                stream.connection.shutdown();
            }
        }
        self.transmit();
        self.sockets
            .remove(&fd)
            .map(drop)
            .ok_or(Refusal::BadDescriptor)
    }

    /// The time in microseconds; each look takes one.
    pub(crate) fn look_at_clock(&mut self) -> u64 {
        self.run_until(self.now + Duration::from_micros(1));
        self.now.0
    }

    pub(crate) fn sleep(&mut self, micros: u32) {
        self.run_until(self.now + Duration::from_micros(micros.into()));
    }

    fn next_timeout(&self) -> Option<Instant> {
        self.streams
            .iter()
            .filter_map(|stream| stream.connection.poll_timeout())
            .min()
    }

    fn run_until(&mut self, end: Instant) {
        while let Some(at) = self.next_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            for stream in &mut self.streams {
                stream.connection.handle_timeout(self.now);
            }
            self.transmit();
        }
        self.now = end;
    }

    /// The next packet that leaves and when it left; lets time pass for it.
    pub(crate) fn sniff(&mut self) -> Option<(u64, Vec<u8>)> {
        let end = self.now + PATIENCE;
        loop {
            if let Some((at, packet)) = self.sent.pop_front() {
                return Some((at.0, packet));
            }
            let at = self.next_timeout().filter(|at| *at <= end)?;
            self.run_until(at.max(self.now));
        }
    }

    /// A packet arrives.
    pub(crate) fn inject(&mut self, packet: &[u8]) {
        let Ok(packet) = ip::Packet::parse(packet) else {
            return;
        };
        let (src, dst) = (packet.src(), packet.dst());
        let Ok(segment) = tcp::Segment::parse(packet.payload()) else {
            return;
        };
        if packet.protocol() != ip::Protocol::TCP || !segment.verify_checksum(src, dst) {
            return;
        }
        let repr = segment.repr();
        let ends = (
            SocketAddr::new(dst, repr.dst_port),
            SocketAddr::new(src, repr.src_port),
        );
        let known = self
            .streams
            .iter()
            .position(|stream| (stream.local, stream.remote) == ends);
        match known {
            Some(index) => self.deliver(index, &repr, segment.payload()),
            None => self.shake_hands(&repr, segment.payload(), dst, src),
        }
        self.transmit();
    }

    fn deliver(&mut self, index: usize, repr: &Repr, payload: &[u8]) {
        let now = self.now;
        let connection = &mut self.streams[index].connection;
        connection.handle_segment(repr, payload, false, now);
    }

    fn shake_hands(&mut self, repr: &Repr, payload: &[u8], local: IpAddr, remote: IpAddr) {
        let now = self.now;
        let listeners = self.sockets.values_mut();
        let Some(listener) = listeners
            .filter_map(|socket| match socket {
                Socket::Listening(listener) => Some(listener),
                Socket::Fresh { .. } | Socket::Open(_) => None,
            })
            .find(|listener| listener.port == repr.dst_port)
        else {
            return;
        };
        if repr.flags.contains(Flags::SYN) && !repr.flags.contains(Flags::ACK) {
            let answer = Repr {
                src_port: repr.dst_port,
                dst_port: repr.src_port,
                seq: Seq(OFFER.isn),
                ack: repr.seq + 1,
                flags: Flags::SYN.with(Flags::ACK),
                window: OFFER.window,
                options: OFFER.options(Some(&repr.options)),
                ..Repr::default()
            };
            listener.half_open = Some(HalfOpen {
                syn: *repr,
                answer,
                local,
                remote,
                at: now,
            });
            self.sent
                .push_back((now, packet(&answer, local, remote, &[])));
            return;
        }
        let fits = |half: &HalfOpen| repr.ack == half.answer.seq + 1 && half.remote == remote;
        let Some(half) = listener.half_open.take_if(|half| fits(half)) else {
            return;
        };
        let takeover = Takeover {
            srtt: Some(now.since(half.at)),
            ..OFFER.takeover(&half.answer, &half.syn, repr, now.0)
        };
        let index = self.streams.len();
        listener.ready.push_back(index);
        self.streams.push(Stream {
            connection: Connection::new(&self.config, &takeover, now),
            local: SocketAddr::new(half.local, repr.dst_port),
            remote: SocketAddr::new(half.remote, repr.src_port),
        });
        if !payload.is_empty() || repr.flags.contains(Flags::FIN) {
            self.deliver(index, repr, payload);
        }
    }

    /// Takes what the connections have to send.
    fn transmit(&mut self) {
        for stream in &mut self.streams {
            while let Some(transmit) = stream.connection.poll_transmit(self.now) {
                let mut repr = transmit.repr;
                (repr.src_port, repr.dst_port) = (stream.local.port(), stream.remote.port());
                let connection = &stream.connection;
                let mut payload = vec![0; transmit.payload_len];
                connection.copy_payload(&transmit, &mut payload);
                let (local, remote) = (stream.local.ip(), stream.remote.ip());
                let bytes = packet(&repr, local, remote, &payload);
                self.sent.push_back((self.now, bytes));
            }
        }
    }
}

fn packet(repr: &Repr, src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut segment = vec![0; repr.header_len()];
    repr.emit(&mut segment);
    segment.extend_from_slice(payload);
    tcp::fill_checksum(&mut segment, src, dst);
    let network = ip::Repr {
        src,
        dst,
        protocol: ip::Protocol::TCP,
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: true,
        ident: 0,
        payload_len: segment.len(),
    };
    let mut bytes = vec![0; network.header_len()];
    network.emit(&mut bytes);
    bytes.extend_from_slice(&segment);
    bytes
}
