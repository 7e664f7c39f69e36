//! The opening of a flow whose rule asks an acceptor: question, answer, the rules below.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{Congestion, FlowId, FlowState, FlowView, Verdict};
use sdk::{Chain, Ec2Host, FlowInfo, Hooks, TlsInfo};
use serde_json::{Map, Value};

use crate::acceptor::{AcceptorLink, Answer, Desk, Ruling, Source, TOTAL_DEADLINE};
use crate::config::{Config, Rule};
use crate::policy::{self, Application, Decision, Facts, Judgement, OpenStep, QuicSight};
use crate::stream::Core;

/// What is remembered of how a flow was judged, for later stages and for its record.
#[derive(Clone, Debug, Default)]
pub(crate) struct Note {
    /// The rule that decided last.
    pub(crate) rule: Option<Arc<str>>,
    /// The acceptor that was asked last.
    pub(crate) acceptor: Option<String>,
    /// What it gave as its reason, or why it gave none.
    pub(crate) reason: Option<Arc<str>>,
    /// What acceptors had to say.
    pub(crate) context: Map<String, Value>,
    /// The interceptors to run, if an acceptor says to intercept.
    pub(crate) chain: Option<Chain>,
    /// How the legs share the path, if an acceptor says to intercept.
    pub(crate) congestion: Option<Congestion>,
    /// The word for what was decided last.
    pub(crate) verdict: &'static str,
    /// What the client turned out to speak.
    pub(crate) application: Option<&'static str>,
    /// The name in the TLS ClientHello.
    pub(crate) server_name: Option<String>,
    /// The host of the first HTTP/1 request in clear.
    pub(crate) http_host: Option<String>,
    /// The way to the client and to the server and back, in the TCP handshake.
    pub(crate) round_trips: [Option<Duration>; 2],
    /// What both TLS handshakes agreed on.
    pub(crate) tls: Option<Box<TlsInfo>>,
    /// Why interception ended in an error.
    pub(crate) error: Option<&'static str>,
    /// What EC2 knows of the client's and of the server's host.
    pub(crate) ec2: [Option<Arc<Ec2Host>>; 2],
    /// The JA4 fingerprint of a TLS client.
    pub(crate) ja4: Option<String>,
}

/// The word for a verdict.
pub(crate) fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "pass",
        Verdict::Drop => "drop",
        Verdict::Reset => "reset",
        Verdict::Inspect | Verdict::InspectEither => "inspect",
    }
}

impl Note {
    /// Adds what the first datagrams said.
    pub(crate) fn learn_quic(&mut self, quic: Option<&QuicSight>) {
        if let Some(quic) = quic {
            self.application = Some(Application::Quic.as_str());
            self.server_name.clone_from(&quic.server_name);
            self.ja4.clone_from(&quic.ja4);
        }
    }

    /// Adds what the first bytes said.
    pub(crate) fn learn(&mut self, judgement: &Judgement<'_>) {
        self.verdict = match judgement.decision {
            Decision::NeedMore => return,
            Decision::Pass(_) => "pass",
            Decision::Drop => "drop",
            Decision::Reset => "reset",
            Decision::Intercept(_) => "intercept",
        };
        if let Some(rule) = judgement.rule {
            self.rule = Some(Arc::clone(&rule.name));
        }
        self.application = judgement.application.map(Application::as_str);
        self.server_name.clone_from(&judgement.server_name);
        self.http_host.clone_from(&judgement.http_host);
        self.ja4.clone_from(&judgement.ja4);
    }
}

/// What is known about a flow, for extensions.
pub(crate) fn info(core: &Core, view: &FlowView, facts: &Facts) -> FlowInfo {
    let notes = core.notes.borrow();
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
        opened_at: core.clock.wall(view.opened_at),
        tls: None,
        context: notes
            .get(&view.id)
            .map(|note| note.context.clone())
            .unwrap_or_default(),
    }
}

/// A flow on its way through the rules and the acceptors that they ask.
pub(crate) struct Opening {
    core: Rc<Core>,
    /// One configuration for the whole way, whatever is reloaded meanwhile.
    config: Arc<Config>,
    facts: Facts,
    mid_flow: bool,
    quic: Option<QuicSight>,
    flow: FlowId,
    info: FlowInfo,
    note: Note,
    /// Those of the rule that passes the flow.
    hooks: Hooks,
    /// The first rule that has not had its say.
    from: usize,
    began: Instant,
}

/// What is left to do.
enum Rest {
    Nothing,
    Ask {
        link: Arc<AcceptorLink>,
        number: usize,
    },
}

impl Opening {
    pub(crate) fn new(
        core: &Rc<Core>,
        config: Arc<Config>,
        view: &FlowView,
        facts: Facts,
        mid_flow: bool,
        quic: Option<QuicSight>,
    ) -> Self {
        let mut note = Note::default();
        note.learn_quic(quic.as_ref());
        Self {
            core: Rc::clone(core),
            config,
            mid_flow,
            flow: view.id,
            info: info(core, view, &facts),
            facts,
            note,
            quic,
            hooks: Hooks::default(),
            from: 0,
            began: Instant::now(),
        }
    }

