//! Hosts on the two sides of a pair of links, in real time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::sim::Host;
use crate::sim::link::Link;

/// Microseconds at which every world begins; the engine wants a time before that too.
pub(crate) const START: u64 = 1_000_000_000;

/// A host, where it stands, and what becomes readable when it has something to send.
pub(crate) struct Party<'a> {
    pub(crate) host: &'a mut dyn Host,
    address: IpAddr,
    /// 0 or 1: it sends into the link of this side.
    side: usize,
    wakes: Option<OwnedFd>,
}

impl<'a> Party<'a> {
    pub(crate) fn new(
        host: &'a mut dyn Host,
        address: IpAddr,
        side: usize,
        wakes: Option<OwnedFd>,
    ) -> Self {
        Self {
            host,
            address,
            side,
            wakes,
        }
    }
}

/// Hosts and the two directed links that they share.
pub(crate) struct World<'a> {
    parties: Vec<Party<'a>>,
    links: [Link; 2],
    rng: SmallRng,
    clock: Clock,
    in_flight: BinaryHeap<Reverse<(u64, u64, usize, Vec<u8>)>>,
    order: u64,
}

/// Microseconds since a beginning, in the simulator's way of counting.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that stands at the beginning.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> u64 {
        START + self.0.elapsed().as_micros() as u64
    }
}

impl<'a> World<'a> {
    pub(crate) fn new(parties: Vec<Party<'a>>, links: [Link; 2], clock: Clock, seed: u64) -> Self {
        Self {
            parties,
            links,
            rng: SmallRng::seed_from_u64(seed),
            clock,
            in_flight: BinaryHeap::new(),
            order: 0,
        }
    }

    /// Runs until `done`, which gets the time, or until `limit` has passed; answers whether it was
    /// `done`.
    pub(crate) fn run(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&[Party<'a>], u64) -> bool,
    ) -> std::io::Result<bool> {
        let limit = self.clock.now() + limit.as_micros() as u64;
        let mut out = Vec::new();
        loop {
            let now = self.clock.now();
            while let Some(Reverse((at, ..))) = self.in_flight.peek()
                && *at <= now
            {
                let Some(Reverse((_, _, to, packet))) = self.in_flight.pop() else {
                    break;
                };
                self.parties[to].host.receive(&packet, now);
            }
            for from in 0..self.parties.len() {
                self.parties[from].host.turn(now, &mut out);
                for packet in out.drain(..) {
                    self.carry(from, packet, now);
                }
            }
            if done(&self.parties, now) {
                return Ok(true);
            }
            if now > limit {
                return Ok(false);
            }
            self.sleep(now)?;
        }
    }

    fn carry(&mut self, from: usize, packet: Vec<u8>, now: u64) {
        let side = self.parties[from].side;
        let Some(destination) = destination(&packet) else {
            return;
        };
        let Some(to) = self
            .parties
            .iter()
            .position(|party| party.side != side && party.address == destination)
        else {
            return;
        };
        let (in_flight, order) = (&mut self.in_flight, &mut self.order);
        self.links[side].carry(packet, now, &mut self.rng, |at, packet| {
            *order += 1;
            in_flight.push(Reverse((at, *order, to, packet)));
        });
    }

    /// Until the next arrival, timer or packet of a kernel.
    fn sleep(&mut self, now: u64) -> std::io::Result<()> {
        let arrival = self.in_flight.peek().map(|Reverse((at, ..))| *at);
        let next = self
            .parties
            .iter_mut()
            .filter_map(|party| party.host.wake_at(now))
            .chain(arrival)
            .min()
            .unwrap_or(u64::MAX)
            .min(now + 20_000);
        let wait = Duration::from_micros(next.saturating_sub(self.clock.now()));
        let fds: Vec<BorrowedFd<'_>> = self
            .parties
            .iter()
            .filter_map(|party| party.wakes.as_ref().map(AsFd::as_fd))
            .collect();
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Where a TCP packet over IPv4 goes; everything else that a kernel sends is its own business.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    let is_tcp = packet.first()? >> 4 == 4 && *packet.get(9)? == 6;
    let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    is_tcp.then(|| Ipv4Addr::from(octets).into())
}
