//! Section A of the load balancer checklist: what is accepted, what goes back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use bench::*;
use flowdog_dataplane::{AttachmentId, DropReason, Event, FlowCookie, Verdict, VpcEndpointId};
use wire::tcp::Seq;

/// A datagram that passes on a fresh bench, byte for byte.
fn assert_passes(datagram: Vec<u8>) {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    bench.deliver_bytes(datagram.clone(), gwlb(1, 50_000));
    // The first packet waits for its verdict and leaves from the queue, the second from its buffer.
    assert_eq!(
        bench.sent.len(),
        1,
        "the first packet of a passed flow leaves"
    );
    assert_eq!(bench.sent[0].bytes, datagram);
    match bench.deliver_bytes(datagram.clone(), gwlb(1, 50_000)) {
        Answer::Hairpin(sent) => assert_eq!(sent.bytes, datagram),
        other => panic!("not sent back: {other:?}"),
    }
}

fn assert_dropped(datagram: Vec<u8>, reason: DropReason) {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let answer = bench.deliver_bytes(datagram, gwlb(1, 50_000));
    assert_eq!(answer, Answer::Dropped(reason));
    assert_eq!(bench.dataplane.counters().dropped(reason), 1);
    assert_eq!(bench.dataplane.flows_active(), 0);
    assert!(bench.events.is_empty() && bench.sent.is_empty());
}

#[test]
fn gwlb_a01_the_usual_datagram_is_accepted() {
    assert_passes(syn().packet().datagram());
    assert_passes(udp(client(), server(), b"query").datagram());
}

#[test]
fn gwlb_a02_options_in_another_order_and_unknown_ones_come_back_unchanged() {
    let unknown = [0x01, 0x08, 0x09, 0x01, 0xde, 0xad, 0xbe, 0xef];
    assert_passes(syn().packet().extra(&unknown).datagram());
    let mut reordered = syn().packet().datagram();
    // Cookie first.
    reordered[8..40].rotate_right(8);
    assert_passes(reordered);
}

#[test]
fn gwlb_a03_malformed_outer_headers_are_dropped_by_reason() {
    let good = syn().packet().datagram();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut datagram = good.clone();
        change(&mut datagram);
        datagram
    };
    assert_dropped(Vec::new(), DropReason::GeneveTruncated);
    assert_dropped(changed(&|d| d[0] |= 0x40), DropReason::GeneveBadVersion);
    assert_dropped(
        changed(&|d| d.truncate(30)),
        DropReason::GeneveOptionsTruncated,
    );
    assert_dropped(
        changed(&|d| d[35] = 0x1f),
        DropReason::GeneveOptionTruncated,
    );
    assert_dropped(
        changed(&|d| {
            d[0] = 7;
            d[35] = 0;
            d.drain(36..40);
        }),
        DropReason::GeneveBadOptionLength,
    );
    assert_dropped(changed(&|d| d[34] = 9), DropReason::GeneveMissingCookie);
    assert_dropped(changed(&|d| d[10] = 9), DropReason::GeneveMissingEndpoint);
    assert_dropped(changed(&|d| d[22] = 9), DropReason::GeneveMissingAttachment);
    assert_dropped(
        changed(&|d| d[34] = 0x83),
        DropReason::GeneveUnknownCriticalOption,
    );
    assert_dropped(changed(&|d| d[2] = 0x65), DropReason::GeneveBadProtocolType);
    assert_dropped(
        changed(&|d| (d[2], d[3]) = (0x86, 0xdd)),
        DropReason::GeneveFamilyMismatch,
    );
    assert_dropped(
        changed(&|d| d.truncate(70)),
        DropReason::GeneveInnerTruncated,
    );
    assert_dropped(changed(&|d| d[40] = 0x44), DropReason::IpMalformed);
    // An inner TCP header that says it is longer than the packet.
    assert_dropped(changed(&|d| d[72] = 0xf0), DropReason::TcpMalformed);
}

#[test]
fn gwlb_a04_odd_but_legal_bits_are_counted_and_pass() {
    let good = syn().packet().datagram();
    for (at, bits) in [
        (1, 0x80),
        (1, 0x40),
        (1, 0x01),
        (4, 0x12),
        (7, 0xff),
        (31, 1),
    ] {
        let mut datagram = good.clone();
        datagram[at] |= bits;
        assert_passes(datagram.clone());
        let mut bench = Bench::with_verdict(Verdict::Pass);
        bench.deliver_bytes(datagram, gwlb(1, 50_000));
        assert_eq!(bench.dataplane.counters().unusual_outer, 1, "byte {at}");
    }
}

#[test]
fn gwlb_a05_answers_go_to_the_address_and_port_that_sent_last() {
    let mut bench = Bench::intercepted();
    let there = gwlb(3, 61_234);
    bench.give(&from_server(0, 0, b"data").packet().via(there));
    let sent = bench.take_sent();
    assert!(!sent.is_empty());
    for sent in sent {
        assert_eq!(sent.outer, there);
    }
}

#[test]
fn gwlb_a06_our_packets_carry_the_newest_header_of_the_flow_byte_for_byte() {
    let mut bench = Bench::intercepted();
    let unknown = [0x01, 0x08, 0x09, 0x01, 0xde, 0xad, 0xbe, 0xef];
    let mut packet = from_server(0, 0, b"data").packet().extra(&unknown);
    packet.attachment = AttachmentId(5);
    let header = packet.datagram()[..48].to_vec();
    bench.give(&packet);
    let sent = bench.take_sent();
    assert!(!sent.is_empty());
    for sent in sent {
        assert_eq!(sent.header(), header);
    }
}

