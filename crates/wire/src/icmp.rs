//! ICMP for IPv4 (RFC 792) and IPv6 (RFC 4443): echo, errors and the packets that errors quote.

use core::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{self, Family, Fragment, Protocol};
use crate::tcp::Seq;

/// The length of an ICMP header in bytes.
pub const HEADER_LEN: usize = 8;
/// The longest IPv4 packet that carries an error (RFC 1812 §4.3.2.3).
pub const MAX_V4_ERROR_LEN: usize = 576;
/// The longest IPv6 packet that carries an error (RFC 4443 §2.4 c).
pub const MAX_V6_ERROR_LEN: usize = 1280;

/// Why bytes are not an ICMP message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Shorter than the 8-byte header.
    Truncated,
}

impl Malformed {
    /// Every variant, for registering counters.
    pub const ALL: [Self; 1] = [Self::Truncated];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "icmp_truncated",
        }
    }
}

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Echo request.
    EchoRequest {
        /// Identifier: whose request it is.
        ident: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// Echo reply.
    EchoReply {
        /// Identifier: whose request it answers.
        ident: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// The packet could not be delivered.
    DestinationUnreachable {
        /// Why; numbered differently in IPv4 and IPv6.
        code: u8,
    },
    /// The packet did not fit the next link: IPv4's "fragmentation needed", IPv6's "packet too big".
    PacketTooBig {
        /// The next link's MTU in bytes; 0 from IPv4 routers older than RFC 1191.
        mtu: u32,
    },
    /// The hop limit ran out, or fragments did not arrive in time.
    TimeExceeded {
        /// 0 in transit, 1 in reassembly.
        code: u8,
    },
    /// A header field was not understood.
    ParameterProblem {
        /// Why.
        code: u8,
    },
    /// Source quench, redirect: errors by form, that nobody should act on.
    OtherError,
    /// Any other message.
    Other,
}

/// A checked view of an ICMP message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    family: Family,
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Checks the length of the payload of an IP packet of the given family.
    pub fn parse(bytes: &'a [u8], family: Family) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let payload = bytes.get(HEADER_LEN..).ok_or(Malformed::Truncated)?;
        Ok(Self {
            family,
            bytes,
            header,
            payload,
        })
    }

    /// The type field.
    pub fn message_type(&self) -> u8 {
        self.header[0]
    }

    /// The code field.
    pub fn code(&self) -> u8 {
        self.header[1]
    }

    /// The bytes behind the header: echo data, or the quoted packet.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What the message is about.
    pub fn kind(&self) -> Kind {
        let code = self.code();
        let (ident, sequence) = (
            u16::from_be_bytes([self.header[4], self.header[5]]),
            u16::from_be_bytes([self.header[6], self.header[7]]),
        );
        match (self.family, self.message_type()) {
            (Family::V4, 0) | (Family::V6, 129) => Kind::EchoReply { ident, sequence },
            (Family::V4, 8) | (Family::V6, 128) => Kind::EchoRequest { ident, sequence },
            // RFC 1191 §4: the MTU takes the lower half of the unused field.
            (Family::V4, 3) if code == 4 => Kind::PacketTooBig {
                mtu: u32::from(sequence),
            },
            (Family::V6, 2) => Kind::PacketTooBig {
                mtu: u32::from(ident) << 16 | u32::from(sequence),
            },
            (Family::V4, 3) | (Family::V6, 1) => Kind::DestinationUnreachable { code },
            (Family::V4, 11) | (Family::V6, 3) => Kind::TimeExceeded { code },
            (Family::V4, 12) | (Family::V6, 4) => Kind::ParameterProblem { code },
            (Family::V4, 4 | 5) | (Family::V6, 0..=127 | 137) => Kind::OtherError,
            _ => Kind::Other,
        }
    }

    /// Whether the message is an error, which must never be answered by another (RFC 1122 §3.2.2).
    pub fn is_error(&self) -> bool {
        !matches!(
            self.kind(),
            Kind::EchoRequest { .. } | Kind::EchoReply { .. } | Kind::Other
        )
    }

    /// What an error says about the packet that caused it; `None` if it is no error, or quotes less
    /// than a whole IP header.
    pub fn quoted(&self) -> Option<Quoted> {
        if !self.is_error() {
            return None;
        }
        Quoted::of(self.payload)
    }

    /// Whether the checksum is right. Only IPv6's covers the addresses.
    pub fn verify_checksum(&self, src: IpAddr, dst: IpAddr) -> bool {
        self.start_of_sum(src, dst).add_bytes(self.bytes).folded() == 0xffff
    }

    fn start_of_sum(&self, src: IpAddr, dst: IpAddr) -> Sum {
        start_of_sum(self.family, src, dst, self.bytes.len())
    }
}

