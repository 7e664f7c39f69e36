//! A host without a kernel: smoltcp's TCP on a cable to the fabric, with async streams on top.
//!
//! Serves where namespaces are forbidden (clients and servers of the tour) and as the way out to
//! the host's network. It answers for every address; each SYN is offered as an [`Incoming`]
//! connection that is accepted, refused or ignored, so that a caller may find out first whether
//! the real server answers. UDP comes and goes as whole [`Datagram`]s.

mod stream;
mod wire;

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{
    HardwareAddress, IpCidr, IpEndpoint, IpListenEndpoint, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr, UdpPacket, UdpRepr,
};
use tokio::sync::{Notify, mpsc};

use crate::sim::inner::{ACK, Inner as InnerPacket, RST, SYN, TCP, UDP};
pub use stream::StackStream;
use wire::HostEnd;
pub(crate) use wire::LabEnd;

/// Send and receive buffer of one connection.
const BUFFER: usize = 512 << 10;
/// Connections and datagrams that may wait for the host's attention.
const MAX_WAITING: usize = 1024;
/// How long a dropped connection may take to send what it has and say goodbye.
const ORPHAN_LIMIT: Duration = Duration::from_secs(30);
/// How often ended connections are looked for when nothing else happens.
const IDLE_TURN: Duration = Duration::from_millis(500);

/// One UDP datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it.
    pub source: SocketAddr,
    /// For whom it is.
    pub destination: SocketAddr,
    /// Its content.
    pub payload: Vec<u8>,
}

/// A host. Clones share it.
#[derive(Clone, Debug)]
pub struct Stack {
    shared: Arc<Shared>,
}

/// What arrives at a host unasked.
#[derive(Debug)]
pub struct Arrivals {
    /// Connections that someone wants.
    pub connections: mpsc::Receiver<Incoming>,
    /// UDP datagrams.
    pub datagrams: mpsc::Receiver<Datagram>,
}

#[derive(Debug)]
struct Shared {
    host: Mutex<Host>,
    wire: HostEnd,
    connections: mpsc::Sender<Incoming>,
    datagrams: mpsc::Sender<Datagram>,
    /// SYNs whose [`Incoming`] was dropped undecided.
    ignored: Mutex<Vec<(SocketAddr, SocketAddr)>>,
}

struct Host {
    interface: Interface,
    queues: Queues,
    sockets: SocketSet<'static>,
    /// SYNs that nobody has decided on, by (client, server).
    held: HashMap<(SocketAddr, SocketAddr), Vec<u8>>,
    orphans: Vec<(SocketHandle, Instant)>,
    addresses: Vec<IpAddr>,
    next_port: u16,
    start: Instant,
    mtu: usize,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

impl Stack {
    /// A host with these addresses, one per family; the task [`Stack::run`] must be driven.
    ///
    /// # Errors
    /// The system has no descriptors left.
    pub(crate) fn new(
        addresses: &[IpAddr],
        mtu: usize,
        seed: u64,
    ) -> io::Result<(Self, Arrivals, LabEnd)> {
        let (wire, lab) = wire::pair()?;
        let start = Instant::now();
        let mut queues = Queues {
            received: VecDeque::new(),
            sent: VecDeque::new(),
            mtu,
        };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queues, StackInstant::ZERO);
        interface.set_any_ip(true);
        interface.update_ip_addrs(|list| {
            for address in addresses {
                // Two fit; a third address of a host would be a mistake of ours and is left out.
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                let _ = list.push(IpCidr::new((*address).into(), prefix));
            }
        });
        for address in addresses {
            let _ = match address {
                IpAddr::V4(v4) => interface
                    .routes_mut()
                    .add_default_ipv4_route(*v4)
                    .map(|_| ()),
                IpAddr::V6(v6) => interface
                    .routes_mut()
                    .add_default_ipv6_route(*v6)
                    .map(|_| ()),
            };
        }
        let (connections, incoming) = mpsc::channel(MAX_WAITING);
        let (datagrams, arrived) = mpsc::channel(MAX_WAITING);
        let host = Host {
            interface,
            queues,
            sockets: SocketSet::new(Vec::new()),
            held: HashMap::new(),
            orphans: Vec::new(),
            addresses: addresses.to_vec(),
            next_port: 20_000 + (seed % 20_000) as u16,
            start,
            mtu,
        };
        let shared = Arc::new(Shared {
            host: Mutex::new(host),
            wire,
            connections,
            datagrams,
            ignored: Mutex::default(),
        });
        Ok((
            Self { shared },
            Arrivals {
                connections: incoming,
                datagrams: arrived,
            },
            lab,
        ))
    }

