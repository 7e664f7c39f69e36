//! IP packets: hand-made vectors, round trips, etherparse as the oracle.

use etherparse::{IpNumber, Ipv4Header, NetSlice, PacketBuilder, SlicedPacket};
use proptest::prelude::*;

use super::*;

#[test]
fn ipv4_header_fields_are_where_rfc_791_puts_them() {
    let mut bytes = vec![
        0x45, 0xb9, 0x00, 0x18, 0x12, 0x34, 0x40, 0x00, 0x3f, 0x06, 0, 0, 10, 0, 0, 1, 192, 0, 2,
        9, 1, 2, 3, 4, 0xee, 0xee,
    ];
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(packet.version(), Family::V4);
    assert_eq!(packet.traffic_class(), 0xb9);
    assert_eq!(packet.total_len(), 24);
    assert_eq!(packet.ident(), 0x1234);
    assert!(packet.dont_fragment());
    assert_eq!(packet.fragment(), Fragment::Whole);
    assert_eq!(packet.hop_limit(), 63);
    assert_eq!(packet.protocol(), Protocol::TCP);
    assert_eq!(packet.src().to_string(), "10.0.0.1");
    assert_eq!(packet.dst().to_string(), "192.0.2.9");
    assert_eq!(packet.payload(), [1, 2, 3, 4], "padding is cut");
    assert_eq!(packet.payload_offset(), 20);
    assert!(!packet.verify_checksum());
    let checksum = Sum::new().add_bytes(&bytes[..20]).checksum();
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    assert!(Packet::parse(&bytes).unwrap().verify_checksum());
}

#[test]
fn ipv4_options_are_skipped_over() {
    let bytes = v4(7, 0, &[9; 12]);
    let packet = Packet::parse(&bytes).unwrap();
    assert!(packet.has_options());
    assert_eq!(packet.payload_offset(), 28);
    assert_eq!(packet.payload(), [9; 12]);
}

#[test]
fn gwlb_c06_fragments_are_told_apart_and_df_with_mf_is_accepted() {
    for (flags, fragment, offset, more) in [
        (0x0000u16, Fragment::Whole, 0, false),
        (0x4000, Fragment::Whole, 0, false),
        (0x8000, Fragment::Whole, 0, false),
        (0x2000, Fragment::First, 0, true),
        (0x6000, Fragment::First, 0, true),
        (0x6001, Fragment::Later, 8, true),
        (0x0455, Fragment::Later, 0x455 * 8, false),
        (0x5fff, Fragment::Later, 65_528, false),
    ] {
        let bytes = v4(5, flags, &[0; 8]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.fragment(), fragment, "{flags:04x}");
        assert_eq!(packet.fragment_offset(), offset);
        assert_eq!(packet.more_fragments(), more);
    }
}

#[test]
fn ipv6_extension_headers_are_walked_to_the_upper_layer() {
    let hop_by_hop = [43, 0, 1, 4, 0, 0, 0, 0];
    let routing = [51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    // Length 4: (4 + 2) * 4 = 24 bytes.
    let mut authentication = [0u8; 24];
    authentication[..2].copy_from_slice(&[60, 4]);
    let destination = [6, 0, 1, 4, 0, 0, 0, 0];
    let payload = [7u8; 20];
    let parts: [&[u8]; 5] = [
        &hop_by_hop,
        &routing,
        &authentication,
        &destination,
        &payload,
    ];
    let bytes = v6(0, &parts.concat());
    let packet = Packet::parse(&bytes).unwrap();
    assert!(packet.has_extension_headers());
    assert_eq!(packet.protocol(), Protocol::TCP);
    assert_eq!(packet.payload(), payload);
    assert_eq!(packet.payload_offset(), 40 + 8 + 16 + 24 + 8);
    assert_eq!(packet.fragment(), Fragment::Whole);
    assert!(packet.dont_fragment());
}

#[test]
fn gwlb_c06_ipv6_fragments_are_told_apart() {
    for (field, fragment) in [
        (0u16, Fragment::Whole),
        (1, Fragment::First),
        (8, Fragment::Later),
        (9, Fragment::Later),
    ] {
        let [hi, lo] = field.to_be_bytes();
        // A destination options header in the payload: walked in the first fragment only.
        let bytes = v6(
            44,
            &[60, 0, hi, lo, 0, 0, 0, 5, 17, 0, 1, 4, 0, 0, 0, 0, 1, 1],
        );
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.fragment(), fragment);
        assert_eq!(packet.fragment_ident(), Some(5));
        let later = fragment == Fragment::Later;
        assert_eq!(packet.protocol(), Protocol(if later { 60 } else { 17 }));
        assert_eq!(packet.payload().len(), if later { 10 } else { 2 });
    }
}

