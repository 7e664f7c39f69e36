//! One thread that carries packets between real devices, the fabric and the appliance's socket.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::socket::sockopt;
use nix::sys::time::TimeSpec;
use socket2::{Domain, Socket, Type};
use wire::gwlb::VpcEndpointId;

use crate::fabric::{Action, Fabric};
use crate::netns::{Device, Namespace};
use crate::report::LabReport;
use crate::segments::{self, Run};
use crate::sim::{GENEVE_PORT, Side, ToAppliance};
use crate::stack::LabEnd;

/// Packets read from one device or socket before the others get their turn.
const BATCH: usize = 64;
/// Socket buffer asked for: the appliance answers in bursts.
const SOCKET_BUFFER: usize = 16 << 20;

/// A device or cable and the host it belongs to.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) endpoint: usize,
    pub(crate) side: Side,
    pub(crate) end: End,
}

/// How the fabric reaches a host.
#[derive(Debug)]
pub(crate) enum End {
    /// A device in a namespace.
    Device(Device),
    /// A cable to a user-space host.
    Stack(LabEnd),
}

impl End {
    fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self {
            Self::Device(device) => device.receive(),
            Self::Stack(end) => end.receive(),
        }
    }

    fn send(&mut self, packet: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Device(device) => device.send(&packet),
            Self::Stack(end) => {
                end.send(packet);
                Ok(())
            }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Device(device) => device.as_fd(),
            Self::Stack(end) => end.as_fd(),
        }
    }
}

#[derive(Debug)]
struct Shared {
    fabric: Mutex<Fabric>,
    device_errors: AtomicU64,
    stop: AtomicBool,
    start: Instant,
}

impl Shared {
    fn fabric(&self) -> MutexGuard<'_, Fabric> {
        // The fabric stays consistent packet by packet; a panicked reader of numbers harms nothing.
        self.fabric.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_error(&self, what: &str, error: &io::Error) {
        tracing::debug!(what, %error, "lab packet lost");
        self.device_errors.fetch_add(1, Ordering::Relaxed);
    }
}

/// A handle on the running lab's numbers and switches; cheap to clone.
#[derive(Clone, Debug)]
pub struct LabHandle {
    shared: Arc<Shared>,
}

impl LabHandle {
    /// The numbers so far.
    #[must_use]
    pub fn report(&self) -> LabReport {
        let fabric = self.shared.fabric();
        LabReport {
            violations: fabric.gwlb().violations().clone(),
            gwlb: fabric.gwlb().stats(),
            links: fabric.link_stats(),
            endpoints: fabric.gwlb().config().endpoints.len(),
            device_errors: self.shared.device_errors.load(Ordering::Relaxed),
            ..LabReport::default()
        }
    }

    /// The ids of the endpoints, in order.
    #[must_use]
    pub fn endpoints(&self) -> Vec<VpcEndpointId> {
        self.shared.fabric().gwlb().config().endpoints.clone()
    }

    /// Changes the fabric while it runs, for example a switch of the load balancer. The second
    /// argument is the lab's time.
    pub fn with_fabric<T>(&self, change: impl FnOnce(&mut Fabric, Duration) -> T) -> T {
        let now = self.shared.start.elapsed();
        change(&mut self.shared.fabric(), now)
    }
}

/// The running thread; dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Driver {
    handle: LabHandle,
    waker: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Opens the load balancer's sockets in `namespace` (`None`: where the caller is) and starts.
    pub(crate) fn start(
        fabric: Fabric,
        ports: Vec<Port>,
        namespace: Option<&Namespace>,
    ) -> io::Result<Self> {
        let zones = fabric.gwlb().config().zones.clone();
        let source_ports = fabric.gwlb().config().ports.clone();
        let open = || Sockets::open(&zones, &source_ports);
        let sockets = match namespace {
            Some(namespace) => namespace.run(open)?,
            None => open()?,
        };
        let (waker, wake) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            fabric: Mutex::new(fabric),
            device_errors: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            start: Instant::now(),
        });
        let handle = LabHandle {
            shared: Arc::clone(&shared),
        };
        let thread = std::thread::Builder::new()
            .name("lab-fabric".to_owned())
            .spawn(move || run(&shared, ports, &sockets, &wake))?;
        Ok(Self {
            handle,
            waker,
            thread: Some(thread),
        })
    }

    pub(crate) fn handle(&self) -> &LabHandle {
        &self.handle
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.handle.shared.stop.store(true, Ordering::Relaxed);
        // A closed peer also wakes the thread, so a failed write needs no handling.
        let _ = self.waker.write_all(&[1]);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the lab's fabric thread panicked");
        }
    }
}

/// The load balancer's sockets: per zone one that receives, and one per source port that sends.
struct Sockets {
    sockets: Vec<UdpSocket>,
    addresses: Vec<SocketAddrV4>,
}

