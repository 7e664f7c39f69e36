//! The life of a taken-over flow: recognise, decrypt, proxy, end both legs.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use dataplane::{Congestion, FlowId, FlowState, FlowView, Leg, ReadOutcome, Unseen};
use proxy::starttls::{self, Clear, StartTls, StartTlsSet, Watch};
use proxy::{Protocol, ProxyError, Serving};
use sdk::{Chain, FlowInfo, RecordQueue, StreamHooks};
use tls::{Established, Handling, Impersonator, Scope, TlsError, Verify};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use crate::acceptor::{Desk, TOTAL_DEADLINE};
use crate::clear::Told;
use crate::config::{Application, Config, Ech, Rule};
use crate::hooks::{HookedError, HookedStream};
use crate::opening::{Judged, Note};
use crate::policy::{self, Decision, Facts, First, Judgement, Protocols};
use crate::stream::{Core, LegEnd, LegStream};
use crate::tap::{ClearConnection, ClearText, OptionalTap};
use crate::telemetry::{self, Telemetry};
use crate::{opening, shard};

/// What a flow's task needs.
pub(crate) struct FlowTask {
    pub(crate) core: Rc<Core>,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) records: Option<Arc<RecordQueue>>,
    pub(crate) tap: OptionalTap,
    pub(crate) desk: Desk,
    pub(crate) flow: FlowId,
}

/// What is to be done once the first bytes are known, without borrowing the configuration.
enum Plan {
    Relay,
    Abort,
    Hooked(StreamHooks),
    Http {
        chain: Chain,
        protocol: Protocol,
    },
    Tls {
        chain: Chain,
        impersonator: Arc<Impersonator>,
        handling: Handling,
        /// Under which it is learned that this cannot be intercepted.
        name: String,
        /// What was spoken before TLS.
        via: Option<StartTls>,
    },
    /// In clear, and perhaps TLS later.
    Follow(StartTlsSet),
}

/// What became of the beginning of a flow.
enum Begun {
    /// Both legs are to be reset.
    Aborted,
    /// There was no agreement; the legs end as they are.
    Refused,
    Served(Serving),
    Hooked(Pin<Box<dyn Future<Output = Result<(), HookedError>>>>),
}

impl FlowTask {
    /// Each stage is in a box of its own, so that a flow that is served costs no room for its beginning.
    pub(crate) async fn run(self) {
        let Some(view) = self.core.dataplane.borrow().flow(self.flow) else {
            return;
        };
        let client = LegStream::new(Rc::clone(&self.core), self.flow, Leg::Client);
        let server = LegStream::new(Rc::clone(&self.core), self.flow, Leg::Server);
        let ends = [client.end(), server.end()];
        // One configuration for the whole life of the flow, whatever is reloaded meanwhile.
        let config = self.core.config_of(self.flow);
        let config = config.unwrap_or_else(|| self.config.load_full());
        let begun = Box::pin(self.begin(client, server, Box::new(view), config)).await;
        match begun {
            Begun::Aborted => {
                self.core.abort(self.flow);
                return;
            }
            Begun::Refused => {}
            Begun::Served(serving) => {
                let outcome = serving.await;
                self.finished(outcome.map(drop));
            }
            Begun::Hooked(hooked) => match hooked.await {
                Ok(()) => telemetry::add(&self.telemetry.served),
                Err(error) => {
                    self.telemetry.failed.add(error.outcome());
                    tracing::debug!(flow = %self.flow, %error, "hooked flow ended in an error");
                    self.core.abort(self.flow);
                    return;
                }
            },
        }
        Box::pin(self.leave(&ends)).await;
    }