    /// Moves packets and timers until the task is dropped.
    pub async fn run(self) {
        let notify = Arc::clone(&self.shared.wire.notify);
        loop {
            let delay = self.turn();
            tokio::select! {
                () = notify.notified() => {}
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Opens a TCP connection from one of this host's addresses.
    ///
    /// # Errors
    /// Refused, reset, or no answer within `limit`.
    pub async fn connect(&self, target: SocketAddr, limit: Duration) -> io::Result<StackStream> {
        self.connect_from(None, target, limit).await
    }

    /// Opens a TCP connection from a given port.
    ///
    /// # Errors
    /// As [`Stack::connect`]; also when that port is connected to `target` already.
    pub async fn connect_from(
        &self,
        port: Option<u16>,
        target: SocketAddr,
        limit: Duration,
    ) -> io::Result<StackStream> {
        let stream = {
            let mut host = self.host();
            let mut source = host.source_for(target)?;
            if let Some(port) = port {
                source.set_port(port);
                if host.has_connection(target, source) {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
            }
            let mut socket = new_socket();
            let Host {
                interface, sockets, ..
            } = &mut *host;
            socket
                .connect(interface.context(), endpoint(target), endpoint(source))
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
            let handle = sockets.add(socket);
            StackStream::new(self.clone(), handle, source, target)
        };
        self.kick();
        match tokio::time::timeout(limit, self.established(&stream)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                stream.abort();
                Err(io::Error::from(io::ErrorKind::TimedOut))
            }
        }
    }

    /// Sends a UDP datagram; the source need not be an address of this host.
    ///
    /// # Errors
    /// The families differ, or it is larger than the MTU.
    pub fn send_datagram(&self, datagram: &Datagram) -> io::Result<()> {
        let packet = udp_packet(datagram, self.host().mtu)?;
        self.shared.wire.send(packet);
        Ok(())
    }

    /// One of this host's addresses and a fresh port, to reach `target` from.
    ///
    /// # Errors
    /// The host has no address of that family.
    pub fn source_for(&self, target: SocketAddr) -> io::Result<SocketAddr> {
        self.host().source_for(target)
    }

    fn host(&self) -> MutexGuard<'_, Host> {
        self.shared
            .host
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn kick(&self) {
        self.shared.wire.notify.notify_one();
    }

    async fn established(&self, stream: &StackStream) -> io::Result<()> {
        poll_fn(|context| {
            let mut host = self.host();
            let socket = host.sockets.get_mut::<tcp::Socket<'_>>(stream.handle());
            match socket.state() {
                tcp::State::SynSent | tcp::State::SynReceived | tcp::State::Listen => {
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
                tcp::State::Closed => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    /// Takes what arrived, lets the engine work, sends what it made; says when to come back.
    fn turn(&self) -> Duration {
        let mut host = self.host();
        for key in std::mem::take(
            &mut *self
                .shared
                .ignored
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        ) {
            host.held.remove(&key);
        }
        while let Some(packet) = self.shared.wire.receive() {
            self.admit(&mut host, packet);
        }
        host.work(&self.shared.wire);
        host.bury_orphans();
        let now = host.now();
        let Host {
            interface, sockets, ..
        } = &mut *host;
        let delay = interface
            .poll_delay(now, sockets)
            .map_or(IDLE_TURN, Duration::from);
        delay.min(IDLE_TURN)
    }

    fn admit(&self, host: &mut Host, packet: Vec<u8>) {
        let Ok(inner) = InnerPacket::parse(&packet) else {
            return;
        };
        let (client, server) = (inner.tuple.src.into(), inner.tuple.dst.into());
        match (inner.tuple.protocol, inner.tcp) {
            (TCP, Some((flags, _))) if flags & (SYN | ACK | RST) == SYN => {
                if host.has_connection(client, server) {
                    host.queues.received.push_back(packet);
                } else if host.held.len() < MAX_WAITING
                    && !host.held.contains_key(&(client, server))
                    && inner.verify().is_ok()
                    && let Ok(permit) = self.shared.connections.try_reserve()
                {
                    permit.send(Incoming {
                        stack: self.clone(),
                        client,
                        server,
                        decided: false,
                    });
                    host.held.insert((client, server), packet);
                }
            }
            (UDP, _) => {
                let payload = inner.payload().get(8..).unwrap_or_default().to_vec();
                if inner.verify().is_ok() {
                    // A full queue drops the datagram, as a socket would.
                    let _ = self.shared.datagrams.try_send(Datagram {
                        source: client,
                        destination: server,
                        payload,
                    });
                }
            }
            _ => host.queues.received.push_back(packet),
        }
    }
}

/// A connection that a client wants. Dropping it undecided ignores the client, who will try again.
#[derive(Debug)]
pub struct Incoming {
    stack: Stack,
    /// Who asks.
    pub client: SocketAddr,
    /// Whom it asks for.
    pub server: SocketAddr,
    decided: bool,
}

impl Incoming {
    /// Completes the handshake.
    ///
    /// # Errors
    /// The client gave up.
    pub async fn accept(mut self) -> io::Result<StackStream> {
        self.decided = true;
        let stream = {
            let mut host = self.stack.host();
            let syn = host
                .held
                .remove(&(self.client, self.server))
                .ok_or(io::ErrorKind::ConnectionAborted)?;
            let mut socket = new_socket();
            let local = IpListenEndpoint {
                addr: Some(self.server.ip().into()),
                port: self.server.port(),
            };
            socket
                .listen(local)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error.to_string()))?;
            let handle = host.sockets.add(socket);
            // Under one lock: nobody else's SYN can take the socket.
            host.queues.received.push_back(syn);
            host.work(&self.stack.shared.wire);
            StackStream::new(self.stack.clone(), handle, self.server, self.client)
        };
        self.stack.established(&stream).await?;
        Ok(stream)
    }

    /// Answers with a reset: connection refused.
    pub fn refuse(mut self) {
        self.decided = true;
        let mut host = self.stack.host();
        if let Some(syn) = host.held.remove(&(self.client, self.server)) {
            // No socket listens, so the engine resets it.
            host.queues.received.push_back(syn);
            host.work(&self.stack.shared.wire);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.decided {
            // The host may be locked by whoever drops this; its task forgets the SYN later.
            let mut ignored = self
                .stack
                .shared
                .ignored
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            ignored.push((self.client, self.server));
        }
    }
}

impl Host {
    fn now(&self) -> StackInstant {
        StackInstant::from_micros(
            i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX),
        )
    }

    fn work(&mut self, wire: &HostEnd) {
        let now = self.now();
        self.interface
            .poll(now, &mut self.queues, &mut self.sockets);
        while let Some(packet) = self.queues.sent.pop_front() {
            wire.send(packet);
        }
    }

    fn has_connection(&self, client: SocketAddr, server: SocketAddr) -> bool {
        let (remote, local) = (endpoint(client), endpoint(server));
        self.sockets.iter().any(|(_, socket)| {
            let smoltcp::socket::Socket::Tcp(socket) = socket else {
                return false;
            };
            socket.local_endpoint() == Some(local)
                && socket.remote_endpoint() == Some(remote)
                && !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)
        })
    }

    fn source_for(&mut self, target: SocketAddr) -> io::Result<SocketAddr> {
        let address = self
            .addresses
            .iter()
            .find(|address| address.is_ipv4() == target.is_ipv4())
            .ok_or_else(|| {
                io::Error::new(io::ErrorKind::AddrNotAvailable, "no address of that family")
            })?;
        self.next_port = if self.next_port >= 60_000 {
            20_000
        } else {
            self.next_port + 1
        };
        Ok(SocketAddr::new(*address, self.next_port))
    }

    fn bury_orphans(&mut self) {
        let sockets = &mut self.sockets;
        self.orphans.retain(|(handle, since)| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            match socket.state() {
                tcp::State::Closed | tcp::State::TimeWait => {
                    sockets.remove(*handle);
                    false
                }
                _ => {
                    if since.elapsed() > ORPHAN_LIMIT {
                        socket.abort();
                    }
                    true
                }
            }
        });
    }
}

fn new_socket() -> tcp::Socket<'static> {
    let mut socket = tcp::Socket::new(
        tcp::SocketBuffer::new(vec![0; BUFFER]),
        tcp::SocketBuffer::new(vec![0; BUFFER]),
    );
    socket.set_nagle_enabled(false);
    socket.set_congestion_control(tcp::CongestionControl::Cubic);
    socket
}

fn endpoint(address: SocketAddr) -> IpEndpoint {
    IpEndpoint {
        addr: address.ip().into(),
        port: address.port(),
    }
}

fn udp_packet(datagram: &Datagram, mtu: usize) -> io::Result<Vec<u8>> {
    let repr = UdpRepr {
        src_port: datagram.source.port(),
        dst_port: datagram.destination.port(),
    };
    let payload_len = repr.header_len() + datagram.payload.len();
    let (source, destination) = (datagram.source.ip(), datagram.destination.ip());
    let too_large = || {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "datagram is larger than the MTU",
        )
    };
    let mut packet;
    let header_len = match (source, destination) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let header = Ipv4Repr {
                src_addr: src,
                dst_addr: dst,
                next_header: IpProtocol::Udp,
                payload_len,
                hop_limit: 64,
            };
            if header.buffer_len() + payload_len > mtu {
                return Err(too_large());
            }
            packet = vec![0; header.buffer_len() + payload_len];
            header.emit(
                &mut Ipv4Packet::new_unchecked(&mut packet),
                &smoltcp::phy::ChecksumCapabilities::default(),
            );
            header.buffer_len()
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let header = Ipv6Repr {
                src_addr: src,
                dst_addr: dst,
                next_header: IpProtocol::Udp,
                payload_len,
                hop_limit: 64,
            };
            if header.buffer_len() + payload_len > mtu {
                return Err(too_large());
            }
            packet = vec![0; header.buffer_len() + payload_len];
            header.emit(&mut Ipv6Packet::new_unchecked(&mut packet));
            header.buffer_len()
        }
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "two address families in one datagram",
            ));
        }
    };
    let body = packet.get_mut(header_len..).unwrap_or_default();
    repr.emit(
        &mut UdpPacket::new_unchecked(body),
        &source.into(),
        &destination.into(),
        datagram.payload.len(),
        |out| out.copy_from_slice(&datagram.payload),
        &smoltcp::phy::ChecksumCapabilities::default(),
    );
    Ok(packet)
}

/// smoltcp's view of the cable.
struct Queues {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
    mtu: usize,
}

impl Device for Queues {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Received, Sending<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Sending<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

/// Keeps the compiler's eye on what must cross threads.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Stack>();
    is_send::<StackStream>();
    is_send::<Notify>();
};
