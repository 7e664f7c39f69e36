//! A load balancer made by hand: two sockets and a flow header.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use wire::ip::{self, Protocol};
use wire::udp;

/// One zone of a load balancer: sends from its own port, receives answers on port 6081.
#[derive(Debug)]
pub struct Zone {
    address: Ipv4Addr,
    sender: UdpSocket,
    receiver: UdpSocket,
    appliance: SocketAddrV4,
}

impl Zone {
    /// A zone with this loopback address, in front of this appliance.
    ///
    /// # Errors
    /// If the address or port 6081 on it cannot be bound.
    pub fn new(address: Ipv4Addr, appliance: SocketAddrV4) -> io::Result<Self> {
        let sender = UdpSocket::bind((address, 0))?;
        let receiver = UdpSocket::bind((address, 6081))?;
        receiver.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self {
            address,
            sender,
            receiver,
            appliance,
        })
    }

    /// Sends one datagram to the appliance.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.sender.send_to(datagram, self.appliance).map(|_| ())
    }

    /// The next answer and whether it came from the right address and port.
    ///
    /// # Errors
    /// Those of the socket, a time-out of five seconds among them.
    pub fn receive(&self) -> io::Result<(Vec<u8>, bool)> {
        let mut buffer = vec![0; 65536];
        let (len, from) = self.receiver.recv_from(&mut buffer)?;
        buffer.truncate(len);
        let right_port = from.port() == self.sender.local_addr()?.port();
        Ok((buffer, right_port && from.ip() == *self.appliance.ip()))
    }

    /// The zone's address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }
}

/// The 40 bytes in front of an inner IPv4 packet.
pub fn header(endpoint: u64, cookie: u32) -> Vec<u8> {
    let mut header = vec![0x08, 0, 0x08, 0, 0, 0, 0, 0];
    header.extend([0x01, 0x08, 1, 2]);
    header.extend(endpoint.to_be_bytes());
    header.extend([0x01, 0x08, 2, 2]);
    header.extend([0; 8]);
    header.extend([0x01, 0x08, 3, 1]);
    header.extend(cookie.to_be_bytes());
    header
}

/// A UDP packet between two inner addresses inside the header of a flow.
pub fn udp_packet(
    endpoint: u64,
    cookie: u32,
    from: SocketAddrV4,
    to: SocketAddrV4,
    payload: &[u8],
) -> Vec<u8> {
    let mut datagram = header(endpoint, cookie);
    let udp_len = 8 + payload.len();
    let repr = ip::Repr {
        src: (*from.ip()).into(),
        dst: (*to.ip()).into(),
        protocol: Protocol(17),
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: true,
        ident: 0,
        payload_len: udp_len,
    };
    let start = datagram.len();
    datagram.resize(start + 20 + udp_len, 0);
    let (head, body) = datagram[start..].split_at_mut(20);
    repr.emit(head);
    body[8..].copy_from_slice(payload);
    body[0..2].copy_from_slice(&from.port().to_be_bytes());
    body[2..4].copy_from_slice(&to.port().to_be_bytes());
    body[4..6].copy_from_slice(&u16::try_from(udp_len).unwrap_or(u16::MAX).to_be_bytes());
    udp::fill_checksum(body, (*from.ip()).into(), (*to.ip()).into());
    datagram
}
