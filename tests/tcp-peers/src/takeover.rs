//! Two kernels whose connections are taken over in between, with something wrong on the way: what
//! their applications see must be what they see without anybody in between.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use flowdog_dataplane::{
    Config, Dataplane, Disposition, Event, FirstBytes, FlowCookie, FlowId, Leg, Outer, ReadOutcome,
    Verdict, VpcEndpointId, WriteOutcome,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use wire::geneve;
use wire::ip::{self, Family};
use wire::tcp::Segment;

use crate::case::{OURS, THEIRS, settings};
use crate::kernel::Kernel;
use crate::sim::PORT;
use crate::world::Clock;

/// First bytes of the client: eight segments, more than the packets that meet with a fault.
pub const BYTES: usize = 11_000;
/// The client's port in the first case; each case has its own.
const FIRST_PORT: u16 = 20_000;
/// Connections at the same time: they mostly wait.
const AT_ONCE: usize = 96;
/// How late a late packet is.
const LATE: u64 = 35_000;
/// An application that has waited for so long is stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// How the two applications talk, and how that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialogue {
    /// The client hears what it says, and both close.
    Echo,
    /// The server has read everything and resets.
    ServerAborts,
    /// The client has heard everything and resets.
    ClientAborts,
}

/// One thing that happens to one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is lost.
    Drop,
    /// It comes twice.
    Duplicate,
    /// Others overtake it.
    Delay,
    /// Its last byte is another.
    Corrupt,
}

/// One connection.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is said on it.
    pub dialogue: Dialogue,
    /// First bytes that are asked for before it is taken over.
    pub wants: usize,
    /// Behind the appliance, not before it.
    pub is_behind: bool,
    /// The so-manieth packet there, from 1 on.
    pub nth: usize,
    /// What happens to it.
    pub fault: Fault,
}

/// What an application got to know: bytes, and whether the end was a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    bytes: Vec<u8>,
    end: String,
}

impl Seen {
    fn new(bytes: Vec<u8>, end: &str) -> Self {
        Self {
            bytes,
            end: end.to_owned(),
        }
    }

    /// Without the bytes.
    fn brief(&self) -> String {
        format!("{} bytes, {}", self.bytes.len(), self.end)
    }
}

/// What both see if nobody stands between them.
fn expected(dialogue: Dialogue, said: &[u8]) -> [Seen; 2] {
    let all = |end| Seen::new(said.to_vec(), end);
    match dialogue {
        Dialogue::Echo => [all("finished"), all("finished")],
        Dialogue::ServerAborts => [Seen::new(Vec::new(), "reset"), all("aborted")],
        Dialogue::ClientAborts => [all("aborted"), all("reset")],
    }
}

fn said(case: usize) -> Vec<u8> {
    (0..BYTES)
        .map(|index| (index * 31 + index / 251 + case) as u8)
        .collect()
}

/// What applications have seen so far, by case.
#[derive(Default)]
struct Board {
    seen: Mutex<BTreeMap<usize, [Option<Seen>; 2]>>,
    changed: Condvar,
}

impl Board {
    fn tell(&self, case: usize, side: usize, seen: Seen) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(case).or_default()[side] = Some(seen);
        self.changed.notify_all();
    }

    /// What both have seen, once they are done.
    fn wait(&self, case: usize) -> [Option<Seen>; 2] {
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_open = |all: &mut BTreeMap<usize, [Option<Seen>; 2]>| {
            let both = all.entry(case).or_default();
            both.iter().any(Option::is_none)
        };
        let (mut all, _) = self
            .changed
            .wait_timeout_while(all, PATIENCE, is_open)
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(&case).unwrap_or_default()
    }
}

