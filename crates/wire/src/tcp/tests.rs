//! Segments: hand-made vectors, round trips, etherparse as the oracle, edits in place.

use core::net::IpAddr;

use etherparse::{PacketBuilder, TcpHeader, TcpHeaderSlice, TcpOptionElement};
use proptest::prelude::*;

use super::edit;
use super::*;
use crate::ip;

const SRC: [u8; 4] = [10, 0, 0, 1];
const DST: [u8; 4] = [192, 0, 2, 1];
const SRC6: [u8; 16] = [0xfd; 16];
const DST6: [u8; 16] = [0x20; 16];

#[test]
fn every_malformed_segment_has_its_own_reason() {
    let mut short = vec![0; 23];
    short[12] = 0x60;
    let mut tiny = vec![0; 20];
    tiny[12] = 0x40;
    let cases = [
        (vec![0; 19], Malformed::Truncated),
        (short, Malformed::Truncated),
        (tiny, Malformed::BadHeaderLength),
    ];
    for (bytes, reason) in &cases {
        assert_eq!(Segment::parse(bytes).unwrap_err(), *reason);
    }
    for reason in Malformed::ALL {
        assert!(
            cases.iter().any(|case| case.1 == reason),
            "{reason:?} is not reached"
        );
    }
}

#[test]
fn a_syn_has_its_options_in_the_order_of_linux() {
    let repr = Repr {
        flags: Flags::SYN,
        options: Options {
            mss: Some(1460),
            window_scale: Some(7),
            sack_permitted: true,
            timestamps: Some(Timestamps { tsval: 1, tsecr: 0 }),
            sack: [None; 4],
        },
        ..Repr::default()
    };
    let mut bytes = vec![0xaa; repr.header_len()];
    repr.emit(&mut bytes);
    assert_eq!(
        bytes[20..],
        [
            2, 4, 0x05, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7
        ]
    );
}

#[test]
fn three_sack_blocks_fit_beside_timestamps_and_four_alone() {
    let block = Some(SackBlock {
        left: Seq(1),
        right: Seq(2),
    });
    let mut options = Options {
        sack: [block; 4],
        ..Options::default()
    };
    assert_eq!(options.len(), 36);
    options.timestamps = Some(Timestamps { tsval: 1, tsecr: 2 });
    assert_eq!(options.len(), 40);
    let repr = Repr {
        flags: Flags::ACK,
        options,
        ..Repr::default()
    };
    let mut bytes = vec![0; repr.header_len()];
    repr.emit(&mut bytes);
    let parsed = Segment::parse(&bytes).unwrap().repr();
    assert_eq!(parsed.options.sack, [block, block, block, None]);
}

#[test]
fn unknown_options_are_iterated_and_malformed_ones_end_the_walk() {
    let with = |options: &[u8]| {
        let mut bytes = vec![0; 20];
        bytes[12] = (((20 + options.len()) / 4) << 4) as u8;
        bytes.extend(options);
        bytes
    };
    let bytes = with(&[1, 99, 4, 7, 8, 30, 2, 0, 34, 2, 1, 1]);
    let options: Vec<_> = Segment::parse(&bytes).unwrap().options().collect();
    assert_eq!(
        options,
        [(99, &[7, 8][..]), (30, &[][..])],
        "nothing follows the end of the list"
    );
    for malformed in [[99, 1, 0, 0], [99, 0, 0, 0], [99, 5, 0, 0], [1, 1, 1, 99]] {
        let bytes = with(&malformed);
        let mut options = Segment::parse(&bytes).unwrap().options();
        assert_eq!(options.next(), None);
        assert!(options.is_malformed(), "{malformed:?}");
    }
}

#[test]
fn syn_options_count_on_a_syn_only() {
    let repr = Repr {
        flags: Flags::ACK,
        options: Options {
            mss: Some(9),
            window_scale: Some(1),
            sack_permitted: true,
            ..Options::default()
        },
        ..Repr::default()
    };
    let mut bytes = vec![0; repr.header_len()];
    repr.emit(&mut bytes);
    assert!(Segment::parse(&bytes).unwrap().repr().options.is_empty());
}

