//! A network of two hosts and one link in virtual time, replayed from one seed.
#![allow(
    clippy::allow_attributes,
    reason = "which part is unused differs between the test binaries"
)]
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

pub(crate) mod app;
pub(crate) mod crowd;
pub(crate) mod engine;
pub(crate) mod link;
pub(crate) mod measure;
pub(crate) mod middlebox;
pub(crate) mod peer;
pub(crate) mod textbook;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr};

use rand::SeedableRng;
use rand::rngs::SmallRng;
use wire::tcp;

use app::App;
use link::Link;

pub(crate) const LEFT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
pub(crate) const RIGHT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
pub(crate) const PORT: u16 = 443;
/// The port of a second pair of hosts.
pub(crate) const SECOND_PORT: u16 = 444;
/// Bytes of the IPv4 header before a segment.
pub(crate) const IP_HEADER: usize = 20;

/// A host with one connection and the application on it.
pub(crate) trait Host {
    /// Takes an IPv4 packet.
    fn receive(&mut self, packet: &[u8], now: u64);
    /// Takes packets that arrived at once.
    fn receive_all(&mut self, packets: &mut Vec<Vec<u8>>, now: u64) {
        for packet in packets.drain(..) {
            self.receive(&packet, now);
        }
    }
    /// Lets timers, application and connection run; appends the packets to send.
    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>);
    /// When it wants its next turn, in microseconds.
    fn wake_at(&mut self, now: u64) -> Option<u64>;
    /// Whether its connection is over.
    fn is_closed(&self) -> bool;
    fn app(&self) -> &App;
    fn describe(&self) -> String;
}

struct InFlight {
    at: u64,
    order: u64,
    to: usize,
    packet: Vec<u8>,
}

impl PartialEq for InFlight {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}
impl Eq for InFlight {}
impl PartialOrd for InFlight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for InFlight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// Two hosts and the directed links from each.
pub(crate) struct Network<'a> {
    pub(crate) hosts: [&'a mut dyn Host; 2],
    pub(crate) links: [Link; 2],
    pub(crate) now: u64,
    /// The host at this side stands still for so many microseconds out of so many; its clock does
    /// not, so time jumps for it.
    pub(crate) stalls: [Option<(u64, u64)>; 2],
    /// A fingerprint of everything that left, where it is asked for: who, when, what.
    pub(crate) trace: Option<u64>,
    rng: SmallRng,
    in_flight: BinaryHeap<Reverse<InFlight>>,
    order: u64,
}

/// When a host that stands still now and then notices what happens at `at`.
fn after_stall(stall: Option<(u64, u64)>, at: u64) -> u64 {
    match stall {
        Some((length, every)) if at % every < length => at - at % every + length,
        _ => at,
    }
}

/// FNV-1a over when a packet left and its headers, whose checksum speaks for the rest.
fn fingerprint(before: u64, side: usize, now: u64, packet: &[u8]) -> u64 {
    let when = (now << 1 | side as u64).to_le_bytes();
    let headers = packet.iter().take(IP_HEADER + tcp::MAX_HEADER_LEN);
    when.iter().chain(headers).fold(before, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

impl<'a> Network<'a> {
    pub(crate) fn new(
        hosts: [&'a mut dyn Host; 2],
        links: [Link; 2],
        start: u64,
        seed: u64,
    ) -> Self {
        Self {
            hosts,
            links,
            now: start,
            stalls: [None; 2],
            trace: None,
            rng: SmallRng::seed_from_u64(seed),
            in_flight: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Runs until `done` or until `limit`; answers whether it was `done`.
    pub(crate) fn run(
        &mut self,
        limit: u64,
        mut done: impl FnMut(&[&'a mut dyn Host; 2]) -> bool,
    ) -> bool {
        let mut out = Vec::new();
        let mut due = [true; 2];
        let mut turns_at_now = 0;
        loop {
            for (side, _) in due.iter().enumerate().filter(|(_, due)| **due) {
                self.hosts[side].turn(self.now, &mut out);
                for packet in out.drain(..) {
                    if let Some(trace) = &mut self.trace {
                        *trace = fingerprint(*trace, side, self.now, &packet);
                    }
                    let (in_flight, order) = (&mut self.in_flight, &mut self.order);
                    let stall = self.stalls[1 - side];
                    self.links[side].carry(packet, self.now, &mut self.rng, |at, packet| {
                        *order += 1;
                        in_flight.push(Reverse(InFlight {
                            at: after_stall(stall, at),
                            order: *order,
                            to: 1 - side,
                            packet,
                        }));
                    });
                }
            }
            if done(&self.hosts) {
                return true;
            }
            let arrival = self.in_flight.peek().map(|Reverse(packet)| packet.at);
            let wakes = [
                self.hosts[0].wake_at(self.now),
                self.hosts[1].wake_at(self.now),
            ];
            let wakes = [0, 1].map(|side| wakes[side].map(|at| after_stall(self.stalls[side], at)));
            let Some(next) = arrival.into_iter().chain(wakes.into_iter().flatten()).min() else {
                return false;
            };
            if next > limit {
                return false;
            }
            turns_at_now = if next > self.now { 0 } else { turns_at_now + 1 };
            assert!(
                turns_at_now < 10_000,
                "time stands still at {} us",
                self.now
            );
            self.now = self.now.max(next);
            due = wakes.map(|wake| wake.is_some_and(|wake| wake <= self.now));
            while let Some(Reverse(packet)) = self.in_flight.peek()
                && packet.at <= self.now
            {
                let Some(Reverse(packet)) = self.in_flight.pop() else {
                    break;
                };
                self.hosts[packet.to].receive(&packet.packet, self.now);
                due[packet.to] = true;
            }
        }
    }
}
