//! The state table of the tracker, row by row: what a packet does to a connection that is watched.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use bench::*;
use flowdog_dataplane::{
    BypassReason, Config, DropReason, Event, FirstBytes, FlowState, Leg, ReadOutcome, Verdict,
};
use wire::tcp::{Flags, Options, Seq};

fn state(bench: &Bench) -> FlowState {
    bench.dataplane.flow(bench.only_flow()).unwrap().state
}

/// Delivers a packet that must leave from its own buffer, byte for byte.
fn assert_forwarded(bench: &mut Bench, tcp: &Tcp) {
    match bench.deliver(&tcp.packet()) {
        Answer::Hairpin(sent) => assert_eq!(sent.bytes, tcp.packet().datagram()),
        other => panic!("{other:?}"),
    }
}

fn assert_bypassed(bench: &Bench, reason: BypassReason) {
    assert_eq!(state(bench), FlowState::Bypassed);
    assert_eq!(bench.dataplane.counters().bypassed(reason), 1, "{reason:?}");
}

fn first_bytes(bench: &Bench) -> usize {
    let is = |event: &&Event| matches!(event, Event::FirstBytes { .. });
    bench.events.iter().filter(is).count()
}

fn answer(bench: &mut Bench, answer: FirstBytes) {
    let flow = bench.only_flow();
    bench.dataplane.set_first_bytes(flow, answer, bench.now);
    bench.drain();
}

/// A bench on which only the SYN was seen.
fn half_open() -> Bench {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    bench.give(&syn().packet());
    bench.take_sent();
    bench
}

fn after_syn_ack() -> Bench {
    let mut bench = half_open();
    bench.give(&syn_ack().packet());
    bench
}

// SYN.

#[test]
fn syn_a_repeated_syn_is_forwarded() {
    let mut bench = half_open();
    assert_forwarded(&mut bench, &syn());
    assert_eq!(bench.opened(), 1);
}

#[test]
fn syn_another_sequence_number_is_a_new_flow() {
    let mut bench = half_open();
    let mut again = syn();
    again.repr.seq = Seq(9);
    assert_eq!(bench.give(&again.packet())[0].inner(), again.inner());
    assert_eq!(bench.opened(), 2);
}

#[test]
fn syn_from_the_server_too_is_a_simultaneous_open_and_bypassed() {
    let mut bench = half_open();
    let other = Tcp::new(server(), client(), flags("S"), ISN_S, Seq(0));
    assert_forwarded(&mut bench, &other);
    assert_bypassed(&bench, BypassReason::SimultaneousOpen);
}

#[test]
fn syn_a_closed_ports_reset_is_forwarded_raw_and_frees_the_flow() {
    let mut bench = half_open();
    let refusal = Tcp::new(server(), client(), flags("RA"), Seq(0), ISN_C + 1);
    assert_forwarded(&mut bench, &refusal);
    assert_eq!(state(&bench), FlowState::Ended);
    bench.pass(ms(5100));
    assert_eq!(bench.dataplane.flows_active(), 0);
}

#[test]
fn threat_58_a_reset_that_does_not_acknowledge_the_syn_frees_nothing() {
    let mut bench = half_open();
    let blind = Tcp::new(server(), client(), flags("RA"), Seq(0), ISN_C + 2);
    assert_forwarded(&mut bench, &blind);
    assert_eq!(state(&bench), FlowState::Tracking);
    assert_eq!(bench.dataplane.counters().rst_ignored, 1);
}

#[test]
fn syn_is_forgotten_after_120_seconds_and_sooner_under_pressure() {
    let mut bench = half_open();
    bench.pass(ms(119_000));
    assert_eq!(bench.dataplane.flows_active(), 1);
    bench.pass(ms(1100));
    assert_eq!(bench.dataplane.flows_active(), 0);

    let mut bench = Bench::new(Config {
        half_open_pressure: 3,
        ..Config::default()
    });
    bench.verdict = Some(Verdict::Inspect);
    for port in 0..10 {
        let mut opening = syn();
        opening.src.set_port(port + 1);
        bench.give(&opening.packet());
    }
    bench.pass(ms(5100));
    assert!(bench.dataplane.flows_active() <= 3);
}

