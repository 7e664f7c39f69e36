//! One entry of the load balancer's flow table.

use std::net::IpAddr;
use std::time::Duration;

use wire::gwlb::FlowCookie;

use super::config::Stickiness;
use super::inner::{ACK, FIN, RST, SYN, TCP, Tuple, UDP};

/// Replaced routes kept per flow at most, and for how long: longer than any answer is under way.
const MAX_REPLACED: usize = 1024;
const REPLACED_KEPT: Duration = Duration::from_secs(5);
/// Cookies remembered to tell a stale one from a wrong one.
const MAX_STALE: usize = 16;

/// What defines a flow: the endpoint and the tuple in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    endpoint: usize,
    protocol: u8,
    low: (IpAddr, u16),
    high: (IpAddr, u16),
}

impl FlowKey {
    /// The key, and whether the packet's source is the lower end.
    pub(super) fn new(endpoint: usize, tuple: &Tuple, stickiness: Stickiness) -> (Self, bool) {
        let (mut src, mut dst, mut protocol) = (tuple.src, tuple.dst, tuple.protocol);
        let from_low = src <= dst;
        match stickiness {
            Stickiness::FiveTuple if matches!(protocol, TCP | UDP) => {}
            Stickiness::FiveTuple | Stickiness::ThreeTuple => (src.1, dst.1) = (0, 0),
            Stickiness::TwoTuple => (src.1, dst.1, protocol) = (0, 0, 0),
        }
        let (low, high) = if src <= dst { (src, dst) } else { (dst, src) };
        (
            Self {
                endpoint,
                protocol,
                low,
                high,
            },
            from_low,
        )
    }

    pub(super) fn endpoint(&self) -> usize {
        self.endpoint
    }

    pub(super) fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }
}

/// Where replies for a flow may be sent, and the header they must bear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) zone: usize,
    pub(super) port: u16,
    pub(super) cookie: FlowCookie,
    pub(super) header: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Flow {
    /// The newest route per direction (0: packets from the lower end); the same twice unless a
    /// switch gives each direction its own port or cookie.
    pub(super) routes: [Route; 2],
    /// Routes replaced a moment ago, which answers in flight may still use.
    pub(super) replaced: Vec<(Route, Duration)>,
    /// Cookies of earlier generations, newest last.
    pub(super) stale: Vec<FlowCookie>,
    pub(super) created: Duration,
    pub(super) last_seen: Duration,
    pub(super) answered: bool,
    pub(super) packets: u64,
    tcp: TcpTrack,
}

/// How far a TCP connection has come to its end.
#[derive(Clone, Copy, Debug, Default)]
struct TcpTrack {
    syn_seq: [Option<u32>; 2],
    fin: [bool; 2],
    reset: bool,
}

impl Flow {
    pub(super) fn new(route: Route, now: Duration) -> Self {
        Self {
            routes: [route.clone(), route],
            replaced: Vec::new(),
            stale: Vec::new(),
            created: now,
            last_seen: now,
            answered: false,
            packets: 0,
            tcp: TcpTrack::default(),
        }
    }

    /// Follows a TCP segment that a host sent.
    pub(super) fn track(&mut self, from_low: bool, flags: u8, seq: u32) {
        let side = usize::from(!from_low);
        if flags & SYN != 0 {
            self.tcp.syn_seq[side] = Some(seq);
        }
        self.tcp.fin[side] |= flags & FIN != 0;
        self.tcp.reset |= flags & RST != 0;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.tcp.reset || (self.tcp.fin[0] && self.tcp.fin[1])
    }

    /// Whether a segment from a host opens a new connection on this tuple rather than repeating a SYN.
    pub(super) fn is_reused_by(&self, from_low: bool, flags: u8, seq: u32) -> bool {
        let opens = flags & (SYN | ACK | RST) == SYN;
        opens && self.is_closed() && self.tcp.syn_seq[usize::from(!from_low)] != Some(seq)
    }

    /// Replaces the route of one direction, or of both.
    pub(super) fn reroute(&mut self, direction: Option<usize>, route: &Route, now: Duration) {
        for side in 0..2 {
            if direction.is_none_or(|only| only == side) && self.routes[side] != *route {
                let old = std::mem::replace(&mut self.routes[side], route.clone());
                self.replaced.push((old, now));
            }
        }
        let forgotten = |(_, at): &(Route, Duration)| now.saturating_sub(*at) > REPLACED_KEPT;
        let expired = self
            .replaced
            .iter()
            .take_while(|entry| forgotten(entry))
            .count();
        let excess = self
            .replaced
            .len()
            .saturating_sub(MAX_REPLACED)
            .max(expired);
        for (route, _) in self.replaced.drain(..excess) {
            if !self.stale.contains(&route.cookie) {
                self.stale.push(route.cookie);
            }
        }
        let excess = self.stale.len().saturating_sub(MAX_STALE);
        self.stale.drain(..excess);
    }

    /// Routes that an answer may use now: the newest, and those replaced less than `grace` ago.
    pub(super) fn usable(&self, now: Duration, grace: Duration) -> impl Iterator<Item = &Route> {
        let replaced = self
            .replaced
            .iter()
            .filter(move |(_, at)| now.saturating_sub(*at) <= grace)
            .map(|(route, _)| route);
        self.routes.iter().chain(replaced)
    }
}
