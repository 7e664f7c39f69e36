//! Section B of the load balancer checklist: flows.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use std::net::SocketAddr;

use bench::*;
use flowdog_dataplane::{
    BypassReason, Config, DropReason, Event, FirstBytes, FlowEnd, FlowState, Leg, Protocol,
    ReadOutcome, Verdict,
};
use wire::tcp::{Flags, Seq};

fn ended(bench: &Bench) -> Vec<FlowEnd> {
    bench
        .events
        .iter()
        .filter_map(|event| match event {
            Event::FlowEnded { summary, .. } => Some(summary.end),
            _ => None,
        })
        .collect()
}

#[test]
fn gwlb_b01_one_inner_tuple_under_two_endpoints_is_two_flows() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    bench.first_bytes = Some(FirstBytes::Intercept);
    for endpoint in [E1, E2] {
        bench.give(&syn().packet().endpoint(endpoint));
        bench.give(&syn_ack().packet().endpoint(endpoint));
        bench.give(&from_client(0, b"").packet().endpoint(endpoint));
    }
    assert_eq!((bench.opened(), bench.dataplane.flows_active()), (2, 2));
    bench.give(&from_client(0, b"one").packet().endpoint(E1));
    bench.give(&from_client(0, b"other").packet().endpoint(E2));
    assert_eq!(bench.dataplane.intercepted_flows(), 2);
    let mut seen = Vec::new();
    for event in bench.events.clone() {
        if let Event::LegsReady { flow } = event {
            let mut buffer = [0; 64];
            let ReadOutcome::Bytes(n) =
                bench
                    .dataplane
                    .read(flow, Leg::Client, &mut buffer, bench.now)
            else {
                panic!("nothing to read");
            };
            let endpoint = bench.dataplane.flow(flow).unwrap().endpoint;
            seen.push((endpoint, buffer[..n].to_vec()));
        }
    }
    assert_eq!(seen, [(E1, b"one".to_vec()), (E2, b"other".to_vec())]);
}

#[test]
fn gwlb_b02_one_cookie_under_two_endpoints_load_balancers_and_tuples_is_many_flows() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let other = udp(addr("10.0.0.9:53"), addr("10.1.0.9:53"), b"x");
    let packets = [
        syn().packet(),
        syn().packet().endpoint(E2).via(gwlb(2, 4)),
        other,
    ];
    for packet in &packets {
        assert_eq!(packet.cookie, packets[0].cookie);
        bench.give(packet);
    }
    assert_eq!(bench.dataplane.flows_active(), 3);
}

#[test]
fn gwlb_b03_a_syn_with_a_new_cookie_on_a_live_connection_is_a_new_flow() {
    let mut bench = Bench::intercepted();
    let mut again = syn();
    again.repr.seq = Seq(77);
    let out = bench.give(&again.packet().cookie(0xbeef));
    assert_eq!(ended(&bench), [FlowEnd::Replaced]);
    assert_eq!(
        (bench.opened(), bench.dataplane.intercepted_flows()),
        (1, 0)
    );
    // The server is told that the old connection is gone before it sees the new SYN, and both leave
    // under the new cookie.
    assert_eq!(out.len(), 2);
    let (reset, _) = out[0].tcp();
    assert!(reset.flags.contains(Flags::RST));
    assert_eq!(
        (reset.seq, out[0].ends()),
        (ISN_C + 1, (client(), server()))
    );
    assert_eq!(out[1].inner(), again.inner());
    assert!(out.iter().all(|sent| sent.cookie() == 0xbeef));
    // And the SYN-ACK comes back under it.
    let mut answer = syn_ack();
    answer.repr.ack = Seq(78);
    let out = bench.give(&answer.packet().cookie(0xbeef));
    assert_eq!(out[0].cookie(), 0xbeef);
}

#[test]
fn gwlb_b03_a_syn_with_the_old_cookie_on_a_taken_over_connection_is_challenged() {
    let mut bench = Bench::intercepted();
    let mut forged = syn();
    forged.repr.seq = ISN_C + 100;
    let out = bench.give(&forged.packet());
    assert_eq!(bench.dataplane.intercepted_flows(), 1);
    assert!(out.iter().all(|sent| sent.ends() == (server(), client())));
    assert!(out.iter().all(|sent| !sent.is_reset()), "{out:?}");
}

