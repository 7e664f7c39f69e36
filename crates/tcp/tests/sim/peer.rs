//! A host that runs smoltcp, an implementation that shares nothing with ours, and the observer
//! that takes its connection over after the handshake.

use std::collections::VecDeque;
use std::net::IpAddr;

use flowdog_tcp::{Flags, Instant, Options, Repr, Seq, Takeover, TimestampSeed, Timestamps};
use smoltcp::iface::{self, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp as socket;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint, Ipv4Address};
use wire::{ip, tcp};

use super::app::App;
use super::{Host, IP_HEADER, LEFT, PORT, RIGHT};

pub(crate) struct Smoltcp {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    device: Queues,
    pub(crate) app: App,
    pub(crate) sent_packets: u64,
    buffer: Vec<u8>,
}

struct Queues {
    arrived: VecDeque<Vec<u8>>,
    leaving: Vec<Vec<u8>>,
    mtu: usize,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Arrived, Leaving<'_>)> {
        let packet = self.arrived.pop_front()?;
        Some((Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// What the place that we take over had offered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) isn: u32,
    pub(crate) mss: u16,
    pub(crate) shift: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) timestamps: bool,
    pub(crate) window: u16,
}

fn micros(now: u64) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(now as i64)
}

impl Smoltcp {
    /// A host at the right end with a connection to the left end that is still closed.
    pub(crate) fn new(app: App, mtu: usize, buffers: usize, timestamps: bool, seed: u64) -> Self {
        Self::at(RIGHT, app, mtu, buffers, timestamps, seed)
    }

    /// Two hosts that have shaken hands without spending time, with the buffers and the settings
    /// that smoltcp has without being asked.
    pub(crate) fn pair(
        apps: [App; 2],
        mtu: usize,
        buffers: usize,
        seed: u64,
        now: u64,
    ) -> [Self; 2] {
        let [app_left, app_right] = apps;
        let mut left = Self::at(LEFT, app_left, mtu, buffers, true, seed);
        let mut right = Self::at(RIGHT, app_right, mtu, buffers, true, !seed);
        right.socket().listen(PORT).expect("a fresh socket listens");
        let remote = IpEndpoint::new(Ipv4Address::new(10, 0, 0, 2).into(), PORT);
        let handle = left.handle;
        let connection = left.sockets.get_mut::<socket::Socket<'_>>(handle);
        connection
            .connect(left.interface.context(), remote, PORT)
            .expect("a fresh socket connects");
        for _ in 0..4 {
            left.step(now);
            right.device.arrived.extend(left.device.leaving.drain(..));
            right.step(now);
            left.device.arrived.extend(right.device.leaving.drain(..));
        }
        assert!(left.socket().may_send() && right.socket().may_send());
        [left, right]
    }

