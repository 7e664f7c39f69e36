//! ICMP messages: types of both families, quotes, answers that are allowed and not.

use etherparse::{Icmpv4Slice, Icmpv6Slice, PacketBuilder};
use proptest::prelude::*;

use super::*;

const CLIENT4: [u8; 4] = [10, 0, 0, 1];
const SERVER4: [u8; 4] = [192, 0, 2, 1];
const CLIENT6: [u8; 16] = [0xfd; 16];
const SERVER6: [u8; 16] = [0x20; 16];

#[test]
fn a_short_message_is_truncated() {
    assert_eq!(
        Message::parse(&[8; 7], Family::V4).unwrap_err(),
        Malformed::Truncated
    );
    assert_eq!(Malformed::ALL, [Malformed::Truncated]);
}

#[test]
fn types_mean_what_each_family_says() {
    let kind = |family, ty, code, word: u32| {
        let bytes = [&[ty, code, 0, 0][..], &word.to_be_bytes()].concat();
        Message::parse(&bytes, family).unwrap().kind()
    };
    let echo = (0x0102_0304, 0x0102, 0x0304);
    assert_eq!(
        kind(Family::V4, 8, 0, echo.0),
        Kind::EchoRequest {
            ident: echo.1,
            sequence: echo.2
        }
    );
    assert_eq!(
        kind(Family::V6, 129, 0, echo.0),
        Kind::EchoReply {
            ident: echo.1,
            sequence: echo.2
        }
    );
    assert_eq!(
        kind(Family::V4, 3, 4, 1400),
        Kind::PacketTooBig { mtu: 1400 }
    );
    assert_eq!(
        kind(Family::V6, 2, 0, 1280),
        Kind::PacketTooBig { mtu: 1280 }
    );
    assert_eq!(
        kind(Family::V4, 3, 3, 0),
        Kind::DestinationUnreachable { code: 3 }
    );
    assert_eq!(
        kind(Family::V6, 1, 4, 0),
        Kind::DestinationUnreachable { code: 4 }
    );
    assert_eq!(kind(Family::V4, 11, 0, 0), Kind::TimeExceeded { code: 0 });
    assert_eq!(kind(Family::V6, 3, 1, 0), Kind::TimeExceeded { code: 1 });
    assert_eq!(
        kind(Family::V6, 4, 2, 0),
        Kind::ParameterProblem { code: 2 }
    );
    assert_eq!(kind(Family::V4, 5, 1, 0), Kind::OtherError);
    assert_eq!(kind(Family::V6, 100, 0, 0), Kind::OtherError);
    assert_eq!(kind(Family::V6, 135, 0, 0), Kind::Other);
    assert_eq!(kind(Family::V4, 13, 0, 0), Kind::Other);
}

#[test]
fn an_error_quotes_ports_and_sequence_number() {
    for v6 in [false, true] {
        let packet = tcp_packet(v6, 2000);
        let error = error_reply(&packet, Cause::AdministrativelyProhibited).unwrap();
        let view = ip::Packet::parse(&error).unwrap();
        assert!(view.verify_checksum());
        assert_eq!(
            view.dst(),
            client(v6),
            "the error goes to the packet's sender"
        );
        assert_eq!(view.src(), server(v6));
        let message = Message::parse(view.payload(), view.version()).unwrap();
        assert!(message.verify_checksum(view.src(), view.dst()));
        let (ty, code) = if v6 { (1, 1) } else { (3, 13) };
        assert_eq!((message.message_type(), message.code()), (ty, code));
        let max = if v6 {
            MAX_V6_ERROR_LEN
        } else {
            MAX_V4_ERROR_LEN
        };
        assert_eq!(view.total_len(), max, "as much of the packet as fits");
        assert_eq!(
            message.quoted().unwrap(),
            Quoted {
                src: client(v6),
                dst: server(v6),
                protocol: Protocol::TCP,
                ports: Some((40_000, 443)),
                seq: Some(Seq(0x0102_0304)),
            }
        );
    }
}

