//! Loss of our segments.

use super::*;

#[test]
fn three_reported_segments_bring_the_missing_one_at_once() {
    let mut b = Bench::new();
    assert_eq!(b.write(10_000).len(), 10);
    b.at(20);
    assert_eq!(b.receive(ack(0).sack(&[(1000, 2000)])), NOTHING);
    assert_eq!(b.receive(ack(0).sack(&[(1000, 3000)])), NOTHING);
    assert_eq!(b.receive(ack(0).sack(&[(1000, 4000)])), ["0..1000"]);
    assert_eq!(b.connection.stats().recoveries, 1);
    assert_eq!(b.receive(ack(0).sack(&[(1000, 10_000)])), NOTHING);
    assert_eq!(b.receive(ack(10_000)), NOTHING);
    assert_eq!(b.connection.unsent_or_unacked(), 0);
    assert_eq!(b.connection.congestion_window(), 7000);
}

#[test]
fn several_holes_are_repaired_in_one_round_trip() {
    let mut b = Bench::new();
    b.write(10_000);
    b.at(20);
    let sent = b.receive(ack(0).sack(&[(1000, 2000), (4000, 5000), (7000, 10_000)]));
    assert_eq!(sent[0], "0..1000");
    let mut all = sent;
    for _ in 0..4 {
        b.at(20);
        all.extend(b.receive(ack(0).sack(&[(1000, 2000), (4000, 5000), (7000, 10_000)])));
    }
    // The other holes follow as the retransmissions are reported.
    b.at(40);
    all.extend(b.receive(ack(2000).sack(&[(4000, 5000), (7000, 10_000)])));
    b.at(41);
    all.extend(b.receive(ack(3000).sack(&[(4000, 5000), (7000, 10_000)])));
    all.sort();
    assert_eq!(
        all,
        [
            "0..1000",
            "2000..3000",
            "3000..4000",
            "5000..6000",
            "6000..7000"
        ]
    );
    assert_eq!(b.connection.stats().timeouts, 0);
}

#[test]
fn one_reported_segment_waits_a_quarter_of_the_round_trip_for_the_late_one() {
    let mut b = Bench::new();
    b.write(2000);
    b.at(20);
    assert_eq!(b.receive(ack(0).sack(&[(1000, 2000)])), NOTHING);
    assert_eq!(b.at(24), NOTHING);
    assert_eq!(b.at(26), ["25: 0..1000"]);
}

#[test]
fn a_late_segment_within_the_tolerance_is_not_sent_again() {
    let mut b = Bench::new();
    b.write(2000);
    b.at(20);
    b.receive(ack(0).sack(&[(1000, 2000)]));
    b.at(23);
    assert_eq!(b.receive(ack(2000)), NOTHING);
    assert_eq!(b.at(1000), NOTHING);
    assert_eq!(b.connection.stats().retransmits, 0);
}

#[test]
fn the_tail_is_probed_after_two_round_trips() {
    let mut b = Bench::new();
    b.write(3000);
    assert_eq!(b.at(41), NOTHING);
    assert_eq!(b.at(42), ["42: 2000..3000"]);
    // The probe shows that the two before it are lost: they are late beyond any tolerance.
    b.at(62);
    assert_eq!(b.receive(ack(0).sack(&[(2000, 3000)])), ["0..1000"]);
    b.at(82);
    assert_eq!(b.receive(ack(1000).sack(&[(2000, 3000)])), ["1000..2000"]);
    assert_eq!(b.connection.stats().timeouts, 0);
}

#[test]
fn a_probe_sends_new_data_if_there_is_some() {
    let mut b = Bench::new();
    b.write(10_500);
    assert_eq!(b.at(42), ["42: 10000..10500"]);
}

