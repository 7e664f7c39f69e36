//! Flows of which it matters that their first bytes are seen: nothing passes unjudged, however the two
//! ends go about it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use bench::*;
use flowdog_dataplane::{BypassReason, Config, Event, FirstBytes, FlowState, Leg, Unseen, Verdict};
use wire::tcp::{Flags, Options, Seq};

fn guarded(unseen: Unseen, config: Config) -> Bench {
    let mut bench = Bench::new(config);
    bench.verdict = Some(Verdict::Inspect);
    bench.guard = Some(unseen);
    bench
}

fn open(unseen: Unseen) -> Bench {
    let mut bench = guarded(unseen, Config::default());
    bench.handshake();
    bench
}

fn state(bench: &Bench) -> FlowState {
    bench.dataplane.flow(bench.only_flow()).unwrap().state
}

fn asked(bench: &Bench) -> usize {
    let is = |event: &&Event| matches!(event, Event::ServerSpoke { .. });
    bench.events.iter().filter(is).count()
}

fn answer(bench: &mut Bench, answer: FirstBytes) {
    let flow = bench.only_flow();
    bench.dataplane.set_first_bytes(flow, answer, bench.now);
    bench.drain();
}

/// Payload bytes that left for either end.
fn said(sent: &[Sent]) -> Vec<u8> {
    sent.iter().flat_map(|sent| sent.tcp().1).collect()
}

fn resets(sent: &[Sent]) -> usize {
    let is = |sent: &&Sent| sent.tcp().0.flags.contains(Flags::RST);
    sent.iter().filter(is).count()
}

#[test]
fn a_server_that_speaks_first_is_held_and_told_of_once() {
    let mut bench = open(Unseen::Reset);
    assert!(bench.give(&from_server(0, 0, b"220 ").packet()).is_empty());
    assert!(bench.give(&from_server(4, 0, b"ready").packet()).is_empty());
    assert_eq!((asked(&bench), state(&bench)), (1, FlowState::Tracking));
    answer(&mut bench, FirstBytes::Bypass);
    assert_eq!(said(&bench.take_sent()), b"220 ready");
    assert_eq!(state(&bench), FlowState::Bypassed);
    let reason = BypassReason::ServerFirst;
    assert_eq!(bench.dataplane.counters().bypassed(reason), 1);
}

#[test]
fn a_server_that_speaks_first_can_be_refused_before_its_client_hears_it() {
    for (answered, resets_sent) in [(FirstBytes::Reset, 2), (FirstBytes::Drop, 0)] {
        let mut bench = open(Unseen::Pass);
        bench.give(&from_server(0, 0, b"220 ready").packet());
        answer(&mut bench, answered);
        let sent = bench.take_sent();
        assert_eq!((said(&sent), resets(&sent)), (Vec::new(), resets_sent));
        assert_eq!(bench.dataplane.held_bytes(), 0);
    }
}

#[test]
fn a_server_that_speaks_first_is_heard_on_its_leg() {
    let mut bench = open(Unseen::Reset);
    bench.give(&from_server(0, 0, b"220 ready").packet());
    answer(&mut bench, FirstBytes::Intercept);
    assert_eq!(state(&bench), FlowState::Intercepted);
    assert_eq!(bench.read(Leg::Server).0, b"220 ready");
}

#[test]
fn without_an_answer_about_the_server_the_connection_is_taken_over_and_never_passed() {
    let mut bench = open(Unseen::Reset);
    bench.give(&from_server(0, 0, b"220 ready").packet());
    bench.pass(ms(1000));
    assert_eq!((asked(&bench), state(&bench)), (1, FlowState::Intercepted));
    assert!(said(&bench.take_sent()).is_empty());
}

#[test]
fn settings_of_an_http2_server_wait_for_the_clients_preface() {
    let settings = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    let mut bench = open(Unseen::Reset);
    bench.give(&from_server(0, 0, settings).packet());
    assert_eq!(asked(&bench), 0);
    bench.pass(ms(160));
    assert_eq!(asked(&bench), 1, "the client had its chance");
}

/// Everything that makes an inspection impossible, and what its last packet is.
fn hindrances() -> Vec<(&'static str, Config, Vec<Tcp>)> {
    let signed = || {
        let mut raw = vec![19, 18];
        raw.extend_from_slice(&[7; 16]);
        syn().raw_options(&raw).options(Options::default())
    };
    let handshake = || vec![syn(), syn_ack(), from_client(0, b"")];
    let with = |last: Tcp| [handshake(), vec![last]].concat();
    let fin = |mut tcp: Tcp| {
        tcp.repr.flags = Flags(tcp.repr.flags.0 | Flags::FIN.0);
        tcp
    };
    let mut beyond = from_server(0, 0, b"");
    beyond.repr.ack = ISN_C + 500;
    let mut again = syn();
    again.repr.seq = Seq(77);
    let full = Config {
        hold_total_bytes: 10,
        ..Config::default()
    };
    let no_legs = Config {
        max_intercepted: 0,
        ..Config::default()
    };
    let usual = Config::default;
    vec![
        ("signed", usual(), vec![signed()]),
        (
            "both ends send a SYN",
            usual(),
            vec![
                syn(),
                Tcp::new(server(), client(), flags("S"), ISN_S, Seq(0)),
            ],
        ),
        ("FIN of the client", usual(), with(fin(from_client(0, b"")))),
        (
            "FIN of the server",
            usual(),
            with(fin(from_server(0, 0, b""))),
        ),
        ("bytes went another way", usual(), with(beyond)),
        ("no room to hold", full, with(from_client(0, b"secret"))),
        (
            "no room for the greeting",
            usual(),
            with(fin(from_server(0, 0, b"secret"))),
        ),
        (
            "no legs left when they conflict",
            no_legs,
            [
                handshake(),
                vec![from_client(0, b"GET /allowed"), from_client(5, b"denied!")],
            ]
            .concat(),
        ),
        (
            "replaced by a new connection while it holds",
            usual(),
            [handshake(), vec![from_client(0, b"secret"), again]].concat(),
        ),
    ]
}

