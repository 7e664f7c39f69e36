//! The sessions that are under way. They outlive the WebSocket that carries them: an agent that loses
//! it opens another and goes on.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sdk::{Direction, Outlet, OutletStats, Record, RecordQueue};

use crate::control::DocumentRules;
use crate::message::AgentMessage;
use crate::moving::Moving;
use crate::recorder::{Limits, Recorder};
use crate::session::{Asked, Outcome, Policy, Session, Tools};
use crate::whereabouts::{Now, Whereabouts};

/// How long a session without a WebSocket is waited for.
const LINGER: Duration = Duration::from_secs(60);
/// Sessions that were asked for and have not begun.
const MAX_ASKED: usize = 1024;

/// What tells sessions apart: the endpoint, the host that opened the channel, the name, and whether it
/// is the agent's end. Behind one address there may be both ends.
type Key = (u64, IpAddr, String, bool);

/// All sessions of an interceptor, and what they need.
pub(crate) struct Desk {
    pub(crate) tools: Tools,
    pub(crate) rules: DocumentRules,
    moving: Moving,
    records: OnceLock<Arc<RecordQueue>>,
    most: usize,
    idle: Duration,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    open: BTreeMap<Key, Entry>,
    asked: VecDeque<(String, Asked)>,
}

struct Entry {
    session: Arc<Mutex<Session>>,
    /// WebSockets that carry it.
    attached: usize,
    /// When the last of them ended.
    left: Option<Now>,
}

impl core::fmt::Debug for Desk {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Desk")
            .field("tools", &self.tools)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a desk is made of.
pub(crate) struct Setup {
    pub(crate) policy: Policy,
    pub(crate) rules: DocumentRules,
    pub(crate) files: Option<Limits>,
    /// Most sessions at a time.
    pub(crate) most: usize,
    /// A session in which nothing happens for so long is over.
    pub(crate) idle: Duration,
}

impl Desk {
    /// A desk without sessions.
    pub(crate) fn new(setup: Setup) -> Arc<Self> {
        Arc::new_cyclic(|weak: &Weak<Self>| {
            let weak = weak.clone();
            let tick = move || {
                if let Some(desk) = weak.upgrade() {
                    desk.expire(Now::read());
                }
            };
            let files = setup.files.as_ref();
            let moving = files.map(|files| files.moving.clone()).unwrap_or_default();
            Self {
                moving,
                tools: Tools {
                    policy: setup.policy,
                    recorder: Recorder::new(setup.files, Box::new(tick)),
                    ids: Default::default(),
                },
                rules: setup.rules,
                records: OnceLock::new(),
                most: setup.most,
                idle: setup.idle,
                sessions: Mutex::default(),
            }
        })
    }

    /// Says where records go; until then they go nowhere.
    pub(crate) fn connect(&self, records: &Arc<RecordQueue>) {
        // The appliance has one place for them.
        let _ = self.records.set(Arc::clone(records));
    }

    /// Gives a record away. What does not fit is counted there.
    pub(crate) fn emit(&self, record: Record) {
        if let Some(records) = self.records.get() {
            records.push(record);
        }
    }

    /// Remembers what a session was asked for with.
    pub(crate) fn asked(&self, session: String, asked: Asked) {
        let mut sessions = lock(&self.sessions);
        if sessions.asked.len() >= MAX_ASKED {
            sessions.asked.pop_front();
        }
        sessions.asked.push_back((session, asked));
    }

    /// The control channel says that a session is over. What is still on its way belongs to it.
    pub(crate) fn closed(&self, endpoint: u64, source: IpAddr, session: &str) {
        let sessions = lock(&self.sessions);
        for is_agent in [true, false] {
            let key = (endpoint, source, session.to_owned(), is_agent);
            if let Some(entry) = sessions.open.get(&key) {
                lock(&entry.session).over.get_or_insert("closed");
            }
        }
    }