#[test]
fn a_probe_that_repaired_a_loss_lowers_the_window() {
    let mut b = Bench::new();
    b.write(10_000);
    b.at(20);
    b.receive(ack(9000));
    assert_eq!(b.at(70), ["62: 9000..10000"]);
    b.at(82);
    b.receive(ack(10_000));
    b.write(1000);
    b.at(102);
    let window = b.connection.congestion_window();
    b.receive(ack(11_000));
    assert!(b.connection.congestion_window() < window);
}

#[test]
fn a_needless_probe_teaches_that_the_peer_delays() {
    let mut b = Bench::new();
    b.write(1000);
    assert_eq!(b.at(45), ["42: 0..1000"]);
    b.receive(ack(1000));
    b.receive(ack(1000).sack(&[(0, 1000)]));
    let window = b.connection.congestion_window();
    b.at(1000);
    b.write(1000);
    // Two round trips, by now larger, and 50 ms.
    assert_eq!(b.at(1090), NOTHING);
    b.receive(ack(2000));
    assert!(b.connection.congestion_window() >= window);
}

#[test]
fn an_echo_from_before_the_probe_teaches_the_same() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 500,
            at: Instant::from_millis(1_000_000),
            ts_recent: 77,
        });
    });
    b.write(500);
    assert_eq!(b.at(45), ["42: 0..500"]);
    b.receive(ack(500).stamped(80, 501));
    b.at(1000);
    let window = b.connection.congestion_window();
    b.write(500);
    assert_eq!(b.at(1060), NOTHING);
    b.receive(ack(1000).stamped(90, 1501));
    assert!(b.connection.congestion_window() >= window);
}

#[test]
fn the_timer_expires_with_back_off() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    b.write(2000);
    // 20 ms and four times a variation of 10 ms, which the floor lifts to 200 ms.
    assert_eq!(b.at(219), NOTHING);
    assert_eq!(
        b.at(2000),
        ["220: 0..1000", "660: 0..1000", "1540: 0..1000"]
    );
    assert_eq!(b.connection.congestion_window(), 1000);
    // The window grows from one segment; the second was lost as well.
    assert_eq!(b.receive(ack(1000)), ["1000..2000"]);
    b.receive(ack(2000));
    assert_eq!(b.at(10_000), NOTHING);
}

#[test]
fn without_sack_three_duplicates_and_partial_acknowledgments_repair() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    b.write(10_000);
    b.at(20);
    b.receive(ack(0));
    b.receive(ack(0));
    assert_eq!(b.receive(ack(0)), ["0..1000"]);
    for _ in 0..5 {
        b.receive(ack(0));
    }
    b.at(40);
    // Everything up to 4000 had arrived; the next is missing too.
    assert_eq!(b.receive(ack(4000)), ["4000..5000"]);
    b.at(60);
    assert_eq!(b.receive(ack(10_000)), NOTHING);
    assert_eq!(b.connection.stats().timeouts, 0);
}

#[test]
fn duplicates_that_change_the_window_are_not_counted() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    b.write(10_000);
    for window in [50_000, 51_000, 52_000, 53_000] {
        assert_eq!(b.receive(ack(0).window(window)), NOTHING);
    }
    assert_eq!(b.connection.stats().recoveries, 0);
}

#[test]
fn an_echo_from_before_the_retransmission_undoes_the_reduction() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 500,
            at: Instant::from_millis(1_000_000),
            ts_recent: 77,
        });
    });
    b.write(9880);
    // The path pauses for longer than the time-out.
    assert!(b.at(400).iter().any(|segment| segment.ends_with(" 0..988")));
    assert_eq!(b.connection.stats().timeouts, 1);
    assert_eq!(b.connection.congestion_window(), 988);
    b.receive(ack(1976).stamped(80, 501));
    assert_eq!(b.connection.stats().undone, 1);
    assert!(b.connection.congestion_window() >= 9880);
    // Nothing more is sent again.
    assert_eq!(b.receive(ack(9880).stamped(80, 501)), NOTHING);
    assert!(b.connection.stats().retransmits <= 2);
}

