//! Runs interceptors one after the other, and sees to it that none of them can do more harm than
//! the operator allowed.

use core::any::Any;
use core::future::Future;
use core::panic::AssertUnwindSafe;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use http::StatusCode;

use crate::interceptor::{Noted, Severity};
use crate::{
    Direction, Exchange, InterceptError, Interceptor, Message, MessageStep, Outlet, RecordQueue,
    Request, Response, Step,
};

/// What becomes of an exchange whose interceptor fails or panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnError {
    /// Go on as if the interceptor were not there (fail open). What it changed before it failed
    /// stays changed; a body that it took and did not give back fails the exchange all the same.
    Continue,
    /// Fail the exchange (fail closed): the client gets an error answer, the server gets nothing
    /// more. The default, because an interceptor may be there to keep something out.
    #[default]
    Fail,
}

/// An interceptor with the name the operator gave it. Cheap to clone; chains that share a link
/// share its counters.
#[derive(Clone, Debug)]
pub struct Link {
    name: Arc<str>,
    interceptor: Arc<dyn Interceptor>,
    on_error: OnError,
    counters: Arc<Counters>,
}

impl Link {
    /// `name` is the `name` of the `[[interceptor]]` in the config.
    pub fn new(
        name: impl Into<Arc<str>>,
        interceptor: Arc<dyn Interceptor>,
        on_error: OnError,
    ) -> Self {
        Self {
            name: name.into(),
            interceptor,
            on_error,
            counters: Arc::default(),
        }
    }

    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it sends what it keeps.
    #[must_use]
    pub fn outlets(&self) -> Vec<Arc<dyn Outlet>> {
        self.interceptor.outlets()
    }

    /// Tells it where records go.
    pub fn connect(&self, records: &Arc<RecordQueue>) {
        self.interceptor.connect(records);
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let Counters {
            requests,
            responses,
            messages,
            answered,
            aborted,
            errors,
            panics,
            notes,
        } = &*self.counters;
        LinkStats {
            requests: read(requests),
            responses: read(responses),
            messages: read(messages),
            answered: read(answered),
            aborted: read(aborted),
            errors: read(errors),
            panics: read(panics),
            notes: notes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    responses: AtomicU64,
    messages: AtomicU64,
    answered: AtomicU64,
    aborted: AtomicU64,
    errors: AtomicU64,
    panics: AtomicU64,
    notes: Mutex<BTreeMap<&'static str, u64>>,
}

/// Different notes counted per link; further ones count as `other`.
const MAX_NOTE_KINDS: usize = 64;

/// What an interceptor did so far. All are counts since start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Requests it was shown.
    pub requests: u64,
    /// Responses it was shown.
    pub responses: u64,
    /// WebSocket messages it was shown.
    pub messages: u64,
    /// Requests it answered by itself.
    pub answered: u64,
    /// Requests it gave up, and WebSockets it closed.
    pub aborted: u64,
    /// Calls that ended in an error, panics not included.
    pub errors: u64,
    /// Calls that ended in a panic: a bug in the interceptor.
    pub panics: u64,
    /// What it counted itself with [`Exchange::note`].
    pub notes: BTreeMap<&'static str, u64>,
}

/// An interceptor failed and the exchange must not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("interceptor {interceptor:?} failed: {reason}")]
pub struct Failure {
    /// The operator's name for it.
    pub interceptor: Arc<str>,
    /// What it said. For logs, not for the client.
    pub reason: String,
    /// The status of the answer that the client gets, if none was sent yet.
    pub status: StatusCode,
}

/// What to do with a request after the chain has seen it.
#[derive(Debug)]
pub enum Outcome {
    /// Reset the connection (HTTP/1) or the stream (HTTP/2).
    Abort,
    /// Answer with an error of ours.
    Fail(Failure),
    /// Send the request on.
    Forward,
    /// Send this response to the client, after `on_response`; do not ask the server.
    Respond(Response),
}

/// Interceptors in the order in which requests meet them.
///
/// Requests and messages to the server go first to last; responses and messages to the client go
/// last to first, so that the first interceptor is the one nearest to the client. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    links: Arc<[Link]>,
}

/// One call of an interceptor, with panics and errors sorted out.
enum Called<T> {
    Done(T),
    /// It failed, and the exchange goes on without it.
    Skipped,
    Failed(Failure),
}

impl Chain {
    /// A chain of `links`.
    #[must_use]
    pub fn new(links: Vec<Link>) -> Self {
        Self {
            links: links.into(),
        }
    }

    /// Whether nobody is in the chain.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Whether anybody wants WebSocket messages.
    #[must_use]
    pub fn wants_messages(&self) -> bool {
        self.links
            .iter()
            .any(|link| link.interceptor.wants_messages())
    }

