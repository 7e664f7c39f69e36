//! GENEVE headers: golden vectors, every layout, every reason to drop.

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::*;

const OPTIONS: &str = "0108010212345678 9abcdef0 01080202 00000000 00000000 01080301 11223344";

#[test]
fn gwlb_a01_the_golden_vector_parses_on_the_fast_path() {
    let header = hex(&format!("0800080000000000 {OPTIONS}"));
    let datagram = [header.as_slice(), &inner(Family::V4)].concat();
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.header(), header);
    assert_eq!(packet.inner(), inner(Family::V4));
    assert_eq!(packet.endpoint().to_string(), "vpce-0123456789abcdef0");
    assert_eq!(packet.attachment(), AttachmentId(0));
    assert_eq!(packet.cookie(), FlowCookie(0x1122_3344));
    assert_eq!(packet.family(), Family::V4);
    assert_eq!(packet.cloud(), Cloud::Aws);
    assert!(packet.oddities().is_empty());
    assert!(Fields::from_template(packet.header()).is_some());
}

#[test]
fn gwlb_a01_the_golden_vector_of_ipv6_parses_on_the_fast_path() {
    let header = hex(&format!("080086dd00000000 {OPTIONS}"));
    let datagram = [header.as_slice(), &inner(Family::V6)].concat();
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.family(), Family::V6);
    assert_eq!(packet.cookie(), FlowCookie(0x1122_3344));
    assert_eq!(packet.inner(), inner(Family::V6));
    assert!(packet.oddities().is_empty());
}

#[test]
fn the_golden_vector_is_what_emit_writes() {
    for (family, protocol_type) in [(Family::V4, "0800"), (Family::V6, "86dd")] {
        let repr = Repr { family, ..golden() };
        let mut header = vec![0xaa; repr.header_len()];
        repr.emit(&mut header);
        assert_eq!(
            header,
            hex(&format!("0800{protocol_type}00000000 {OPTIONS}"))
        );
    }
}

#[test]
fn gwlb_a02_options_in_any_order_mean_the_same() {
    use Field::{Attachment, Cookie, Endpoint};
    for order in [
        [Endpoint, Cookie, Attachment],
        [Attachment, Endpoint, Cookie],
        [Attachment, Cookie, Endpoint],
        [Cookie, Endpoint, Attachment],
        [Cookie, Attachment, Endpoint],
    ] {
        let datagram = datagram(&Repr { order, ..golden() });
        let packet = Packet::parse(&datagram).unwrap();
        assert_eq!(packet.endpoint(), golden().endpoint);
        assert_eq!(packet.cookie(), golden().cookie);
        assert!(packet.oddities().contains(Oddities::LAYOUT));
        assert_eq!(packet.header(), &datagram[..40]);
    }
}

#[test]
fn gwlb_a02_unknown_non_critical_options_stay_in_the_header() {
    let extra = hex("01080401 deadbeef ffff0100 01087f00");
    let datagram = datagram(&Repr {
        extra: &extra,
        ..golden()
    });
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.header().len(), 40 + extra.len());
    assert!(packet.header().ends_with(&extra));
    assert_eq!(packet.inner(), inner(Family::V4));
    assert!(packet.oddities().contains(Oddities::UNKNOWN_OPTION));
}

#[test]
fn tencent_has_the_same_layout_under_its_own_class() {
    let datagram = datagram(&Repr {
        cloud: Cloud::Tencent,
        ..golden()
    });
    assert_eq!(datagram[8..12], hex("01670102"));
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.cloud(), Cloud::Tencent);
    assert_eq!(packet.endpoint(), golden().endpoint);
    assert!(packet.oddities().is_empty());
}

#[test]
fn google_names_a_network_and_an_endpoint_but_no_cookie() {
    let options = hex("01320101 00001234 01320202 0000000000000042 01320302 0000000000000007");
    let header = [hex("0800080000000000"), options].concat();
    let mut datagram = header.clone();
    datagram[0] = ((datagram.len() - 8) / 4) as u8;
    datagram.extend(inner(Family::V4));
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.cloud(), Cloud::Google);
    assert_eq!(packet.endpoint(), VpcEndpointId(0x42));
    assert_eq!(packet.attachment(), AttachmentId(0x1234));
    assert_eq!(packet.cookie(), FlowCookie(0));
    // The profile id is known to nobody here.
    assert!(packet.oddities().contains(Oddities::UNKNOWN_OPTION));
    let round = self::datagram(&Repr {
        cloud: Cloud::Google,
        ..golden()
    });
    assert_eq!(Packet::parse(&round).unwrap().endpoint(), golden().endpoint);
}