#[test]
fn full_segments_that_vanish_get_smaller() {
    let mut b = Bench::with(|_, takeover| takeover.mss = 8460);
    b.write(8460);
    let sent = b.at(8000);
    assert!(sent.iter().any(|segment| segment.ends_with(" 0..8460")));
    assert!(
        sent.iter().any(|segment| segment.ends_with(" 0..1400")),
        "{sent:?}"
    );
}

#[test]
fn data_without_progress_is_given_up() {
    let mut b = Bench::with(|config, _| config.user_timeout = Some(Duration::from_secs(10)));
    b.write(1000);
    let sent = b.at(60_000);
    assert!(
        sent.last()
            .is_some_and(|segment| segment.ends_with("rst 1000")),
        "{sent:?}"
    );
    assert!(b.events().contains(Events::TIMED_OUT));
    assert!(b.now < Instant::from_millis(1_060_001));
}

#[test]
fn reports_of_what_was_never_sent_are_ignored() {
    let mut b = Bench::new();
    b.write(3000);
    assert_eq!(
        b.receive(ack(0).sack(&[(5000, 9000), (u32::MAX - 100, 50), (2000, 1000)])),
        NOTHING
    );
    assert_eq!(b.connection.stats().recoveries, 0);
    b.receive(ack(3000));
    assert_eq!(b.connection.unsent_or_unacked(), 0);
}

#[test]
fn a_large_segment_that_vanishes_shrinks_although_it_is_not_full() {
    let mut b = Bench::with(|_, takeover| takeover.mss = 8460);
    b.write(8000);
    let left = b.at(10_000);
    assert!(
        left.iter()
            .any(|segment| segment == "0: 0..1400" || segment.ends_with(": 0..1400")),
        "{left:?}"
    );
    // A small one is not suspected.
    let mut b = Bench::with(|_, takeover| takeover.mss = 8460);
    b.write(1100);
    let left = b.at(20_000);
    assert!(
        left.iter().all(|segment| segment.ends_with(": 0..1100")),
        "{left:?}"
    );
}

#[test]
fn a_time_out_that_came_too_early_is_undone_without_timestamps() {
    for sack in [true, false] {
        let mut b = Bench::with(|_, takeover| takeover.sack = sack);
        b.write(20_000);
        // The path pauses; what is in flight arrives late, and so do the acknowledgments.
        let left = b.at(400);
        assert!(left.iter().any(|segment| segment.ends_with(" 0..1000")));
        assert_eq!(b.connection.congestion_window(), 1000);
        // The first tells nothing: it may be the answer to the repetition. New data leaves.
        let left = b.receive(ack(1000));
        assert_eq!(
            left,
            if sack {
                ["11000..12000", "12000..13000"]
            } else {
                ["10000..11000", "11000..12000"]
            }
        );
        // The second one is for what was sent once.
        b.receive(ack(3000));
        assert_eq!(b.connection.stats().undone, 1);
        assert!(b.connection.congestion_window() >= 10_000);
        assert_eq!(b.connection.stats().retransmits, 1);
    }
}

#[test]
fn a_time_out_after_a_real_loss_is_not_undone() {
    for sack in [true, false] {
        let mut b = Bench::with(|_, takeover| takeover.sack = sack);
        b.write(20_000);
        b.at(400);
        b.receive(ack(1000));
        // The new data arrives behind a hole: what counted as lost is lost.
        let hole = if sack {
            ack(1000).sack(&[(11_000, 12_000)])
        } else {
            ack(1000)
        };
        let left = b.receive(hole);
        assert!(left.contains(&"1000..2000".to_owned()), "{left:?}");
        assert_eq!(b.connection.stats().undone, 0);
        b.at(420);
        b.receive(ack(3000));
        assert_eq!(b.connection.stats().undone, 0);
        assert!(b.connection.congestion_window() <= 7000);
    }
}

#[test]
fn without_new_data_a_time_out_repeats_at_once() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    b.write(3000);
    assert_eq!(b.at(300), ["220: 0..1000"]);
    assert_eq!(b.receive(ack(1000)), ["1000..2000", "2000..3000"]);
    assert_eq!(b.connection.stats().undone, 0);
}

