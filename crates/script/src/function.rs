//! A function: a file, its limits, its stores, and the program that was last read from it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use sdk::{FlowInfo, Request, Response};

use crate::apply;
use crate::engine::{Call, Done, Limits, Realm, Reply};
use crate::event::{Place, SeenRequest, Shown, What};
use crate::fault::Fault;
use crate::kvs::{StorePlace, StoreSource, Stores};
use crate::log::LogBudget;
use crate::origin::OriginRules;
use crate::pool;
use crate::program::{Entry, Program};
use crate::rules::Profile;
use crate::snapshot::{self, Snapshot};

/// Longest time that the top level of a file may take when the file is read.
const LOAD_DEADLINE: Duration = Duration::from_secs(10);
/// How soon a store in AWS that could not be read at all is asked for again, at most.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Stack of a thread beside the one that scripts may fill.
pub(crate) const NATIVE_STACK: usize = 1 << 20;

/// What a function is made of.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What a call may take.
    pub limits: Limits,
    /// The key value stores.
    pub stores: Vec<StoreSource>,
    /// Hosts that requests may be sent for, `*.` in front standing for any label; empty: any public
    /// name.
    pub origins: Vec<String>,
    /// A new realm for each call, whether it needs one or not.
    pub own_realm: bool,
}

/// Why a file gives no function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct LoadError {
    /// Whether it is the file, and not a store.
    pub is_source: bool,
    /// What is wrong with it.
    pub what: String,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// What is called at one moment: the program and the stores. Replaced as a whole.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) program: Arc<Program>,
    pub(crate) stores: Arc<Stores>,
    stamps: Vec<Stamp>,
}

/// What shows that a file has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp(PathBuf, Option<(SystemTime, u64)>);

impl Stamp {
    fn of(file: &Path) -> Self {
        let facts = std::fs::metadata(file).ok();
        let facts = facts.and_then(|facts| Some((facts.modified().ok()?, facts.len())));
        Self(file.to_owned(), facts)
    }
}

/// A function in JavaScript. Cheap to clone. Its files are read again when they change; a broken one
/// leaves everything as it was.
#[derive(Clone)]
pub struct Function(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    file: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) origins: Arc<OriginRules>,
    pub(crate) loaded: ArcSwap<Loaded>,
    /// Tells functions apart.
    pub(crate) id: u64,
    /// Threads that it holds and that were given up.
    pub(crate) stuck: AtomicUsize,
    /// How long its calls took lately, in nanoseconds.
    pace: AtomicU64,
    log: LogBudget,
    /// The files as they were when they were last looked at, broken or not.
    looked_at: std::sync::Mutex<Vec<Stamp>>,
    /// When each store was last asked for.
    asked: std::sync::Mutex<Vec<Instant>>,
    /// Whether stores are being read.
    is_reading: AtomicBool,
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Function")
            .field("file", &self.0.file)
            .field("settings", &self.0.settings)
            .finish_non_exhaustive()
    }
}

impl Function {
    /// Reads a file and tries its top level.
    ///
    /// # Errors
    /// What is wrong with the file, or with that of a store.
    pub fn load(file: impl Into<PathBuf>, settings: Settings) -> Result<Self, LoadError> {
        let file = file.into();
        let loaded = load(&file, &settings, None)?;
        let function = Self(Arc::new(Inner {
            origins: Arc::new(OriginRules {
                allowed: settings.origins.clone(),
            }),
            looked_at: std::sync::Mutex::new(loaded.stamps.clone()),
            asked: std::sync::Mutex::new(vec![Instant::now(); settings.stores.len()]),
            is_reading: AtomicBool::new(false),
            loaded: ArcSwap::from_pointee(loaded),
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            stuck: AtomicUsize::new(0),
            pace: AtomicU64::new(u64::from(u32::MAX)),
            log: LogBudget::default(),
            file,
            settings,
        }));
        pool::watch(&function.0);
        Ok(function)
    }

    /// Whether there is a handler for an event.
    #[must_use]
    pub fn handles(&self, entry: Entry) -> bool {
        self.0.loaded.load().program.handler(entry).is_some()
    }

    /// Whether the file has a handler that takes this event and no other.
    pub(crate) fn handles_by_name(&self, entry: Entry) -> bool {
        self.0.loaded.load().program.has(entry.own_name())
    }

    /// Whether each call gets a realm of its own.
    #[must_use]
    pub fn has_own_realm(&self) -> bool {
        self.0.loaded.load().program.own_realm
    }

    /// Calls it on one of the threads for scripts.
    pub async fn call(&self, call: Call) -> Done {
        pool::call(&self.0, call).await
    }