    fn at(
        address: IpAddr,
        app: App,
        mtu: usize,
        buffers: usize,
        timestamps: bool,
        seed: u64,
    ) -> Self {
        let mut device = Queues {
            arrived: VecDeque::new(),
            leaving: Vec::new(),
            mtu,
        };
        let mut config = iface::Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, micros(0));
        interface.update_ip_addrs(|addresses| {
            addresses
                .push(IpCidr::new(address.into(), 24))
                .expect("room for one address");
        });
        let mut connection = socket::Socket::new(
            socket::SocketBuffer::new(vec![0; buffers]),
            socket::SocketBuffer::new(vec![0; buffers]),
        );
        connection.set_congestion_control(socket::CongestionControl::Cubic);
        if timestamps {
            connection.set_tsval_generator(Some(|| 7_000));
        }
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(connection);
        Self {
            interface,
            sockets,
            handle,
            device,
            app,
            sent_packets: 0,
            buffer: vec![0; 1 << 16],
        }
    }

    fn step(&mut self, now: u64) {
        self.interface
            .poll(micros(now), &mut self.device, &mut self.sockets);
    }

    fn socket(&mut self) -> &mut socket::Socket<'static> {
        self.sockets.get_mut::<socket::Socket<'_>>(self.handle)
    }

    fn exchange(&mut self, segment: Option<&Repr>, now: u64) -> Option<Repr> {
        if let Some(repr) = segment {
            let mut packet = vec![0; IP_HEADER + repr.header_len()];
            let (network, bytes) = packet.split_at_mut(IP_HEADER);
            ip::Repr {
                src: LEFT,
                dst: RIGHT,
                protocol: ip::Protocol::TCP,
                hop_limit: 64,
                traffic_class: 0,
                dont_fragment: true,
                ident: 0,
                payload_len: bytes.len(),
            }
            .emit(network);
            repr.emit(bytes);
            tcp::fill_checksum(bytes, LEFT, RIGHT);
            self.device.arrived.push_back(packet);
        }
        self.interface
            .poll(micros(now), &mut self.device, &mut self.sockets);
        let answer = self.device.leaving.pop()?;
        assert!(self.device.leaving.is_empty());
        Some(
            tcp::Segment::parse(&answer[IP_HEADER..])
                .expect("smoltcp's segments are well-formed")
                .repr(),
        )
    }

    /// Lets smoltcp open the connection to somebody with this offer and takes that one's place.
    pub(crate) fn connect(&mut self, offer: Offer, now: u64) -> Takeover {
        let remote = IpEndpoint::new(Ipv4Address::new(10, 0, 0, 1).into(), PORT);
        let handle = self.handle;
        let connection = self.sockets.get_mut::<socket::Socket<'_>>(handle);
        connection
            .connect(self.interface.context(), remote, PORT)
            .expect("a fresh socket connects");
        let syn = self.exchange(None, now).expect("a SYN");
        assert!(syn.flags == Flags::SYN);
        let answer = Repr {
            src_port: PORT,
            dst_port: PORT,
            seq: Seq(offer.isn),
            ack: syn.seq + 1,
            flags: Flags::SYN.with(Flags::ACK),
            window: offer.window,
            options: offer.options(Some(&syn.options)),
            ..Repr::default()
        };
        let ack = self
            .exchange(Some(&answer), now)
            .expect("the third segment of the handshake");
        offer.takeover(&answer, &syn, &ack, now)
    }

    /// Opens a connection to smoltcp with this offer.
    pub(crate) fn accept(&mut self, offer: Offer, now: u64) -> Takeover {
        self.socket().listen(PORT).expect("a fresh socket listens");
        let syn = Repr {
            src_port: PORT,
            dst_port: PORT,
            seq: Seq(offer.isn),
            flags: Flags::SYN,
            window: offer.window,
            options: offer.options(None),
            ..Repr::default()
        };
        let answer = self.exchange(Some(&syn), now).expect("a SYN-ACK");
        assert!(answer.flags == Flags::SYN.with(Flags::ACK));
        let mut ack = Repr {
            seq: syn.seq + 1,
            ack: answer.seq + 1,
            flags: Flags::ACK,
            options: Options::default(),
            ..syn
        };
        ack.options.timestamps = syn
            .options
            .timestamps
            .filter(|_| answer.options.timestamps.is_some())
            .map(|own| Timestamps {
                tsval: own.tsval,
                tsecr: 7_000,
            });
        assert!(self.exchange(Some(&ack), now).is_none());
        offer.takeover(&syn, &answer, &answer, now)
    }
}

impl Offer {
    pub(crate) fn options(&self, answering: Option<&Options>) -> Options {
        Options {
            mss: Some(self.mss),
            window_scale: self
                .shift
                .filter(|_| answering.is_none_or(|peer| peer.window_scale.is_some())),
            sack_permitted: self.sack && answering.is_none_or(|peer| peer.sack_permitted),
            timestamps: (self.timestamps && answering.is_none_or(|peer| peer.timestamps.is_some()))
                .then(|| {
                    let echo = answering
                        .and_then(|peer| peer.timestamps)
                        .map_or(0, |peer| peer.tsval);
                    Timestamps {
                        tsval: 1_000_000,
                        tsecr: echo,
                    }
                }),
            ..Options::default()
        }
    }

