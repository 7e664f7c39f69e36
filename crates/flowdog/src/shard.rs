//! One shard: a thread with its own socket, flow table, timers and executor, sharing nothing on the
//! packet path.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use dataplane::{
    Counters, Dataplane, Disposition, Event, FirstBytes, FlowEnd, FlowId, FlowState, FlowSummary,
    Instant, Outer, Verdict,
};
use futures_util::FutureExt as _;
use sdk::{Leftovers, RecordQueue};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::acceptor::Desk;
use crate::config::Config;
use crate::directory::Lookup;
use crate::endpoints::Endpoints;
use crate::flow_log::{FlowLog, FlowRecord, Stage};
use crate::flow_task::FlowTask;
use crate::opening::{self, Judged, Note, Opening};
use crate::policy::{self, Application, Datagrams, Decision, First, OpenStep, PassReason};
use crate::secrets::Secrets;
use crate::socket::reply::ReplyCounters;
use crate::socket::send::{Piece, SendCounters, Sender};
use crate::socket::sys::{Received, Ring};
use crate::socket::{self, PacketSocket, steer};
use crate::stream::{Clock, Core};
use crate::tap::{OptionalTap, watching};
use crate::telemetry::{self, Telemetry};

/// Most events answered in one turn; the rest waits for the next, so that packets are not kept
/// waiting by a burst of connections.
const EVENT_BUDGET: usize = 1024;
/// Most datagrams of our own making sent in one turn.
const TRANSMIT_BUDGET: usize = 1024;
/// Most records of living flows in one turn.
const INTERVAL_BUDGET: usize = 64;
/// Bytes gathered before they are handed to the kernel.
const FLUSH_BYTES: usize = 256 * 1024;
/// A shard with nothing to do still turns this often, to show that it lives.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// What a shard is made of; sent to its thread.
#[derive(Debug)]
pub(crate) struct ShardParts {
    pub(crate) index: usize,
    pub(crate) socket: PacketSocket,
    pub(crate) sender: Sender,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) desk: Desk,
    pub(crate) directory: Arc<Lookup>,
    pub(crate) flow_log: Option<FlowLog>,
    pub(crate) records: Option<Arc<RecordQueue>>,
    pub(crate) tap: OptionalTap,
    pub(crate) secrets: Secrets,
    pub(crate) pulse: Arc<Pulse>,
    pub(crate) commands: mpsc::Receiver<Command>,
    /// Datagrams that other shards received for this one.
    pub(crate) strays: mpsc::Receiver<Stray>,
    /// Where this one sends those of others, by shard.
    pub(crate) others: Vec<mpsc::Sender<Stray>>,
    pub(crate) seed: u64,
}

/// A datagram that reached the wrong shard.
#[derive(Debug)]
pub(crate) struct Stray {
    bytes: Box<[u8]>,
    outer: Outer,
}

/// Shows from outside whether a shard turns.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Milliseconds on the appliance's clock at the last turn, plus one; zero before the first.
    last: AtomicU64,
}

impl Pulse {
    fn beat(&self, clock: &Clock) {
        self.last.store(clock.now().0 / 1000 + 1, Ordering::Relaxed);
    }

    /// How long ago the shard turned last; `None` before its first turn.
    pub(crate) fn age(&self, clock: &Clock) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(
            (clock.now().0 / 1000).saturating_sub(last),
        ))
    }
}

/// What the control thread tells a shard.
#[derive(Debug)]
pub(crate) enum Command {
    /// From here on rules still judge new flows, and what they would intercept is passed.
    BeginDrain,
    /// Reset the legs of every intercepted flow.
    ResetAll,
    /// Tell the counters.
    Snapshot(oneshot::Sender<Snapshot>),
    /// End the thread.
    Stop,
}

/// The counters of one shard at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) index: usize,
    pub(crate) dataplane: Counters,
    pub(crate) flows_active: usize,
    pub(crate) flows_intercepted: usize,
    pub(crate) shard: ShardCounters,
    pub(crate) endpoints: Endpoints,
    pub(crate) send: SendCounters,
    pub(crate) reply: (ReplyCounters, usize, usize),
    /// The kernel's count of datagrams lost for want of receive buffer.
    pub(crate) receive_drops: u64,
}