/// Runs all cases, many at a time.
///
/// Answers how many connections were taken over, and what differed.
///
/// # Errors
/// What the system refused.
pub fn run(cases: &[Case]) -> io::Result<(usize, Vec<String>)> {
    let [client, server] =
        [OURS, THEIRS].map(|address| Kernel::new(address, settings(1500, "cubic", None)));
    let (mut client, mut server) = (client?, server?);
    let (board, next, running) = (
        Board::default(),
        AtomicUsize::new(0),
        AtomicUsize::new(AT_ONCE),
    );
    let listener = server.socket()?;
    listener.bind(&SocketAddr::new(THEIRS.into(), PORT).into())?;
    listener.listen(1024)?;
    listener.set_read_timeout(Some(Duration::from_millis(200)))?;
    let failures = Mutex::new(Vec::new());
    // Sockets are made here: this thread knows the namespace.
    let sockets: Vec<_> = (0..cases.len())
        .map(|case| {
            let socket = client.socket()?;
            let port = FIRST_PORT + case as u16;
            socket.bind(&SocketAddr::new(OURS.into(), port).into())?;
            Ok(Mutex::new(Some(socket)))
        })
        .collect::<io::Result<_>>()?;
    let mut middle = Middle::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let (Some(case), Some(socket)) = (cases.get(index), sockets.get(index)) else {
                        break;
                    };
                    let socket = socket.lock().unwrap_or_else(PoisonError::into_inner).take();
                    let Some(socket) = socket else { break };
                    let to = SocketAddr::new(THEIRS.into(), PORT);
                    let seen = socket
                        .connect(&to.into())
                        .and_then(|()| speak(socket.into(), case.dialogue, &said(index)));
                    let seen =
                        seen.unwrap_or_else(|error| Seen::new(Vec::new(), &error.to_string()));
                    board.tell(index, 0, seen);
                    let both = board.wait(index);
                    if both != expected(case.dialogue, &said(index)).map(Some) {
                        let brief = both
                            .map(|one| one.map_or_else(|| "stuck".to_owned(), |one| one.brief()));
                        let failure = format!("{brief:?} in {case:?}");
                        failures
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(failure);
                    }
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) > 0 {
                let Ok((stream, peer)) = listener.accept() else {
                    continue;
                };
                let port = peer.as_socket().map_or(0, |peer| peer.port());
                let index = usize::from(port.wrapping_sub(FIRST_PORT));
                let Some(case) = cases.get(index) else {
                    continue;
                };
                let board = &board;
                scope.spawn(move || {
                    let seen = listen(stream.into(), case.dialogue);
                    let seen =
                        seen.unwrap_or_else(|error| Seen::new(Vec::new(), &error.to_string()));
                    board.tell(index, 1, seen);
                });
            }
        });
        middle.run([&mut client, &mut server], || {
            running.load(Ordering::Relaxed) == 0
        })
    })?;
    let failures = failures
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok((middle.taken_over, failures))
}

/// Closes with a reset.
fn abort(stream: &TcpStream) -> io::Result<()> {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

/// Reads until `enough` bytes or the end; answers how it ended, if it did.
fn hear(
    stream: &mut TcpStream,
    bytes: &mut Vec<u8>,
    enough: usize,
) -> io::Result<Option<&'static str>> {
    let mut buffer = [0; 4096];
    while bytes.len() < enough {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Some("finished")),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Some("reset"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// The client.
fn speak(mut stream: TcpStream, dialogue: Dialogue, said: &[u8]) -> io::Result<Seen> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(said)?;
    let mut heard = Vec::new();
    if dialogue == Dialogue::ClientAborts {
        let end = hear(&mut stream, &mut heard, said.len())?;
        abort(&stream)?;
        return Ok(Seen::new(heard, end.unwrap_or("aborted")));
    }
    if dialogue == Dialogue::Echo {
        stream.shutdown(Shutdown::Write)?;
    }
    let end = hear(&mut stream, &mut heard, usize::MAX)?;
    Ok(Seen::new(heard, end.unwrap_or_default()))
}

/// The server.
fn listen(mut stream: TcpStream, dialogue: Dialogue) -> io::Result<Seen> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut heard = Vec::new();
    let end = hear(&mut stream, &mut heard, BYTES)?;
    if dialogue == Dialogue::ServerAborts {
        abort(&stream)?;
        return Ok(Seen::new(heard, end.unwrap_or("aborted")));
    }
    stream.write_all(&heard)?;
    let end = hear(&mut stream, &mut heard, usize::MAX)?;
    Ok(Seen::new(heard, end.unwrap_or_default()))
}

/// Bytes of one direction that wait for room in the other leg, and how far its end has come.
#[derive(Default)]
struct Way {
    waiting: Vec<u8>,
    is_finished: bool,
    is_shut: bool,
}