#[test]
fn syn_data_is_cut_with_fast_open_and_the_rest_left_valid() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    let cookie = [34, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1];
    let opening = syn().raw_options(&cookie).payload(b"early data");
    let out = bench.give(&opening.packet());
    assert_eq!(out.len(), 1);
    let (repr, payload) = out[0].tcp();
    assert!(payload.is_empty());
    assert_eq!(repr.options, syn().repr.options);
    let inner = out[0].inner();
    assert!(!inner.windows(4).any(|bytes| bytes == [34, 10, 1, 2]));
    assert_eq!(bench.dataplane.counters().syn_edited, 1);
}

#[test]
fn syn_edits_happen_in_the_buffer_too() {
    let mut bench = half_open();
    let opening = syn().payload(b"early data");
    match bench.deliver(&opening.packet()) {
        Answer::Hairpin(sent) => {
            assert_eq!(sent.tcp().1, b"");
            assert_eq!(sent.bytes.len(), opening.packet().datagram().len() - 10);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn syn_loses_multipath_encryption_experiments_and_accurate_ecn() {
    for raw in [
        vec![30, 4, 0x01, 0x81],
        vec![69, 3, 0x11, 1],
        vec![254, 6, 0xf9, 0x89, 1, 2, 1, 1],
        vec![253, 4, 1, 2],
        vec![172, 5, 0, 0, 1, 1, 1, 1],
    ] {
        let mut bench = Bench::with_verdict(Verdict::Inspect);
        let opening = with_flags(syn(), "SECN").raw_options(&raw);
        let out = bench.give(&opening.packet());
        let (repr, _) = out[0].tcp();
        assert_eq!(repr.flags, flags("SEC"), "classic ECN stays");
        assert_eq!(repr.options, syn().repr.options);
        let inner = out[0].inner();
        let segment = wire::tcp::Segment::parse(&inner[20..]).unwrap();
        assert!(segment.options().all(|(kind, _)| kind != raw[0]));
        assert_eq!(inner.len(), opening.inner().len());
        assert_eq!(state(&bench), FlowState::Tracking);
    }
}

#[test]
fn syn_with_a_signature_is_bypassed_for_ever() {
    for kind in [19u8, 29] {
        let mut bench = Bench::with_verdict(Verdict::Inspect);
        let mut raw = vec![kind, 18];
        raw.extend_from_slice(&[7; 16]);
        let mut opening = syn().raw_options(&raw);
        opening.repr.options = Options {
            mss: Some(1460),
            ..Options::default()
        };
        assert_eq!(
            bench.give(&opening.packet())[0].bytes,
            opening.packet().datagram()
        );
        assert_bypassed(&bench, BypassReason::Signed);
        assert_forwarded(&mut bench, &from_client(0, b"data"));
    }
}

#[test]
fn syn_client_data_before_the_syn_ack_was_seen_is_bypassed() {
    let mut bench = half_open();
    // Of an older connection: forwarded, no effect.
    assert_forwarded(&mut bench, &from_client(900_000, b"old"));
    assert_eq!(state(&bench), FlowState::Tracking);
    assert_forwarded(&mut bench, &from_client(0, b"asymmetric"));
    assert_bypassed(&bench, BypassReason::Inconsistent);
}

// SYN-ACK.

#[test]
fn syn_ack_that_acknowledges_something_else_is_forwarded_and_changes_nothing() {
    let mut bench = half_open();
    let mut stale = syn_ack();
    stale.repr.ack = ISN_C + 55;
    assert_forwarded(&mut bench, &stale);
    assert_forwarded(&mut bench, &from_client(0, b""));
    assert_forwarded(&mut bench, &syn_ack());
    assert_forwarded(&mut bench, &from_client(0, b""));
    assert_eq!(
        bench.deliver(&from_client(0, b"x").packet()),
        Answer::Absorbed
    );
}

#[test]
fn syn_ack_with_multipath_or_encryption_is_bypassed() {
    for raw in [vec![30, 4, 1, 1], vec![69, 3, 0x11, 1]] {
        let mut bench = half_open();
        assert_forwarded(&mut bench, &syn_ack().raw_options(&raw));
        assert_bypassed(&bench, BypassReason::Option);
    }
}

#[test]
fn syn_ack_data_with_the_third_packet_is_held_and_a_bare_ack_sent_first() {
    let mut bench = after_syn_ack();
    let data = from_client(0, b"GET /");
    assert_eq!(bench.deliver(&data.packet()), Answer::Absorbed);
    let sent = bench.take_sent();
    assert_eq!(sent.len(), 1);
    let (repr, payload) = sent[0].tcp();
    assert!(payload.is_empty());
    assert_eq!(
        repr,
        wire::tcp::Repr {
            src_port: 40_000,
            dst_port: 443,
            ..from_client(0, b"").repr
        }
    );
    assert_eq!(state(&bench), FlowState::Holding);
    let flow = bench.only_flow();
    assert_eq!(bench.dataplane.held(flow), Some(&b"GET /"[..]));
    assert_eq!(bench.dataplane.counters().acks_synthesised, 1);
}

#[test]
fn syn_ack_server_data_before_the_handshake_is_done_is_bypassed() {
    let mut bench = after_syn_ack();
    assert_forwarded(&mut bench, &from_server(0, 0, b"220 ready"));
    assert_bypassed(&bench, BypassReason::ServerFirst);
}

#[test]
fn syn_ack_repeated_is_forwarded() {
    let mut bench = after_syn_ack();
    assert_forwarded(&mut bench, &syn_ack());
    assert_forwarded(&mut bench, &from_client(0, b""));
    assert_forwarded(&mut bench, &syn_ack());
    assert_eq!(state(&bench), FlowState::Tracking);
}

// OPEN.

#[test]
fn open_keep_alives_window_updates_and_challenges_are_forwarded() {
    let mut bench = Bench::open();
    assert_forwarded(&mut bench, &from_client(u32::MAX, b""));
    let mut probe = from_client(0, b"\0");
    probe.repr.seq = ISN_C;
    assert_forwarded(&mut bench, &probe);
    let mut probe = from_server(0, 0, b"\0");
    probe.repr.seq = ISN_S;
    assert_forwarded(&mut bench, &probe);
    assert_forwarded(&mut bench, &from_server(0, 0, b"").window(900));
    assert_forwarded(&mut bench, &syn());
    assert_eq!(state(&bench), FlowState::Tracking);
    assert_eq!(first_bytes(&bench), 0);
}

/// An HTTP/2 server's first frame: SETTINGS with one setting.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

#[test]
fn open_settings_that_overtake_the_preface_are_held_and_read_by_the_server_leg() {
    let mut bench = Bench::open();
    assert!(bench.give(&from_server(0, 0, SETTINGS).packet()).is_empty());
    assert_eq!(state(&bench), FlowState::Tracking);
    assert!(bench.dataplane.held_bytes() > SETTINGS.len());
    // A repetition is no harm.
    assert!(bench.give(&from_server(0, 0, SETTINGS).packet()).is_empty());
    bench.give(&from_client(0, b"PRI * HTTP/2.0").packet());
    let flow = bench.only_flow();
    let now = bench.now;
    bench
        .dataplane
        .set_first_bytes(flow, FirstBytes::Intercept, now);
    bench.drain();
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.read(Leg::Server).0, SETTINGS);
    assert_eq!(bench.read(Leg::Client).0, b"PRI * HTTP/2.0");
    assert_eq!(bench.dataplane.held_bytes(), 0);
}

#[test]
fn open_settings_of_a_flow_that_is_bypassed_reach_the_client_untouched() {
    let mut bench = Bench::open();
    let settings = from_server(0, 0, SETTINGS).packet();
    assert!(bench.give(&settings).is_empty());
    let hello = from_client(0, b"hello").packet();
    bench.give(&hello);
    let flow = bench.only_flow();
    let now = bench.now;
    bench
        .dataplane
        .set_first_bytes(flow, FirstBytes::Bypass, now);
    bench.drain();
    let sent = bench.take_sent();
    let inner: Vec<Vec<u8>> = sent.iter().map(Sent::inner).collect();
    assert_eq!(
        inner,
        [
            from_server(0, 0, SETTINGS).inner(),
            from_client(0, b"hello").inner()
        ]
    );
    assert_bypassed(&bench, BypassReason::Classified);
}

#[test]
fn open_settings_wait_for_a_silent_client_no_longer_than_first_bytes_do() {
    let mut bench = Bench::open();
    bench.give(&from_server(0, 0, SETTINGS).packet());
    bench.pass(ms(200));
    let inner: Vec<Vec<u8>> = bench.take_sent().iter().map(Sent::inner).collect();
    assert_eq!(inner, [from_server(0, 0, SETTINGS).inner()]);
    assert_bypassed(&bench, BypassReason::ServerFirst);
}

#[test]
fn open_a_server_that_speaks_first_is_bypassed_with_every_byte_untouched() {
    let mut bench = Bench::open();
    for packet in [
        from_server(0, 0, b"220 mail ready"),
        from_client(0, b"EHLO me"),
        from_server(14, 7, b"250 hello"),
    ] {
        assert_forwarded(&mut bench, &packet);
    }
    assert_bypassed(&bench, BypassReason::ServerFirst);
    assert_eq!(
        bench.dataplane.counters().transmitted_packets,
        1,
        "only the parked SYN"
    );
}

#[test]
fn open_a_fin_without_data_is_bypassed() {
    let mut bench = Bench::open();
    assert_forwarded(&mut bench, &with_flags(from_client(0, b""), "FA"));
    assert_bypassed(&bench, BypassReason::FinFirst);
}

#[test]
fn open_client_data_outside_the_servers_window_is_forwarded_for_the_server_to_answer() {
    let mut bench = Bench::open();
    assert_forwarded(&mut bench, &from_client(1 << 24, b"far"));
    assert_eq!(state(&bench), FlowState::Tracking);
}

#[test]
fn open_an_acknowledgment_of_bytes_that_never_came_this_way_is_bypassed() {
    let mut bench = Bench::open();
    assert_forwarded(&mut bench, &from_server(0, 500, b""));
    assert_bypassed(&bench, BypassReason::Inconsistent);
}

#[test]
fn threat_58_a_blind_reset_does_not_detach_a_watched_connection() {
    let mut bench = Bench::open();
    for seq in [ISN_S, ISN_S - 70_000, ISN_S + 100_000_000] {
        let mut blind = with_flags(from_server(0, 0, b""), "R");
        blind.repr.seq = seq;
        assert_forwarded(&mut bench, &blind);
    }
    assert_eq!(state(&bench), FlowState::Tracking);
    assert_forwarded(&mut bench, &with_flags(from_server(0, 0, b""), "R"));
    assert_eq!(state(&bench), FlowState::Ended);
}

#[test]
fn a_wrong_checksum_passes_and_counts_for_nothing() {
    let mut bench = Bench::open();
    for packet in [
        from_client(0, b"data"),
        from_server(0, 0, b"data"),
        with_flags(from_server(0, 0, b""), "R"),
        with_flags(from_client(0, b""), "FA"),
    ] {
        let mut datagram = packet.packet().datagram();
        datagram[40 + 20 + 16] ^= 0x55;
        match bench.deliver_bytes(datagram.clone(), gwlb(1, 50_000)) {
            Answer::Hairpin(sent) => assert_eq!(sent.bytes, datagram),
            other => panic!("{other:?}"),
        }
        assert_eq!(state(&bench), FlowState::Tracking);
    }
    assert_eq!(bench.dataplane.counters().bad_checksum, 4);
}

// HOLD.

#[test]
fn hold_grows_and_asks_again() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"GE").packet());
    assert_eq!(first_bytes(&bench), 1);
    answer(&mut bench, FirstBytes::NeedMore);
    bench.give(&from_client(2, b"T /").packet());
    assert_eq!(first_bytes(&bench), 2);
    let flow = bench.only_flow();
    assert_eq!(bench.dataplane.held(flow), Some(&b"GET /"[..]));
    assert!(
        bench.sent.is_empty(),
        "nobody is acknowledged while undecided"
    );
}

