//! The inner packet's network header: IPv4 (RFC 791) and IPv6 (RFC 8200).

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;

/// The length of an IPv4 header without options, in bytes.
pub const V4_HEADER_LEN: usize = 20;
/// The length of an IPv6 header without extension headers, in bytes.
pub const V6_HEADER_LEN: usize = 40;
/// How many IPv6 extension headers are walked. RFC 8200 §4.1 names seven; a chain of more is made to
/// cost its readers time.
pub const MAX_EXTENSION_HEADERS: usize = 8;

/// The IP version of a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    #[default]
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// An upper-layer protocol number (IANA "Assigned Internet Protocol Numbers").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// Generic Routing Encapsulation (RFC 2784).
    pub const GRE: Self = Self(47);
    /// Encapsulating Security Payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// ICMP for IPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// No next header (RFC 8200 §4.7).
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("icmp"),
            Self::TCP => f.write_str("tcp"),
            Self::UDP => f.write_str("udp"),
            Self::GRE => f.write_str("gre"),
            Self::ESP => f.write_str("esp"),
            Self::ICMPV6 => f.write_str("icmpv6"),
            Self::SCTP => f.write_str("sctp"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// Whether a packet is a fragment, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// Not fragmented, or an IPv6 atomic fragment (RFC 6946).
    Whole,
    /// The first fragment: it holds the start of the upper-layer header, and more follow.
    First,
    /// A later fragment: its payload does not start with an upper-layer header.
    Later,
}

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The version is neither 4 nor 6.
    BadVersion,
    /// IPv4: the header length is below 20 bytes or above the total length.
    BadHeaderLength,
    /// Fewer bytes than the header or its length field says.
    Truncated,
    /// IPv6: an extension header reaches past the packet's end.
    ExtensionHeaderTruncated,
    /// IPv6: more than [`MAX_EXTENSION_HEADERS`].
    TooManyExtensionHeaders,
}

impl Malformed {
    /// Every variant, for registering counters.
    pub const ALL: [Self; 5] = [
        Self::BadVersion,
        Self::BadHeaderLength,
        Self::Truncated,
        Self::ExtensionHeaderTruncated,
        Self::TooManyExtensionHeaders,
    ];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadVersion => "ip_bad_version",
            Self::BadHeaderLength => "ip_bad_header_length",
            Self::Truncated => "ip_truncated",
            Self::ExtensionHeaderTruncated => "ip_extension_header_truncated",
            Self::TooManyExtensionHeaders => "ip_too_many_extension_headers",
        }
    }
}

/// A checked view of an IP packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The packet without padding behind it.
    bytes: &'a [u8],
    header: Header<'a>,
    payload: &'a [u8],
    protocol: Protocol,
    fragment: FragmentFields,
    has_extension_headers: bool,
}

