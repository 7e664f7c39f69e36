//! The system calls that have no safe wrapper with what we need: `recvmmsg` with GRO and packet
//! information, `sendmmsg` with GSO per message, and the drop counter of a socket.
#![expect(
    unsafe_code,
    reason = "raw recvmmsg, sendmmsg and getsockopt; see each SAFETY comment"
)]

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use arrayvec::ArrayVec;

/// Most messages in one system call. The lists that describe them stand on the stack.
pub(crate) const MOST: usize = 64;
/// Room for control messages of one datagram: packet information (28) and GRO size (20), padded.
const CONTROL: usize = 128;

/// What arrived in one message: one datagram, or several of equal size that GRO put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    /// Where its bytes begin in the ring.
    pub(crate) start: usize,
    /// How many bytes.
    pub(crate) len: usize,
    /// Size of each datagram in it; only the last may be shorter.
    pub(crate) segment: usize,
    /// Who sent it.
    pub(crate) from: SocketAddrV4,
    /// The address of ours that it was sent to.
    pub(crate) local: Ipv4Addr,
    /// The kernel cut it: the buffer was too small.
    pub(crate) truncated: bool,
}

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL]);

/// Buffers for one batch of `recvmmsg`, kept from call to call.
pub(crate) struct Ring {
    bytes: Vec<u8>,
    slot: usize,
    received: Vec<Received>,
    controls: Vec<Control>,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("slots", &self.controls.len())
            .field("slot", &self.slot)
            .finish()
    }
}

impl Ring {
    /// At most [`MOST`] slots.
    pub(crate) fn new(slots: usize, slot: usize) -> Self {
        let slots = slots.min(MOST);
        Self {
            bytes: vec![0; slots * slot],
            slot,
            received: Vec::with_capacity(slots),
            controls: vec![Control([0; CONTROL]); slots],
        }
    }

    /// What the last call of [`Ring::receive`] brought.
    pub(crate) fn received(&self, index: usize) -> Option<Received> {
        self.received.get(index).copied()
    }

    /// The memory that [`Received::start`] counts in.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, for edits in place.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Takes what is waiting in a socket, without blocking; returns the number of messages.
    pub(crate) fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received.clear();
        let slots = self.controls.len();
        // SAFETY: `sockaddr_in` is plain data for which all zeros is a value.
        let zero_name: libc::sockaddr_in = unsafe { MaybeUninit::zeroed().assume_init() };
        // Filled where they stand: one that is collected is copied whole, unused room and all.
        let mut names = ArrayVec::<libc::sockaddr_in, MOST>::new();
        names.extend(std::iter::repeat_n(zero_name, slots));
        let mut vectors = ArrayVec::<libc::iovec, MOST>::new();
        vectors.extend(
            self.bytes
                .chunks_exact_mut(self.slot)
                .map(|chunk| libc::iovec {
                    iov_base: chunk.as_mut_ptr().cast(),
                    iov_len: chunk.len(),
                }),
        );
        let mut headers = ArrayVec::<libc::mmsghdr, MOST>::new();
        for ((vector, name), control) in vectors.iter_mut().zip(&mut names).zip(&mut self.controls)
        {
            // SAFETY: `mmsghdr` is plain data for which all zeros is a value.
            let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL as _;
            headers.push(header);
        }
        // SAFETY: every header points to one name, one vector and one control buffer that live
        // until the end of this function and that nothing else refers to meanwhile; the vectors
        // cover disjoint slots of `self.bytes`, which is borrowed mutably.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                slots as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (index, header) in headers.iter().take(count).enumerate() {
            let len = (header.msg_len as usize).min(self.slot);
            let name = names[index];
            let mut received = Received {
                start: index * self.slot,
                len,
                segment: len,
                from: SocketAddrV4::new(
                    Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr)),
                    u16::from_be(name.sin_port),
                ),
                local: Ipv4Addr::UNSPECIFIED,
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            };
            let filled = header.msg_hdr.msg_controllen.min(CONTROL);
            read_control(&self.controls[index].0[..filled], &mut received);
            self.received.push(received);
        }
        Ok(count)
    }
}