#[test]
fn another_clouds_options_beside_the_first_ones_are_strangers() {
    let extra = hex("01670301 99999999");
    let datagram = datagram(&Repr {
        extra: &extra,
        ..golden()
    });
    let packet = Packet::parse(&datagram).unwrap();
    assert_eq!(packet.cookie(), golden().cookie);
    assert!(packet.oddities().contains(Oddities::UNKNOWN_OPTION));
}

#[test]
fn gwlb_a03_every_malformed_datagram_has_its_own_reason() {
    let good = datagram(&golden());
    let edit = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let with_options = |options: &str| {
        let options = hex(options);
        let mut bytes = hex("0000080000000000");
        bytes[0] = (options.len() / 4) as u8;
        bytes.extend(options);
        bytes.extend(inner(Family::V4));
        bytes
    };
    let endpoint = "0108010212345678 9abcdef0";
    let attachment = "01080202 0000000000000000";
    let cookie = "01080301 11223344";
    let mut total_len_too_long = good.clone();
    total_len_too_long[43] += 1;
    let cases = [
        (good[..7].to_vec(), Malformed::Truncated),
        (vec![], Malformed::Truncated),
        (edit(0, 0x48), Malformed::BadVersion),
        (good[..39].to_vec(), Malformed::OptionsTruncated),
        (edit(0, 0x3f), Malformed::OptionsTruncated),
        (edit(35, 0x02), Malformed::OptionTruncated),
        (
            with_options(&format!("{endpoint} {attachment} 01080300 00000000")),
            Malformed::BadOptionLength,
        ),
        (
            with_options(&format!("01080101 12345678 {attachment} {cookie}")),
            Malformed::BadOptionLength,
        ),
        (
            with_options(&format!("{endpoint} {attachment} {cookie} {cookie}")),
            Malformed::DuplicateOption,
        ),
        (
            with_options(&format!("{endpoint} {attachment} {cookie} 01088400")),
            Malformed::UnknownCriticalOption,
        ),
        (
            with_options(&format!("abcd8000 {endpoint} {attachment} {cookie}")),
            Malformed::UnknownCriticalOption,
        ),
        (with_options(""), Malformed::MissingEndpoint),
        (
            with_options(&format!("{attachment} {cookie}")),
            Malformed::MissingEndpoint,
        ),
        (
            with_options(&format!("{endpoint} {cookie}")),
            Malformed::MissingAttachment,
        ),
        (
            with_options(&format!("{endpoint} {attachment}")),
            Malformed::MissingCookie,
        ),
        (edit(2, 0x65), Malformed::BadProtocolType),
        (edit(40, 0x65), Malformed::FamilyMismatch),
        (
            [
                &hex(&format!("080086dd00000000 {OPTIONS}"))[..],
                &inner(Family::V4),
            ]
            .concat(),
            Malformed::FamilyMismatch,
        ),
        (good[..40].to_vec(), Malformed::InnerTruncated),
        (good[..59].to_vec(), Malformed::InnerTruncated),
        (good[..good.len() - 1].to_vec(), Malformed::InnerTruncated),
        (total_len_too_long, Malformed::InnerTruncated),
    ];
    for (bytes, reason) in &cases {
        assert_eq!(Packet::parse(bytes).unwrap_err(), *reason, "{bytes:02x?}");
    }
    for reason in Malformed::ALL {
        assert!(
            cases.iter().any(|case| case.1 == reason),
            "{reason:?} is not reached"
        );
        assert!(
            Malformed::ALL
                .iter()
                .filter(|r| r.as_str() == reason.as_str())
                .count()
                == 1
        );
    }
}

#[test]
fn gwlb_a04_vni_attachment_flags_and_reserved_bits_are_reported_but_pass() {
    let odd = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = datagram(&golden());
        edit(&mut bytes);
        Packet::parse(&bytes).unwrap().oddities()
    };
    assert_eq!(odd(&|b| b[6] = 1), Oddities::VNI);
    assert_eq!(odd(&|b| b[1] = 0x80), Oddities::CONTROL);
    assert_eq!(odd(&|b| b[1] = 0x40), Oddities::CRITICAL);
    assert_eq!(odd(&|b| b[1] = 0x20), Oddities::RESERVED);
    assert_eq!(odd(&|b| b[7] = 1), Oddities::RESERVED);
    assert_eq!(odd(&|b| b[31] = 9), Oddities::ATTACHMENT);
    // The three bits above an option's length: no template, yet the same meaning.
    assert!(odd(&|b| b[11] |= 0xe0).contains(Oddities::RESERVED));
    assert!(odd(&|_| ()).is_empty());
    let labels: std::collections::BTreeSet<_> = Oddities::ALL.iter().map(|o| o.1).collect();
    assert_eq!(labels.len(), Oddities::ALL.len());
}