/// What stands between the kernels: faults, the load balancer's header, the data plane, a splice.
struct Middle<'a> {
    cases: &'a [Case],
    dataplane: Dataplane,
    clock: Clock,
    /// Packets of each case before and behind the data plane.
    counts: Vec<[usize; 2]>,
    splices: BTreeMap<FlowId, [Way; 2]>,
    taken_over: usize,
    /// Packets that are late: when, whether they are behind the data plane already.
    late: BinaryHeap<Reverse<(u64, u64, bool, Vec<u8>)>>,
    order: u64,
}

impl<'a> Middle<'a> {
    fn new(cases: &'a [Case]) -> Self {
        Self {
            cases,
            dataplane: Dataplane::new(Config::default(), 7),
            clock: Clock::start(),
            counts: vec![[0; 2]; cases.len()],
            splices: BTreeMap::new(),
            taken_over: 0,
            late: BinaryHeap::new(),
            order: 0,
        }
    }

    fn now(&self) -> flowdog_tcp::Instant {
        flowdog_tcp::Instant(self.clock.now())
    }

    fn run(
        &mut self,
        hosts: [&mut Kernel; 2],
        mut is_done: impl FnMut() -> bool,
    ) -> io::Result<()> {
        let wakes = [hosts[0].wakes()?, hosts[1].wakes()?];
        let begun = Instant::now();
        while !is_done() {
            if begun.elapsed() > Duration::from_secs(300) {
                return Err(io::Error::other("no end"));
            }
            let now = self.now();
            if self.dataplane.poll_timeout().is_some_and(|at| at <= now) {
                self.dataplane.handle_timeout(now);
            }
            let mut out = Vec::new();
            while let Some(Reverse((at, ..))) = self.late.peek()
                && *at <= now.0
                && let Some(Reverse((.., is_behind, packet))) = self.late.pop()
            {
                if is_behind {
                    out.push(packet);
                } else {
                    self.submit(&packet, &mut out);
                }
            }
            for host in [0, 1] {
                while let Some(packet) = hosts[host].device().receive()? {
                    for packet in self.suffer(packet, false) {
                        self.submit(&packet, &mut out);
                    }
                }
            }
            self.drain(&mut out);
            for packet in out {
                let to = usize::from(destination(&packet) == Some(THEIRS.into()));
                // A device that is full loses a packet, which is nothing new here.
                let _ = hosts[to].device().send(&packet);
            }
            let due = [
                self.dataplane.poll_timeout().map(|at| at.0),
                self.late.peek().map(|Reverse(one)| one.0),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(u64::MAX);
            let wait = due.saturating_sub(self.clock.now()).div_ceil(1000).min(20) as u8;
            let mut fds = wakes
                .each_ref()
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
            match poll(&mut fds, PollTimeout::from(wait)) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// What is left of a packet whose turn it may be to meet with a fault.
    fn suffer(&mut self, mut packet: Vec<u8>, is_behind: bool) -> Vec<Vec<u8>> {
        let Some(index) = case_of(&packet) else {
            return Vec::new();
        };
        let (Some(case), Some(counts)) = (self.cases.get(index), self.counts.get_mut(index)) else {
            return Vec::new();
        };
        let count = &mut counts[usize::from(is_behind)];
        *count += 1;
        if case.is_behind != is_behind || case.nth != *count {
            return vec![packet];
        }
        match case.fault {
            Fault::Drop => Vec::new(),
            Fault::Duplicate => vec![packet.clone(), packet],
            Fault::Delay => {
                self.order += 1;
                let at = self.clock.now() + LATE;
                self.late.push(Reverse((at, self.order, is_behind, packet)));
                Vec::new()
            }
            Fault::Corrupt => {
                if let Some(last) = packet.last_mut() {
                    *last ^= 0x10;
                }
                vec![packet]
            }
        }
    }

    fn submit(&mut self, packet: &[u8], out: &mut Vec<Vec<u8>>) {
        let repr = geneve::Repr {
            endpoint: VpcEndpointId(1),
            cookie: FlowCookie(case_of(packet).unwrap_or_default() as u32),
            family: Family::V4,
            ..geneve::Repr::default()
        };
        let mut datagram = vec![0; repr.header_len()];
        repr.emit(&mut datagram);
        datagram.extend_from_slice(packet);
        let outer = Outer {
            gwlb: SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 50_000),
            local: Ipv4Addr::new(10, 9, 1, 1),
        };
        let now = self.now();
        if let Disposition::Hairpin { len } =
            self.dataplane.handle_datagram(&mut datagram, outer, now)
        {
            self.leave(&datagram[..len], out);
        }
        self.drain(out);
    }

    fn leave(&mut self, datagram: &[u8], out: &mut Vec<Vec<u8>>) {
        if let Ok(geneve) = geneve::Packet::parse(datagram) {
            let inner = geneve.inner().to_vec();
            out.extend(self.suffer(inner, true));
        }
    }

    fn drain(&mut self, out: &mut Vec<Vec<u8>>) {
        let now = self.now();
        let mut bytes = Vec::new();
        loop {
            let mut is_idle = true;
            while let Some(event) = self.dataplane.poll_event() {
                is_idle = false;
                self.answer(event);
            }
            while let Some(run) = self.dataplane.poll_transmit_run(16, now, &mut bytes) {
                is_idle = false;
                for datagram in bytes.chunks(run.len.max(1)) {
                    self.leave(datagram, out);
                }
                bytes.clear();
            }
            if is_idle {
                return;
            }
        }
    }

    fn answer(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::FlowOpened { flow, mid_flow } => {
                let verdict = if mid_flow {
                    Verdict::Pass
                } else {
                    Verdict::Inspect
                };
                self.dataplane.set_verdict(flow, verdict, now);
            }
            Event::FirstBytes { flow } => {
                let port = self
                    .dataplane
                    .flow(flow)
                    .map_or(0, |flow| flow.client.port());
                let case = self.cases.get(usize::from(port.wrapping_sub(FIRST_PORT)));
                let held = self.dataplane.held(flow).map_or(0, <[u8]>::len);
                let answer = if case.is_some_and(|case| held < case.wants) {
                    FirstBytes::NeedMore
                } else {
                    FirstBytes::Intercept
                };
                self.dataplane.set_first_bytes(flow, answer, now);
            }
            Event::LegsReady { flow } => {
                self.taken_over += 1;
                self.splices.insert(flow, Default::default());
                self.splice(flow);
            }
            Event::Readable { flow, .. }
            | Event::Writable { flow, .. }
            | Event::LegClosed { flow, .. } => self.splice(flow),
            Event::FlowEnded { flow, .. } => {
                self.splices.remove(&flow);
            }
            Event::Handshake { .. } | Event::Parked { .. } | Event::ServerSpoke { .. } => {}
        }
    }

    /// Copies bytes and ends between the legs.
    fn splice(&mut self, flow: FlowId) {
        let now = self.now();
        let Some(ways) = self.splices.get_mut(&flow) else {
            return;
        };
        let dataplane = &mut self.dataplane;
        for (way, from) in ways.iter_mut().zip([Leg::Client, Leg::Server]) {
            loop {
                if way.waiting.is_empty() {
                    if way.is_finished {
                        if !way.is_shut {
                            way.is_shut = true;
                            dataplane.shutdown(flow, from.other(), now);
                        }
                        break;
                    }
                    let mut buffer = [0; 3000];
                    match dataplane.read(flow, from, &mut buffer, now) {
                        ReadOutcome::Bytes(count) => way.waiting = buffer[..count].to_vec(),
                        ReadOutcome::Empty => break,
                        ReadOutcome::Finished => way.is_finished = true,
                        ReadOutcome::Reset | ReadOutcome::TimedOut => {
                            return dataplane.abort(flow, now);
                        }
                    }
                } else {
                    match dataplane.write(flow, from.other(), &way.waiting, now) {
                        WriteOutcome::Bytes(count) => drop(way.waiting.drain(..count)),
                        WriteOutcome::Full => break,
                        WriteOutcome::Reset | WriteOutcome::TimedOut => {
                            return dataplane.abort(flow, now);
                        }
                    }
                }
            }
        }
    }
}

/// The case that a packet belongs to.
fn case_of(packet: &[u8]) -> Option<usize> {
    let packet = ip::Packet::parse(packet).ok()?;
    let segment = Segment::parse(packet.payload()).ok()?;
    let port = if packet.src() == IpAddr::from(OURS) {
        segment.src_port()
    } else {
        segment.dst_port()
    };
    (packet.protocol() == ip::Protocol::TCP).then_some(usize::from(port.wrapping_sub(FIRST_PORT)))
}

fn destination(packet: &[u8]) -> Option<IpAddr> {
    Some(ip::Packet::parse(packet).ok()?.dst())
}
