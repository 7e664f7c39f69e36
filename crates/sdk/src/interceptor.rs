//! The trait an extension implements to see and change HTTP exchanges and WebSocket messages.

use core::any::Any;
use core::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;

use crate::leftovers;
use crate::{
    BodyError, FlowInfo, Message, MessageStep, Outlet, RecordQueue, Request, RequestHead, Response,
};

/// Sees and changes the exchanges of the flows whose rule names it.
///
/// One object serves all flows of all shards, so it is `Send + Sync` and takes `&self`; what
/// belongs to one exchange goes to [`Exchange::extensions`]. The futures stay on their shard and
/// need not be `Send`. Implement with `#[async_trait(?Send)]`; each hook has a default that lets
/// everything pass.
///
/// A hook may wait (for a body, for a look-up) and holds up only its own exchange meanwhile. It
/// must not block the thread. A panic is caught and ends at most the exchange.
#[async_trait(?Send)]
pub trait Interceptor: Send + Sync + fmt::Debug {
    /// The head of a request is here; its body may still be coming.
    ///
    /// # Errors
    /// [`InterceptError`] says whether the exchange can go on without this interceptor.
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let _ = (request, exchange);
        Ok(Step::Continue)
    }

    /// The head of the final response is here; its body may still be coming. Called in the
    /// reverse order of `on_request`, for those whose `on_request` was called.
    ///
    /// # Errors
    /// [`InterceptError`] says whether the exchange can go on without this interceptor.
    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let _ = (response, exchange);
        Ok(())
    }

    /// A WebSocket message is here. Called only when [`wants_messages`](Self::wants_messages)
    /// answers true.
    ///
    /// # Errors
    /// [`InterceptError`] says whether the connection can go on without this interceptor.
    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let _ = (message, exchange);
        Ok(MessageStep::Forward)
    }

    /// Where to put records, also those that belong to no exchange any more. Called before the first
    /// exchange, if the operator keeps records (`[records]`). The queue never waits: what does not fit
    /// is lost and counted.
    fn connect(&self, records: &Arc<RecordQueue>) {
        let _ = records;
    }

    /// Whether `on_message` does anything. When nobody in a chain wants messages, WebSocket bytes
    /// are relayed as they are.
    fn wants_messages(&self) -> bool {
        false
    }

    /// Where this interceptor sends what it keeps, if it does. The appliance shows their numbers and
    /// finishes them when it ends.
    fn outlets(&self) -> Vec<Arc<dyn Outlet>> {
        Vec::new()
    }
}

/// What to do with a request.
#[derive(Debug)]
pub enum Step {
    /// Give the exchange up: the connection (HTTP/1) or the stream (HTTP/2) is reset.
    Abort,
    /// On to the next interceptor, and then to the server.
    Continue,
    /// Answer at once. The server never sees the request.
    Respond(Response),
}

/// Something that an interceptor counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Noted {
    pub(crate) what: &'static str,
    /// Whether the log is to have it, the first time.
    pub(crate) is_warning: bool,
}

/// One request with its response, and what the interceptors remember about it.
#[derive(Debug)]
pub struct Exchange {
    /// The flow it belongs to.
    pub flow: Arc<FlowInfo>,
    /// What the client asked, before any interceptor changed it.
    pub request: RequestHead,
    /// Anything an interceptor wants to find again at a later stage of the same exchange.
    pub extensions: Extensions,
    pub(crate) reached: usize,
    notes: Vec<Noted>,
    injected: Vec<Message>,
}

/// Messages of its own that an exchange may send between two messages of its peers; more are lost.
const MAX_INJECTED: usize = 16;

/// Notes an exchange may collect between two calls of interceptors; more are lost.
const MAX_NOTES: usize = 16;

impl Exchange {
    /// An exchange that begins with `request`. The proxy makes one per request.
    #[must_use]
    pub fn new(flow: Arc<FlowInfo>, request: &Request) -> Self {
        Self {
            flow,
            request: RequestHead::of(request),
            extensions: Extensions::default(),
            reached: 0,
            notes: Vec::new(),
            injected: Vec::new(),
        }
    }

    /// Counts something worth an operator's eye, such as `body-too-large`. It appears in the
    /// metrics under the interceptor's name; each text is one time series, hence `'static`.
    pub fn note(&mut self, what: &'static str) {
        self.push_note(what, false);
    }

    /// As [`note`](Self::note), for what an operator should hear of: the log has a warning the first
    /// time.
    pub fn warn(&mut self, what: &'static str) {
        self.push_note(what, true);
    }

