//! Datagrams out, in as few system calls as their destinations allow and without copying them.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use dataplane::Outer;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::PacketSocket;
use super::reply::{ReplyCounters, ReplySockets, Way};
use super::sys::{self, Outgoing};

/// Most datagrams in one GSO message (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const MAX_SEGMENTS: usize = 64;
/// Most bytes in one GSO message: an IPv4 packet less its headers.
const MAX_MESSAGE: usize = 65_535 - 20 - 8;
/// How many of the newest messages a datagram may still join.
const JOINABLE: usize = 8;
/// Most places in memory that one message is put together from.
const MAX_RANGES: usize = 8;

/// One datagram to send: where its bytes are and which packet it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) range: Range<usize>,
    pub(crate) outer: Outer,
}

/// What became of datagrams on their way out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SendCounters {
    /// Datagrams that the kernel took.
    pub(crate) datagrams: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// System calls made.
    pub(crate) calls: u64,
    /// Datagrams dropped because the socket stayed full.
    pub(crate) full: u64,
    /// Datagrams dropped because the kernel refused them.
    pub(crate) refused: u64,
    /// Datagrams dropped because no socket could be bound to the port they must leave from.
    pub(crate) no_port: u64,
    /// ICMP errors of earlier datagrams that the kernel reported at this one; harmless.
    pub(crate) icmp_errors: u64,
    /// Messages that had to be cut here because the kernel would not.
    pub(crate) gso_fallbacks: u64,
}

/// Sends datagrams as replies.
#[derive(Debug)]
pub(crate) struct Sender {
    replies: ReplySockets,
    /// Our own port, which the load balancer sends to, and so the port it receives on.
    port: u16,
    gso: bool,
    counters: SendCounters,
    /// The messages of one call of [`Sender::send`], for the next.
    groups: Vec<Group>,
}

/// Datagrams of one size for one destination.
#[derive(Debug)]
struct Group {
    /// Where it stands among all.
    number: usize,
    outer: Outer,
    segment: usize,
    total: usize,
    count: usize,
    ranges: ArrayVec<Range<usize>, MAX_RANGES>,
    /// A shorter one ends it.
    closed: bool,
}

impl Group {
    /// The first datagram.
    fn new(number: usize, piece: &Piece) -> Self {
        Self {
            number,
            outer: piece.outer,
            segment: piece.range.len(),
            total: piece.range.len(),
            count: 1,
            ranges: std::iter::once(piece.range.clone()).collect(),
            closed: false,
        }
    }

    /// Takes one more; false if it cannot.
    fn join(&mut self, piece: &Piece) -> bool {
        let len = piece.range.len();
        let follows = self
            .ranges
            .last()
            .is_some_and(|last| last.end == piece.range.start);
        let fits = !self.closed
            && len <= self.segment
            && len > 0
            && self.count < MAX_SEGMENTS
            && self.total + len <= MAX_MESSAGE
            && (follows || !self.ranges.is_full());
        if !fits {
            return false;
        }
        self.closed = len < self.segment;
        self.count += 1;
        self.total += len;
        match self.ranges.last_mut() {
            Some(last) if follows => last.end = piece.range.end,
            _ => self.ranges.push(piece.range.clone()),
        }
        true
    }

    /// The address and the port that it leaves from.
    fn way(&self) -> (Ipv4Addr, u16) {
        (self.outer.local, self.outer.gwlb.port())
    }
}

impl Sender {
    pub(crate) fn new(replies: ReplySockets, port: u16) -> Self {
        Self {
            replies,
            port,
            gso: true,
            counters: SendCounters::default(),
            groups: Vec::new(),
        }
    }

    /// Sends every piece of `memory`, in order for each destination.
    pub(crate) fn send(&mut self, main: &PacketSocket, memory: &[u8], pieces: &[Piece]) {
        let mut groups = std::mem::take(&mut self.groups);
        group(pieces, &mut groups);
        // A socket sends from one address and port.
        groups.sort_unstable_by_key(|group| (group.way(), group.number));
        for these in groups.chunk_by(|a, b| a.way() == b.way()) {
            self.send_from(main, memory, these);
        }
        groups.clear();
        self.groups = groups;
    }

