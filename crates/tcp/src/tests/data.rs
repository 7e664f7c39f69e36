//! Data and acknowledgments without loss.

use super::*;

#[test]
fn every_second_segment_is_acknowledged_and_a_lone_one_after_a_delay() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(0, 100)), NOTHING);
    assert_eq!(b.receive(data(100, 100)), ["ack 200"]);
    assert_eq!(b.receive(data(200, 100)), NOTHING);
    assert_eq!(b.at(24), NOTHING);
    assert_eq!(b.at(25), ["25: ack 300"]);
    assert_eq!(b.at(1000), NOTHING);
    assert!(b.events().contains(Events::READABLE));
    assert_eq!(b.read().len(), 300);
}

#[test]
fn the_first_segments_and_those_after_a_pause_are_acknowledged_at_once() {
    let mut b = Bench::with(|config, _| config.quick_acks = 2);
    assert_eq!(b.receive(data(0, 100)), ["ack 100"]);
    assert_eq!(b.receive(data(100, 100)), ["ack 200"]);
    assert_eq!(b.receive(data(200, 100)), NOTHING);
    assert_eq!(b.at(5000), ["25: ack 300"]);
    assert_eq!(b.receive(data(300, 100)), ["ack 400"]);
}

#[test]
fn an_acknowledgment_rides_on_data() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(0, 100)), NOTHING);
    assert_eq!(b.write(50), ["0..50"]);
    assert_eq!(b.last().ack, THEIRS + 100);
    assert_eq!(b.at(20), NOTHING);
}

#[test]
fn out_of_order_data_is_acknowledged_at_once_with_sack() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(200, 100)), ["ack 0 sack 200..300"]);
    assert_eq!(b.receive(data(400, 100)), ["ack 0 sack 400..500 200..300"]);
    assert_eq!(b.receive(data(300, 100)), ["ack 0 sack 200..500"]);
    assert_eq!(b.receive(data(0, 100)), ["ack 100 sack 200..500"]);
    assert_eq!(b.receive(data(100, 100)), ["ack 500"]);
    let expected: Vec<u8> = (0..500usize).map(|at| at as u8).collect();
    assert_eq!(b.read(), expected);
}

#[test]
fn a_duplicate_is_reported_once() {
    let mut b = Bench::new();
    b.receive(data(0, 100));
    b.receive(data(100, 100));
    assert_eq!(b.receive(data(0, 100)), ["ack 200 sack 0..100"]);
    assert_eq!(b.receive(data(150, 100)), ["ack 250 sack 150..200"]);
    assert_eq!(b.read().len(), 250);
}

#[test]
fn a_peer_without_sack_gets_one_duplicate_for_each_segment_of_a_batch() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    for seq in [100, 200, 300] {
        b.handle(&data(seq, 100), false);
    }
    assert_eq!(b.drain(), ["ack 0", "ack 0", "ack 0"]);
}

#[test]
fn a_batch_is_answered_by_one_acknowledgment() {
    // The decision falls when everything of the batch is in, whatever each segment asks for: an
    // acknowledgment for every second one, at once for the first ones, at once behind a hole.
    for quick in [0, 16] {
        let mut b = Bench::with(|config, _| config.quick_acks = quick);
        for seq in 0..8 {
            b.handle(&data(seq * 100, 100), false);
        }
        assert_eq!(b.drain(), ["ack 800"]);
        for seq in [900, 1000, 1100, 1300] {
            b.handle(&data(seq, 100), false);
        }
        assert_eq!(b.drain(), ["ack 800 sack 1300..1400 900..1200"]);
    }
}

#[test]
fn the_initial_window_is_ten_segments() {
    let mut b = Bench::new();
    assert_eq!(b.write(30_000).len(), 10);
    assert_eq!(
        b.receive(ack(2000)),
        [
            "10000..11000",
            "11000..12000",
            "12000..13000",
            "13000..14000"
        ]
    );
}

#[test]
fn only_the_end_of_what_is_queued_is_pushed() {
    let mut b = Bench::new();
    b.connection.write(&[1; 1500]);
    let first = b.connection.poll_transmit(b.now).expect("a segment");
    let second = b.connection.poll_transmit(b.now).expect("a segment");
    assert!(!first.repr.flags.contains(Flags::PSH));
    assert!(second.repr.flags.contains(Flags::PSH));
}

