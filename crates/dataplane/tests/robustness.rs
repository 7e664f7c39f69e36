//! Garbage of every kind: nothing panics, nothing grows, and flows beside it go on.
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
    Config, Dataplane, Disposition, Event, FirstBytes, FlowId, Leg, Protocol, ReadOutcome, Unseen,
    Verdict,
};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// A data plane whose shell answers at random, as a shell under load or with odd extensions might.
struct Chaos {
    dataplane: Dataplane,
    random: SmallRng,
    now: flowdog_dataplane::Instant,
    flows: Vec<FlowId>,
    /// The flow that must not be disturbed.
    spared: Option<FlowId>,
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let config = Config {
            max_flows: 500,
            park_total_bytes: 100_000,
            hold_total_bytes: 100_000,
            transmit_queue_bytes: 200_000,
            max_intercepted: 40,
            ..Config::default()
        };
        Self {
            dataplane: Dataplane::new(config, seed),
            random: SmallRng::seed_from_u64(seed),
            now: flowdog_dataplane::Instant::from_millis(1),
            flows: Vec::new(),
            spared: None,
        }
    }

    fn give(&mut self, mut datagram: Vec<u8>) -> Disposition {
        let outer = gwlb(self.random.random(), self.random.random());
        let before = datagram.len();
        let disposition = self
            .dataplane
            .handle_datagram(&mut datagram, outer, self.now);
        if let Disposition::Hairpin { len } = disposition {
            assert!(len <= before);
        }
        disposition
    }

    fn drain(&mut self) {
        let mut rounds = 0;
        loop {
            rounds += 1;
            assert!(rounds < 10_000, "the data plane talks to itself");
            let mut idle = true;
            while let Some(event) = self.dataplane.poll_event() {
                idle = false;
                self.on_event(event);
            }
            let mut out = Vec::new();
            while self.dataplane.poll_transmit(self.now, &mut out).is_some() {
                idle = false;
                let sent = Sent {
                    outer: gwlb(1, 1),
                    bytes: std::mem::take(&mut out),
                    hooked: None,
                };
                assert!(sent.inner().len() <= 8933);
            }
            if idle {
                return;
            }
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Parked { flow, .. } => self.dataplane.set_verdict(flow, Verdict::Pass, self.now),
            Event::FlowOpened { flow, .. } => {
                if self.random.random_bool(0.2) {
                    self.dataplane.hook(flow);
                }
                if self.random.random_bool(0.1) {
                    self.dataplane
                        .await_more(flow, self.now + std::time::Duration::from_millis(100));
                    return;
                }
                match self.random.random_range(0..8) {
                    0 => self.dataplane.guard(flow, Unseen::Pass),
                    1 => self.dataplane.guard(flow, Unseen::Drop),
                    2 => self.dataplane.guard(flow, Unseen::Reset),
                    _ => {}
                }
                let verdict = match self.random.random_range(0..10) {
                    0 => Verdict::Pass,
                    1 => Verdict::Drop,
                    2 => Verdict::Reset,
                    3 => return,
                    _ => Verdict::Inspect,
                };
                self.dataplane.set_verdict(flow, verdict, self.now);
            }
            Event::FirstBytes { flow } if Some(flow) == self.spared => {}
            Event::FirstBytes { flow } | Event::ServerSpoke { flow } => {
                let answer = match self.random.random_range(0..12) {
                    0 => FirstBytes::Bypass,
                    1 => FirstBytes::NeedMore,
                    2 => FirstBytes::Drop,
                    3 => FirstBytes::Reset,
                    4 => return,
                    _ => FirstBytes::Intercept,
                };
                self.dataplane.set_first_bytes(flow, answer, self.now);
            }
            Event::LegsReady { flow } => self.flows.push(flow),
            Event::FlowEnded { flow, .. } => {
                assert_ne!(Some(flow), self.spared, "the spared flow ended");
                self.flows.retain(|other| *other != flow);
            }
            Event::Handshake { .. }
            | Event::Readable { .. }
            | Event::Writable { .. }
            | Event::LegClosed { .. } => {}
        }
    }

    /// Something that a shell may do at any time.
    fn meddle(&mut self) {
        if self.flows.is_empty() {
            return;
        }
        let flow = self.flows[self.random.random_range(0..self.flows.len())];
        if Some(flow) == self.spared {
            return;
        }
        let leg = if self.random.random() {
            Leg::Client
        } else {
            Leg::Server
        };
        let (dataplane, now) = (&mut self.dataplane, self.now);
        match self.random.random_range(0..5) {
            0 => {
                let _ = dataplane.read(flow, leg, &mut [0; 700], now);
            }
            1 | 2 => {
                let _ = dataplane.write(flow, leg, &[0x55; 900], now);
            }
            3 => dataplane.shutdown(flow, leg, now),
            _ => dataplane.abort(flow, now),
        }
        self.drain();
    }

    fn pass(&mut self, until: flowdog_dataplane::Instant) {
        while let Some(at) = self.dataplane.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.dataplane.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    fn check_bounds(&self) {
        let dataplane = &self.dataplane;
        assert!(dataplane.flows_active() <= 500);
        assert!(dataplane.parked_bytes() <= 100_000);
        assert!(dataplane.held_bytes() <= 100_000);
        assert!(dataplane.fragment_bytes() <= 32 * 64 * 9000);
        assert!(dataplane.intercepted_flows() <= 40);
    }
}

