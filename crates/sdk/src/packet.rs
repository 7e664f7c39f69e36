//! A single packet of any protocol whose lengths and checksums are always right, however it is
//! edited.

use core::fmt;
use core::net::IpAddr;
use std::borrow::Cow;

use wire::ip::{Family, Fragment, Packet};

use crate::{Protocol, VpcEndpointId};

/// An inner packet, with the endpoint it came through. Copied only when it is edited.
#[derive(Clone)]
pub struct InnerPacket<'a> {
    endpoint: VpcEndpointId,
    family: Family,
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    fragment: Fragment,
    payload_at: usize,
    bytes: Cow<'a, [u8]>,
    is_answer: bool,
}

/// Why an edit was refused. The packet is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// A fragment's checksum covers bytes that are not here.
    #[error("a fragment cannot be edited")]
    Fragment,
    /// The payload is shorter than the header of its protocol.
    #[error("the payload is shorter than the {0} header")]
    TooShort(Protocol),
    /// The packet would be larger than [`InnerPacket::MAX_LEN`].
    #[error("the packet would be larger than {} bytes", InnerPacket::MAX_LEN)]
    TooLong,
    /// Another length would break the sequence numbers of the connection.
    #[error("the length of a TCP segment cannot be changed")]
    TcpLength,
    /// Only a UDP datagram without IPv6 extension headers is answered or has UDP data.
    #[error("the packet is no plain UDP datagram")]
    NotUdp,
}

impl fmt::Debug for InnerPacket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} > {} {}, {} bytes",
            self.endpoint,
            self.src,
            self.dst,
            self.protocol,
            self.bytes.len()
        )
    }
}

impl<'a> InnerPacket<'a> {
    /// The largest inner packet a Gateway Load Balancer carries back, in bytes (AWS: 8,500 MTU).
    pub const MAX_LEN: usize = 8500;

    /// `bytes` is an IPv4 or IPv6 packet; what follows its own length is cut off.
    ///
    /// # Errors
    /// What is wrong with the IP header.
    pub fn parse(endpoint: VpcEndpointId, bytes: &'a [u8]) -> Result<Self, wire::ip::Malformed> {
        let packet = Packet::parse(bytes)?;
        Ok(Self {
            endpoint,
            family: packet.version(),
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            fragment: packet.fragment(),
            payload_at: packet.payload_offset(),
            bytes: Cow::Borrowed(packet.bytes()),
            is_answer: false,
        })
    }

    /// The endpoint the packet came through.
    #[must_use]
    pub fn endpoint(&self) -> VpcEndpointId {
        self.endpoint
    }

    /// Who sent it.
    #[must_use]
    pub fn src(&self) -> IpAddr {
        self.src
    }

