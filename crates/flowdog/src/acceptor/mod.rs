//! Asks acceptors about flows, beside the traffic: cache, single flight, deadline, bounds.
//!
//! A shard looks into the cache itself. What is not there goes over a bounded channel to one thread
//! that talks to the acceptors; the flow's packets are parked in the data plane meanwhile. Every
//! question has a deadline on both sides, so a flow waits no longer whatever happens there.

mod cache;
mod client;
mod http;
#[cfg(feature = "script")]
mod javascript;
#[cfg(feature = "aws")]
mod lambda;
mod wire_form;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use sdk::{Acceptor, Decision, FlowInfo, Verdict};
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, mpsc, oneshot};

pub use cache::KeyField;
pub(crate) use cache::KeyFields;
pub(crate) use http::HttpAcceptor;
#[cfg(feature = "script")]
pub(crate) use javascript::JavascriptAcceptor;
#[cfg(feature = "aws")]
pub(crate) use lambda::LambdaAcceptor;

use cache::{Cache, Key};

/// Most flows whose question is under way at once, over all acceptors.
const MOST_PENDING: usize = 65_536;
/// How long all acceptors together may take about one flow: less than the data plane waits (5 s),
/// and far less than a GWLB does (30 s).
pub(crate) const TOTAL_DEADLINE: Duration = Duration::from_millis(4500);
/// How much longer a shard waits than the acceptors' thread, which should have answered.
const GRACE: Duration = Duration::from_millis(250);
/// Longest time that an answer may ask to be kept.
const LONGEST_TTL: Duration = Duration::from_secs(3600);

/// How an acceptor is asked: the keys that every kind has.
#[derive(Clone, Debug)]
pub struct AcceptorSettings {
    /// `deadline`: longest time until the answer, retries included. 3 s.
    pub deadline: Duration,
    /// `ttl`: how long an acceptance is kept, unless the answer says otherwise. 60 s.
    pub ttl: Duration,
    /// `negative-ttl`: the same for a refusal. 10 s.
    pub negative_ttl: Duration,
    /// `stale`: how much longer an answer is used while the acceptor fails. 5 min.
    pub stale: Duration,
    /// `cache-entries`: most answers kept. 65,536.
    pub cache_entries: usize,
    /// `cache-key`: what an answer depends on. Everything but `source-port`.
    pub cache_key: Vec<KeyField>,
    /// `concurrency`: most questions asked at once. 64.
    pub concurrency: usize,
    /// `refuse`: what a refusal means for the flow: reset or drop. `reset`.
    pub refuse: Verdict,
}

impl Default for AcceptorSettings {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(3),
            ttl: Duration::from_secs(60),
            negative_ttl: Duration::from_secs(10),
            stale: Duration::from_secs(300),
            cache_entries: 65_536,
            cache_key: KeyField::WORDS
                .iter()
                .map(|(_, field)| *field)
                .filter(|field| *field != KeyField::SourcePort)
                .collect(),
            concurrency: 64,
            refuse: Verdict::Reset,
        }
    }
}

/// What an acceptor has decided, or what was decided in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ruling: Ruling,
    pub(crate) context: Arc<Map<String, Value>>,
    pub(crate) reason: Option<Arc<str>>,
    pub(crate) source: Source,
}

impl Answer {
    pub(crate) fn new(ruling: Ruling, source: Source) -> Self {
        Self {
            ruling,
            context: Arc::default(),
            reason: None,
            source,
        }
    }
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// The rules below decide.
    Accept,
    /// Nothing below decides any more.
    Verdict(Verdict),
}

/// Where an answer is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The acceptor was asked.
    Asked,
    /// It was asked before.
    Cached,
    /// It was asked before, long ago, and fails now.
    Stale,
    /// It fails: the rule's `on-error`.
    Failed,
}

/// Why there was no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoAnswer;

/// Counters of one acceptor.
#[derive(Debug, Default)]
pub(crate) struct AcceptorCounters {
    /// Questions asked of the acceptor itself.
    pub(crate) asked: AtomicU64,
    /// Flows that waited for the answer about another one.
    pub(crate) joined: AtomicU64,
    pub(crate) cached: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Answers that did not come in time.
    pub(crate) late: AtomicU64,
    /// Answers that were errors.
    pub(crate) failed: AtomicU64,
    /// Flows about which nobody could be asked: too many wait.
    pub(crate) overloaded: AtomicU64,
}

