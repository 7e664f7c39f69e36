//! Reads inner packets just far enough to find their flow and to judge their checksums.
//!
//! Deliberately not `wire`: the simulator is the appliance's judge and must not share its mistakes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;

/// TCP flag bits.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Extension headers walked before giving up.
const MAX_EXTENSION_HEADERS: usize = 8;

/// What is wrong with an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InnerFault {
    Malformed,
    IpChecksum,
    TransportChecksum,
}

/// Who talks to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) protocol: u8,
    pub(crate) src: (IpAddr, u16),
    pub(crate) dst: (IpAddr, u16),
}

/// The parts of an inner packet that the load balancer looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner<'a> {
    pub(crate) tuple: Tuple,
    /// Flags and sequence number of a TCP segment.
    pub(crate) tcp: Option<(u8, u32)>,
    /// The flow that an ICMP error speaks of, as the quoted packet was sent.
    pub(crate) quoted: Option<Tuple>,
    /// IP header with extensions.
    header_len: usize,
    fragment: bool,
    bytes: &'a [u8],
}

impl<'a> Inner<'a> {
    /// Parses a packet whose length must be exactly what its header says.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, InnerFault> {
        let ip = Ip::parse(bytes).ok_or(InnerFault::Malformed)?;
        if ip.total_len != bytes.len() {
            return Err(InnerFault::Malformed);
        }
        let mut inner = Self {
            tuple: ip.tuple(bytes),
            tcp: None,
            quoted: None,
            header_len: ip.header_len,
            fragment: ip.more_fragments || ip.fragment_offset != 0,
            bytes,
        };
        if ip.fragment_offset != 0 {
            return Ok(inner);
        }
        let payload = bytes.get(ip.header_len..).ok_or(InnerFault::Malformed)?;
        match ip.protocol {
            TCP => {
                let header = payload.first_chunk::<20>().ok_or(InnerFault::Malformed)?;
                let offset = usize::from(header[12] >> 4) * 4;
                if offset < 20 || (offset > payload.len() && !inner.fragment) {
                    return Err(InnerFault::Malformed);
                }
                let seq = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                inner.tcp = Some((header[13], seq));
            }
            UDP => {
                let header = payload.first_chunk::<8>().ok_or(InnerFault::Malformed)?;
                let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
                if len < 8 || (len > payload.len() && !inner.fragment) {
                    return Err(InnerFault::Malformed);
                }
            }
            ICMP | ICMPV6 => {
                let header = payload.first_chunk::<8>().ok_or(InnerFault::Malformed)?;
                let is_error = if ip.protocol == ICMP {
                    matches!(header[0], 3 | 4 | 5 | 11 | 12)
                } else {
                    (1..=4).contains(&header[0])
                };
                if is_error {
                    let quote = payload.get(8..).unwrap_or_default();
                    inner.quoted = Ip::parse(quote).map(|ip| ip.tuple(quote));
                }
            }
            _ => {}
        }
        Ok(inner)
    }

    /// Whether the checksums in the bytes are right. Fragments carry no judgeable transport checksum.
    pub(crate) fn verify(&self) -> Result<(), InnerFault> {
        if self.tuple.src.0.is_ipv4() {
            let header_len = usize::from(self.bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
            let header = self.bytes.get(..header_len).ok_or(InnerFault::Malformed)?;
            if sum(0, header) != 0xffff {
                return Err(InnerFault::IpChecksum);
            }
        }
        if self.fragment {
            return Ok(());
        }
        let payload = self
            .bytes
            .get(self.header_len..)
            .ok_or(InnerFault::Malformed)?;
        let good = match self.tuple.protocol {
            TCP | ICMPV6 => sum(self.pseudo_header(payload.len()), payload) == 0xffff,
            UDP => match payload.get(6..8) {
                // RFC 768: zero means that the sender made no checksum; RFC 8200 §8.1 forbids it in IPv6.
                Some([0, 0]) => self.tuple.src.0.is_ipv4(),
                _ => {
                    let len = payload
                        .get(4..6)
                        .map_or(0, |len| usize::from(u16::from_be_bytes([len[0], len[1]])));
                    let datagram = payload.get(..len).ok_or(InnerFault::Malformed)?;
                    sum(self.pseudo_header(len), datagram) == 0xffff
                }
            },
            ICMP => sum(0, payload) == 0xffff,
            _ => true,
        };
        if good {
            Ok(())
        } else {
            Err(InnerFault::TransportChecksum)
        }
    }

    /// What follows the IP header and its extensions.
    pub(crate) fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.header_len..).unwrap_or_default()
    }

    fn pseudo_header(&self, len: usize) -> u64 {
        let addresses = match (self.tuple.src.0, self.tuple.dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                partial(0, &src.octets()) + partial(0, &dst.octets())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                partial(0, &src.octets()) + partial(0, &dst.octets())
            }
            _ => 0,
        };
        addresses + u64::from(self.tuple.protocol) + len as u64
    }
}