    /// Goes as far as what is known already carries; the rest waits for acceptors in a task of its
    /// own.
    pub(crate) fn start(mut self, desk: &Desk) {
        if let Rest::Ask { link, number } = self.advance() {
            let desk = desk.clone();
            tokio::task::spawn_local(self.wait(desk, link, number));
        }
    }

    async fn wait(mut self, desk: Desk, mut link: Arc<AcceptorLink>, mut number: usize) {
        loop {
            let left = TOTAL_DEADLINE.saturating_sub(self.began.elapsed());
            let answer = desk.ask(&link, self.info.clone(), left).await;
            let config = Arc::clone(&self.config);
            let Some(rule) = config.rules.get(number) else {
                return;
            };
            let answer = answer.unwrap_or_else(|_| no_answer(rule));
            if self.take(rule, number, answer) {
                return;
            }
            match self.advance() {
                Rest::Nothing => return,
                Rest::Ask {
                    link: next,
                    number: at,
                } => (link, number) = (next, at),
            }
        }
    }

    fn advance(&mut self) -> Rest {
        let config = Arc::clone(&self.config);
        loop {
            let opening = policy::at_open_of(
                &config,
                &self.facts,
                self.mid_flow,
                self.from,
                self.quic.as_ref(),
            );
            let (rule, number) = match (opening.step, opening.rule, opening.number) {
                (OpenStep::Ask, Some(rule), Some(number)) => (rule, number),
                (OpenStep::Ask, ..) => return Rest::Nothing,
                (OpenStep::Verdict(verdict), rule, _) => {
                    if let Some(rule) = rule {
                        self.note.rule = Some(Arc::clone(&rule.name));
                        self.hooks = rule.hooks.clone();
                    }
                    self.finish(verdict);
                    return Rest::Nothing;
                }
            };
            let answer = match &rule.acceptor {
                Some(link) => match link.known(&self.info) {
                    Some(answer) => answer,
                    None => {
                        let link = Arc::clone(link);
                        return Rest::Ask { link, number };
                    }
                },
                None => no_answer(rule),
            };
            if self.take(rule, number, answer) {
                return Rest::Nothing;
            }
        }
    }

    /// Obeys an answer; true when that was the last word.
    fn take(&mut self, rule: &Rule, number: usize, answer: Answer) -> bool {
        self.note.rule = Some(Arc::clone(&rule.name));
        self.note.acceptor = rule.acceptor_name();
        self.note.reason = answer.reason.or_else(|| {
            let failed = answer.source == Source::Failed;
            failed.then(|| Arc::from("the acceptor gave no answer"))
        });
        for (key, value) in answer.context.iter() {
            self.info.context.insert(key.clone(), value.clone());
        }
        self.note.context.clone_from(&self.info.context);
        match answer.ruling {
            Ruling::Accept => {
                self.from = number + 1;
                false
            }
            Ruling::Verdict(verdict) => {
                if verdict == Verdict::Inspect {
                    self.note.chain = Some(rule.chain.clone());
                    self.note.congestion = Some(rule.congestion);
                    self.finish(policy::inspection(&Arc::clone(&self.config), &self.facts));
                } else {
                    self.finish(verdict);
                }
                true
            }
        }
    }

    fn finish(&mut self, verdict: Verdict) {
        let mut dataplane = self.core.dataplane.borrow_mut();
        let view = dataplane.flow(self.flow);
        let Some(view) = view.filter(|view| view.state == FlowState::Pending) else {
            // Gone, or decided by the data plane's own deadline.
            return;
        };
        self.note.verdict = word(verdict);
        self.note.ec2 = self.facts.hosts();
        let note = std::mem::take(&mut self.note);
        tracing::debug!(
            flow = %self.flow,
            ?verdict,
            rule = note.rule.as_deref(),
            acceptor = note.acceptor,
            reason = note.reason.as_deref(),
            waited = ?self.began.elapsed(),
            "acceptor heard"
        );
        self.core.notes.borrow_mut().insert(self.flow, note);
        if verdict == Verdict::Pass {
            self.core.hook(&mut dataplane, &view, &self.hooks);
        }
        dataplane.set_verdict(self.flow, verdict, self.core.now());
        self.core.kick.give();
    }
}

/// What holds when an acceptor gives no answer.
fn no_answer(rule: &Rule) -> Answer {
    let refuse = rule
        .acceptor
        .as_ref()
        .map_or(Verdict::Reset, |link| link.refusal());
    let ruling = if rule.accept_on_error {
        Ruling::Accept
    } else {
        Ruling::Verdict(refuse)
    };
    Answer::new(ruling, Source::Failed)
}