    pub(crate) fn counters(&self) -> SendCounters {
        self.counters
    }

    pub(crate) fn reply_counters(&self) -> (ReplyCounters, usize, usize) {
        (
            self.replies.counters(),
            self.replies.len(),
            self.replies.limit(),
        )
    }

    /// Sends groups that all leave from the same address and port.
    fn send_from(&mut self, main: &PacketSocket, memory: &[u8], groups: &[Group]) {
        let Some((local, port)) = groups.first().map(Group::way) else {
            return;
        };
        let Self {
            replies,
            port: own_port,
            gso,
            counters,
            groups: _,
        } = self;
        // The load balancer happens to use the port that we receive on: that socket is there.
        if port == *own_port {
            let source = Some(local).filter(|local| !local.is_unspecified());
            Socket {
                fd: main.as_fd(),
                source,
                to_port: *own_port,
                gso,
                counters,
            }
            .send(memory, groups);
            return;
        }
        match replies.way(local, port) {
            Ok(Way::Bound(fd)) => {
                Socket {
                    fd,
                    source: None,
                    to_port: *own_port,
                    gso,
                    counters,
                }
                .send(memory, groups);
            }
            Ok(Way::Raw(fd)) => send_raw(fd, memory, *own_port, groups, counters),
            Err(error) => {
                tracing::debug!(%local, port, %error, "no socket for replies from this port");
                counters.no_port += groups.iter().map(|group| group.count as u64).sum::<u64>();
            }
        }
    }
}

/// Puts datagrams together that one message can carry, keeping the order of each destination.
fn group(pieces: &[Piece], groups: &mut Vec<Group>) {
    for piece in pieces {
        let newest = groups
            .iter_mut()
            .rev()
            .take(JOINABLE)
            .find(|group| group.outer == piece.outer);
        if !newest.is_some_and(|group| group.join(piece)) {
            groups.push(Group::new(groups.len(), piece));
        }
    }
}

/// One socket and what is to be kept up to date while it sends.
struct Socket<'s> {
    fd: BorrowedFd<'s>,
    source: Option<Ipv4Addr>,
    to_port: u16,
    gso: &'s mut bool,
    counters: &'s mut SendCounters,
}

