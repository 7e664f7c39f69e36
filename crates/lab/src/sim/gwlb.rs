//! The load balancer itself: flow table, cookies, and the judgement of each answer.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddrV4};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use wire::gwlb::{FlowCookie, VpcEndpointId};

use super::config::{GENEVE_PORT, GwlbConfig, GwlbStats, Switches};
use super::flow::{Flow, FlowKey, Route};
use super::header::{self, Header};
use super::inner::{Inner, InnerFault};
use super::violation::{Violation, Violations};

/// How often expired entries are swept out.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Hashes of packets that hosts sent with a wrong checksum, which the appliance may pass on.
const MAX_DAMAGED: usize = 4096;
/// Ended flows remembered, to tell a late answer from an unsolicited one.
const MAX_TOMBSTONES: usize = 65_536;

/// The side of the endpoint that a host is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The VPC that the endpoint serves.
    Client,
    /// Everything else.
    Server,
}

/// A datagram for the appliance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToAppliance {
    /// Zone of `source`, an index into [`GwlbConfig::zones`].
    pub zone: usize,
    /// The zone's address and the flow's port.
    pub source: SocketAddrV4,
    /// The appliance.
    pub target: SocketAddrV4,
    /// GENEVE header and inner packet.
    pub payload: Vec<u8>,
}

/// An inner packet that passed and is on its way to a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Index of the endpoint.
    pub endpoint: usize,
    /// Where the packet's destination lies.
    pub side: Side,
    /// The inner packet.
    pub packet: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Idle,
}

struct Tombstone {
    end: End,
    cookies: [FlowCookie; 2],
}

/// The simulated load balancer. Time is the duration since the start and must not run backwards.
pub struct Gwlb {
    config: GwlbConfig,
    rng: SmallRng,
    flows: HashMap<FlowKey, Flow>,
    tombstones: HashMap<FlowKey, Tombstone>,
    tombstone_order: VecDeque<FlowKey>,
    /// Cookies in use, per endpoint, to tell a foreign cookie from an invented one.
    cookies: HashSet<(usize, FlowCookie)>,
    damaged: HashSet<u64>,
    damaged_order: VecDeque<u64>,
    next_sweep: Duration,
    stats: GwlbStats,
    violations: Violations,
}

impl std::fmt::Debug for Gwlb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gwlb")
            .field("stats", &self.stats)
            .field("violations", &self.violations)
            .finish_non_exhaustive()
    }
}

