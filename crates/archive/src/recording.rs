//! An exchange while it happens: the bytes of its bodies pass through, and some are kept.
//!
//! Nothing here waits, and nothing is held back: a body is copied as its frames go by. The exchange
//! is handed on when the last of those who can add something to it is gone: the exchange itself and
//! both bodies.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use bytes::BytesMut;
use records::{Caller, Pump};
use sdk::{Body, BodyError, Exchange, FlowInfo, Frame, Headers, Message, Payload, RequestHead};
use sdk::{Request, Response, Stream};

use crate::budget::{Budget, Share};
use crate::entry::{Answer, Captured, Cut, Entry, Item, Messages, Said, Timings};
use crate::har::Writer;

/// Bytes that an entry takes besides the text of its heads and its bodies.
const ENTRY_OVERHEAD: usize = 1024;
/// Bytes that a field takes besides its text.
const FIELD_OVERHEAD: usize = 64;
/// Bytes that a message takes besides its content.
const MESSAGE_OVERHEAD: usize = 96;

/// Where finished entries go.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) pump: Arc<Pump<Item>>,
    /// Entries so far.
    pub(crate) numbers: AtomicU64,
    pub(crate) writer: Arc<Writer>,
}

impl Outlet {
    fn push(&self, entry: Entry) {
        let (item, bytes) = if entry.is_quick() {
            let line = self.writer.write(entry);
            let bytes = line.share.bytes();
            (Item::Line(line), bytes)
        } else {
            let bytes = entry.share.bytes();
            (Item::Entry(Box::new(entry)), bytes)
        };
        // What is not taken has been counted.
        let _ = self.pump.push(item, bytes);
    }

    fn refuse(&self) {
        self.pump.drop_one();
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// How much is kept of each exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of each body, and of all messages of one entry.
    pub(crate) body: usize,
    /// A WebSocket is archived in parts of this length.
    pub(crate) part: core::time::Duration,
}

/// An exchange that is being recorded.
#[derive(Clone, Debug)]
pub(crate) struct Recording(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    outlet: Arc<Outlet>,
    limits: Limits,
    state: RefCell<State>,
}

/// Which of the two bodies.
#[derive(Clone, Copy, Debug)]
enum Side {
    Request,
    Response,
}

#[derive(Debug)]
struct State {
    /// There was no room for this exchange.
    refused: bool,
    /// It turned out that nobody wants this exchange.
    forgotten: bool,
    began: SystemTime,
    began_at: Instant,
    part_began: Instant,
    request_end: Option<Instant>,
    response_head: Option<Instant>,
    response_end: Option<Instant>,
    flow: Arc<FlowInfo>,
    caller: Option<Arc<Caller>>,
    request: RequestHead,
    request_body: Kept,
    response: Option<Answer>,
    response_body: Kept,
    messages: Option<Messages>,
    message_bytes: usize,
    share: Share,
}

#[derive(Debug, Default)]
struct Kept {
    data: BytesMut,
    size: u64,
    cut: Option<Cut>,
    trailers: Option<Headers>,
}

impl Kept {
    fn add(&mut self, data: &[u8], cap: usize, share: &mut Share) {
        self.size += data.len() as u64;
        if self.cut.is_some() {
            return;
        }
        let room = cap.saturating_sub(self.data.len());
        let part = data.get(..room).unwrap_or(data);
        if !share.grow(part.len()) {
            self.cut = Some(Cut::Memory);
            return;
        }
        self.data.extend_from_slice(part);
        if part.len() < data.len() {
            self.cut = Some(Cut::Long);
        }
    }