    /// The links, first to last.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.iter()
    }

    /// Shows a request to all, until one of them answers, aborts or fails.
    pub async fn on_request(&self, request: &mut Request, exchange: &mut Exchange) -> Outcome {
        for (at, link) in self.links.iter().enumerate() {
            exchange.reached = at;
            link.counters.requests.fetch_add(1, Ordering::Relaxed);
            let had_body = !request.body.is_empty();
            let called = link
                .call(link.interceptor.on_request(request, exchange))
                .await;
            let step = match link.unless_lost(called, had_body && request.body.is_empty()) {
                Called::Done(step) => step,
                Called::Skipped => Step::Continue,
                Called::Failed(failure) => {
                    link.count_notes(exchange);
                    return Outcome::Fail(failure);
                }
            };
            link.count_notes(exchange);
            match step {
                Step::Abort => {
                    link.counters.aborted.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Abort;
                }
                Step::Continue => {}
                Step::Respond(response) => {
                    link.counters.answered.fetch_add(1, Ordering::Relaxed);
                    return Outcome::Respond(response);
                }
            }
        }
        exchange.reached = self.links.len();
        Outcome::Forward
    }

    /// Shows a response, from the server or from an interceptor that answered by itself, to those
    /// that let the request pass, last to first.
    ///
    /// # Errors
    /// [`Failure`] when the client must not get this response.
    pub async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), Failure> {
        let passed = exchange.reached.min(self.links.len());
        for link in self.links.iter().take(passed).rev() {
            link.counters.responses.fetch_add(1, Ordering::Relaxed);
            let had_body = !response.body.is_empty();
            let called = link
                .call(link.interceptor.on_response(response, exchange))
                .await;
            link.count_notes(exchange);
            let lost = had_body && response.body.is_empty();
            if let Called::Failed(failure) = link.unless_lost(called, lost) {
                return Err(failure);
            }
        }
        Ok(())
    }

    /// Shows a WebSocket message to those that want messages.
    ///
    /// # Errors
    /// [`Failure`] when the connection must not go on; close it with status 1011.
    pub async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, Failure> {
        let count = self.links.len();
        for step in 0..count {
            let at = match message.direction {
                Direction::ToServer => step,
                Direction::ToClient => count - 1 - step,
            };
            let Some(link) = self
                .links
                .get(at)
                .filter(|link| link.interceptor.wants_messages())
            else {
                continue;
            };
            link.counters.messages.fetch_add(1, Ordering::Relaxed);
            let direction = message.direction;
            let called = link
                .call(link.interceptor.on_message(message, exchange))
                .await;
            message.direction = direction;
            link.count_notes(exchange);
            match called {
                Called::Done(MessageStep::Forward) | Called::Skipped => {}
                Called::Done(MessageStep::Drop) => return Ok(MessageStep::Drop),
                Called::Done(MessageStep::Close(code)) => {
                    link.counters.aborted.fetch_add(1, Ordering::Relaxed);
                    return Ok(MessageStep::Close(code));
                }
                Called::Failed(failure) => return Err(failure),
            }
        }
        Ok(MessageStep::Forward)
    }
}

impl Link {
    async fn call<T>(&self, hook: impl Future<Output = Result<T, InterceptError>>) -> Called<T> {
        // What a panicking hook leaves half done is a message of this exchange only.
        let (reason, severity, status) = match AssertUnwindSafe(hook).catch_unwind().await {
            Ok(Ok(done)) => return Called::Done(done),
            Ok(Err(error)) => {
                self.counters.errors.fetch_add(1, Ordering::Relaxed);
                (describe(&error), error.severity, error.status)
            }
            Err(panic) => {
                self.counters.panics.fetch_add(1, Ordering::Relaxed);
                (
                    format!("panic: {}", panic_text(&*panic)),
                    Severity::ByPolicy,
                    None,
                )
            }
        };
        let goes_on = match severity {
            Severity::ByPolicy => self.on_error == OnError::Continue,
            Severity::Fail => false,
            Severity::Continue => true,
        };
        tracing::debug!(interceptor = &*self.name, %reason, goes_on, "interceptor failed");
        if goes_on {
            Called::Skipped
        } else {
            Called::Failed(Failure {
                interceptor: self.name.clone(),
                reason,
                status: status.unwrap_or(StatusCode::BAD_GATEWAY),
            })
        }
    }

    /// An interceptor that failed with the body in its hands took it along: a message without the
    /// content it had is not the message that the sender meant, so it does not go on.
    fn unless_lost<T>(&self, called: Called<T>, body_lost: bool) -> Called<T> {
        match called {
            Called::Skipped if body_lost => Called::Failed(Failure {
                interceptor: self.name.clone(),
                reason: "it failed and left no body".to_owned(),
                status: StatusCode::BAD_GATEWAY,
            }),
            called => called,
        }
    }

    fn count_notes(&self, exchange: &mut Exchange) {
        let new = exchange.take_notes();
        if new.is_empty() {
            return;
        }
        let mut notes = self
            .counters
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for Noted { what, is_warning } in new {
            if is_warning && !notes.contains_key(what) {
                tracing::warn!(
                    interceptor = &*self.name,
                    what,
                    "an interceptor left something alone; flowdog_interceptor_notes_total counts"
                );
            } else {
                tracing::debug!(interceptor = &*self.name, what, "noted");
            }
            let what = if notes.len() < MAX_NOTE_KINDS || notes.contains_key(what) {
                what
            } else {
                "other"
            };
            *notes.entry(what).or_default() += 1;
        }
    }
}

/// The error and its causes on one line.
fn describe(error: &InterceptError) -> String {
    let mut text = error.to_string();
    let mut cause = core::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
