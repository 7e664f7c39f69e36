//! Just enough route netlink to set up a namespace: links, addresses, routes. No `ip` program needed.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use ipnet::IpNet;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 0x01;
const NLM_F_ACK: u16 = 0x04;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLMSG_ERROR: u16 = 2;

const IFF_UP: u32 = 0x01;
const IFF_NOARP: u32 = 0x80;

const TABLE_MAIN: u8 = 254;
const TABLE_LOCAL: u8 = 255;

/// What a route does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RouteKind {
    /// Out of the device.
    Unicast,
    /// To this host, whatever the address: sockets here answer for the whole network.
    Local,
}

/// One end of a virtual Ethernet pair.
pub(super) struct VethEnd<'a> {
    pub(super) name: &'a str,
    /// Hardware address; the kernel chooses one for `None`.
    pub(super) mac: Option<[u8; 6]>,
    /// The namespace it goes to; `None` is the socket's own.
    pub(super) namespace: Option<BorrowedFd<'a>>,
}

impl VethEnd<'_> {
    fn emit(&self) -> Vec<u8> {
        let mut body = interface(0, 0);
        attribute(&mut body, 3, &zero_terminated(self.name));
        if let Some(mac) = self.mac {
            attribute(&mut body, 1, &mac);
        }
        if let Some(namespace) = self.namespace {
            attribute(&mut body, 28, &namespace.as_raw_fd().to_ne_bytes());
        }
        body
    }
}

/// A netlink socket in the namespace of the thread that opened it.
pub(super) struct Netlink {
    fd: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self { fd, sequence: 0 })
    }

    /// Brings a link up; the loopback device needs nothing more.
    pub(super) fn bring_up(&mut self, index: u32) -> io::Result<()> {
        self.request(RTM_NEWLINK, 0, &interface(index, IFF_UP))
    }

    /// Brings a device up with a queue for bursts. Without neighbours, addresses are not resolved:
    /// whatever is at the far end takes everything.
    pub(super) fn bring_up_device(
        &mut self,
        index: u32,
        mtu: u32,
        neighbours: bool,
    ) -> io::Result<()> {
        let flags = if neighbours {
            IFF_UP
        } else {
            IFF_UP | IFF_NOARP
        };
        let mut body = interface(index, flags);
        attribute(&mut body, 4, &mtu.to_ne_bytes());
        attribute(&mut body, 13, &8_192_u32.to_ne_bytes());
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// No link-local IPv6 address, hence no router solicitations. Kernels without IPv6 refuse: harmless.
    pub(super) fn no_link_local(&mut self, index: u32) -> io::Result<()> {
        let mut inet6 = Vec::new();
        attribute(&mut inet6, 8, &[1]);
        let mut families = Vec::new();
        attribute(&mut families, libc::AF_INET6 as u16, &inet6);
        let mut body = interface(index, 0);
        attribute(&mut body, 26, &families);
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// Makes a pair of virtual Ethernet devices, the peer in another namespace if one is given.
    pub(super) fn add_veth(&mut self, near: &VethEnd<'_>, far: &VethEnd<'_>) -> io::Result<()> {
        let mut data = Vec::new();
        attribute(&mut data, 1, &far.emit());
        let mut info = Vec::new();
        attribute(&mut info, 1, b"veth");
        attribute(&mut info, 2, &data);
        let mut body = near.emit();
        attribute(&mut body, 18, &info);
        self.request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Gives a link an address; IPv6 addresses are usable at once (no duplicate detection).
    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: IpAddr,
        prefix: u8,
    ) -> io::Result<()> {
        let mut body = vec![family(address), prefix, 0, 0];
        body.extend_from_slice(&index.to_ne_bytes());
        let octets = octets(address);
        attribute(&mut body, 2, &octets);
        attribute(&mut body, 1, &octets);
        attribute(&mut body, 8, &0x02_u32.to_ne_bytes());
        self.request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Routes a network to a link.
    pub(super) fn add_route(
        &mut self,
        network: IpNet,
        index: u32,
        kind: RouteKind,
    ) -> io::Result<()> {
        let (table, scope, route_type) = match kind {
            RouteKind::Unicast => (
                TABLE_MAIN,
                if network.addr().is_ipv4() { 253 } else { 0 },
                1,
            ),
            RouteKind::Local => (
                TABLE_LOCAL,
                if network.addr().is_ipv4() { 254 } else { 0 },
                2,
            ),
        };
        // Protocol 4: set by the administrator.
        let mut body = vec![
            family(network.addr()),
            network.prefix_len(),
            0,
            0,
            table,
            4,
            scope,
            route_type,
        ];
        body.extend_from_slice(&0_u32.to_ne_bytes());
        if network.prefix_len() > 0 {
            attribute(&mut body, 1, &octets(network.addr()));
        }
        attribute(&mut body, 4, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body)
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(16 + body.len());
        message.extend_from_slice(&(16 + body.len() as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(body);
        sendto(
            self.fd.as_raw_fd(),
            &message,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        let mut answer = [0; 4096];
        let len = recv(self.fd.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let short = || io::Error::new(io::ErrorKind::InvalidData, "netlink answer is too short");
        let answer = answer.get(..len).ok_or_else(short)?;
        let header = answer.first_chunk::<20>().ok_or_else(short)?;
        if u16::from_ne_bytes([header[4], header[5]]) != NLMSG_ERROR {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "netlink answered without acknowledging",
            ));
        }
        match i32::from_ne_bytes([header[16], header[17], header[18], header[19]]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        }
    }
}

fn family(address: IpAddr) -> u8 {
    (if address.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    }) as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn zero_terminated(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// `struct ifinfomsg`.
fn interface(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body
}

/// Appends an attribute, padded to four bytes.
fn attribute(out: &mut Vec<u8>, kind: u16, data: &[u8]) {
    out.extend_from_slice(&(4 + data.len() as u16).to_ne_bytes());
    out.extend_from_slice(&kind.to_ne_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(4), 0);
}
