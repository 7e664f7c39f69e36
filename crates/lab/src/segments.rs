//! Runs of datagrams of one size in one system call (UDP GSO and GRO), as a network card would
//! deliver and take them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
    sockopt,
};

/// Most datagrams in one message that every kernel with GSO takes (`UDP_MAX_SEGMENTS`).
const MOST: usize = 64;
/// Most bytes in one message: an IPv4 datagram's, less its headers.
const MOST_BYTES: usize = 65_507;

/// Lets the kernel hand over several datagrams of one size at a time, where it can.
pub(crate) fn join_arrivals(socket: &UdpSocket) {
    // An old kernel delivers them one by one.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
}

/// Takes what has arrived: `take` gets each datagram. Answers `false` if there was nothing.
pub(crate) fn receive(
    socket: &UdpSocket,
    buffer: &mut [u8],
    mut take: impl FnMut(SocketAddrV4, &[u8]),
) -> io::Result<bool> {
    let mut control = cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = match recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    ) {
        Ok(message) => message,
        Err(Errno::EAGAIN) => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let len = message.bytes;
    let source = message.address.map(SocketAddrV4::from);
    let size = message
        .cmsgs()?
        .find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(size) => usize::try_from(size).ok(),
            _ => None,
        })
        .filter(|size| *size > 0)
        .unwrap_or_else(|| len.max(1));
    if let Some(source) = source {
        for datagram in buffer.get(..len).unwrap_or_default().chunks(size) {
            take(source, datagram);
        }
    }
    Ok(true)
}

/// Datagrams gathered to leave together.
#[derive(Debug, Default)]
pub(crate) struct Run {
    bytes: Vec<u8>,
    /// Size of each but the last, which may be shorter.
    size: usize,
    count: usize,
    is_closed: bool,
}

impl Run {
    /// Adds a datagram; answers `false` if it does not fit to those that are there.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> bool {
        let fits = self.count == 0
            || (!self.is_closed
                && datagram.len() <= self.size
                && !datagram.is_empty()
                && self.count < MOST
                && self.bytes.len() + datagram.len() <= MOST_BYTES);
        if fits {
            if self.count == 0 {
                self.size = datagram.len();
            }
            self.is_closed = datagram.len() < self.size;
            self.count += 1;
            self.bytes.extend_from_slice(datagram);
        }
        fits
    }

    /// Sends what is there, in order, and is empty then.
    pub(crate) fn send(&mut self, socket: &UdpSocket, target: SocketAddrV4) -> io::Result<()> {
        let result = match u16::try_from(self.size) {
            Ok(size) if self.count > 1 => self.send_at_once(socket, target, size),
            _ if self.count > 0 => self.send_singly(socket, target),
            _ => Ok(()),
        };
        self.bytes.clear();
        (self.count, self.size, self.is_closed) = (0, 0, false);
        result
    }

    fn send_at_once(&self, socket: &UdpSocket, target: SocketAddrV4, size: u16) -> io::Result<()> {
        let target_address = SockaddrIn::from(target);
        let sent = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(&self.bytes)],
            &[ControlMessage::UdpGsoSegments(&size)],
            MsgFlags::MSG_DONTWAIT,
            Some(&target_address),
        );
        match sent {
            Ok(_) => Ok(()),
            // A kernel without GSO, or a device whose MTU is below the size.
            Err(Errno::EINVAL | Errno::EIO | Errno::ENOPROTOOPT | Errno::EMSGSIZE) => {
                self.send_singly(socket, target)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn send_singly(&self, socket: &UdpSocket, target: SocketAddrV4) -> io::Result<()> {
        if self.size == 0 {
            return socket.send_to(&[], target).map(|_| ());
        }
        for datagram in self.bytes.chunks(self.size) {
            socket.send_to(datagram, target)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpSocket, UdpSocket, SocketAddrV4) {
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        join_arrivals(&to);
        let std::net::SocketAddr::V4(target) = to.local_addr().unwrap() else {
            unreachable!("bound to an IPv4 address");
        };
        (from, to, target)
    }

    #[test]
    fn runs_arrive_as_the_datagrams_they_were_made_of() {
        let (from, to, target) = pair();
        let datagrams: Vec<Vec<u8>> = [700, 700, 700, 20, 9, 900, 0, 5]
            .iter()
            .enumerate()
            .map(|(number, len)| vec![number as u8; *len])
            .collect();
        let mut run = Run::default();
        for datagram in &datagrams {
            if !run.push(datagram) {
                run.send(&from, target).unwrap();
                assert!(run.push(datagram));
            }
        }
        run.send(&from, target).unwrap();
        let (mut got, mut buffer) = (Vec::new(), vec![0; 65_536]);
        while receive(&to, &mut buffer, |_, datagram| got.push(datagram.to_vec())).unwrap() {}
        // An empty datagram has no bytes to be found by; the tunnel never carries one.
        let wanted: Vec<_> = datagrams.into_iter().filter(|d| !d.is_empty()).collect();
        assert_eq!(got, wanted);
    }

    #[test]
    fn a_run_ends_where_the_kernel_takes_no_more() {
        let mut run = Run::default();
        let taken = (0..100).take_while(|_| run.push(&[0; 1500])).count();
        assert_eq!(taken, 43);
        let mut run = Run::default();
        let taken = (0..100).take_while(|_| run.push(&[0; 10])).count();
        assert_eq!(taken, MOST);
    }
}