/// What a shard counts beside its data plane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ShardCounters {
    /// Batches received.
    pub(crate) batches: u64,
    /// Messages received; with GRO one may carry several datagrams.
    pub(crate) messages: u64,
    /// Datagrams from addresses that are not allowed to send.
    pub(crate) foreign: u64,
    /// Messages cut by the kernel.
    pub(crate) truncated: u64,
    /// Errors of the receiving socket.
    pub(crate) receive_errors: u64,
    /// Datagrams handed to another shard.
    pub(crate) strays_sent: u64,
    /// Datagrams dropped because another shard had no room for them.
    pub(crate) strays_dropped: u64,
    /// Turns that used up a budget.
    pub(crate) exhausted: u64,
}

/// Starts the thread of a shard.
pub(crate) fn spawn(
    parts: ShardParts,
    clock: Clock,
) -> io::Result<std::thread::JoinHandle<io::Result<()>>> {
    std::thread::Builder::new()
        .name(format!("shard-{}", parts.index))
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            let local = tokio::task::LocalSet::new();
            local.block_on(
                &runtime,
                async move { Shard::new(parts, clock)?.run().await },
            )
        })
}

struct Shard {
    index: usize,
    socket: PacketSocket,
    /// A second descriptor of the same socket, for the executor to wait on.
    readiness: UdpSocket,
    ring: Ring,
    sender: Sender,
    core: Rc<Core>,
    config: Arc<ArcSwap<Config>>,
    telemetry: Arc<Telemetry>,
    desk: Desk,
    flow_log: Option<FlowLog>,
    /// How often flows that go on have a record.
    interval: Option<Duration>,
    /// When each of them has its next one, in order.
    watched: VecDeque<(Instant, FlowId)>,
    records: Option<Arc<RecordQueue>>,
    tap: OptionalTap,
    pulse: Arc<Pulse>,
    commands: mpsc::Receiver<Command>,
    strays: mpsc::Receiver<Stray>,
    others: Vec<mpsc::Sender<Stray>>,
    counters: ShardCounters,
    endpoints: Endpoints,
    /// Datagrams of our own making on their way to the kernel.
    outgoing: Vec<u8>,
    pieces: Vec<Piece>,
    /// What hooks left of the packets of a batch.
    hooked: Vec<u8>,
    hooked_pieces: Vec<Piece>,
    stopping: bool,
    /// Whether nothing more is to be intercepted.
    is_draining: bool,
}