    /// As [`call`](Self::call), and writes what it logs to the log; `about` says what it was about.
    pub async fn call_and_log(&self, call: Call, about: &str) -> Done {
        let done = self.call(call).await;
        self.0.log.write(&done.log, about);
        done
    }

    /// As [`call`](Self::call), for threads that may wait.
    #[must_use]
    pub fn call_and_wait(&self, call: Call) -> Done {
        pool::call_and_wait(&self.0, call)
    }

    /// Makes it callable on this very thread, without a watchdog.
    ///
    /// # Errors
    /// When no realm can be made.
    pub fn runner(&self) -> Result<Runner, Fault> {
        let loaded = self.0.loaded.load_full();
        let realm = Realm::new(
            Arc::clone(&loaded.program),
            self.0.settings.limits,
            Arc::default(),
        )?;
        Ok(Runner {
            realm,
            loaded,
            origins: Arc::clone(&self.0.origins),
        })
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn name(&self) -> std::borrow::Cow<'_, str> {
        self.file.file_name().unwrap_or_default().to_string_lossy()
    }

    /// How long its calls took lately.
    pub(crate) fn pace(&self) -> Duration {
        Duration::from_nanos(self.pace.load(Ordering::Relaxed))
    }

    /// Tells how long a call took.
    pub(crate) fn took(&self, time: Duration) {
        let time = u64::from(u32::try_from(time.as_nanos()).unwrap_or(u32::MAX));
        // Of two threads that tell at once one is not heard, which does not matter.
        let pace = self.pace.load(Ordering::Relaxed);
        self.pace.store((pace * 7 + time) / 8, Ordering::Relaxed);
    }

    /// Reads the files again if one has changed.
    pub(crate) fn look_at_files(&self) {
        let stamps = stamps(&self.file, &self.settings);
        {
            let mut looked_at = self
                .looked_at
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if *looked_at == stamps {
                return;
            }
            looked_at.clone_from(&stamps);
        }
        let known = Arc::clone(&self.loaded.load().stores);
        match load(&self.file, &self.settings, Some(&known)) {
            Ok(loaded) => {
                self.loaded.store(Arc::new(loaded));
                pool::count_reload(true);
                tracing::info!(file = %self.file.display(), "function read again");
            }
            Err(error) => {
                pool::count_reload(false);
                tracing::error!(file = %self.file.display(), %error, "function not read again, the one before stays");
            }
        }
    }
}

impl Inner {
    /// Reads the stores in AWS that are due, on a thread of their own.
    pub(crate) fn look_at_stores(self: &Arc<Self>) {
        let due = self.due_stores();
        if due.is_empty() || self.is_reading.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = Arc::clone(self);
        let read = std::thread::Builder::new()
            .name("script-stores".to_owned())
            .spawn(move || {
                due.into_iter().for_each(|at| inner.read_store(at));
                inner.is_reading.store(false, Ordering::Relaxed);
            });
        if let Err(error) = read {
            self.is_reading.store(false, Ordering::Relaxed);
            tracing::error!(%error, "cannot start a thread that reads key value stores");
        }
    }

    fn due_stores(&self) -> Vec<usize> {
        let asked = self.asked.lock();
        let asked = asked.unwrap_or_else(std::sync::PoisonError::into_inner);
        let stores = &self.loaded.load().stores;
        let sources = self.settings.stores.iter().zip(asked.iter()).enumerate();
        let due = sources.filter(|(at, (source, asked))| match &source.place {
            StorePlace::File(_) => false,
            StorePlace::Remote(remote) => {
                let is_there = stores.at(*at).is_some();
                let pause = if is_there { Duration::MAX } else { TRY_AGAIN };
                asked.elapsed() >= remote.interval.min(pause)
            }
        });
        due.map(|(at, _)| at).collect()
    }

    fn read_store(&self, at: usize) {
        let source = self.settings.stores.get(at);
        let Some(StorePlace::Remote(remote)) = source.map(|source| &source.place) else {
            return;
        };
        let known = self.loaded.load().stores.at(at);
        let read = snapshot::read(remote, known.as_deref());
        {
            let mut asked = self
                .asked
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if let Some(asked) = asked.get_mut(at) {
                *asked = Instant::now();
            }
        }
        pool::count_store(read.is_ok());
        match read {
            Ok(Snapshot::Unchanged) => {}
            Ok(Snapshot::New(store)) => {
                self.loaded.rcu(|loaded| Loaded {
                    program: Arc::clone(&loaded.program),
                    stores: Arc::new(loaded.stores.with(at, Arc::clone(&store))),
                    stamps: loaded.stamps.clone(),
                });
                tracing::info!(place = %remote.place, "key value store read");
            }
            Err(what) => tracing::warn!(%what, "key value store not read, the one before stays"),
        }
    }
}