/// A connection from first to last packet, on its own client port.
fn connection(port: u16, random: &mut SmallRng) -> Vec<Packet> {
    let shift = |mut tcp: Tcp| {
        if tcp.src == client() {
            tcp.src.set_port(port);
        } else {
            tcp.dst.set_port(port);
        }
        tcp
    };
    let mut script = vec![
        syn(),
        syn_ack(),
        from_client(0, b""),
        from_client(0, b"GET / HTTP/1.1\r\n"),
        from_client(16, b"host: a\r\n\r\n"),
        from_client(40, b"a hole before this"),
        from_server(0, 0, b""),
        from_server(0, 16, b""),
        from_server(0, 27, b"HTTP/1.1 200 OK\r\n"),
        with_flags(from_client(27, b""), "FA"),
        with_flags(from_server(17, 28, b""), "FA"),
        with_flags(from_server(0, 0, b""), "R"),
    ];
    match random.random_range(0..6) {
        0 => {
            script[0] = syn()
                .payload(b"early")
                .raw_options(&[34, 10, 1, 2, 3, 4, 5, 6, 7, 8])
        }
        1 => {
            script.remove(2);
        }
        2 => script.swap(3, 4),
        3 => {
            script.remove(4);
        }
        4 => {
            script.insert(4, from_client(4, b"/different"));
        }
        _ => {}
    }
    script.into_iter().map(|tcp| shift(tcp).packet()).collect()
}

/// Real datagrams of other kinds.
fn specimens(random: &mut SmallRng) -> Vec<Packet> {
    let mut all = vec![
        udp(client(), server(), b"query"),
        udp(client6(), server6(), b"query"),
        echo(client(), server(), true),
        echo(client6(), server6(), true),
        other(client(), server(), Protocol::GRE, b"tunnel"),
    ];
    let mut quoted = vec![3, 4, 0, 0, 0, 0, 2, 0];
    quoted.extend_from_slice(&from_client(0, b"x").inner()[..28]);
    wire::icmp::fill_checksum(&mut quoted, server().ip(), client().ip());
    all.push(other(server(), client(), Protocol::ICMP, &quoted));
    let six = |tcp: Tcp| Tcp {
        src: if tcp.src == client() {
            client6()
        } else {
            server6()
        },
        dst: if tcp.dst == client() {
            client6()
        } else {
            server6()
        },
        ..tcp
    };
    for tcp in [
        syn(),
        syn_ack(),
        from_client(0, b""),
        from_client(0, b"six"),
    ] {
        all.push(six(tcp).packet());
    }
    for packet in &mut all {
        packet.cookie = random.random_range(0..3);
    }
    all
}

fn mutate(datagram: &mut Vec<u8>, random: &mut SmallRng) {
    match random.random_range(0..6) {
        0 => datagram.truncate(random.random_range(0..=datagram.len())),
        1 => datagram.extend((0..random.random_range(0..50)).map(|n| n as u8)),
        2 => {
            let at = random.random_range(0..datagram.len().max(1));
            let until = (at + random.random_range(0..8)).min(datagram.len());
            datagram.drain(at.min(until)..until);
        }
        _ => {
            for _ in 0..random.random_range(1..4) {
                // Half of the flips hit the headers.
                let span = if random.random() { 100 } else { 2000 };
                let at = random.random_range(0..datagram.len().min(span).max(1));
                if let Some(byte) = datagram.get_mut(at) {
                    *byte ^= 1 << random.random_range(0..8);
                }
            }
        }
    }
}

