//! Keeps the directory up to date: everything at the start and by interval, single hosts by events.
//!
//! On a thread of its own. While EC2 is away the last snapshot stays; at the start that is an empty
//! one, and rules that ask for a host's properties match nothing.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws::{AwsError, Ec2Events, Ec2Settings, Ec2Source, Environment, Region};
use rand::TryRngCore as _;
use sdk::Ec2Listing;
use tokio::sync::{Notify, oneshot};

use super::{Directory, Lookup};
use crate::config::Ec2;
use crate::telemetry;

/// Pause after the first failure; doubled after each further one, up to the interval.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// Events that name nothing cause no more than one listing of everything in this time.
const LEAST_BETWEEN: Duration = Duration::from_secs(30);

/// The sources that the configuration names, in order.
///
/// # Errors
/// The first that cannot be.
pub(crate) fn sources(settings: &Ec2) -> Result<Vec<Ec2Source>, AwsError> {
    let source = |one: &crate::config::Ec2Place| {
        Ec2Source::new(Ec2Settings {
            region: one.region.as_deref().and_then(Region::new),
            role: one.role.clone(),
            external_id: one.external_id.clone(),
            endpoint: one.endpoint.clone(),
            queue: one.queue.clone(),
            environment: Environment::of_process(),
        })
    };
    settings.sources.iter().map(source).collect()
}

/// Everything that all sources list, once. Blocks.
///
/// # Errors
/// That of the first source that fails.
pub fn list_once(settings: &Ec2) -> Result<Ec2Listing, AwsError> {
    let sources = sources(settings)?;
    let list = async {
        let mut all = Ec2Listing::default();
        for source in &sources {
            let listing = source.list().await?;
            all.interfaces.extend(listing.interfaces);
            all.endpoints.extend(listing.endpoints);
            all.vpcs.extend(listing.vpcs);
        }
        Ok(all)
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(list),
        Err(error) => Err(AwsError {
            what: "ec2".to_owned(),
            fault: aws::Fault::NotConfigured(error.to_string()),
        }),
    }
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// The thread that refreshes; told to end when dropped.
#[derive(Debug)]
pub(crate) struct Refresh {
    _stop: oneshot::Sender<()>,
}

impl Refresh {
    /// Starts the thread, and waits for the first listings as long as the configuration says.
    pub(crate) fn start(settings: &Ec2, desk: &Arc<Lookup>) -> io::Result<Self> {
        let sources = sources(settings).map_err(io::Error::other)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (tried, first): (SyncSender<()>, Receiver<()>) = sync_channel(sources.len());
        let count = sources.len();
        let all = Arc::new(All {
            desk: Arc::clone(desk),
            listings: Mutex::new(vec![Ec2Listing::default(); count]),
            refresh: settings.refresh,
        });
        std::thread::Builder::new()
            .name("directory".to_owned())
            .spawn(move || {
                let runtime = match runtime() {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        tracing::error!(%error, "no EC2 directory: cannot start its runtime");
                        return;
                    }
                };
                let local = tokio::task::LocalSet::new();
                for (number, source) in sources.into_iter().enumerate() {
                    let place = Place {
                        number,
                        all: Arc::clone(&all),
                        source,
                        turn: tokio::sync::Mutex::default(),
                        again: Notify::new(),
                    };
                    local.spawn_local(place.run(tried.clone()));
                }
                drop(tried);
                local.block_on(&runtime, async {
                    // Told or dropped, both mean the end.
                    let _ = stopped.await;
                });
                runtime.shutdown_background();
            })?;
        let due = Instant::now() + settings.start_wait;
        for _ in 0..count {
            let left = due.saturating_duration_since(Instant::now());
            if first.recv_timeout(left).is_err() {
                tracing::warn!(
                    waited = ?settings.start_wait,
                    "EC2 has not answered: starting with an empty directory"
                );
                break;
            }
        }
        Ok(Self { _stop: stop })
    }
}

/// What all sources have listed.
struct All {
    desk: Arc<Lookup>,
    listings: Mutex<Vec<Ec2Listing>>,
    refresh: Duration,
}

impl All {
    /// Changes one listing and makes the next snapshot.
    fn change(&self, number: usize, change: impl FnOnce(&mut Ec2Listing)) {
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listing) = listings.get_mut(number) {
            change(listing);
        }
        self.desk.replace(Directory::new(listings.iter()));
    }
}