#[test]
fn fast_open_and_multipath_options_become_nops_and_checksums_stay_right() {
    for v6 in [false, true] {
        let mut packet = syn(
            v6,
            &[30, 4, 1, 2, 1, 34, 6, 9, 9, 9, 9, 2, 4, 5, 0xb4, 0],
            b"early",
        );
        let at = if v6 { 40 } else { 20 };
        let count = edit::nop_out(&mut packet[at..], |kind, data| {
            kind == kind::MPTCP || kind == kind::FAST_OPEN && data == [9; 4]
        });
        assert_eq!(count, 2);
        let view = ip::Packet::parse(&packet).unwrap();
        let segment = Segment::parse(view.payload()).unwrap();
        assert!(segment.verify_checksum(view.src(), view.dst()));
        assert_eq!(
            segment.options().collect::<Vec<_>>(),
            [(kind::MSS, &[5, 0xb4][..])]
        );
        assert_eq!(packet[at + 20..at + 31], [1; 11]);
        assert_eq!(
            edit::nop_out(&mut packet[at..], |kind, _| kind == kind::MPTCP),
            0
        );
    }
}

#[test]
fn gwlb_c02_the_mss_is_lowered_at_even_and_odd_offsets_and_never_raised() {
    for options in [&[2, 4, 0x23, 0x00][..], &[1, 2, 4, 0x23, 0x00, 0, 0, 0]] {
        let mut packet = syn(false, options, b"");
        assert_eq!(edit::clamp_mss(&mut packet[20..], 8460), Some(0x2300));
        let segment = Segment::parse(&packet[20..]).unwrap();
        assert_eq!(segment.repr().options.mss, Some(8460));
        assert!(segment.verify_checksum(SRC.into(), DST.into()));
        let before = packet.clone();
        assert_eq!(edit::clamp_mss(&mut packet[20..], 8461), None);
        assert_eq!(packet, before);
    }
    let mut without = syn(false, &[], b"");
    assert_eq!(edit::clamp_mss(&mut without[20..], 1000), None);
}

#[test]
fn accurate_ecn_becomes_classic_ecn() {
    let mut packet = syn(false, &[], b"");
    packet[32] |= 1;
    packet[33] |= 0xc0;
    fill_checksum(&mut packet[20..], SRC.into(), DST.into());
    assert!(edit::clear_accurate_ecn(&mut packet[20..]));
    let segment = Segment::parse(&packet[20..]).unwrap();
    assert!(segment.verify_checksum(SRC.into(), DST.into()));
    assert_eq!(
        segment.flags(),
        Flags::SYN.with(Flags::ECE).with(Flags::CWR)
    );
    assert!(!edit::clear_accurate_ecn(&mut packet[20..]));
}

#[test]
fn a_syns_payload_is_cut_with_lengths_and_checksums_right() {
    for v6 in [false, true] {
        for payload in [&b"hello"[..], b"hello!", b""] {
            let mut packet = syn(v6, &[2, 4, 5, 0xb4], payload);
            packet.extend([0xee; 6]);
            let cut = edit::cut_payload(&mut packet).unwrap();
            assert_eq!(cut.removed, payload.len());
            packet.truncate(cut.packet_len);
            let view = ip::Packet::parse(&packet).unwrap();
            assert_eq!(view.total_len(), packet.len());
            assert!(view.verify_checksum());
            let segment = Segment::parse(view.payload()).unwrap();
            assert!(segment.payload().is_empty());
            assert!(segment.verify_checksum(view.src(), view.dst()));
        }
    }
}

#[test]
fn fragments_and_other_protocols_are_not_cut() {
    let mut fragment = syn(false, &[], b"data");
    fragment[6] = 0x20;
    let mut udp = syn(false, &[], b"data");
    udp[9] = 17;
    for mut packet in [fragment, udp] {
        let before = packet.clone();
        assert_eq!(edit::cut_payload(&mut packet), None);
        assert_eq!(packet, before);
    }
}

