//! Answers health checks and metrics over HTTP, on a thread of its own: a busy shard delays no
//! check, and a stuck one is told.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::config::Config;
use crate::directory::{Lookup, SourceState};
use crate::metrics;
use crate::secrets::SecretFeed;
use crate::shard::{Command, Pulse, Snapshot};
use crate::stream::Clock;
use crate::tap::OptionalTap;
use crate::telemetry::Telemetry;

/// Connections served at once. A GWLB checks from several nodes, and closes after each check.
const CONNECTIONS: usize = 256;
/// How long a client may take to send its request.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a shard may take to tell its counters before it is left out.
const SNAPSHOT_TIME: Duration = Duration::from_secs(1);

/// What the appliance knows about itself; shared by the threads that ask and tell.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) config: Arc<ArcSwap<Config>>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) directory: Arc<Lookup>,
    pub(crate) tap: OptionalTap,
    pub(crate) pulses: Vec<Arc<Pulse>>,
    pub(crate) commands: Vec<mpsc::Sender<Command>>,
    /// Who reads the secrets of intercepted flows, if anybody.
    pub(crate) secrets: Option<Arc<SecretFeed>>,
    pub(crate) draining: AtomicBool,
    /// A shard's thread has ended without being told to.
    pub(crate) broken: AtomicBool,
}

/// One word for how the appliance is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Draining,
    Healthy,
    Unhealthy,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

impl State {
    /// How the appliance is, and how long ago each shard turned.
    pub(crate) fn status(&self) -> (Status, Vec<Option<Duration>>) {
        let stall = self.config.load().health.stall;
        let ages: Vec<_> = self
            .pulses
            .iter()
            .map(|pulse| pulse.age(&self.clock))
            .collect();
        let turning = ages.iter().all(|age| age.is_some_and(|age| age < stall));
        let status = if self.broken.load(Ordering::Relaxed) || !turning {
            Status::Unhealthy
        } else if self.draining.load(Ordering::Relaxed) {
            Status::Draining
        } else {
            Status::Healthy
        };
        (status, ages)
    }

    /// The counters of every shard that answers in time.
    pub(crate) async fn snapshots(&self) -> Vec<Snapshot> {
        let mut waiting = Vec::new();
        for commands in &self.commands {
            let (answer, snapshot) = oneshot::channel();
            if commands.try_send(Command::Snapshot(answer)).is_ok() {
                waiting.push(snapshot);
            }
        }
        let deadline = tokio::time::Instant::now() + SNAPSHOT_TIME;
        let mut snapshots = Vec::new();
        for snapshot in waiting {
            if let Ok(Ok(snapshot)) = tokio::time::timeout_at(deadline, snapshot).await {
                snapshots.push(snapshot);
            }
        }
        snapshots
    }
}

/// Starts the thread that answers; it ends when `stop` is dropped or told.
pub(crate) fn spawn(
    listener: std::net::TcpListener,
    state: Arc<State>,
    stop: oneshot::Receiver<()>,
) -> io::Result<std::thread::JoinHandle<()>> {
    listener.set_nonblocking(true)?;
    std::thread::Builder::new()
        .name("health".to_owned())
        .spawn(move || {
            let runtime = match tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
            {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!(%error, "no health checks: cannot start their runtime");
                    return;
                }
            };
            runtime.block_on(async move {
                tokio::select! {
                    result = serve(listener, state) => {
                        if let Err(error) = result {
                            tracing::error!(%error, "no health checks: their listener failed");
                        }
                    }
                    _ = stop => {}
                }
            });
        })
}

async fn serve(listener: std::net::TcpListener, state: Arc<State>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return Ok(());
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that left: neither is the end of checks.
                tracing::debug!(%error, "health connection not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, Arc::clone(&state)));
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIME)
                .serve_connection(TokioIo::new(stream), service);
            // A TCP check connects and leaves without a word; that is no error worth a line.
            let _ = tokio::time::timeout(Duration::from_secs(60), served).await;
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/" | "/health") => health(&state),
        (&Method::GET | &Method::HEAD, "/metrics") => {
            let snapshots = state.snapshots().await;
            let text = metrics::render(&state, &snapshots);
            response(
                StatusCode::OK,
                "text/plain; version=0.0.4; charset=utf-8",
                text,
            )
        }
        (&Method::GET | &Method::HEAD, _) => response(
            StatusCode::NOT_FOUND,
            "text/plain; charset=utf-8",
            "There are /health and /metrics.\n".to_owned(),
        ),
        _ => response(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "Only GET and HEAD are answered.\n".to_owned(),
        ),
    };
    Ok(response)
}

fn health(state: &State) -> Response<Full<Bytes>> {
    let (status, ages) = state.status();
    let stall = state.config.load().health.stall;
    let shards: Vec<_> = ages
        .iter()
        .enumerate()
        .map(|(shard, age)| {
            serde_json::json!({
                "shard": shard,
                "turning": age.is_some_and(|age| age < stall),
                "last-turn-ms": age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            })
        })
        .collect();
    let mut body = serde_json::json!({
        "status": status.as_str(),
        "version": env!("CARGO_PKG_VERSION"),
        "shards": shards,
    });
    // A directory that is not up to date is no reason to take the appliance out.
    let sources = &state.directory.sources;
    if !sources.is_empty() {
        let source = |source: &SourceState| {
            serde_json::json!({
                "source": source.name,
                "listed": source.listed_at.load(Ordering::Relaxed) != 0,
                "failures": source.failures.load(Ordering::Relaxed),
            })
        };
        body["ec2"] = serde_json::json!({
            "interfaces": state.directory.present().interfaces(),
            "sources": sources.iter().map(source).collect::<Vec<_>>(),
        });
    }
    let code = if status == Status::Healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    response(code, "application/json", format!("{body}\n"))
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        header::HeaderValue::from_static("no-store"),
    );
    response
}

/// Opens the listener before anything else runs, so that a taken port is an error at start.
pub(crate) fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    std::net::TcpListener::bind(address)
}