#[test]
fn etherparse_finds_our_errors_sound() {
    for v6 in [false, true] {
        for cause in [
            Cause::AdministrativelyProhibited,
            Cause::PortUnreachable,
            Cause::PacketTooBig { mtu: 1400 },
            Cause::TimeExceeded,
        ] {
            let error = error_reply(&tcp_packet(v6, 10), cause).unwrap();
            let view = ip::Packet::parse(&error).unwrap();
            if v6 {
                let icmp = Icmpv6Slice::from_slice(view.payload()).unwrap();
                assert!(icmp.is_checksum_valid(SERVER6, CLIENT6));
                assert!(!matches!(
                    icmp.icmp_type(),
                    etherparse::Icmpv6Type::Unknown { .. }
                ));
            } else {
                let icmp = Icmpv4Slice::from_slice(view.payload()).unwrap();
                let header = icmp.header();
                assert_eq!(
                    header.icmp_type.calc_checksum(icmp.payload()),
                    header.checksum
                );
                assert!(!matches!(
                    header.icmp_type,
                    etherparse::Icmpv4Type::Unknown { .. }
                ));
            }
        }
    }
}

#[test]
fn packet_too_big_carries_the_mtu() {
    for v6 in [false, true] {
        let error = error_reply(&tcp_packet(v6, 10), Cause::PacketTooBig { mtu: 1400 }).unwrap();
        let view = ip::Packet::parse(&error).unwrap();
        let message = Message::parse(view.payload(), view.version()).unwrap();
        assert_eq!(message.kind(), Kind::PacketTooBig { mtu: 1400 });
    }
}

#[test]
fn nothing_answers_errors_later_fragments_and_addresses_of_no_host() {
    let cause = Cause::AdministrativelyProhibited;
    for v6 in [false, true] {
        let error = error_reply(&tcp_packet(v6, 10), cause).unwrap();
        assert!(
            error_reply(&error, cause).is_none(),
            "an error is not answered by an error"
        );
        let echo = echo_packet(v6);
        assert!(
            error_reply(&echo, cause).is_some(),
            "an echo request may be answered"
        );
    }
    let mut fragment = tcp_packet(false, 10);
    fragment[7] = 1;
    assert!(error_reply(&fragment, cause).is_none());
    let mut from_nowhere = tcp_packet(false, 10);
    from_nowhere[12..16].fill(0);
    assert!(error_reply(&from_nowhere, cause).is_none());
    let mut to_many = tcp_packet(true, 10);
    to_many[24] = 0xff;
    assert!(error_reply(&to_many, cause).is_none());
    let view = ip::Packet::parse(&to_many).unwrap();
    let too_big = Cause::PacketTooBig { mtu: 1280 };
    assert!(ErrorReply::to(&view, server(true), too_big).is_some());
    assert!(
        ErrorReply::to(&view, server(false), too_big).is_none(),
        "families differ"
    );
}

#[test]
fn a_quote_of_eight_bytes_still_has_ports_and_sequence_number() {
    let packet = tcp_packet(false, 100);
    let quoted = Quoted::of(&packet[..28]).unwrap();
    assert_eq!(
        (quoted.ports, quoted.seq),
        (Some((40_000, 443)), Some(Seq(0x0102_0304)))
    );
    let quoted = Quoted::of(&packet[..20]).unwrap();
    assert_eq!((quoted.ports, quoted.seq), (None, None));
    assert!(Quoted::of(&packet[..19]).is_none());
}

#[test]
fn a_quoted_later_fragment_has_no_ports() {
    let mut packet = tcp_packet(false, 100);
    packet[7] = 1;
    let quoted = Quoted::of(&packet).unwrap();
    assert_eq!((quoted.ports, quoted.seq), (None, None));
}

#[test]
fn an_echo_message_quotes_nothing() {
    let packet = echo_packet(false);
    assert!(
        Message::parse(&packet[20..], Family::V4)
            .unwrap()
            .quoted()
            .is_none()
    );
}

