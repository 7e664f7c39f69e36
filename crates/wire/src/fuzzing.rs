//! What the fuzz targets in `fuzz/` run, one function for each parser, and what the replay of their
//! committed corpora runs in the ordinary tests.
//!
//! Each reads everything that a view offers and checks what must hold between the parts.
#![expect(
    clippy::missing_panics_doc,
    reason = "panicking is how a fuzz target reports a bug"
)]

use core::hint::black_box;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{geneve, icmp, ip, tcp, udp};

const ADDRS: [(IpAddr, ip::Family); 2] = [
    (IpAddr::V4(Ipv4Addr::LOCALHOST), ip::Family::V4),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), ip::Family::V6),
];

/// A UDP payload received on port 6081; goes on into the inner packet.
pub fn geneve(bytes: &[u8]) {
    let Ok(packet) = geneve::Packet::parse(bytes) else {
        return;
    };
    assert!(packet.header().len() <= geneve::MAX_HEADER_LEN);
    assert_eq!(packet.header().len() + packet.inner().len(), bytes.len());
    black_box((
        packet.endpoint(),
        packet.attachment(),
        packet.cookie(),
        packet.oddities(),
    ));
    if let Ok(inner) = ip::Packet::parse(packet.inner()) {
        assert_eq!(inner.version(), packet.family());
    }
    ip(packet.inner());
}

/// An IP packet; goes on into TCP, UDP or ICMP, and answers it with an ICMP error.
pub fn ip(bytes: &[u8]) {
    let Ok(packet) = ip::Packet::parse(bytes) else {
        return;
    };
    assert!(packet.total_len() <= bytes.len());
    assert_eq!(
        packet.payload_offset() + packet.payload().len(),
        packet.total_len()
    );
    assert_eq!(
        packet.fragment() == ip::Fragment::Later,
        packet.fragment_offset() != 0
    );
    black_box((
        packet.src(),
        packet.dst(),
        packet.verify_checksum(),
        packet.flow_label(),
    ));
    let mut buffer = [0; icmp::MAX_V6_ERROR_LEN];
    for (src, _) in ADDRS {
        if let Some(reply) = icmp::ErrorReply::to(&packet, src, icmp::Cause::TimeExceeded) {
            reply.emit(&mut buffer);
            let answer = ip::Packet::parse(&buffer).map(|answer| answer.total_len());
            assert_eq!(answer, Ok(reply.packet_len()));
        }
    }
    if packet.fragment() == ip::Fragment::Later {
        return;
    }
    match packet.protocol() {
        ip::Protocol::TCP => tcp(packet.payload()),
        ip::Protocol::UDP => udp(packet.payload()),
        ip::Protocol::ICMP | ip::Protocol::ICMPV6 => icmp(packet.payload()),
        _ => {}
    }
}

/// A TCP segment; edits a copy in place too.
pub fn tcp(bytes: &[u8]) {
    let Ok(segment) = tcp::Segment::parse(bytes) else {
        return;
    };
    assert_eq!(segment.header_len() + segment.payload().len(), bytes.len());
    let repr = segment.repr();
    let mut header = [0; tcp::MAX_HEADER_LEN];
    repr.emit(&mut header);
    let again = tcp::Segment::parse(&header).map(|header| header.repr());
    // SACK blocks may have to give way to padding; all else survives.
    assert_eq!(
        again.map(|again| again.options.timestamps),
        Ok(repr.options.timestamps)
    );
    let sound = segment.verify_checksum(ADDRS[0].0, ADDRS[0].0);
    let mut copy = bytes.to_vec();
    tcp::edit::nop_out(&mut copy, |kind, _| kind > 8);
    tcp::edit::clamp_mss(&mut copy, 1220);
    tcp::edit::clear_accurate_ecn(&mut copy);
    let edited =
        tcp::Segment::parse(&copy).map(|segment| segment.verify_checksum(ADDRS[0].0, ADDRS[0].0));
    assert_eq!(
        edited,
        Ok(sound),
        "an edit changed whether the checksum is right"
    );
    tcp::edit::cut_payload(&mut copy);
}

/// A UDP datagram.
pub fn udp(bytes: &[u8]) {
    let Ok(datagram) = udp::Datagram::parse(bytes) else {
        return;
    };
    assert!(udp::HEADER_LEN + datagram.payload().len() <= bytes.len());
    black_box((
        datagram.repr(),
        datagram.verify_checksum(ADDRS[0].0, ADDRS[0].0),
    ));
}

/// An ICMP message, as of either family.
pub fn icmp(bytes: &[u8]) {
    for (addr, family) in ADDRS {
        let Ok(message) = icmp::Message::parse(bytes, family) else {
            return;
        };
        assert!(message.is_error() || message.quoted().is_none());
        black_box((message.kind(), message.verify_checksum(addr, addr)));
    }
}
