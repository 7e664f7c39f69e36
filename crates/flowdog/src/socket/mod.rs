//! The packet socket of a shard: batches in with GRO, batches out with GSO, replies from the
//! source port that the load balancer chose.
//!
//! A reply has the addresses of the packet that it answers swapped and the ports kept: it leaves
//! from the *load balancer's* source port and goes to port 6081. A socket can send from one port
//! only, so [`reply`] keeps a bounded set of sockets bound to such ports, or one raw socket.

pub(crate) mod reply;
pub(crate) mod send;
pub(crate) mod steer;
pub(crate) mod sys;

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
};

use self::sys::Ring;

/// Messages taken from the kernel at once. With GRO each may carry dozens of datagrams.
pub(crate) const BATCH: usize = 32;
/// The largest message: a GRO batch never exceeds one IP packet's 65,535 bytes.
const SLOT: usize = 65_536;

/// What a packet socket is to be like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Address and port to receive on.
    pub(crate) listen: SocketAddrV4,
    /// Bytes of receive buffer to ask for.
    pub(crate) receive_buffer: usize,
    /// Bytes of send buffer to ask for.
    pub(crate) send_buffer: usize,
    /// Several sockets share the port.
    pub(crate) shared: bool,
}

/// What the kernel granted, in bytes of payload as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) receive_buffer: usize,
    pub(crate) send_buffer: usize,
    /// The kernel puts datagrams together on the way in.
    pub(crate) gro: bool,
}

/// The receiving socket of one shard and its buffers.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    listen: SocketAddrV4,
    granted: Granted,
}

impl PacketSocket {
    /// Opens and binds; the granted buffer sizes are the caller's to log.
    pub(crate) fn open(wish: &Wish) -> io::Result<Self> {
        let fd = udp()?;
        if wish.shared {
            setsockopt(&fd, sockopt::ReusePort, &true)?;
        }
        setsockopt(&fd, sockopt::Ipv4PacketInfo, &true)?;
        let gro = setsockopt(&fd, sockopt::UdpGroSegment, &true).is_ok();
        ask_for_buffers(&fd, wish.receive_buffer, wish.send_buffer);
        bind_to(&fd, wish.listen)?;
        // Asked back because port 0 means any.
        let bound: SockaddrIn =
            nix::sys::socket::getsockname(std::os::fd::AsRawFd::as_raw_fd(&fd))?;
        let granted = Granted {
            // The kernel doubles what is asked, for its own bookkeeping (socket(7)).
            receive_buffer: nix::sys::socket::getsockopt(&fd, sockopt::RcvBuf)? / 2,
            send_buffer: nix::sys::socket::getsockopt(&fd, sockopt::SndBuf)? / 2,
            gro,
        };
        Ok(Self {
            fd,
            listen: SocketAddrV4::new(*wish.listen.ip(), bound.port()),
            granted,
        })
    }

    pub(crate) fn granted(&self) -> Granted {
        self.granted
    }

    /// Where it listens, with the real port.
    pub(crate) fn listen(&self) -> SocketAddrV4 {
        self.listen
    }

    /// A second descriptor of the same socket.
    pub(crate) fn duplicate(&self) -> io::Result<std::net::UdpSocket> {
        Ok(self.fd.try_clone()?.into())
    }

    /// Datagrams lost for want of buffer since the socket was opened.
    pub(crate) fn receive_drops(&self) -> Option<u64> {
        sys::receive_drops(self.fd.as_fd())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Buffers for one batch.
pub(crate) fn ring() -> Ring {
    Ring::new(BATCH, SLOT)
}

fn udp() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        flags,
        None,
    )?)
}

fn bind_to(fd: &OwnedFd, address: SocketAddrV4) -> io::Result<()> {
    Ok(bind(
        std::os::fd::AsRawFd::as_raw_fd(fd),
        &SockaddrIn::from(address),
    )?)
}

/// Asks for buffers; beyond the system's limit where the process may (CAP_NET_ADMIN).
fn ask_for_buffers(fd: &OwnedFd, receive: usize, send: usize) {
    if setsockopt(fd, sockopt::RcvBufForce, &receive).is_err() {
        // What is granted is read back and logged by the caller.
        let _ = setsockopt(fd, sockopt::RcvBuf, &receive);
    }
    if setsockopt(fd, sockopt::SndBufForce, &send).is_err() {
        let _ = setsockopt(fd, sockopt::SndBuf, &send);
    }
}

/// The local addresses of the host whose interface is too small for a full inner packet.
///
/// A GWLB delivers inner packets of 8,500 bytes in 68 bytes of headers (AWS: "Gateway Load
/// Balancers", network MTU), so the interface needs an MTU of 8,568.
pub(crate) fn small_mtu(listen: Ipv4Addr) -> Vec<(String, u32)> {
    const NEEDED: u32 = 8_568;
    let Ok(addresses) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let mut small = Vec::new();
    for interface in addresses {
        let address = interface
            .address
            .as_ref()
            .and_then(|a| a.as_sockaddr_in())
            .map(SockaddrIn::ip);
        let concerned = address.is_some_and(|a| listen.is_unspecified() || a == listen);
        let loopback = address.is_some_and(|a| a.is_loopback());
        let name = interface.interface_name;
        let path = format!("/sys/class/net/{name}/mtu");
        let mtu = std::fs::read_to_string(path)
            .ok()
            .and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(mtu) = mtu.filter(|mtu| *mtu < NEEDED)
            && concerned
            && !loopback
        {
            small.push((name, mtu));
        }
    }
    small
}

#[cfg(test)]
mod tests;