fn start_of_sum(family: Family, src: IpAddr, dst: IpAddr, len: usize) -> Sum {
    match family {
        Family::V4 => Sum::new(),
        Family::V6 => Sum::pseudo_header(src, dst, Protocol::ICMPV6, len),
    }
}

/// Sets the checksum of a whole message: header and payload.
pub fn fill_checksum(message: &mut [u8], src: IpAddr, dst: IpAddr) {
    if let Some([c0, c1]) = message.get_mut(2..4) {
        (*c0, *c1) = (0, 0);
    }
    let checksum = start_of_sum(Family::of(src), src, dst, message.len())
        .add_bytes(message)
        .checksum();
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// What an ICMP error quotes of the packet that caused it: enough to find its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// The packet's source, which is whom the error is for.
    pub src: IpAddr,
    /// The packet's destination.
    pub dst: IpAddr,
    /// The upper-layer protocol.
    pub protocol: Protocol,
    /// Source and destination port of TCP, UDP and SCTP.
    pub ports: Option<(u16, u16)>,
    /// The sequence number of a TCP segment.
    pub seq: Option<Seq>,
}

impl Quoted {
    /// Reads a quote. It is cut by design, so that the lengths it states are not to be found in it.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (src, dst, protocol, upper, first) = match bytes.first()? >> 4 {
            4 => quoted_v4(bytes)?,
            6 => quoted_v6(bytes)?,
            _ => return None,
        };
        let has_ports = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
        let ports =
            upper
                .first_chunk::<4>()
                .filter(|_| first && has_ports)
                .map(|[s0, s1, d0, d1]| {
                    (
                        u16::from_be_bytes([*s0, *s1]),
                        u16::from_be_bytes([*d0, *d1]),
                    )
                });
        let seq = upper
            .first_chunk::<8>()
            .filter(|_| first && protocol == Protocol::TCP)
            .map(|[_, _, _, _, s0, s1, s2, s3]| Seq(u32::from_be_bytes([*s0, *s1, *s2, *s3])));
        Some(Self {
            src,
            dst,
            protocol,
            ports,
            seq,
        })
    }
}

/// Source, destination, protocol, what follows the header, and whether that is an upper-layer header.
type QuotedHeader<'a> = (IpAddr, IpAddr, Protocol, &'a [u8], bool);

fn quoted_v4(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let header: &[u8; ip::V4_HEADER_LEN] = bytes.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header_len < ip::V4_HEADER_LEN {
        return None;
    }
    let src = IpAddr::from([header[12], header[13], header[14], header[15]]);
    let dst = IpAddr::from([header[16], header[17], header[18], header[19]]);
    let first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let upper = bytes.get(header_len..).unwrap_or_default();
    Some((src, dst, Protocol(header[9]), upper, first))
}

fn quoted_v6(bytes: &[u8]) -> Option<QuotedHeader<'_>> {
    let (fixed, rest) = bytes.split_first_chunk::<8>()?;
    let (src, rest) = rest.split_first_chunk::<16>()?;
    let (dst, rest) = rest.split_first_chunk::<16>()?;
    let chain = ip::walk_extension_headers(fixed[6], rest).ok()?;
    Some((
        IpAddr::from(*src),
        IpAddr::from(*dst),
        chain.protocol,
        chain.payload,
        chain.fragment_offset == 0,
    ))
}

/// An echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo<'a> {
    /// Whether it is a request.
    pub request: bool,
    /// Identifier.
    pub ident: u16,
    /// Sequence number.
    pub sequence: u16,
    /// The data that a reply returns.
    pub payload: &'a [u8],
}

impl Echo<'_> {
    /// How many bytes the message takes.
    pub const fn message_len(&self) -> usize {
        HEADER_LEN + self.payload.len()
    }

    /// Writes the message, checksum included, to `buf`, which it fills.
    ///
    /// A buffer of another length than [`Self::message_len`] is a bug of the caller; nothing is
    /// written then.
    pub fn emit(&self, buf: &mut [u8], src: IpAddr, dst: IpAddr) {
        debug_assert!(
            buf.len() == self.message_len(),
            "buffer unlike the ICMP message"
        );
        if buf.len() != self.message_len() {
            return;
        }
        let Some((header, rest)) = buf.split_first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        let message_type = match (Family::of(src), self.request) {
            (Family::V4, true) => 8,
            (Family::V4, false) => 0,
            (Family::V6, true) => 128,
            (Family::V6, false) => 129,
        };
        let [i0, i1] = self.ident.to_be_bytes();
        let [s0, s1] = self.sequence.to_be_bytes();
        *header = [message_type, 0, 0, 0, i0, i1, s0, s1];
        rest.copy_from_slice(self.payload);
        fill_checksum(buf, src, dst);
    }
}