impl Shard {
    fn new(parts: ShardParts, clock: Clock) -> io::Result<Self> {
        let engine = dataplane::Config {
            measure_handshakes: parts.flow_log.is_some(),
            ..parts.config.load().flows.engine()
        };
        let dataplane = Dataplane::new(engine, parts.seed);
        let interval = parts.config.load().flow_log.interval;
        Ok(Self {
            index: parts.index,
            readiness: UdpSocket::from_std(parts.socket.duplicate()?)?,
            socket: parts.socket,
            ring: socket::ring(),
            sender: parts.sender,
            core: Rc::new(Core::new(dataplane, clock, parts.directory, parts.secrets)),
            config: parts.config,
            telemetry: parts.telemetry,
            desk: parts.desk,
            flow_log: parts.flow_log,
            interval,
            watched: VecDeque::new(),
            records: parts.records,
            tap: parts.tap,
            pulse: parts.pulse,
            commands: parts.commands,
            strays: parts.strays,
            others: parts.others,
            counters: ShardCounters::default(),
            endpoints: Endpoints::default(),
            outgoing: Vec::with_capacity(FLUSH_BYTES + 16 * 1024),
            pieces: Vec::new(),
            hooked: Vec::new(),
            hooked_pieces: Vec::new(),
            stopping: false,
            is_draining: false,
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let core = Rc::clone(&self.core);
        let leftovers = Leftovers::keep(move || core.kick.give());
        while !self.stopping {
            self.pulse.beat(&self.core.clock);
            let worked = self.turn(&leftovers);
            if worked {
                // The tasks of the flows run here, and the executor looks at its timers.
                tokio::task::yield_now().await;
            } else {
                self.sleep().await;
            }
        }
        self.record_the_rest();
        Ok(())
    }

    /// One round: deadlines, events and verdicts, bytes that tasks left, what ended exchanges held,
    /// packets in. True when there may be more to do at once.
    fn turn(&mut self, leftovers: &Leftovers) -> bool {
        self.core.kick.clear();
        let now = self.core.begin_turn();
        {
            let mut dataplane = self.core.dataplane.borrow_mut();
            if dataplane.poll_timeout().is_some_and(|due| due <= now) {
                dataplane.handle_timeout(now);
            }
        }
        self.take_intervals(now);
        let mut worked = self.take_commands();
        worked |= self.take_events();
        worked |= self.take_strays();
        worked |= self.send_released();
        worked |= self.transmit();
        for _ in 0..leftovers.let_go() {
            telemetry::add(&self.telemetry.panics);
            tracing::error!("what an ended exchange held panicked when it was dropped");
        }
        worked |= self.receive();
        worked
    }

    /// Sends what hooks have held and let go; true when there was anything.
    fn send_released(&mut self) -> bool {
        let released = self.core.holding.take_released();
        for (datagram, outer) in &released {
            let pieces = [Piece {
                range: 0..datagram.len(),
                outer: *outer,
            }];
            watch_sent(&self.tap, self.index, datagram, &pieces);
            self.sender.send(&self.socket, datagram, &pieces);
        }
        !released.is_empty()
    }

    async fn sleep(&mut self) {
        self.core.end_turns();
        let due = self.core.dataplane.borrow().poll_timeout();
        let latest = std::time::Instant::now() + HEARTBEAT;
        let until = due.map_or(latest, |due| self.core.clock.at(due).min(latest));
        tokio::select! {
            biased;
            () = self.core.kick.given() => {}
            // Readiness is taken back by the read that finds nothing.
            _ = self.readiness.readable() => {}
            command = self.commands.recv() => match command {
                Some(command) => self.obey(command),
                None => self.stopping = true,
            },
            Some(stray) = self.strays.recv() => self.take_stray(stray),
            () = tokio::time::sleep_until(until.into()) => {}
        }
    }

    /// A flow that is logged while it lives has its first record after an interval.
    fn watch(&mut self, flow: FlowId) {
        if let (Some(interval), Some(_)) = (self.interval, &self.flow_log) {
            // Ends of flows are not looked for here: an entry outlives its flow, for an interval at most.
            let most = self.config.load().flows.max.saturating_mul(2);
            if self.watched.len() < most {
                self.watched
                    .push_back((self.core.clock.now() + interval, flow));
            } else {
                telemetry::add(&self.telemetry.flow_records_lost);
            }
        }
    }

    /// Records of flows that go on. All wait for equally long, so the first is due first.
    fn take_intervals(&mut self, now: Instant) {
        let (Some(interval), Some(log)) = (self.interval, &self.flow_log) else {
            return;
        };
        for _ in 0..INTERVAL_BUDGET {
            match self.watched.front() {
                Some((due, _)) if *due <= now => {}
                _ => return,
            }
            let Some((_, flow)) = self.watched.pop_front() else {
                return;
            };
            if let Some(record) = self.living(flow, Stage::Lives, now) {
                log.push(record);
                self.watched.push_back((now + interval, flow));
            }
        }
    }

    /// The record of a flow that goes on.
    fn living(&self, flow: FlowId, stage: Stage, now: Instant) -> Option<FlowRecord> {
        let view = self.core.dataplane.borrow().flow(flow)?;
        // One that ended and lingers has its record with its end, unless the appliance ends first.
        if view.state == FlowState::Ended && stage == Stage::Lives {
            return None;
        }
        let note = self.core.notes.borrow().get(&flow).cloned();
        Some(FlowRecord {
            start: self.core.clock.wall(view.opened_at),
            stage,
            summary: FlowSummary {
                key: view.key,
                client: view.client,
                server: view.server,
                opened_at: view.opened_at,
                duration: now.since(view.opened_at),
                packets: view.packets,
                bytes: view.bytes,
                intercepted: view.state == FlowState::Intercepted,
                refused: None,
                retransmits: [0; 2],
                end: FlowEnd::Idle,
            },
            note: note.unwrap_or_default(),
        })
    }

    /// The appliance ends, and with it what is known of the flows that do not.
    fn record_the_rest(&self) {
        let Some(log) = &self.flow_log else { return };
        let now = self.core.clock.now();
        let mut flows: Vec<FlowId> = self.core.notes.borrow().keys().copied().collect();
        flows.sort_unstable_by_key(|flow| (flow.index, flow.generation));
        for flow in flows {
            if let Some(record) = self.living(flow, Stage::Stopped, now) {
                log.push(record);
            }
        }
    }

    fn take_commands(&mut self) -> bool {
        let mut any = false;
        while let Ok(command) = self.commands.try_recv() {
            self.obey(command);
            any = true;
        }
        any
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::BeginDrain => self.is_draining = true,
            Command::ResetAll => {
                self.core.dataplane.borrow_mut().reset_all(self.core.now());
                self.take_events();
                while self.transmit() {}
            }
            Command::Snapshot(answer) => {
                // Whoever asked may have given up waiting.
                let _ = answer.send(self.snapshot());
            }
            Command::Stop => self.stopping = true,
        }
    }

    fn snapshot(&self) -> Snapshot {
        let dataplane = self.core.dataplane.borrow();
        Snapshot {
            index: self.index,
            dataplane: dataplane.counters().clone(),
            flows_active: dataplane.flows_active(),
            flows_intercepted: dataplane.intercepted_flows(),
            shard: self.counters,
            endpoints: self.endpoints.clone(),
            send: self.sender.counters(),
            reply: self.sender.reply_counters(),
            receive_drops: self.socket.receive_drops().unwrap_or(0),
        }
    }

    fn take_events(&mut self) -> bool {
        for handled in 0..EVENT_BUDGET {
            let event = self.core.dataplane.borrow_mut().poll_event();
            let Some(event) = event else {
                return handled > 0;
            };
            self.take_event(event);
        }
        self.counters.exhausted += 1;
        true
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::FlowOpened { flow, mid_flow } => {
                self.count_opened(flow);
                self.decide_at_open(flow, mid_flow, false);
            }
            Event::Parked { flow, is_late } => self.decide_at_open(flow, false, is_late),
            Event::FirstBytes { flow } => self.decide_at_first_bytes(flow, false),
            Event::ServerSpoke { flow } => self.decide_at_first_bytes(flow, true),
            Event::Handshake { flow, round_trips } => {
                if let Some(note) = self.core.notes.borrow_mut().get_mut(&flow) {
                    note.round_trips = round_trips;
                }
            }
            Event::LegsReady { flow } => self.start_task(flow),
            Event::Readable { flow, leg } => self.core.wake_reader(flow, leg),
            Event::Writable { flow, leg } => self.core.wake_writer(flow, leg),
            Event::LegClosed { flow, leg, reason } => {
                tracing::debug!(%flow, ?leg, ?reason, "leg closed");
                self.core.wake_reader(flow, leg);
                self.core.wake_writer(flow, leg);
            }
            Event::FlowEnded { flow, summary } => {
                self.core.wake_all(flow);
                let note = self.core.notes.borrow_mut().remove(&flow);
                self.core.hooked.borrow_mut().remove(&flow);
                if let Some(metrics) = &self.config.load().flow_metrics {
                    let nothing = Note::default();
                    metrics.count(&summary, note.as_ref().unwrap_or(&nothing));
                }
                if let Some(log) = &self.flow_log {
                    log.push(FlowRecord {
                        start: self.core.clock.wall(summary.opened_at),
                        stage: Stage::Ended,
                        summary,
                        note: note.unwrap_or_default(),
                    });
                }
                self.endpoints.count_ended(&summary);
                tracing::debug!(
                    %flow,
                    endpoint = %summary.key.endpoint,
                    client = %summary.client,
                    server = %summary.server,
                    duration = ?summary.duration,
                    packets = ?summary.packets,
                    bytes = ?summary.bytes,
                    intercepted = summary.intercepted,
                    end = ?summary.end,
                    "flow ended"
                );
            }
        }
    }