proptest! {
    #[test]
    fn what_echo_emits_parse_and_etherparse_read(
        request: bool, ident: u16, sequence: u16, v6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let echo = Echo { request, ident, sequence, payload: &payload };
        let mut bytes = vec![0xaa; echo.message_len()];
        echo.emit(&mut bytes, client(v6), server(v6));
        let family = if v6 { Family::V6 } else { Family::V4 };
        let message = Message::parse(&bytes, family).unwrap();
        prop_assert!(message.verify_checksum(client(v6), server(v6)));
        prop_assert_eq!(message.payload(), payload.as_slice());
        prop_assert_eq!(message.kind(), if request {
            Kind::EchoRequest { ident, sequence }
        } else {
            Kind::EchoReply { ident, sequence }
        });
        if v6 {
            let oracle = Icmpv6Slice::from_slice(&bytes).unwrap();
            prop_assert!(oracle.is_checksum_valid(CLIENT6, SERVER6));
        } else {
            let header = Icmpv4Slice::from_slice(&bytes).unwrap().header();
            prop_assert_eq!(header.icmp_type.calc_checksum(&payload), header.checksum);
        }
    }

    #[test]
    fn random_bytes_never_panic(
        mut noise in prop::collection::vec(any::<u8>(), 0..120),
        v6: bool,
        flips in prop::collection::vec((0usize..60, 0u8..8), 0..6),
    ) {
        let family = if v6 { Family::V6 } else { Family::V4 };
        if let Ok(message) = Message::parse(&noise, family) {
            let _ = (message.kind(), message.quoted(), message.verify_checksum(client(v6), server(v6)));
        }
        let _ = Quoted::of(&noise);
        if let Some(first) = noise.first_mut() {
            *first = if v6 { 0x60 } else { 0x45 };
        }
        let _ = Quoted::of(&noise);
        let mut packet = tcp_packet(v6, 40);
        for (at, bit) in flips {
            packet[at] ^= 1 << bit;
        }
        if let Ok(view) = ip::Packet::parse(&packet)
            && let Some(reply) = ErrorReply::to(&view, server(v6), Cause::TimeExceeded)
        {
            let mut bytes = vec![0; reply.packet_len()];
            reply.emit(&mut bytes);
            let view = ip::Packet::parse(&bytes).unwrap();
            prop_assert!(view.verify_checksum());
        }
    }
}

fn client(v6: bool) -> IpAddr {
    if v6 { CLIENT6.into() } else { CLIENT4.into() }
}

fn server(v6: bool) -> IpAddr {
    if v6 { SERVER6.into() } else { SERVER4.into() }
}

fn tcp_packet(v6: bool, payload: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload = vec![0x5a; payload];
    if v6 {
        PacketBuilder::ipv6(CLIENT6, SERVER6, 64)
            .tcp(40_000, 443, 0x0102_0304, 1000)
            .write(&mut bytes, &payload)
    } else {
        PacketBuilder::ipv4(CLIENT4, SERVER4, 64)
            .tcp(40_000, 443, 0x0102_0304, 1000)
            .write(&mut bytes, &payload)
    }
    .unwrap();
    bytes
}

fn echo_packet(v6: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if v6 {
        PacketBuilder::ipv6(CLIENT6, SERVER6, 64)
            .icmpv6_echo_request(1, 2)
            .write(&mut bytes, b"ping")
    } else {
        PacketBuilder::ipv4(CLIENT4, SERVER4, 64)
            .icmpv4_echo_request(1, 2)
            .write(&mut bytes, b"ping")
    }
    .unwrap();
    bytes
}

fn error_reply(packet: &[u8], cause: Cause) -> Option<Vec<u8>> {
    let view = ip::Packet::parse(packet).unwrap();
    let v6 = view.version() == Family::V6;
    let reply = ErrorReply::to(&view, server(v6), cause)?;
    let mut bytes = vec![0xaa; reply.packet_len()];
    reply.emit(&mut bytes);
    Some(bytes)
}
