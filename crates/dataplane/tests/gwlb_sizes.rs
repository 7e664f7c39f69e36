//! Section C of the load balancer checklist: sizes, ICMP and fragments.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use std::time::Duration;

use bench::*;
use flowdog_dataplane::{DropReason, FlowState, Leg, Protocol, Verdict};
use wire::icmp;
use wire::tcp::{Options, Seq};

/// An IPv4 packet cut into fragments of at most `size` payload bytes, DF kept beside MF as AWS does.
fn fragments(inner: &[u8], size: usize) -> Vec<Packet> {
    let (header, payload) = inner.split_at(20);
    let chunks = payload.chunks(size).count();
    payload
        .chunks(size)
        .enumerate()
        .map(|(n, chunk)| {
            let mut bytes = header.to_vec();
            bytes[2..4].copy_from_slice(&(20 + chunk.len() as u16).to_be_bytes());
            let more = if n + 1 < chunks { 0x2000 } else { 0 };
            let field = 0x4000 | more | (n * size / 8) as u16;
            bytes[6..8].copy_from_slice(&field.to_be_bytes());
            bytes[10..12].copy_from_slice(&[0, 0]);
            let sum = wire::checksum::Sum::new().add_bytes(&bytes).checksum();
            bytes[10..12].copy_from_slice(&sum.to_be_bytes());
            bytes.extend_from_slice(chunk);
            Packet::new(bytes)
        })
        .collect()
}

/// An ICMP "fragmentation needed" from a router, about a packet that left.
fn too_big(quoted: &[u8], mtu: u16, to: std::net::SocketAddr) -> Packet {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend_from_slice(&mtu.to_be_bytes());
    message.extend_from_slice(&quoted[..28.min(quoted.len())]);
    let router = addr("10.7.7.7:0");
    icmp::fill_checksum(&mut message, router.ip(), to.ip());
    other(router, to, Protocol::ICMP, &message)
}

#[test]
fn gwlb_c01_inner_packets_up_to_8933_bytes_are_received() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let packet = udp(client(), server(), &vec![7; 8933 - 28]);
    assert_eq!(packet.inner.len(), 8933);
    assert_eq!(bench.give(&packet)[0].bytes, packet.datagram());
    assert_eq!(bench.dataplane.counters().oversize_received, 1);
}

#[test]
fn gwlb_c02_the_segment_size_in_a_handshake_is_capped_and_ours_stay_below_it() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let jumbo = |mut tcp: Tcp, mss| {
        tcp.repr.options.mss = Some(mss);
        tcp
    };
    let out = bench.give(&jumbo(syn(), 65_000).packet());
    assert_eq!(out[0].tcp().0.options.mss, Some(8460));
    let out = bench.give(&jumbo(syn_ack(), 8961).packet());
    assert_eq!(out[0].tcp().0.options.mss, Some(8460));
    assert_eq!(bench.dataplane.counters().syn_edited, 2);
    bench.first_bytes = Some(flowdog_dataplane::FirstBytes::Intercept);
    bench.give(&from_client(0, b"").window(60_000).packet());
    bench.give(&from_client(0, b"hello").window(60_000).packet());
    bench.take_sent();
    bench.write(Leg::Client, &[1; 50_000]);
    let sizes: Vec<_> = bench.sent.iter().map(|sent| sent.inner().len()).collect();
    assert!(sizes.contains(&8500), "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 8500));

    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let opening = Tcp::new(client6(), server6(), flags("S"), ISN_C, Seq(0)).options(Options {
        mss: Some(9000),
        ..Options::default()
    });
    let out = bench.give(&opening.packet());
    assert_eq!(out[0].tcp().0.options.mss, Some(8440));
}

#[test]
fn gwlb_c02_flows_that_are_not_inspected_keep_their_handshake() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let mut opening = syn();
    opening.repr.options.mss = Some(65_000);
    assert_eq!(
        bench.give(&opening.packet())[0].bytes,
        opening.packet().datagram()
    );
}

#[test]
fn gwlb_c03_a_path_that_swallows_large_packets_is_found_without_icmp() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.write(Leg::Server, &[9; 1460]);
    let mut acked = 0;
    for _ in 0..400 {
        for sent in bench.take_sent() {
            let (repr, payload) = sent.tcp();
            let small = sent.inner().len() <= 1300;
            if sent.ends().0 == client() && !payload.is_empty() && small {
                let end = repr.seq.since(ISN_C + 1) as u32 + payload.len() as u32;
                acked = acked.max(end);
            }
        }
        if acked >= 1460 {
            return;
        }
        if acked > 0 {
            bench.give(&from_server(0, acked, b"").packet());
        }
        bench.pass(Duration::from_millis(100));
    }
    panic!("{acked} of 1460 bytes came through");
}