#[test]
fn hold_then_bypass_releases_the_newest_copies_in_order() {
    let mut bench = Bench::open();
    bench.give(&from_client(3, b"DEF").packet());
    bench.give(&from_client(0, b"ABC").packet());
    let fresher = from_client(0, b"ABC").timestamps(2000, 9000);
    bench.give(&fresher.packet());
    answer(&mut bench, FirstBytes::Bypass);
    let sent: Vec<_> = bench.take_sent().iter().map(Sent::inner).collect();
    assert_eq!(sent, [fresher.inner(), from_client(3, b"DEF").inner()]);
    assert_bypassed(&bench, BypassReason::Classified);
    assert_forwarded(&mut bench, &from_client(6, b"GHI"));
    assert_forwarded(&mut bench, &from_server(0, 9, b"ok"));
    assert_eq!(bench.dataplane.held_bytes(), 0);
}

#[test]
fn hold_then_server_data_releases_and_bypasses() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    let banner = from_server(0, 0, b"220 late");
    let out = bench.give(&banner.packet());
    let inner: Vec<_> = out.iter().map(Sent::inner).collect();
    assert_eq!(inner, [from_client(0, b"hello").inner(), banner.inner()]);
    assert_bypassed(&bench, BypassReason::ServerFirst);
}

#[test]
fn hold_lets_acknowledgments_and_window_updates_of_both_pass() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    assert_forwarded(&mut bench, &from_server(0, 0, b"").window(800));
    assert_forwarded(&mut bench, &from_client(5, b"").window(900));
    assert_eq!(state(&bench), FlowState::Holding);
}