#[test]
fn threat_60_a_guarded_flow_that_cannot_be_inspected_is_treated_as_configured() {
    for unseen in [Unseen::Pass, Unseen::Drop, Unseen::Reset] {
        for (what, config, packets) in hindrances() {
            let mut bench = guarded(unseen, config);
            let first = packets.len() - 1;
            let mut sent = Vec::new();
            for packet in &packets {
                sent = bench.give(&packet.packet());
            }
            let is_replaced = bench.opened() == 2;
            let refused = bench.dataplane.counters().guarded_refused;
            assert_eq!(
                refused,
                u64::from(unseen != Unseen::Pass),
                "{what} {unseen:?}"
            );
            assert_eq!(bench.dataplane.held_bytes(), 0, "{what}");
            let bytes = said(&sent);
            match unseen {
                Unseen::Pass => {
                    let held: Vec<u8> = packets[first..]
                        .iter()
                        .flat_map(|tcp| tcp.payload.clone())
                        .collect();
                    assert!(bytes.ends_with(&held), "{what}");
                }
                Unseen::Drop => {
                    assert!(bytes.is_empty(), "{what}");
                    assert_eq!(sent.len(), usize::from(is_replaced), "{what}");
                }
                Unseen::Reset => {
                    assert!(bytes.is_empty(), "{what}");
                    assert!(resets(&sent) >= 1, "{what}");
                }
            }
            if unseen != Unseen::Pass && !is_replaced {
                // Whatever comes later gets nowhere.
                for later in [from_client(0, b"late"), from_server(0, 0, b"late")] {
                    assert!(said(&bench.give(&later.packet())).is_empty(), "{what}");
                }
            }
        }
    }
}

#[test]
fn threat_60_a_full_table_of_legs_still_lets_a_guarded_flow_be_judged() {
    let config = Config {
        max_intercepted: 0,
        ..Config::default()
    };
    let mut bench = guarded(Unseen::Reset, config.clone());
    bench.handshake();
    bench.give(&from_client(0, b"hello").packet());
    answer(&mut bench, FirstBytes::Bypass);
    assert_eq!(said(&bench.take_sent()), b"hello");
    let mut bench = guarded(Unseen::Reset, config);
    bench.handshake();
    bench.give(&from_client(0, b"hello").packet());
    answer(&mut bench, FirstBytes::Intercept);
    let sent = bench.take_sent();
    assert_eq!((said(&sent), resets(&sent)), (Vec::new(), 2));
}

#[test]
fn threat_57_a_guarded_flow_in_fragments_is_refused() {
    let mut bench = open(Unseen::Reset);
    let mut inner = from_client(0, &[7; 64]).inner();
    // More fragments follow (RFC 791 §3.1).
    inner[6] |= 0x20;
    inner[10..12].fill(0);
    let sum = wire::checksum::Sum::new()
        .add_bytes(&inner[..20])
        .checksum();
    inner[10..12].copy_from_slice(&sum.to_be_bytes());
    let sent = bench.give(&Packet::new(inner));
    assert!(said(&sent).is_empty() && resets(&sent) == 2, "{sent:?}");
}

#[test]
fn the_end_of_a_drain_passes_nothing_that_is_guarded() {
    let mut bench = open(Unseen::Reset);
    bench.give(&from_client(0, b"hello").packet());
    bench.dataplane.reset_all(bench.now);
    bench.drain();
    let sent = bench.take_sent();
    assert_eq!((said(&sent), resets(&sent)), (Vec::new(), 2));
}

#[test]
fn what_was_parked_counts_as_held_within_the_same_turn() {
    let limit = 400;
    let mut bench = Bench::new(Config {
        hold_total_bytes: limit,
        ..Config::default()
    });
    for packet in [syn(), syn_ack(), from_client(0, b"")] {
        bench.give(&packet.packet());
    }
    for at in 0..4 {
        bench.give(&from_client(at * 100, &[1; 100]).packet());
    }
    let flow = bench.only_flow();
    bench
        .dataplane
        .set_verdict(flow, Verdict::Inspect, bench.now);
    assert!(bench.dataplane.held_bytes() <= limit);
    bench.drain();
    // Nothing is lost: too much to hold is passed.
    assert_eq!(said(&bench.take_sent()).len(), 400);
}