#[test]
fn gwlb_c04_a_packet_too_big_message_passes_and_lowers_the_segment_size() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.write(Leg::Server, &[9; 1460]);
    let large = bench
        .take_sent()
        .into_iter()
        .find(|sent| sent.inner().len() > 1400);
    let quoted = large.expect("a full segment").inner();
    // Under a cookie of its own, and through another load balancer node.
    bench.verdict = Some(Verdict::Pass);
    let message = too_big(&quoted, 1200, client())
        .cookie(0xabc)
        .via(gwlb(8, 8));
    let out = bench.give(&message);
    assert!(
        out.iter().any(|sent| sent.bytes == message.datagram()),
        "it passes raw"
    );
    assert_eq!(bench.dataplane.counters().path_mtu_lowered, 1);
    bench.pass(ms(1000));
    bench.give(&from_server(0, 1460, b"").packet());
    bench.take_sent();
    bench.write(Leg::Server, &[9; 3000]);
    let sizes: Vec<_> = bench.sent.iter().map(|sent| sent.inner().len()).collect();
    assert!(
        !sizes.is_empty() && sizes.iter().all(|size| *size <= 1200),
        "{sizes:?}"
    );
}

#[test]
fn gwlb_c04_a_forged_packet_too_big_message_has_no_effect() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.write(Leg::Server, &[9; 1000]);
    let mut quoted = bench.take_sent().pop().unwrap().inner();
    quoted[24] ^= 0x40;
    bench.verdict = Some(Verdict::Pass);
    let message = too_big(&quoted, 600, client());
    let out = bench.give(&message);
    assert!(out.iter().any(|sent| sent.bytes == message.datagram()));
    assert_eq!(bench.dataplane.counters().path_mtu_lowered, 0);
}

#[test]
fn gwlb_c06_fragments_pass_each_under_its_own_header() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let whole = udp(client(), server(), &[5; 4000]);
    for (n, fragment) in fragments(&whole.inner, 1480).into_iter().enumerate() {
        let fragment = fragment.cookie(n as u32);
        let out = bench.give(&fragment);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].bytes, fragment.datagram());
    }
    assert_eq!(bench.opened(), 1, "the first fragment has the ports");
    assert_eq!(bench.dataplane.counters().fragments_passed, 2);
}

#[test]
fn gwlb_c06_fragmented_tcp_of_an_undecided_connection_makes_it_bypass() {
    let mut bench = Bench::open();
    for fragment in fragments(&from_client(0, &[1; 900]).inner(), 400) {
        assert_eq!(bench.give(&fragment)[0].bytes, fragment.datagram());
    }
    let view = bench.dataplane.flow(bench.only_flow()).unwrap();
    assert_eq!(view.state, FlowState::Bypassed);
}

#[test]
fn gwlb_c06_fragmented_tcp_of_a_taken_over_connection_is_put_together() {
    let mut bench = Bench::intercepted();
    assert_eq!(bench.read(Leg::Client).0, b"hello");
    let data: Vec<u8> = (0..900u32).map(|n| n as u8).collect();
    let mut pieces = fragments(&from_client(5, &data).inner(), 400);
    pieces.swap(0, 2);
    // Until the first one names the connection the others pass, for nobody can use them.
    assert!(matches!(bench.deliver(&pieces[0]), Answer::Hairpin(_)));
    assert!(matches!(bench.deliver(&pieces[1]), Answer::Hairpin(_)));
    assert_eq!(bench.deliver(&pieces[2]), Answer::Absorbed);
    assert_eq!(bench.read(Leg::Client).0, data);
    assert_eq!(bench.dataplane.counters().fragments_reassembled, 1);
    for fragment in &fragments(&from_client(905, &data).inner(), 400) {
        assert_eq!(bench.deliver(fragment), Answer::Absorbed);
    }
    assert_eq!(bench.read(Leg::Client).0, data);
    assert_eq!(bench.dataplane.fragment_bytes(), 0);
}