#[test]
fn reports_that_every_repetition_was_a_duplicate_undo_the_reduction() {
    let mut b = Bench::new();
    b.write(10_000);
    b.at(20);
    // Two segments take a longer way than the six behind them.
    assert_eq!(b.receive(ack(0).sack(&[(2000, 8000)]))[0], "0..1000");
    b.receive(ack(0).sack(&[(2000, 9000)]));
    b.at(22);
    b.receive(ack(10_000));
    let reduced = b.connection.congestion_window();
    assert!(reduced < 10_000);
    let repeated = b.connection.stats().retransmits;
    assert_eq!(repeated, 2);
    b.at(40);
    b.receive(ack(10_000).sack(&[(0, 1000)]));
    assert_eq!(b.connection.stats().undone, 0);
    b.receive(ack(10_000).sack(&[(1000, 2000)]));
    assert_eq!(b.connection.stats().undone, 1);
    assert!(b.connection.congestion_window() >= 10_000);
    // What was not in this repair proves nothing about it.
    b.receive(ack(10_000).sack(&[(1000, 2000)]));
    assert_eq!(b.connection.stats().undone, 1);
}

/// Limited transmit (RFC 3042).
#[test]
fn the_first_two_duplicates_let_a_new_segment_leave_each() {
    for sack in [true, false] {
        let mut b = Bench::with(|_, takeover| takeover.sack = sack);
        assert_eq!(b.write(20_000).len(), 10);
        b.at(20);
        let duplicate = |end: u32| {
            if sack {
                ack(0).sack(&[(1000, end)])
            } else {
                ack(0)
            }
        };
        assert_eq!(b.receive(duplicate(2000)), ["10000..11000"]);
        assert_eq!(b.receive(duplicate(3000)), ["11000..12000"]);
        assert_eq!(b.receive(duplicate(4000)), ["0..1000"]);
    }
}

/// RFC 7661 §4.3: what was not used is not proved.
#[test]
fn a_window_that_the_application_does_not_fill_does_not_grow() {
    let mut b = Bench::new();
    for round in 1..=50u32 {
        b.write(2000);
        b.at(u64::from(round) * 20);
        b.receive(ack(2000 * round));
    }
    assert_eq!(b.connection.congestion_window(), 10_000);
    // Half of it in use, in slow start, is enough to let it grow.
    b.write(10_000);
    b.at(1020);
    b.receive(ack(110_000));
    assert!(b.connection.congestion_window() > 10_000);
}

#[test]
fn a_repetition_that_is_lost_at_the_tail_is_probed_before_the_time_out() {
    let mut b = Bench::new();
    b.write(5000);
    b.at(20);
    assert_eq!(b.receive(ack(1000).sack(&[(2000, 5000)])), ["1000..2000"]);
    // 20 ms and four times a variation that is still that of the handshake.
    let left = b.at(100);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].ends_with(": 1000..2000"), "{left:?}");
    b.receive(ack(5000));
    assert_eq!(b.connection.stats().timeouts, 0);
    assert_eq!(b.connection.stats().recoveries, 1);
    // Only one for each flight: the time-out is next.
    b.write(5000);
    b.at(120);
    b.receive(ack(5000).sack(&[(6000, 10_000)]));
    assert!(b.at(600).len() >= 2);
    assert!(b.connection.stats().timeouts >= 1);
}

/// A connection whose full segments have vanished, after which everything got through.
fn shrunk() -> Bench {
    let mut b = Bench::with(|_, takeover| takeover.mss = 8460);
    b.write(8460);
    b.at(4000);
    b.receive(ack(1400));
    finish(&mut b);
    // The window grows to what a larger segment needs around it.
    for _ in 0..3 {
        b.write(60_000);
        finish(&mut b);
    }
    b
}