    /// Everything up to the moment from which the flow is served.
    async fn begin(
        &self,
        mut client: LegStream,
        mut server: LegStream,
        view: Box<FlowView>,
        config: Arc<Config>,
    ) -> Begun {
        let mut plan = self
            .recognise(&mut client, &mut server, &view, &config, None)
            .await;
        if let Plan::Follow(protocols) = plan {
            plan = self
                .follow(&mut client, &mut server, &view, &config, protocols)
                .await;
        }
        match plan {
            // What is followed once has another plan afterwards.
            Plan::Abort | Plan::Follow(_) => Begun::Aborted,
            Plan::Relay => {
                let (protocol, info) = (Protocol::Opaque, self.info(&view));
                let chain = Chain::default();
                Begun::Served(self.serve(client, server, protocol, chain, info, &config))
            }
            Plan::Hooked(streams) => {
                let hooked = HookedStream {
                    streams,
                    info: self.info(&view),
                    records: self.records.clone(),
                    idle: config.proxy.idle_time,
                };
                let core = Rc::clone(&self.core);
                Begun::Hooked(Box::pin(
                    async move { hooked.run(&core, client, server).await },
                ))
            }
            Plan::Http { chain, protocol } => {
                let info = self.info(&view);
                Begun::Served(match self.watched(&view, false) {
                    None => self.serve(client, server, protocol, chain, info, &config),
                    Some([of_client, of_server]) => {
                        let client = Told::new(client, Leg::Client, of_client);
                        let server = Told::new(server, Leg::Server, of_server);
                        self.serve(client, server, protocol, chain, info, &config)
                    }
                })
            }
            Plan::Tls {
                chain,
                impersonator,
                handling,
                name,
                via,
            } => {
                let address = view.server.ip();
                let verify = handling.verify;
                match impersonator
                    .intercept_as(client, server, address, handling)
                    .await
                {
                    Ok(established) => {
                        Begun::Served(self.serve_inside(established, chain, via, &view, &config))
                    }
                    Err(error) => {
                        self.learn(&error, verify, &view, &name, &config);
                        self.refused(&error);
                        Begun::Refused
                    }
                }
            }
        }
    }

    /// Serves what is inside TLS; `via` says what was spoken before.
    fn serve_inside(
        &self,
        established: Established<LegStream, LegStream>,
        chain: Chain,
        via: Option<StartTls>,
        view: &FlowView,
        config: &Config,
    ) -> Serving {
        self.telemetry.count_tls(established.outcome());
        let mut info = self.info(view);
        self.note(|note| note.tls = Some(Box::new(established.info.clone())));
        info.tls = Some(established.info);
        if let Some(fault) = established.server_fault {
            info.context
                .insert("tls-server-fault".to_owned(), fault.as_str().into());
        }
        let (client, server) = tls::ends_alike(established.client, established.server);
        if let Some(protocol) = via {
            let word = protocol.as_str().into();
            info.context.insert("starttls".to_owned(), word);
            return self.serve(client, server, Protocol::Opaque, chain, info, config);
        }
        let alpn = established.alpn.as_deref();
        let (info, limits) = (Arc::new(info), &config.proxy);
        match self.watched(view, true) {
            None => proxy::serve_detected(client, server, alpn, chain, info, limits),
            Some([of_client, of_server]) => {
                let client = Told::new(client, Leg::Client, of_client);
                let server = Told::new(server, Leg::Server, of_server);
                proxy::serve_detected(client, server, alpn, chain, info, limits)
            }
        }
    }

    /// Forwards what is said in clear up to TLS, and finds out what to do with that.
    async fn follow(
        &self,
        client: &mut LegStream,
        server: &mut LegStream,
        view: &FlowView,
        config: &Arc<Config>,
        protocols: StartTlsSet,
    ) -> Plan {
        let count = |protocol: Option<StartTls>, outcome| {
            let protocol = protocol.map_or("other", StartTls::as_str);
            self.telemetry.starttls.add((protocol, outcome));
        };
        let watch = Watch::new(protocols);
        match starttls::until_tls(client, server, watch, &config.proxy).await {
            Ok(Clear::Goes(protocol)) => {
                count(protocol, "clear");
                Plan::Relay
            }
            Ok(Clear::Refused(protocol, refusal)) => {
                count(Some(protocol), refusal.as_str());
                tracing::warn!(
                    flow = %self.flow,
                    client = %view.client,
                    server = %view.server,
                    protocol = protocol.as_str(),
                    reason = refusal.as_str(),
                    "bytes between the request for TLS and TLS itself: the connection is reset"
                );
                Plan::Abort
            }
            Ok(Clear::Tls {
                protocol,
                client: hello,
            }) => {
                count(Some(protocol), "tls");
                client.unread(hello);
                self.recognise(client, server, view, config, Some(protocol))
                    .await
            }
            Err(error) => {
                self.finished(Err(error));
                Plan::Abort
            }
        }
    }