proptest! {
    #[test]
    fn what_emit_writes_parse_and_etherparse_read(
        repr in repr(), v6: bool, payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let (src, dst) = addrs(v6);
        let mut bytes = vec![0xaa; repr.header_len()];
        repr.emit(&mut bytes);
        bytes.extend(&payload);
        fill_checksum(&mut bytes, src, dst);
        let segment = Segment::parse(&bytes).unwrap();
        prop_assert!(segment.verify_checksum(src, dst));
        prop_assert_eq!(segment.payload(), payload.as_slice());
        prop_assert_eq!(segment.header_len(), repr.header_len());
        let oracle = TcpHeaderSlice::from_slice(&bytes).unwrap();
        prop_assert_eq!(oracle.source_port(), repr.src_port);
        prop_assert_eq!(oracle.sequence_number(), repr.seq.0);
        prop_assert_eq!(oracle.acknowledgment_number(), repr.ack.0);
        prop_assert_eq!(oracle.window_size(), repr.window);
        prop_assert_eq!(oracle.urgent_pointer(), repr.urgent);
        prop_assert_eq!(oracle.syn(), repr.flags.contains(Flags::SYN));
        prop_assert_eq!(oracle.ns(), repr.flags.contains(Flags::AE));
        let checksum = if v6 {
            oracle.calc_checksum_ipv6_raw(SRC6, DST6, &payload)
        } else {
            oracle.calc_checksum_ipv4_raw(SRC, DST, &payload)
        };
        prop_assert_eq!(checksum.unwrap(), oracle.checksum());
        for option in oracle.options_iterator() {
            match option.unwrap() {
                TcpOptionElement::MaximumSegmentSize(mss) => prop_assert_eq!(Some(mss), repr.options.mss),
                TcpOptionElement::WindowScale(shift) => {
                    prop_assert_eq!(Some(shift), repr.options.window_scale);
                }
                TcpOptionElement::Timestamp(tsval, tsecr) => {
                    prop_assert_eq!(Some(Timestamps { tsval, tsecr }), repr.options.timestamps);
                }
                TcpOptionElement::SelectiveAcknowledgementPermitted => {
                    prop_assert!(repr.options.sack_permitted);
                }
                _ => {}
            }
        }
        let mut expected = repr;
        if !repr.flags.contains(Flags::SYN) {
            expected.options.mss = None;
            expected.options.window_scale = None;
            expected.options.sack_permitted = false;
        }
        let parsed = segment.repr();
        // Blocks beyond the header's room are left out, the newest stay.
        for (parsed, expected) in parsed.options.sack.iter().flatten().zip(expected.options.sack.iter().flatten()) {
            prop_assert_eq!(parsed, expected);
        }
        expected.options.sack = parsed.options.sack;
        prop_assert_eq!(parsed, expected);
    }

    #[test]
    fn what_etherparse_writes_parse_reads(
        seq: u32, ack: u32, window: u16, mss: u16, tsval: u32, tsecr: u32,
        payload in prop::collection::vec(any::<u8>(), 0..50),
    ) {
        let mut header = TcpHeader::new(5, 6, seq, window);
        header.acknowledgment_number = ack;
        header.syn = true;
        header.set_options(&[
            TcpOptionElement::Noop,
            TcpOptionElement::Timestamp(tsval, tsecr),
            TcpOptionElement::MaximumSegmentSize(mss),
            TcpOptionElement::SelectiveAcknowledgementPermitted,
        ]).unwrap();
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(SRC, DST, 64).tcp_header(header).write(&mut bytes, &payload).unwrap();
        let view = ip::Packet::parse(&bytes).unwrap();
        let segment = Segment::parse(view.payload()).unwrap();
        prop_assert!(segment.verify_checksum(view.src(), view.dst()));
        let repr = segment.repr();
        prop_assert_eq!((repr.seq, repr.ack, repr.window), (Seq(seq), Seq(ack), window));
        prop_assert_eq!(repr.options.mss, Some(mss));
        prop_assert_eq!(repr.options.timestamps, Some(Timestamps { tsval, tsecr }));
        prop_assert!(repr.options.sack_permitted);
        prop_assert_eq!(segment.sequence_len() as usize, payload.len() + 1);
    }

    #[test]
    fn edits_keep_right_checksums_right_and_wrong_ones_wrong(
        options in prop::collection::vec(any::<u8>(), 0..10),
        payload in prop::collection::vec(any::<u8>(), 0..50),
        v6: bool, corrupt: bool, mss: u16,
    ) {
        let padded = [options.as_slice(), &vec![0; (4 - options.len() % 4) % 4]].concat();
        let mut packet = syn(v6, &padded, &payload);
        let at = if v6 { 40 } else { 20 };
        packet[at + 12] |= 1;
        fill_checksum(&mut packet[at..], addrs(v6).0, addrs(v6).1);
        if corrupt {
            packet[at + 17] ^= 0x10;
        }
        edit::nop_out(&mut packet[at..], |kind, _| kind % 2 == 0 && kind != kind::MSS);
        edit::clamp_mss(&mut packet[at..], mss);
        edit::clear_accurate_ecn(&mut packet[at..]);
        let cut = edit::cut_payload(&mut packet).unwrap();
        packet.truncate(cut.packet_len);
        let view = ip::Packet::parse(&packet).unwrap();
        prop_assert!(view.verify_checksum());
        let segment = Segment::parse(view.payload()).unwrap();
        prop_assert_eq!(segment.verify_checksum(view.src(), view.dst()), !corrupt);
    }

    #[test]
    fn random_bytes_never_panic(mut noise in prop::collection::vec(any::<u8>(), 0..120), mss: u16) {
        if let Ok(segment) = Segment::parse(&noise) {
            let _ = (segment.repr(), segment.options().count(), segment.sequence_len());
            prop_assert_eq!(segment.header_len() + segment.payload().len(), noise.len());
        }
        edit::nop_out(&mut noise, |kind, _| kind > 100);
        edit::clamp_mss(&mut noise, mss);
        edit::clear_accurate_ecn(&mut noise);
        edit::cut_payload(&mut noise);
    }

    #[test]
    fn sequence_numbers_compare_in_the_half_space(a: u32, step in 1u32..0x8000_0000) {
        let (a, b) = (Seq(a), Seq(a) + step);
        prop_assert!(a < b);
        prop_assert_eq!(b.since(a), step as i32);
        prop_assert_eq!(a.max(b), b);
        prop_assert_eq!(a.min(b), a);
    }
}