#[test]
fn hold_then_a_fin_behind_the_data_keeps_it_held() {
    let mut bench = Bench::open();
    bench.give(&with_flags(from_client(0, b"one shot"), "FAP").packet());
    assert_eq!(
        (first_bytes(&bench), state(&bench)),
        (1, FlowState::Holding)
    );
    answer(&mut bench, FirstBytes::Intercept);
    assert_eq!(
        bench.read(Leg::Client),
        (b"one shot".to_vec(), ReadOutcome::Finished)
    );
}

#[test]
fn hold_then_the_servers_fin_releases_and_bypasses() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    let out = bench.give(&with_flags(from_server(0, 0, b""), "FA").packet());
    assert_eq!(out.len(), 2);
    assert_bypassed(&bench, BypassReason::FinFirst);
}

#[test]
fn hold_then_the_clients_reset_reaches_the_server_with_the_number_it_expects() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    let out = bench.give(&with_flags(from_client(5, b""), "R").packet());
    assert_eq!(out.len(), 1);
    let (repr, _) = out[0].tcp();
    assert!(repr.flags.contains(Flags::RST));
    assert_eq!((repr.seq, out[0].ends()), (ISN_C + 1, (client(), server())));
    assert_eq!(state(&bench), FlowState::Ended);
    assert_eq!(bench.dataplane.held_bytes(), 0);
}

