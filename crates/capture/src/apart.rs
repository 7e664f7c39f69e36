//! Tells the two sides of a flow apart within one file.
//!
//! Both have the same addresses and ports: readers of captures take them for one TCP connection, and
//! then neither decrypts. So in a file that has both, packets of the server's side are shown under
//! other addresses: IPv4 as IPv6 with the addresses mapped (RFC 4291 §2.5.5.2), which leaves the
//! checksums of what is inside right; IPv6 with the first bit of the client's address inverted.
//! Ports, sequence numbers and payload stay.

use wire::checksum;
use wire::ip::{self, Fragment};

/// What `::ffff:a.b.c.d` begins with.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
const IPV6_HEADER: usize = 40;
const FRAGMENT_HEADER: usize = 8;
const FRAGMENT: u8 = 44;

/// What an interface's description says about it.
pub(crate) const DESCRIPTION: &str = "; to keep it apart from the client side, IPv4 addresses are shown as ::ffff:a.b.c.d, and IPv6 clients with the first bit of their address inverted";

/// A packet of the server's side as it is shown beside the client's, and by how many bytes it grew.
/// None for what is no IP packet, or is cut within its header.
pub(crate) fn server_side(packet: &[u8], from_client: bool) -> Option<(Vec<u8>, u32)> {
    match packet.first()? >> 4 {
        4 => mapped(packet),
        6 => inverted(packet, from_client).map(|packet| (packet, 0)),
        _ => None,
    }
}

fn mapped(packet: &[u8]) -> Option<(Vec<u8>, u32)> {
    let header = packet.first_chunk::<20>()?;
    let header_len = usize::from(header[0] & 15) * 4;
    let total_len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let payload_len = total_len.checked_sub(header_len)?;
    let payload = packet.get(header_len..)?;
    let [id_high, id_low] = [header[4], header[5]];
    // In units of eight bytes, as in IPv6's own header.
    let place = u16::from_be_bytes([header[6], header[7]]);
    let is_fragment = place & 0x3fff != 0;
    let before = if is_fragment { FRAGMENT_HEADER } else { 0 };
    let protocol = header[9];
    let mut shown = Vec::with_capacity(IPV6_HEADER + before + payload.len());
    let traffic_class = u32::from(header[1]) << 20;
    shown.extend((0x6000_0000 | traffic_class).to_be_bytes());
    let len = u16::try_from(before + payload_len).unwrap_or(u16::MAX);
    shown.extend(len.to_be_bytes());
    shown.push(if is_fragment { FRAGMENT } else { protocol });
    shown.push(header[8]);
    for address in [&header[12..16], &header[16..20]] {
        shown.extend(MAPPED);
        shown.extend(address);
    }
    if is_fragment {
        let more = u16::from(place & 0x2000 != 0);
        shown.extend([protocol, 0]);
        shown.extend(((place & 0x1fff) << 3 | more).to_be_bytes());
        shown.extend([0, 0, id_high, id_low]);
    }
    shown.extend(payload);
    let grown = (IPV6_HEADER + before).saturating_sub(header_len);
    Some((shown, u32::try_from(grown).unwrap_or(0)))
}

fn inverted(packet: &[u8], from_client: bool) -> Option<Vec<u8>> {
    let at = if from_client { 8 } else { 24 };
    let old = u16::from_be_bytes(*packet.get(at..)?.first_chunk()?);
    let new = old ^ 0x8000;
    let mut shown = packet.to_vec();
    shown
        .get_mut(at..at + 2)?
        .copy_from_slice(&new.to_be_bytes());
    if let Some(place) = checksum_place(packet)
        && let Some(bytes) = shown.get_mut(place..place + 2)
    {
        let before = u16::from_be_bytes([bytes[0], bytes[1]]);
        bytes.copy_from_slice(&checksum::update(before, old, new).to_be_bytes());
    }
    Some(shown)
}