    /// Sits down at a session, a new one or one that has lost its WebSocket; `None` if there are too
    /// many.
    pub(crate) fn attach(
        self: &Arc<Self>,
        endpoint: u64,
        name: &str,
        is_agent: bool,
        at: &Whereabouts,
        now: Now,
    ) -> Option<Attached> {
        let key = (endpoint, at.source.ip(), name.to_owned(), is_agent);
        let mut sessions = lock(&self.sessions);
        if !sessions.open.contains_key(&key) {
            if sessions.open.len() >= self.most {
                return None;
            }
            let mut asked = sessions.asked.iter().rev();
            let asked = asked.find(|(session, _)| session == name);
            let asked = asked.map(|(_, asked)| asked.clone());
            let session = Session::new(name, at.clone(), asked.unwrap_or_default(), now);
            let entry = Entry {
                session: Arc::new(Mutex::new(session)),
                attached: 0,
                left: None,
            };
            sessions.open.insert(key.clone(), entry);
            self.tools.recorder.watch();
        }
        let entry = sessions.open.get_mut(&key)?;
        entry.attached += 1;
        entry.left = None;
        Some(Attached {
            desk: Arc::clone(self),
            key,
            session: Arc::clone(&entry.session),
        })
    }

    fn finish_one(&self, session: &Mutex<Session>, why: &'static str, now: Now) {
        let record = lock(session).finish(why, &self.tools, now);
        if let Some(record) = record {
            self.emit(record);
        }
    }

    /// Ends the sessions that nobody comes back to, and those in which nothing happens.
    pub(crate) fn expire(&self, now: Now) {
        let over: Vec<_> = lock(&self.sessions)
            .open
            .extract_if(.., |_, entry| {
                let since = |at| now.clock.saturating_duration_since(at);
                match entry.left {
                    Some(left) => {
                        since(left.clock) >= LINGER || lock(&entry.session).over.is_some()
                    }
                    None => since(lock(&entry.session).last) >= self.idle,
                }
            })
            .collect();
        for (_, entry) in over {
            let why = if entry.left.is_some() { "left" } else { "idle" };
            self.finish_one(&entry.session, why, now);
        }
    }
}

impl Desk {
    fn finish_all(&self) {
        let sessions = core::mem::take(&mut lock(&self.sessions).open);
        let now = Now::read();
        for (_, entry) in sessions {
            self.finish_one(&entry.session, "stopped", now);
        }
    }
}

impl Outlet for Desk {
    fn stats(&self) -> OutletStats {
        let pump = self.tools.recorder.pump();
        self.moving
            .add_to(pump.map(|pump| pump.stats()).unwrap_or_default())
    }

    fn close(&self) {
        self.finish_all();
        if let Some(pump) = self.tools.recorder.pump() {
            pump.close();
        }
    }

    fn finish(&self, within: Duration) -> bool {
        let began = Instant::now();
        self.finish_all();
        let pump = self.tools.recorder.pump();
        let is_written = pump.is_none_or(|pump| pump.finish(within));
        // The last recordings are on their way only now.
        let left = within.saturating_sub(began.elapsed());
        self.moving.finish(left) && is_written
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        // The pump delivers what it has before it ends.
        self.finish_all();
    }
}

/// A WebSocket's place at its session.
pub(crate) struct Attached {
    desk: Arc<Desk>,
    key: Key,
    session: Arc<Mutex<Session>>,
}

impl core::fmt::Debug for Attached {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Attached")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl Attached {
    /// The first message of the WebSocket; gives the record of a session that begins with it.
    pub(crate) fn open(&self, text: &str) -> Option<Record> {
        lock(&self.session).open(text)
    }

    /// A message.
    pub(crate) fn message(
        &self,
        message: &AgentMessage,
        direction: Direction,
        now: Now,
    ) -> Outcome {
        lock(&self.session).message(message, direction, &self.desk.tools, now)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let now = Now::read();
        let mut sessions = lock(&self.desk.sessions);
        let Some(entry) = sessions.open.get_mut(&self.key) else {
            return;
        };
        if !Arc::ptr_eq(&entry.session, &self.session) {
            return;
        }
        entry.attached = entry.attached.saturating_sub(1);
        if entry.attached > 0 {
            return;
        }
        entry.left = Some(now);
        if lock(&entry.session).over.is_some() {
            let session = sessions.open.remove(&self.key);
            drop(sessions);
            if let Some(entry) = session {
                self.desk.finish_one(&entry.session, "left", now);
            }
        }
    }
}
