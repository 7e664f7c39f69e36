//! What makes two packets part of one flow.

use core::fmt;
use core::net::{IpAddr, SocketAddr};

use wire::gwlb::VpcEndpointId;

use crate::Protocol;

/// A flow as the shell names it. Ids are never reused: the generation tells two users of one slot
/// apart, so a late call for an ended flow finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId {
    /// Slot in the flow table.
    pub index: u32,
    /// How many flows the table had opened when this one was.
    pub generation: u32,
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// The identity of a flow: the VPC endpoint it came through, the protocol and both ends, in an order
/// that is the same for both directions.
///
/// TCP and UDP have five parts, everything else three (ports are zero), as the load balancer itself
/// defines a flow. The endpoint belongs to the key because two VPCs may use the same addresses; the
/// flow cookie does not, because it is unique neither alone nor for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The VPC endpoint.
    pub endpoint: VpcEndpointId,
    /// The upper-layer protocol.
    pub protocol: Protocol,
    /// The lesser of the two ends.
    pub low: SocketAddr,
    /// The greater of the two ends.
    pub high: SocketAddr,
}

impl FlowKey {
    /// The key of a packet from `src` to `dst`.
    pub fn new(
        endpoint: VpcEndpointId,
        protocol: Protocol,
        src: SocketAddr,
        dst: SocketAddr,
    ) -> Self {
        let (low, high) = if (src.ip(), src.port()) <= (dst.ip(), dst.port()) {
            (src, dst)
        } else {
            (dst, src)
        };
        Self {
            endpoint,
            protocol,
            low,
            high,
        }
    }

    /// Whether a packet from `src` travels from [`FlowKey::low`] to [`FlowKey::high`].
    pub fn is_from_low(&self, src: SocketAddr) -> bool {
        self.low == src
    }
}

/// A key in the form the table compares and hashes: no padding that could differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedKey {
    endpoint: u64,
    low: Wide,
    high: Wide,
    low_port: u16,
    high_port: u16,
    protocol: u8,
    is_v6: bool,
}

/// An address in 16 bytes, IPv4 in the first four.
type Wide = [u8; 16];

impl PackedKey {
    /// The packed form and whether the packet goes from low to high.
    pub(crate) fn new(
        endpoint: VpcEndpointId,
        protocol: Protocol,
        src: (IpAddr, u16),
        dst: (IpAddr, u16),
    ) -> (Self, bool) {
        let (a, b) = (widen(src.0), widen(dst.0));
        let from_low = (a, src.1) <= (b, dst.1);
        let ((low, low_port), (high, high_port)) = if from_low {
            ((a, src.1), (b, dst.1))
        } else {
            ((b, dst.1), (a, src.1))
        };
        let key = Self {
            endpoint: endpoint.0,
            low,
            high,
            low_port,
            high_port,
            protocol: protocol.0,
            is_v6: src.0.is_ipv6(),
        };
        (key, from_low)
    }

    /// The lesser end.
    pub(crate) fn low(&self) -> SocketAddr {
        SocketAddr::new(narrow(self.low, self.is_v6), self.low_port)
    }

    /// The greater end.
    pub(crate) fn high(&self) -> SocketAddr {
        SocketAddr::new(narrow(self.high, self.is_v6), self.high_port)
    }

    /// The public form.
    pub(crate) fn unpack(&self) -> FlowKey {
        FlowKey {
            endpoint: VpcEndpointId(self.endpoint),
            protocol: Protocol(self.protocol),
            low: self.low(),
            high: self.high(),
        }
    }

    /// The words that a keyed hash reads.
    pub(crate) fn words(&self) -> [u64; 6] {
        let (l0, l1) = halves(self.low);
        let (h0, h1) = halves(self.high);
        let tail = u64::from(self.low_port)
            | u64::from(self.high_port) << 16
            | u64::from(self.protocol) << 32
            | u64::from(self.is_v6) << 40;
        [self.endpoint, l0, l1, h0, h1, tail]
    }
}

/// A key in the form that a flow keeps: 32 bytes, and as many more for IPv6.
#[derive(Debug)]
pub(crate) struct KeptKey {
    endpoint: u64,
    addresses: Addresses,
    low_port: u16,
    high_port: u16,
    protocol: u8,
}

/// The lesser and the greater address.
#[derive(Debug)]
enum Addresses {
    V4([[u8; 4]; 2]),
    V6(Box<[Wide; 2]>),
}

impl KeptKey {
    pub(crate) fn new(key: &PackedKey) -> Self {
        let short = |[a, b, c, d, ..]: Wide| [a, b, c, d];
        Self {
            endpoint: key.endpoint,
            addresses: if key.is_v6 {
                Addresses::V6(Box::new([key.low, key.high]))
            } else {
                Addresses::V4([short(key.low), short(key.high)])
            },
            low_port: key.low_port,
            high_port: key.high_port,
            protocol: key.protocol,
        }
    }

    /// The form that is compared and hashed.
    pub(crate) fn packed(&self) -> PackedKey {
        let (low, high, is_v6) = match &self.addresses {
            Addresses::V4([low, high]) => (widen((*low).into()), widen((*high).into()), false),
            Addresses::V6(both) => {
                let [low, high] = **both;
                (low, high, true)
            }
        };
        PackedKey {
            endpoint: self.endpoint,
            low,
            high,
            low_port: self.low_port,
            high_port: self.high_port,
            protocol: self.protocol,
            is_v6,
        }
    }

    /// The upper-layer protocol.
    pub(crate) fn protocol(&self) -> Protocol {
        Protocol(self.protocol)
    }

    /// Whether the addresses are IPv6.
    pub(crate) fn is_v6(&self) -> bool {
        matches!(self.addresses, Addresses::V6(_))
    }
}

fn widen(address: IpAddr) -> Wide {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

fn narrow(bytes: Wide, is_v6: bool) -> IpAddr {
    if is_v6 {
        return IpAddr::from(bytes);
    }
    let [a, b, c, d, ..] = bytes;
    IpAddr::from([a, b, c, d])
}

fn halves(bytes: Wide) -> (u64, u64) {
    let value = u128::from_be_bytes(bytes);
    ((value >> 64) as u64, value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_directions_have_one_key() {
        let (a, b) = (end("10.0.0.1:40000"), end("10.0.0.2:443"));
        let there = FlowKey::new(VpcEndpointId(7), Protocol(6), a, b);
        let back = FlowKey::new(VpcEndpointId(7), Protocol(6), b, a);
        assert_eq!(there, back);
        assert_ne!(there, FlowKey::new(VpcEndpointId(8), Protocol(6), a, b));
    }

    #[test]
    fn the_packed_key_unpacks_to_the_same_flow() {
        for (a, b) in [
            ("10.0.0.9:1", "10.0.0.2:65535"),
            ("[2001:db8::1]:9", "[2001:db8::1]:8"),
        ] {
            let (a, b) = (end(a), end(b));
            let (packed, _) = PackedKey::new(
                VpcEndpointId(1),
                Protocol(6),
                (a.ip(), a.port()),
                (b.ip(), b.port()),
            );
            let (back, _) = PackedKey::new(
                VpcEndpointId(1),
                Protocol(6),
                (b.ip(), b.port()),
                (a.ip(), a.port()),
            );
            assert_eq!(packed, back);
            assert_eq!(KeptKey::new(&packed).packed(), packed);
            assert_eq!(
                packed.unpack(),
                FlowKey::new(VpcEndpointId(1), Protocol(6), a, b)
            );
        }
    }
}