#[test]
fn threat_55_random_bytes_are_dropped_and_counted() {
    let mut chaos = Chaos::new(1);
    let mut random = SmallRng::seed_from_u64(2);
    for _ in 0..200_000 {
        let len = random.random_range(0..120);
        let datagram: Vec<u8> = (0..len).map(|_| random.random()).collect();
        assert!(matches!(chaos.give(datagram), Disposition::Dropped(_)));
    }
    let counters = chaos.dataplane.counters();
    let dropped: u64 = flowdog_dataplane::DropReason::ALL
        .iter()
        .map(|reason| counters.dropped(*reason))
        .sum();
    assert_eq!((dropped, counters.received_packets), (200_000, 200_000));
    assert_eq!(chaos.dataplane.flows_active(), 0);
}

#[test]
fn threat_57_mutated_datagrams_never_panic_never_leak_and_disturb_no_other_flow() {
    for seed in 0..4 {
        let mut chaos = Chaos::new(seed);
        let mut random = SmallRng::seed_from_u64(seed + 100);
        let specimens = specimens(&mut random);

        // A connection that must not notice: under another endpoint, taken over, and idle but for a
        // byte now and then.
        let spared = |tcp: Tcp| tcp.packet().endpoint(E2).datagram();
        chaos.give(spared(syn()));
        let Some(Event::FlowOpened { flow, .. }) = chaos.dataplane.poll_event() else {
            panic!("no flow");
        };
        chaos.spared = Some(flow);
        chaos
            .dataplane
            .set_verdict(flow, Verdict::Inspect, chaos.now);
        chaos.give(spared(syn_ack()));
        chaos.give(spared(from_client(0, b"")));
        chaos.give(spared(from_client(0, b"0")));
        chaos
            .dataplane
            .set_first_bytes(flow, FirstBytes::Intercept, chaos.now);
        chaos.drain();
        let mut at = 1;

        let mut port = 1024u16;
        let mut connections: Vec<_> = (0..8).map(|n| (connection(n, &mut random), 0)).collect();
        for n in 0..75_000u32 {
            let which = random.random_range(0..connections.len());
            let (script, step) = &mut connections[which];
            let mut datagram = if random.random_bool(0.7) {
                script[(*step + random.random_range(0..3)).min(script.len() - 1)].datagram()
            } else {
                specimens[random.random_range(0..specimens.len())].datagram()
            };
            if random.random_bool(0.6) {
                mutate(&mut datagram, &mut random);
                // The spared flow's endpoint is out of reach of single flips, not of luck.
                if datagram.get(12..20) == Some(&E2.0.to_be_bytes()[..]) {
                    continue;
                }
            } else {
                datagram = script[*step].datagram();
                *step += 1;
                if *step == script.len() {
                    port = port.wrapping_add(1).max(1024);
                    connections[which] = (connection(port, &mut random), 0);
                }
            }
            chaos.give(datagram);
            chaos.drain();
            if random.random_bool(0.05) {
                chaos.meddle();
            }
            if random.random_bool(0.02) {
                let step = std::time::Duration::from_millis(random.random_range(0..2000));
                let until = chaos.now + step;
                chaos.pass(until);
            }
            if n % 500 == 0 {
                chaos.check_bounds();
                chaos.give(spared(from_client(at, b"1")));
                chaos.give(spared(from_server(0, 0, b"")));
                chaos.drain();
                let mut buffer = [0; 64];
                let mut heard = 0;
                while let ReadOutcome::Bytes(n) =
                    chaos
                        .dataplane
                        .read(flow, Leg::Client, &mut buffer, chaos.now)
                {
                    heard += n;
                }
                chaos.drain();
                assert!(heard >= 1, "seed {seed}, step {n}");
                at += 1;
            }
        }
        chaos.check_bounds();
        let counters = chaos.dataplane.counters();
        assert!(
            counters.takeovers > 20,
            "the run must reach every state: {counters:?}"
        );
        assert!(counters.relays > 0 && counters.resets_sent > 0 && counters.held_packets > 100);

        // Everything goes in the end.
        chaos.spared = None;
        let end = chaos.now + std::time::Duration::from_secs(3000);
        chaos.pass(end);
        assert_eq!(chaos.dataplane.flows_active(), 0, "seed {seed}");
        assert_eq!(chaos.dataplane.intercepted_flows(), 0);
        assert_eq!(
            chaos.dataplane.held_bytes() + chaos.dataplane.parked_bytes(),
            0
        );
        assert_eq!(chaos.dataplane.fragment_bytes(), 0);
        assert_eq!(chaos.dataplane.poll_timeout(), None);
    }
}