fn repr() -> impl Strategy<Value = Repr> {
    let options = (
        any::<Option<u16>>(),
        any::<Option<u8>>(),
        any::<bool>(),
        any::<Option<(u32, u32)>>(),
        prop::collection::vec((any::<u32>(), any::<u32>()), 0..5),
    )
        .prop_map(|(mss, window_scale, sack_permitted, timestamps, blocks)| {
            let mut sack = [None; 4];
            for (slot, (left, right)) in sack.iter_mut().zip(blocks) {
                *slot = Some(SackBlock {
                    left: Seq(left),
                    right: Seq(right),
                });
            }
            let timestamps = timestamps.map(|(tsval, tsecr)| Timestamps { tsval, tsecr });
            Options {
                mss,
                window_scale,
                sack_permitted,
                timestamps,
                sack,
            }
        });
    (
        any::<(u16, u16, u32, u32, u16, u16)>(),
        0u16..0x200,
        options,
    )
        .prop_map(
            |((src_port, dst_port, seq, ack, window, urgent), flags, options)| Repr {
                src_port,
                dst_port,
                seq: Seq(seq),
                ack: Seq(ack),
                flags: Flags(flags),
                window,
                urgent,
                options,
            },
        )
}

fn addrs(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (SRC6.into(), DST6.into())
    } else {
        (SRC.into(), DST.into())
    }
}

fn syn(v6: bool, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let (src, dst) = addrs(v6);
    let segment = Repr {
        flags: Flags::SYN,
        ..Repr::default()
    };
    let mut tcp = vec![0; 20];
    segment.emit(&mut tcp);
    tcp[12] = (((20 + options.len()) / 4) << 4) as u8;
    tcp.extend(options);
    tcp.extend(payload);
    fill_checksum(&mut tcp, src, dst);
    let header = ip::Repr {
        src,
        dst,
        protocol: ip::Protocol::TCP,
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: true,
        ident: 7,
        payload_len: tcp.len(),
    };
    let mut packet = vec![0; header.header_len()];
    header.emit(&mut packet);
    packet.extend(tcp);
    packet
}

proptest! {
    #[test]
    fn a_series_writes_what_one_by_one_writes(
        seq in any::<u32>(),
        ack in any::<u32>(),
        window in any::<u16>(),
        flags in prop::collection::vec(0u16..0x200, 1..4),
        stamps in prop::option::of((any::<u32>(), any::<u32>())),
        payload in prop::collection::vec(any::<u8>(), 0..300),
        is_v6 in any::<bool>(),
    ) {
        let (src, dst): (IpAddr, IpAddr) = if is_v6 {
            (SRC6.into(), DST6.into())
        } else {
            (SRC.into(), DST.into())
        };
        let repr = Repr {
            src_port: 443,
            dst_port: 40_000,
            seq: Seq(seq),
            ack: Seq(ack),
            window,
            options: Options {
                timestamps: stamps.map(|(tsval, tsecr)| Timestamps { tsval, tsecr }),
                ..Options::default()
            },
            ..Repr::default()
        };
        let series = Series::new(&repr, src, dst, payload.len());
        for (index, flags) in flags.into_iter().enumerate() {
            let repr = Repr {
                seq: repr.seq + (index * payload.len()) as u32,
                flags: Flags(flags),
                ..repr
            };
            let mut single = vec![0; repr.header_len()];
            repr.emit(&mut single);
            single.extend_from_slice(&payload);
            fill_checksum(&mut single, src, dst);
            let mut one = vec![0xaa; series.header_len()];
            one.extend_from_slice(&payload);
            series.emit(repr.seq, repr.flags, &mut one);
            prop_assert_eq!(single, one);
        }
    }
}
