use std::sync::Arc;

use proptest::prelude::*;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// Cuts a handshake message into records of the given sizes; the last size repeats.
fn records(message: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut rest = message;
    let mut sizes = sizes.iter().copied();
    let mut size = MAX_RECORD;
    while !rest.is_empty() {
        size = sizes.next().unwrap_or(size).clamp(1, MAX_RECORD);
        let (now, later) = rest.split_at(size.min(rest.len()));
        stream.extend_from_slice(&[CONTENT_HANDSHAKE, 3, 1]);
        stream.extend_from_slice(&u16::try_from(now.len()).unwrap().to_be_bytes());
        stream.extend_from_slice(now);
        rest = later;
    }
    stream
}

fn prefixed16(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

/// A handshake message with these extensions.
fn message(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.push(0); // session id
    body.extend_from_slice(&[0, 4, 0x13, 0x01, 0xc0, 0x2f]);
    body.extend_from_slice(&[1, 0]); // compression: null
    let list: Vec<u8> = extensions
        .iter()
        .flat_map(|(number, data)| [&number.to_be_bytes()[..], &prefixed16(data)].concat())
        .collect();
    body.extend_from_slice(&prefixed16(&list));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[HANDSHAKE_CLIENT_HELLO], &length[1..], &body].concat()
}

fn stream(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    records(&message(extensions), &[])
}

fn server_name(names: &[&[u8]]) -> (u16, Vec<u8>) {
    let list: Vec<u8> = names
        .iter()
        .flat_map(|name| [&[0u8][..], &prefixed16(name)].concat())
        .collect();
    (extension::SERVER_NAME, prefixed16(&list))
}

fn hello(bytes: &[u8]) -> ClientHello {
    match parse(bytes) {
        Parsed::Hello(hello) => hello,
        other => panic!("{other:?}"),
    }
}

/// What a real client sends: with the post-quantum key share it does not fit into one segment.
fn real_hello() -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut client =
        ClientConnection::new(Arc::new(config), "www.example.com".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[test]
fn a_real_hello_is_understood() {
    let bytes = real_hello();
    assert!(
        bytes.len() > 1460,
        "the post-quantum share should overflow one segment, got {}",
        bytes.len()
    );
    let hello = hello(&bytes);
    assert_eq!(hello.server_name.as_deref(), Some("www.example.com"));
    assert_eq!(hello.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(hello.versions, [TLS13, TLS12]);
    assert!(hello.cipher_suites.contains(&0x1301));
    assert!(
        hello.groups.contains(&0x11ec),
        "X25519MLKEM768 in {:04x?}",
        hello.groups
    );
    assert!(hello.offers_scheme(0x0403));
    assert!(!hello.has_ech && !hello.has_early_data);
}

#[test]
fn threat_38_every_prefix_waits_and_bytes_behind_the_hello_do_not_matter() {
    let mut bytes = real_hello();
    let whole = parse(&bytes);
    for length in 0..bytes.len() {
        assert_eq!(
            parse(&bytes[..length]),
            Parsed::NeedMore,
            "prefix of {length}"
        );
    }
    bytes.extend_from_slice(b"\x15\x03\x03 anything at all");
    assert_eq!(parse(&bytes), whole);
}

#[test]
fn threat_38_a_hello_padded_past_16_kib_spans_records() {
    const PADDING: u16 = 21;
    let extensions = [server_name(&[b"a.example"]), (PADDING, vec![0; 40_000])];
    assert_eq!(
        hello(&stream(&extensions)).server_name.as_deref(),
        Some("a.example")
    );
}

#[test]
fn threat_38_a_hello_beyond_64_kib_is_refused_at_its_header() {
    let mut header = vec![
        CONTENT_HANDSHAKE,
        3,
        1,
        0x40,
        0,
        HANDSHAKE_CLIENT_HELLO,
        1,
        0,
        0,
    ];
    assert_eq!(parse(&header), Parsed::Malformed(HelloFault::TooLarge));
    // Records of one byte each reach the limit of the stream, not of the message.
    header = records(&message(&[(21, vec![0; 30_000])]), &[1]);
    assert_eq!(parse(&header), Parsed::Malformed(HelloFault::TooLarge));
}

#[test]
fn threat_38_other_protocols_are_told_apart_by_their_first_bytes() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"SSH-2.0-x",
        b"P",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x80\x2e\x01",
    ] {
        assert_eq!(parse(bytes), Parsed::NotTls, "{bytes:?}");
    }
    for bytes in [&b""[..], b"\x16", b"\x16\x03", b"\x16\x03\x01\x02"] {
        assert_eq!(parse(bytes), Parsed::NeedMore, "{bytes:?}");
    }
    // A record that can be, with another message in it: a ServerHello.
    assert_eq!(
        parse(b"\x16\x03\x03\x00\x04\x02\x00\x00\x00"),
        Parsed::Malformed(HelloFault::NotClientHello)
    );
    // An alert in the middle of the hello.
    let mut cut = records(&message(&[])[..10], &[]);
    cut.extend_from_slice(b"\x15\x03\x03\x00\x02\x02\x28");
    assert_eq!(parse(&cut), Parsed::Malformed(HelloFault::BadRecord));
}

