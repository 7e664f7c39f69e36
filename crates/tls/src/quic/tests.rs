use proptest::prelude::*;

use super::*;

/// RFC 9001 §A.2 and RFC 9369 §A.2: the payload before PADDING, a CRYPTO frame with a ClientHello
/// for example.com.
const CRYPTO: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
    04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578\
    616d706c652e636f6dff01000100000a00080006001d00170018001000070005\
    04616c706e000500050100000000003300260024001d00209370b2c9caa47fba\
    baf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b000302030400\
    0d0010000e0403050306030203080408050806002d00020101001c0002400100\
    3900320408ffffffffffffffff05048000ffff07048000ffff08011001048000\
    75300901100f088394c8f03e51570806048000ffff";
const CONNECTION_ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let text = std::str::from_utf8(&digits).unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The ClientHello in the RFC's frame.
fn message() -> Vec<u8> {
    bytes(CRYPTO)[4..].to_vec()
}

/// An Initial packet with this payload, protected as a client does (RFC 9001 §5).
fn seal(version: u32, number: u32, payload: &[u8]) -> Vec<u8> {
    let (known, kind) = match version {
        VERSION_2 => (Version::V2, 0xd3),
        _ => (Version::V1, 0xc3),
    };
    let suite = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
    let suite = suite.quic_suite().unwrap();
    let keys = suite.keys(&CONNECTION_ID, Side::Client, known).local;
    let mut header = vec![kind];
    header.extend(version.to_be_bytes());
    header.push(8);
    header.extend(CONNECTION_ID);
    header.extend([0, 0]);
    header.extend((0x4000 | (payload.len() + 20) as u16).to_be_bytes());
    let number_at = header.len();
    header.extend(number.to_be_bytes());
    let mut sealed = payload.to_vec();
    let tag = keys
        .packet
        .encrypt_in_place(number.into(), &header, &mut sealed)
        .unwrap();
    sealed.extend_from_slice(tag.as_ref());
    let (first, rest) = header.split_at_mut(1);
    keys.header
        .encrypt_in_place(&sealed[..16], &mut first[0], &mut rest[number_at - 1..])
        .unwrap();
    [header, sealed].concat()
}

fn padded(mut payload: Vec<u8>) -> Vec<u8> {
    payload.resize(1162, 0);
    payload
}

fn crypto(offset: usize, data: &[u8]) -> Vec<u8> {
    let two = |value: usize| (0x4000 | value as u16).to_be_bytes();
    [&[6][..], &two(offset), &two(data.len()), data].concat()
}

fn name(initial: &Initial) -> Option<&str> {
    match initial {
        Initial::Hello(hello) => hello.server_name.as_deref(),
        _ => None,
    }
}

#[test]
fn the_packets_of_the_rfcs_are_read() {
    for (version, begin, tag) in [
        (
            VERSION_1,
            "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
            Some("e221af44860018ab0856972e194cd934"),
        ),
        (
            VERSION_2,
            "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
            None,
        ),
    ] {
        let packet = seal(version, 2, &padded(bytes(CRYPTO)));
        assert_eq!(packet.len(), 1200);
        assert!(packet.starts_with(&bytes(begin)), "as the RFC has it");
        assert!(tag.is_none_or(|tag| packet.ends_with(&bytes(tag))));
        let initial = parse([packet.as_slice()]);
        assert_eq!(name(&initial), Some("example.com"));
        let Initial::Hello(hello) = initial else {
            unreachable!()
        };
        assert_eq!(hello.alpn, [b"alpn".to_vec()]);
        assert!(hello.ja4(hello::Transport::Quic).starts_with("q13d0211an_"));
    }
}