#[test]
fn payload_is_copied_from_the_queue_across_the_wrap_of_sequence_numbers() {
    let mut b = Bench::new();
    let bytes: Vec<u8> = (0..5000usize).map(|at| (at / 3) as u8).collect();
    assert_eq!(b.connection.write(&bytes), 5000);
    let mut copied = Vec::new();
    while let Some(transmit) = b.connection.poll_transmit(b.now) {
        let mut payload = vec![0; transmit.payload_len];
        b.connection.copy_payload(&transmit, &mut payload);
        copied.extend(payload);
    }
    assert_eq!(copied, bytes);
    assert_eq!(b.connection.unsent_or_unacked(), 5000);
    b.receive(ack(5000));
    assert_eq!(b.connection.unsent_or_unacked(), 0);
}

#[test]
fn timestamps_run_on_from_the_seed_and_echo_the_segment_that_was_waited_for() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 500,
            at: Instant::from_millis(1_000_000),
            ts_recent: 77,
        });
    });
    let stamps = |b: &mut Bench, peer: Peer| {
        b.receive(peer);
        b.last()
            .options
            .timestamps
            .map(|timestamps| (timestamps.tsval, timestamps.tsecr))
    };
    // The seed stands on a segment of somebody else, so ours is one later.
    assert_eq!(
        stamps(&mut b, data(100, 100).stamped(80, 500)),
        Some((501, 77))
    );
    b.at(30);
    assert_eq!(
        stamps(&mut b, data(0, 100).stamped(85, 500)),
        Some((531, 85))
    );
    // 12 bytes of each segment belong to the option.
    b.connection.write(&[0; 3000]);
    assert_eq!(b.drain()[0], "0..988");
}

#[test]
fn an_echo_of_the_observed_end_is_no_round_trip_time() {
    let mut b = Bench::with(|_, takeover| {
        takeover.srtt = None;
        takeover.timestamps = Some(TimestampSeed {
            tsval: 500,
            at: Instant::from_millis(1_000_000),
            ts_recent: 77,
        });
    });
    b.write(100);
    b.at(1200);
    assert_eq!(b.connection.stats().timeouts, 1);
    // Sent twice, so only an echo could tell; this one is from before our time.
    b.receive(ack(100).stamped(80, 400));
    assert_eq!(b.connection.srtt(), None);
    b.write(100);
    b.at(1300);
    b.receive(ack(200).stamped(81, 500 + 1 + 1200));
    assert_eq!(b.connection.srtt(), Some(Duration::from_millis(100)));
}

#[test]
fn congestion_marks_are_echoed_until_the_peer_says_that_it_slowed_down() {
    let mut b = Bench::with(|_, takeover| takeover.ecn = true);
    b.receive_marked(data(0, 100), true);
    assert_eq!(b.receive(data(100, 100)), ["ack 200"]);
    assert!(b.last().flags.contains(Flags::ECE));
    b.receive(data(200, 100));
    b.receive(data(300, 100));
    assert!(b.last().flags.contains(Flags::ECE));
    b.receive(data(400, 100).with(Flags::CWR));
    b.receive(data(500, 100));
    assert!(!b.last().flags.contains(Flags::ECE));
}

#[test]
fn buffers_are_given_back_after_a_pause() {
    let mut b = Bench::new();
    b.receive(data(0, 1000));
    b.read();
    b.write(1000);
    b.receive(ack(1000).seq(1000));
    b.at(2000);
    assert_eq!(b.connection.poll_timeout(), None);
    assert!(!b.connection.holds_memory());
}

#[test]
fn keep_alive_asks_and_gives_up() {
    let mut b = Bench::with(|config, _| {
        config.keepalive = Some(Duration::from_secs(60));
        config.keepalive_interval = Duration::from_secs(10);
        config.keepalive_probes = 2;
    });
    b.at(30_000);
    b.receive(ack(0));
    assert_eq!(b.at(95_000), ["90000: ack 0"]);
    assert_eq!(b.last().seq, OURS - 1);
    b.receive(ack(0));
    assert_eq!(b.at(160_000), ["155000: ack 0"]);
    assert_eq!(b.at(200_000), ["165000: ack 0", "175000: rst 0"]);
    assert!(b.events().contains(Events::TIMED_OUT));
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn a_lone_probe_of_the_peer_is_answered() {
    let mut b = Bench::new();
    assert_eq!(
        b.receive(Peer {
            seq: u32::MAX,
            ..ack(0)
        }),
        ["ack 0"]
    );
}