    fn count_opened(&mut self, flow: FlowId) {
        self.watch(flow);
        if let Some(view) = self.core.dataplane.borrow().flow(flow) {
            self.endpoints.count_opened(view.endpoint);
            if let Some(tap) = &self.tap {
                tap.on_flow_opened(view.endpoint);
            }
        }
    }

    fn decide_at_open(&mut self, flow: FlowId, mid_flow: bool, is_late: bool) {
        let mut dataplane = self.core.dataplane.borrow_mut();
        let Some(view) = dataplane.flow(flow) else {
            return;
        };
        let config = self.config.load();
        let facts = self.core.facts(&view);
        let parked = dataplane.parked(flow);
        let quic = match policy::look_at_datagrams(&config, &facts, parked, is_late) {
            Datagrams::NeedMore => {
                let until = view.opened_at + config.flows.hold_time;
                dataplane.await_more(flow, until);
                return;
            }
            Datagrams::Other => None,
            Datagrams::Quic(sight) => Some(sight),
        };
        let opening = policy::at_open_of(&config, &facts, mid_flow, 0, quic.as_ref());
        tracing::debug!(
            %flow,
            endpoint = %view.endpoint,
            protocol = view.protocol.0,
            client = %view.client,
            server = %view.server,
            mid_flow,
            step = ?opening.step,
            quic = quic.is_some(),
            rule = opening.rule.map(|rule| &*rule.name),
            "flow opened"
        );
        match opening.step {
            OpenStep::Verdict(verdict) => {
                if self.flow_log.is_some() || config.flow_metrics.is_some() {
                    let mut note = Note {
                        rule: opening.rule.map(|rule| Arc::clone(&rule.name)),
                        verdict: opening::word(verdict),
                        ec2: facts.hosts(),
                        ..Note::default()
                    };
                    note.learn_quic(quic.as_ref());
                    self.core.notes.borrow_mut().insert(flow, note);
                }
                if matches!(verdict, Verdict::Inspect | Verdict::InspectEither)
                    && let Some(unseen) = policy::guard(&config, &facts, &[])
                {
                    dataplane.guard(flow, unseen);
                }
                if let (Some(rule), Verdict::Pass) = (opening.rule, verdict) {
                    self.core.hook(&mut dataplane, &view, &rule.hooks);
                }
                dataplane.set_verdict(flow, verdict, self.core.now());
            }
            OpenStep::Ask => {
                drop(dataplane);
                let config = Arc::clone(&config);
                Opening::new(&self.core, config, &view, facts, mid_flow, quic).start(&self.desk);
            }
        }
    }