/// Adds big-endian 16-bit words, unfolded.
fn partial(start: u64, bytes: &[u8]) -> u64 {
    let mut total = start;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        // Two 16-bit words at once: 2^16 is 1 modulo 2^16 - 1, so folding gives the same sum.
        total += u64::from(u32::from_be_bytes([word[0], word[1], word[2], word[3]]));
    }
    let mut last = [0; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    total + u64::from(u32::from_be_bytes(last))
}

/// The ones-complement sum, folded to 16 bits; 0xffff over data with a right checksum in it.
fn sum(start: u64, bytes: &[u8]) -> u16 {
    let mut total = partial(start, bytes);
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

struct Ip {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    header_len: usize,
    total_len: usize,
    fragment_offset: u16,
    more_fragments: bool,
}

impl Ip {
    /// Parses the IP header; the packet may be cut short, as in an ICMP quote.
    fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header = bytes.first_chunk::<20>()?;
                let header_len = usize::from(header[0] & 0x0f) * 4;
                let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
                if header_len < 20 || total_len < header_len || bytes.len() < header_len {
                    return None;
                }
                let fragment = u16::from_be_bytes([header[6], header[7]]);
                Some(Self {
                    src: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
                    dst: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
                    protocol: header[9],
                    header_len,
                    total_len,
                    fragment_offset: fragment & 0x1fff,
                    more_fragments: fragment & 0x2000 != 0,
                })
            }
            6 => {
                let header = bytes.first_chunk::<40>()?;
                let mut ip = Self {
                    src: Ipv6Addr::from(<[u8; 16]>::try_from(&header[8..24]).ok()?).into(),
                    dst: Ipv6Addr::from(<[u8; 16]>::try_from(&header[24..40]).ok()?).into(),
                    protocol: header[6],
                    header_len: 40,
                    total_len: 40 + usize::from(u16::from_be_bytes([header[4], header[5]])),
                    fragment_offset: 0,
                    more_fragments: false,
                };
                for _ in 0..MAX_EXTENSION_HEADERS {
                    let extension = bytes.get(ip.header_len..);
                    match ip.protocol {
                        0 | 43 | 60 => {
                            let start = extension?.first_chunk::<2>()?;
                            ip.protocol = start[0];
                            ip.header_len += 8 + usize::from(start[1]) * 8;
                        }
                        44 => {
                            let start = extension?.first_chunk::<8>()?;
                            let fragment = u16::from_be_bytes([start[2], start[3]]);
                            ip.protocol = start[0];
                            ip.header_len += 8;
                            ip.fragment_offset = fragment >> 3;
                            ip.more_fragments = fragment & 1 != 0;
                            if ip.fragment_offset != 0 {
                                break;
                            }
                        }
                        _ => break,
                    }
                }
                (ip.header_len <= bytes.len()).then_some(ip)
            }
            _ => None,
        }
    }

    fn tuple(&self, bytes: &[u8]) -> Tuple {
        let ports = if self.fragment_offset == 0 && matches!(self.protocol, TCP | UDP) {
            bytes
                .get(self.header_len..)
                .and_then(|payload| payload.first_chunk::<4>())
        } else {
            None
        };
        let (src_port, dst_port) = ports.map_or((0, 0), |ports| {
            (
                u16::from_be_bytes([ports[0], ports[1]]),
                u16::from_be_bytes([ports[2], ports[3]]),
            )
        });
        Tuple {
            protocol: self.protocol,
            src: (self.src, src_port),
            dst: (self.dst, dst_port),
        }
    }
}