#[test]
fn gwlb_a06_released_packets_carry_the_newest_header_too() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"first").packet().cookie(1));
    bench.give(&from_server(0, 0, b"").packet().cookie(2));
    let flow = bench.only_flow();
    bench
        .dataplane
        .set_first_bytes(flow, flowdog_dataplane::FirstBytes::Bypass, bench.now);
    bench.drain();
    let sent = bench.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].cookie(), 2);
    assert_eq!(sent[0].inner(), from_client(0, b"first").inner());
}

#[test]
fn gwlb_a08_passed_packets_keep_every_byte_padding_and_wrong_checksums_included() {
    let mut datagram = from_client(0, b"payload").packet().datagram();
    let at = datagram.len() - 1;
    let mut bench = Bench::with_verdict(Verdict::Pass);
    bench.give(&syn().packet());
    datagram[at] ^= 0xff;
    datagram.extend_from_slice(&[0; 6]);
    match bench.deliver_bytes(datagram.clone(), gwlb(1, 50_000)) {
        Answer::Hairpin(sent) => assert_eq!(sent.bytes, datagram),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.dataplane.counters().hairpinned_packets, 1);
}

#[test]
fn gwlb_a09_packets_of_our_own_have_valid_checksums_and_copy_the_other_ends_manner() {
    let mut bench = Bench::intercepted();
    bench.give(&from_server(0, 0, b"data").packet());
    bench.read(flowdog_dataplane::Leg::Server);
    bench.write(flowdog_dataplane::Leg::Client, &[b'x'; 3000]);
    bench.write(flowdog_dataplane::Leg::Server, b"request");
    let sent = bench.take_sent();
    assert!(sent.len() >= 4);
    for sent in sent {
        // Checks lengths and checksums.
        let _ = sent.tcp();
        let inner = sent.inner();
        let packet = wire::ip::Packet::parse(&inner).unwrap();
        assert_eq!((packet.hop_limit(), packet.traffic_class()), (61, 0x28));
        assert!(packet.dont_fragment());
    }
}

#[test]
fn gwlb_a10_identifiers_are_reported_as_the_load_balancer_prints_them() {
    let mut bench = Bench::new(flowdog_dataplane::Config::default());
    bench.give(&syn().packet());
    let view = bench.dataplane.flow(bench.flow_opened()).unwrap();
    assert_eq!(view.endpoint.to_string(), "vpce-00123456789abcdef");
    assert_eq!(view.attachment.to_string(), "0000000000000000");
    assert_eq!(view.cookie.to_string(), "11223344");
    assert_eq!((view.client, view.server), (client(), server()));
}

#[test]
fn gwlb_a11_threat_54_senders_outside_the_allowed_networks_are_refused() {
    let mut bench = Bench::new(flowdog_dataplane::Config {
        allowed_sources: vec![([10, 9, 0, 0].into(), 24), ([192, 0, 2, 1].into(), 32)],
        ..flowdog_dataplane::Config::default()
    });
    bench.verdict = Some(Verdict::Pass);
    assert_eq!(bench.give(&syn().packet()).len(), 1);
    let mut foreign = gwlb(1, 50_000);
    foreign.gwlb.set_ip([10, 9, 1, 1].into());
    let refused = Answer::Dropped(DropReason::ForeignSource);
    assert_eq!(bench.deliver(&syn().packet().via(foreign)), refused);
    foreign.gwlb.set_ip([192, 0, 2, 1].into());
    assert_eq!(bench.give(&syn().packet().via(foreign)).len(), 1);
}

#[test]
fn gwlb_a01_the_golden_vector_is_understood() {
    let mut datagram = vec![
        0x08, 0x00, 0x08, 0x00, 0, 0, 0, 0, 0x01, 0x08, 0x01, 0x02, 0x01, 0x23, 0x45, 0x67, 0x89,
        0xab, 0xcd, 0xef, 0x01, 0x08, 0x02, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x08, 0x03, 0x01,
        0x11, 0x22, 0x33, 0x44,
    ];
    datagram.extend_from_slice(&syn().inner());
    let mut bench = Bench::new(flowdog_dataplane::Config::default());
    bench.deliver_bytes(datagram, gwlb(1, 50_000));
    let view = bench.dataplane.flow(bench.flow_opened()).unwrap();
    assert_eq!(view.endpoint, VpcEndpointId(0x0123_4567_89ab_cdef));
    assert_eq!(view.cookie, FlowCookie(0x1122_3344));
}

#[test]
fn threat_59_nothing_leaves_to_an_address_that_did_not_send_the_flow() {
    let mut bench = Bench::intercepted();
    let mut senders = vec![gwlb(1, 50_000)];
    for (n, port) in [(2u8, 1000u16), (3, 2000), (4, 3000)] {
        senders.push(gwlb(n, port));
        bench.give(&from_server(0, 0, b"").packet().via(gwlb(n, port)));
        bench.pass(ms(300));
    }
    for sent in &bench.sent {
        assert!(senders.contains(&sent.outer));
    }
    // Answers to what belongs to no connection are never larger than the question, but for the header
    // that an ICMP error adds.
    let mut bench = Bench::with_verdict(Verdict::Reset);
    let strange = Tcp::new(client(), server(), flags("A"), Seq(1), Seq(2)).packet();
    for packet in [syn().packet(), strange, udp(client(), server(), &[0; 100])] {
        let before = bench.sent.len();
        bench.give(&packet);
        let out = &bench.sent[before..];
        assert!(!out.is_empty() && out.len() <= 2);
        let question = packet.datagram().len();
        assert!(out.iter().all(|sent| sent.bytes.len() <= question + 28));
        assert!(out.iter().all(|sent| sent.outer == packet.outer));
    }
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::FlowOpened { mid_flow: true, .. }))
            || bench.opened() == 2
    );
}