/// Reads control messages as the kernel lays them out: header, data, padding to a word.
fn read_control(mut control: &[u8], received: &mut Received) {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    while let Some((header, _)) = control.split_at_checked(HEADER) {
        let word = size_of::<usize>();
        let mut length = [0; size_of::<usize>()];
        length.copy_from_slice(&header[..word]);
        let length = usize::from_ne_bytes(length);
        let field = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&header[at..at + 4]);
            i32::from_ne_bytes(bytes)
        };
        let (level, kind) = (field(word), field(word + 4));
        let Some(data) = control.get(HEADER..length) else {
            return;
        };
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                if let Some(size) = data.first_chunk::<4>() {
                    let size = usize::try_from(i32::from_ne_bytes(*size)).unwrap_or(0);
                    if size > 0 {
                        received.segment = size;
                    }
                }
            }
            // in_pktinfo: interface (4), local address for a reply (4), destination as sent (4).
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some(address) = data.get(8..12).and_then(|bytes| bytes.first_chunk::<4>()) {
                    received.local = Ipv4Addr::from(*address);
                }
            }
            _ => {}
        }
        let padded = length.next_multiple_of(word);
        control = control.get(padded..).unwrap_or(&[]);
    }
}

/// One message to send: bytes in pieces, and what the kernel is to do with them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outgoing<'b> {
    /// Its bytes.
    pub(crate) parts: &'b [IoSlice<'b>],
    /// Where it goes.
    pub(crate) to: SocketAddrV4,
    /// The source address to use, where the socket is not bound to one.
    pub(crate) source: Option<Ipv4Addr>,
    /// Cut into datagrams of this size (UDP GSO).
    pub(crate) segment: Option<u16>,
}

/// Sends the first [`MOST`] messages with one `sendmmsg`; returns how many the kernel took.
///
/// # Errors
/// The error that met the first message; messages after it have not been tried.
pub(crate) fn send(socket: BorrowedFd<'_>, messages: &[Outgoing<'_>]) -> io::Result<usize> {
    let messages = messages.get(..MOST).unwrap_or(messages);
    // Filled where they stand: one that is collected is copied whole, unused room and all.
    let mut names = ArrayVec::<libc::sockaddr_in, MOST>::new();
    names.extend(messages.iter().map(|message| libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: message.to.port().to_be(),
        sin_addr: libc::in_addr {
            s_addr: u32::from_ne_bytes(message.to.ip().octets()),
        },
        sin_zero: [0; 8],
    }));
    let mut controls = ArrayVec::<Control, MOST>::new();
    controls.extend(std::iter::repeat_n(Control([0; CONTROL]), messages.len()));
    let mut headers = ArrayVec::<libc::mmsghdr, MOST>::new();
    for ((message, name), control) in messages.iter().zip(&mut names).zip(&mut controls) {
        let mut filled = 0;
        if let Some(source) = message.source {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&source.octets());
            filled += write_control(
                &mut control.0[filled..],
                libc::IPPROTO_IP,
                libc::IP_PKTINFO,
                &info,
            );
        }
        if let Some(segment) = message.segment {
            let size = segment.to_ne_bytes();
            filled += write_control(
                &mut control.0[filled..],
                libc::SOL_UDP,
                libc::UDP_SEGMENT,
                &size,
            );
        }
        // SAFETY: `mmsghdr` is plain data for which all zeros is a value.
        let mut header: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
        header.msg_hdr.msg_name = ptr::from_mut(name).cast();
        header.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        // `IoSlice` is guaranteed to have the layout of `iovec`; the kernel only reads.
        header.msg_hdr.msg_iov = message.parts.as_ptr().cast_mut().cast();
        header.msg_hdr.msg_iovlen = message.parts.len() as _;
        if filled > 0 {
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = filled as _;
        }
        headers.push(header);
    }
    // SAFETY: every header points to a name, a control buffer and a list of slices that outlive
    // the call; `sendmmsg` reads them and writes only `msg_len` of the headers.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            headers.len() as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Lays out one control message; returns the room it takes with its padding.
fn write_control(room: &mut [u8], level: i32, kind: i32, data: &[u8]) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let word = size_of::<usize>();
    let length = HEADER + data.len();
    let padded = length.next_multiple_of(word);
    room[..word].copy_from_slice(&length.to_ne_bytes());
    room[word..word + 4].copy_from_slice(&level.to_ne_bytes());
    room[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
    room[HEADER..length].copy_from_slice(data);
    padded
}

/// Datagrams that the kernel dropped at this socket, for want of room in its receive buffer.
///
/// `SO_MEMINFO`, index `SK_MEMINFO_DROPS`; what `ss -m` prints as `d`.
pub(crate) fn receive_drops(socket: BorrowedFd<'_>) -> Option<u64> {
    const DROPS: usize = 8;
    let mut info = [0_u32; 9];
    let mut length = size_of::<[u32; 9]>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `info`, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let complete = length as usize >= size_of::<[u32; 9]>();
    (result == 0 && complete).then(|| u64::from(info[DROPS]))
}

/// `asm-generic/socket.h`; the `libc` crate has no name for it.
const SO_MEMINFO: libc::c_int = 55;