#[test]
fn gwlb_b03_a_new_sequence_number_on_a_bypassed_connection_is_a_new_flow() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    bench.handshake();
    bench.give(&syn().packet());
    assert_eq!(bench.opened(), 0, "a repeated SYN is not a new connection");
    let mut again = syn();
    again.repr.seq = Seq(77);
    assert_eq!(bench.give(&again.packet())[0].inner(), again.inner());
    assert_eq!(
        (bench.opened(), ended(&bench)),
        (1, vec![FlowEnd::Replaced])
    );
}

#[test]
fn gwlb_b04_cookie_port_and_address_may_change_in_the_middle() {
    let mut bench = Bench::intercepted();
    let moved = gwlb(7, 1025);
    bench.give(&from_server(0, 0, b"a").packet().cookie(9).via(moved));
    for sent in bench.take_sent() {
        assert_eq!((sent.cookie(), sent.outer), (9, moved));
    }
    assert_eq!(bench.read(Leg::Server).0, b"a");
    bench.write(Leg::Client, b"reply");
    let sent = bench.take_sent();
    assert!(sent.iter().any(|sent| sent.tcp().1 == b"reply"));
    for sent in sent {
        assert_eq!((sent.cookie(), sent.outer), (9, moved));
    }
    let counters = bench.dataplane.counters();
    assert_eq!((counters.cookie_changes, counters.outer_changes), (1, 1));
}

#[test]
fn gwlb_b05_the_other_direction_on_another_port_is_the_same_flow() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    bench.give(&syn().packet());
    bench.give(&syn_ack().packet().via(gwlb(1, 999)));
    assert_eq!((bench.opened(), bench.dataplane.flows_active()), (1, 1));
}

#[test]
fn gwlb_b06_two_connections_may_share_a_cookie() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    for port in [40_000, 40_001] {
        let here = SocketAddr::new(client().ip(), port);
        let mut opening = syn();
        opening.src = here;
        bench.give(&opening.packet());
        let mut answer = syn_ack();
        answer.dst = here;
        assert_eq!(bench.give(&answer.packet())[0].inner(), answer.inner());
    }
    assert_eq!(bench.dataplane.flows_active(), 2);
    assert_eq!(bench.dataplane.counters().cookie_changes, 0);
}

#[test]
fn gwlb_b07_everything_else_passes_in_both_directions() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let protocols = [47, 50, 132, 89, 255].map(Protocol);
    let mut packets = Vec::new();
    for protocol in protocols {
        packets.push(other(client(), server(), protocol, b"payload bytes"));
        packets.push(other(server(), client(), protocol, b"payload bytes"));
        packets.push(other(client6(), server6(), protocol, b"payload bytes"));
        packets.push(other(server6(), client6(), protocol, b""));
    }
    packets.push(echo(client(), server(), true));
    packets.push(echo(server(), client(), false));
    packets.push(echo(client6(), server6(), true));
    packets.push(udp(client(), server(), b"query"));
    packets.push(udp(server(), client(), b"answer"));
    packets.push(udp(client6(), server6(), b"query"));
    for packet in &packets {
        let out = bench.give(packet);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].bytes, packet.datagram());
    }
    // One flow for both directions of each.
    assert_eq!(bench.opened(), 5 * 2 + 2 + 2);
    let reason = BypassReason::NotInspectable;
    assert_eq!(bench.dataplane.counters().bypassed(reason), 14);
}

#[test]
fn gwlb_b08_the_first_packet_stays_first() {
    let mut bench = Bench::new(Config::default());
    let packets: Vec<_> = (0..5u8).map(|n| udp(client(), server(), &[n])).collect();
    for packet in &packets[..3] {
        assert_eq!(bench.deliver(packet), Answer::Absorbed);
    }
    let flow = bench.flow_opened();
    bench.dataplane.set_verdict(flow, Verdict::Pass, bench.now);
    // A packet that arrives before the shell has sent the released ones waits behind them.
    let mut bytes = packets[3].datagram();
    bench
        .dataplane
        .handle_datagram(&mut bytes, packets[3].outer, bench.now);
    bench.drain();
    let sent: Vec<_> = bench.sent.iter().map(|sent| sent.bytes.clone()).collect();
    let expected: Vec<_> = packets[..4].iter().map(Packet::datagram).collect();
    assert_eq!(sent, expected);
    assert!(matches!(bench.deliver(&packets[4]), Answer::Hairpin(_)));
}