struct Place {
    number: usize,
    all: Arc<All>,
    source: Ec2Source,
    /// One at a time: an event must not be overtaken by a listing that began before it.
    turn: tokio::sync::Mutex<()>,
    /// Asks for a listing of everything before its time.
    again: Notify,
}

impl Place {
    async fn run(self, tried: SyncSender<()>) {
        tokio::join!(self.refresh(tried), self.listen());
    }

    async fn refresh(&self, tried: SyncSender<()>) {
        let interval = self.all.refresh;
        let mut tried = Some(tried);
        let mut pause = FIRST_PAUSE.min(interval);
        loop {
            let worked = self.list().await;
            // Whoever waits for the first listing may have given up.
            let _ = tried.take().map(|tried| tried.try_send(()));
            if worked {
                pause = FIRST_PAUSE.min(interval);
                let early = async {
                    tokio::time::sleep(LEAST_BETWEEN.min(interval)).await;
                    self.again.notified().await;
                };
                first_of(tokio::time::sleep(jittered(interval)), early).await;
            } else {
                tokio::time::sleep(jittered(pause)).await;
                pause = (pause * 2).min(interval);
            }
        }
    }

    async fn list(&self) -> bool {
        let _turn = self.turn.lock().await;
        let Some(state) = self.all.desk.sources.get(self.number) else {
            return false;
        };
        let began = Instant::now();
        match self.source.list().await {
            Ok(listing) => {
                tracing::debug!(
                    source = state.name,
                    interfaces = listing.interfaces.len(),
                    endpoints = listing.endpoints.len(),
                    took = ?began.elapsed(),
                    "EC2 directory refreshed"
                );
                self.all.change(self.number, |kept| *kept = listing);
                telemetry::add(&state.refreshes);
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                let now = now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(0));
                state
                    .listed_at
                    .store(now, std::sync::atomic::Ordering::Relaxed);
                true
            }
            Err(error) => {
                telemetry::add(&state.failures);
                tracing::warn!(source = state.name, %error, "EC2 directory not refreshed");
                false
            }
        }
    }

    async fn listen(&self) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.source.events().await {
                Ok(None) => return,
                Ok(Some(events)) => {
                    pause = FIRST_PAUSE;
                    if events.count > 0 {
                        self.take(&events).await;
                    }
                }
                Err(error) => {
                    self.failed(&error);
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(self.all.refresh.max(FIRST_PAUSE));
                }
            }
        }
    }

    async fn take(&self, events: &Ec2Events) {
        if let Some(state) = self.all.desk.sources.get(self.number) {
            let count = u64::try_from(events.count).unwrap_or(u64::MAX);
            state
                .events
                .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        }
        let _turn = self.turn.lock().await;
        if events.anything {
            self.again.notify_one();
        }
        let (instances, interfaces) = (&events.instances, &events.interfaces);
        match self.source.list_some(instances, interfaces).await {
            Ok(found) => self.all.change(self.number, |listing| {
                listing.interfaces.retain(|one| {
                    let is_named = |id: &Option<String>, names: &[String]| {
                        id.as_ref().is_some_and(|id| names.contains(id))
                    };
                    let found_again = found
                        .iter()
                        .any(|new| new.host.interface_id == one.host.interface_id);
                    !found_again
                        && !is_named(&one.host.instance_id, instances)
                        && !is_named(&one.host.interface_id, interfaces)
                });
                listing.interfaces.extend(found);
            }),
            Err(error) => {
                // Not finished: the events come again when their visibility time is over.
                self.failed(&error);
                return;
            }
        }
        if let Err(error) = self.source.finish(events).await {
            self.failed(&error);
        }
    }

    fn failed(&self, error: &AwsError) {
        if let Some(state) = self.all.desk.sources.get(self.number) {
            telemetry::add(&state.failures);
            tracing::warn!(source = state.name, %error, "events of EC2 not taken");
        }
    }
}

async fn first_of(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// Nine to eleven tenths of a pause, so that many appliances do not ask at once.
fn jittered(pause: Duration) -> Duration {
    let random = rand::rngs::OsRng.try_next_u32().unwrap_or(u32::MAX / 2);
    pause.mul_f64(0.9 + f64::from(random) / f64::from(u32::MAX) / 5.0)
}