#[test]
fn esp_and_no_next_header_end_the_chain() {
    for next in [50, 59] {
        let bytes = v6(next, &[0; 8]);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.protocol(), Protocol(next));
        assert!(!packet.has_extension_headers());
    }
}

#[test]
fn every_malformed_packet_has_its_own_reason() {
    let good = v4(5, 0, &[0; 8]);
    let edit = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let long_chain = [[60u8, 0, 1, 4, 0, 0, 0, 0].as_slice(); MAX_EXTENSION_HEADERS + 1].concat();
    let cases = [
        (vec![], Malformed::Truncated),
        (good[..19].to_vec(), Malformed::Truncated),
        (good[..27].to_vec(), Malformed::Truncated),
        (v6(17, &[0; 9])[..39].to_vec(), Malformed::Truncated),
        (v6(17, &[0; 9])[..48].to_vec(), Malformed::Truncated),
        (edit(0, 0x55), Malformed::BadVersion),
        (edit(0, 0x44), Malformed::BadHeaderLength),
        (edit(0, 0x4f), Malformed::BadHeaderLength),
        (edit(3, 19), Malformed::BadHeaderLength),
        (v6(0, &[6, 0, 0]), Malformed::ExtensionHeaderTruncated),
        (
            v6(0, &[6, 1, 0, 0, 0, 0, 0, 0]),
            Malformed::ExtensionHeaderTruncated,
        ),
        (v6(60, &long_chain), Malformed::TooManyExtensionHeaders),
    ];
    for (bytes, reason) in &cases {
        assert_eq!(Packet::parse(bytes).unwrap_err(), *reason, "{bytes:02x?}");
    }
    for reason in Malformed::ALL {
        assert!(
            cases.iter().any(|case| case.1 == reason),
            "{reason:?} is not reached"
        );
    }
}

#[test]
fn a_chain_at_the_limit_is_walked() {
    let mut chain = [60u8, 0, 1, 4, 0, 0, 0, 0].repeat(MAX_EXTENSION_HEADERS);
    let last = chain.len() - 8;
    chain[last] = 17;
    let bytes = v6(60, &chain);
    assert_eq!(Packet::parse(&bytes).unwrap().protocol(), Protocol::UDP);
}