#[test]
fn gwlb_b09_every_packet_of_ours_has_the_tuple_that_was_delivered() {
    let mut bench = Bench::intercepted();
    bench.give(&from_server(0, 0, b"data").packet());
    bench.read(Leg::Client);
    bench.write(Leg::Server, b"to the server");
    bench.write(Leg::Client, b"to the client");
    bench.pass(ms(2000));
    let flow = bench.only_flow();
    bench.dataplane.abort(flow, bench.now);
    bench.drain();
    assert!(bench.sent.len() > 4);
    for sent in &bench.sent {
        let ends = sent.ends();
        assert!(ends == (client(), server()) || ends == (server(), client()));
    }
}

#[test]
fn gwlb_b10_a_flow_without_a_verdict_holds_up_nobody_else_and_is_bounded() {
    let config = Config {
        park_packets: 4,
        park_total_bytes: 2000,
        ..Config::default()
    };
    let mut bench = Bench::new(config);
    for n in 0..10u8 {
        let answer = bench.deliver(&udp(client(), server(), &[n; 100]));
        let full = Answer::Dropped(DropReason::ParkFull);
        assert_eq!(answer, if n < 4 { Answer::Absorbed } else { full });
    }
    // Others go on, until all that wait together have what they may.
    bench.verdict = Some(Verdict::Pass);
    let passing = udp(addr("10.3.0.1:1"), addr("10.3.0.2:2"), b"x");
    assert_eq!(bench.give(&passing)[0].bytes, passing.datagram());
    bench.verdict = None;
    let mut refused = 0;
    for n in 0..30u16 {
        let packet = udp(
            addr("10.3.0.1:9"),
            SocketAddr::new(server().ip(), n),
            &[0; 100],
        );
        refused +=
            usize::from(bench.deliver(&packet) == Answer::Dropped(DropReason::ParkTotalFull));
    }
    assert!(refused > 15);
    assert!(bench.dataplane.parked_bytes() <= 2000);
    assert!(matches!(bench.deliver(&passing), Answer::Hairpin(_)));
}

#[test]
fn gwlb_b11_a_refused_connection_is_reset_each_time_it_asks() {
    let mut bench = Bench::with_verdict(Verdict::Reset);
    for _ in 0..3 {
        let out = bench.give(&syn().packet());
        assert_eq!(out.len(), 1);
        let (repr, _) = out[0].tcp();
        assert_eq!(repr.flags, flags("RA"));
        assert_eq!((repr.seq, repr.ack), (Seq(0), ISN_C + 1));
        assert_eq!(out[0].ends(), (server(), client()));
        bench.pass(ms(1000));
    }
    assert_eq!(bench.opened(), 1, "policy is asked once for one attempt");
    let mut again = syn();
    again.repr.seq = Seq(5);
    bench.verdict = Some(Verdict::Pass);
    assert_eq!(bench.give(&again.packet())[0].inner(), again.inner());
}

#[test]
fn gwlb_b11_a_silent_refusal_says_nothing() {
    let mut bench = Bench::with_verdict(Verdict::Drop);
    for _ in 0..3 {
        assert!(bench.give(&syn().packet()).is_empty());
    }
    assert_eq!(
        bench.dataplane.counters().dropped(DropReason::Denied),
        2 + 1
    );
    assert_eq!(bench.opened(), 1);
}

