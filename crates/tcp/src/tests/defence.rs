//! Segments that do not belong to the connection (RFC 5961, PAWS).

use super::*;

#[test]
fn a_reset_inside_the_window_that_is_not_exact_is_challenged() {
    let mut b = Bench::new();
    assert_eq!(b.receive(ack(0).seq(1).only(Flags::RST)), ["ack 0"]);
    assert_eq!(b.receive(ack(0).seq(9_999).only(Flags::RST)), ["ack 0"]);
    assert_eq!(b.receive(ack(0).seq(2_000_000).only(Flags::RST)), NOTHING);
    assert_eq!(
        b.receive(
            Peer {
                seq: u32::MAX,
                ..ack(0)
            }
            .only(Flags::RST)
        ),
        NOTHING
    );
    assert_eq!(b.state(), State::Established);
    assert_eq!(b.receive(ack(0).only(Flags::RST)), NOTHING);
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn a_reset_behind_received_data_is_exact() {
    let mut b = Bench::new();
    b.receive(data(500, 100));
    b.receive(ack(0).seq(600).only(Flags::RST));
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn a_reset_may_carry_data() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(0, 100).only(Flags::RST)), NOTHING);
    assert_eq!(b.state(), State::Closed);
    assert_eq!(b.connection.readable(), 0);
}

#[test]
fn a_reset_is_taken_while_our_window_is_closed() {
    let mut b = Bench::with(|config, _| config.recv_buffer_max = 10_000);
    for at in (0..10_000).step_by(1000) {
        b.receive(data(at, 1000));
    }
    assert_eq!(b.last().window, 0);
    b.receive(ack(0).seq(10_000).only(Flags::RST));
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn a_syn_is_challenged_wherever_it_stands() {
    let mut b = Bench::new();
    for seq in [0, 5, 3_000_000_000] {
        assert_eq!(b.receive(ack(0).seq(seq).only(Flags::SYN)), ["ack 0"]);
    }
    assert_eq!(b.state(), State::Established);
    assert_eq!(b.connection.stats().challenge_acks, 3);
}

#[test]
fn challenges_are_limited_in_rate() {
    let mut b = Bench::new();
    let mut answers = 0;
    for _ in 0..1000 {
        answers += b.receive(ack(0).only(Flags::SYN)).len();
    }
    assert_eq!(answers, 10);
    b.at(1100);
    assert_eq!(b.receive(ack(0).only(Flags::SYN)).len(), 1);
}

#[test]
fn acknowledgments_of_what_was_never_sent_are_challenged_and_their_data_dropped() {
    let mut b = Bench::new();
    b.write(1000);
    assert_eq!(b.receive(data(0, 100).acks(1001)), ["ack 0"]);
    assert_eq!(b.connection.readable(), 0);
    // Older than any window that there was.
    assert_eq!(
        b.receive(data(0, 100).acks(0u32.wrapping_sub(60_001))),
        ["ack 0"]
    );
    assert_eq!(b.connection.readable(), 0);
}

#[test]
fn an_old_acknowledgment_does_not_spoil_the_data_beside_it() {
    let mut b = Bench::new();
    b.write(1000);
    b.receive(ack(1000));
    b.receive(data(0, 100).acks(500));
    assert_eq!(b.connection.readable(), 100);
}

#[test]
fn segments_without_ack_are_dropped() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(0, 100).only(Flags::PSH)), NOTHING);
    assert_eq!(b.connection.readable(), 0);
}

#[test]
fn data_outside_the_window_is_answered_and_not_delivered() {
    let mut b = Bench::new();
    assert_eq!(b.receive(data(5_000_000, 100)), ["ack 0"]);
    assert_eq!(b.receive(data(3_000_000_000, 100)), ["ack 0"]);
    assert_eq!(b.connection.readable(), 0);
}

#[test]
fn two_ends_that_disagree_do_not_answer_each_other_for_ever() {
    let mut b = Bench::new();
    let mut answers = 0;
    for _ in 0..100 {
        answers += b.receive(ack(0).seq(3_000_000_000)).len();
    }
    assert_eq!(answers, 10);
}