    /// Who is to get it.
    #[must_use]
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// The upper-layer protocol.
    #[must_use]
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The whole packet, from the IP header on.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The transport header and what follows it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.bytes.get(self.payload_at..).unwrap_or_default()
    }

    /// Ports and data, if it is a whole UDP datagram.
    #[must_use]
    pub fn udp(&self) -> Option<UdpView<'_>> {
        if self.fragment != Fragment::Whole || self.protocol != Protocol::UDP {
            return None;
        }
        let datagram = wire::udp::Datagram::parse(self.payload()).ok()?;
        Some(UdpView {
            src_port: datagram.src_port(),
            dst_port: datagram.dst_port(),
            data: datagram.payload(),
        })
    }

    /// Replaces the data of a UDP datagram.
    ///
    /// # Errors
    /// [`EditError`]; the packet is as it was.
    pub fn set_udp_data(&mut self, data: &[u8]) -> Result<(), EditError> {
        let ports = self.udp().ok_or(EditError::NotUdp)?;
        let payload = datagram(ports.src_port, ports.dst_port, data);
        self.set_payload(&payload)
    }

    /// Makes a UDP datagram its own answer: addresses and ports change places, and `data` is what
    /// it carries. Passed on, it goes back to its sender as if the other end had answered.
    ///
    /// # Errors
    /// [`EditError`]; the packet is as it was.
    pub fn answer(&mut self, data: &[u8]) -> Result<(), EditError> {
        let ports = self.udp().ok_or(EditError::NotUdp)?;
        // What stands in extension headers, a route for instance, was meant for the way there.
        if self.family == Family::V6 && self.payload_at != 40 {
            return Err(EditError::NotUdp);
        }
        let payload = datagram(ports.dst_port, ports.src_port, data);
        let mut turned = self.clone();
        turned.turn();
        turned.set_payload(&payload)?;
        turned.is_answer = true;
        *self = turned;
        Ok(())
    }

    fn turn(&mut self) {
        core::mem::swap(&mut self.src, &mut self.dst);
        let (src, dst) = (self.src, self.dst);
        let header = self.bytes.to_mut();
        let (hops, src_at) = match self.family {
            Family::V4 => (8, 12),
            Family::V6 => (7, 8),
        };
        put(header, hops, [HOP_LIMIT]);
        for (at, address) in [(src_at, src), (src_at + address_len(dst), dst)] {
            match address {
                IpAddr::V4(address) => put(header, at, address.octets()),
                IpAddr::V6(address) => put(header, at, address.octets()),
            }
        }
    }

    /// Whether it was made an answer to what its sender sent.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.is_answer
    }

    /// Whether the packet was edited.
    #[must_use]
    pub fn is_edited(&self) -> bool {
        matches!(self.bytes, Cow::Owned(_))
    }

    /// Replaces the transport header and what follows it, and corrects all lengths and checksums.
    ///
    /// # Errors
    /// [`EditError`]; the packet is as it was.
    pub fn set_payload(&mut self, payload: &[u8]) -> Result<(), EditError> {
        if self.fragment != Fragment::Whole {
            return Err(EditError::Fragment);
        }
        let (total, is_tcp) = (
            self.payload_at + payload.len(),
            self.protocol == Protocol::TCP,
        );
        if total > Self::MAX_LEN {
            return Err(EditError::TooLong);
        }
        if is_tcp && payload.len() != self.payload().len() {
            return Err(EditError::TcpLength);
        }
        let header_len = match self.protocol {
            Protocol::TCP => 20,
            Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => 8,
            _ => 0,
        };
        if payload.len() < header_len {
            return Err(EditError::TooShort(self.protocol));
        }
        let mut bytes = Vec::with_capacity(total);
        bytes.extend_from_slice(self.bytes.get(..self.payload_at).unwrap_or_default());
        bytes.extend_from_slice(payload);
        let (header, payload) = bytes.split_at_mut(self.payload_at);
        self.correct_ip(header, payload.len());
        self.correct_transport(payload);
        self.bytes = Cow::Owned(bytes);
        Ok(())
    }

    fn correct_ip(&self, header: &mut [u8], payload_len: usize) {
        // At most 8,500, see above.
        let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
        match self.family {
            Family::V4 => {
                put(header, 2, length(header.len() + payload_len));
                put(header, 10, [0, 0]);
                let checksum = wire::checksum::Sum::new().add_bytes(header).checksum();
                put(header, 10, checksum.to_be_bytes());
            }
            // RFC 8200 §3: extension headers count as payload, the 40 bytes of the header do not.
            Family::V6 => put(header, 4, length(header.len() + payload_len - 40)),
        }
    }

    fn correct_transport(&self, payload: &mut [u8]) {
        match self.protocol {
            Protocol::TCP => wire::tcp::fill_checksum(payload, self.src, self.dst),
            Protocol::UDP => {
                let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
                put(payload, 4, length.to_be_bytes());
                wire::udp::fill_checksum(payload, self.src, self.dst);
            }
            Protocol::ICMP | Protocol::ICMPV6 => {
                wire::icmp::fill_checksum(payload, self.src, self.dst)
            }
            _ => {}
        }
    }
}

/// What hosts start with (RFC 1700, "IP time to live").
const HOP_LIMIT: u8 = 64;

/// A whole UDP datagram as far as its sender is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpView<'a> {
    /// The source port.
    pub src_port: u16,
    /// The destination port.
    pub dst_port: u16,
    /// What it carries.
    pub data: &'a [u8],
}

/// A UDP header whose length and checksum are still to be filled in, and data.
fn datagram(src_port: u16, dst_port: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + data.len());
    bytes.extend_from_slice(&src_port.to_be_bytes());
    bytes.extend_from_slice(&dst_port.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(data);
    bytes
}

