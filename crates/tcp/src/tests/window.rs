//! Windows in both directions.

use super::*;

#[test]
fn a_closed_window_is_probed_with_back_off_until_it_opens() {
    let mut b = Bench::new();
    b.write(1000);
    b.at(20);
    b.receive(ack(1000).window(0));
    assert_eq!(b.write(5000), NOTHING);
    let probes = b.at(1700);
    assert_eq!(probes, ["240: ack 0", "680: ack 0", "1560: ack 0"]);
    assert_eq!(b.last().seq, OURS + 999);
    assert_eq!(b.receive(ack(1000).window(10_000)).len(), 5);
    b.receive(ack(6000));
    assert_eq!(b.at(60_000), NOTHING);
}

#[test]
fn a_probed_peer_that_answers_is_never_given_up() {
    let mut b = Bench::with(|config, _| config.user_timeout = Some(Duration::from_secs(10)));
    b.receive(ack(0).window(0));
    b.write(5000);
    for step in 1..600u64 {
        for probe in b.at(step * 1000) {
            assert!(probe.ends_with("ack 0"));
        }
        b.receive(ack(0).window(0));
    }
    assert_eq!(b.state(), State::Established);
    // Silence is another thing.
    b.at(800_000);
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn a_crumb_of_a_window_is_used_only_after_a_while() {
    let mut b = Bench::new();
    b.write(1000);
    b.at(20);
    b.receive(ack(1000).window(300));
    assert_eq!(b.write(5000), NOTHING);
    assert_eq!(b.at(250), ["240: 1000..1300"]);
}

#[test]
fn a_window_that_shrinks_stops_new_data_and_nothing_else() {
    let mut b = Bench::new();
    b.write(5000);
    assert_eq!(b.receive(ack(1000).window(1000)), NOTHING);
    assert_eq!(b.write(1000), NOTHING);
    b.receive(ack(5000).window(0));
    assert_eq!(b.connection.unsent_or_unacked(), 1000);
    assert_eq!(b.receive(ack(5000).window(1000)), ["5000..6000"]);
}

#[test]
fn our_window_closes_and_its_opening_is_announced() {
    let mut b = Bench::with(|config, _| config.recv_buffer_max = 10_000);
    for at in (0..10_000).step_by(1000) {
        b.receive(data(at, 1000));
    }
    assert_eq!(b.last().window, 0);
    // Beyond the window: refused, but answered.
    assert_eq!(b.receive(data(10_000, 1)), ["ack 10000"]);
    let mut out = [0; 500];
    b.connection.read(&mut out);
    assert_eq!(b.drain(), NOTHING);
    b.connection.read(&mut out);
    assert_eq!(b.drain(), ["ack 10000"]);
    assert_eq!(b.last().window, 1000);
}

#[test]
fn an_acknowledgment_beside_refused_data_counts() {
    let mut b = Bench::with(|config, _| config.recv_buffer_max = 10_000);
    b.write(2000);
    for at in (0..10_000).step_by(1000) {
        b.receive(data(at, 1000));
    }
    b.receive(data(10_000, 100).acks(2000));
    assert_eq!(b.connection.unsent_or_unacked(), 0);
}

#[test]
fn a_promise_made_before_the_take_over_is_kept() {
    let mut b = Bench::with(|config, takeover| {
        config.recv_buffer_max = 4000;
        takeover.rcv_right_edge = THEIRS + 64_000;
    });
    b.receive(data(0, 1000));
    assert_eq!(b.receive(data(1000, 1000)), ["ack 2000"]);
    assert_eq!(b.last().window, 62_000);
    // What does not fit is refused and comes again; the promise stands.
    b.receive(data(2000, 1000));
    b.receive(data(3000, 1000));
    assert_eq!(b.receive(data(4000, 1000)), ["ack 4000"]);
    assert_eq!(b.last().window, 60_000);
    assert_eq!(b.read().len(), 4000);
    b.receive(data(4000, 1000));
    assert_eq!(b.connection.readable(), 1000);
}

#[test]
fn windows_are_scaled_in_both_directions() {
    let mut b = Bench::with(|_, takeover| {
        takeover.rcv_shift = 4;
        takeover.snd_shift = 3;
        takeover.snd_wnd = 2000;
    });
    assert_eq!(b.write(20_000).len(), 2);
    assert_eq!(b.receive(ack(2000).window(1000)).len(), 8);
    b.receive(data(0, 100));
    b.receive(data(100, 100));
    assert_eq!(
        u32::from(b.last().window),
        ((128u32 << 10) - 200).div_ceil(16)
    );
}

#[test]
fn an_event_tells_of_room_after_a_short_write() {
    let mut b = Bench::with(|config, _| config.send_buffer_max = 5000);
    assert_eq!(b.connection.write(&[0; 8000]), 5000);
    assert_eq!(b.connection.writable(), 0);
    b.drain();
    assert!(!b.events().contains(Events::WRITABLE));
    b.receive(ack(2000));
    assert!(b.events().contains(Events::WRITABLE));
    assert_eq!(b.connection.writable(), 2000);
}

/// Bytes that the last acknowledgment allows.
fn offered(b: &Bench) -> u32 {
    u32::from(b.last().window) << 8
}

/// One round trip of 10 ms in which `segments` arrive and are read.
fn round(b: &mut Bench, number: u64, seq: &mut u32, segments: u32) {
    b.at(number * 10);
    for _ in 0..segments {
        b.receive(data(*seq, 1000));
        *seq += 1000;
    }
    b.read();
}

#[test]
fn our_window_doubles_while_each_round_reads_a_quarter_of_it() {
    let mut b = Bench::with(|_, takeover| {
        takeover.srtt = Some(Duration::from_millis(10));
        takeover.rcv_shift = 8;
    });
    let mut seq = 0;
    round(&mut b, 1, &mut seq, 2);
    let first = offered(&b);
    assert!((120_000..=140_000).contains(&first), "{first}");
    // A slow flow keeps it.
    for number in 2..30 {
        round(&mut b, number, &mut seq, 20);
    }
    assert_eq!(offered(&b).div_ceil(1 << 17), 1);
    for number in 30..36 {
        round(&mut b, number, &mut seq, 100);
    }
    assert!(offered(&b) > 250_000, "{}", offered(&b));
    assert!(offered(&b) <= 8 << 20);
}

#[test]
fn our_window_does_not_grow_while_nobody_reads_or_memory_is_short() {
    for is_short in [false, true] {
        let mut b = Bench::with(|config, takeover| {
            takeover.srtt = Some(Duration::from_millis(10));
            takeover.rcv_shift = 8;
            if is_short {
                config.memory = Arc::new(crate::Memory::new(1000));
            }
        });
        let mut seq = 0;
        for number in 1..10u64 {
            b.at(number * 10);
            for _ in 0..10 {
                b.receive(data(seq, 1000));
                seq += 1000;
            }
            if is_short {
                b.read();
            }
        }
        // The edge of the first acknowledgment, give or take the rounding of the scale.
        assert!(seq + offered(&b) <= 147_456, "{}", offered(&b));
    }
}

#[test]
fn the_budget_counts_what_all_connections_hold_and_gets_it_back() {
    let memory = Arc::new(crate::Memory::new(1 << 20));
    let mut benches: Vec<Bench> = (0..3)
        .map(|_| Bench::with(|config, _| config.memory = Arc::clone(&memory)))
        .collect();
    assert_eq!(memory.used(), 0);
    for b in &mut benches {
        b.receive(data(0, 1000));
        b.write(3000);
    }
    assert_eq!(memory.used(), 3 * (2048 + 4096));
    benches.pop();
    assert_eq!(memory.used(), 2 * (2048 + 4096));
    benches.clear();
    assert_eq!(memory.used(), 0);
}

#[test]
fn a_used_up_budget_slows_a_connection_and_does_not_stop_it() {
    let mut b = Bench::with(|config, _| config.memory = Arc::new(crate::Memory::new(0)));
    assert_eq!(b.connection.write(&[0; 50_000]), 16 * 1024);
    // What lies behind a hole is refused, what is in order is not.
    b.receive(data(1000, 1000));
    assert_eq!(b.connection.readable(), 0);
    b.receive(data(0, 1000));
    assert_eq!(b.connection.readable(), 1000);
}

#[test]
fn old_data_with_a_new_acknowledgment_does_not_move_the_right_edge() {
    let mut b = Bench::new();
    b.receive(ack(0).window(5000));
    assert_eq!(b.write(20_000).len(), 5);
    // Newer data first, then a repetition of older data that acknowledges more.
    b.receive(data(2000, 100).window(5000));
    let left = b.receive(data(0, 100).acks(2000).window(3000));
    assert!(
        left.iter().all(|segment| segment.starts_with("ack")),
        "{left:?}"
    );
    // The peer that opens its window gets what it allows.
    assert_eq!(b.receive(ack(2000).seq(100).window(4000)), ["5000..6000"]);
}

#[test]
fn a_peer_that_pulled_its_window_back_gets_acknowledgments_it_can_accept() {
    let mut b = Bench::new();
    b.write(5000);
    b.receive(ack(1000).window(2000));
    b.receive(data(0, 100).acks(1000).window(2000));
    b.at(30);
    assert_eq!(b.last().seq, OURS + 3000);
    assert_eq!(b.last().ack, THEIRS + 100);
}

#[test]
fn a_probed_peer_that_is_silent_is_given_up() {
    let mut b = Bench::with(|config, _| config.user_timeout = Some(Duration::from_secs(20)));
    b.receive(ack(0).window(0));
    b.write(5000);
    let left = b.at(100_000);
    assert!(
        left.last().is_some_and(|segment| segment.contains("rst")),
        "{left:?}"
    );
    assert!(b.events().contains(Events::TIMED_OUT));
    assert!(b.now < Instant::from_millis(1_100_001));
}
