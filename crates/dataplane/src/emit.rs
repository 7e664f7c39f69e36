//! Packets of our own making, inside the flow's newest GENEVE header.

use core::net::SocketAddr;
use std::collections::VecDeque;

use wire::icmp::{Cause, ErrorReply};
use wire::ip;
use wire::tcp::{Flags, Repr, Seq, Series, fill_checksum};

use crate::event::Outer;
use crate::flow::Flow;
use crate::legs::Outgoing;
use crate::seen::{Manner, Seen};
use crate::{FlowId, Leg};

/// One datagram that waits to be sent.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) bytes: Vec<u8>,
    pub(crate) outer: Outer,
    pub(crate) flow: Option<FlowId>,
    /// Who sent it, if it is a raw packet of a hooked flow.
    pub(crate) hooked: Option<Leg>,
}

/// Datagrams that wait for [`poll_transmit`](crate::Dataplane::poll_transmit): released ones, resets
/// and ICMP errors. Segments of legs are never here; they are made when there is room for them.
#[derive(Debug, Default)]
pub(crate) struct TransmitQueue {
    datagrams: VecDeque<Queued>,
    bytes: usize,
    limit: usize,
}

impl TransmitQueue {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Adds a datagram; answers whether there was room.
    pub(crate) fn push(&mut self, datagram: Queued) -> bool {
        if self.bytes + datagram.bytes.len() > self.limit {
            return false;
        }
        self.bytes += datagram.bytes.len();
        self.datagrams.push_back(datagram);
        true
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let datagram = self.datagrams.pop_front()?;
        self.bytes -= datagram.bytes.len();
        Some(datagram)
    }
}

/// Where a segment goes and what its IP header looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Face {
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) manner: Manner,
    pub(crate) ident: u16,
}

/// A whole datagram with a segment that carries no data.
fn segment(header: &[u8], face: &Face, repr: &Repr) -> Vec<u8> {
    let repr = Repr {
        src_port: face.src.port(),
        dst_port: face.dst.port(),
        ..*repr
    };
    let ip = ip::Repr {
        src: face.src.ip(),
        dst: face.dst.ip(),
        protocol: ip::Protocol::TCP,
        hop_limit: face.manner.hop_limit,
        traffic_class: face.manner.traffic_class,
        dont_fragment: face.manner.dont_fragment,
        ident: face.ident,
        payload_len: repr.header_len(),
    };
    let mut bytes = header.to_vec();
    bytes.resize(header.len() + ip.header_len() + repr.header_len(), 0);
    if let Some(packet) = bytes.get_mut(header.len()..) {
        ip.emit(packet);
        if let Some(tcp) = packet.get_mut(ip.header_len()..) {
            repr.emit(tcp);
            fill_checksum(tcp, face.src.ip(), face.dst.ip());
        }
    }
    bytes
}

/// Appends the datagrams of a run of segments to `out`: one encapsulation and one header for all of
/// them, `face.ident` for the first. Answers the length of each.
pub(crate) fn run(header: &[u8], face: &Face, outgoing: &Outgoing<'_>, out: &mut Vec<u8>) -> usize {
    let first = &outgoing.run.first;
    let (src, dst) = (face.src.ip(), face.dst.ip());
    let repr = Repr {
        src_port: face.src.port(),
        dst_port: face.dst.port(),
        ..first.repr
    };
    let series = Series::new(&repr, src, dst, first.payload_len);
    let mut ip = ip::Repr {
        src,
        dst,
        protocol: ip::Protocol::TCP,
        hop_limit: face.manner.hop_limit,
        traffic_class: face.manner.traffic_class,
        dont_fragment: face.manner.dont_fragment,
        ident: face.ident,
        payload_len: series.header_len() + first.payload_len,
    };
    let headers = header.len() + ip.header_len() + series.header_len();
    let len = headers + first.payload_len;
    out.reserve(len * outgoing.run.count);
    for transmit in outgoing.run.segments() {
        let start = out.len();
        out.extend_from_slice(header);
        out.resize(start + headers, 0);
        for part in outgoing.connection.payload(&transmit) {
            out.extend_from_slice(part);
        }
        if let Some(packet) = out.get_mut(start + header.len()..) {
            ip.emit(packet);
            if let Some(tcp) = packet.get_mut(ip.header_len()..) {
                series.emit(transmit.repr.seq, transmit.repr.flags, tcp);
            }
        }
        ip.ident = ip.ident.wrapping_add(1);
    }
    len
}

/// The RST that answers a segment so that its sender accepts it (RFC 9293 §3.10.7.1), or `None` for a
/// segment that is itself a RST.
pub(crate) fn reset_answer(seen: &Seen) -> Option<Repr> {
    let tcp = seen.tcp()?;
    if tcp.has(Flags::RST) {
        return None;
    }
    Some(if tcp.has(Flags::ACK) {
        Repr {
            seq: tcp.ack,
            flags: Flags::RST,
            ..Repr::default()
        }
    } else {
        Repr {
            seq: Seq(0),
            ack: tcp.end(),
            flags: Flags::RST.with(Flags::ACK),
            ..Repr::default()
        }
    })
}

/// A bare datagram with a segment that looks as if `face.src` had sent it.
pub(crate) fn bare(flow: &Flow, id: FlowId, face: &Face, repr: &Repr) -> Queued {
    Queued {
        bytes: segment(flow.header.bytes(), face, repr),
        outer: flow.outer,
        flow: Some(id),
        hooked: None,
    }
}

/// The ICMP error "administratively prohibited" for a packet, inside the packet's own GENEVE header;
/// it looks as if the destination had sent it, as a firewall's answer does.
pub(crate) fn prohibited(seen: &Seen, datagram: &[u8], outer: Outer, id: FlowId) -> Option<Queued> {
    let inner = ip::Packet::parse(seen.inner(datagram)).ok()?;
    let reply = ErrorReply::to(&inner, seen.dst.ip(), Cause::AdministrativelyProhibited)?;
    let header = seen.header(datagram);
    let mut bytes = Vec::with_capacity(header.len() + reply.packet_len());
    bytes.extend_from_slice(header);
    bytes.resize(header.len() + reply.packet_len(), 0);
    reply.emit(bytes.get_mut(header.len()..)?);
    Some(Queued {
        bytes,
        outer,
        flow: Some(id),
        hooked: None,
    })
}

/// The face of a segment to the peer of `to`, written in the manner of the other end.
pub(crate) fn face(flow: &Flow, to: Leg, manner: Manner, ident: u16) -> Face {
    let (src, dst) = match to {
        Leg::Client => (flow.server(), flow.client()),
        Leg::Server => (flow.client(), flow.server()),
    };
    Face {
        src,
        dst,
        manner,
        ident,
    }
}