fn address_len(address: IpAddr) -> usize {
    if address.is_ipv4() { 4 } else { 16 }
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(slot) = bytes.get_mut(at..at + N) {
        slot.copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use wire::ip::Repr;

    use super::*;

    const ENDPOINT: VpcEndpointId = VpcEndpointId(1);

    fn packet(v6: bool, protocol: Protocol, payload: &[u8]) -> Vec<u8> {
        let (src, dst): (IpAddr, IpAddr) = if v6 {
            (
                "2001:db8::1".parse().unwrap(),
                "2001:db8::2".parse().unwrap(),
            )
        } else {
            ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
        };
        let repr = Repr {
            src,
            dst,
            protocol,
            hop_limit: 64,
            traffic_class: 0,
            dont_fragment: true,
            ident: 1,
            payload_len: payload.len(),
        };
        let mut bytes = vec![0; repr.total_len()];
        repr.emit(&mut bytes);
        bytes[repr.header_len()..].copy_from_slice(payload);
        bytes
    }

    fn datagram(data: &[u8]) -> Vec<u8> {
        [&[0xc0, 0, 0, 53, 0, (8 + data.len()) as u8, 0, 0], data].concat()
    }

    #[test]
    fn an_edited_datagram_has_right_lengths_and_checksums() {
        for v6 in [false, true] {
            let bytes = packet(v6, Protocol::UDP, &datagram(b"hello"));
            let mut edited = InnerPacket::parse(ENDPOINT, &bytes).unwrap();
            edited.set_udp_data(b"HELLO!").unwrap();
            assert!(edited.is_edited());
            let again = Packet::parse(edited.bytes()).unwrap();
            assert_eq!(again.total_len(), bytes.len() + 1);
            assert!(again.verify_checksum());
            let udp = wire::udp::Datagram::parse(again.payload()).unwrap();
            assert!(udp.verify_checksum(again.src(), again.dst()));
            assert_eq!(udp.payload(), b"HELLO!");
        }
    }

    #[test]
    fn a_packet_that_is_only_looked_at_is_not_copied() {
        let bytes = packet(false, Protocol::UDP, &datagram(b"secret"));
        let seen = InnerPacket::parse(ENDPOINT, &bytes).unwrap();
        assert_eq!(seen.udp().unwrap().data, b"secret");
        assert!(!seen.is_edited());
        assert_eq!((seen.endpoint(), seen.bytes()), (ENDPOINT, &bytes[..]));
    }

    #[test]
    fn an_answer_goes_back_with_right_checksums() {
        for v6 in [false, true] {
            let bytes = packet(v6, Protocol::UDP, &datagram(b"a question"));
            let mut answered = InnerPacket::parse(ENDPOINT, &bytes).unwrap();
            answered.answer(b"an answer, longer").unwrap();
            let (before, after) = (
                Packet::parse(&bytes).unwrap(),
                Packet::parse(answered.bytes()).unwrap(),
            );
            assert_eq!(
                (after.src(), after.dst()),
                (before.dst(), before.src()),
                "{answered:?}"
            );
            assert_eq!((answered.src(), answered.dst()), (after.src(), after.dst()));
            assert!(after.verify_checksum());
            let udp = wire::udp::Datagram::parse(after.payload()).unwrap();
            assert!(udp.verify_checksum(after.src(), after.dst()));
            assert_eq!((udp.src_port(), udp.dst_port()), (53, 0xc000));
            assert_eq!(udp.payload(), b"an answer, longer");
        }
        let tcp = packet(false, Protocol::TCP, &[0; 20]);
        let mut refused = InnerPacket::parse(ENDPOINT, &tcp).unwrap();
        assert_eq!(refused.answer(b""), Err(EditError::NotUdp));
        assert_eq!(refused.bytes(), tcp);
        let long = packet(false, Protocol::UDP, &datagram(b"x"));
        let mut refused = InnerPacket::parse(ENDPOINT, &long).unwrap();
        assert_eq!(refused.answer(&[0; 9000]), Err(EditError::TooLong));
        assert_eq!(refused.bytes(), long);
    }

    #[test]
    fn icmp_checksums_are_corrected_in_both_families() {
        for (v6, protocol, echo) in [(false, Protocol::ICMP, 8), (true, Protocol::ICMPV6, 128)] {
            let bytes = packet(v6, protocol, &[echo, 0, 0, 0, 0, 1, 0, 1]);
            let mut edited = InnerPacket::parse(ENDPOINT, &bytes).unwrap();
            edited.set_payload(&[echo, 0, 0, 0, 0, 1, 0, 2, 7]).unwrap();
            let again = Packet::parse(edited.bytes()).unwrap();
            let icmp = wire::icmp::Message::parse(again.payload(), again.version()).unwrap();
            assert!(icmp.verify_checksum(again.src(), again.dst()));
        }
    }

    #[test]
    fn edits_that_cannot_be_right_are_refused_and_change_nothing() {
        let udp = packet(false, Protocol::UDP, &datagram(b"x"));
        let mut fragment = udp.clone();
        fragment[6] = 0x20; // more fragments
        let tcp = packet(false, Protocol::TCP, &[0; 20]);
        let long = datagram(&vec![0; InnerPacket::MAX_LEN]);
        for (bytes, payload, error) in [
            (&udp, &[0_u8; 7][..], EditError::TooShort(Protocol::UDP)),
            (&udp, &long[..], EditError::TooLong),
            (&fragment, &datagram(b"y")[..], EditError::Fragment),
            (&tcp, &[0; 21][..], EditError::TcpLength),
        ] {
            let mut packet = InnerPacket::parse(ENDPOINT, bytes).unwrap();
            assert_eq!(packet.set_payload(payload), Err(error));
            assert_eq!(packet.bytes(), &bytes[..]);
        }
    }

    #[test]
    fn what_is_no_ip_packet_is_refused() {
        assert!(InnerPacket::parse(ENDPOINT, &[]).is_err());
        assert!(InnerPacket::parse(ENDPOINT, &[0x70; 60]).is_err());
    }
}
