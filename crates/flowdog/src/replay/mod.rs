//! What the rules would have done with recorded packets: a recording goes through a data plane of its
//! own, at full speed, with the time that its packets have.
//!
//! Every decision is the one at work: the same data plane finds flows and first bytes, the same rules
//! judge them. A recording does not answer, though, so nothing is taken over: flows go on as they were
//! recorded. Where a rule intercepts HTTP in clear, what both ends said is put together and shown to
//! the rule's interceptors afterwards; what was said inside TLS cannot be.

mod chain;
mod streams;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane::{
    Dataplane, Disposition, Event, FirstBytes, FlowEnd, FlowId, FlowKey, FlowView, Instant, Leg,
    Outer, Unseen, Verdict, VpcEndpointId,
};
use sdk::{Chain, FlowInfo, HookSight, Hooks, InnerPacket, Shown};
use serde::Serialize;

use crate::config::{Config, Rule};
use crate::directory::Directory;
use crate::policy::{
    self, Application, Datagrams, Decision, Facts, First, Heard, OpenStep, PassReason, Protocols,
};
use streams::Conversation;

/// Bounds of a replay.
#[derive(Clone, Copy, Debug)]
pub struct ReplayLimits {
    /// Bytes kept of one conversation for its interceptors; 1 MiB.
    pub conversation: usize,
    /// Bytes kept of all that go on at a time; 256 MiB.
    pub conversations: usize,
    /// How long the interceptors of one conversation may take; 10 s.
    pub time: Duration,
}

impl Default for ReplayLimits {
    fn default() -> Self {
        Self {
            conversation: 1 << 20,
            conversations: 256 << 20,
            time: Duration::from_secs(10),
        }
    }
}

/// A replay under way.
pub struct Replay {
    config: Arc<Config>,
    directory: Directory,
    limits: ReplayLimits,
    dataplane: Dataplane,
    runtime: tokio::runtime::Runtime,
    flows: HashMap<FlowId, Flow>,
    ids: HashMap<FlowKey, FlowId>,
    /// Bytes of conversations.
    kept: usize,
    /// The time of the first packet, in nanoseconds since 1970.
    start: Option<u64>,
    now: Instant,
    done: Vec<FlowReport>,
    totals: Totals,
    copy: Vec<u8>,
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay")
            .field("totals", &self.totals)
            .finish_non_exhaustive()
    }
}

/// What a replay has seen.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Totals {
    /// Datagrams.
    pub packets: u64,
    /// Of these, those that the data plane does not take: malformed, or above a limit.
    pub refused: u64,
    /// Flows.
    pub flows: u64,
    /// Flows whose beginning is not in the recording.
    pub mid_flow: u64,
}

/// What would have been done with a flow.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FlowReport {
    /// Seconds from the first packet of the recording.
    pub at: f64,
    /// The VPC endpoint.
    pub endpoint: String,
    /// The IP protocol number.
    pub protocol: u8,
    /// Who opened it.
    pub client: String,
    /// Whom it was opened to.
    pub server: String,
    /// Packets of the client and of the server.
    pub packets: [u64; 2],
    /// Bytes of both.
    pub bytes: [u64; 2],
    /// Its beginning is not in the recording.
    pub mid_flow: bool,
    /// The rule that decides; none if no rule matches.
    pub rule: Option<String>,
    /// `pass`, `drop`, `reset` or `intercept`.
    pub outcome: &'static str,
    /// More about why, where the rule's action does not say it.
    pub why: Option<&'static str>,
    /// What its client speaks.
    pub application: Option<&'static str>,
    /// The name in its TLS ClientHello.
    pub server_name: Option<String>,
    /// The host of its first HTTP/1 request.
    pub http_host: Option<String>,
    /// Acceptors that would have been asked; they are taken to accept.
    pub acceptors: Vec<String>,
    /// The rule's interceptors.
    pub interceptors: Vec<String>,
    /// What they did with each exchange.
    pub exchanges: Vec<ExchangeReport>,
    /// Why the exchanges are not all there.
    pub note: Option<String>,
    /// What hooks did with its packets.
    pub hooks: Option<HooksReport>,
}

/// What interceptors did with an exchange.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ExchangeReport {
    /// The request's method and target, as the client sent them.
    pub request: String,
    /// The status that the client would have got.
    pub status: Option<u16>,
    /// What each interceptor changed, in their order.
    pub changes: Vec<Change>,
}