#[test]
fn hold_then_the_servers_reset_is_forwarded_and_the_held_bytes_go() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    assert_forwarded(&mut bench, &with_flags(from_server(0, 0, b""), "R"));
    assert_eq!(
        (state(&bench), bench.dataplane.held_bytes()),
        (FlowState::Ended, 0)
    );
}

#[test]
fn hold_then_drop_or_reset() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    answer(&mut bench, FirstBytes::Drop);
    assert!(bench.sent.is_empty());
    let refused = Answer::Dropped(DropReason::Denied);
    assert_eq!(bench.deliver(&from_client(0, b"hello").packet()), refused);

    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    answer(&mut bench, FirstBytes::Reset);
    let mut resets: Vec<_> = bench
        .take_sent()
        .iter()
        .map(|sent| (sent.ends(), sent.tcp().0))
        .collect();
    resets.sort_by_key(|(ends, _)| *ends);
    assert!(
        resets
            .iter()
            .all(|(_, repr)| repr.flags.contains(Flags::RST))
    );
    assert_eq!(resets[0].0, (client(), server()));
    assert_eq!((resets[0].1.seq, resets[1].1.seq), (ISN_C + 1, ISN_S + 1));
    // The held bytes can never reach the server later.
    let out = bench.give(&from_client(0, b"hello").packet());
    assert!(out.len() == 1 && out[0].is_reset() && out[0].ends().1 == client());
}

// When holding must end.

#[test]
fn a_hole_that_lasts_ends_the_holding_and_the_leg_asks_for_the_missing_bytes() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"one").packet());
    bench.give(&from_client(6, b"three").packet());
    bench.pass(ms(9));
    assert_eq!(state(&bench), FlowState::Holding);
    bench.pass(ms(2));
    assert_eq!(state(&bench), FlowState::Intercepted);
    let counters = bench.dataplane.counters();
    assert_eq!((counters.relays, counters.relays_hole), (1, 1));
    let sack = bench
        .take_sent()
        .iter()
        .find_map(|sent| sent.tcp().0.options.sack[0]);
    let sack = sack.expect("the leg says what it has");
    assert_eq!((sack.left, sack.right), (ISN_C + 7, ISN_C + 12));
    bench.give(&from_client(3, b"two").packet());
    assert_eq!(bench.read(Leg::Client).0, b"onetwothree");
    assert!(
        bench
            .events
            .iter()
            .any(|event| matches!(event, Event::LegsReady { .. }))
    );
}