/// An acceptor with its name, its settings and what it has said.
pub struct AcceptorLink {
    name: String,
    settings: AcceptorSettings,
    fields: KeyFields,
    acceptor: Arc<dyn Acceptor>,
    cache: Mutex<Cache>,
    flights: Mutex<HashMap<Key, Vec<oneshot::Sender<Result<Answer, NoAnswer>>>>>,
    permits: Semaphore,
    pub(crate) counters: AcceptorCounters,
}

impl fmt::Debug for AcceptorLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptorLink")
            .field("name", &self.name)
            .field("settings", &self.settings)
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}

impl AcceptorLink {
    /// An acceptor under a name.
    #[must_use]
    pub fn new(name: String, settings: AcceptorSettings, acceptor: Arc<dyn Acceptor>) -> Self {
        Self {
            cache: Mutex::new(Cache::new(settings.cache_entries)),
            fields: KeyFields::of(&settings.cache_key),
            permits: Semaphore::new(settings.concurrency),
            flights: Mutex::default(),
            counters: AcceptorCounters::default(),
            name,
            settings,
            acceptor,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a refusal means for the flow.
    pub(crate) fn refusal(&self) -> Verdict {
        self.settings.refuse
    }

    /// How many answers are kept.
    pub(crate) fn cached_entries(&self) -> usize {
        lock(&self.cache).len()
    }

    /// An answer that is known already.
    pub(crate) fn known(&self, flow: &FlowInfo) -> Option<Answer> {
        let mut answer = lock(&self.cache).fresh(self.fields, flow, Instant::now())?;
        answer.source = Source::Cached;
        self.counters.cached.fetch_add(1, Ordering::Relaxed);
        Some(answer)
    }

    /// Asks, or waits for one who asks the same, and tells all who wait.
    async fn ask(&self, flow: FlowInfo, answer: oneshot::Sender<Result<Answer, NoAnswer>>) {
        // Between the shard's look and this one another flow may have got the answer.
        if let Some(known) = self.known(&flow) {
            let _ = answer.send(Ok(known));
            return;
        }
        let key = Key::new(self.fields, &flow);
        {
            let mut flights = lock(&self.flights);
            if let Some(waiting) = flights.get_mut(&key) {
                self.counters.joined.fetch_add(1, Ordering::Relaxed);
                waiting.push(answer);
                return;
            }
            flights.insert(key.clone(), vec![answer]);
        }
        let result = self.decide(&flow).await;
        let waiting = lock(&self.flights).remove(&key).unwrap_or_default();
        for waiting in waiting {
            // A flow that has ended meanwhile wants no answer.
            let _ = waiting.send(result.clone());
        }
    }

    async fn decide(&self, flow: &FlowInfo) -> Result<Answer, NoAnswer> {
        let due = tokio::time::Instant::now() + self.settings.deadline;
        let decided = tokio::time::timeout_at(due, async {
            let _permit = self.permits.acquire().await;
            if tokio::time::Instant::now() >= due {
                // Its turn came with its end; asking now would only cost the ones behind it.
                std::future::pending::<()>().await;
            }
            self.counters.asked.fetch_add(1, Ordering::Relaxed);
            AssertUnwindSafe(self.acceptor.accept(flow))
                .catch_unwind()
                .await
        })
        .await;
        let error = match decided {
            Ok(Ok(Ok(decision))) => return Ok(self.keep(flow, decision)),
            Ok(Ok(Err(error))) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                error.0
            }
            Ok(Err(_)) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                "it panicked".to_owned()
            }
            Err(_) => {
                self.counters.late.fetch_add(1, Ordering::Relaxed);
                format!("no answer within {:?}", self.settings.deadline)
            }
        };
        tracing::debug!(acceptor = self.name, flow = %flow.id, error, "acceptor failed");
        let stale = lock(&self.cache).stale(self.fields, flow, Instant::now());
        let mut answer = stale.ok_or(NoAnswer)?;
        answer.source = Source::Stale;
        self.counters.stale.fetch_add(1, Ordering::Relaxed);
        Ok(answer)
    }

