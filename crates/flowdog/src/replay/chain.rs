//! Shows a recorded conversation to interceptors, and finds out what each of them changed.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::poll_fn;
use sdk::{
    Body, Chain, Exchange, FlowInfo, Frame, Headers, InterceptError, Interceptor, Link, OnError,
    Request, Response, Step,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::Notify;

use super::streams::Turn;
use super::{Change, ExchangeReport};

/// Bytes between the recording and the proxy.
const PIPE: usize = 64 * 1024;
/// How long the proxy may take for one turn before the other end goes on with what it said.
const TURN: Duration = Duration::from_secs(1);
/// Exchanges told of one conversation.
const EXCHANGES: usize = 1000;

pub(super) struct Served<'a> {
    pub(super) chain: &'a Chain,
    pub(super) protocol: proxy::Protocol,
    pub(super) info: FlowInfo,
    pub(super) limits: &'a proxy::Limits,
    pub(super) time: Duration,
}

impl Served<'_> {
    /// What the interceptors did, and why that is not all.
    pub(super) fn run(
        self,
        runtime: &tokio::runtime::Runtime,
        turns: Vec<Turn>,
    ) -> (Vec<ExchangeReport>, Option<String>) {
        let log = Arc::new(Mutex::new(Vec::new()));
        let links: Vec<&Link> = self.chain.links().collect();
        let probe = |place| {
            let probe = Probe {
                place,
                log: Arc::clone(&log),
            };
            Link::new("replay", Arc::new(probe), OnError::Continue)
        };
        let mut watched = vec![probe(0)];
        for (at, link) in links.iter().enumerate() {
            watched.push((*link).clone());
            watched.push(probe(at + 1));
        }
        let before: Vec<_> = links.iter().map(|link| link.stats()).collect();
        let (limits, protocol, time) = (self.limits, self.protocol, self.time);
        let info = Arc::new(self.info);
        let local = tokio::task::LocalSet::new();
        let ended = local.block_on(runtime, async {
            let play = play(Chain::new(watched), protocol, info, limits, turns);
            tokio::time::timeout(time, play).await
        });
        drop(local);
        let note = match ended {
            Ok(None) => None,
            Ok(Some(error)) => Some(error),
            Err(_) => Some("the interceptors took too long".to_owned()),
        };
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<&str> = links.iter().map(|link| link.name()).collect();
        let mut reports: Vec<_> = log.drain(..).map(|seen| seen.report(&names)).collect();
        // Messages and refusals are counted by the links themselves.
        if let Some(last) = reports.last_mut() {
            for (link, before) in links.iter().zip(&before) {
                let after = link.stats();
                let mut tell = |count: u64, what: &str| {
                    if count > 0 {
                        last.changes.push(Change {
                            interceptor: link.name().to_owned(),
                            what: format!("{count} {what}"),
                        });
                    }
                };
                tell(after.messages - before.messages, "WebSocket messages seen");
                tell(after.errors - before.errors, "errors");
                tell(after.panics - before.panics, "panics");
                tell(after.aborted - before.aborted, "aborted");
            }
        }
        (reports, note)
    }
}

/// Lets both ends say what they said; the error of the proxy, if there was one.
async fn play(
    chain: Chain,
    protocol: proxy::Protocol,
    info: Arc<FlowInfo>,
    limits: &proxy::Limits,
    turns: Vec<Turn>,
) -> Option<String> {
    let (client, client_leg) = tokio::io::duplex(PIPE);
    let (server, server_leg) = tokio::io::duplex(PIPE);
    let limits = limits.clone();
    let serving = tokio::task::spawn_local(async move {
        proxy::serve(client_leg, server_leg, protocol, chain, info, &limits).await
    });
    let (mut client, to_client) = end(client);
    let (mut server, to_server) = end(server);
    let (mut asked, mut answered) = (0, 0);
    for (by_client, said) in turns {
        if by_client {
            answered = to_client.count.get();
            if client.write_all(&said).await.is_err() {
                break;
            }
            continue;
        }
        // The server answers what reached it. Where an interceptor answered instead, the recorded
        // answer belongs to nobody.
        let moved = || to_server.count.get() > asked || to_client.count.get() > answered;
        let wait = async {
            while !moved() {
                tokio::select! {
                    () = to_server.notify.notified() => {}
                    () = to_client.notify.notified() => {}
                }
            }
            // Both may be on their way.
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(TURN, wait).await;
        let reached = to_server.count.get() > asked;
        asked = to_server.count.get();
        if (reached || to_client.count.get() == answered) && server.write_all(&said).await.is_err()
        {
            break;
        }
    }
    // What the last answer needs to come through.
    let mut before = usize::MAX;
    while before != to_client.count.get() + to_server.count.get() {
        before = to_client.count.get() + to_server.count.get();
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let _ = server.shutdown().await;
    let _ = client.shutdown().await;
    match serving.await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the proxy stopped".to_owned()),
    }
}

/// What the proxy wrote to an end.
#[derive(Default)]
struct Written {
    count: Cell<usize>,
    notify: Notify,
}

fn end(stream: DuplexStream) -> (tokio::io::WriteHalf<DuplexStream>, Rc<Written>) {
    let (mut reader, writer) = tokio::io::split(stream);
    let written = Rc::new(Written::default());
    let counted = Rc::clone(&written);
    tokio::task::spawn_local(async move {
        let mut buffer = vec![0; PIPE];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            counted.count.set(counted.count.get() + count);
            counted.notify.notify_one();
        }
    });
    (writer, written)
}

/// An exchange between the interceptors: what each place saw.
#[derive(Debug, Default)]
struct Seen {
    /// Before the first interceptor, and behind each.
    requests: Vec<Snapshot>,
    responses: Vec<(usize, Snapshot)>,
}

