//! What is read from a datagram before its flow is known.

use core::net::{IpAddr, SocketAddr};

use wire::gwlb::{FlowCookie, VpcEndpointId};
use wire::ip::{Family, Fragment};
use wire::tcp::{Flags, Segment, Seq};
use wire::{geneve, ip};

use crate::counters::DropReason;
use crate::{Leg, Protocol};

/// Inner packets above this are dropped by the load balancer: AWS "MTU 8500".
pub(crate) const MAX_INNER: usize = 8500;

/// The facts of one datagram, free of borrows so that the buffer can be edited beside them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Where the inner packet starts.
    pub(crate) inner_at: usize,
    /// Where it ends; padding may follow.
    pub(crate) inner_end: usize,
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) cookie: FlowCookie,
    pub(crate) oddities: geneve::Oddities,
    pub(crate) protocol: Protocol,
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) fragment: Fragment,
    pub(crate) has_extension_headers: bool,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) dont_fragment: bool,
    pub(crate) upper: Upper,
}

/// What the packet carries, as far as flows care.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Upper {
    Tcp(Tcp),
    /// TCP without a whole header: no host can use it.
    BadTcp,
    /// ICMP of either family.
    Icmp,
    Other,
}

/// The parts of a TCP header that every packet of a flow is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: Flags,
    pub(crate) window: u16,
    /// Where the TCP header starts in the datagram.
    pub(crate) segment_at: usize,
    pub(crate) payload_len: u32,
}

impl Seen {
    /// Reads a datagram.
    pub(crate) fn parse(datagram: &[u8]) -> Result<Self, DropReason> {
        let outer = geneve::Packet::parse(datagram).map_err(outer_reason)?;
        let inner = ip::Packet::parse(outer.inner()).map_err(inner_reason)?;
        let inner_at = outer.header().len();
        let (upper, ports) = upper(&inner, inner_at);
        Ok(Self {
            inner_at,
            inner_end: inner_at + inner.total_len(),
            endpoint: outer.endpoint(),
            cookie: outer.cookie(),
            oddities: outer.oddities(),
            protocol: inner.protocol(),
            src: SocketAddr::new(inner.src(), ports.0),
            dst: SocketAddr::new(inner.dst(), ports.1),
            fragment: inner.fragment(),
            has_extension_headers: inner.has_extension_headers(),
            hop_limit: inner.hop_limit(),
            traffic_class: inner.traffic_class(),
            dont_fragment: inner.dont_fragment(),
            upper,
        })
    }

    /// The TCP header's facts.
    pub(crate) fn tcp(&self) -> Option<&Tcp> {
        match &self.upper {
            Upper::Tcp(tcp) => Some(tcp),
            _ => None,
        }
    }

    /// The inner packet's length.
    pub(crate) fn inner_len(&self) -> usize {
        self.inner_end - self.inner_at
    }

    /// The GENEVE header.
    pub(crate) fn header<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram.get(..self.inner_at).unwrap_or_default()
    }

    /// The inner packet without padding.
    pub(crate) fn inner<'a>(&self, datagram: &'a [u8]) -> &'a [u8] {
        datagram
            .get(self.inner_at..self.inner_end)
            .unwrap_or_default()
    }

    /// The TCP segment.
    pub(crate) fn segment<'a>(&self, datagram: &'a [u8]) -> Option<Segment<'a>> {
        let at = self.tcp()?.segment_at;
        Segment::parse(datagram.get(at..self.inner_end)?).ok()
    }

    /// Whether the TCP checksum is right. A fragment's cannot be told and counts as right.
    pub(crate) fn is_sound(&self, datagram: &[u8]) -> bool {
        self.fragment != Fragment::Whole
            || self
                .segment(datagram)
                .is_some_and(|segment| segment.verify_checksum(self.src.ip(), self.dst.ip()))
    }

    /// Whether the packet can be replaced by one of ours: whole, and without what we would lose.
    pub(crate) fn is_plain(&self) -> bool {
        self.fragment == Fragment::Whole && !self.has_extension_headers
    }

    /// How the packet's sender writes IP headers.
    pub(crate) fn manner(&self) -> Manner {
        Manner {
            hop_limit: self.hop_limit,
            traffic_class: self.traffic_class & !0x03,
            dont_fragment: self.dont_fragment,
        }
    }

    /// Whether a router marked congestion (RFC 3168 §5).
    pub(crate) fn is_congestion_marked(&self) -> bool {
        self.traffic_class & 0x03 == 0x03
    }
}

