//! UDP datagrams: every malformed one, and etherparse as the oracle.

use etherparse::UdpHeader;
use proptest::prelude::*;

use super::*;

const SRC: [u8; 4] = [10, 0, 0, 1];
const DST: [u8; 4] = [192, 0, 2, 1];

#[test]
fn every_malformed_datagram_has_its_own_reason() {
    let cases = [
        (vec![0; 7], Malformed::Truncated),
        (vec![0, 1, 0, 2, 0, 9, 0, 0], Malformed::Truncated),
        (vec![0, 1, 0, 2, 0, 7, 0, 0], Malformed::BadLength),
    ];
    for (bytes, reason) in &cases {
        assert_eq!(Datagram::parse(bytes).unwrap_err(), *reason);
    }
    for reason in Malformed::ALL {
        assert!(
            cases.iter().any(|case| case.1 == reason),
            "{reason:?} is not reached"
        );
    }
}

#[test]
fn bytes_behind_the_length_field_are_cut() {
    let bytes = [0, 1, 0, 2, 0, 9, 0, 0, 7, 8, 9];
    assert_eq!(Datagram::parse(&bytes).unwrap().payload(), [7]);
}

#[test]
fn no_checksum_is_right_in_ipv4_and_wrong_in_ipv6() {
    let bytes = [0, 1, 0, 2, 0, 8, 0, 0];
    let datagram = Datagram::parse(&bytes).unwrap();
    assert!(datagram.verify_checksum(SRC.into(), DST.into()));
    assert!(!datagram.verify_checksum([1u8; 16].into(), [2u8; 16].into()));
}

#[test]
fn a_checksum_that_computes_to_zero_is_sent_as_all_ones() {
    // Chosen so that pseudo header, header and payload sum to 0xffff.
    let mut bytes = [0u8; 10];
    let repr = Repr {
        src_port: 0,
        dst_port: 0,
    };
    repr.emit(&mut bytes, [0u8; 4].into(), [0u8; 4].into());
    let sum = !Datagram::parse(&bytes).unwrap().checksum();
    bytes[8..].copy_from_slice(&(0xffff - sum).to_be_bytes());
    repr.emit(&mut bytes, [0u8; 4].into(), [0u8; 4].into());
    let datagram = Datagram::parse(&bytes).unwrap();
    assert_eq!(datagram.checksum(), 0xffff);
    assert!(datagram.verify_checksum([0u8; 4].into(), [0u8; 4].into()));
}

proptest! {
    #[test]
    fn what_emit_writes_is_what_etherparse_writes(
        src_port: u16, dst_port: u16, src: [u8; 16], dst: [u8; 16], v6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (src4, dst4) = ([src[0], src[1], src[2], src[3]], [dst[0], dst[1], dst[2], dst[3]]);
        let (src_ip, dst_ip): (IpAddr, IpAddr) =
            if v6 { (src.into(), dst.into()) } else { (src4.into(), dst4.into()) };
        let mut bytes = [vec![0xaa; HEADER_LEN], payload.clone()].concat();
        let repr = Repr { src_port, dst_port };
        repr.emit(&mut bytes, src_ip, dst_ip);
        let datagram = Datagram::parse(&bytes).unwrap();
        prop_assert_eq!(datagram.repr(), repr);
        prop_assert_eq!(datagram.payload(), payload.as_slice());
        prop_assert!(datagram.verify_checksum(src_ip, dst_ip));
        let oracle = if v6 {
            let header = etherparse::Ipv6Header { source: src, destination: dst, ..Default::default() };
            UdpHeader::with_ipv6_checksum(src_port, dst_port, &header, &payload).unwrap()
        } else {
            let header = etherparse::Ipv4Header::new(0, 64, etherparse::ip_number::UDP, src4, dst4).unwrap();
            UdpHeader::with_ipv4_checksum(src_port, dst_port, &header, &payload).unwrap()
        };
        let oracle = oracle.to_bytes();
        prop_assert_eq!(&bytes[..8], &oracle[..]);
    }

    #[test]
    fn random_bytes_never_panic(noise in prop::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(datagram) = Datagram::parse(&noise) {
            let _ = datagram.verify_checksum(SRC.into(), DST.into());
            prop_assert!(datagram.payload().len() + HEADER_LEN <= noise.len());
        }
    }
}