#[test]
fn threat_57_fragments_that_never_end_overlap_or_hide_the_header_are_bounded() {
    let mut bench = Bench::intercepted();
    // The TCP header in two pieces.
    let tiny = fragments(&from_client(5, b"xyz").inner(), 8);
    let answer = bench.deliver(&tiny[0]);
    assert_eq!(answer, Answer::Dropped(DropReason::TcpMalformed));
    // First fragments without an end: the data plane keeps a bounded number of them.
    for ident in 0..2000u16 {
        let mut first = fragments(&from_client(5, &[1; 900]).inner(), 800).remove(0);
        first.inner[4..6].copy_from_slice(&ident.to_be_bytes());
        bench.deliver(&first);
    }
    assert!(bench.dataplane.fragment_bytes() <= 1 << 20);
    bench.pass(ms(31_000));
    assert_eq!(bench.dataplane.fragment_bytes(), 0);
    // Overlapping pieces: the packet is given up (RFC 5722 says so for IPv6).
    let mut pieces = fragments(&from_client(5, &[1; 900]).inner(), 400);
    let mut evil = pieces[1].clone();
    let field = u16::from_be_bytes([evil.inner[6], evil.inner[7]]) - 1;
    evil.inner[6..8].copy_from_slice(&field.to_be_bytes());
    pieces.insert(2, evil);
    for fragment in &pieces {
        bench.deliver(fragment);
    }
    assert_eq!(bench.dataplane.counters().fragments_reassembled, 0);
    // And the connection goes on.
    bench.read(Leg::Client);
    bench.give(&from_client(5, b"fine").packet());
    assert_eq!(bench.read(Leg::Client).0, b"fine");
}

#[test]
fn threat_57_odd_inner_headers_do_no_harm() {
    let mut bench = Bench::intercepted();
    // TTL 0 and 1, IPv4 options, extension headers.
    for hop_limit in [0, 1] {
        let mut odd = from_client(5, b"x");
        odd.hop_limit = hop_limit;
        bench.give(&odd.packet());
    }
    let mut with_options = from_client(6, b"y").inner();
    with_options[0] = 0x46;
    with_options.splice(20..20, [1, 1, 1, 0]);
    let total = with_options.len() as u16;
    with_options[2..4].copy_from_slice(&total.to_be_bytes());
    bench.give(&Packet::new(with_options));
    assert_eq!(bench.read(Leg::Client).0, b"helloxy");

    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let opening = Tcp::new(client6(), server6(), flags("S"), ISN_C, Seq(0)).segment();
    let mut inner = ip_packet(
        client6(),
        server6(),
        Protocol(0),
        64,
        0,
        &[6, 0, 1, 4, 0, 0, 0, 0],
    );
    inner.extend_from_slice(&opening);
    let len = (inner.len() - 40) as u16;
    inner[4..6].copy_from_slice(&len.to_be_bytes());
    let packet = Packet::new(inner);
    assert_eq!(bench.give(&packet)[0].bytes, packet.datagram());
    let view = bench.dataplane.flow(bench.only_flow()).unwrap();
    assert_eq!(view.state, FlowState::Bypassed);
}

/// What the shell hands to the kernel as one message (UDP_SEGMENT): equal datagrams in a row, of which
/// the last may be shorter, for one load balancer address.
#[test]
fn segments_of_a_leg_leave_in_runs_that_one_message_can_carry() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.write(Leg::Client, &[1; 14_000]);
    bench.take_sent();
    let mut answer = from_client(5, b"").window(60_000);
    answer.repr.ack += 14_000;
    bench.write(Leg::Client, &[2; 100_000]);
    bench.take_sent();
    let sent = bench.give(&answer.packet());
    assert!(sent.len() >= 8, "{}", sent.len());
    let sizes: Vec<_> = sent.iter().map(|sent| sent.bytes.len()).collect();
    let runs = sizes.chunk_by(|a, b| a == b).count();
    assert!(runs <= 2, "{sizes:?}");
    assert!(sent.iter().all(|other| other.outer == sent[0].outer));
}

/// A batch that the kernel hands over at once costs one acknowledgment, not one for every second
/// segment.
#[test]
fn a_received_batch_is_acknowledged_once() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.take_sent();
    for at in 0..20u32 {
        let packet = from_client(5 + at * 100, &[3; 100]).packet();
        let mut bytes = packet.datagram();
        bench
            .dataplane
            .handle_datagram(&mut bytes, packet.outer, bench.now);
    }
    bench.drain();
    let sent = bench.take_sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].tcp().0.ack, ISN_C + 1 + 5 + 2000);
}