    fn push_note(&mut self, what: &'static str, is_warning: bool) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(Noted { what, is_warning });
        }
    }

    /// Sends a WebSocket message of one's own to either side, after the one that is being looked at
    /// and in the order of the calls. Other interceptors do not see it. Only
    /// [`on_message`](Interceptor::on_message) can use this. Says whether there was room: 16 may be
    /// sent at a time.
    pub fn inject(&mut self, message: Message) -> bool {
        let has_room = self.injected.len() < MAX_INJECTED;
        if has_room {
            self.injected.push(message);
        }
        has_room
    }

    /// The messages to be sent. For the proxy.
    pub fn take_injected(&mut self) -> Vec<Message> {
        core::mem::take(&mut self.injected)
    }

    pub(crate) fn take_notes(&mut self) -> Vec<Noted> {
        core::mem::take(&mut self.notes)
    }
}

/// At most one value per type, until the exchange ends.
///
/// An interceptor that writes down what has happened does so when its value is dropped: a shard does that
/// after it has sent the answers of its turn.
///
/// A list, because interceptors that keep something are few and each exchange has one of these.
#[derive(Default)]
pub struct Extensions {
    values: Vec<Box<dyn Any>>,
}

impl Extensions {
    /// Keeps `value`; gives back the one of that type that was there.
    pub fn insert<T: 'static>(&mut self, value: T) -> Option<T> {
        if let Some(old) = self.get_mut() {
            return Some(core::mem::replace(old, value));
        }
        self.values.push(Box::new(value));
        None
    }

    /// The value of type `T`.
    #[must_use]
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.iter().find_map(|value| value.downcast_ref())
    }

    /// The value of type `T`, to change.
    pub fn get_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.values
            .iter_mut()
            .find_map(|value| value.downcast_mut())
    }

    /// Adds `item` to the values of its type, of which there may be several: [`Extensions::get`] has
    /// them as a `Vec<T>`.
    pub fn push<T: 'static>(&mut self, item: T) {
        match self.get_mut::<Vec<T>>() {
            Some(items) => items.push(item),
            None => self.values.push(Box::new(vec![item])),
        }
    }

    /// Takes the value of type `T` out.
    pub fn remove<T: 'static>(&mut self) -> Option<T> {
        let at = self.values.iter().position(|value| value.is::<T>())?;
        let value = self.values.swap_remove(at).downcast().ok()?;
        Some(*value)
    }
}

impl Drop for Extensions {
    fn drop(&mut self) {
        leftovers::leave(core::mem::take(&mut self.values));
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions")
            .field("values", &self.values.len())
            .finish()
    }
}

/// An interceptor could not do its work.
///
/// Made with `?` from a [`BodyError`], or with one of the constructors; what becomes of the
/// exchange is decided by the constructor or, for [`InterceptError::new`], by the operator's
/// `on-error`.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct InterceptError {
    message: String,
    #[source]
    source: Option<Box<dyn core::error::Error + Send + Sync>>,
    pub(crate) severity: Severity,
    pub(crate) status: Option<StatusCode>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// As configured.
    ByPolicy,
    /// The exchange fails whatever is configured.
    Fail,
    /// The exchange goes on whatever is configured.
    Continue,
}

impl InterceptError {
    /// Whether the exchange fails or goes on is the operator's choice.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            source: None,
            severity: Severity::ByPolicy,
            status: None,
        }
    }

    /// The exchange must not go on: letting it pass would be worse than failing it.
    pub fn fail(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Fail,
            ..Self::new(message)
        }
    }

    /// The exchange can go on; the message is as it was.
    pub fn harmless(message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Continue,
            ..Self::new(message)
        }
    }

    /// The same error with the status that the client is to get when the exchange fails and nothing
    /// of an answer was sent; 502 otherwise.
    #[must_use]
    pub fn answered_with(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn core::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
}

impl From<BodyError> for InterceptError {
    fn from(error: BodyError) -> Self {
        Self::new("the body could not be read").caused_by(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_hold_one_value_per_type() {
        let mut extensions = Extensions::default();
        assert_eq!(extensions.insert(1_u32), None);
        assert_eq!(extensions.insert("two"), None);
        assert_eq!(extensions.insert(3_u32), Some(1));
        if let Some(value) = extensions.get_mut::<u32>() {
            *value += 1;
        }
        assert_eq!(extensions.get::<u32>(), Some(&4));
        assert_eq!(extensions.remove::<&str>(), Some("two"));
        assert_eq!(extensions.get::<&str>(), None);
        extensions.push(1_u64);
        extensions.push(2_u64);
        assert_eq!(extensions.get(), Some(&vec![1_u64, 2]));
    }

    #[test]
    fn an_error_keeps_its_cause() {
        let error = InterceptError::from(BodyError::TimedOut);
        assert_eq!(error.severity, Severity::ByPolicy);
        assert_eq!(
            core::error::Error::source(&error).unwrap().to_string(),
            BodyError::TimedOut.to_string()
        );
    }
}