/// Why flowdog answers a packet with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Policy forbids it (RFC 1812 §5.2.7.1: type 3 code 13; RFC 4443 §3.1: type 1 code 1).
    AdministrativelyProhibited,
    /// Nothing listens on the port (type 3 code 3; type 1 code 4).
    PortUnreachable,
    /// The packet does not fit the next link (type 3 code 4; type 2).
    PacketTooBig {
        /// The link's MTU in bytes.
        mtu: u32,
    },
    /// The hop limit ran out (type 11 code 0; type 3 code 0).
    TimeExceeded,
}

/// An IP packet with an ICMP error that answers, and quotes, a packet.
///
/// How often such answers may be sent is for the caller to limit (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
#[derive(Clone, Copy, Debug)]
pub struct ErrorReply<'a> {
    cause: Cause,
    ip: ip::Repr,
    quote: &'a [u8],
}

impl<'a> ErrorReply<'a> {
    /// The answer to `offending`, or `None` where the RFCs forbid one (RFC 1122 §3.2.2, RFC 4443
    /// §2.4 e): to an ICMP error, to a later fragment, to or from an address that stands for no single
    /// host.
    ///
    /// `src` is whom the error comes from: a router on the way, or the packet's destination.
    pub fn to(offending: &ip::Packet<'a>, src: IpAddr, cause: Cause) -> Option<Self> {
        let family = offending.version();
        let (answerable_icmp, overhead, max, protocol) = match family {
            Family::V4 => (
                Protocol::ICMP,
                ip::V4_HEADER_LEN,
                MAX_V4_ERROR_LEN,
                Protocol::ICMP,
            ),
            Family::V6 => (
                Protocol::ICMPV6,
                ip::V6_HEADER_LEN,
                MAX_V6_ERROR_LEN,
                Protocol::ICMPV6,
            ),
        };
        if Family::of(src) != family || offending.fragment() == Fragment::Later {
            return None;
        }
        if offending.protocol() == answerable_icmp {
            let message = Message::parse(offending.payload(), family).ok()?;
            if message.is_error() {
                return None;
            }
        }
        let is_host = |addr: IpAddr| {
            !addr.is_unspecified()
                && !addr.is_multicast()
                && !matches!(addr, IpAddr::V4(v4) if v4.is_broadcast() || v4.is_loopback())
        };
        // RFC 4443 §2.4 e.3: path MTU discovery works for IPv6 multicast.
        let too_big = family == Family::V6 && matches!(cause, Cause::PacketTooBig { .. });
        if !is_host(offending.src()) || !(is_host(offending.dst()) || too_big) {
            return None;
        }
        let room = max - overhead - HEADER_LEN;
        let bytes = offending.bytes();
        let quote = bytes.get(..room.min(bytes.len()))?;
        Some(Self {
            cause,
            ip: ip::Repr {
                src,
                dst: offending.src(),
                protocol,
                hop_limit: 64,
                // RFC 1812 §4.3.2.5: precedence 6, internetwork control, like routers' errors.
                traffic_class: 0xc0,
                dont_fragment: false,
                ident: 0,
                payload_len: HEADER_LEN + quote.len(),
            },
            quote,
        })
    }

    /// How many bytes the IP packet takes.
    pub fn packet_len(&self) -> usize {
        self.ip.total_len()
    }

    /// Writes the IP packet, checksums included, to the start of `buf`.
    ///
    /// A buffer shorter than [`Self::packet_len`] is a bug of the caller; nothing is written then.
    pub fn emit(&self, buf: &mut [u8]) {
        debug_assert!(
            buf.len() >= self.packet_len(),
            "buffer shorter than the ICMP error"
        );
        let Some(packet) = buf.get_mut(..self.packet_len()) else {
            return;
        };
        self.ip.emit(packet);
        let Some((_, message)) = packet.split_at_mut_checked(self.ip.header_len()) else {
            return;
        };
        let Some((header, quote)) = message.split_first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        let family = Family::of(self.ip.src);
        let (message_type, code, word) = match (family, self.cause) {
            (Family::V4, Cause::AdministrativelyProhibited) => (3, 13, 0),
            (Family::V6, Cause::AdministrativelyProhibited) => (1, 1, 0),
            (Family::V4, Cause::PortUnreachable) => (3, 3, 0),
            (Family::V6, Cause::PortUnreachable) => (1, 4, 0),
            (Family::V4, Cause::PacketTooBig { mtu }) => (3, 4, mtu.min(0xffff)),
            (Family::V6, Cause::PacketTooBig { mtu }) => (2, 0, mtu),
            (Family::V4, Cause::TimeExceeded) => (11, 0, 0),
            (Family::V6, Cause::TimeExceeded) => (3, 0, 0),
        };
        let [w0, w1, w2, w3] = u32::to_be_bytes(word);
        *header = [message_type, code, 0, 0, w0, w1, w2, w3];
        quote.copy_from_slice(self.quote);
        fill_checksum(message, self.ip.src, self.ip.dst);
    }
}

#[cfg(test)]
mod tests;