#[test]
fn gwlb_c05_a_refused_datagram_is_answered_by_icmp_in_its_own_header_at_a_bounded_rate() {
    for (from, to) in [(client(), server()), (client6(), server6())] {
        let mut bench = Bench::with_verdict(Verdict::Reset);
        let packet = udp(from, to, b"some payload");
        let out = bench.give(&packet);
        assert_eq!(out.len(), 1);
        let inner = out[0].inner();
        let view = wire::ip::Packet::parse(&inner).unwrap();
        let message = wire::icmp::Message::parse(view.payload(), view.version()).unwrap();
        assert!(message.verify_checksum(view.src(), view.dst()));
        assert_eq!((view.src(), view.dst()), (to.ip(), from.ip()));
        let code = if from.is_ipv4() { (3, 13) } else { (1, 1) };
        assert_eq!((message.message_type(), message.code()), code);
        assert_eq!(out[0].header(), packet.datagram()[..40]);
        assert!(bench.give(&packet).is_empty());
        bench.pass(ms(600));
        assert_eq!(bench.give(&packet).len(), 1);
    }
}

#[test]
fn gwlb_b12_the_configured_verdict_comes_when_none_did() {
    for (verdict, expected) in [(Verdict::Pass, 1), (Verdict::Drop, 0)] {
        let mut bench = Bench::new(Config {
            verdict_on_deadline: verdict,
            ..Config::default()
        });
        bench.give(&syn().packet());
        bench.pass(ms(4990));
        assert!(bench.sent.is_empty());
        bench.pass(ms(20));
        assert_eq!(bench.sent.len(), expected);
        assert_eq!(bench.dataplane.counters().verdict_deadlines, 1);
        // A verdict that comes later has no effect.
        let flow = bench.flow_opened();
        bench.dataplane.set_verdict(flow, Verdict::Reset, bench.now);
        bench.drain();
        assert_eq!(bench.sent.len(), expected);
    }
}

#[test]
fn gwlb_b13_a_packet_in_the_middle_of_an_unknown_connection_passes_or_resets_both_ends() {
    let middle = from_client(500, b"data");
    let mut bench = Bench::with_verdict(Verdict::Pass);
    assert_eq!(bench.give(&middle.packet())[0].inner(), middle.inner());
    assert!(matches!(
        bench.events[0],
        Event::FlowOpened { mid_flow: true, .. }
    ));

    let mut bench = Bench::with_verdict(Verdict::Reset);
    let out = bench.give(&middle.packet());
    let mut resets: Vec<_> = out
        .iter()
        .map(|sent| (sent.ends(), sent.tcp().0.seq, sent.is_reset()))
        .collect();
    resets.sort_by_key(|(ends, ..)| *ends);
    assert_eq!(
        resets,
        [
            ((client(), server()), middle.repr.seq, true),
            ((server(), client()), middle.repr.ack, true),
        ]
    );
    // The other end is told too when it speaks.
    let out = bench.give(&from_server(0, 0, b"more").packet());
    assert_eq!((out.len(), out[0].ends()), (1, (client(), server())));
}

#[test]
fn threat_60_inspection_of_an_unknown_connection_falls_back_to_passing_it() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let middle = from_client(500, b"data");
    assert_eq!(bench.give(&middle.packet())[0].inner(), middle.inner());
    // The end of something unknown needs no flow at all.
    let mut fin = from_server(7, 504, b"");
    fin.repr.flags = flags("FA");
    fin.src = addr("10.1.0.3:443");
    assert!(matches!(bench.deliver(&fin.packet()), Answer::Hairpin(_)));
    assert_eq!(bench.dataplane.counters().stateless_packets, 1);
    assert_eq!(bench.dataplane.flows_active(), 1);
}

#[test]
fn gwlb_b14_flows_are_forgotten_after_their_idle_time() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    bench.give(&udp(client(), server(), b"x"));
    bench.handshake();
    bench.pass(ms(119_000));
    assert_eq!(bench.dataplane.flows_active(), 2);
    bench.give(&udp(server(), client(), b"x"));
    bench.pass(ms(119_000));
    assert_eq!(bench.dataplane.flows_active(), 2);
    bench.pass(ms(2000));
    assert_eq!(bench.dataplane.flows_active(), 1);
    bench.pass(ms(350_000));
    assert_eq!(bench.dataplane.flows_active(), 0);
    assert_eq!(ended(&bench), [FlowEnd::Idle, FlowEnd::Idle]);
}