impl Tcp {
    pub(crate) fn has(&self, flags: Flags) -> bool {
        self.flags.contains(flags)
    }

    /// A connection request: SYN without ACK.
    pub(crate) fn is_request(&self) -> bool {
        self.has(Flags::SYN) && !self.has(Flags::ACK)
    }

    /// The sequence number after the payload.
    pub(crate) fn payload_end(&self) -> Seq {
        self.seq + self.payload_len
    }

    /// The sequence number after the segment.
    pub(crate) fn end(&self) -> Seq {
        self.payload_end() + u32::from(self.has(Flags::SYN)) + u32::from(self.has(Flags::FIN))
    }
}

/// The IP fields that our packets copy from those of the host whose place we take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) hop_limit: u8,
    /// DSCP; the ECN bits are zero.
    pub(crate) traffic_class: u8,
    pub(crate) dont_fragment: bool,
}

/// The directions of a flow as indices.
pub(crate) fn side(leg: Leg) -> usize {
    match leg {
        Leg::Client => 0,
        Leg::Server => 1,
    }
}

fn upper(inner: &ip::Packet<'_>, inner_at: usize) -> (Upper, (u16, u16)) {
    let payload = inner.payload();
    if inner.fragment() == Fragment::Later {
        return (Upper::Other, (0, 0));
    }
    match inner.protocol() {
        // A first fragment that cuts the TCP header hides ports or flags from every filter on the way
        // (RFC 1858 §3): it is malformed like any other short header.
        Protocol::TCP => match Segment::parse(payload) {
            Ok(segment) => {
                let tcp = Tcp {
                    seq: segment.seq(),
                    ack: segment.ack(),
                    flags: segment.flags(),
                    window: segment.window(),
                    segment_at: inner_at + inner.payload_offset(),
                    payload_len: u32::try_from(segment.payload().len()).unwrap_or(u32::MAX),
                };
                (Upper::Tcp(tcp), (segment.src_port(), segment.dst_port()))
            }
            Err(_) => (Upper::BadTcp, (0, 0)),
        },
        Protocol::UDP => {
            let ports = payload
                .first_chunk::<4>()
                .map_or((0, 0), |[s0, s1, d0, d1]| {
                    (
                        u16::from_be_bytes([*s0, *s1]),
                        u16::from_be_bytes([*d0, *d1]),
                    )
                });
            (Upper::Other, ports)
        }
        Protocol::ICMP if inner.version() == Family::V4 => (Upper::Icmp, (0, 0)),
        Protocol::ICMPV6 if inner.version() == Family::V6 => (Upper::Icmp, (0, 0)),
        _ => (Upper::Other, (0, 0)),
    }
}

fn outer_reason(malformed: geneve::Malformed) -> DropReason {
    use geneve::Malformed as M;
    match malformed {
        M::Truncated => DropReason::GeneveTruncated,
        M::BadVersion => DropReason::GeneveBadVersion,
        M::OptionsTruncated => DropReason::GeneveOptionsTruncated,
        M::OptionTruncated => DropReason::GeneveOptionTruncated,
        M::BadOptionLength => DropReason::GeneveBadOptionLength,
        M::DuplicateOption => DropReason::GeneveDuplicateOption,
        M::UnknownCriticalOption => DropReason::GeneveUnknownCriticalOption,
        M::MissingEndpoint => DropReason::GeneveMissingEndpoint,
        M::MissingAttachment => DropReason::GeneveMissingAttachment,
        M::MissingCookie => DropReason::GeneveMissingCookie,
        M::BadProtocolType => DropReason::GeneveBadProtocolType,
        M::FamilyMismatch => DropReason::GeneveFamilyMismatch,
        M::InnerTruncated => DropReason::GeneveInnerTruncated,
    }
}

fn inner_reason(malformed: ip::Malformed) -> DropReason {
    match malformed {
        ip::Malformed::BadVersion => DropReason::GeneveFamilyMismatch,
        ip::Malformed::BadHeaderLength => DropReason::IpMalformed,
        ip::Malformed::Truncated => DropReason::GeneveInnerTruncated,
        ip::Malformed::ExtensionHeaderTruncated | ip::Malformed::TooManyExtensionHeaders => {
            DropReason::IpExtensionHeaders
        }
    }
}

/// The key's two ends of a packet.
pub(crate) fn end(addr: SocketAddr) -> (IpAddr, u16) {
    (addr.ip(), addr.port())
}