    fn take(&mut self) -> Captured {
        let kept = core::mem::take(self);
        Captured {
            data: kept.data.freeze(),
            size: kept.size,
            cut: kept.cut,
            trailers: kept.trailers,
        }
    }
}

impl Recording {
    /// Begins with a request, whose body is watched from now on.
    pub(crate) fn begin(
        request: &mut Request,
        exchange: &mut Exchange,
        (limits, budget): (Limits, &Arc<Budget>),
        outlet: &Arc<Outlet>,
    ) -> Self {
        let head = RequestHead::of(request);
        let mut share = Share::of(budget);
        let refused = !share.grow(head_cost(&head));
        let now = Instant::now();
        let recording = Self(Rc::new(Shared {
            outlet: Arc::clone(outlet),
            limits,
            state: RefCell::new(State {
                refused,
                forgotten: false,
                began: SystemTime::now(),
                began_at: now,
                part_began: now,
                request_end: None,
                response_head: None,
                response_end: None,
                flow: Arc::clone(&exchange.flow),
                caller: Caller::of_exchange(exchange),
                request: head,
                request_body: Kept::default(),
                response: None,
                response_body: Kept::default(),
                messages: None,
                message_bytes: 0,
                share,
            }),
        }));
        if !refused {
            request.body = recording.watch(request.body.take(), Side::Request);
        }
        recording
    }

    /// Goes on with the response, whose body is watched from now on.
    pub(crate) fn answer(&self, response: &mut Response) {
        {
            let mut state = self.0.state.borrow_mut();
            let cost = cost(&response.headers);
            if state.refused || !state.share.grow(cost) {
                state.refused = true;
                return;
            }
            state.response_head = Some(Instant::now());
            let reason = match &response.reason {
                Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
                None => response
                    .status
                    .canonical_reason()
                    .unwrap_or_default()
                    .to_owned(),
            };
            state.response = Some(Answer {
                status: response.status,
                reason,
                version: response.version,
                headers: response.headers.clone(),
                body: Captured::default(),
            });
        }
        response.body = self.watch(response.body.take(), Side::Response);
    }

    /// It is not to be archived after all.
    pub(crate) fn forget(&self) {
        self.0.state.borrow_mut().forgotten = true;
    }

    /// Adds a WebSocket message.
    pub(crate) fn message(&self, message: &Message) {
        let limits = self.0.limits;
        let mut state = self.0.state.borrow_mut();
        if state.refused || state.forgotten {
            return;
        }
        let payload = message.payload.as_bytes();
        let part = payload.get(..limits.body).unwrap_or(payload);
        let is_full = state.message_bytes + part.len() + MESSAGE_OVERHEAD
            > limits.body.max(MESSAGE_OVERHEAD * 16);
        let is_old = state.part_began.elapsed() >= limits.part;
        if state.message_bytes > 0 && (is_full || is_old) {
            self.0.hand_on_part(&mut state);
        }
        let bytes = part.len() + MESSAGE_OVERHEAD;
        let has_room = state.share.grow(bytes);
        let messages = state.messages.get_or_insert_default();
        if !has_room {
            messages.dropped += 1;
            return;
        }
        messages.list.push(Said {
            at: SystemTime::now(),
            direction: message.direction,
            is_text: matches!(message.payload, Payload::Text(_)),
            data: part.to_vec().into(),
            size: payload.len(),
        });
        state.message_bytes += bytes;
    }

    fn watch(&self, body: Body, side: Side) -> Body {
        match body {
            Body::Empty => {
                self.0.ended(side, None);
                Body::Empty
            }
            Body::Full(data) => {
                self.0.saw(side, &data);
                self.0.ended(side, None);
                Body::Full(data)
            }
            stream @ Body::Stream(_) => Body::stream(
                stream.known_length(),
                Watched {
                    body: stream,
                    recording: self.clone(),
                    side,
                    is_over: false,
                },
            ),
        }
    }
}

impl Shared {
    fn saw(&self, side: Side, data: &[u8]) {
        let state = &mut *self.state.borrow_mut();
        if state.forgotten || state.refused {
            return;
        }
        let kept = match side {
            Side::Request => &mut state.request_body,
            Side::Response => &mut state.response_body,
        };
        kept.add(data, self.limits.body, &mut state.share);
    }

    fn trailers(&self, side: Side, trailers: &Headers) {
        let state = &mut *self.state.borrow_mut();
        let kept = match side {
            Side::Request => &mut state.request_body,
            Side::Response => &mut state.response_body,
        };
        if state.share.grow(cost(trailers)) {
            kept.trailers = Some(trailers.clone());
        }
    }

    fn ended(&self, side: Side, cut: Option<Cut>) {
        let state = &mut *self.state.borrow_mut();
        let (kept, end) = match side {
            Side::Request => (&mut state.request_body, &mut state.request_end),
            Side::Response => (&mut state.response_body, &mut state.response_end),
        };
        if kept.cut.is_none() {
            kept.cut = cut;
        }
        *end = Some(Instant::now());
    }

