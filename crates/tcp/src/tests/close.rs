//! The ends of connections.

use super::*;

fn fin(seq: u32, acked: u32) -> Peer {
    ack(acked).seq(seq).with(Flags::FIN)
}

#[test]
fn we_close_first() {
    let mut b = Bench::new();
    b.write(100);
    assert_eq!(b.shutdown(), ["100..100 fin"]);
    assert_eq!(
        (b.state(), b.connection.write(b"more")),
        (State::FinWait1, 0)
    );
    b.receive(ack(101));
    assert_eq!(b.state(), State::FinWait2);
    // The other direction goes on.
    b.receive(data(0, 500).acks(101));
    assert_eq!(b.read().len(), 500);
    assert_eq!(b.receive(fin(500, 101)), ["ack 501"]);
    assert_eq!(b.state(), State::TimeWait);
    assert!(b.events().contains(Events::PEER_FINISHED));
    assert!(b.connection.is_read_finished());
    // Our acknowledgment was lost: the FIN comes again and the wait begins anew.
    b.at(1500);
    assert_eq!(b.receive(fin(500, 101)), ["ack 501"]);
    b.at(3000);
    assert_eq!(b.state(), State::TimeWait);
    b.at(3600);
    assert_eq!(b.state(), State::Closed);
    assert!(b.events().contains(Events::CLOSED));
}

#[test]
fn the_peer_closes_first() {
    let mut b = Bench::new();
    b.receive(data(0, 100));
    assert_eq!(b.receive(fin(100, 0)), ["ack 101"]);
    assert_eq!(b.state(), State::CloseWait);
    assert!(!b.connection.is_read_finished());
    b.read();
    assert!(b.connection.is_read_finished());
    assert_eq!(b.write(100), ["0..100"]);
    assert_eq!(b.shutdown(), ["100..100 fin"]);
    assert_eq!(b.state(), State::LastAck);
    b.receive(ack(101).seq(101));
    assert_eq!(b.state(), State::Closed);
    assert_eq!(b.connection.poll_timeout(), None);
}

#[test]
fn fin_leaves_behind_all_queued_data() {
    let mut b = Bench::new();
    b.connection.write(&[0; 2500]);
    assert_eq!(b.shutdown(), ["0..1000", "1000..2000", "2000..2500 fin"]);
}

#[test]
fn both_close_at_once() {
    let mut b = Bench::new();
    assert_eq!(b.shutdown(), ["0..0 fin"]);
    assert_eq!(b.receive(fin(0, 0)), ["ack 1"]);
    assert_eq!(b.state(), State::Closing);
    b.receive(ack(1).seq(1));
    assert_eq!(b.state(), State::TimeWait);
}

#[test]
fn fin_with_the_acknowledgment_of_ours_goes_straight_to_time_wait() {
    let mut b = Bench::new();
    b.shutdown();
    assert_eq!(b.receive(fin(0, 1)), ["ack 1"]);
    assert_eq!(b.state(), State::TimeWait);
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut b = Bench::new();
    assert_eq!(b.shutdown(), ["0..0 fin"]);
    let again = b.at(300);
    assert_eq!(again, ["42: 0..0 fin", "262: 0..0 fin"]);
}

#[test]
fn an_early_fin_waits_for_the_data_before_it() {
    let mut b = Bench::new();
    b.receive(data(100, 100).with(Flags::FIN));
    assert_eq!(b.state(), State::Established);
    assert_eq!(b.receive(data(0, 100)), ["ack 201"]);
    assert_eq!(b.state(), State::CloseWait);
}

#[test]
fn abort_resets_with_the_number_that_the_peer_expects() {
    let mut b = Bench::new();
    b.write(1000);
    b.connection.abort();
    assert_eq!(b.drain(), ["rst 1000"]);
    assert_eq!(b.state(), State::Closed);
    // A peer that missed data challenges; the answer carries what it expects.
    assert_eq!(b.receive(ack(0)), ["rst 0"]);
    assert_eq!(b.at(100_000), NOTHING);
}

#[test]
fn abort_is_heard_by_a_peer_that_has_closed_its_window_over_what_is_in_flight() {
    let mut b = Bench::new();
    b.write(5000);
    assert_eq!(b.receive(ack(1000).window(0)), NOTHING);
    b.connection.abort();
    assert_eq!(b.drain(), ["rst 1000"]);
}

#[test]
fn abort_is_heard_wherever_the_window_ends_within_the_rounding_of_its_scale() {
    let mut b = Bench::with(|_, takeover| {
        takeover.snd_wnd = 60_000;
        takeover.snd_shift = 7;
    });
    b.write(5000);
    // The window ends at 4968 or up to 127 bytes behind that, so 5000 may lie within it or not.
    assert_eq!(b.receive(ack(1000).window(31)), NOTHING);
    b.connection.abort();
    assert_eq!(b.drain(), ["rst 5000", "rst 4968"]);
    assert_eq!(b.drain(), NOTHING);
}

#[test]
fn a_reset_of_the_peer_ends_everything_silently() {
    let mut b = Bench::new();
    b.receive(data(0, 100));
    b.write(1000);
    assert_eq!(b.receive(ack(0).seq(100).with(Flags::RST)), NOTHING);
    assert_eq!(b.state(), State::Closed);
    assert!(b.events().contains(Events::RESET));
    assert_eq!(b.connection.poll_timeout(), None);
    // What had arrived can still be read.
    assert_eq!(b.read().len(), 100);
}

#[test]
fn data_after_the_fin_is_ignored() {
    let mut b = Bench::new();
    b.receive(fin(0, 0));
    b.receive(data(1, 100));
    assert_eq!(b.connection.readable(), 0);
    assert_eq!(b.state(), State::CloseWait);
}
