//! Fragments of taken-over connections, put together within bounds.
//!
//! A fragment that belongs to no intercepted connection passes as it came. Later fragments name no
//! ports, so whether they are needed is known only through their first one. IPv4's header checksum is
//! not made right for the whole: nobody reads it from here on.

use core::net::IpAddr;
use core::time::Duration;
use std::collections::VecDeque;

use wire::gwlb::VpcEndpointId;
use wire::ip;

use crate::seen::Seen;
use crate::{Instant, Protocol};

/// Packets in pieces at once.
const MAX_PACKETS: usize = 32;
/// Pieces of one packet.
const MAX_PIECES: usize = 64;
/// RFC 8200 §4.5 allows 60 s, RFC 1122 §3.3.2 the same; Linux takes 30 s.
const LIFETIME: Duration = Duration::from_secs(30);
/// The largest payload that the 13-bit offset can place, less what no interface here carries.
const MAX_PAYLOAD: usize = 32 * 1024;

/// What pieces of one packet share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    endpoint: VpcEndpointId,
    src: IpAddr,
    dst: IpAddr,
    protocol: Protocol,
    ident: u32,
}

#[derive(Debug)]
struct Partial {
    name: Name,
    since: Instant,
    /// Offset and bytes, in order and without overlap.
    pieces: Vec<(usize, Vec<u8>)>,
    /// The payload's length, known with the last piece.
    total: Option<usize>,
    /// Up to and including the IPv4 or IPv6 fixed header of the first piece.
    head: Option<Vec<u8>>,
    /// Overlapping pieces came: nothing of this packet is used (RFC 5722 §4).
    is_spoilt: bool,
}

/// Packets that came in pieces, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Fragments {
    partials: VecDeque<Partial>,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Kept until the others come.
    Kept,
    /// The last one that was missing: the whole datagram, unfragmented.
    Whole(Vec<u8>),
    /// Too many, too large, overlapping.
    Refused,
}

impl Fragments {
    /// The pieces' common name.
    pub(crate) fn name(seen: &Seen, datagram: &[u8]) -> Option<Name> {
        let packet = ip::Packet::parse(seen.inner(datagram)).ok()?;
        Some(Name {
            endpoint: seen.endpoint,
            src: packet.src(),
            dst: packet.dst(),
            protocol: packet.protocol(),
            ident: packet.fragment_ident()?,
        })
    }

    /// Whether the first piece of this piece's packet is here.
    pub(crate) fn has_first(&self, seen: &Seen, datagram: &[u8]) -> bool {
        Self::name(seen, datagram).is_some_and(|name| {
            let mut same = self.partials.iter().filter(|partial| partial.name == name);
            same.any(|partial| partial.head.is_some())
        })
    }

    /// Adds a piece.
    pub(crate) fn add(&mut self, name: Name, seen: &Seen, datagram: &[u8], now: Instant) -> Piece {
        let Ok(packet) = ip::Packet::parse(seen.inner(datagram)) else {
            return Piece::Refused;
        };
        let offset = usize::from(packet.fragment_offset());
        let payload = packet.payload();
        let end = offset + payload.len();
        if end > MAX_PAYLOAD || payload.is_empty() {
            return Piece::Refused;
        }
        let at = match self
            .partials
            .iter()
            .position(|partial| partial.name == name)
        {
            Some(at) => at,
            None => {
                if self.partials.len() >= MAX_PACKETS {
                    self.partials.pop_front();
                }
                self.partials.push_back(Partial {
                    name,
                    since: now,
                    pieces: Vec::new(),
                    total: None,
                    head: None,
                    is_spoilt: false,
                });
                self.partials.len() - 1
            }
        };
        let Some(partial) = self.partials.get_mut(at) else {
            return Piece::Refused;
        };
        if !partial.insert(offset, payload) {
            return Piece::Refused;
        }
        if !packet.more_fragments() {
            partial.total = Some(end);
        }
        if offset == 0 {
            let fixed = match packet.version() {
                ip::Family::V4 => packet.payload_offset(),
                ip::Family::V6 => ip::V6_HEADER_LEN,
            };
            partial.head = datagram.get(..seen.inner_at + fixed).map(<[u8]>::to_vec);
        }
        let Some(whole) = partial.whole(seen.inner_at) else {
            return Piece::Kept;
        };
        self.partials.remove(at);
        Piece::Whole(whole)
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(partial) = self.partials.front() {
            if partial.since + LIFETIME > now {
                return;
            }
            self.partials.pop_front();
        }
    }

    /// When [`Fragments::expire`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        Some(self.partials.front()?.since + LIFETIME)
    }

    /// Memory that the pieces take.
    pub(crate) fn bytes(&self) -> usize {
        let pieces = self.partials.iter().flat_map(|partial| &partial.pieces);
        pieces.map(|(_, bytes)| bytes.len()).sum()
    }
}

impl Partial {
    fn insert(&mut self, offset: usize, payload: &[u8]) -> bool {
        if self.is_spoilt || self.pieces.len() >= MAX_PIECES {
            return false;
        }
        let end = offset + payload.len();
        let overlaps = |(at, bytes): &(usize, Vec<u8>)| *at < end && offset < at + bytes.len();
        if let Some(known) = self.pieces.iter().find(|piece| overlaps(piece)) {
            // The same piece twice is only a duplicate.
            if known.0 != offset || known.1 != payload {
                self.is_spoilt = true;
                self.pieces.clear();
            }
            return !self.is_spoilt;
        }
        let at = self.pieces.partition_point(|(other, _)| *other < offset);
        self.pieces.insert(at, (offset, payload.to_vec()));
        true
    }

    /// The whole datagram, if all of it is here.
    fn whole(&self, inner_at: usize) -> Option<Vec<u8>> {
        let (total, head) = (self.total?, self.head.as_ref()?);
        let mut payload = Vec::with_capacity(total);
        for (offset, bytes) in &self.pieces {
            if *offset != payload.len() {
                return None;
            }
            payload.extend_from_slice(bytes);
        }
        if payload.len() != total {
            return None;
        }
        let mut datagram = head.clone();
        let header = datagram.get_mut(inner_at..)?;
        let header_len = header.len();
        match header.first()? >> 4 {
            4 => {
                let len = u16::try_from(header_len + total).ok()?.to_be_bytes();
                header.get_mut(2..4)?.copy_from_slice(&len);
                // No offset, no more fragments.
                let [flags, rest] = header.get_mut(6..8)? else {
                    return None;
                };
                (*flags, *rest) = (*flags & 0x40, 0);
            }
            _ => {
                let len = u16::try_from(total).ok()?.to_be_bytes();
                header.get_mut(4..6)?.copy_from_slice(&len);
                // The headers between the fixed one and the payload said only how to get here.
                *header.get_mut(6)? = self.name.protocol.0;
            }
        }
        datagram.extend_from_slice(&payload);
        Some(datagram)
    }
}