proptest! {
    #[test]
    fn what_emit_writes_parse_and_etherparse_read(
        src: [u8; 16], dst: [u8; 16], v6: bool, protocol in 61u8..130, hop_limit: u8,
        traffic_class: u8, dont_fragment: bool, ident: u16,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let addr = |octets: [u8; 16]| if v6 {
            IpAddr::from(octets)
        } else {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        };
        let repr = Repr {
            src: addr(src), dst: addr(dst), protocol: Protocol(protocol), hop_limit, traffic_class,
            dont_fragment, ident, payload_len: payload.len(),
        };
        let mut bytes = vec![0xaa; repr.header_len()];
        repr.emit(&mut bytes);
        bytes.extend(&payload);
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(packet.src(), repr.src);
        prop_assert_eq!(packet.dst(), repr.dst);
        prop_assert_eq!(packet.protocol(), repr.protocol);
        prop_assert_eq!(packet.hop_limit(), hop_limit);
        prop_assert_eq!(packet.traffic_class(), traffic_class);
        prop_assert_eq!(packet.dont_fragment(), dont_fragment || v6);
        prop_assert_eq!(packet.ident(), if v6 { 0 } else { ident });
        prop_assert_eq!(packet.payload(), payload.as_slice());
        prop_assert!(packet.verify_checksum());
        match SlicedPacket::from_ip(&bytes).unwrap().net.unwrap() {
            NetSlice::Ipv4(oracle) => {
                let header = oracle.header().to_header();
                prop_assert_eq!(IpAddr::from(header.source), repr.src);
                prop_assert_eq!(header.header_checksum, header.calc_header_checksum());
                prop_assert_eq!(header.protocol, IpNumber(protocol));
                prop_assert_eq!(header.time_to_live, hop_limit);
                prop_assert_eq!(header.dont_fragment, dont_fragment);
                prop_assert_eq!(oracle.payload().payload, payload.as_slice());
            }
            NetSlice::Ipv6(oracle) => {
                let header = oracle.header().to_header();
                prop_assert_eq!(IpAddr::from(header.destination), repr.dst);
                prop_assert_eq!(header.traffic_class, traffic_class);
                prop_assert_eq!(header.hop_limit, hop_limit);
                prop_assert_eq!(oracle.payload().payload, payload.as_slice());
            }
            NetSlice::Arp(_) => prop_assert!(false, "no IP packet"),
        }
    }

    #[test]
    fn etherparse_reads_random_ipv4_headers_alike(
        mut bytes in prop::collection::vec(any::<u8>(), 20..120),
        words in 4u8..16,
        total in 0u16..140,
    ) {
        bytes[0] = 0x40 | words;
        bytes[2..4].copy_from_slice(&total.to_be_bytes());
        let ours = Packet::parse(&bytes);
        let oracle = etherparse::Ipv4HeaderSlice::from_slice(&bytes);
        if let (Ok(ours), Ok(oracle)) = (&ours, &oracle) {
            let header: Ipv4Header = oracle.to_header();
            prop_assert_eq!(ours.payload_offset(), header.header_len());
            prop_assert_eq!(ours.fragment_offset(), header.fragment_offset.byte_offset());
            prop_assert_eq!(ours.more_fragments(), header.more_fragments);
            prop_assert_eq!(ours.dont_fragment(), header.dont_fragment);
            prop_assert_eq!(ours.total_len(), usize::from(header.total_len));
        }
        // Whatever the oracle refuses, we refuse.
        prop_assert!(oracle.is_ok() || ours.is_err());
    }

    #[test]
    fn random_bytes_and_bit_flips_never_panic(
        mut noise in prop::collection::vec(any::<u8>(), 1..200),
        version in prop::sample::select(vec![4u8, 6]),
        flips in prop::collection::vec((0usize..68, 0u8..8), 0..6),
    ) {
        noise[0] = version << 4 | noise[0] & 0x0f;
        let _ = Packet::parse(&noise);
        let mut bytes = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 3).udp(1, 2).write(&mut bytes, &[0; 20]).unwrap();
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert_eq!(packet.payload_offset() + packet.payload().len(), packet.total_len());
            prop_assert!(packet.total_len() <= bytes.len());
            let _ = (packet.src(), packet.dst(), packet.verify_checksum(), packet.flow_label());
        }
    }
}

fn v4(header_words: u8, flags_and_offset: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(header_words) * 4];
    let total = (bytes.len() + payload.len()) as u16;
    bytes[0] = 0x40 | header_words;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[6..8].copy_from_slice(&flags_and_offset.to_be_bytes());
    bytes[9] = 17;
    bytes.extend(payload);
    bytes
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 40];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    bytes[6] = next_header;
    bytes.extend(payload);
    bytes
}