/// What is in flight arrives, round by round, until everything did; answers all that leaves.
fn finish(b: &mut Bench) -> Vec<String> {
    let mut left = Vec::new();
    while b.connection.unsent_or_unacked() > 0 {
        let last = b.last.as_ref().expect("something is in flight");
        let end = last.payload_seq.since(OURS) as u32 + last.payload_len as u32;
        let since = b.now.since(Instant::from_millis(1_000_000)).as_millis() as u64;
        left.extend(b.at(since + 20));
        left.extend(b.receive(ack(end)));
    }
    left
}

/// Payload lengths of what left.
fn lengths(left: &[String]) -> Vec<u32> {
    let length = |one: &String| {
        let (from, to) = one.rsplit(' ').next()?.split_once("..")?;
        Some(to.parse::<u32>().ok()? - from.parse::<u32>().ok()?)
    };
    left.iter().filter_map(length).collect()
}

#[test]
fn larger_segments_are_tried_again_after_ten_minutes() {
    let mut b = shrunk();
    let mut left = b.write(60_000);
    left.extend(finish(&mut b));
    assert_eq!(lengths(&left).into_iter().max(), Some(1400));
    b.at(630_000);
    let mut left = b.write(60_000);
    left.extend(finish(&mut b));
    // One of Ethernet's size arrives, so the next step need not wait: the size that the peer takes.
    let sizes = lengths(&left);
    assert!(sizes.contains(&1460) && sizes.contains(&8460), "{sizes:?}");
    assert_eq!(b.connection.stats().size_probes, 2);
    assert_eq!(lengths(&b.write(20_000)).first(), Some(&8460));
}

#[test]
fn a_larger_segment_that_is_lost_comes_again_in_pieces_and_costs_no_window() {
    let mut b = shrunk();
    b.at(630_000);
    let left = b.write(60_000);
    assert_eq!(lengths(&left).first(), Some(&1460), "{left:?}");
    let window = b.connection.congestion_window();
    let recoveries = b.connection.stats().recoveries;
    let last = b.last.as_ref().expect("it left");
    let end = last.payload_seq.since(OURS) as u32 + last.payload_len as u32;
    let start = 188_460;
    b.at(630_020);
    let left = b.receive(ack(start).sack(&[(start + 1460, end)]));
    let pieces = [
        format!("{start}..{}", start + 1400),
        format!("{}..{}", start + 1400, start + 1460),
    ];
    assert_eq!(left[..2], pieces, "{left:?}");
    finish(&mut b);
    assert_eq!(b.connection.stats().recoveries, recoveries);
    assert!(b.connection.congestion_window() >= window);
    // Not again before ten more minutes.
    b.at(640_000);
    b.write(60_000);
    finish(&mut b);
    assert_eq!(b.connection.stats().size_probes, 1);
}

#[test]
fn a_message_that_a_segment_was_too_big_counts_only_while_the_segment_is_in_flight() {
    let mut b = Bench::new();
    assert!(!b.connection.packet_too_big(OURS, 600));
    b.write(3000);
    for guess in [3000, 4000, u32::MAX, 1 << 31] {
        assert!(!b.connection.packet_too_big(OURS + guess, 600), "{guess}");
    }
    assert!(b.connection.packet_too_big(OURS + 2999, 600));
    b.receive(ack(3000));
    assert!(!b.connection.packet_too_big(OURS + 2999, 540));
    assert_eq!(b.write(1200), ["3000..3600", "3600..4200"]);
}

#[test]
fn what_waited_behind_a_hole_does_not_count_as_a_round_trip() {
    let mut b = Bench::with(|_, takeover| takeover.sack = false);
    b.write(3000);
    // The first segment is lost, again and again; the others wait at the peer.
    b.at(10_000);
    b.receive(ack(3000));
    assert_eq!(b.connection.unsent_or_unacked(), 0);
    let srtt = b.connection.srtt();
    assert!(srtt < Some(Duration::from_millis(100)), "{srtt:?}");
}