/// Where the checksum is that counts the addresses.
fn checksum_place(packet: &[u8]) -> Option<usize> {
    let read = ip::Packet::parse(packet).ok()?;
    if matches!(read.fragment(), Fragment::Later) {
        return None;
    }
    let within = match read.protocol().0 {
        6 => 16,
        17 => 6,
        58 => 2,
        _ => return None,
    };
    Some(read.payload_offset() + within)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use wire::ip::Packet;
    use wire::tcp::Segment;

    use super::*;

    fn tcp_is_right(packet: &[u8]) -> bool {
        let packet = Packet::parse(packet).unwrap();
        let segment = Segment::parse(packet.payload()).unwrap();
        segment.verify_checksum(packet.src(), packet.dst())
    }

    #[test]
    fn ipv4_is_mapped_with_its_checksums_right() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 5], [192, 0, 2, 1], 63)
            .tcp(50_000, 443, 7, 1000)
            .write(&mut packet, b"hello")
            .unwrap();
        let (shown, grown) = server_side(&packet, true).unwrap();
        assert_eq!(shown.len(), packet.len() + 20);
        assert_eq!(grown, 20);
        let read = Packet::parse(&shown).unwrap();
        assert_eq!(read.src().to_string(), "::ffff:10.1.0.5");
        assert_eq!(read.dst().to_string(), "::ffff:192.0.2.1");
        assert_eq!(read.hop_limit(), 63);
        assert!(tcp_is_right(&shown));
        assert_eq!(Segment::parse(read.payload()).unwrap().payload(), b"hello");
    }

    #[test]
    fn a_fragment_stays_one() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 5], [192, 0, 2, 1], 64)
            .udp(50_000, 53)
            .write(&mut packet, &[1; 64])
            .unwrap();
        packet[4..6].copy_from_slice(&[0xab, 0xcd]);
        packet[6..8].copy_from_slice(&(0x2000_u16 | 9).to_be_bytes());
        let (shown, grown) = server_side(&packet, true).unwrap();
        assert_eq!(grown, 28);
        let read = Packet::parse(&shown).unwrap();
        assert_eq!(read.fragment_offset(), 72);
        assert!(read.more_fragments());
        assert_eq!(read.fragment_ident(), Some(0xabcd));
        assert_eq!(read.protocol().0, 17);
    }

    #[test]
    fn ipv6_keeps_its_server_and_its_checksums() {
        let (client, server) = ([0x20; 16], [0xfd; 16]);
        let mut there = Vec::new();
        PacketBuilder::ipv6(client, server, 64)
            .tcp(50_000, 443, 7, 1000)
            .write(&mut there, b"hello")
            .unwrap();
        let mut back = Vec::new();
        PacketBuilder::ipv6(server, client, 64)
            .tcp(443, 50_000, 7, 1000)
            .write(&mut back, b"hello")
            .unwrap();
        for (packet, from_client) in [(there, true), (back, false)] {
            let (shown, _) = server_side(&packet, from_client).unwrap();
            assert!(tcp_is_right(&shown));
            let read = Packet::parse(&shown).unwrap();
            let ends = if from_client {
                [read.src(), read.dst()]
            } else {
                [read.dst(), read.src()]
            };
            assert!(ends[0].to_string().starts_with("a020:"), "{ends:?}");
            assert!(ends[1].to_string().starts_with("fdfd:"), "{ends:?}");
        }
    }

    #[test]
    fn threat_75_whatever_is_cut_or_broken_makes_no_panic() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 1, 0, 5], [192, 0, 2, 1], 64)
            .tcp(50_000, 443, 7, 1000)
            .write(&mut packet, b"hello")
            .unwrap();
        let mut other = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 64)
            .tcp(50_000, 443, 7, 1000)
            .write(&mut other, b"hello")
            .unwrap();
        for packet in [packet, other] {
            for len in 0..packet.len() {
                for byte in [0, 0xff] {
                    let mut cut = packet[..len].to_vec();
                    let _ = server_side(&cut, true);
                    for at in 1..len.min(41) {
                        let kept = std::mem::replace(&mut cut[at], byte);
                        let _ = server_side(&cut, at % 2 == 0);
                        cut[at] = kept;
                    }
                }
            }
        }
    }
}
