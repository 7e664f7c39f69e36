//! Raw packets on their way past the hooks of the shell, and packets that wait for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]

mod bench;

use bench::*;
use flowdog_dataplane::{Config, Event, FirstBytes, Leg, Verdict};

fn question(text: &[u8]) -> Packet {
    udp(client(), server(), text)
}

#[test]
fn packets_of_a_hooked_flow_are_told_apart_from_the_parked_first_one_on() {
    let mut bench = Bench::new(Config::default());
    bench.deliver(&question(b"1"));
    let flow = bench.flow_opened();
    bench.dataplane.hook(flow);
    bench.dataplane.set_verdict(flow, Verdict::Pass, bench.now);
    bench.drain();
    assert_eq!(bench.take_sent()[0].hooked, Some(Leg::Client));
    let out = bench.give(&udp(server(), client(), b"2"));
    assert_eq!(out[0].hooked, Some(Leg::Server));
    assert_eq!(bench.dataplane.counters().hooked_packets, 1);
    assert_eq!(bench.dataplane.counters().hairpinned_packets, 0);
    // Another flow is none of theirs.
    bench.verdict = Some(Verdict::Pass);
    let other = udp(client6(), server6(), b"3");
    assert_eq!(bench.give(&other)[0].hooked, None);
    assert_eq!(bench.give(&other)[0].hooked, None);
}

#[test]
fn held_segments_of_a_flow_that_is_hooked_and_released_are_told_apart_too() {
    let mut bench = Bench::open();
    bench.give(&from_client(0, b"hello").packet());
    let flow = bench.only_flow();
    bench.dataplane.hook(flow);
    bench
        .dataplane
        .set_first_bytes(flow, FirstBytes::Bypass, bench.now);
    bench.drain();
    assert_eq!(bench.take_sent()[0].hooked, Some(Leg::Client));
    let out = bench.give(&from_server(0, 5, b"answer").packet());
    assert_eq!(out[0].hooked, Some(Leg::Server));
}

#[test]
fn segments_and_resets_of_our_own_are_never_shown_to_hooks() {
    let mut bench = Bench::open();
    bench.first_bytes = Some(FirstBytes::Intercept);
    bench.dataplane.hook(bench.only_flow());
    bench.give(&from_client(0, b"hello").packet());
    bench.write(Leg::Server, b"hello");
    bench.pass(ms(50));
    bench.dataplane.abort(bench.only_flow(), bench.now);
    bench.drain();
    let sent = bench.take_sent();
    assert!(sent.len() >= 3, "{sent:?}");
    assert!(sent.iter().all(|sent| sent.hooked.is_none()), "{sent:?}");
}

#[test]
fn parked_packets_can_be_read_and_the_next_one_is_told_once() {
    let mut bench = Bench::new(Config::default());
    bench.deliver(&question(b"first"));
    let flow = bench.flow_opened();
    let told = |bench: &Bench| {
        let is = |event: &&Event| matches!(event, Event::Parked { .. });
        bench.events.iter().filter(is).count()
    };
    bench.dataplane.await_more(flow, bench.now + ms(100));
    bench.deliver(&question(b"second"));
    bench.deliver(&question(b"third"));
    assert_eq!(told(&bench), 1);
    let parked: Vec<_> = bench.dataplane.parked(flow).map(<[u8]>::to_vec).collect();
    let sent: Vec<_> = [&b"first"[..], b"second", b"third"]
        .map(|text| question(text).inner)
        .to_vec();
    assert_eq!(parked, sent);
    bench.dataplane.set_verdict(flow, Verdict::Pass, bench.now);
    bench.drain();
    assert_eq!(bench.take_sent().len(), 3);
    assert_eq!(bench.dataplane.parked(flow).count(), 0);
    bench.dataplane.await_more(flow, bench.now + ms(100));
    bench.deliver(&question(b"fourth"));
    assert_eq!(told(&bench), 1);
}

#[test]
fn a_flow_that_waits_in_vain_is_told_in_time_and_still_has_its_own_deadline() {
    let mut bench = Bench::new(Config::default());
    bench.deliver(&question(b"first"));
    let flow = bench.flow_opened();
    bench.dataplane.await_more(flow, bench.now + ms(100));
    bench.pass(ms(99));
    assert!(
        !bench
            .events
            .iter()
            .any(|e| matches!(e, Event::Parked { .. }))
    );
    bench.pass(ms(2));
    let late = Event::Parked {
        flow,
        is_late: true,
    };
    assert_eq!(
        bench.events.iter().filter(|event| **event == late).count(),
        1
    );
    assert!(bench.take_sent().is_empty());
    bench.pass(Config::default().verdict_deadline);
    assert_eq!(bench.take_sent().len(), 1);
}