    /// A part of a WebSocket's conversation; what comes next belongs to the next part.
    fn hand_on_part(&self, state: &mut State) {
        // The heads are in memory twice from now on.
        let mut share = state.share.another();
        let has_room = share.grow(head_cost(&state.request));
        core::mem::swap(&mut share, &mut state.share);
        let next_part = state.messages.as_ref().map_or(0, |one| one.part) + 1;
        let messages = state.messages.replace(Messages {
            part: next_part,
            ..Messages::default()
        });
        state.message_bytes = 0;
        state.part_began = Instant::now();
        let response = state.response.as_ref().map(|answer| Answer {
            status: answer.status,
            reason: answer.reason.clone(),
            version: answer.version,
            headers: answer.headers.clone(),
            body: Captured::default(),
        });
        if !has_room {
            self.outlet.refuse();
            return;
        }
        self.outlet.push(Entry {
            number: self.outlet.number(),
            began: state.began,
            timings: state.timings(),
            flow: Arc::clone(&state.flow),
            caller: state.caller.clone(),
            request: state.request.clone(),
            request_body: Captured::default(),
            response,
            messages,
            share,
        });
    }
}

impl State {
    fn timings(&self) -> Timings {
        let response_head = self.response_head.unwrap_or_else(Instant::now);
        let sent = self
            .request_end
            .map_or(response_head, |end| end.min(response_head));
        let received = self.response_end.unwrap_or_else(Instant::now);
        let received = received.max(response_head);
        Timings {
            send: sent.saturating_duration_since(self.began_at),
            wait: response_head.saturating_duration_since(sent),
            receive: received.saturating_duration_since(response_head),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        if state.forgotten {
            return;
        }
        if state.refused {
            self.outlet.refuse();
            return;
        }
        let timings = state.timings();
        let mut response = state.response.take();
        if let Some(answer) = &mut response {
            answer.body = state.response_body.take();
        }
        let share = state.share.another();
        self.outlet.push(Entry {
            number: self.outlet.number(),
            began: state.began,
            timings,
            flow: Arc::clone(&state.flow),
            caller: state.caller.clone(),
            request: state.request.clone(),
            request_body: state.request_body.take(),
            response,
            messages: state.messages.take(),
            share: core::mem::replace(&mut state.share, share),
        });
    }
}

/// The memory that an entry takes with the head of its request, more or less.
pub(crate) fn head_cost(head: &RequestHead) -> usize {
    let path = head
        .target
        .path_and_query()
        .map_or(0, |path| path.as_str().len());
    ENTRY_OVERHEAD + path + cost(&head.headers)
}

/// The memory that fields take, more or less.
pub(crate) fn cost(headers: &Headers) -> usize {
    headers
        .iter()
        .map(|field| field.name.as_str().len() + field.value.len() + FIELD_OVERHEAD)
        .sum()
}

/// A body whose frames are looked at as they pass.
struct Watched {
    body: Body,
    recording: Recording,
    side: Side,
    is_over: bool,
}

impl Stream for Watched {
    type Item = Result<Frame, BodyError>;
    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, BodyError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = this.body.poll_next(cx) else {
            return Poll::Pending;
        };
        let shared = &this.recording.0;
        match &frame {
            Some(Ok(Frame::Data(data))) => shared.saw(this.side, data),
            Some(Ok(Frame::Trailers(trailers))) => {
                shared.trailers(this.side, trailers);
                shared.ended(this.side, None);
                this.is_over = true;
            }
            Some(Err(_)) => {
                shared.ended(this.side, Some(Cut::Aborted));
                this.is_over = true;
            }
            None if !this.is_over => {
                shared.ended(this.side, None);
                this.is_over = true;
            }
            None => {}
        }
        // Whoever knows the length stops reading at the last byte of it.
        if this.body.known_length() == Some(0) && !this.is_over {
            shared.ended(this.side, None);
            this.is_over = true;
        }
        Poll::Ready(frame)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.is_over {
            self.recording.0.ended(self.side, Some(Cut::Aborted));
        }
    }
}