    fn decide_at_first_bytes(&mut self, flow: FlowId, is_server: bool) {
        let mut dataplane = self.core.dataplane.borrow_mut();
        let Some(view) = dataplane.flow(flow) else {
            return;
        };
        let first = match dataplane.held(flow) {
            // The client may have spoken since.
            Some(held) => First::Client(held),
            None if is_server => First::Server,
            None => return,
        };
        let config = self.core.config_of(flow);
        let config = config.unwrap_or_else(|| self.config.load_full());
        let judged = opening::judge(&self.core, &config, &view, &self.core.facts(&view), first);
        let mut judgement = match judged {
            Judged::Done(judgement) => judgement,
            Judged::Ask(_) => {
                // The task of the flow asks. Its client is answered meanwhile as if by the server, and
                // the server hears nothing.
                tracing::debug!(%flow, "taken over until an acceptor has answered");
                dataplane.set_first_bytes(flow, FirstBytes::Intercept, self.core.now());
                return;
            }
        };
        if self.is_draining && judgement.decision.is_spared_by_a_drain() {
            judgement.decision = Decision::Pass(PassReason::Draining);
        }
        let answer = match &judgement.decision {
            Decision::NeedMore | Decision::Ask(_) => FirstBytes::NeedMore,
            Decision::Drop => FirstBytes::Drop,
            Decision::Reset => FirstBytes::Reset,
            Decision::Intercept(_) => FirstBytes::Intercept,
            Decision::Pass(reason) => {
                count_pass(&self.telemetry, *reason);
                FirstBytes::Bypass
            }
        };
        tracing::debug!(
            %flow,
            is_server,
            application = judgement.application.map(Application::as_str),
            server_name = judgement.server_name,
            http_host = judgement.http_host,
            rule = judgement.rule.map(|rule| &*rule.name),
            ?answer,
            "first bytes"
        );
        if let Some(note) = self.core.notes.borrow_mut().get_mut(&flow) {
            note.learn(&judgement);
        }
        if let (Some(rule), FirstBytes::Bypass) = (judgement.rule, answer) {
            self.core.hook(&mut dataplane, &view, &rule.hooks);
        }
        dataplane.set_first_bytes(flow, answer, self.core.now());
    }

    fn start_task(&self, flow: FlowId) {
        let task = FlowTask {
            core: Rc::clone(&self.core),
            config: Arc::clone(&self.config),
            telemetry: Arc::clone(&self.telemetry),
            records: self.records.clone(),
            tap: self.tap.clone(),
            desk: self.desk.clone(),
            flow,
        };
        let (core, telemetry) = (Rc::clone(&self.core), Arc::clone(&self.telemetry));
        tokio::task::spawn_local(async move {
            // A bug in one flow's code ends that flow and no other.
            if AssertUnwindSafe(task.run()).catch_unwind().await.is_err() {
                telemetry::add(&telemetry.panics);
                tracing::error!(%flow, "the task of a flow panicked; the flow is reset");
                core.abort(flow);
            }
        });
    }