impl Gwlb {
    /// A load balancer without flows.
    #[must_use]
    pub fn new(config: GwlbConfig) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(config.seed),
            config,
            flows: HashMap::new(),
            tombstones: HashMap::new(),
            tombstone_order: VecDeque::new(),
            cookies: HashSet::new(),
            damaged: HashSet::new(),
            damaged_order: VecDeque::new(),
            next_sweep: SWEEP_EVERY,
            stats: GwlbStats::default(),
            violations: Violations::default(),
        }
    }

    /// How it is set up.
    #[must_use]
    pub fn config(&self) -> &GwlbConfig {
        &self.config
    }

    /// Changes a switch while traffic runs.
    pub fn switches_mut(&mut self) -> &mut Switches {
        &mut self.config.switches
    }

    /// The counters so far.
    #[must_use]
    pub fn stats(&self) -> GwlbStats {
        GwlbStats {
            flows_open: self.flows.len() as u64,
            ..self.stats
        }
    }

    /// What the appliance did wrong so far.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.violations
    }

    /// The side of an endpoint on which an address lies.
    #[must_use]
    pub fn side_of(&self, address: IpAddr) -> Side {
        if self
            .config
            .client_networks
            .iter()
            .any(|network| network.contains(&address))
        {
            Side::Client
        } else {
            Side::Server
        }
    }

    /// Gives all flows a new cookie, as after a rebalance.
    pub fn change_cookies(&mut self, now: Duration) {
        #[expect(clippy::iter_over_hash_type, reason = "sorted before any random draw")]
        let mut keys: Vec<(FlowCookie, FlowKey)> = {
            let mut keys = Vec::new();
            for (key, flow) in &self.flows {
                keys.push((flow.routes[0].cookie, *key));
            }
            keys
        };
        keys.sort_by_key(|(cookie, _)| *cookie);
        for (_, key) in keys {
            self.change_cookie(&key, now);
        }
    }

    /// Takes a packet that a host of an endpoint sent.
    pub fn from_host(
        &mut self,
        endpoint: usize,
        packet: &[u8],
        now: Duration,
    ) -> Option<ToAppliance> {
        self.sweep(now);
        self.stats.packets_from_hosts += 1;
        self.stats.bytes_from_hosts += packet.len() as u64;
        let Ok(inner) = Inner::parse(packet) else {
            self.stats.unparsable += 1;
            return None;
        };
        if !is_routable(inner.tuple.src.0) || !is_routable(inner.tuple.dst.0) {
            self.stats.unroutable += 1;
            return None;
        }
        if packet.len() > self.config.max_inner {
            self.stats.oversize_from_hosts += 1;
            return None;
        }
        if inner.verify().is_err() {
            self.remember_damaged(packet);
        }
        let (key, from_low) = FlowKey::new(endpoint, &inner.tuple, self.config.stickiness);
        self.expire(&key, now);
        self.admit(&key, from_low, &inner, now)?;
        self.vary(&key, from_low, now);
        let flow = self.flows.get_mut(&key)?;
        flow.last_seen = now;
        flow.packets += 1;
        if let Some((flags, seq)) = inner.tcp {
            flow.track(from_low, flags, seq);
        }
        let route = &flow.routes[usize::from(!from_low)];
        let mut payload = Vec::with_capacity(route.header.len() + packet.len());
        payload.extend_from_slice(&route.header);
        payload.extend_from_slice(packet);
        self.stats.datagrams_to_appliance += 1;
        Some(ToAppliance {
            zone: route.zone,
            source: SocketAddrV4::new(*self.config.zones.get(route.zone)?, route.port),
            target: self.config.appliance,
            payload,
        })
    }

    /// Takes a datagram that the appliance sent from `source` to `target`, an address of ours.
    ///
    /// # Errors
    /// The rule that the datagram broke; it is counted and dropped. `None` inside `Ok` is a datagram
    /// that a real load balancer would drop too, but for which the appliance is not to blame.
    pub fn from_appliance(
        &mut self,
        source: SocketAddrV4,
        target: SocketAddrV4,
        datagram: &[u8],
        now: Duration,
    ) -> Result<Option<Delivery>, Violation> {
        self.sweep(now);
        self.stats.datagrams_from_appliance += 1;
        let judged = self.judge(source, target, datagram, now);
        match &judged {
            Ok(Some(delivery)) => {
                self.stats.packets_to_hosts += 1;
                self.stats.bytes_to_hosts += delivery.packet.len() as u64;
            }
            Ok(None) => {}
            Err(kind) => self
                .violations
                .record(*kind, || describe(source, target, datagram)),
        }
        judged
    }

    fn judge(
        &mut self,
        source: SocketAddrV4,
        target: SocketAddrV4,
        datagram: &[u8],
        now: Duration,
    ) -> Result<Option<Delivery>, Violation> {
        let claim = header::read(datagram).ok_or(Violation::MalformedHeader)?;
        if target.port() != GENEVE_PORT {
            return Err(Violation::PortsSwapped);
        }
        if source.ip() != self.config.appliance.ip() {
            return Err(Violation::WrongSourceAddress);
        }
        let endpoint = self
            .config
            .endpoints
            .iter()
            .position(|known| *known == claim.endpoint)
            .ok_or(Violation::HeaderAltered)?;
        if claim.inner.len() > self.config.max_inner {
            return Err(Violation::Oversize);
        }
        let inner = Inner::parse(claim.inner).map_err(|_| Violation::MalformedInner)?;
        if let Err(fault) = inner.verify() {
            // A damaged packet of a host must pass bit for bit; only the appliance's own are faults.
            if !self.damaged.contains(&fingerprint(claim.inner)) {
                return Err(match fault {
                    InnerFault::Malformed => Violation::MalformedInner,
                    InnerFault::IpChecksum => Violation::BadIpChecksum,
                    InnerFault::TransportChecksum => Violation::BadTransportChecksum,
                });
            }
        }
        let (own, from_low) = FlowKey::new(endpoint, &inner.tuple, self.config.stickiness);
        self.expire(&own, now);
        let mut key = own;
        if let Some(quoted) = inner.quoted {
            // An ICMP error that the appliance makes itself travels under the quoted flow's header.
            let (quoted, _) = FlowKey::new(endpoint, &quoted, self.config.stickiness);
            let bears = |key: &FlowKey| {
                self.flows.get(key).is_some_and(|flow| {
                    flow.routes.iter().any(|route| route.header == claim.header)
                })
            };
            if !bears(&own) && bears(&quoted) {
                key = quoted;
            }
        }
        let Some(flow) = self.flows.get(&key) else {
            return self.judge_without_flow(&key, endpoint, claim.cookie, &inner);
        };
        let grace = self.config.in_flight_grace;
        if !flow.routes.iter().any(|route| route.cookie == claim.cookie) {
            if flow
                .usable(now, grace)
                .any(|route| route.cookie == claim.cookie)
            {
                self.stats.answers_overtaken += 1;
                return Ok(None);
            }
            let old = flow
                .replaced
                .iter()
                .any(|(route, _)| route.cookie == claim.cookie);
            return Err(if old || flow.stale.contains(&claim.cookie) {
                if now.saturating_sub(flow.created) <= grace {
                    self.stats.answers_overtaken += 1;
                    return Ok(None);
                }
                Violation::StaleCookie
            } else {
                Violation::WrongCookie
            });
        }
        if !flow
            .usable(now, grace)
            .any(|route| route.header == claim.header)
        {
            return Err(Violation::HeaderAltered);
        }
        let zone = self
            .config
            .zones
            .iter()
            .position(|zone| zone == target.ip());
        if !flow
            .usable(now, grace)
            .any(|route| Some(route.zone) == zone)
        {
            return Err(Violation::WrongGwlbAddress);
        }
        if !flow
            .usable(now, grace)
            .any(|route| Some(route.zone) == zone && route.port == source.port())
        {
            return Err(Violation::WrongSourcePort);
        }
        if !flow.answered && now.saturating_sub(flow.created) > self.config.answer_deadline {
            return Err(Violation::LateAnswer);
        }
        let side = self.side_of(inner.tuple.dst.0);
        if let Some(flow) = self.flows.get_mut(&key) {
            flow.answered = true;
            flow.last_seen = now;
            if key == own
                && let Some((flags, _)) = inner.tcp
            {
                // A reset that the appliance makes ends the flow like one of a host's.
                flow.track(from_low, flags & super::inner::RST, 0);
            }
        }
        Ok(Some(Delivery {
            endpoint,
            side,
            packet: claim.inner.to_vec(),
        }))
    }

    fn judge_without_flow(
        &mut self,
        key: &FlowKey,
        endpoint: usize,
        cookie: FlowCookie,
        inner: &Inner<'_>,
    ) -> Result<Option<Delivery>, Violation> {
        if let Some(tombstone) = self.tombstones.get(key)
            && tombstone.cookies.contains(&cookie)
        {
            return match tombstone.end {
                End::Idle if inner.tcp.is_some() => Err(Violation::AfterIdle),
                End::Idle | End::Closed => {
                    self.stats.answers_after_close += 1;
                    Ok(None)
                }
            };
        }
        if self.cookies.contains(&(endpoint, cookie)) {
            return Err(Violation::TupleOfAnotherFlow);
        }
        Err(Violation::Unsolicited)
    }

    /// Finds or makes the flow of a host's packet; `None` if the packet is to be dropped.
    fn admit(
        &mut self,
        key: &FlowKey,
        from_low: bool,
        inner: &Inner<'_>,
        now: Duration,
    ) -> Option<()> {
        let mut stale = Vec::new();
        if let Some(flow) = self.flows.get(key) {
            let reused = inner.tcp.is_some_and(|(flags, seq)| {
                key.is_tcp() && flow.is_reused_by(from_low, flags, seq)
            });
            if !reused {
                return Some(());
            }
            stale = self.remove(key, None);
        } else if let Some((flags, _)) = inner.tcp
            && flags & super::inner::SYN == 0
            && let Some(tombstone) = self.tombstones.get(key)
        {
            match tombstone.end {
                End::Idle => self.stats.host_data_after_idle += 1,
                End::Closed => self.stats.host_data_after_close += 1,
            }
            return None;
        }
        if self.flows.len() >= self.config.max_flows {
            self.stats.flow_table_full += 1;
            return None;
        }
        if let Some(tombstone) = self.tombstones.remove(key) {
            stale.extend(tombstone.cookies);
        }
        let ipv6 = inner.tuple.src.0.is_ipv6();
        let zone = self.rng.random_range(0..self.config.zones.len().max(1));
        let route = self.new_route(key, zone, None, ipv6);
        let mut flow = Flow::new(route, now);
        stale.truncate(8);
        flow.stale = stale;
        if self.config.switches.port_per_direction || self.config.switches.cookie_per_direction {
            let first = &flow.routes[0];
            let other = if self.config.switches.cookie_per_direction {
                self.new_route(key, zone, None, ipv6)
            } else {
                first.clone()
            };
            let mut other = Route {
                port: first.port,
                ..other
            };
            if self.config.switches.port_per_direction {
                other.port = self.other_port(other.port);
            }
            flow.routes[1] = other;
        }
        self.stats.flows += 1;
        self.flows.insert(*key, flow);
        Some(())
    }

    /// Applies the switches that change something in the middle of a flow.
    fn vary(&mut self, key: &FlowKey, from_low: bool, now: Duration) {
        let switches = &self.config.switches;
        let (ports, zones, cookies) = (
            switches.change_port_every,
            switches.change_zone_every,
            switches.change_cookie_every,
        );
        let direction = switches
            .port_per_direction
            .then_some(usize::from(!from_low));
        let Some(flow) = self.flows.get(key) else {
            return;
        };
        let due = |every: Option<u64>| {
            every.is_some_and(|every| flow.packets > 0 && flow.packets.is_multiple_of(every.max(1)))
        };
        let (ports, zones, cookies) = (due(ports), due(zones), due(cookies));
        let mut route = flow.routes[usize::from(!from_low)].clone();
        if ports {
            route.port = self.other_port(route.port);
        }
        if zones {
            route.zone = (route.zone + 1) % self.config.zones.len().max(1);
        }
        if (ports || zones)
            && let Some(flow) = self.flows.get_mut(key)
        {
            flow.reroute(direction, &route, now);
        }
        if cookies {
            self.change_cookie(key, now);
        }
    }

    fn change_cookie(&mut self, key: &FlowKey, now: Duration) {
        let Some(flow) = self.flows.get(key) else {
            return;
        };
        let old = flow.routes[0].clone();
        let ipv6 = old.header.get(2) == Some(&0x86);
        let route = self.new_route(key, old.zone, Some(old.port), ipv6);
        if let Some(flow) = self.flows.get_mut(key) {
            flow.reroute(None, &route, now);
        }
    }

    fn other_port(&mut self, port: u16) -> u16 {
        let ports = &self.config.ports;
        let at = ports.iter().position(|known| *known == port).unwrap_or(0);
        ports
            .get((at + 1) % ports.len().max(1))
            .copied()
            .unwrap_or(port)
    }

    fn new_route(&mut self, key: &FlowKey, zone: usize, port: Option<u16>, ipv6: bool) -> Route {
        let endpoint = key.endpoint();
        let cookie = loop {
            let cookie = FlowCookie(self.rng.random());
            if self.cookies.insert((endpoint, cookie)) {
                break cookie;
            }
        };
        self.stats.cookies += 1;
        let port = port.unwrap_or_else(|| {
            let at = self.rng.random_range(0..self.config.ports.len().max(1));
            self.config.ports.get(at).copied().unwrap_or(GENEVE_PORT)
        });
        let switches = &self.config.switches;
        let header = Header {
            endpoint: self
                .config
                .endpoints
                .get(endpoint)
                .copied()
                .unwrap_or(VpcEndpointId(0)),
            attachment: switches.attachment,
            cookie,
            ipv6,
            control: switches.control_bits,
            vni: switches.vni,
            order: switches.option_order,
            extra: switches.extra_option.as_ref(),
        }
        .emit();
        Route {
            zone,
            port,
            cookie,
            header,
        }
    }

    fn has_expired(&self, key: &FlowKey, flow: &Flow, now: Duration) -> Option<End> {
        let quiet = now.saturating_sub(flow.last_seen);
        if key.is_tcp() && flow.is_closed() {
            return (quiet > self.config.close_linger).then_some(End::Closed);
        }
        let limit = if key.is_tcp() {
            self.config.tcp_idle
        } else {
            self.config.other_idle
        };
        (quiet > limit).then_some(End::Idle)
    }

    fn expire(&mut self, key: &FlowKey, now: Duration) {
        if let Some(end) = self
            .flows
            .get(key)
            .and_then(|flow| self.has_expired(key, flow, now))
        {
            self.remove(key, Some(end));
        }
    }

    /// Removes a flow and returns all cookies it had; with an `end`, leaves a tombstone.
    fn remove(&mut self, key: &FlowKey, end: Option<End>) -> Vec<FlowCookie> {
        let Some(flow) = self.flows.remove(key) else {
            return Vec::new();
        };
        let mut cookies: Vec<FlowCookie> = flow
            .routes
            .iter()
            .chain(flow.replaced.iter().map(|(route, _)| route))
            .map(|route| route.cookie)
            .collect();
        for cookie in &cookies {
            self.cookies.remove(&(key.endpoint(), *cookie));
        }
        if let Some(end) = end {
            let newest = [flow.routes[0].cookie, flow.routes[1].cookie];
            if self
                .tombstones
                .insert(
                    *key,
                    Tombstone {
                        end,
                        cookies: newest,
                    },
                )
                .is_none()
            {
                self.tombstone_order.push_back(*key);
            }
            while self.tombstone_order.len() > MAX_TOMBSTONES {
                if let Some(oldest) = self.tombstone_order.pop_front() {
                    self.tombstones.remove(&oldest);
                }
            }
        }
        cookies.extend(flow.stale);
        cookies
    }

    fn sweep(&mut self, now: Duration) {
        if now < self.next_sweep {
            return;
        }
        self.next_sweep = now + SWEEP_EVERY;
        #[expect(
            clippy::iter_over_hash_type,
            reason = "the order of removals changes nothing"
        )]
        let expired: Vec<(FlowKey, End)> = {
            let mut expired = Vec::new();
            for (key, flow) in &self.flows {
                if let Some(end) = self.has_expired(key, flow, now) {
                    expired.push((*key, end));
                }
            }
            expired
        };
        for (key, end) in expired {
            self.remove(&key, Some(end));
        }
    }

    fn remember_damaged(&mut self, packet: &[u8]) {
        let fingerprint = fingerprint(packet);
        if self.damaged.insert(fingerprint) {
            self.damaged_order.push_back(fingerprint);
        }
        if self.damaged_order.len() > MAX_DAMAGED
            && let Some(oldest) = self.damaged_order.pop_front()
        {
            self.damaged.remove(&oldest);
        }
    }
}