/// Something that an interceptor did.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The interceptor's name.
    pub interceptor: String,
    /// What it did. Names of fields, never their values: those may be secrets.
    pub what: String,
}

/// What hooks did with packets of a flow.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HooksReport {
    /// The hooks.
    pub names: Vec<String>,
    /// Packets they were shown.
    pub packets: u64,
    /// Of these, changed.
    pub edited: u64,
    /// Of these, dropped.
    pub dropped: u64,
}

struct Flow {
    view: FlowView,
    report: FlowReport,
    /// What is said, while it may be of use.
    said: Option<Conversation>,
    /// Who is to see it.
    chain: Option<(Chain, proxy::Protocol)>,
    hooks: Option<(Hooks, FlowInfo)>,
}

impl Replay {
    /// A replay under this configuration; `directory` is what EC2 knows.
    ///
    /// # Errors
    /// When the system has no runtime for the interceptors.
    pub fn new(
        config: Config,
        directory: Directory,
        limits: ReplayLimits,
    ) -> std::io::Result<Self> {
        let engine = config.flows.engine();
        Ok(Self {
            config: Arc::new(config),
            directory,
            limits,
            // The same recording gives the same report.
            dataplane: Dataplane::new(engine, 1),
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?,
            flows: HashMap::new(),
            ids: HashMap::new(),
            kept: 0,
            start: None,
            now: Instant::ZERO,
            done: Vec::new(),
            totals: Totals::default(),
            copy: Vec::new(),
        })
    }

    /// Takes an inner packet that was recorded without GENEVE around it.
    pub fn inner(&mut self, time: u64, endpoint: VpcEndpointId, packet: &[u8]) {
        let header = wire::geneve::Repr {
            endpoint,
            family: match packet.first().map(|byte| byte >> 4) {
                Some(6) => wire::ip::Family::V6,
                _ => wire::ip::Family::V4,
            },
            ..wire::geneve::Repr::default()
        };
        let mut datagram = vec![0; header.header_len()];
        header.emit(&mut datagram);
        datagram.extend_from_slice(packet);
        self.datagram(time, &mut datagram);
    }

    /// Takes a datagram from its GENEVE header on, recorded at `time`, in nanoseconds since 1970.
    pub fn datagram(&mut self, time: u64, datagram: &mut [u8]) {
        let start = *self.start.get_or_insert(time);
        let now = Instant::from_micros(time.saturating_sub(start) / 1000);
        // Recordings of several interfaces are not always in order.
        self.now = self.now.max(now);
        self.totals.packets += 1;
        if self
            .dataplane
            .poll_timeout()
            .is_some_and(|due| due <= self.now)
        {
            self.dataplane.handle_timeout(self.now);
            self.take_events();
        }
        // The data plane may change its copy.
        let mut copy = std::mem::take(&mut self.copy);
        copy.clear();
        copy.extend_from_slice(datagram);
        let seen = Seen::of(&copy);
        let outer = Outer {
            gwlb: SocketAddrV4::new(Ipv4Addr::LOCALHOST, wire::geneve::PORT),
            local: Ipv4Addr::LOCALHOST,
        };
        let disposition = self.dataplane.handle_datagram(datagram, outer, self.now);
        if matches!(disposition, Disposition::Dropped(_)) {
            self.totals.refused += 1;
        }
        self.take_events();
        if let Some(seen) = seen {
            self.listen(&seen);
        }
        self.copy = copy;
        let mut discard = Vec::new();
        while self
            .dataplane
            .poll_transmit(self.now, &mut discard)
            .is_some()
        {
            discard.clear();
        }
    }

    /// The flows that have ended since the last call.
    pub fn take_done(&mut self) -> Vec<FlowReport> {
        std::mem::take(&mut self.done)
    }

    /// Ends what the recording left open; the rest of the reports, and what was seen in all.
    #[must_use]
    pub fn finish(mut self) -> (Vec<FlowReport>, Totals) {
        let mut left: Vec<FlowId> = self.flows.keys().copied().collect();
        left.sort_unstable_by_key(|flow| (flow.index, flow.generation));
        for flow in left {
            if let Some(view) = self.dataplane.flow(flow)
                && let Some(known) = self.flows.get_mut(&flow)
            {
                known.report.packets = view.packets;
                known.report.bytes = view.bytes;
            }
            self.end(flow);
        }
        (self.done, self.totals)
    }