impl Sockets {
    fn open(zones: &[Ipv4Addr], ports: &[u16]) -> io::Result<Self> {
        let mut sockets = Self {
            sockets: Vec::new(),
            addresses: Vec::new(),
        };
        for zone in zones {
            for port in std::iter::once(GENEVE_PORT).chain(ports.iter().copied()) {
                let address = SocketAddrV4::new(*zone, port);
                let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
                // The appliance may bind 0.0.0.0 on the same port in the same namespace.
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(true)?;
                if nix::sys::socket::setsockopt(&socket, sockopt::RcvBufForce, &SOCKET_BUFFER)
                    .is_err()
                {
                    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
                }
                socket.set_nonblocking(true)?;
                socket.bind(&SocketAddr::V4(address).into())?;
                let socket = socket.into();
                segments::join_arrivals(&socket);
                sockets.sockets.push(socket);
                sockets.addresses.push(address);
            }
        }
        Ok(sockets)
    }

    fn send(&self, source: SocketAddrV4, target: SocketAddrV4, run: &mut Run) -> io::Result<()> {
        let at = self.addresses.iter().position(|address| *address == source);
        let Some(socket) = at.and_then(|at| self.sockets.get(at)) else {
            return Err(io::Error::other("no socket for this source"));
        };
        run.send(socket, target)
    }
}

/// Datagrams on their way to the appliance, as long as one follows the other on the same way.
#[derive(Default)]
struct Departures {
    way: Option<(SocketAddrV4, SocketAddrV4)>,
    run: Run,
}

impl Departures {
    fn push(&mut self, shared: &Shared, sockets: &Sockets, datagram: &ToAppliance) {
        let way = Some((datagram.source, datagram.target));
        if self.way == way && self.run.push(&datagram.payload) {
            return;
        }
        self.send(shared, sockets);
        self.way = way;
        self.run.push(&datagram.payload);
    }

    fn send(&mut self, shared: &Shared, sockets: &Sockets) {
        if let Some((source, target)) = self.way.take()
            && let Err(error) = sockets.send(source, target, &mut self.run)
        {
            shared.count_error("send to appliance", &error);
        }
    }
}

fn run(shared: &Shared, mut ports: Vec<Port>, sockets: &Sockets, wake: &UnixStream) {
    let mut buffer = vec![0; 65_536];
    let mut departures = Departures::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let ready = match wait(shared, &ports, sockets, wake) {
            Ok(ready) => ready,
            Err(error) => {
                tracing::error!(%error, "the lab's fabric cannot wait for packets and stops");
                return;
            }
        };
        let mut fabric = shared.fabric();
        let now = shared.start.elapsed();
        for (port, _) in ports.iter_mut().zip(&ready).filter(|(_, ready)| **ready) {
            receive(shared, port, &mut fabric, now);
        }
        let sockets_ready = ready.get(ports.len()..).unwrap_or_default();
        for ((socket, address), _) in sockets
            .sockets
            .iter()
            .zip(&sockets.addresses)
            .zip(sockets_ready)
            .filter(|(_, ready)| **ready)
        {
            receive_answers(shared, socket, *address, &mut fabric, &mut buffer, now);
        }
        while let Some(action) = fabric.poll(shared.start.elapsed()) {
            match action {
                Action::ToAppliance(datagram) => departures.push(shared, sockets, &datagram),
                Action::ToHost {
                    endpoint,
                    side,
                    packet,
                } => deliver(shared, &mut ports, endpoint, side, packet),
            }
        }
        departures.send(shared, sockets);
    }
}

/// Waits until something is readable or due; says which ports, then which sockets, are readable.
fn wait(
    shared: &Shared,
    ports: &[Port],
    sockets: &Sockets,
    wake: &UnixStream,
) -> io::Result<Vec<bool>> {
    let timeout = shared
        .fabric()
        .next_due()
        .map(|due| TimeSpec::from_duration(due.saturating_sub(shared.start.elapsed())));
    let devices = ports.iter().map(|port| port.end.as_fd());
    let mut fds: Vec<PollFd<'_>> = devices
        .chain(sockets.sockets.iter().map(AsFd::as_fd))
        .chain(std::iter::once(wake.as_fd()))
        .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
        .collect();
    match ppoll(&mut fds, timeout, None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(fds.iter().map(|fd| fd.any().unwrap_or(false)).collect())
}

fn receive(shared: &Shared, port: &mut Port, fabric: &mut Fabric, now: Duration) {
    for _ in 0..BATCH {
        match port.end.receive() {
            Ok(Some(packet)) => fabric.from_host(port.endpoint, port.side, packet, now),
            Ok(None) => return,
            Err(error) => return shared.count_error("receive from host", &error),
        }
    }
}

fn receive_answers(
    shared: &Shared,
    socket: &UdpSocket,
    address: SocketAddrV4,
    fabric: &mut Fabric,
    buffer: &mut [u8],
    now: Duration,
) {
    for _ in 0..BATCH {
        let received = segments::receive(socket, buffer, |source, datagram| {
            if let Err(violation) = fabric.from_appliance(source, address, datagram, now) {
                tracing::debug!(%violation, %source, "answer dropped");
            }
        });
        match received {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return shared.count_error("receive from appliance", &error),
        }
    }
}

fn deliver(shared: &Shared, ports: &mut [Port], endpoint: usize, side: Side, packet: Vec<u8>) {
    let port = ports
        .iter_mut()
        .find(|port| port.endpoint == endpoint && port.side == side);
    if let Some(port) = port
        && let Err(error) = port.end.send(packet)
    {
        shared.count_error("send to host", &error);
    }
}