fn fingerprint(packet: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    packet.hash(&mut hasher);
    hasher.finish()
}

/// A VPC routes unicast between hosts, nothing else.
fn is_routable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_multicast()
                || v4.is_broadcast()
                || v4.is_unspecified()
                || v4.is_loopback()
                || v4.is_link_local())
        }
        IpAddr::V6(v6) => {
            !(v6.is_multicast()
                || v6.is_unspecified()
                || v6.is_loopback()
                || v6.is_unicast_link_local())
        }
    }
}

fn describe(source: SocketAddrV4, target: SocketAddrV4, datagram: &[u8]) -> String {
    let Some(claim) = header::read(datagram) else {
        return format!("{source} -> {target}, {} bytes", datagram.len());
    };
    let inner = Inner::parse(claim.inner).map_or_else(
        |_| format!("{} inner bytes", claim.inner.len()),
        |inner| {
            let tuple = inner.tuple;
            let flags = inner.tcp.map_or_else(String::new, |(flags, seq)| {
                format!(" flags {flags:#04x} seq {seq}")
            });
            format!(
                "protocol {} {} port {} -> {} port {}{flags}, {} bytes",
                tuple.protocol,
                tuple.src.0,
                tuple.src.1,
                tuple.dst.0,
                tuple.dst.1,
                claim.inner.len()
            )
        },
    );
    format!(
        "{source} -> {target} {} cookie {}: {inner}",
        claim.endpoint, claim.cookie
    )
}