#[test]
fn a_timestamp_from_the_past_is_rejected_and_data_acknowledged() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 1,
            at: Instant::from_millis(1_000_000),
            ts_recent: 1000,
        });
    });
    b.receive(data(0, 100).stamped(1010, 0));
    b.receive(data(100, 100).stamped(1020, 0));
    // A segment of an earlier round of the sequence space.
    assert_eq!(b.receive(data(200, 100).stamped(900, 0)), ["ack 200"]);
    assert_eq!(b.connection.readable(), 200);
    // A pure acknowledgment that was overtaken needs no answer.
    assert_eq!(b.receive(ack(0).seq(200).stamped(1005, 0)), NOTHING);
    // A reset is exempt.
    b.receive(ack(0).seq(200).with(Flags::RST).stamped(900, 0));
    assert_eq!(b.state(), State::Closed);
}

#[test]
fn data_replayed_after_the_take_over_may_be_older_than_what_the_observer_saw() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 1,
            at: Instant::from_millis(1_000_000),
            ts_recent: 1000,
        });
    });
    b.receive(data(0, 100).stamped(990, 0));
    b.receive(data(100, 100).stamped(995, 0));
    assert_eq!(b.connection.readable(), 200);
    b.receive(data(200, 100).stamped(900, 0));
    assert_eq!(b.connection.readable(), 200);
}

#[test]
fn a_hole_may_be_filled_with_an_older_timestamp_than_what_follows_it() {
    let mut b = Bench::with(|_, takeover| {
        takeover.timestamps = Some(TimestampSeed {
            tsval: 1,
            at: Instant::from_millis(1_000_000),
            ts_recent: 1000,
        });
    });
    b.receive(data(100, 100).stamped(1050, 0));
    b.receive(data(0, 100).stamped(1010, 0));
    assert_eq!(b.connection.readable(), 200);
}

#[test]
fn random_segments_never_panic_and_never_make_more_of_themselves() {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};
    for seed in 0..300 {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut b = Bench::with(|config, takeover| {
            config.max_ranges = 8;
            takeover.sack = rng.random();
            takeover.rcv_shift = rng.random_range(0..=14);
            if rng.random() {
                takeover.timestamps = Some(TimestampSeed {
                    tsval: rng.random(),
                    at: Instant::from_millis(999_000),
                    ts_recent: 1000,
                });
            }
        });
        let near = |rng: &mut SmallRng| match rng.random_range(0..10) {
            0 => rng.random(),
            1 => 0u32.wrapping_sub(rng.random_range(0..2000)),
            _ => rng.random_range(0..12_000),
        };
        let mut clock = 0;
        for _ in 0..200 {
            let length = if rng.random() {
                0
            } else {
                rng.random_range(0..1500)
            };
            let mut peer = data(near(rng), length).acks(near(rng)).window(rng.random());
            let mut flags = Flags::ACK;
            for (flag, chance) in [
                (Flags::FIN, 0.02),
                (Flags::SYN, 0.02),
                (Flags::RST, 0.02),
                (Flags::URG, 0.1),
            ] {
                if rng.random_bool(chance) {
                    flags = flags.with(flag);
                }
            }
            peer.flags = flags;
            if rng.random() {
                peer = peer.stamped(near(rng).wrapping_add(1000), near(rng));
            }
            for _ in 0..rng.random_range(0..4) {
                peer.sack.push((near(rng), near(rng)));
            }
            let answers = b.receive(peer).len();
            // One may open the whole window, never more.
            assert!(answers <= 100, "{answers}");
            match rng.random_range(0..8) {
                0 => {
                    b.connection.write(&vec![0; rng.random_range(0..20_000)]);
                }
                1 => {
                    b.read();
                }
                2 if rng.random_bool(0.1) => b.connection.shutdown(),
                3 if rng.random_bool(0.1) => b.connection.set_max_segment(rng.random()),
                4 => {
                    clock += rng.random_range(0..3_000);
                    b.at(clock);
                }
                _ => {}
            }
            b.drain();
        }
    }
}
