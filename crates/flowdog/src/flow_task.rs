//! The life of a taken-over flow: recognise, decrypt, proxy, end both legs.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::BytesMut;
use dataplane::{Congestion, FlowId, FlowState, FlowView, Leg, ReadOutcome};
use proxy::{Protocol, ProxyError};
use sdk::{Chain, FlowInfo};
use tls::{Handling, Impersonator, TlsError};
use tokio::io::AsyncReadExt;

use crate::config::Config;
use crate::opening;
use crate::policy::{self, Decision, Facts, Protocols};
use crate::stream::{Core, LegEnd, LegStream};
use crate::telemetry::{self, Telemetry};

/// What a flow's task needs.
pub(crate) struct FlowTask {
    pub(crate) core: Rc<Core>,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) flow: FlowId,
}

/// What is to be done once the first bytes are known, without borrowing the configuration.
enum Plan {
    Relay,
    Abort,
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
    },
}

impl FlowTask {
    pub(crate) async fn run(self) {
        let Some(view) = self.core.dataplane.borrow().flow(self.flow) else {
            return;
        };
        let mut client = LegStream::new(Rc::clone(&self.core), self.flow, Leg::Client);
        let server = LegStream::new(Rc::clone(&self.core), self.flow, Leg::Server);
        let ends = [client.end(), server.end()];
        // One configuration for the whole life of the flow, whatever is reloaded meanwhile.
        let config = self.config.load_full();
        let plan = self.recognise(&mut client, &view, &config).await;
        match plan {
            Plan::Abort => {
                self.core.abort(self.flow);
                return;
            }
            Plan::Relay => {
                let outcome = self
                    .serve(
                        client,
                        server,
                        Protocol::Opaque,
                        Chain::default(),
                        self.info(&view),
                        &config,
                    )
                    .await;
                self.finished(outcome);
            }
            Plan::Http { chain, protocol } => {
                let outcome = self
                    .serve(client, server, protocol, chain, self.info(&view), &config)
                    .await;
                self.finished(outcome);
            }
            Plan::Tls {
                chain,
                impersonator,
                handling,
                name,
            } => {
                let address = view.server.ip();
                match impersonator
                    .intercept_as(client, server, address, handling)
                    .await
                {
                    Ok(established) => {
                        self.telemetry.count_tls(established.outcome());
                        let mut info = self.info(&view);
                        info.tls = Some(established.info);
                        if let Some(fault) = established.server_fault {
                            info.context
                                .insert("tls-server-fault".to_owned(), fault.as_str().into());
                        }
                        let alpn = established.alpn;
                        let outcome = proxy::serve_detected(
                            established.client,
                            established.server,
                            alpn.as_deref(),
                            chain,
                            Arc::new(info),
                            &config.proxy,
                        )
                        .await;
                        self.finished(outcome.map(drop));
                    }
                    Err(error) => {
                        self.learn(&error, handling, &view, &name, &config);
                        self.refused(&error);
                    }
                }
            }
        }
        self.leave(&ends).await;
    }

