//! The origins on kernel sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::{Listener, Origins, Service};
use crate::dns;

/// Connections that may wait for us to accept them.
const BACKLOG: i32 = 4096;

/// Bound sockets for every service, IPv4 and IPv6.
///
/// A socket belongs to the network namespace of the thread that made it, so they are made apart from
/// being served: [`Sockets::bind`] inside the namespace, [`Sockets::serve`] anywhere.
#[derive(Debug)]
pub struct Sockets {
    tcp: Vec<(Service, TcpListener)>,
    echo: Vec<UdpSocket>,
    dns: Vec<UdpSocket>,
}

impl Sockets {
    /// Binds every port on all addresses of the calling thread's namespace.
    ///
    /// # Errors
    /// A port is taken, or the system forbids binding it.
    pub fn bind() -> io::Result<Self> {
        let mut sockets = Self {
            tcp: Vec::new(),
            echo: Vec::new(),
            dns: Vec::new(),
        };
        for any in [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()] {
            for (port, service) in Service::PORTS {
                let socket = bind(SocketAddr::new(any, port), Type::STREAM)?;
                socket.listen(BACKLOG)?;
                sockets.tcp.push((service, socket.into()));
            }
            let echo = bind(SocketAddr::new(any, Service::UDP_ECHO_PORT), Type::DGRAM)?;
            sockets.echo.push(echo.into());
            sockets
                .dns
                .push(bind(SocketAddr::new(any, dns::PORT), Type::DGRAM)?.into());
        }
        Ok(sockets)
    }

    /// Serves all of them until one fails; must run inside a [`tokio::task::LocalSet`].
    ///
    /// UDP answers leave from the address that the question came to.
    ///
    /// # Errors
    /// The first listener's that fails for good.
    pub async fn serve(self, origins: Rc<Origins>) -> io::Result<()> {
        for socket in self.echo {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::task::spawn_local(answer_datagrams(socket, |datagram| Some(datagram.to_vec())));
        }
        for socket in self.dns {
            let socket = tokio::net::UdpSocket::from_std(socket)?;
            tokio::task::spawn_local(answer_datagrams(socket, dns::answer));
        }
        let mut accepting = tokio::task::JoinSet::new();
        for (service, listener) in self.tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            accepting.spawn_local(Rc::clone(&origins).serve(service, listener));
        }
        match accepting.join_next().await {
            Some(ended) => ended.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

impl Listener for tokio::net::TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&mut self) -> io::Result<(Self::Stream, SocketAddr, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        stream.set_nodelay(true)?;
        let local = stream.local_addr()?;
        Ok((stream, peer, local))
    }
}

fn bind(addr: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(
        Domain::for_address(addr),
        kind.nonblocking().cloexec(),
        Some(protocol),
    )?;
    match addr {
        SocketAddr::V4(_) => {}
        SocketAddr::V6(_) => socket.set_only_v6(true)?,
    }
    socket.set_reuse_address(true)?;
    if kind == Type::DGRAM {
        packet_info(&socket, addr)?;
    }
    socket
        .bind(&addr.into())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {addr}: {error}")))?;
    Ok(socket)
}

/// Has the kernel tell which address a datagram came to, since the lab's server owns whole networks.
fn packet_info(socket: &Socket, addr: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    match addr {
        SocketAddr::V4(_) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        SocketAddr::V6(_) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

async fn answer_datagrams(
    socket: tokio::net::UdpSocket,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>>,
) {
    let mut buffer = vec![0; 65_536];
    loop {
        let received = socket
            .async_io(tokio::io::Interest::READABLE, || {
                receive(&socket, &mut buffer)
            })
            .await;
        let (len, info) = match received {
            Ok(received) => received,
            // An earlier answer met a closed port.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                warn!(%error, "a UDP service ended");
                return;
            }
        };
        let Some(reply) = answer(buffer.get(..len).unwrap_or_default()) else {
            continue;
        };
        let sent = socket
            .async_io(tokio::io::Interest::WRITABLE, || {
                send(&socket, &reply, &info)
            })
            .await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a UDP answer was not sent");
        }
    }
}

/// Who sent a datagram, and where to.
#[derive(Clone, Copy, Debug)]
struct PacketInfo {
    peer: nix::sys::socket::SockaddrStorage,
    local: Local,
}

#[derive(Clone, Copy, Debug)]
enum Local {
    Unknown,
    V4(libc::in_pktinfo),
    V6(libc::in6_pktinfo),
}

fn receive(socket: &tokio::net::UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, PacketInfo)> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
    let mut space = nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo);
    let mut slices = [io::IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut slices,
        Some(&mut space),
        MsgFlags::empty(),
    )?;
    let mut local = Local::Unknown;
    for control in message.cmsgs()? {
        match control {
            ControlMessageOwned::Ipv4PacketInfo(info) => local = Local::V4(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => local = Local::V6(info),
            _ => {}
        }
    }
    let peer = message.address.ok_or(io::ErrorKind::InvalidData)?;
    Ok((message.bytes, PacketInfo { peer, local }))
}

fn send(socket: &tokio::net::UdpSocket, reply: &[u8], info: &PacketInfo) -> io::Result<usize> {
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let slices = [io::IoSlice::new(reply)];
    let fd = socket.as_raw_fd();
    let peer = Some(&info.peer);
    let sent = match &info.local {
        Local::Unknown => sendmsg(fd, &slices, &[], MsgFlags::empty(), peer),
        Local::V4(received) => {
            let mut info = *received;
            // The address that it came to becomes the source; the route chooses the device.
            info.ipi_spec_dst = info.ipi_addr;
            info.ipi_ifindex = 0;
            sendmsg(
                fd,
                &slices,
                &[ControlMessage::Ipv4PacketInfo(&info)],
                MsgFlags::empty(),
                peer,
            )
        }
        Local::V6(received) => {
            let mut info = *received;
            info.ipi6_ifindex = 0;
            sendmsg(
                fd,
                &slices,
                &[ControlMessage::Ipv6PacketInfo(&info)],
                MsgFlags::empty(),
                peer,
            )
        }
    };
    Ok(sent?)
}