    /// Reads until the decision is there, and gives the bytes back to the stream. After a change from
    /// clear text to TLS, `via` says what was spoken.
    async fn recognise(
        &self,
        client: &mut LegStream,
        server: &mut LegStream,
        view: &FlowView,
        config: &Arc<Config>,
        via: Option<StartTls>,
    ) -> Plan {
        let facts = self.core.facts(view);
        let followed = match via {
            None => policy::followed(config, &facts),
            Some(_) => StartTlsSet::default(),
        };
        // Whether the server may not be heard before somebody has judged.
        let guard = match via {
            None if !self.core.wants_interception(self.flow) => {
                let notes = self.core.notes.borrow();
                let passed = notes.get(&self.flow).map_or(&[][..], |note| &note.passed);
                policy::guard(config, &facts, passed)
            }
            _ => None,
        };
        let mut seen = BytesMut::with_capacity(2048);
        let mut greeting = BytesMut::new();
        let deadline = tokio::time::sleep(config.proxy.sniff_time);
        tokio::pin!(deadline);
        let mut left = TOTAL_DEADLINE;
        let mut is_late = false;
        let judgement = loop {
            // One that is greeted speaks none of the protocols in which clients begin.
            let is_greeted = !greeting.is_empty() && (is_late || !is_settings(&greeting));
            let mut judgement = self
                .judge(config, view, &facts, First::Client(&seen), &mut left)
                .await;
            if judgement.decision == Decision::NeedMore && is_greeted {
                let first = First::Server;
                judgement = self.judge(config, view, &facts, first, &mut left).await;
            }
            if is_greeted && followed.has_greeting() {
                client.unread(seen.freeze());
                server.unread(greeting.freeze());
                return match judgement.decision {
                    Decision::Drop | Decision::Reset => {
                        self.note(|note| note.learn(&judgement));
                        Plan::Abort
                    }
                    _ => Plan::Follow(followed),
                };
            }
            if judgement.decision != Decision::NeedMore || is_late || seen.len() >= hello_limit() {
                break judgement;
            }
            let hears_server = greeting.is_empty() && (followed.has_greeting() || guard.is_some());
            let more = tokio::select! {
                biased;
                read = client.read_buf(&mut seen) => matches!(read, Ok(count) if count > 0),
                read = server.read_buf(&mut greeting), if hears_server => {
                    matches!(read, Ok(count) if count > 0)
                }
                () = &mut deadline => {
                    proxy::SoftLimit::SniffTime.count();
                    false
                }
            };
            is_late = !more;
        };
        server.unread(greeting.freeze());
        self.note(|note| note.learn(&judgement));
        if let (Decision::NeedMore, Some(Unseen::Drop | Unseen::Reset)) =
            (judgement.decision, guard)
        {
            telemetry::add(&self.telemetry.refused_unseen);
            self.note(|note| note.verdict = "reset");
            return Plan::Abort;
        }
        let chain = || {
            let accepted = self.core.notes.borrow();
            let accepted = accepted.get(&self.flow).and_then(|note| note.chain.clone());
            accepted
                .or_else(|| judgement.rule.map(|rule| rule.chain.clone()))
                .unwrap_or_default()
        };
        self.choose_congestion(judgement.rule.map(|rule| rule.congestion));
        let agreed = |protocol| {
            let listed = |rule: &Rule| rule.starttls.contains(protocol);
            self.core.wants_interception(self.flow) || judgement.rule.is_some_and(listed)
        };
        let plan = match judgement.decision {
            Decision::Drop | Decision::Reset => Plan::Abort,
            // What was agreed upon is TLS, so these bytes are nobody's honest words.
            _ if via.is_some()
                && judgement
                    .application
                    .is_some_and(|it| it != Application::Tls) =>
            {
                Plan::Abort
            }
            Decision::Intercept(Protocols::Clear) => Plan::Follow(followed),
            Decision::Intercept(Protocols::Tls) if via.is_some_and(|it| !agreed(it)) => Plan::Relay,
            Decision::Intercept(Protocols::Tls) => match &config.tls.impersonator {
                Some(impersonator) => Plan::Tls {
                    chain: chain(),
                    impersonator: Arc::clone(impersonator),
                    handling: Handling {
                        verify: judgement.rule.map(|rule| rule.verify).unwrap_or_default(),
                        retry: config.tls.learned.is_some(),
                        scope: Some(Scope::new(
                            view.endpoint.0,
                            view.client.ip(),
                            view.server,
                            judgement.rule.map_or("", |rule| &rule.name),
                        )),
                        refuse_ech: judgement.rule.is_some_and(|rule| rule.ech == Ech::Refuse),
                        client_certificate: judgement
                            .rule
                            .and_then(|rule| rule.client_certificate.clone()),
                        key_logs: self.core.secrets.of(self.flow),
                    },
                    name: policy::learned_name(judgement.server_name.as_deref(), view.server.ip()),
                    via,
                },
                None => Plan::Relay,
            },
            Decision::Intercept(Protocols::Http1) => Plan::Http {
                chain: chain(),
                protocol: Protocol::Http1,
            },
            Decision::Intercept(Protocols::Hooked) => judgement
                .rule
                .and_then(|rule| rule.hooks.streams())
                .map_or(Plan::Relay, Plan::Hooked),
            Decision::Intercept(Protocols::Http2) => Plan::Http {
                chain: chain(),
                protocol: Protocol::Http2,
            },
            Decision::Pass(reason) => {
                if via.is_some() {
                    shard::count_pass(&self.telemetry, reason);
                }
                Plan::Relay
            }
            // Nobody will ever know: relayed as it is.
            Decision::NeedMore | Decision::Ask(_) => Plan::Relay,
        };
        client.unread(seen.freeze());
        plan
    }