    /// Reads until the decision is there, and gives the bytes back to the stream.
    async fn recognise(&self, client: &mut LegStream, view: &FlowView, config: &Config) -> Plan {
        let facts = Facts::from(view);
        let mut seen = BytesMut::with_capacity(2048);
        let deadline = tokio::time::sleep(config.proxy.sniff_time);
        tokio::pin!(deadline);
        let accepted = self.core.wants_interception(self.flow);
        let judgement = loop {
            let judgement = policy::at_first_bytes(config, &facts, &seen, accepted);
            if judgement.decision != Decision::NeedMore || seen.len() >= hello_limit() {
                break judgement;
            }
            let more = tokio::select! {
                read = client.read_buf(&mut seen) => matches!(read, Ok(count) if count > 0),
                () = &mut deadline => false,
            };
            if !more {
                // Nobody will ever know: relayed as it is.
                break judgement;
            }
        };
        if let Some(note) = self.core.notes.borrow_mut().get_mut(&self.flow) {
            note.learn(&judgement);
        }
        let chain = || {
            let accepted = self.core.notes.borrow();
            let accepted = accepted.get(&self.flow).and_then(|note| note.chain.clone());
            accepted
                .or_else(|| judgement.rule.map(|rule| rule.chain.clone()))
                .unwrap_or_default()
        };
        self.choose_congestion(judgement.rule.map(|rule| rule.congestion));
        let plan = match judgement.decision {
            Decision::Drop | Decision::Reset => Plan::Abort,
            Decision::Intercept(Protocols::Tls) => match &config.tls.impersonator {
                Some(impersonator) => Plan::Tls {
                    chain: chain(),
                    impersonator: Arc::clone(impersonator),
                    handling: Handling {
                        verify: judgement.rule.map(|rule| rule.verify).unwrap_or_default(),
                        retry: config.tls.learned.is_some(),
                    },
                    name: policy::learned_name(judgement.server_name.as_deref(), view.server.ip()),
                },
                None => Plan::Relay,
            },
            Decision::Intercept(Protocols::Http1) => Plan::Http {
                chain: chain(),
                protocol: Protocol::Http1,
            },
            Decision::Intercept(Protocols::Http2) => Plan::Http {
                chain: chain(),
                protocol: Protocol::Http2,
            },
            Decision::NeedMore | Decision::Pass(_) => Plan::Relay,
        };
        client.unread(seen.freeze());
        plan
    }

    /// The legs begin with the default, and nothing was written to them yet.
    fn choose_congestion(&self, of_rule: Option<Congestion>) {
        let accepted = self.core.notes.borrow();
        let accepted = accepted.get(&self.flow).and_then(|note| note.congestion);
        let wanted = accepted.or(of_rule).unwrap_or_default();
        if wanted != Congestion::default() {
            let now = self.core.clock.now();
            let mut dataplane = self.core.dataplane.borrow_mut();
            dataplane.set_congestion(self.flow, wanted, now);
        }
    }

    async fn serve(
        &self,
        client: LegStream,
        server: LegStream,
        protocol: Protocol,
        chain: Chain,
        info: FlowInfo,
        config: &Config,
    ) -> Result<(), ProxyError> {
        proxy::serve(
            client,
            server,
            protocol,
            chain,
            Arc::new(info),
            &config.proxy,
        )
        .await
        .map(drop)
    }

    fn info(&self, view: &FlowView) -> FlowInfo {
        opening::info(&self.core, view)
    }

    fn finished(&self, outcome: Result<(), ProxyError>) {
        match outcome {
            Ok(()) => {
                telemetry::add(&self.telemetry.served);
            }
            Err(error) => {
                self.telemetry.failed.add(error.outcome());
                tracing::debug!(flow = %self.flow, %error, "intercepted flow ended in an error");
            }
        }
    }

    /// The next flow like this one may be better passed.
    fn learn(
        &self,
        error: &TlsError,
        handling: Handling,
        view: &FlowView,
        name: &str,
        config: &Config,
    ) {
        let (Some(learned), Some(lesson)) = (&config.tls.learned, error.lesson(handling.verify))
        else {
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
        tracing::debug!(flow = %self.flow, outcome = outcome.as_str(), %error, "TLS not intercepted");
    }

    /// Waits until the peers have what was written for them, and resets what stays open.
    async fn leave(&self, ends: &[Rc<LegEnd>; 2]) {
        let [client_told, server_told] = [ends[0].was_shut_down(), ends[1].was_shut_down()];
        if !client_told {
            // A client that was told nothing must not take a cut for an end.
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
        let now = self.core.clock.now();
        // Bounded: a peer that sends for ever is met again after the pause.
        for _ in 0..64 {
            let outcome = self
                .core
                .dataplane
                .borrow_mut()
                .read(self.flow, leg, discard, now);
            match outcome {
                ReadOutcome::Bytes(_) => self.core.kick.notify_one(),
                ReadOutcome::Empty => return false,
                ReadOutcome::Finished | ReadOutcome::Reset | ReadOutcome::TimedOut => return true,
            }
        }
        false
    }
}

/// How long a peer may keep its side open after ours has ended, without a packet.
const HALF_OPEN: Duration = Duration::from_secs(5);
/// How long a peer may take to acknowledge anything at all before the flow is reset.
const SILENT: Duration = Duration::from_secs(60);

fn hello_limit() -> usize {
    tls::hello::MAX_BYTES
}
