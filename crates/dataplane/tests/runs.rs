//! Datagrams given and taken in runs do what they do one by one.

mod bench;

use bench::{
    Bench, Tcp, client, client6, from_client, from_server, gwlb, ms, server6, syn, syn_ack,
};
use flowdog_dataplane::{
    Counters, Disposition, Event, FirstBytes, FlowId, Leg, ReadOutcome, Verdict,
};
use proptest::prelude::*;
use wire::tcp::{Flags, SackBlock, Seq};

/// What arrives in one batch: parts of the two byte streams of a connection, with something odd now
/// and then.
#[derive(Clone, Debug)]
struct Arrival {
    from: Leg,
    length: usize,
    oddity: Oddity,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Oddity {
    None,
    Push,
    /// The segment is lost, so a hole stands before the next.
    Lost,
    Repeated,
    OtherWindow,
    OtherStamp,
    OtherCookie,
    OtherEndpoint,
    BadChecksum,
    Marked,
    Sack,
    Padded,
    Fin,
}

fn oddities() -> impl Strategy<Value = Oddity> {
    prop_oneof![
        20 => Just(Oddity::None),
        2 => Just(Oddity::Push),
        1 => Just(Oddity::Lost),
        1 => Just(Oddity::Repeated),
        1 => Just(Oddity::OtherWindow),
        1 => Just(Oddity::OtherStamp),
        1 => Just(Oddity::OtherCookie),
        1 => Just(Oddity::OtherEndpoint),
        1 => Just(Oddity::BadChecksum),
        1 => Just(Oddity::Marked),
        1 => Just(Oddity::Sack),
        1 => Just(Oddity::Padded),
        1 => Just(Oddity::Fin),
    ]
}

fn arrivals() -> impl Strategy<Value = Vec<Vec<Arrival>>> {
    let from = prop_oneof![4 => Just(Leg::Client), 1 => Just(Leg::Server)];
    let length = prop_oneof![8 => Just(100usize), 1 => Just(60), 1 => Just(0)];
    let arrival = (from, length, oddities()).prop_map(|(from, length, oddity)| Arrival {
        from,
        length,
        oddity,
    });
    prop::collection::vec(prop::collection::vec(arrival, 1..40), 1..8)
}

fn of_family(mut tcp: Tcp, is_v6: bool) -> Tcp {
    if is_v6 {
        let six = |address| {
            if address == client() {
                client6()
            } else {
                server6()
            }
        };
        (tcp.src, tcp.dst) = (six(tcp.src), six(tcp.dst));
    }
    tcp
}

/// The datagrams of some batches.
fn datagrams(batches: &[Vec<Arrival>], is_v6: bool) -> Vec<Vec<Vec<u8>>> {
    let mut next = [5u32, 0];
    let mut stamp = 1010;
    let mut datagram = |arrival: &Arrival| {
        let side = usize::from(arrival.from == Leg::Server);
        let at = next[side];
        let payload: Vec<u8> = (0..arrival.length)
            .map(|index| (at as usize + index) as u8)
            .collect();
        let mut tcp = match arrival.from {
            Leg::Client => from_client(at, &payload),
            Leg::Server => from_server(at, 5, &payload),
        };
        if arrival.oddity != Oddity::Repeated {
            next[side] += payload.len() as u32;
        }
        match arrival.oddity {
            Oddity::Push => tcp.repr.flags = tcp.repr.flags.with(Flags::PSH),
            Oddity::OtherWindow => tcp.repr.window += 9,
            Oddity::OtherStamp => {
                stamp += 1;
                tcp = tcp.timestamps(stamp, 9000);
            }
            Oddity::Marked => tcp.traffic_class |= 3,
            Oddity::Sack => {
                tcp.repr.options.sack[0] = Some(SackBlock {
                    left: Seq(5),
                    right: Seq(9),
                });
            }
            Oddity::Fin => tcp.repr.flags = tcp.repr.flags.with(Flags::FIN),
            _ => {}
        }
        let mut packet = of_family(tcp, is_v6).packet();
        match arrival.oddity {
            Oddity::OtherCookie => packet = packet.cookie(77),
            Oddity::OtherEndpoint => packet.endpoint.0 ^= 1,
            _ => {}
        }
        let mut bytes = packet.datagram();
        match arrival.oddity {
            Oddity::BadChecksum => {
                if let Some(last) = bytes.last_mut() {
                    *last ^= 1;
                }
            }
            Oddity::Padded => bytes.push(0),
            _ => {}
        }
        (arrival.oddity != Oddity::Lost).then_some(bytes)
    };
    let batches = batches.iter();
    batches
        .map(|batch| batch.iter().filter_map(&mut datagram).collect())
        .collect()
}

/// Everything that can be told from outside.
#[derive(Debug, PartialEq)]
struct Outcome {
    dispositions: Vec<Disposition>,
    events: Vec<Event>,
    sent: Vec<Vec<u8>>,
    read: [Vec<u8>; 2],
    counters: Counters,
}

struct Side {
    bench: Bench,
    flow: FlowId,
    in_runs: bool,
    /// Datagrams that were taken, and given, in company.
    together: [usize; 2],
    outcome: Outcome,
}

impl Side {
    fn new(in_runs: bool, is_v6: bool) -> Self {
        let mut bench = Bench::with_verdict(Verdict::Inspect);
        bench.first_bytes = Some(FirstBytes::Intercept);
        let hello = from_client(0, b"hello");
        for tcp in [syn(), syn_ack(), from_client(0, b""), hello] {
            bench.give(&of_family(tcp, is_v6).packet());
        }
        assert_eq!(bench.dataplane.intercepted_flows(), 1);
        let flow = bench.flow_opened();
        Self {
            flow,
            in_runs,
            together: [0; 2],
            outcome: Outcome {
                dispositions: Vec::new(),
                events: Vec::new(),
                sent: Vec::new(),
                read: [Vec::new(), Vec::new()],
                counters: bench.dataplane.counters().clone(),
            },
            bench,
        }
    }