    fn take_events(&mut self) {
        while let Some(event) = self.dataplane.poll_event() {
            match event {
                Event::FlowOpened { flow, mid_flow } => self.open(flow, mid_flow, false),
                Event::Parked { flow, is_late } => self.open(flow, false, is_late),
                Event::FirstBytes { flow } => self.first_bytes(flow, false),
                Event::ServerSpoke { flow } => self.first_bytes(flow, true),
                Event::FlowEnded { flow, summary } => {
                    if let Some(known) = self.flows.get_mut(&flow) {
                        known.report.packets = summary.packets;
                        known.report.bytes = summary.bytes;
                        if summary.end == FlowEnd::Evicted {
                            known.report.note = Some("flows.max was reached".to_owned());
                        }
                    }
                    self.end(flow);
                }
                // Nothing is taken over, except where holding had to end.
                Event::LegsReady { flow } => self.dataplane.abort(flow, self.now),
                Event::Readable { .. }
                | Event::Writable { .. }
                | Event::LegClosed { .. }
                | Event::Handshake { .. } => {}
            }
        }
    }

    fn facts(&self, view: &FlowView) -> Facts {
        let host = |address| self.directory.host(view.endpoint, address).cloned();
        Facts {
            endpoint: view.endpoint,
            protocol: view.protocol,
            client: view.client,
            server: view.server,
            client_ec2: host(view.client.ip()),
            server_ec2: host(view.server.ip()),
        }
    }

    fn open(&mut self, flow: FlowId, mid_flow: bool, is_late: bool) {
        let Some(view) = self.dataplane.flow(flow) else {
            return;
        };
        let facts = self.facts(&view);
        let config = Arc::clone(&self.config);
        let parked = self.dataplane.parked(flow);
        let quic = match policy::look_at_datagrams(&config, &facts, parked, is_late) {
            Datagrams::NeedMore => {
                let until = view.opened_at + config.flows.hold_time;
                self.dataplane.await_more(flow, until);
                return;
            }
            Datagrams::Other => None,
            Datagrams::Quic(sight) => Some(sight),
        };
        let mut report = FlowReport {
            at: view.opened_at.since(Instant::ZERO).as_secs_f64(),
            endpoint: view.endpoint.to_string(),
            protocol: view.protocol.0,
            client: view.client.to_string(),
            server: view.server.to_string(),
            mid_flow,
            outcome: "pass",
            ..FlowReport::default()
        };
        if let Some(quic) = &quic {
            report.application = Some(Application::Quic.as_str());
            report.server_name.clone_from(&quic.server_name);
        }
        let mut from = 0;
        let opening = loop {
            let opening = policy::at_open_of(&config, &facts, mid_flow, from, quic.as_ref());
            match (opening.step, opening.number) {
                (OpenStep::Ask, Some(number)) => {
                    let acceptor = opening.rule.and_then(Rule::acceptor_name);
                    report.acceptors.extend(acceptor);
                    from = number + 1;
                }
                _ => break opening,
            }
        };
        report.rule = opening.rule.map(|rule| rule.name.to_string());
        self.totals.flows += 1;
        self.totals.mid_flow += u64::from(mid_flow);
        let mut known = Flow {
            said: None,
            chain: None,
            hooks: None,
            report,
            view,
        };
        // Nothing is dropped or reset: the recording has what followed all the same.
        let mut verdict = Verdict::Pass;
        match opening.step {
            OpenStep::Verdict(Verdict::Drop) => known.report.outcome = "drop",
            OpenStep::Verdict(Verdict::Reset) => known.report.outcome = "reset",
            OpenStep::Verdict(inspect @ (Verdict::Inspect | Verdict::InspectEither)) => {
                verdict = inspect;
                if policy::guard(&config, &facts, &[]).is_some() {
                    // A server that speaks first is judged too.
                    self.dataplane.guard(flow, Unseen::Pass);
                }
                known.said = Some(Conversation::new(view.client));
            }
            OpenStep::Verdict(Verdict::Pass) | OpenStep::Ask => {
                if let Some(rule) = opening.rule {
                    known.watch(rule, self.info(&view, &facts));
                }
            }
        }
        self.ids.insert(view.key, flow);
        self.flows.insert(flow, known);
        self.dataplane.set_verdict(flow, verdict, self.now);
    }