/// The files of a function as they are now.
fn stamps(file: &Path, settings: &Settings) -> Vec<Stamp> {
    let stores = settings
        .stores
        .iter()
        .filter_map(|store| match &store.place {
            StorePlace::File(file) => Some(file.as_path()),
            StorePlace::Remote(_) => None,
        });
    std::iter::once(file).chain(stores).map(Stamp::of).collect()
}

fn load(file: &Path, settings: &Settings, known: Option<&Stores>) -> Result<Loaded, LoadError> {
    let about = |what: String| LoadError {
        is_source: true,
        what,
    };
    // Before the files are read: a change in between is then seen as one.
    let stamps = stamps(file, settings);
    let stores = Stores::load(&settings.stores, known).map_err(|what| LoadError {
        is_source: false,
        what,
    })?;
    let stores = Arc::new(stores);
    let source =
        std::fs::read(file).map_err(|error| about(format!("{}: {error}", file.display())))?;
    let source =
        String::from_utf8(source).map_err(|_| about(format!("{} is not UTF-8", file.display())))?;
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let program =
        program(&name, &source, settings, &stores).map_err(|fault| about(fault.to_string()))?;
    Ok(Loaded {
        program: Arc::new(program),
        stores,
        stamps,
    })
}

/// Compiles and tries a source on a thread that can be left behind.
fn program(
    name: &str,
    source: &str,
    settings: &Settings,
    stores: &Arc<Stores>,
) -> Result<Program, Fault> {
    let mut program = Program::new(name, source)?;
    program.own_realm = settings.own_realm;
    let (limits, stores) = (settings.limits, Arc::clone(stores));
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("script-load".to_owned())
        .stack_size(limits.stack + NATIVE_STACK)
        .spawn(move || {
            let inspected = Realm::inspect(program, limits, &stores, SystemTime::now());
            // Nobody waits any more if it took too long.
            let _ = sender.send(inspected);
        });
    let thread =
        thread.map_err(|error| Fault::Thrown(format!("cannot start a thread: {error}")))?;
    let program = receiver
        .recv_timeout(LOAD_DEADLINE)
        .map_err(|_| Fault::Stuck(LOAD_DEADLINE))?;
    // Whoever reads a configuration may need to be the only thread afterwards.
    let _ = thread.join();
    let program = program?;
    if program.handlers.is_empty() {
        let known: Vec<&str> = Entry::ALL.into_iter().map(Entry::own_name).collect();
        return Err(Fault::Thrown(format!(
            "there is no handler; known are: {}, {}",
            crate::program::HANDLER,
            known.join(", ")
        )));
    }
    Ok(program)
}

/// A function on one thread: for benchmarks and tests.
#[derive(Debug)]
pub struct Runner {
    realm: Realm,
    loaded: Arc<Loaded>,
    origins: Arc<OriginRules>,
}

impl Runner {
    /// Calls it.
    pub fn call(&mut self, call: &Call) -> Done {
        let origins = (call.entry == Entry::ViewerRequest).then(|| Arc::clone(&self.origins));
        self.realm
            .call(call, Arc::clone(&self.loaded.stores), origins)
    }

    /// The event of a request, as the interceptor shows it, as JSON.
    ///
    /// # Errors
    /// As of a function that gives its event back.
    pub fn event(&self, request: &Request, flow: &Arc<FlowInfo>) -> Result<String, Fault> {
        self.realm.event(&Arc::new(shown(request, flow)))
    }

    /// All that the interceptor does with a request: makes the event, calls, applies the result.
    ///
    /// # Errors
    /// As of the exchange that it would be.
    pub fn request(
        &mut self,
        request: &mut Request,
        flow: &Arc<FlowInfo>,
    ) -> Result<Option<Response>, Fault> {
        let shown = Arc::new(shown(request, flow));
        let call = Call::about(Arc::clone(&shown), SystemTime::now());
        match self.call(&call).reply? {
            Reply::Request(out) => {
                let seen = &shown.request;
                apply::request(request, seen, &out, Profile::Appliance, &self.origins)?;
                Ok(None)
            }
            Reply::Response(out) => apply::new_response(&out, Profile::Appliance).map(Some),
            Reply::Json(_) | Reply::Nothing => Err(Fault::NoHandler),
        }
    }
}

fn shown(request: &Request, flow: &Arc<FlowInfo>) -> Shown {
    Shown {
        place: Place {
            domain: request.host().unwrap_or_default().into(),
            id: "FLOWDOG".into(),
            request_id: "EXAMPLE".into(),
            flow: Arc::clone(flow),
        },
        edge: "{}".into(),
        request: Arc::new(SeenRequest::of(request, Profile::Appliance)),
        what: What::Request,
    }
}
