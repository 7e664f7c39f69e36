//! The simulator's judgement: each rule is broken by a mutated answer and must be counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use wire::gwlb::{AttachmentId, VpcEndpointId};

use super::*;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
const APPLIANCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, GENEVE_PORT);
/// Offsets in a datagram with the usual header.
const COOKIE: usize = 36;
const INNER: usize = 40;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn gwlb_with(change: impl FnOnce(&mut GwlbConfig)) -> Gwlb {
    let mut config = GwlbConfig {
        endpoints: vec![VpcEndpointId(0xa), VpcEndpointId(0xb)],
        client_networks: vec![
            "10.0.0.0/8".parse().unwrap(),
            "fd00:a::/32".parse().unwrap(),
        ],
        ..GwlbConfig::default()
    };
    change(&mut config);
    Gwlb::new(config)
}

fn gwlb() -> Gwlb {
    gwlb_with(|_| {})
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

fn add(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum()
}

/// An IPv4 packet with right checksums; `checksum_at` is where the transport keeps its own.
fn ipv4(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    mut payload: Vec<u8>,
    checksum_at: Option<usize>,
) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (src, dst) else {
        panic!("IPv4 only")
    };
    if let Some(at) = checksum_at {
        let pseudo = if protocol == 1 {
            0
        } else {
            add(&src.octets()) + add(&dst.octets()) + u32::from(protocol) + payload.len() as u32
        };
        let checksum = fold(pseudo + add(&payload));
        payload[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    packet.extend_from_slice(&[0, 1, 0x40, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&src.octets());
    packet.extend_from_slice(&dst.octets());
    let checksum = fold(add(&packet));
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8, seq: u32, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend_from_slice(&src.1.to_be_bytes());
    segment.extend_from_slice(&dst.1.to_be_bytes());
    segment.extend_from_slice(&seq.to_be_bytes());
    segment.extend_from_slice(&[0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend_from_slice(data);
    ipv4(src.0, dst.0, 6, segment, Some(16))
}

fn udp(src: (IpAddr, u16), dst: (IpAddr, u16), data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend_from_slice(&src.1.to_be_bytes());
    datagram.extend_from_slice(&dst.1.to_be_bytes());
    datagram.extend_from_slice(&(8 + data.len() as u16).to_be_bytes());
    datagram.extend_from_slice(&[0, 0]);
    datagram.extend_from_slice(data);
    ipv4(src.0, dst.0, 17, datagram, Some(6))
}

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

fn syn() -> Vec<u8> {
    tcp((CLIENT, 1000), (SERVER, 80), SYN, 7, b"")
}

fn data() -> Vec<u8> {
    tcp((CLIENT, 1000), (SERVER, 80), ACK, 8, b"hello")
}

/// Sends a datagram back as a pass-through appliance does.
fn reflect(
    gwlb: &mut Gwlb,
    datagram: &ToAppliance,
    now: Duration,
) -> Result<Option<Delivery>, Violation> {
    answer(gwlb, datagram, &datagram.payload, now)
}

/// Answers under a datagram's addresses with other bytes.
fn answer(
    gwlb: &mut Gwlb,
    to: &ToAppliance,
    payload: &[u8],
    now: Duration,
) -> Result<Option<Delivery>, Violation> {
    let source = SocketAddrV4::new(*APPLIANCE.ip(), to.source.port());
    let target = SocketAddrV4::new(*to.source.ip(), GENEVE_PORT);
    gwlb.from_appliance(source, target, payload, now)
}

/// Opens a flow, passes its first packet, and returns the second one's datagram.
fn established(gwlb: &mut Gwlb) -> ToAppliance {
    let first = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    reflect(gwlb, &first, secs(1)).unwrap().unwrap();
    gwlb.from_host(0, &data(), secs(1)).unwrap()
}

fn with_inner(datagram: &ToAppliance, inner: &[u8]) -> Vec<u8> {
    let mut payload = datagram.payload[..INNER].to_vec();
    payload.extend_from_slice(inner);
    payload
}

#[test]
fn a_reflected_packet_is_delivered_unchanged_to_the_side_of_its_destination() {
    let mut gwlb = gwlb();
    let out = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    let delivery = reflect(&mut gwlb, &out, secs(1)).unwrap().unwrap();
    assert_eq!(
        (delivery.endpoint, delivery.side, &delivery.packet),
        (0, Side::Server, &syn())
    );
    let back = tcp((SERVER, 80), (CLIENT, 1000), SYN | ACK, 99, b"");
    let out_back = gwlb.from_host(0, &back, secs(1)).unwrap();
    assert_eq!(
        out_back.payload[..INNER],
        out.payload[..INNER],
        "one header for both directions"
    );
    assert_eq!(out_back.source, out.source);
    let delivery = reflect(&mut gwlb, &out_back, secs(1)).unwrap().unwrap();
    assert_eq!((delivery.side, delivery.packet), (Side::Client, back));
    assert_eq!(gwlb.violations().total(), 0);
    assert_eq!((gwlb.stats().flows, gwlb.stats().cookies), (1, 1));
}

#[test]
fn gwlb_s3_each_mutated_answer_is_dropped_and_counted_by_kind() {
    type Mutation = fn(&mut Gwlb, &ToAppliance) -> Result<Option<Delivery>, Violation>;
    let cases: [(Violation, Mutation); 14] = [
        (Violation::WrongCookie, |gwlb, out| {
            let mut payload = out.payload.clone();
            payload[COOKIE] ^= 0x55;
            answer(gwlb, out, &payload, secs(2))
        }),
        (Violation::HeaderAltered, |gwlb, out| {
            let mut payload = out.payload.clone();
            payload[31] ^= 1; // the attachment id
            answer(gwlb, out, &payload, secs(2))
        }),
        (Violation::HeaderAltered, |gwlb, out| {
            let mut payload = out.payload.clone();
            payload[19] ^= 0x70; // no endpoint of ours
            answer(gwlb, out, &payload, secs(2))
        }),
        (Violation::PortsSwapped, |gwlb, out| {
            gwlb.from_appliance(APPLIANCE, out.source, &out.payload, secs(2))
        }),
        (Violation::WrongSourcePort, |gwlb, out| {
            let target = SocketAddrV4::new(*out.source.ip(), GENEVE_PORT);
            gwlb.from_appliance(APPLIANCE, target, &out.payload, secs(2))
        }),
        (Violation::WrongSourceAddress, |gwlb, out| {
            let target = SocketAddrV4::new(*out.source.ip(), GENEVE_PORT);
            let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), out.source.port());
            gwlb.from_appliance(source, target, &out.payload, secs(2))
        }),
        (Violation::WrongGwlbAddress, |gwlb, out| {
            let zones = gwlb.config().zones.clone();
            let other = zones.iter().find(|zone| *zone != out.source.ip()).unwrap();
            let source = SocketAddrV4::new(*APPLIANCE.ip(), out.source.port());
            gwlb.from_appliance(
                source,
                SocketAddrV4::new(*other, GENEVE_PORT),
                &out.payload,
                secs(2),
            )
        }),
        (Violation::MalformedHeader, |gwlb, out| {
            answer(gwlb, out, &out.payload[..COOKIE], secs(2))
        }),
        (Violation::MalformedInner, |gwlb, out| {
            answer(gwlb, out, &out.payload[..out.payload.len() - 1], secs(2))
        }),
        (Violation::BadIpChecksum, |gwlb, out| {
            let mut payload = out.payload.clone();
            payload[INNER + 8] -= 1; // hop limit without a new checksum
            answer(gwlb, out, &payload, secs(2))
        }),
        (Violation::BadTransportChecksum, |gwlb, out| {
            let mut payload = out.payload.clone();
            *payload.last_mut().unwrap() ^= 1;
            answer(gwlb, out, &payload, secs(2))
        }),
        (Violation::Oversize, |gwlb, out| {
            let large = tcp((CLIENT, 1000), (SERVER, 80), ACK, 8, &[0; 8_461]);
            assert_eq!(large.len(), 8_501);
            answer(gwlb, out, &with_inner(out, &large), secs(2))
        }),
        (Violation::TupleOfAnotherFlow, |gwlb, out| {
            let other = tcp((CLIENT, 1001), (SERVER, 80), SYN, 7, b"");
            answer(gwlb, out, &with_inner(out, &other), secs(2))
        }),
        (Violation::Unsolicited, |gwlb, out| {
            let mut payload = with_inner(out, &tcp((CLIENT, 1001), (SERVER, 80), SYN, 7, b""));
            payload[COOKIE] ^= 0x55;
            answer(gwlb, out, &payload, secs(2))
        }),
    ];
    for (kind, mutate) in cases {
        let mut gwlb = gwlb();
        let out = established(&mut gwlb);
        assert_eq!(mutate(&mut gwlb, &out), Err(kind));
        assert_eq!(gwlb.violations().count(kind), 1, "{kind}");
        assert_eq!(gwlb.violations().total(), 1);
        assert!(gwlb.violations().samples[0].starts_with(kind.as_str()));
        // The unchanged answer is still welcome.
        assert!(reflect(&mut gwlb, &out, secs(2)).unwrap().is_some());
    }
}

#[test]
fn a_large_packet_of_the_allowed_size_passes() {
    let mut gwlb = gwlb();
    established(&mut gwlb);
    let large = tcp((CLIENT, 1000), (SERVER, 80), ACK, 8, &[0; 8_460]);
    let out = gwlb.from_host(0, &large, secs(1)).unwrap();
    assert!(reflect(&mut gwlb, &out, secs(1)).unwrap().is_some());
    assert!(
        gwlb.from_host(
            0,
            &tcp((CLIENT, 1000), (SERVER, 80), ACK, 8, &[0; 8_461]),
            secs(1)
        )
        .is_none()
    );
    assert_eq!(gwlb.stats().oversize_from_hosts, 1);
}

#[test]
fn gwlb_s2_a_reused_tuple_gets_a_new_cookie_and_the_old_one_is_stale() {
    let mut gwlb = gwlb();
    let old = established(&mut gwlb);
    let reset = gwlb
        .from_host(0, &tcp((CLIENT, 1000), (SERVER, 80), RST, 8, b""), secs(2))
        .unwrap();
    reflect(&mut gwlb, &reset, secs(2)).unwrap().unwrap();
    let new = gwlb
        .from_host(
            0,
            &tcp((CLIENT, 1000), (SERVER, 80), SYN, 5_000, b""),
            secs(3),
        )
        .unwrap();
    assert_ne!(new.payload[COOKIE..INNER], old.payload[COOKIE..INNER]);
    let repeated = gwlb
        .from_host(
            0,
            &tcp((CLIENT, 1000), (SERVER, 80), SYN, 5_000, b""),
            secs(3),
        )
        .unwrap();
    assert_eq!(
        new.payload[COOKIE..INNER],
        repeated.payload[COOKIE..INNER],
        "a repeated SYN opens nothing"
    );
    // An answer that was under way is dropped without blame; a later one is a violation.
    assert_eq!(answer(&mut gwlb, &old, &old.payload, secs(3)), Ok(None));
    assert_eq!(gwlb.stats().answers_overtaken, 1);
    let stale = answer(&mut gwlb, &new, &old.payload, secs(4));
    assert_eq!(stale, Err(Violation::StaleCookie));
    assert!(reflect(&mut gwlb, &new, secs(4)).unwrap().is_some());
    assert_eq!(gwlb.stats().flows, 2);
}

#[test]
fn gwlb_s3_tcp_after_the_idle_time_is_dropped_until_a_new_syn() {
    let mut gwlb = gwlb();
    let old = established(&mut gwlb);
    assert!(
        gwlb.from_host(0, &data(), secs(360)).is_none(),
        "the host's data is dropped too"
    );
    assert_eq!(gwlb.stats().host_data_after_idle, 1);
    assert_eq!(
        reflect(&mut gwlb, &old, secs(361)),
        Err(Violation::AfterIdle)
    );
    let new = gwlb.from_host(0, &syn(), secs(362)).unwrap();
    assert_ne!(new.payload[COOKIE..INNER], old.payload[COOKIE..INNER]);
    assert!(reflect(&mut gwlb, &new, secs(362)).unwrap().is_some());
}

#[test]
fn udp_after_the_idle_time_opens_a_new_flow() {
    let mut gwlb = gwlb();
    let packet = udp((CLIENT, 1000), (SERVER, 53), b"question");
    let old = gwlb.from_host(0, &packet, secs(1)).unwrap();
    let same = gwlb.from_host(0, &packet, secs(120)).unwrap();
    assert_eq!(old.payload, same.payload);
    let new = gwlb.from_host(0, &packet, secs(300)).unwrap();
    assert_ne!(old.payload, new.payload);
}

#[test]
fn gwlb_s3_the_first_answer_of_a_flow_may_not_come_after_thirty_seconds() {
    let mut gwlb = gwlb();
    let out = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    assert_eq!(
        reflect(&mut gwlb, &out, secs(32)),
        Err(Violation::LateAnswer)
    );
    let mut gwlb = gwlb_with(|_| {});
    let out = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    assert!(reflect(&mut gwlb, &out, secs(31)).unwrap().is_some());
    assert!(
        reflect(&mut gwlb, &out, secs(40)).unwrap().is_some(),
        "later answers may take their time"
    );
}

#[test]
fn gwlb_b01_the_same_tuple_behind_two_endpoints_is_two_flows() {
    let mut gwlb = gwlb();
    let left = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    let right = gwlb.from_host(1, &syn(), secs(1)).unwrap();
    assert_ne!(left.payload[..INNER], right.payload[..INNER]);
    assert_eq!(
        reflect(&mut gwlb, &left, secs(1))
            .unwrap()
            .unwrap()
            .endpoint,
        0
    );
    assert_eq!(
        reflect(&mut gwlb, &right, secs(1))
            .unwrap()
            .unwrap()
            .endpoint,
        1
    );
    // The right endpoint's id with the left one's cookie.
    let mut mixed = right.payload.clone();
    mixed[COOKIE..INNER].copy_from_slice(&left.payload[COOKIE..INNER]);
    assert_eq!(
        answer(&mut gwlb, &right, &mixed, secs(1)),
        Err(Violation::WrongCookie)
    );
}

#[test]
fn a_hosts_damaged_packet_may_pass_but_not_be_made() {
    let mut gwlb = gwlb();
    established(&mut gwlb);
    let mut damaged = data();
    *damaged.last_mut().unwrap() ^= 0x40;
    let out = gwlb.from_host(0, &damaged, secs(1)).unwrap();
    assert_eq!(
        reflect(&mut gwlb, &out, secs(1)).unwrap().unwrap().packet,
        damaged
    );
    *damaged.last_mut().unwrap() ^= 0x20;
    let made = answer(&mut gwlb, &out, &with_inner(&out, &damaged), secs(1));
    assert_eq!(made, Err(Violation::BadTransportChecksum));
}

#[test]
fn gwlb_c05_an_icmp_error_of_the_appliance_travels_under_the_quoted_flows_header() {
    let mut gwlb = gwlb();
    let out = established(&mut gwlb);
    let error_about = |quoted: &[u8]| {
        let mut icmp = vec![3, 13, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&quoted[..28]);
        ipv4(SERVER, CLIENT, 1, icmp, Some(2))
    };
    let delivery = answer(
        &mut gwlb,
        &out,
        &with_inner(&out, &error_about(&data())),
        secs(1),
    );
    assert_eq!(delivery.unwrap().unwrap().side, Side::Client);
    let foreign = error_about(&tcp((CLIENT, 1001), (SERVER, 80), SYN, 7, b""));
    let refused = answer(&mut gwlb, &out, &with_inner(&out, &foreign), secs(1));
    assert_eq!(refused, Err(Violation::TupleOfAnotherFlow));
}

#[test]
fn gwlb_s9_the_switches_shape_header_port_and_cookie() {
    let mut gwlb = gwlb_with(|config| {
        config.switches.option_order = [3, 1, 2];
        config.switches.extra_option = Some(ExtraOption {
            class: 0x0108,
            kind: 9,
            data: vec![1, 2, 3, 4],
        });
        config.switches.attachment = AttachmentId(77);
        config.switches.vni = 0x01_02_03;
        config.switches.control_bits = 0x40;
        config.switches.port_per_direction = true;
        config.switches.cookie_per_direction = true;
    });
    let out = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    assert_eq!(
        out.payload[..16],
        [
            10,
            0x40,
            0x08,
            0,
            1,
            2,
            3,
            0,
            0x01,
            0x08,
            3,
            1,
            out.payload[12],
            out.payload[13],
            out.payload[14],
            out.payload[15]
        ]
    );
    assert_eq!(out.payload[40..48], [0x01, 0x08, 9, 1, 1, 2, 3, 4]);
    let back = gwlb
        .from_host(
            0,
            &tcp((SERVER, 80), (CLIENT, 1000), SYN | ACK, 99, b""),
            secs(1),
        )
        .unwrap();
    assert_ne!(out.source.port(), back.source.port());
    assert_ne!(out.payload[12..16], back.payload[12..16]);
    assert!(reflect(&mut gwlb, &out, secs(1)).unwrap().is_some());
    assert!(reflect(&mut gwlb, &back, secs(1)).unwrap().is_some());
    assert_eq!(gwlb.violations().total(), 0);
}

#[test]
fn gwlb_s8_a_replaced_port_is_accepted_only_while_answers_are_under_way() {
    let mut gwlb = gwlb_with(|config| config.switches.change_port_every = Some(2));
    let first = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    gwlb.from_host(0, &data(), secs(1)).unwrap();
    let moved = gwlb.from_host(0, &data(), secs(1)).unwrap();
    assert_ne!(first.source.port(), moved.source.port());
    assert!(reflect(&mut gwlb, &first, secs(1)).unwrap().is_some());
    assert_eq!(
        reflect(&mut gwlb, &first, secs(2)),
        Err(Violation::WrongSourcePort)
    );
    assert!(reflect(&mut gwlb, &moved, secs(2)).unwrap().is_some());
}

#[test]
fn gwlb_s8_a_cookie_changed_in_the_middle_makes_the_old_one_stale() {
    let mut gwlb = gwlb();
    let old = established(&mut gwlb);
    gwlb.change_cookies(secs(2));
    let new = gwlb.from_host(0, &data(), secs(2)).unwrap();
    assert_ne!(old.payload[COOKIE..INNER], new.payload[COOKIE..INNER]);
    assert_eq!(reflect(&mut gwlb, &old, secs(2)), Ok(None));
    assert_eq!(
        reflect(&mut gwlb, &old, secs(3)),
        Err(Violation::StaleCookie)
    );
    assert!(reflect(&mut gwlb, &new, secs(3)).unwrap().is_some());
}

#[test]
fn gwlb_b06_under_three_tuple_stickiness_connections_share_a_cookie() {
    let mut gwlb = gwlb_with(|config| config.stickiness = Stickiness::ThreeTuple);
    let first = gwlb.from_host(0, &syn(), secs(1)).unwrap();
    let second = gwlb
        .from_host(0, &tcp((CLIENT, 1001), (SERVER, 443), SYN, 3, b""), secs(1))
        .unwrap();
    assert_eq!(first.payload[..INNER], second.payload[..INNER]);
    assert!(reflect(&mut gwlb, &second, secs(1)).unwrap().is_some());
}

#[test]
fn what_a_vpc_does_not_route_is_not_sent_to_the_appliance() {
    let mut gwlb = gwlb();
    let multicast: IpAddr = "224.0.0.251".parse().unwrap();
    assert!(
        gwlb.from_host(0, &udp((CLIENT, 5353), (multicast, 5353), b"who"), secs(1))
            .is_none()
    );
    assert!(gwlb.from_host(0, b"\x00junk", secs(1)).is_none());
    assert_eq!((gwlb.stats().unroutable, gwlb.stats().unparsable), (1, 1));
    assert_eq!(gwlb.stats().flows, 0);
}

#[test]
fn the_flow_table_is_bounded() {
    let mut gwlb = gwlb_with(|config| config.max_flows = 10);
    for port in 1..=20 {
        let out = gwlb.from_host(0, &tcp((CLIENT, port), (SERVER, 80), SYN, 1, b""), secs(1));
        assert_eq!(out.is_some(), port <= 10);
    }
    assert_eq!(gwlb.stats().flow_table_full, 10);
    // Idle entries make room.
    assert!(
        gwlb.from_host(0, &tcp((CLIENT, 99), (SERVER, 80), SYN, 1, b""), secs(500))
            .is_some()
    );
    assert_eq!(gwlb.stats().flows_open, 1);
}

#[test]
fn random_answers_never_panic_and_are_never_delivered() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    let mut rng = SmallRng::seed_from_u64(11);
    let mut gwlb = gwlb();
    let out = established(&mut gwlb);
    let before = gwlb.stats().packets_to_hosts;
    for _ in 0..50_000 {
        let mut payload = out.payload.clone();
        payload.truncate(rng.random_range(0..=payload.len()));
        let flips = rng.random_range(1..4);
        for _ in 0..flips {
            if !payload.is_empty() {
                let at = rng.random_range(0..payload.len());
                payload[at] ^= 1 << rng.random_range(0..8);
            }
        }
        if payload == out.payload {
            continue;
        }
        let judged = answer(&mut gwlb, &out, &payload, secs(2));
        assert!(!matches!(judged, Ok(Some(_))), "{payload:?}");
    }
    assert_eq!(gwlb.stats().packets_to_hosts, before);
}