#[derive(Clone, Debug, Default)]
struct Snapshot {
    /// Method and target, or the status.
    line: String,
    status: u16,
    fields: Vec<(String, u64)>,
    /// Length and hash of the content that passed.
    body: Arc<Mutex<(u64, u64)>>,
}

impl Snapshot {
    fn of(line: String, status: u16, headers: &Headers, body: &mut Body) -> Self {
        let fields = headers.iter().map(|field| {
            let name = field.name.as_str().to_ascii_lowercase();
            (name, hash(field.value.as_bytes()))
        });
        let snapshot = Self {
            line,
            status,
            fields: fields.collect(),
            body: Arc::default(),
        };
        match body {
            Body::Empty => {}
            Body::Full(data) => count(&snapshot.body, &mut DefaultHasher::new(), data),
            Body::Stream(_) => {
                let mut inner = body.take();
                let (length, counted) = (inner.known_length(), Arc::clone(&snapshot.body));
                let mut hasher = DefaultHasher::new();
                let frames = poll_fn(move |context| {
                    let frame = inner.poll_next(context);
                    if let std::task::Poll::Ready(Some(Ok(Frame::Data(data)))) = &frame {
                        count(&counted, &mut hasher, data);
                    }
                    frame
                });
                *body = Body::stream(length, frames);
            }
        }
        snapshot
    }

    /// What is different behind an interceptor.
    fn changes(&self, after: &Self, of: &str) -> Vec<String> {
        let mut changes = Vec::new();
        if self.line != after.line {
            changes.push(format!("{of} {} became {}", self.line, after.line));
        }
        let names = |snapshot: &Self| -> BTreeSet<String> {
            snapshot
                .fields
                .iter()
                .map(|(name, _)| name.clone())
                .collect()
        };
        let (old, new) = (names(self), names(after));
        let values = |snapshot: &Self, wanted: &str| -> Vec<u64> {
            let fields = snapshot.fields.iter();
            fields
                .filter(|(name, _)| name == wanted)
                .map(|(_, value)| *value)
                .collect()
        };
        for name in old.union(&new) {
            let word = match (old.contains(name), new.contains(name)) {
                (false, _) => "added",
                (_, false) => "removed",
                _ if values(self, name) != values(after, name) => "changed",
                _ => continue,
            };
            changes.push(format!("{of} field {name} {word}"));
        }
        let body = |snapshot: &Self| *snapshot.body.lock().unwrap_or_else(PoisonError::into_inner);
        let (before, behind) = (body(self), body(after));
        if before != behind {
            changes.push(format!(
                "{of} content changed, {} bytes became {}",
                before.0, behind.0
            ));
        }
        changes
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn count(place: &Mutex<(u64, u64)>, hasher: &mut DefaultHasher, data: &[u8]) {
    // Byte for byte: where pieces end does not count.
    for byte in data {
        hasher.write_u8(*byte);
    }
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    *place = (place.0 + data.len() as u64, hasher.finish());
}

impl Seen {
    fn report(self, names: &[&str]) -> ExchangeReport {
        let mut report = ExchangeReport {
            request: self
                .requests
                .first()
                .map(|first| first.line.clone())
                .unwrap_or_default(),
            ..ExchangeReport::default()
        };
        let mut tell = |name: &str, what: String| {
            report.changes.push(Change {
                interceptor: name.to_owned(),
                what,
            });
        };
        for (at, name) in names.iter().enumerate() {
            match (self.requests.get(at), self.requests.get(at + 1)) {
                (Some(before), Some(after)) => {
                    for what in before.changes(after, "request") {
                        tell(name, what);
                    }
                }
                (Some(_), None) => {
                    let answer = self.responses.iter().find(|(place, _)| *place <= at);
                    let what = answer.map_or_else(
                        || "went no further".to_owned(),
                        |(_, answer)| format!("answered by itself: {}", answer.status),
                    );
                    tell(name, what);
                }
                (None, _) => {}
            }
        }
        let response = |wanted: usize| {
            let found = self.responses.iter().find(|(place, _)| *place == wanted);
            found.map(|(_, snapshot)| snapshot)
        };
        for (at, name) in names.iter().enumerate().rev() {
            if let (Some(before), Some(after)) = (response(at + 1), response(at)) {
                for what in before.changes(after, "response") {
                    tell(name, what);
                }
            }
        }
        report.status = response(0).map(|answer| answer.status);
        report
    }
}

/// Stands between interceptors and looks.
#[derive(Debug)]
struct Probe {
    place: usize,
    log: Arc<Mutex<Vec<Seen>>>,
}

/// Which exchange of the log this is.
#[derive(Clone, Copy)]
struct Number(usize);

#[async_trait(?Send)]
impl Interceptor for Probe {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if self.place == 0 && log.len() < EXCHANGES {
            exchange.extensions.insert(Number(log.len()));
            log.push(Seen::default());
        }
        if let Some(Number(number)) = exchange.extensions.get::<Number>()
            && let Some(seen) = log.get_mut(*number)
        {
            let line = format!("{} {}", request.method, request.target);
            let snapshot = Snapshot::of(line, 0, &request.headers, &mut request.body);
            seen.requests.push(snapshot);
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Number(number)) = exchange.extensions.get::<Number>()
            && let Some(seen) = log.get_mut(*number)
        {
            let status = response.status.as_u16();
            let line = status.to_string();
            let snapshot = Snapshot::of(line, status, &response.headers, &mut response.body);
            seen.responses.push((self.place, snapshot));
        }
        Ok(())
    }
}