    /// `ours` and `theirs` are the two SYNs, `last` the segment with the peer's last window.
    pub(crate) fn takeover(&self, ours: &Repr, theirs: &Repr, last: &Repr, now: u64) -> Takeover {
        let scaled = ours.options.window_scale.is_some() && theirs.options.window_scale.is_some();
        let shift = |repr: &Repr| repr.options.window_scale.filter(|_| scaled).unwrap_or(0);
        let last_shift = if last.flags.contains(Flags::SYN) {
            0
        } else {
            shift(theirs)
        };
        let rcv_nxt = theirs.seq + 1;
        Takeover {
            snd_nxt: ours.seq + 1,
            rcv_nxt,
            snd_wnd: u32::from(last.window) << last_shift,
            snd_shift: shift(theirs),
            rcv_shift: shift(ours),
            rcv_right_edge: rcv_nxt + u32::from(self.window),
            mss: theirs.options.mss.unwrap_or(536),
            sack: ours.options.sack_permitted && theirs.options.sack_permitted,
            timestamps: ours.options.timestamps.zip(theirs.options.timestamps).map(
                |(own, peer)| TimestampSeed {
                    tsval: own.tsval,
                    at: Instant(now),
                    ts_recent: peer.tsval,
                },
            ),
            ecn: false,
            srtt: None,
        }
    }
}

impl Host for Smoltcp {
    fn receive(&mut self, packet: &[u8], _now: u64) {
        self.device.arrived.push_back(packet.to_vec());
    }

    fn receive_all(&mut self, packets: &mut Vec<Vec<u8>>, _now: u64) {
        self.device.arrived.extend(packets.drain(..));
    }

    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        self.interface
            .poll(micros(now), &mut self.device, &mut self.sockets);
        let socket = self.sockets.get_mut::<socket::Socket<'_>>(self.handle);
        let app = &mut self.app;
        if app.may_read(now) {
            let limit = app.chunk.min(self.buffer.len());
            while socket.can_recv() {
                let Ok(count) = socket.recv_slice(&mut self.buffer[..limit]) else {
                    break;
                };
                app.consume(&self.buffer[..count], now);
                if app.read_pause > 0 {
                    break;
                }
            }
        }
        app.saw_end |= !socket.may_recv() && !socket.can_recv();
        while socket.can_send() {
            let count = app.produce(&mut self.buffer);
            if count == 0 {
                break;
            }
            let count = socket.send_slice(&self.buffer[..count]).unwrap_or(0);
            app.written += count as u64;
        }
        if app.wants_close() {
            app.closed = true;
            socket.close();
        }
        self.interface
            .poll(micros(now), &mut self.device, &mut self.sockets);
        self.sent_packets += self.device.leaving.len() as u64;
        out.append(&mut self.device.leaving);
    }

    fn wake_at(&mut self, now: u64) -> Option<u64> {
        let poll = self
            .interface
            .poll_at(micros(now), &self.sockets)
            .map(|at| at.total_micros() as u64);
        let readable = self.socket().can_recv();
        // smoltcp asks for now while it waits for its own window; a turn later is soon enough.
        poll.map(|at| at.max(now + 1))
            .into_iter()
            .chain(self.app.wake_at(readable))
            .min()
    }

    fn is_closed(&self) -> bool {
        matches!(
            self.sockets.get::<socket::Socket<'_>>(self.handle).state(),
            socket::State::Closed | socket::State::TimeWait
        )
    }

    fn app(&self) -> &App {
        &self.app
    }

    fn describe(&self) -> String {
        let socket = self.sockets.get::<socket::Socket<'_>>(self.handle);
        format!(
            "smoltcp {:?} queued {} readable {} sent {} of {} received {} of {}",
            socket.state(),
            socket.send_queue(),
            socket.recv_queue(),
            self.app.written,
            self.app.to_send,
            self.app.received,
            self.app.expects
        )
    }
}