#[test]
fn gwlb_c01_an_inner_packet_of_8933_bytes_is_taken() {
    let mut ip = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1, 2)
        .write(&mut ip, &vec![0x5a; 8_933 - 28])
        .unwrap();
    let mut bytes = vec![0; 40];
    golden().emit(&mut bytes);
    bytes.extend(&ip);
    assert_eq!(Packet::parse(&bytes).unwrap().inner().len(), 8_933);
}

proptest! {
    #[test]
    fn what_emit_writes_parse_reads(
        endpoint: u64, attachment: u64, cookie: u32, vni in 0u32..0x100_0000,
        control: bool, critical: bool, v6: bool, cloud in 0usize..3,
        order in Just([Field::Endpoint, Field::Attachment, Field::Cookie]).prop_shuffle(),
        unknown in prop::collection::vec((0x4000u16..0x5000, 0u8..0x80, 0u8..6), 0..8),
    ) {
        let cloud = Cloud::ALL[cloud];
        let mut extra = Vec::new();
        for (class, kind, words) in &unknown {
            extra.extend(class.to_be_bytes());
            extra.extend([*kind, *words]);
            extra.extend(vec![0x77; usize::from(*words) * 4]);
        }
        let repr = Repr {
            endpoint: VpcEndpointId(endpoint),
            attachment: AttachmentId(attachment),
            cookie: FlowCookie(cookie),
            family: if v6 { Family::V6 } else { Family::V4 },
            cloud, order, vni, control, critical,
            extra: &extra,
        };
        let bytes = datagram(&repr);
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!(packet.endpoint(), repr.endpoint);
        prop_assert_eq!(packet.attachment(), repr.attachment);
        let expected = if cloud == Cloud::Google { 0 } else { cookie };
        prop_assert_eq!(packet.cookie(), FlowCookie(expected));
        prop_assert_eq!(packet.cloud(), cloud);
        prop_assert_eq!(packet.family(), repr.family);
        prop_assert_eq!([packet.header(), packet.inner()].concat(), bytes.clone());
        prop_assert_eq!(packet.oddities().contains(Oddities::VNI), vni != 0);
        prop_assert_eq!(packet.oddities().contains(Oddities::CONTROL), control);
        prop_assert_eq!(packet.oddities().contains(Oddities::UNKNOWN_OPTION), !unknown.is_empty());
    }

    #[test]
    fn fast_and_slow_path_agree(
        mut header in prop::collection::vec(any::<u8>(), 40),
        template: bool,
    ) {
        if template {
            header[..8].copy_from_slice(&hex("0800080000000000"));
            header[8..12].copy_from_slice(&hex("01080102"));
            header[20..24].copy_from_slice(&hex("01080202"));
            header[32..36].copy_from_slice(&hex("01080301"));
        }
        if let Some(fast) = Fields::from_template(&header) {
            let slow = Fields::from_walk(&header[8..]).map_err(|e| TestCaseError::fail(e.as_str()))?;
            prop_assert_eq!(fast.endpoint, slow.endpoint);
            prop_assert_eq!(fast.attachment, slow.attachment);
            prop_assert_eq!(fast.cookie, slow.cookie);
            prop_assert_eq!(fast.cloud, slow.cloud);
        } else {
            prop_assert!(!template);
        }
    }

    #[test]
    fn threat_random_bytes_and_bit_flips_never_panic(
        noise in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((0usize..60, 0u8..8), 0..6),
        cut in 0usize..80,
    ) {
        let _ = Packet::parse(&noise);
        let mut bytes = datagram(&golden());
        for (at, bit) in flips {
            bytes[at] ^= 1 << bit;
        }
        bytes.truncate(cut.max(1));
        if let Ok(packet) = Packet::parse(&bytes) {
            prop_assert_eq!(packet.header().len() + packet.inner().len(), bytes.len());
        }
    }
}

fn golden() -> Repr<'static> {
    Repr {
        endpoint: VpcEndpointId(0x1234_5678_9abc_def0),
        cookie: FlowCookie(0x1122_3344),
        ..Repr::default()
    }
}

fn datagram(repr: &Repr<'_>) -> Vec<u8> {
    let mut bytes = vec![0; repr.header_len()];
    repr.emit(&mut bytes);
    bytes.extend(inner(repr.family));
    bytes
}

fn inner(family: Family) -> Vec<u8> {
    let mut bytes = Vec::new();
    match family {
        Family::V4 => PacketBuilder::ipv4([10, 0, 0, 1], [192, 0, 2, 1], 64)
            .udp(5000, 53)
            .write(&mut bytes, b"question"),
        Family::V6 => PacketBuilder::ipv6([0xfd; 16], [0x20; 16], 64)
            .udp(5000, 53)
            .write(&mut bytes, b"question"),
    }
    .unwrap();
    bytes
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .filter_map(|c| c.to_digit(16).map(|d| d as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}