#[test]
fn an_answer_that_does_not_come_ends_the_holding_within_the_clients_patience() {
    let mut bench = Bench::open();
    // SYN to ACK took 10 ms on this bench.
    bench.give(&from_client(0, b"slow policy").packet());
    bench.pass(ms(19));
    assert_eq!(state(&bench), FlowState::Holding);
    bench.pass(ms(2));
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.dataplane.counters().relays_time, 1);
    // The answer comes late: "bypass" is a matter of the shell, which copies bytes.
    answer(&mut bench, FirstBytes::Bypass);
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.read(Leg::Client).0, b"slow policy");
    answer(&mut bench, FirstBytes::Reset);
    assert_eq!(state(&bench), FlowState::Ended);
}

#[test]
fn more_than_may_be_held_ends_the_holding() {
    let mut bench = Bench::open();
    let mut at = 0;
    while state(&bench) != FlowState::Intercepted {
        bench.give(&from_client(at, &[3; 1400]).packet());
        at += 1400;
        assert!(at < 70_000);
    }
    assert_eq!(bench.dataplane.counters().relays_size, 1);
    assert_eq!(bench.read(Leg::Client).0, vec![3; at as usize]);
}

#[test]
fn threat_58_overlapping_segments_with_different_data_are_judged_by_one_endpoint() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"GET /allowed").packet());
    bench.give(&from_client(5, b"denied!").packet());
    // The connection has legs: what is read is what is forwarded.
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.dataplane.counters().relays_overlap, 1);
    assert_eq!(bench.read(Leg::Client).0, b"GET /allowed");
}

#[test]
fn all_flows_together_hold_a_bounded_number_of_bytes() {
    let mut bench = Bench::new(Config {
        hold_total_bytes: 400,
        ..Config::default()
    });
    bench.verdict = Some(Verdict::Inspect);
    bench.handshake();
    assert_eq!(
        bench.deliver(&from_client(0, &[1; 100]).packet()),
        Answer::Absorbed
    );
    let out = bench.give(&from_client(100, &[1; 100]).packet());
    assert_eq!(out.len(), 2);
    assert_bypassed(&bench, BypassReason::HoldTotalFull);
}

#[test]
fn more_intercepted_flows_than_allowed_bypass() {
    let mut bench = Bench::new(Config {
        max_intercepted: 0,
        ..Config::default()
    });
    bench.verdict = Some(Verdict::Inspect);
    bench.handshake();
    assert_forwarded(&mut bench, &from_client(0, b"data"));
    assert_bypassed(&bench, BypassReason::TooManyIntercepted);
}

// Take-over.

#[test]
fn take_over_continues_numbers_windows_and_clocks() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    bench.pass(ms(3));
    answer(&mut bench, FirstBytes::Intercept);
    bench.write(Leg::Server, b"changed");
    bench.write(Leg::Client, b"answer");
    let sent = bench.take_sent();
    let to_server = sent
        .iter()
        .find(|sent| sent.tcp().1 == b"changed")
        .unwrap()
        .tcp()
        .0;
    assert_eq!((to_server.seq, to_server.ack), (ISN_C + 1, ISN_S + 1));
    let to_client = sent
        .iter()
        .find(|sent| sent.tcp().1 == b"answer")
        .unwrap()
        .tcp()
        .0;
    assert_eq!((to_client.seq, to_client.ack), (ISN_S + 1, ISN_C + 6));
    let clock = to_server.options.timestamps.unwrap();
    // The client said 1010 on the ACK, 8 ms ago.
    assert_eq!((clock.tsval, clock.tsecr), (1018, 9000));
    let clock = to_client.options.timestamps.unwrap();
    // The server said 9000 on the SYN-ACK, 13 ms ago.
    assert_eq!((clock.tsval, clock.tsecr), (9013, 1010));
    // What the server was offered is still on offer: 500 << 7 behind its last byte.
    assert!(u32::from(to_server.window) << 7 >= 64_000);
    assert!(to_client.options.mss.is_none() && to_client.options.window_scale.is_none());
}

