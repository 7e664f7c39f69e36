//! The scoreboard against small transcripts, and its counters against its segments.

use super::*;
use proptest::prelude::*;

const RTT: u64 = 10_000;

fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

/// Ten segments of 100, sent one in a millisecond from time 0.
fn ten() -> Scoreboard {
    let mut board = Scoreboard::NEW;
    for index in 0..10u32 {
        board.push(Seq(index * 100), 100, ms(index.into()));
    }
    board
}

fn delivery(board: &Scoreboard, now: Instant) -> Delivery {
    Delivery::new(board, 0, Instant(u64::MAX), now)
}

fn block(left: u32, right: u32) -> SackBlock {
    SackBlock {
        left: Seq(left),
        right: Seq(right),
    }
}

#[test]
fn reported_segments_leave_the_pipe_once() {
    let mut board = ten();
    let mut d = delivery(&board, ms(12));
    assert!(board.report(block(200, 400), &mut d));
    assert!(!board.report(block(200, 400), &mut d));
    assert!(board.report(block(200, 500), &mut d));
    assert_eq!((board.pipe(), board.sacked_count(), d.bytes), (700, 3, 300));
    board.acknowledge(Seq(600), &mut d);
    assert_eq!((board.pipe(), board.sacked_count(), d.bytes), (400, 0, 600));
}

#[test]
fn a_segment_counts_only_when_all_of_it_is_reported() {
    let mut board = ten();
    let mut d = delivery(&board, ms(12));
    board.report(block(150, 250), &mut d);
    assert_eq!((board.sacked_count(), d.bytes), (0, 0));
    board.report(block(100, 150), &mut d);
    assert_eq!((board.sacked_count(), d.bytes), (1, 100));
    board.report(block(250, 300), &mut d);
    assert_eq!((board.sacked_count(), d.bytes), (2, 200));
}

#[test]
fn several_holes_are_found_at_once_and_filled_from_the_lowest() {
    let mut board = ten();
    let now = ms(9) + core::time::Duration::from_micros(RTT);
    let mut d = delivery(&board, now);
    board.report(block(100, 300), &mut d);
    board.report(block(400, 500), &mut d);
    board.report(block(700, 1000), &mut d);
    assert_eq!(board.detect_late(0, now), None);
    let mut holes = Vec::new();
    while let Some(lost) = board.next_lost() {
        holes.push(lost.seq.0);
        board.retransmitted(lost, now);
    }
    assert_eq!(holes, [0, 300, 500, 600]);
    assert_eq!(board.pipe(), 400);
    // A lost retransmission is found by a later transmission that arrived.
    board.push(Seq(1000), 100, now);
    let later = now + core::time::Duration::from_micros(RTT);
    let mut d = delivery(&board, later);
    board.report(block(300, 500), &mut d);
    board.report(block(1000, 1100), &mut d);
    board.detect_late(0, later);
    assert_eq!(board.lost_count(), 3);
    assert_eq!(board.next_lost().map(|lost| lost.seq), Some(Seq(0)));
}

#[test]
fn tolerance_delays_the_judgement() {
    let mut board = ten();
    let now = ms(11);
    let mut d = delivery(&board, now);
    board.report(block(100, 200), &mut d);
    // Segment 0 left at 0 ms, segment 1 at 1 ms with a round trip of 10 ms.
    assert_eq!(board.detect_late(3_000, now), Some(ms(13)));
    assert_eq!(board.lost_count(), 0);
    assert_eq!(board.detect_late(3_000, ms(13)), None);
    assert_eq!(board.lost_count(), 1);
}

#[test]
fn an_answer_to_the_first_transmission_does_not_condemn_others() {
    let mut board = ten();
    board.lose_first();
    let lost = board.next_lost().expect("one is lost");
    board.retransmitted(lost, ms(20));
    // The echo names a time before the retransmission.
    let mut d = Delivery::new(&board, 0, ms(2), ms(21));
    board.acknowledge(Seq(100), &mut d);
    board.detect_late(0, ms(21));
    assert_eq!(board.lost_count(), 0);
    assert!(d.last_sent.is_none());
}