#[derive(Clone, Copy, Debug)]
enum Header<'a> {
    V4(&'a [u8; V4_HEADER_LEN]),
    V6(&'a [u8; V6_HEADER_LEN]),
}

#[derive(Clone, Copy, Debug, Default)]
struct FragmentFields {
    /// Bytes of the original payload before this fragment's.
    offset: u16,
    more: bool,
    ident: Option<u32>,
}

impl<'a> Packet<'a> {
    /// Checks version, lengths and, for IPv6, the chain of extension headers. Bytes behind the
    /// packet's own length are padding and cut off.
    ///
    /// Does not check the IPv4 header checksum: a packet that only passes through keeps the checksum
    /// it came with, right or wrong.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => Self::parse_v4(bytes),
            6 => Self::parse_v6(bytes),
            _ => Err(Malformed::BadVersion),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; V4_HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(header[0] & 0x0f) * 4;
        let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header_len < V4_HEADER_LEN || total_len < header_len {
            return Err(Malformed::BadHeaderLength);
        }
        let bytes = bytes.get(..total_len).ok_or(Malformed::Truncated)?;
        let payload = bytes.get(header_len..).ok_or(Malformed::BadHeaderLength)?;
        let flags_and_offset = u16::from_be_bytes([header[6], header[7]]);
        Ok(Self {
            bytes,
            header: Header::V4(header),
            payload,
            protocol: Protocol(header[9]),
            fragment: FragmentFields {
                offset: (flags_and_offset & 0x1fff) << 3,
                more: flags_and_offset & 0x2000 != 0,
                ident: Some(u32::from(u16::from_be_bytes([header[4], header[5]]))),
            },
            has_extension_headers: false,
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; V6_HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let total_len = V6_HEADER_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
        let bytes = bytes.get(..total_len).ok_or(Malformed::Truncated)?;
        let rest = bytes.get(V6_HEADER_LEN..).ok_or(Malformed::Truncated)?;
        let chain = walk_extension_headers(header[6], rest)?;
        Ok(Self {
            bytes,
            header: Header::V6(header),
            payload: chain.payload,
            protocol: chain.protocol,
            fragment: FragmentFields {
                offset: chain.fragment_offset,
                more: chain.more_fragments,
                ident: chain.fragment_ident,
            },
            has_extension_headers: chain.payload.len() != rest.len(),
        })
    }

    /// IPv4 or IPv6.
    pub fn version(&self) -> Family {
        match self.header {
            Header::V4(_) => Family::V4,
            Header::V6(_) => Family::V6,
        }
    }

    /// The source address.
    pub fn src(&self) -> IpAddr {
        match self.header {
            Header::V4(h) => Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
            Header::V6(h) => v6_addr(h, 8),
        }
    }

    /// The destination address in the fixed header; a routing header may name a later one.
    pub fn dst(&self) -> IpAddr {
        match self.header {
            Header::V4(h) => Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            Header::V6(h) => v6_addr(h, 24),
        }
    }

    /// The upper-layer protocol. In a later IPv6 fragment, the one its fragment header names.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The bytes behind the IP header, its options and its extension headers, without padding.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Where the payload starts, counted in bytes from the packet's start.
    pub fn payload_offset(&self) -> usize {
        self.bytes.len() - self.payload.len()
    }

    /// The whole packet without padding.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The length of header and payload in bytes, without padding.
    pub fn total_len(&self) -> usize {
        self.bytes.len()
    }

    /// Time to live, or hop limit.
    pub fn hop_limit(&self) -> u8 {
        match self.header {
            Header::V4(h) => h[8],
            Header::V6(h) => h[7],
        }
    }

    /// DSCP in the upper six bits, ECN in the lower two (RFC 2474, RFC 3168).
    pub fn traffic_class(&self) -> u8 {
        match self.header {
            Header::V4(h) => h[1],
            Header::V6(h) => h[0] << 4 | h[1] >> 4,
        }
    }

    /// The 20-bit flow label (RFC 6437); 0 for IPv4.
    pub fn flow_label(&self) -> u32 {
        match self.header {
            Header::V4(_) => 0,
            Header::V6(h) => u32::from_be_bytes([0, h[1] & 0x0f, h[2], h[3]]),
        }
    }

    /// Whether routers must not fragment the packet; always so for IPv6.
    pub fn dont_fragment(&self) -> bool {
        match self.header {
            Header::V4(h) => h[6] & 0x40 != 0,
            Header::V6(_) => true,
        }
    }

    /// Whether the packet is a fragment. DF beside MF is accepted: AWS fragments packets that way.
    pub fn fragment(&self) -> Fragment {
        match self.fragment {
            FragmentFields {
                offset: 0,
                more: false,
                ..
            } => Fragment::Whole,
            FragmentFields {
                offset: 0,
                more: true,
                ..
            } => Fragment::First,
            _ => Fragment::Later,
        }
    }

    /// Where this fragment's payload belongs in the original packet's payload, in bytes.
    pub fn fragment_offset(&self) -> u16 {
        self.fragment.offset
    }

    /// Whether more fragments follow this one.
    pub fn more_fragments(&self) -> bool {
        self.fragment.more
    }

    /// The identification that fragments of one packet share: always there in IPv4, in IPv6 only with
    /// a fragment header.
    pub fn fragment_ident(&self) -> Option<u32> {
        self.fragment.ident
    }

    /// The IPv4 identification field; 0 for IPv6.
    pub fn ident(&self) -> u16 {
        match self.header {
            Header::V4(h) => u16::from_be_bytes([h[4], h[5]]),
            Header::V6(_) => 0,
        }
    }

    /// Whether IPv6 extension headers stand between the fixed header and the payload.
    pub fn has_extension_headers(&self) -> bool {
        self.has_extension_headers
    }

    /// Whether the IPv4 header has options.
    pub fn has_options(&self) -> bool {
        match self.header {
            Header::V4(h) => h[0] & 0x0f > 5,
            Header::V6(_) => false,
        }
    }

    /// Whether the IPv4 header checksum is right; true for IPv6, which has none.
    pub fn verify_checksum(&self) -> bool {
        match self.header {
            Header::V4(_) => self
                .bytes
                .get(..self.payload_offset())
                .is_some_and(|header| Sum::new().add_bytes(header).folded() == 0xffff),
            Header::V6(_) => true,
        }
    }
}

/// The meaning of an IP header without options or extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repr {
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same family.
    pub dst: IpAddr,
    /// Upper-layer protocol.
    pub protocol: Protocol,
    /// Time to live, or hop limit.
    pub hop_limit: u8,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// IPv4's DF bit; without effect on IPv6.
    pub dont_fragment: bool,
    /// IPv4's identification; without effect on IPv6.
    pub ident: u16,
    /// How many bytes follow the header; at most 65,515 in IPv4 and 65,535 in IPv6.
    pub payload_len: usize,
}

impl Repr {
    /// How many bytes the header takes.
    pub const fn header_len(&self) -> usize {
        match (self.src, self.dst) {
            (IpAddr::V4(_), IpAddr::V4(_)) => V4_HEADER_LEN,
            _ => V6_HEADER_LEN,
        }
    }

    /// The length of the whole packet in bytes.
    pub const fn total_len(&self) -> usize {
        self.header_len() + self.payload_len
    }

    /// Writes the header, IPv4 checksum included, to the start of `buf`.
    ///
    /// A buffer shorter than [`Self::header_len`] is a bug of the caller; nothing is written then.
    pub fn emit(&self, buf: &mut [u8]) {
        debug_assert!(
            buf.len() >= self.header_len(),
            "buffer shorter than the IP header"
        );
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                if let Some(header) = buf.first_chunk_mut() {
                    self.emit_v4(header, src, dst);
                }
            }
            (src, dst) => {
                if let Some(header) = buf.first_chunk_mut() {
                    self.emit_v6(header, to_v6(src), to_v6(dst));
                }
            }
        }
    }

    fn emit_v4(&self, header: &mut [u8; V4_HEADER_LEN], src: Ipv4Addr, dst: Ipv4Addr) {
        let total_len = u16::try_from(self.total_len())
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let ident = self.ident.to_be_bytes();
        let flags = if self.dont_fragment { 0x40 } else { 0 };
        let [s0, s1, s2, s3] = src.octets();
        let [d0, d1, d2, d3] = dst.octets();
        *header = [
            0x45,
            self.traffic_class,
            total_len[0],
            total_len[1],
            ident[0],
            ident[1],
            flags,
            0,
            self.hop_limit,
            self.protocol.0,
            0,
            0,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ];
        let checksum = Sum::new().add_bytes(header).checksum().to_be_bytes();
        header[10] = checksum[0];
        header[11] = checksum[1];
    }

    fn emit_v6(&self, header: &mut [u8; V6_HEADER_LEN], src: Ipv6Addr, dst: Ipv6Addr) {
        let payload_len = u16::try_from(self.payload_len)
            .unwrap_or(u16::MAX)
            .to_be_bytes();
        let fixed = [
            0x60 | self.traffic_class >> 4,
            self.traffic_class << 4,
            0,
            0,
            payload_len[0],
            payload_len[1],
            self.protocol.0,
            self.hop_limit,
        ];
        let fields = fixed.into_iter().chain(src.octets()).chain(dst.octets());
        for (byte, field) in header.iter_mut().zip(fields) {
            *byte = field;
        }
    }
}