#[test]
fn take_over_without_options_speaks_without_options() {
    let mut bench = Bench::with_verdict(Verdict::Inspect);
    bench.first_bytes = Some(FirstBytes::Intercept);
    let plain = |tcp: Tcp| tcp.options(Options::default());
    bench.give(&syn().packet());
    bench.give(&plain(syn_ack()).packet());
    bench.give(&plain(from_client(0, b"")).window(10_000).packet());
    bench.give(&plain(from_client(0, b"hello")).window(10_000).packet());
    bench.take_sent();
    bench.write(Leg::Server, &[1; 2000]);
    let sent = bench.take_sent();
    assert!(
        sent.iter()
            .all(|sent| sent.tcp().0.options == Options::default())
    );
    // RFC 9293: a server without the MSS option takes 536.
    assert!(sent.iter().all(|sent| sent.tcp().1.len() <= 536));
}

#[test]
fn a_repeated_syn_ack_after_take_over_is_answered_with_an_ack() {
    let mut bench = Bench::intercepted();
    let out = bench.give(&syn_ack().packet());
    assert_eq!(out.len(), 1);
    let (repr, _) = out[0].tcp();
    assert_eq!((repr.flags, repr.ack), (flags("A"), ISN_S + 1));
    assert_eq!(out[0].ends(), (client(), server()));
}

#[test]
fn a_taken_over_connection_never_forwards_raw() {
    let mut bench = Bench::intercepted();
    for packet in [
        from_client(5, b"more"),
        from_server(0, 0, b"more"),
        with_flags(from_client(1 << 20, b""), "R"),
        with_flags(from_server(0, 0, b"x"), "FA"),
        syn(),
        syn_ack(),
    ] {
        assert!(!matches!(
            bench.deliver(&packet.packet()),
            Answer::Hairpin(_)
        ));
    }
    let mut unsound = from_client(9, b"zzz").packet().datagram();
    *unsound.last_mut().unwrap() ^= 1;
    assert_eq!(
        bench.deliver_bytes(unsound, gwlb(1, 50_000)),
        Answer::Dropped(DropReason::Checksum)
    );
}

#[test]
fn bypass_needs_no_state_a_fresh_data_plane_passes_the_middle_of_a_connection() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    for at in 0..20 {
        let packet = from_client(at * 10, b"0123456789");
        assert_eq!(bench.give(&packet.packet())[0].inner(), packet.inner());
        let packet = from_server(at * 10, at * 10, b"0123456789");
        assert_eq!(bench.give(&packet.packet())[0].inner(), packet.inner());
    }
    assert_eq!(bench.opened(), 1);
}

// A greeting that somebody wants to hear.

/// A bench on which the handshake is done and either side's first bytes are wanted.
fn open_to_either() -> Bench {
    let mut bench = Bench::with_verdict(Verdict::InspectEither);
    bench.give(&syn().packet());
    bench.give(&syn_ack().packet());
    bench.give(&from_client(0, b"").packet());
    bench.take_sent();
    bench
}

#[test]
fn open_to_either_a_greeting_takes_the_connection_over_at_once() {
    let mut bench = open_to_either();
    bench.give(&from_server(0, 0, b"220 ready\r\n").packet());
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.read(Leg::Server).0, b"220 ready\r\n");
    assert_eq!(bench.dataplane.held_bytes(), 0);
    assert_eq!(bench.dataplane.counters().takeovers, 1);
}

#[test]
fn open_to_either_a_client_that_speaks_first_is_asked_about() {
    let mut bench = open_to_either();
    bench.give(&from_client(0, b"EHLO me\r\n").packet());
    assert_eq!(first_bytes(&bench), 1);
    bench.give(&from_server(0, 0, b"220 ready\r\n").packet());
    assert_eq!(state(&bench), FlowState::Holding);
    answer(&mut bench, FirstBytes::Intercept);
    assert_eq!(bench.read(Leg::Server).0, b"220 ready\r\n");
    assert_eq!(bench.read(Leg::Client).0, b"EHLO me\r\n");
}

#[test]
fn open_to_either_a_greeting_without_room_is_passed() {
    let mut bench = open_to_either();
    let mut last = from_server(0, 0, b"220 bye\r\n");
    last.repr.flags = Flags(last.repr.flags.0 | Flags::FIN.0);
    bench.give(&last.packet());
    assert_bypassed(&bench, BypassReason::ServerFirst);
}