    /// Sends what the data plane has to send; true when there was anything.
    fn transmit(&mut self) -> bool {
        let now = self.core.now();
        let mut sent = 0;
        loop {
            self.outgoing.clear();
            self.pieces.clear();
            {
                let mut dataplane = self.core.dataplane.borrow_mut();
                while self.outgoing.len() < FLUSH_BYTES && sent < TRANSMIT_BUDGET {
                    let start = self.outgoing.len();
                    let most = TRANSMIT_BUDGET - sent;
                    let Some(transmit) = dataplane.poll_transmit_run(most, now, &mut self.outgoing)
                    else {
                        break;
                    };
                    sent += transmit.count;
                    let mut len = transmit.len;
                    if let (Some(flow), Some(from)) = (transmit.flow, transmit.hooked) {
                        self.hooked.clear();
                        self.hooked.extend_from_slice(&self.outgoing[start..]);
                        self.outgoing.truncate(start);
                        let (records, outer) = (self.records.as_ref(), transmit.outer);
                        let (packet, out) = (&self.hooked, &mut self.outgoing);
                        if !self.core.show((flow, from), packet, outer, records, out) {
                            continue;
                        }
                        len = self.outgoing.len() - start;
                    }
                    self.pieces.extend((0..transmit.count).map(|index| Piece {
                        range: start + index * len..start + (index + 1) * len,
                        outer: transmit.outer,
                    }));
                }
            }
            if self.pieces.is_empty() && sent < TRANSMIT_BUDGET {
                return sent > 0;
            }
            watch_sent(&self.tap, self.index, &self.outgoing, &self.pieces);
            self.sender.send(&self.socket, &self.outgoing, &self.pieces);
            if sent >= TRANSMIT_BUDGET {
                self.counters.exhausted += 1;
                return true;
            }
        }
    }

