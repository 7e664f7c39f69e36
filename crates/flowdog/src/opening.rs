//! A flow whose rule asks an acceptor, when it opens or when its first bytes are seen: question, answer,
//! the rules below.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::{Congestion, FlowId, FlowState, FlowView, Verdict};
use sdk::{Chain, Ec2Host, FlowInfo, Hooks, Recognised, TlsInfo};
use serde_json::{Map, Value};

use crate::acceptor::{AcceptorLink, Answer, Desk, Ruling, Source, TOTAL_DEADLINE};
use crate::config::{Config, Rule};
use crate::policy::{
    self, Application, Decision, Facts, First, Heard, Judgement, OpenStep, PassReason, QuicSight,
};
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
    /// The rules whose acceptors have accepted the flow, and the configuration in which they stand.
    pub(crate) passed: Vec<usize>,
    pub(crate) config: Option<Arc<Config>>,
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

    /// Notes what an acceptor said, or what was said in its place.
    fn hear(&mut self, rule: &Rule, number: usize, answer: &Answer) {
        self.rule = Some(Arc::clone(&rule.name));
        self.acceptor = rule.acceptor_name();
        self.reason = answer.reason.clone().or_else(|| {
            let failed = answer.source == Source::Failed;
            failed.then(|| Arc::from("the acceptor gave no answer"))
        });
        for (key, value) in answer.context.iter() {
            self.context.insert(key.clone(), value.clone());
        }
        match answer.ruling {
            Ruling::Accept => self.passed.push(number),
            Ruling::Verdict(Verdict::Inspect | Verdict::InspectEither) => {
                self.chain = Some(rule.chain.clone());
                self.congestion = Some(rule.congestion);
            }
            Ruling::Verdict(_) => {}
        }
    }

    /// Adds what the first bytes said.
    pub(crate) fn learn(&mut self, judgement: &Judgement<'_>) {
        self.verdict = match judgement.decision {
            Decision::NeedMore | Decision::Ask(_) => return,
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
        recognised: None,
        tls: None,
        context: notes
            .get(&view.id)
            .map(|note| note.context.clone())
            .unwrap_or_default(),
    }
}

/// The judgement on a flow in which somebody has spoken.
pub(crate) enum Judged<'c> {
    Done(Judgement<'c>),
    /// It takes an answer that is not known yet.
    Ask(Box<Pending<'c>>),
}

/// A question about a flow whose first bytes are known.
pub(crate) struct Pending<'c> {
    judgement: Judgement<'c>,
    rule: &'c Rule,
    number: usize,
    link: Arc<AcceptorLink>,
    info: FlowInfo,
}

/// Judges a flow as far as the answers of acceptors are known.
pub(crate) fn judge<'c>(
    core: &Core,
    config: &'c Arc<Config>,
    view: &FlowView,
    facts: &Facts,
    first: First<'_>,
) -> Judged<'c> {
    loop {
        let judgement = {
            let notes = core.notes.borrow();
            let note = notes.get(&view.id);
            let heard = Heard {
                intercept: note.is_some_and(|note| note.chain.is_some()),
                passed: note.map_or(&[], |note| &note.passed),
            };
            policy::at_first_bytes(config, facts, first, heard)
        };
        let (Decision::Ask(number), Some(rule)) = (judgement.decision, judgement.rule) else {
            return Judged::Done(judgement);
        };
        let mut info = info(core, view, facts);
        info.recognised = judgement.recognised().map(Arc::new);
        let answer = match &rule.acceptor {
            None => no_answer(rule),
            Some(link) => match link.known(&info) {
                Some(answer) => answer,
                None => {
                    let link = Arc::clone(link);
                    return Judged::Ask(Box::new(Pending {
                        judgement,
                        rule,
                        number,
                        link,
                        info,
                    }));
                }
            },
        };
        if let Some(decision) = hear(core, config, view.id, rule, number, &answer) {
            return Judged::Done(Judgement {
                decision,
                ..judgement
            });
        }
    }
}

