//! What a filter may ask of a packet, with libpcap's own idea of where things are.
//!
//! Like libpcap's programs, this looks at the fixed IPv6 header only: a TCP segment behind extension
//! headers is not `tcp`, but the first fragment header is looked through.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{Around, Base, Direction, Version};
use crate::names::Question;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const SCTP: u8 = 132;
const IPV6_HEADER: u32 = 40;

pub(super) struct Inner<'a> {
    bytes: &'a [u8],
}

impl<'a> Inner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn version(&self) -> Option<Version> {
        match self.bytes.first()? >> 4 {
            4 => Some(Version::V4),
            6 => Some(Version::V6),
            _ => None,
        }
    }

    fn byte(&self, at: u32) -> Option<u8> {
        self.bytes.get(usize::try_from(at).ok()?).copied()
    }

    fn number(&self, at: u32, size: u8) -> Option<u32> {
        let mut value = 0;
        for step in 0..u32::from(size) {
            value = value << 8 | u32::from(self.byte(at.checked_add(step)?)?);
        }
        Some(value)
    }

    /// Whether the host at either end is such a one.
    pub(super) fn has_host(&self, around: &Around<'_>, question: Question<'_>) -> bool {
        let Some(names) = around.names else {
            return false;
        };
        self.addresses().is_some_and(|ends| {
            ends.into_iter()
                .any(|end| names.is(around.endpoint, end, question))
        })
    }

    fn addresses(&self) -> Option<[IpAddr; 2]> {
        fn at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
            bytes.get(place..)?.first_chunk().copied()
        }
        Some(match self.version()? {
            Version::V4 => [12, 16].map(|place| at::<4>(self.bytes, place).map(IpAddr::from)),
            Version::V6 => [8, 24].map(|place| at::<16>(self.bytes, place).map(IpAddr::from)),
        })
        .and_then(|[source, destination]| Some([source?, destination?]))
    }

    pub(super) fn is_protocol(&self, version: Option<Version>, number: u8) -> Option<bool> {
        let own = self.version();
        if version.is_some() && version != own {
            return Some(false);
        }
        Some(match own {
            Some(Version::V4) => self.byte(9)? == number,
            Some(Version::V6) => {
                let next = self.byte(6)?;
                next == number || (next == FRAGMENT && self.byte(IPV6_HEADER)? == number)
            }
            None => false,
        })
    }

    pub(super) fn has_address(
        &self,
        direction: Direction,
        address: IpAddr,
        prefix: u8,
    ) -> Option<bool> {
        let (version, source, size) = match address {
            IpAddr::V4(_) => (Version::V4, 12, 4),
            IpAddr::V6(_) => (Version::V6, 8, 16),
        };
        if self.version() != Some(version) {
            return Some(false);
        }
        let same = |at: u32| -> Option<bool> {
            let at = usize::try_from(at).ok()?;
            let bytes = self.bytes.get(at..at + size)?;
            Some(match address {
                IpAddr::V4(wanted) => starts_alike(bytes, &wanted.octets(), prefix),
                IpAddr::V6(wanted) => starts_alike(bytes, &wanted.octets(), prefix),
            })
        };
        let destination = source + size as u32;
        Some(direction.holds(same(source)?, same(destination)?))
    }

    pub(super) fn has_port(
        &self,
        direction: Direction,
        protocol: Option<u8>,
        version: Option<Version>,
        ports: RangeInclusive<u16>,
    ) -> Option<bool> {
        let own = self.version();
        if version.is_some() && version != own {
            return Some(false);
        }
        let (carried, at) = match own {
            Some(Version::V4) => {
                let carried = self.byte(9)?;
                if !carries_ports(carried, protocol) {
                    return Some(false);
                }
                if self.is_later_fragment()? {
                    return Some(false);
                }
                (carried, self.ipv4_header_len()?)
            }
            Some(Version::V6) => (self.byte(6)?, IPV6_HEADER),
            None => return Some(false),
        };
        if !carries_ports(carried, protocol) {
            return Some(false);
        }
        let within = |at| -> Option<bool> {
            let port = self.number(at, 2)?;
            Some(u16::try_from(port).is_ok_and(|port| ports.contains(&port)))
        };
        Some(match direction {
            Direction::Source => within(at)?,
            Direction::Destination => within(at + 2)?,
            Direction::Either => within(at)? || within(at + 2)?,
            Direction::Both => within(at)? && within(at + 2)?,
        })
    }

    pub(super) fn is_multicast(&self, version: Version) -> Option<bool> {
        if self.version() != Some(version) {
            return Some(false);
        }
        Some(match version {
            Version::V4 => self.byte(16)? >= 224,
            Version::V6 => self.byte(24)? == 255,
        })
    }

    pub(super) fn has(&self, base: Base) -> Option<bool> {
        Some(match base {
            Base::Ipv4 => self.version() == Some(Version::V4),
            Base::Ipv6 => self.version() == Some(Version::V6),
            Base::OverIpv4(number) => {
                self.is_protocol(Some(Version::V4), number)? && !self.is_later_fragment()?
            }
            Base::OverIpv6(number) => {
                self.version() == Some(Version::V6) && self.byte(6)? == number
            }
        })
    }

    pub(super) fn load(&self, base: Base, offset: u32, size: u8) -> Option<u32> {
        let start = match base {
            Base::Ipv4 | Base::Ipv6 => 0,
            Base::OverIpv4(_) => self.ipv4_header_len()?,
            Base::OverIpv6(_) => IPV6_HEADER,
        };
        self.number(start.checked_add(offset)?, size)
    }

    fn ipv4_header_len(&self) -> Option<u32> {
        Some(u32::from(self.byte(0)? & 15) * 4)
    }

    fn is_later_fragment(&self) -> Option<bool> {
        Some(self.number(6, 2)? & 0x1fff != 0)
    }
}

fn carries_ports(carried: u8, wanted: Option<u8>) -> bool {
    wanted.map_or(matches!(carried, TCP | UDP | SCTP), |wanted| {
        carried == wanted
    })
}

/// Whether the first `prefix` bits are the same.
fn starts_alike(bytes: &[u8], wanted: &[u8], prefix: u8) -> bool {
    let mut left = u32::from(prefix);
    for (byte, wanted) in bytes.iter().zip(wanted) {
        if left == 0 {
            return true;
        }
        let bits = left.min(8);
        let mask = 0xff_u8.checked_shl(8 - bits).unwrap_or(0);
        if (byte ^ wanted) & mask != 0 {
            return false;
        }
        left -= bits;
    }
    true
}