/// What stands behind a chain of IPv6 extension headers.
pub(crate) struct ExtensionChain<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) payload: &'a [u8],
    pub(crate) fragment_offset: u16,
    more_fragments: bool,
    fragment_ident: Option<u32>,
}

/// Walks from the fixed header's next-header value and the bytes behind it to the upper layer.
pub(crate) fn walk_extension_headers(
    next_header: u8,
    bytes: &[u8],
) -> Result<ExtensionChain<'_>, Malformed> {
    let mut chain = ExtensionChain {
        protocol: Protocol(next_header),
        payload: bytes,
        fragment_offset: 0,
        more_fragments: false,
        fragment_ident: None,
    };
    let mut walked = 0;
    while let Some(kind) = ExtensionHeader::of(chain.protocol) {
        if walked == MAX_EXTENSION_HEADERS {
            return Err(Malformed::TooManyExtensionHeaders);
        }
        walked += 1;
        // Every extension header is at least 8 bytes long (RFC 8200 §4, RFC 4302 §2.2).
        let fixed: &[u8; 8] = chain
            .payload
            .first_chunk()
            .ok_or(Malformed::ExtensionHeaderTruncated)?;
        let len = match kind {
            ExtensionHeader::Octets => (usize::from(fixed[1]) + 1) * 8,
            // RFC 4302 §2.2: in 4-byte words, minus 2.
            ExtensionHeader::Authentication => (usize::from(fixed[1]) + 2) * 4,
            ExtensionHeader::Fragment => 8,
        };
        let (_, after) = chain
            .payload
            .split_at_checked(len)
            .ok_or(Malformed::ExtensionHeaderTruncated)?;
        chain.protocol = Protocol(fixed[0]);
        chain.payload = after;
        if let ExtensionHeader::Fragment = kind {
            let offset_and_more = u16::from_be_bytes([fixed[2], fixed[3]]);
            chain.fragment_offset = offset_and_more & 0xfff8;
            chain.more_fragments = offset_and_more & 1 != 0;
            chain.fragment_ident =
                Some(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]));
            // What follows in a later fragment is the middle of something.
            if chain.fragment_offset != 0 {
                break;
            }
        }
    }
    Ok(chain)
}

/// How an extension header states its length.
enum ExtensionHeader {
    /// In 8-byte units beyond the first.
    Octets,
    /// In 4-byte units beyond the second.
    Authentication,
    /// Always 8 bytes.
    Fragment,
}

impl ExtensionHeader {
    /// The kind of extension header that a next-header value names; `None` for an upper layer.
    const fn of(next: Protocol) -> Option<Self> {
        match next.0 {
            // Hop-by-hop, routing, destination options, mobility, HIP, shim6 (IANA "IPv6 Extension
            // Header Types"). ESP hides what follows it and so counts as an upper layer.
            0 | 43 | 60 | 135 | 139 | 140 => Some(Self::Octets),
            51 => Some(Self::Authentication),
            44 => Some(Self::Fragment),
            _ => None,
        }
    }
}

fn v6_addr(header: &[u8; V6_HEADER_LEN], offset: usize) -> IpAddr {
    let octets = header
        .get(offset..)
        .and_then(|rest| rest.first_chunk::<16>());
    Ipv6Addr::from(octets.copied().unwrap_or_default()).into()
}

fn to_v6(addr: IpAddr) -> Ipv6Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests;