    fn take(&mut self, batch: &[Vec<u8>]) {
        let (dataplane, now, outer) = (&mut self.bench.dataplane, self.bench.now, gwlb(1, 50_000));
        // The kernel puts together what is of one size; a shorter one ends it.
        let mut rest = batch;
        while let [first, ..] = rest {
            let equal = rest.iter().take_while(|one| one.len() == first.len());
            let mut count = equal.count();
            if rest.get(count).is_some_and(|one| one.len() < first.len()) {
                count += 1;
            }
            let mut bytes = rest[..count].concat();
            rest = &rest[count..];
            let stride = first.len();
            let mut left = bytes.as_mut_slice();
            while !left.is_empty() {
                let (count, disposition) = if self.in_runs {
                    dataplane.handle_run(left, stride, outer, now)
                } else {
                    let end = stride.min(left.len());
                    (1, dataplane.handle_datagram(&mut left[..end], outer, now))
                };
                if count > 1 {
                    self.together[0] += count;
                }
                let disposition = std::iter::repeat_n(disposition, count);
                self.outcome.dispositions.extend(disposition);
                let end = left.len().min(count * stride);
                left = left.split_at_mut(end).1;
            }
        }
    }

    fn drain(&mut self) {
        let (dataplane, now, mut out) = (&mut self.bench.dataplane, self.bench.now, Vec::new());
        self.outcome
            .events
            .extend(std::iter::from_fn(|| dataplane.poll_event()));
        if self.in_runs {
            while let Some(run) = dataplane.poll_transmit_run(20, now, &mut out) {
                assert_eq!(out.len(), run.len * run.count);
                if run.count > 1 {
                    self.together[1] += run.count;
                }
                self.outcome
                    .sent
                    .extend(out.chunks(run.len).map(<[u8]>::to_vec));
                out.clear();
            }
        } else {
            while dataplane.poll_transmit(now, &mut out).is_some() {
                self.outcome.sent.push(std::mem::take(&mut out));
            }
        }
    }

    /// Relays what can be read, as an interceptor would.
    fn relay(&mut self) {
        let (dataplane, now) = (&mut self.bench.dataplane, self.bench.now);
        let mut buffer = vec![0; 5_000];
        for (side, leg) in [Leg::Client, Leg::Server].into_iter().enumerate() {
            while let ReadOutcome::Bytes(count) = dataplane.read(self.flow, leg, &mut buffer, now) {
                self.outcome.read[side].extend_from_slice(&buffer[..count]);
                dataplane.write(self.flow, leg.other(), &buffer[..count], now);
            }
        }
    }

    fn finish(mut self) -> (Outcome, [usize; 2]) {
        self.outcome.counters = self.bench.dataplane.counters().clone();
        (self.outcome, self.together)
    }
}

fn compare(batches: &[Vec<Arrival>], is_v6: bool) -> [usize; 2] {
    let datagrams = datagrams(batches, is_v6);
    let [(one_by_one, _), (in_runs, together)] = [false, true].map(|in_runs| {
        let mut side = Side::new(in_runs, is_v6);
        for batch in &datagrams {
            side.take(batch);
            side.drain();
            side.relay();
            side.drain();
            side.bench.now += ms(3);
            side.bench.dataplane.handle_timeout(side.bench.now);
            side.drain();
        }
        side.finish()
    });
    assert_eq!(in_runs, one_by_one);
    together
}

proptest! {
    #[test]
    fn runs_do_what_single_datagrams_do(batches in arrivals(), is_v6 in any::<bool>()) {
        compare(&batches, is_v6);
    }
}

#[test]
fn segments_that_follow_each_other_are_taken_and_given_together() {
    let arrival = Arrival {
        from: Leg::Client,
        length: 1448,
        oddity: Oddity::None,
    };
    for is_v6 in [false, true] {
        let batch = vec![arrival.clone(); 20];
        let [taken, given] = compare(&[batch.clone(), batch], is_v6);
        assert_eq!(taken, 40);
        assert!(given >= 10, "{given}");
    }
}

#[test]
fn raw_packets_are_never_taken_together() {
    let mut bench = Bench::with_verdict(Verdict::Pass);
    let packet = |at| from_client(at, &[1; 100]).packet().datagram();
    let mut bytes = [packet(0), packet(100)].concat();
    let (stride, outer) = (bytes.len() / 2, gwlb(1, 50_000));
    bench.deliver_bytes(packet(0), outer);
    let (count, disposition) = bench
        .dataplane
        .handle_run(&mut bytes, stride, outer, bench.now);
    assert_eq!(
        (count, disposition),
        (1, Disposition::Hairpin { len: stride })
    );
}