#[test]
fn reneging_makes_reported_segments_lost_again() {
    let mut board = ten();
    let mut d = delivery(&board, ms(12));
    board.report(block(0, 300), &mut d);
    board.lose_all();
    assert_eq!(
        (board.pipe(), board.lost_count(), board.sacked_count()),
        (0, 10, 0)
    );
}

#[test]
fn splitting_keeps_marks_and_amounts() {
    let mut board = ten();
    let mut d = delivery(&board, ms(12));
    board.report(block(200, 400), &mut d);
    board.lose_first();
    board.split(30);
    assert_eq!(
        (
            board.count(),
            board.pipe(),
            board.lost_count(),
            board.sacked_count()
        ),
        (40, 700, 4, 8)
    );
    assert_eq!(
        board.next_lost().map(|lost| (lost.seq, lost.length)),
        Some((Seq(0), 30))
    );
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Acknowledge(u32),
    Report(u32, u32),
    Detect,
    Retransmit,
    LoseAll,
    LoseFirst,
    FindAll,
    Split(u32),
}

proptest! {
    /// The counters always equal what counting the segments gives.
    #[test]
    fn counters_agree_with_the_segments(steps in prop::collection::vec(prop_oneof![
        4 => (1..50u32).prop_map(Step::Push),
        2 => (0..120u32).prop_map(Step::Acknowledge),
        4 => (0..400u32, 1..100u32).prop_map(|(at, len)| Step::Report(at, len)),
        2 => Just(Step::Detect),
        2 => Just(Step::Retransmit),
        1 => Just(Step::LoseAll),
        1 => Just(Step::LoseFirst),
        1 => Just(Step::FindAll),
        1 => (5..60u32).prop_map(Step::Split),
    ], 1..80)) {
        let mut board = Scoreboard::NEW;
        let base = Seq(u32::MAX - 150);
        let (mut una, mut nxt) = (base, base);
        let mut now = Instant::ZERO;
        for step in steps {
            now += core::time::Duration::from_micros(700);
            let mut d = Delivery::new(&board, 0, Instant(u64::MAX), now);
            match step {
                Step::Push(length) => {
                    board.push(nxt, length, now);
                    nxt += length;
                }
                Step::Acknowledge(length) => {
                    una = (una + length).min(nxt);
                    board.acknowledge(una, &mut d);
                }
                Step::Report(at, length) => {
                    let left = una + 1 + at;
                    let right = (left + length).min(nxt);
                    if left < right {
                        board.report(SackBlock { left, right }, &mut d);
                    }
                }
                Step::Detect => {
                    board.detect_late(100, now);
                }
                Step::Retransmit => {
                    if let Some(lost) = board.next_lost() {
                        let lowest = board.segments.iter().find(|segment| segment.is(LOST)).map(|segment| segment.seq);
                        prop_assert_eq!(Some(lost.seq), lowest);
                        board.retransmitted(lost, now);
                    }
                }
                Step::LoseAll => board.lose_all(),
                Step::LoseFirst => {
                    board.lose_first();
                }
                Step::FindAll => board.find_all(),
                Step::Split(length) => board.split(length),
            }
            let total: u32 = board.segments.iter().map(|segment| segment.length).sum();
            prop_assert_eq!(total, nxt.since(una) as u32);
            let pipe: u32 = board.segments.iter().filter(|segment| segment.in_flight()).map(|segment| segment.length).sum();
            prop_assert_eq!(board.pipe(), pipe);
            prop_assert_eq!(board.lost_count() as usize, board.segments.iter().filter(|segment| segment.is(LOST)).count());
            prop_assert_eq!(board.sacked_count() as usize, board.segments.iter().filter(|segment| segment.is(SACKED)).count());
            prop_assert_eq!(board.lost_count() > 0, board.next_lost().is_some());
        }
    }
}