    /// Judges what was said, and asks whom that takes.
    async fn judge<'c>(
        &self,
        config: &'c Arc<Config>,
        view: &FlowView,
        facts: &Facts,
        first: First<'_>,
        left: &mut Duration,
    ) -> Judgement<'c> {
        loop {
            match opening::judge(&self.core, config, view, facts, first) {
                Judged::Done(judgement) => return judgement,
                Judged::Ask(pending) => {
                    let asked = pending.ask(&self.core, config, &self.desk, left);
                    if let Some(judgement) = asked.await {
                        return judgement;
                    }
                }
            }
        }
    }

    /// The legs begin with the default, and nothing was written to them yet.
    fn choose_congestion(&self, of_rule: Option<Congestion>) {
        let accepted = self.core.notes.borrow();
        let accepted = accepted.get(&self.flow).and_then(|note| note.congestion);
        let wanted = accepted.or(of_rule).unwrap_or_default();
        if wanted != Congestion::default() {
            let now = self.core.now();
            let mut dataplane = self.core.dataplane.borrow_mut();
            dataplane.set_congestion(self.flow, wanted, now);
        }
    }

    fn serve<C, S>(
        &self,
        client: C,
        server: S,
        protocol: Protocol,
        chain: Chain,
        info: FlowInfo,
        config: &Config,
    ) -> Serving
    where
        C: AsyncRead + AsyncWrite + Unpin + 'static,
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let (info, limits) = (Arc::new(info), &config.proxy);
        proxy::serve(client, server, protocol, chain, info, limits)
    }

    /// Who wants to be told what the legs say in clear, if anybody.
    fn watched(&self, view: &FlowView, tls: bool) -> Option<[Option<Box<dyn ClearText>>; 2]> {
        let tap = self.tap.as_ref()?;
        let told = [Leg::Client, Leg::Server].map(|leg| {
            tap.on_clear(&ClearConnection {
                endpoint: view.endpoint,
                client: view.client,
                server: view.server,
                leg,
                tls,
            })
        });
        told.iter().any(Option::is_some).then_some(told)
    }

    fn info(&self, view: &FlowView) -> FlowInfo {
        opening::info(&self.core, view, &self.core.facts(view))
    }

    /// Adds to what the flow's record will say, if it has one.
    fn note(&self, add: impl FnOnce(&mut Note)) {
        if let Some(note) = self.core.notes.borrow_mut().get_mut(&self.flow) {
            add(note);
        }
    }

    fn finished(&self, outcome: Result<(), ProxyError>) {
        match outcome {
            Ok(()) => {
                telemetry::add(&self.telemetry.served);
            }
            Err(error) => {
                self.telemetry.failed.add(error.outcome());
                self.note(|note| note.error = Some(error.outcome()));
                tracing::debug!(flow = %self.flow, %error, "intercepted flow ended in an error");
            }
        }
    }

    /// The next flow like this one may be better passed.
    fn learn(
        &self,
        error: &TlsError,
        verify: Verify,
        view: &FlowView,
        name: &str,
        config: &Config,
    ) {
        let (Some(learned), Some(lesson)) = (&config.tls.learned, error.lesson(verify)) else {
            return;
        };
        let (endpoint, source) = (view.endpoint.0, view.client.ip());
        if learned.note(endpoint, source, name, lesson, tls::UnixTime::now()) {
            tracing::info!(%source, server_name = name, ?lesson, "TLS of this client to this name is passed unread from here on");
        }
    }

    /// The handshakes name the server and the reason in the log themselves.
    fn refused(&self, error: &TlsError) {
        let outcome = error.outcome();
        self.telemetry.count_tls(outcome);
        self.note(|note| note.error = Some(outcome.as_str()));
        tracing::debug!(flow = %self.flow, outcome = outcome.as_str(), %error, "TLS not intercepted");
    }

    /// Waits until the peers have what was written for them, and resets what stays open.
    async fn leave(&self, ends: &[Rc<LegEnd>; 2]) {
        let [client_told, server_told] = [ends[0].was_shut_down(), ends[1].was_shut_down()];
        if !client_told {
            // What is written already leaves first, such as the alert that says why. A client that
            // was told of no end must not take a cut for one.
            self.core.kick.give();
            tokio::time::sleep(LAST_WORDS).await;
            self.core.abort(self.flow);
            return;
        }
        let mut pause = Duration::from_millis(5);
        let mut silent = Duration::ZERO;
        let mut waited = Duration::ZERO;
        let mut packets = [0; 2];
        let mut discard = vec![0; 4096];
        loop {
            tokio::time::sleep(pause).await;
            waited += pause;
            let Some(view) = self.core.dataplane.borrow().flow(self.flow) else {
                return;
            };
            if view.state != FlowState::Intercepted {
                return;
            }
            let client_finished = self.drain(Leg::Client, &mut discard);
            let server_finished = self.drain(Leg::Server, &mut discard);
            silent = if view.packets == packets {
                silent + pause
            } else {
                Duration::ZERO
            };
            packets = view.packets;
            let over = if client_finished {
                // The client has everything. A server that was not told the end, or that does not
                // answer it with its own, is reset.
                !server_told || !server_finished && waited > HALF_OPEN
            } else {
                // While the client still takes bytes, however slowly, its packets keep coming.
                silent > HALF_OPEN && server_finished || silent > SILENT
            };
            if over {
                self.core.abort(self.flow);
                return;
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// Throws away what nobody will read; true when the leg has no more.
    fn drain(&self, leg: Leg, discard: &mut [u8]) -> bool {
        let now = self.core.now();
        // Bounded: a peer that sends for ever is met again after the pause.
        for _ in 0..64 {
            let outcome = self
                .core
                .dataplane
                .borrow_mut()
                .read(self.flow, leg, discard, now);
            match outcome {
                ReadOutcome::Bytes(_) => self.core.kick.give(),
                ReadOutcome::Empty => return false,
                ReadOutcome::Finished | ReadOutcome::Reset | ReadOutcome::TimedOut => return true,
            }
        }
        false
    }
}

/// A few turns of the shard's loop, in which written bytes become packets.
const LAST_WORDS: Duration = Duration::from_millis(2);
/// How long a peer may keep its side open after ours has ended, without a packet.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// How long a peer may take to acknowledge anything at all before the flow is reset.
const SILENT: Duration = Duration::from_secs(60);

/// Whether a server's first bytes are a frame that HTTP/2 servers send without waiting for the client
/// (RFC 9113 §3.4): the client's preface is on its way.
fn is_settings(bytes: &[u8]) -> bool {
    matches!(bytes, [0, 0, length, 4, 0, 0, 0, 0, 0, ..] if length % 6 == 0)
}

fn hello_limit() -> usize {
    tls::hello::MAX_BYTES
}