#[test]
fn a_hello_over_several_packets_and_datagrams_in_any_order_is_put_together() {
    let message = message();
    let (a, b, c) = (&message[..90], &message[90..150], &message[150..]);
    let ping_and_ack = [1, 2, 0, 0, 0, 0];
    let first = seal(
        VERSION_1,
        0,
        &padded([&crypto(150, c)[..], &ping_and_ack, &crypto(0, a)].concat()),
    );
    let second = seal(VERSION_1, 1, &padded(crypto(60, &message[60..150])));
    assert_eq!(parse([first.as_slice()]), Initial::NeedMore);
    assert_eq!(name(&parse([&first[..], &second])), Some("example.com"));
    assert_eq!(name(&parse([&second[..], &first])), Some("example.com"));
    // Two packets in one datagram, and rubbish behind them.
    let both = [
        seal(VERSION_1, 0, &[crypto(0, a), crypto(90, b)].concat()),
        seal(VERSION_1, 1, &crypto(150, c)),
        vec![0xff; 20],
    ]
    .concat();
    assert_eq!(name(&parse([both.as_slice()])), Some("example.com"));
}

#[test]
fn pieces_that_contradict_each_other_are_not_trusted() {
    let mut other = message();
    other[60] ^= 1;
    let first = seal(VERSION_1, 0, &padded(crypto(0, &message()[..100])));
    let second = seal(VERSION_1, 1, &padded(crypto(0, &other)));
    assert_eq!(parse([&first[..], &second]), Initial::Unreadable);
    let third = seal(VERSION_1, 1, &padded(crypto(0, &message())));
    assert_eq!(name(&parse([&first[..], &third])), Some("example.com"));
}

#[test]
fn other_versions_are_quic_and_other_protocols_are_not() {
    let mut unknown = seal(VERSION_1, 0, &padded(crypto(0, &message())));
    unknown[1..5].copy_from_slice(&[0x1a, 0x2a, 0x3a, 0x4a]);
    assert_eq!(parse([unknown.as_slice()]), Initial::Unreadable);
    // Not padded: no client sends it.
    assert_eq!(parse([&unknown[..600]]), Initial::NotQuic);
    let mut flipped = seal(VERSION_1, 0, &padded(crypto(0, &message())));
    flipped[700] ^= 1;
    assert_eq!(parse([flipped.as_slice()]), Initial::NeedMore);
    let dns = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
    let rtp = [&[0x80, 96, 0, 1, 0, 0, 0, 1][..], &[0; 1300]].concat();
    let short = [&[0x40][..], &[7; 1300]].concat();
    for other in [&b""[..], dns, &rtp, &short, &[0xff; 1300], &[0xc0; 5]] {
        assert_eq!(parse([other]), Initial::NotQuic, "{other:?}");
    }
    assert_eq!(parse([]), Initial::NeedMore);
}

#[test]
fn what_is_kept_and_looked_at_is_bounded() {
    let far = seal(VERSION_1, 0, &padded(vec![6, 0x80, 1, 0, 0, 1, 7]));
    assert_eq!(parse([far.as_slice()]), Initial::Unreadable);
    let mut tiny = Vec::new();
    for at in 0..MAX_PIECES + 1 {
        tiny.extend(crypto(at * 2 + 1, &[0]));
    }
    let tiny = seal(VERSION_1, 0, &tiny);
    assert_eq!(parse([tiny.as_slice()]), Initial::Unreadable);
    let pings = seal(VERSION_1, 0, &padded(vec![1; 1000]));
    assert_eq!(parse(vec![pings.as_slice(); 8]), Initial::NeedMore);
    assert_eq!(parse(vec![pings.as_slice(); 9]), Initial::Unreadable);
    let close = seal(VERSION_1, 0, &padded(vec![0x1c]));
    assert_eq!(parse([close.as_slice()]), Initial::Unreadable);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(payload in proptest::collection::vec(any::<u8>(), 0..1500), cut in 0..40_usize) {
        let sealed = seal(VERSION_1, 0, &padded(payload.clone()));
        let _ = parse([payload.as_slice()]);
        let _ = parse([&sealed[..sealed.len() - cut]]);
        let mut headed = sealed[..20].to_vec();
        headed.extend(payload);
        let _ = parse([headed.as_slice(), &sealed]);
    }
}