impl Socket<'_> {
    fn send(&mut self, memory: &[u8], groups: &[Group]) {
        for some in groups.chunks(sys::MOST) {
            self.send_some(memory, some);
        }
    }

    /// Sends what one system call takes, so that the lists have room for it.
    fn send_some(&mut self, memory: &[u8], groups: &[Group]) {
        if !*self.gso {
            return groups
                .iter()
                .for_each(|group| self.send_singly(memory, group));
        }
        let mut parts = ArrayVec::<IoSlice<'_>, { sys::MOST * MAX_RANGES }>::new();
        for range in groups.iter().flat_map(|group| &group.ranges) {
            parts.push(IoSlice::new(memory.get(range.clone()).unwrap_or_default()));
        }
        let mut rest = parts.as_slice();
        let mut messages = ArrayVec::<Outgoing<'_>, { sys::MOST }>::new();
        messages.extend(groups.iter().map(|group| Outgoing {
            parts: rest.split_off(..group.ranges.len()).unwrap_or_default(),
            to: SocketAddrV4::new(*group.outer.gwlb.ip(), self.to_port),
            source: self.source,
            segment: (group.count > 1).then_some(group.segment as u16),
        }));
        let mut next = 0;
        while let Some(batch) = messages.get(next..).filter(|batch| !batch.is_empty()) {
            match self.call(batch) {
                Ok(sent) => {
                    for group in groups.iter().skip(next).take(sent) {
                        self.counters.datagrams += group.count as u64;
                        self.counters.bytes += group.total as u64;
                    }
                    next += sent;
                }
                Err(error) => {
                    self.give_up(&error, memory, &groups[next]);
                    next += 1;
                }
            }
        }
    }

    /// One `sendmmsg`, with the errors taken care of that a second try mends.
    fn call(&mut self, messages: &[Outgoing<'_>]) -> io::Result<usize> {
        let mut result = Ok(0);
        for _ in 0..3 {
            self.counters.calls += 1;
            result = sys::send(self.fd, messages);
            match &result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    // A moment's wait is the back-pressure: the shard has nothing better to do
                    // while its way out is full, and the receive buffer takes the burst.
                    let mut fds = [PollFd::new(self.fd, PollFlags::POLLOUT)];
                    let _ = poll(&mut fds, PollTimeout::from(1_u8));
                }
                // The echo of an earlier datagram: reported once, then forgotten by the kernel.
                Err(error) if is_icmp_error(error) => self.counters.icmp_errors += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel took nothing and says no error: never spin on it.
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                _ => break,
            }
        }
        result
    }

    fn give_up(&mut self, error: &io::Error, memory: &[u8], group: &Group) {
        let count = group.count as u64;
        if error.kind() == io::ErrorKind::WouldBlock {
            self.counters.full += count;
        } else if group.count > 1 {
            // An interface whose MTU is below the segment size, or a kernel without GSO.
            self.counters.gso_fallbacks += 1;
            if error.raw_os_error() == Some(libc::ENOPROTOOPT) {
                *self.gso = false;
            }
            self.send_singly(memory, group);
        } else {
            tracing::debug!(%error, to = %group.outer.gwlb.ip(), "datagram not sent");
            self.counters.refused += count;
        }
    }

    fn send_singly(&mut self, memory: &[u8], group: &Group) {
        for range in segments(group) {
            let Some(bytes) = memory.get(range) else {
                continue;
            };
            let parts = [IoSlice::new(bytes)];
            let message = Outgoing {
                parts: &parts,
                to: SocketAddrV4::new(*group.outer.gwlb.ip(), self.to_port),
                source: self.source,
                segment: None,
            };
            match self.call(&[message]) {
                Ok(_) => {
                    self.counters.datagrams += 1;
                    self.counters.bytes += bytes.len() as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.counters.full += 1,
                Err(error) => {
                    tracing::debug!(%error, to = %group.outer.gwlb.ip(), "datagram not sent");
                    self.counters.refused += 1;
                }
            }
        }
    }
}

/// Writes the IPv4 and UDP headers ourselves; one message per datagram, since GSO needs UDP's help.
fn send_raw(
    fd: BorrowedFd<'_>,
    memory: &[u8],
    to_port: u16,
    groups: &[Group],
    counters: &mut SendCounters,
) {
    for group in groups {
        for range in segments(group) {
            let Some(bytes) = memory.get(range) else {
                continue;
            };
            let header = raw_header(&group.outer, to_port, bytes.len());
            let parts = [IoSlice::new(&header), IoSlice::new(bytes)];
            let to = SocketAddrV4::new(*group.outer.gwlb.ip(), 0);
            let message = Outgoing {
                parts: &parts,
                to,
                source: None,
                segment: None,
            };
            counters.calls += 1;
            match sys::send(fd, &[message]) {
                Ok(_) => {
                    counters.datagrams += 1;
                    counters.bytes += bytes.len() as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => counters.full += 1,
                Err(_) => counters.refused += 1,
            }
        }
    }
}

/// IPv4 (RFC 791) and UDP (RFC 768) headers of a reply. The kernel fills in the header checksum,
/// the total length and the identification (raw(7)); a UDP checksum of zero means none.
fn raw_header(outer: &Outer, to_port: u16, payload: usize) -> [u8; 28] {
    let mut header = [0; 28];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((payload + 28) as u16).to_be_bytes());
    header[8] = 64;
    header[9] = 17;
    header[12..16].copy_from_slice(&outer.local.octets());
    header[16..20].copy_from_slice(&outer.gwlb.ip().octets());
    header[20..22].copy_from_slice(&outer.gwlb.port().to_be_bytes());
    header[22..24].copy_from_slice(&to_port.to_be_bytes());
    header[24..26].copy_from_slice(&((payload + 8) as u16).to_be_bytes());
    header
}