#[test]
fn threat_39_server_names_come_in_one_spelling_or_not_at_all() {
    let long_label = [b"a".repeat(64), b".example".to_vec()].concat();
    let longest = [
        b"a".repeat(63),
        b"b".repeat(63),
        b"c".repeat(63),
        b"d".repeat(61),
    ]
    .join(&b'.');
    let too_long = [longest.clone(), b"e".to_vec()].join(&b'.');
    let cases: Vec<(&[u8], Result<&str, NameFault>)> = vec![
        (b"example.com", Ok("example.com")),
        (b"EXAMPLE.Com", Ok("example.com")),
        (b"example.com.", Ok("example.com")),
        (b"_dmarc.example.com", Ok("_dmarc.example.com")),
        (b"xn--bcher-kva.example", Ok("xn--bcher-kva.example")),
        (b"localhost", Ok("localhost")),
        (&longest, Ok(std::str::from_utf8(&longest).unwrap())),
        (b"", Err(NameFault::Empty)),
        (b".", Err(NameFault::Empty)),
        (b"10.0.0.1", Err(NameFault::IpLiteral)),
        (b"::1", Err(NameFault::IpLiteral)),
        (b"[2001:db8::1]", Err(NameFault::IpLiteral)),
        (b"good.example\0.evil.example", Err(NameFault::BadCharacter)),
        (b"*.example.com", Err(NameFault::BadCharacter)),
        (b"b\xc3\xbccher.example", Err(NameFault::BadCharacter)),
        (b"a b.example", Err(NameFault::BadCharacter)),
        (b"example..com", Err(NameFault::BadLabel)),
        (b".example.com", Err(NameFault::BadLabel)),
        (b"-a.example", Err(NameFault::BadLabel)),
        (b"example.com..", Err(NameFault::BadLabel)),
        (&long_label, Err(NameFault::TooLong)),
        (&too_long, Err(NameFault::TooLong)),
    ];
    for (sent, expected) in cases {
        let hello = hello(&stream(&[server_name(&[sent])]));
        let got = match hello.server_name_fault {
            Some(fault) => Err(fault),
            None => Ok(hello.server_name.as_deref().unwrap()),
        };
        assert_eq!(got, expected, "{}", sent.escape_ascii());
    }
    let several = hello(&stream(&[server_name(&[b"a.example", b"b.example"])]));
    assert_eq!(
        (several.server_name, several.server_name_fault),
        (None, Some(NameFault::Several))
    );
    let none = hello(&stream(&[]));
    assert_eq!((none.server_name, none.server_name_fault), (None, None));
}

#[test]
fn threat_45_an_ech_extension_is_seen_and_the_outer_name_kept() {
    let hello = hello(&stream(&[
        server_name(&[b"outer.example"]),
        (0xfe0d, vec![0, 1, 2, 3]),
    ]));
    assert!(hello.has_ech);
    assert_eq!(hello.server_name.as_deref(), Some("outer.example"));
}

#[test]
fn versions_follow_the_extension_and_without_it_the_legacy_field() {
    let new = hello(&stream(&[(
        extension::SUPPORTED_VERSIONS,
        vec![4, 0x0a, 0x0a, 3, 4],
    )]));
    assert!(new.offers_version(TLS13) && !new.offers_version(TLS12));
    let old = hello(&stream(&[]));
    assert!(old.offers_version(TLS12) && old.offers_version(0x0301) && !old.offers_version(TLS13));
}

#[test]
fn a_hello_may_end_before_its_extensions() {
    let mut message = message(&[]);
    message.truncate(message.len() - 2);
    message[3] -= 2;
    assert_eq!(
        hello(&records(&message, &[])).cipher_suites,
        [0x1301, 0xc02f]
    );
}

#[test]
fn malformed_hellos_are_named() {
    let twice = stream(&[(5, vec![]), (5, vec![])]);
    assert_eq!(
        parse(&twice),
        Parsed::Malformed(HelloFault::DuplicateExtension)
    );
    let empty_alpn = stream(&[(extension::ALPN, vec![0, 1, 0])]);
    assert_eq!(parse(&empty_alpn), Parsed::Malformed(HelloFault::BadAlpn));
    let many: Vec<u8> = b"\x01x".repeat(MAX_ALPN + 1);
    assert_eq!(
        parse(&stream(&[(extension::ALPN, prefixed16(&many))])),
        Parsed::Malformed(HelloFault::BadAlpn)
    );
    let odd_list = stream(&[(extension::SUPPORTED_GROUPS, vec![0, 3, 0, 29, 0])]);
    assert_eq!(parse(&odd_list), Parsed::Malformed(HelloFault::BadLength));
    let left_over = stream(&[(extension::SUPPORTED_GROUPS, vec![0, 2, 0, 29, 9])]);
    assert_eq!(parse(&left_over), Parsed::Malformed(HelloFault::BadLength));
}

proptest! {
    #[test]
    fn threat_38_any_split_into_records_gives_the_same_hello(
        sizes in proptest::collection::vec(1usize..600, 1..40),
        pad in 0usize..3000,
    ) {
        let message = message(&[server_name(&[b"a.example"]), (21, vec![0; pad]), (16, prefixed16(b"\x02h2"))]);
        prop_assert_eq!(parse(&records(&message, &sizes)), parse(&records(&message, &[])));
    }

    #[test]
    fn threat_38_a_verdict_on_a_prefix_is_final(
        flips in proptest::collection::vec((0usize..600, any::<u8>()), 0..4),
        cut in 0usize..600,
    ) {
        let mut bytes = records(&message(&[server_name(&[b"a.example"]), (21, vec![0; 300])]), &[100]);
        for (at, value) in flips {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        let early = parse(&bytes[..cut.min(bytes.len())]);
        if early != Parsed::NeedMore {
            prop_assert_eq!(early, parse(&bytes));
        }
    }

    #[test]
    fn threat_38_no_bytes_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
        let body = [&[HANDSHAKE_CLIENT_HELLO, 0, 0, u8::try_from(bytes.len() & 0xff).unwrap()][..], &bytes].concat();
        let _ = parse(&records(&body, &[]));
    }
}