    /// Takes one batch from the socket; true when there was one.
    fn receive(&mut self) -> bool {
        let Self { ring, socket, .. } = self;
        let received = self
            .readiness
            .try_io(Interest::READABLE, || ring.receive(socket.as_fd()));
        let count = match received {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                // An ICMP error of a reply, or an interrupted call: the next read goes on.
                self.counters.receive_errors += 1;
                tracing::trace!(%error, "receive failed");
                return true;
            }
        };
        self.counters.batches += 1;
        self.counters.messages += count as u64;
        self.pieces.clear();
        self.hooked.clear();
        self.hooked_pieces.clear();
        for index in 0..count {
            if let Some(message) = self.ring.received(index) {
                self.take_message(message);
            }
        }
        watch_sent(&self.tap, self.index, self.ring.bytes(), &self.pieces);
        self.sender
            .send(&self.socket, self.ring.bytes(), &self.pieces);
        self.send_hooked();
        count > 0
    }

    /// Sends what hooks left of packets.
    fn send_hooked(&mut self) {
        if !self.hooked_pieces.is_empty() {
            watch_sent(&self.tap, self.index, &self.hooked, &self.hooked_pieces);
            self.sender
                .send(&self.socket, &self.hooked, &self.hooked_pieces);
        }
    }

    fn take_message(&mut self, message: Received) {
        let datagrams = message.len.div_ceil(message.segment.max(1)).max(1) as u64;
        if message.truncated {
            self.counters.truncated += 1;
            return;
        }
        let allowed = &self.config.load().gwlb.allowed_sources;
        if !allowed.is_empty()
            && !allowed
                .iter()
                .any(|net| net.contains(&std::net::IpAddr::V4(*message.from.ip())))
        {
            self.counters.foreign += datagrams;
            return;
        }
        let outer = Outer {
            gwlb: message.from,
            local: message.local,
        };
        let now = self.core.now();
        let mut dataplane = self.core.dataplane.borrow_mut();
        let tap = watching(&self.tap);
        let end = message.start + message.len;
        let mut start = message.start;
        // An empty datagram is one too: it is counted as truncated like every short one.
        loop {
            let stop = end.min(start + message.segment.max(1));
            let Some(datagrams) = self.ring.bytes_mut().get_mut(start..end) else {
                return;
            };
            let datagram = datagrams.get(..stop - start).unwrap_or_default();
            if let Some(tap) = tap {
                tap.on_received(self.index, datagram, &outer);
            }
            let owner = steer::owner(datagram, self.others.len());
            if owner != self.index && owner < self.others.len() {
                let stray = Stray {
                    bytes: Box::from(datagram),
                    outer,
                };
                match self.others[owner].try_send(stray) {
                    Ok(()) => self.counters.strays_sent += 1,
                    Err(_) => self.counters.strays_dropped += 1,
                }
                start = stop;
            } else {
                // What is taken with the first one has the same headers, and so the same owner.
                let (count, disposition) =
                    dataplane.handle_run(datagrams, message.segment, outer, now);
                let taken = end.min(start + count * message.segment.max(1));
                match disposition {
                    Disposition::Hairpin { len } => self.pieces.push(Piece {
                        range: start..start + len,
                        outer,
                    }),
                    // All packets of such a flow go this way, so that they keep their order.
                    Disposition::Hooked { flow, from, len } => {
                        let (at, records) = (self.hooked.len(), self.records.as_ref());
                        let packet = datagrams.get(..len).unwrap_or_default();
                        let out = &mut self.hooked;
                        if self.core.show((flow, from), packet, outer, records, out) {
                            self.hooked_pieces.push(Piece {
                                range: at..self.hooked.len(),
                                outer,
                            });
                        }
                    }
                    Disposition::Absorbed | Disposition::Dropped(_) => {}
                }
                if let Some(tap) = tap {
                    let others = self.ring.bytes().get(stop..taken).unwrap_or_default();
                    for datagram in others.chunks(message.segment.max(1)) {
                        tap.on_received(self.index, datagram, &outer);
                    }
                }
                start = taken;
            }
            if start >= end {
                return;
            }
        }
    }

    fn take_strays(&mut self) -> bool {
        let mut any = false;
        for _ in 0..socket::BATCH {
            let Ok(stray) = self.strays.try_recv() else {
                break;
            };
            self.take_stray(stray);
            any = true;
        }
        any
    }

    fn take_stray(&mut self, mut stray: Stray) {
        let now = self.core.now();
        let disposition =
            self.core
                .dataplane
                .borrow_mut()
                .handle_datagram(&mut stray.bytes, stray.outer, now);
        match disposition {
            Disposition::Hairpin { len } => {
                let pieces = [Piece {
                    range: 0..len,
                    outer: stray.outer,
                }];
                watch_sent(&self.tap, self.index, &stray.bytes, &pieces);
                self.sender.send(&self.socket, &stray.bytes, &pieces);
            }
            Disposition::Hooked { flow, from, len } => {
                self.hooked.clear();
                self.hooked_pieces.clear();
                let (packet, records) = (stray.bytes.get(..len), self.records.as_ref());
                let (packet, out) = (packet.unwrap_or_default(), &mut self.hooked);
                let outer = stray.outer;
                if self.core.show((flow, from), packet, outer, records, out) {
                    self.hooked_pieces.push(Piece {
                        range: 0..self.hooked.len(),
                        outer: stray.outer,
                    });
                    self.send_hooked();
                }
            }
            Disposition::Absorbed | Disposition::Dropped(_) => {}
        }
    }
}

fn watch_sent(tap: &OptionalTap, shard: usize, memory: &[u8], pieces: &[Piece]) {
    let Some(tap) = watching(tap) else { return };
    for piece in pieces {
        if let Some(datagram) = memory.get(piece.range.clone()) {
            tap.on_sent(shard, datagram, &piece.outer);
        }
    }
}

pub(crate) fn count_pass(telemetry: &Telemetry, reason: PassReason) {
    match reason {
        PassReason::Rule => {}
        PassReason::Opaque => telemetry::add(&telemetry.passed_opaque),
        PassReason::Learned => telemetry::add(&telemetry.passed_learned),
        PassReason::Draining => telemetry::add(&telemetry.passed_draining),
        PassReason::EncryptedHello => telemetry::add(&telemetry.passed_encrypted_hello),
        PassReason::UnsupportedHello => telemetry::add(&telemetry.passed_unsupported_hello),
        PassReason::NoAuthority => {
            telemetry::add(&telemetry.passed_no_authority);
            if !telemetry.told_no_authority.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    "a rule intercepts TLS, but [tls.ca] is not configured: TLS flows are passed unread"
                );
            }
        }
    }
}