/// The datagrams of a group one by one.
fn segments(group: &Group) -> impl Iterator<Item = Range<usize>> + '_ {
    let size = group.segment.max(1);
    group.ranges.iter().flat_map(move |range| {
        range
            .clone()
            .step_by(size)
            .map(move |at| at..range.end.min(at + size))
    })
}

fn is_icmp_error(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outer(last: u8, port: u16) -> Outer {
        Outer {
            gwlb: SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, last), port),
            local: Ipv4Addr::new(10, 0, 0, 9),
        }
    }

    fn piece(range: Range<usize>, outer: Outer) -> Piece {
        Piece { range, outer }
    }

    fn group(pieces: &[Piece]) -> Vec<Group> {
        let mut groups = Vec::new();
        super::group(pieces, &mut groups);
        groups
    }

    #[test]
    fn equal_datagrams_in_a_row_make_one_message_and_a_shorter_one_ends_it() {
        let a = outer(1, 4000);
        let pieces = [
            piece(0..100, a),
            piece(100..200, a),
            piece(200..250, a),
            piece(250..350, a),
        ];
        let groups = group(&pieces);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].ranges.as_slice(), std::slice::from_ref(&(0..250)));
        assert_eq!((groups[0].count, groups[0].segment), (3, 100));
        assert_eq!(
            segments(&groups[0]).collect::<Vec<_>>(),
            [0..100, 100..200, 200..250]
        );
        assert_eq!(
            groups[1].ranges.as_slice(),
            std::slice::from_ref(&(250..350))
        );
    }

    #[test]
    fn a_longer_datagram_starts_a_message_and_is_never_overtaken() {
        let a = outer(1, 4000);
        let pieces = [piece(0..50, a), piece(50..150, a), piece(150..200, a)];
        let groups = group(&pieces);
        let order: Vec<_> = groups.iter().flat_map(segments).collect();
        assert_eq!(order, [0..50, 50..150, 150..200]);
    }

    #[test]
    fn destinations_that_take_turns_are_still_put_together() {
        let (a, b) = (outer(1, 4000), outer(2, 4000));
        let pieces = [
            piece(0..10, a),
            piece(10..20, b),
            piece(20..30, a),
            piece(30..40, b),
        ];
        let groups = group(&pieces);
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[0].ranges.as_slice(), [0..10, 20..30]);
        assert_eq!(segments(&groups[1]).collect::<Vec<_>>(), [10..20, 30..40]);
    }

    #[test]
    fn what_lies_in_too_many_places_goes_in_several_messages_in_order() {
        let (a, b) = (outer(1, 4000), outer(2, 4000));
        let pieces: Vec<_> = (0..MAX_RANGES * 4)
            .map(|i| piece(i * 10..(i + 1) * 10, if i % 2 == 0 { a } else { b }))
            .collect();
        let groups = group(&pieces);
        assert_eq!(groups.len(), 4);
        for (first, outer) in [(0, a), (10, b)] {
            let to = groups.iter().filter(|group| group.outer == outer);
            let order: Vec<_> = to.flat_map(segments).map(|range| range.start).collect();
            assert_eq!(order, Vec::from_iter((first..MAX_RANGES * 40).step_by(20)));
        }
    }

    #[test]
    fn a_message_never_exceeds_what_the_kernel_takes() {
        let a = outer(1, 4000);
        let pieces: Vec<_> = (0..200)
            .map(|i| piece(i * 1400..(i + 1) * 1400, a))
            .collect();
        for group in group(&pieces) {
            assert!(group.total <= MAX_MESSAGE && group.count <= MAX_SEGMENTS);
        }
    }

    #[test]
    fn gwlb_a05_a_raw_reply_swaps_addresses_and_keeps_ports() {
        let header = raw_header(&outer(1, 4321), 6081, 100);
        assert_eq!(header[12..16], [10, 0, 0, 9]);
        assert_eq!(header[16..20], [10, 0, 0, 1]);
        assert_eq!(u16::from_be_bytes([header[20], header[21]]), 4321);
        assert_eq!(u16::from_be_bytes([header[22], header[23]]), 6081);
        assert_eq!(u16::from_be_bytes([header[24], header[25]]), 108);
    }
}