    fn info(&self, view: &FlowView, facts: &Facts) -> FlowInfo {
        FlowInfo {
            id: view.id,
            endpoint: view.endpoint,
            attachment: view.attachment,
            cookie: view.cookie,
            protocol: view.protocol,
            client: view.client,
            server: view.server,
            client_ec2: facts.client_ec2.clone(),
            server_ec2: facts.server_ec2.clone(),
            opened_at: self.wall(view.opened_at),
            recognised: None,
            tls: None,
            context: serde_json::Map::default(),
        }
    }

    fn wall(&self, instant: Instant) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.start.unwrap_or(0)) + instant.since(Instant::ZERO)
    }

    fn first_bytes(&mut self, flow: FlowId, is_server: bool) {
        let Some(view) = self.dataplane.flow(flow) else {
            return;
        };
        let facts = self.facts(&view);
        let info = self.info(&view, &facts);
        let config = Arc::clone(&self.config);
        let first = match self.dataplane.held(flow) {
            Some(held) => First::Client(held),
            None if is_server => First::Server,
            None => return,
        };
        // Acceptors are not asked, and taken to accept.
        let (mut passed, mut acceptors) = (Vec::new(), Vec::new());
        let judgement = loop {
            let heard = Heard {
                intercept: false,
                passed: &passed,
            };
            let judgement = policy::at_first_bytes(&config, &facts, first, heard);
            let Decision::Ask(number) = judgement.decision else {
                break judgement;
            };
            acceptors.extend(judgement.rule.and_then(Rule::acceptor_name));
            passed.push(number);
        };
        if judgement.decision == Decision::NeedMore {
            self.dataplane
                .set_first_bytes(flow, FirstBytes::NeedMore, self.now);
            return;
        }
        if let Some(known) = self.flows.get_mut(&flow) {
            let report = &mut known.report;
            // Those that were asked when the flow opened match here too.
            acceptors.retain(|name| !report.acceptors.contains(name));
            report.acceptors.append(&mut acceptors);
            report.rule = judgement.rule.map(|rule| rule.name.to_string());
            report.application = judgement.application.map(Application::as_str);
            report.server_name = judgement.server_name;
            report.http_host = judgement.http_host;
            let mut http = None;
            (report.outcome, report.why) = match judgement.decision {
                Decision::Drop => ("drop", None),
                Decision::Reset => ("reset", None),
                Decision::Pass(reason) => ("pass", words(reason)),
                Decision::NeedMore | Decision::Ask(_) => ("pass", None),
                Decision::Intercept(protocols) => {
                    http = match protocols {
                        Protocols::Http1 => Some(proxy::Protocol::Http1),
                        Protocols::Http2 => Some(proxy::Protocol::Http2),
                        Protocols::Clear | Protocols::Tls | Protocols::Hooked => None,
                    };
                    let why = (protocols == Protocols::Tls)
                        .then_some("what is said inside TLS is not in the recording");
                    ("intercept", why)
                }
            };
            if let (Some(rule), "intercept") = (judgement.rule, report.outcome) {
                report.interceptors = rule
                    .chain
                    .links()
                    .map(|link| link.name().to_owned())
                    .collect();
            }
            match (judgement.rule, http) {
                (Some(rule), Some(protocol)) if !rule.chain.is_empty() => {
                    known.chain = Some((rule.chain.clone(), protocol));
                }
                _ => {
                    let dropped = known.said.take();
                    self.kept -= dropped.map_or(0, |said| said.len());
                }
            }
            if let (Some(rule), "pass") = (judgement.rule, known.report.outcome) {
                known.watch(rule, info);
            }
        }
        self.dataplane
            .set_first_bytes(flow, FirstBytes::Bypass, self.now);
    }

    /// Keeps what a packet says, and shows it to hooks.
    fn listen(&mut self, seen: &Seen<'_>) {
        let Some(known) = self
            .ids
            .get(&seen.key)
            .and_then(|flow| self.flows.get_mut(flow))
        else {
            return;
        };
        if let (Some(said), Some(segment)) = (&mut known.said, &seen.segment) {
            let room = self
                .limits
                .conversation
                .min((self.limits.conversations - self.kept) + said.len());
            let before = said.len();
            said.listen(seen.source, segment, room);
            self.kept = self.kept + said.len() - before;
        }
        if let (Some((hooks, info)), Some(report)) = (&known.hooks, &mut known.report.hooks)
            && let Ok(mut packet) = InnerPacket::parse(seen.key.endpoint, seen.inner)
        {
            let sight = HookSight {
                flow: info,
                from: if seen.source == known.view.client {
                    Leg::Client
                } else {
                    Leg::Server
                },
                now: UNIX_EPOCH
                    + Duration::from_nanos(self.start.unwrap_or(0))
                    + self.now.since(Instant::ZERO),
                records: None,
            };
            let goes_on = match hooks.on_packet(&mut packet, &sight) {
                Shown::Pass => true,
                Shown::Drop => false,
                Shown::Held(held) => crate::hooks::settle(hooks, held, &mut packet, &sight),
            };
            report.packets += 1;
            report.dropped += u64::from(!goes_on);
            report.edited += u64::from(goes_on && packet.is_edited());
        }
    }

    fn end(&mut self, flow: FlowId) {
        let Some(mut known) = self.flows.remove(&flow) else {
            return;
        };
        if self.ids.get(&known.view.key) == Some(&flow) {
            self.ids.remove(&known.view.key);
        }
        if let Some(said) = known.said.take() {
            self.kept -= said.len();
            if let Some((chain, protocol)) = &known.chain {
                let info = self.info(&known.view, &self.facts(&known.view));
                let served = chain::Served {
                    chain,
                    protocol: *protocol,
                    info,
                    limits: &self.config.proxy,
                    time: self.limits.time,
                };
                let note = said.note();
                let (exchanges, ended) = served.run(&self.runtime, said.into_turns());
                known.report.exchanges = exchanges;
                known.report.note = known.report.note.or(note).or(ended);
            }
        }
        self.done.push(known.report);
    }
}