/// Whether a flow is gone that was taken over. While the shard judges, which has the data plane in hand,
/// it is not.
fn is_over(core: &Core, flow: FlowId) -> bool {
    core.dataplane.try_borrow().is_ok_and(|dataplane| {
        let view = dataplane.flow(flow);
        view.is_none_or(|view| view.state != FlowState::Intercepted)
    })
}

/// Notes an answer about a flow whose first bytes are known. `None` if the rules below have the word.
fn hear(
    core: &Core,
    config: &Arc<Config>,
    flow: FlowId,
    rule: &Rule,
    number: usize,
    answer: &Answer,
) -> Option<Decision> {
    tracing::debug!(
        %flow,
        rule = &*rule.name,
        acceptor = rule.acceptor_name(),
        reason = answer.reason.as_deref(),
        ruling = ?answer.ruling,
        "acceptor heard about first bytes"
    );
    if is_over(core, flow) {
        // Nobody would take the note away any more.
        return Some(Decision::Reset);
    }
    let mut notes = core.notes.borrow_mut();
    let note = notes.entry(flow).or_default();
    note.config = Some(Arc::clone(config));
    note.hear(rule, number, answer);
    match answer.ruling {
        Ruling::Accept | Ruling::Verdict(Verdict::Inspect | Verdict::InspectEither) => None,
        Ruling::Verdict(Verdict::Pass) => Some(Decision::Pass(PassReason::Rule)),
        Ruling::Verdict(Verdict::Drop) => Some(Decision::Drop),
        Ruling::Verdict(Verdict::Reset) => Some(Decision::Reset),
    }
}

impl<'c> Pending<'c> {
    /// Asks, and gives a judgement if that was the last word. `left` is the time for all questions.
    pub(crate) async fn ask(
        self,
        core: &Core,
        config: &Arc<Config>,
        desk: &Desk,
        left: &mut Duration,
    ) -> Option<Judgement<'c>> {
        let (began, flow) = (Instant::now(), self.info.id);
        let answer = desk.ask(&self.link, self.info, *left).await;
        *left = left.saturating_sub(began.elapsed());
        let answer = answer.unwrap_or_else(|_| no_answer(self.rule));
        let decision = hear(core, config, flow, self.rule, self.number, &answer)?;
        Some(Judgement {
            decision,
            ..self.judgement
        })
    }
}

impl Judgement<'_> {
    /// What acceptors are told.
    pub(crate) fn recognised(&self) -> Option<Recognised> {
        Some(Recognised {
            application: self.application?.as_str(),
            server_name: self.server_name.clone(),
            http_host: self.http_host.clone(),
            ja4: self.ja4.clone(),
        })
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
        let mut note = Note {
            config: Some(Arc::clone(&config)),
            ..Note::default()
        };
        note.learn_quic(quic.as_ref());
        let mut info = info(core, view, &facts);
        info.recognised = quic.as_ref().map(|quic| Arc::new(quic.recognised()));
        Self {
            core: Rc::clone(core),
            config,
            mid_flow,
            flow: view.id,
            info,
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
        self.note.hear(rule, number, &answer);
        self.info.context.clone_from(&self.note.context);
        match answer.ruling {
            Ruling::Accept => {
                self.from = number + 1;
                false
            }
            Ruling::Verdict(Verdict::Inspect) => {
                self.finish(policy::inspection(&self.config, &self.facts));
                true
            }
            Ruling::Verdict(verdict) => {
                self.finish(verdict);
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
        let is_wanted = note.chain.is_some();
        if matches!(verdict, Verdict::Inspect | Verdict::InspectEither)
            && !is_wanted
            && let Some(unseen) = policy::guard(&self.config, &self.facts, &note.passed)
        {
            dataplane.guard(self.flow, unseen);
        }
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