#[test]
fn gwlb_b14_intercepted_legs_ask_both_peers_before_half_of_the_idle_time() {
    let mut bench = Bench::intercepted();
    bench.read(Leg::Client);
    bench.give(&from_server(0, 0, b"").packet());
    bench.take_sent();
    bench.pass(ms(175_000));
    let asked: Vec<_> = bench.sent.iter().map(|sent| sent.ends()).collect();
    assert!(asked.contains(&(server(), client())), "{asked:?}");
    assert!(asked.contains(&(client(), server())), "{asked:?}");
}

#[test]
fn gwlb_b14_dead_peers_are_given_up_and_both_ends_reset() {
    let mut bench = Bench::intercepted();
    bench.pass(ms(349_000));
    assert_eq!(bench.dataplane.intercepted_flows(), 0);
    assert_eq!(ended(&bench), [FlowEnd::TimedOut]);
    let last: Vec<_> = bench.sent.iter().filter(|sent| sent.is_reset()).collect();
    assert!(!last.is_empty());
}

#[test]
fn gwlb_b14_a_flood_of_flows_takes_bounded_memory_and_spares_what_cannot_be_rebuilt() {
    let mut bench = Bench::new(Config {
        max_flows: 1000,
        ..Config::default()
    });
    bench.verdict = Some(Verdict::Pass);
    let live = syn().packet();
    for n in 0..5000u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let here = SocketAddr::new([11, a, b, c].into(), 7);
        let out = bench.give(&udp(here, server(), b"flood"));
        assert_eq!(out.len(), 1, "fails open");
        bench.pass(ms(1));
        bench.give(&live);
    }
    assert!(bench.dataplane.flows_active() <= 1000);
    assert!(bench.dataplane.counters().flows_evicted >= 3900);
    // Eviction never takes what cannot be rebuilt.
    let mut bench = Bench::new(Config {
        max_flows: 1,
        ..Config::default()
    });
    bench.verdict = Some(Verdict::Inspect);
    bench.first_bytes = Some(FirstBytes::Intercept);
    bench.handshake();
    bench.give(&from_client(0, b"hello").packet());
    let stranger = udp(addr("11.0.0.1:1"), server(), b"x");
    assert!(matches!(bench.deliver(&stranger), Answer::Hairpin(_)));
    assert_eq!(bench.dataplane.counters().flows_untracked, 1);
    assert_eq!(bench.dataplane.intercepted_flows(), 1);
}

#[test]
fn gwlb_b15_fin_frees_a_bypassed_flow_after_a_short_linger() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    bench.handshake();
    bench.give(&with_flags(from_client(0, b""), "FA").packet());
    bench.pass(ms(10_000));
    assert_eq!(bench.dataplane.flows_active(), 1, "half closed");
    bench.give(&with_flags(from_server(0, 1, b""), "FA").packet());
    bench.give(&from_client(1, b"").packet());
    bench.pass(ms(5100));
    assert_eq!(bench.dataplane.flows_active(), 0);
    assert_eq!(ended(&bench), [FlowEnd::Finished]);
}

#[test]
fn gwlb_b15_fin_and_half_close_propagate_through_the_legs() {
    let mut bench = Bench::intercepted();
    assert_eq!(bench.read(Leg::Client).0, b"hello");
    bench.give(&with_flags(from_client(5, b""), "FA").packet());
    assert_eq!(bench.read(Leg::Client).1, ReadOutcome::Finished);
    let flow = bench.only_flow();
    bench.dataplane.shutdown(flow, Leg::Server, bench.now);
    bench.drain();
    let fin = |sent: &&Sent| sent.tcp().0.flags.contains(Flags::FIN);
    let to_server = bench.sent.iter().find(fin).expect("a FIN");
    assert_eq!(to_server.ends(), (client(), server()));
    // The other direction stays open.
    bench.take_sent();
    bench.give(&from_server(0, 1, b"late answer").packet());
    assert_eq!(bench.read(Leg::Server).0, b"late answer");
    bench.write(Leg::Client, b"late answer");
    assert!(bench.sent.iter().any(|sent| sent.tcp().1 == b"late answer"));
    // Then it closes as well, and the memory goes with it.
    bench.give(&with_flags(from_server(11, 1, b""), "FA").packet());
    bench.dataplane.shutdown(flow, Leg::Client, bench.now);
    bench.drain();
    let mut last = from_client(6, b"");
    last.repr.ack = ISN_S + 1 + 12;
    bench.give(&last.packet());
    bench.pass(ms(3000));
    assert_eq!(bench.dataplane.intercepted_flows(), 0);
    assert_eq!(ended(&bench), [FlowEnd::Finished]);
    bench.pass(ms(5100));
    assert_eq!(bench.dataplane.flows_active(), 0);
}