impl Flow {
    /// Its raw packets are shown to the rule's hooks.
    fn watch(&mut self, rule: &Rule, info: FlowInfo) {
        if !rule.hooks.is_empty() {
            let names = rule.hooks.links().map(|link| link.name().to_owned());
            self.report.hooks = Some(HooksReport {
                names: names.collect(),
                ..HooksReport::default()
            });
            self.hooks = Some((rule.hooks.clone(), info));
        }
    }
}

fn words(reason: PassReason) -> Option<&'static str> {
    match reason {
        PassReason::Rule => None,
        PassReason::Opaque => Some("what its client speaks cannot be intercepted"),
        PassReason::NoAuthority => Some("there is no certificate authority ([tls.ca])"),
        PassReason::UnsupportedHello => Some("its client offers no TLS that flowdog has"),
        PassReason::EncryptedHello => Some("its hello carries Encrypted ClientHello"),
        PassReason::Draining => Some("the appliance drains"),
        PassReason::Learned => Some("it was learned that it cannot be intercepted"),
    }
}

/// What a replay reads off a packet before the data plane has it.
struct Seen<'a> {
    key: FlowKey,
    source: std::net::SocketAddr,
    inner: &'a [u8],
    segment: Option<wire::tcp::Segment<'a>>,
}

impl<'a> Seen<'a> {
    fn of(datagram: &'a [u8]) -> Option<Self> {
        let outer = wire::geneve::Packet::parse(datagram).ok()?;
        let inner = outer.inner();
        let packet = wire::ip::Packet::parse(inner).ok()?;
        let (mut source, mut destination) = (
            std::net::SocketAddr::new(packet.src(), 0),
            std::net::SocketAddr::new(packet.dst(), 0),
        );
        let mut segment = None;
        if packet.fragment() == wire::ip::Fragment::Whole {
            let ports = match packet.protocol().0 {
                6 => {
                    segment = wire::tcp::Segment::parse(packet.payload()).ok();
                    segment.map(|segment| (segment.src_port(), segment.dst_port()))
                }
                17 => wire::udp::Datagram::parse(packet.payload())
                    .ok()
                    .map(|datagram| (datagram.src_port(), datagram.dst_port())),
                _ => None,
            };
            if let Some((from, to)) = ports {
                source.set_port(from);
                destination.set_port(to);
            }
        }
        Some(Self {
            key: FlowKey::new(outer.endpoint(), packet.protocol(), source, destination),
            source,
            inner,
            segment,
        })
    }
}