    fn keep(&self, flow: &FlowInfo, decision: Decision) -> Answer {
        let ruling = match (decision.verdict, decision.accept) {
            (Some(verdict), _) => Ruling::Verdict(verdict),
            (None, Some(false)) => Ruling::Verdict(self.settings.refuse),
            (None, _) => Ruling::Accept,
        };
        let refused = matches!(ruling, Ruling::Verdict(Verdict::Drop | Verdict::Reset));
        let (counter, ttl) = if refused {
            (&self.counters.refused, self.settings.negative_ttl)
        } else {
            (&self.counters.accepted, self.settings.ttl)
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let answer = Answer {
            ruling,
            context: Arc::new(decision.context),
            reason: decision.reason.map(Into::into),
            source: Source::Asked,
        };
        // Fields that are not known here could not tell flows apart: the usual ones do.
        let fields = decision.same_for.and_then(|words| {
            let fields: Option<Vec<_>> =
                words.iter().map(|word| KeyField::from_word(word)).collect();
            fields.map(|fields| KeyFields::of(&fields))
        });
        let fresh = decision.valid_for.unwrap_or(ttl).min(LONGEST_TTL);
        lock(&self.cache).put(
            self.fields,
            fields,
            flow,
            answer.clone(),
            Instant::now(),
            (fresh, self.settings.stale),
        );
        answer
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Question {
    link: Arc<AcceptorLink>,
    flow: FlowInfo,
    answer: oneshot::Sender<Result<Answer, NoAnswer>>,
}

/// Where shards ask.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    questions: mpsc::Sender<Question>,
    pending: Arc<AtomicUsize>,
}

impl Desk {
    /// Starts the thread that talks to acceptors. It ends with the last shard.
    pub(crate) fn start() -> io::Result<Self> {
        let (questions, mut asked) = mpsc::channel::<Question>(4096);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("acceptors".to_owned())
            .spawn(move || {
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime, async move {
                    while let Some(Question { link, flow, answer }) = asked.recv().await {
                        tokio::task::spawn_local(async move { link.ask(flow, answer).await });
                    }
                });
            })?;
        Ok(Self {
            questions,
            pending: Arc::default(),
        })
    }

    /// Asks about a flow. Comes back after `limit` at the latest.
    pub(crate) async fn ask(
        &self,
        link: &Arc<AcceptorLink>,
        flow: FlowInfo,
        limit: Duration,
    ) -> Result<Answer, NoAnswer> {
        if self.pending.fetch_add(1, Ordering::Relaxed) >= MOST_PENDING {
            self.pending.fetch_sub(1, Ordering::Relaxed);
            link.counters.overloaded.fetch_add(1, Ordering::Relaxed);
            return Err(NoAnswer);
        }
        let (answer, answered) = oneshot::channel();
        let question = Question {
            link: Arc::clone(link),
            flow,
            answer,
        };
        let limit = limit.min(link.settings.deadline + GRACE);
        let asked = async {
            // A full channel empties in the time of a turn of the other thread.
            self.questions.send(question).await.map_err(|_| NoAnswer)?;
            answered.await.map_err(|_| NoAnswer)?
        };
        let result = tokio::time::timeout(limit, asked).await;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        result.unwrap_or_else(|_| {
            link.counters.late.fetch_add(1, Ordering::Relaxed);
            Err(NoAnswer)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use sdk::{AcceptError, async_trait};

    use super::*;

    pub(super) fn flow(client: &str, server: &str) -> FlowInfo {
        let mut flow = sdk::testing::flow();
        flow.endpoint = sdk::VpcEndpointId(1);
        flow.cookie = sdk::FlowCookie(42);
        flow.attachment = sdk::AttachmentId(0);
        flow.protocol = sdk::Protocol(6);
        flow.client = client.parse().unwrap();
        flow.server = server.parse().unwrap();
        flow.context = Map::new();
        flow
    }

    fn one() -> FlowInfo {
        flow("10.0.0.1:1000", "192.0.2.1:443")
    }

    #[derive(Debug, Default)]
    struct Scripted {
        calls: AtomicUsize,
        takes: Duration,
        fails: AtomicBool,
        refuses: bool,
    }

    #[async_trait(?Send)]
    impl Acceptor for Scripted {
        async fn accept(&self, _: &FlowInfo) -> Result<Decision, AcceptError> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(self.takes).await;
            if self.fails.load(Ordering::Relaxed) {
                return Err(AcceptError("broken".into()));
            }
            Ok(Decision {
                accept: Some(!self.refuses),
                reason: Some("list 7".into()),
                ..Decision::default()
            })
        }
    }

    fn link(scripted: Scripted, settings: AcceptorSettings) -> (Arc<Scripted>, Arc<AcceptorLink>) {
        let scripted = Arc::new(scripted);
        let link = AcceptorLink::new("test".into(), settings, Arc::clone(&scripted) as _);
        (scripted, Arc::new(link))
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn threat_63_a_herd_of_equal_flows_is_one_question() {
        let desk = Desk::start().unwrap();
        let slow = Scripted {
            takes: Duration::from_millis(100),
            ..Scripted::default()
        };
        let (scripted, link) = link(slow, AcceptorSettings::default());
        let asks = (0..500).map(|port| {
            let flow = flow(&format!("10.0.0.1:{}", 1000 + port), "192.0.2.1:443");
            desk.ask(&link, flow, LIMIT)
        });
        let answers = futures_util::future::join_all(asks).await;
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!(answer.ruling, Ruling::Accept);
            assert_eq!(answer.reason.as_deref(), Some("list 7"));
        }
        assert_eq!(scripted.calls.load(Ordering::Relaxed), 1);
        assert_eq!(link.known(&one()).unwrap().source, Source::Cached);
    }

    #[tokio::test]
    async fn gwlb_b12_an_answer_that_does_not_come_is_given_up_at_the_deadline() {
        let desk = Desk::start().unwrap();
        let settings = AcceptorSettings {
            deadline: Duration::from_millis(50),
            ..AcceptorSettings::default()
        };
        let never = Scripted {
            takes: Duration::from_secs(3600),
            ..Scripted::default()
        };
        let (_, link) = link(never, settings);
        let began = Instant::now();
        assert_eq!(desk.ask(&link, one(), LIMIT).await, Err(NoAnswer));
        assert!(began.elapsed() < Duration::from_secs(2));
        assert_eq!(link.counters.late.load(Ordering::Relaxed), 1);
        assert!(lock(&link.flights).is_empty(), "nothing is left behind");
    }

    #[tokio::test]
    async fn threat_63_while_the_acceptor_fails_an_old_answer_serves_and_a_new_flow_has_none() {
        let desk = Desk::start().unwrap();
        let settings = AcceptorSettings {
            negative_ttl: Duration::from_millis(1),
            ..AcceptorSettings::default()
        };
        let (scripted, link) = link(
            Scripted {
                refuses: true,
                ..Scripted::default()
            },
            settings,
        );
        let answer = desk.ask(&link, one(), LIMIT).await.unwrap();
        assert_eq!(answer.ruling, Ruling::Verdict(Verdict::Reset));
        tokio::time::sleep(Duration::from_millis(20)).await;
        scripted.fails.store(true, Ordering::Relaxed);
        let answer = desk.ask(&link, one(), LIMIT).await.unwrap();
        assert_eq!(answer.source, Source::Stale);
        assert_eq!(answer.ruling, Ruling::Verdict(Verdict::Reset));
        let stranger = flow("10.9.9.9:1", "192.0.2.1:443");
        assert_eq!(desk.ask(&link, stranger, LIMIT).await, Err(NoAnswer));
        assert_eq!(link.counters.failed.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn no_more_questions_are_asked_at_once_than_configured() {
        #[derive(Debug, Default)]
        struct Counts {
            now: AtomicUsize,
            most: AtomicUsize,
        }
        #[async_trait(?Send)]
        impl Acceptor for Counts {
            async fn accept(&self, _: &FlowInfo) -> Result<Decision, AcceptError> {
                let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
                self.most.fetch_max(now, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
                self.now.fetch_sub(1, Ordering::Relaxed);
                Ok(Verdict::Pass.into())
            }
        }
        let desk = Desk::start().unwrap();
        let counts = Arc::new(Counts::default());
        let settings = AcceptorSettings {
            concurrency: 4,
            ..AcceptorSettings::default()
        };
        let link = Arc::new(AcceptorLink::new(
            "test".into(),
            settings,
            Arc::clone(&counts) as _,
        ));
        let asks = (0..100).map(|host| {
            let flow = flow(&format!("10.0.0.{host}:1"), "192.0.2.1:443");
            desk.ask(&link, flow, LIMIT)
        });
        for answer in futures_util::future::join_all(asks).await {
            assert_eq!(answer.unwrap().ruling, Ruling::Verdict(Verdict::Pass));
        }
        assert_eq!(counts.most.load(Ordering::Relaxed), 4);
    }
}