#[test]
fn gwlb_b15_a_reset_of_one_leg_reaches_the_other() {
    for (reset, leg) in [
        (with_flags(from_server(0, 0, b""), "R"), Leg::Server),
        (with_flags(from_client(5, b""), "R"), Leg::Client),
    ] {
        let mut bench = Bench::intercepted();
        bench.read(Leg::Client);
        bench.give(&reset.packet());
        assert_eq!(bench.read(leg).1, ReadOutcome::Reset);
        // The shell may react at once; if it does not, the data plane does.
        bench.pass(ms(3100));
        let resets: Vec<_> = bench.sent.iter().filter(|sent| sent.is_reset()).collect();
        assert!(!resets.is_empty());
        assert!(
            resets
                .iter()
                .all(|sent| sent.ends() == (reset.src, reset.dst))
        );
        assert_eq!(bench.dataplane.intercepted_flows(), 0);
        assert_eq!(ended(&bench), [FlowEnd::Reset]);
    }
}

#[test]
fn gwlb_b15_the_same_tuple_is_free_at_once_for_a_new_connection() {
    let mut bench = Bench::intercepted();
    let flow = bench.only_flow();
    bench.dataplane.abort(flow, bench.now);
    bench.drain();
    assert_eq!(bench.dataplane.flow(flow).unwrap().state, FlowState::Ended);
    // Data of the old connection is refused, not forwarded: its numbers mean something else there.
    let out = bench.give(&from_client(5, b"late").packet());
    assert!(out.len() == 1 && out[0].is_reset());
    assert!(bench.give(&from_client(5, b"").packet()).is_empty());
    let mut again = syn();
    again.repr.seq = ISN_C + 5000;
    bench.events.clear();
    assert_eq!(
        bench.give(&again.packet().cookie(5))[0].inner(),
        again.inner()
    );
    assert_eq!(bench.opened(), 1);
}

#[test]
fn gwlb_b16_a_packet_that_comes_twice_is_forwarded_twice_and_opens_one_flow() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    for _ in 0..2 {
        assert_eq!(bench.give(&syn().packet())[0].inner(), syn().inner());
    }
    assert_eq!(bench.opened(), 1);
    // Through another endpoint it is another flow, for policy to judge anew.
    bench.give(&syn().packet().endpoint(E2));
    assert_eq!(bench.opened(), 2);
}

#[test]
fn threat_56_a_packet_from_and_to_the_same_end_harms_nobody() {
    for verdict in [
        Verdict::Pass,
        Verdict::Inspect,
        Verdict::Reset,
        Verdict::Drop,
    ] {
        let mut bench = Bench::with_verdict(verdict);
        for letters in ["S", "SA", "A", "FA", "R"] {
            let land = Tcp::new(client(), client(), flags(letters), ISN_C, ISN_C + 1);
            bench.give(&land.packet());
            bench.give(&land.payload(b"x").packet());
        }
        assert!(bench.dataplane.flows_active() <= 1);
    }
}

#[test]
fn the_end_of_a_drain_resets_what_is_intercepted_and_drops_what_nobody_has_judged() {
    let mut bench = Bench::intercepted();
    bench.verdict = None;
    let stranger = udp(addr("11.0.0.1:1"), server(), b"x");
    assert_eq!(bench.deliver(&stranger), Answer::Absorbed);
    let sent = bench.sent.len();
    bench.dataplane.reset_all(bench.now);
    bench.drain();
    assert_eq!(bench.dataplane.intercepted_flows(), 0);
    let after = &bench.sent[sent..];
    assert!(
        after.iter().all(Sent::is_reset),
        "and no packet of the stranger"
    );
    let mut ends: Vec<_> = after.iter().map(Sent::ends).collect();
    ends.sort();
    ends.dedup();
    assert_eq!(ends, [(client(), server()), (server(), client())]);
}
