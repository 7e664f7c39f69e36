//! One leg of a taken-over flow as an async byte stream, on the data plane of the same thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use dataplane::{Dataplane, FlowId, FlowView, Instant, Leg, ReadOutcome, WriteOutcome};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::config::Config;
use crate::directory::Lookup;
use crate::hooks::{Holding, Hooked};
use crate::opening::Note;
use crate::policy::Facts;
use crate::secrets::Secrets;

/// The clock of a shard: the only place that looks at the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
    wall: SystemTime,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self {
            origin: std::time::Instant::now(),
            wall: SystemTime::now(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// When an instant of the engine is, for timers.
    pub(crate) fn at(&self, instant: Instant) -> std::time::Instant {
        self.origin + instant.since(Instant::ZERO)
    }

    /// The time of day of an instant of the engine.
    pub(crate) fn wall(&self, instant: Instant) -> SystemTime {
        self.wall + instant.since(Instant::ZERO)
    }
}

/// Tells a shard's loop that a task gave the data plane something to send.
#[derive(Debug, Default)]
pub(crate) struct Kick {
    notify: Notify,
    is_given: Cell<bool>,
}

impl Kick {
    pub(crate) fn give(&self) {
        if !self.is_given.replace(true) {
            self.notify.notify_one();
        }
    }

    /// Whatever was given so far is about to be seen to.
    pub(crate) fn clear(&self) {
        self.is_given.set(false);
    }

    pub(crate) async fn given(&self) {
        self.notify.notified().await;
    }
}

/// Hashes ids that nobody outside can choose: they count up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        // 2^64 divided by the golden ratio spreads consecutive numbers evenly.
        self.0 = (self.0.rotate_left(32) ^ u64::from(number)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_isize(&mut self, number: isize) {
        // The number of an enum's variant.
        self.write_u32(number as u32);
    }
}

type WakerTable = HashMap<(FlowId, Leg), Wakers, BuildHasherDefault<IdHasher>>;

/// What a shard's loop and the tasks of its flows share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) dataplane: RefCell<Dataplane>,
    pub(crate) clock: Clock,
    /// The time of the loop's turn, while it turns.
    turn: Cell<Option<Instant>>,
    pub(crate) kick: Kick,
    wakers: RefCell<WakerTable>,
    /// Which hosts are behind addresses.
    pub(crate) directory: Arc<Lookup>,
    /// Who is told what decrypts a flow.
    pub(crate) secrets: Secrets,
    /// How flows were judged that have more to remember than their verdict.
    pub(crate) notes: RefCell<HashMap<FlowId, Note>>,
    /// The flows whose raw packets are shown to hooks.
    pub(crate) hooked: RefCell<HashMap<FlowId, Rc<Hooked>>>,
    /// The packets that hooks have held.
    pub(crate) holding: Holding,
}

#[derive(Debug, Default)]
struct Wakers {
    read: Option<Waker>,
    write: Option<Waker>,
}

impl Core {
    pub(crate) fn new(
        dataplane: Dataplane,
        clock: Clock,
        directory: Arc<Lookup>,
        secrets: Secrets,
    ) -> Self {
        Self {
            dataplane: RefCell::new(dataplane),
            clock,
            turn: Cell::new(None),
            kick: Kick::default(),
            wakers: RefCell::default(),
            directory,
            secrets,
            notes: RefCell::default(),
            hooked: RefCell::default(),
            holding: Holding::default(),
        }
    }

    /// The time for the engine: that of the turn, which is a fraction of a millisecond old at most, or
    /// the clock's while the loop sleeps.
    pub(crate) fn now(&self) -> Instant {
        self.turn.get().unwrap_or_else(|| self.clock.now())
    }

    /// A turn of the loop begins.
    pub(crate) fn begin_turn(&self) -> Instant {
        let now = self.clock.now();
        self.turn.set(Some(now));
        now
    }

    /// The loop goes to sleep.
    pub(crate) fn end_turns(&self) {
        self.turn.set(None);
    }

    pub(crate) fn wake_reader(&self, flow: FlowId, leg: Leg) {
        let waker = self
            .wakers
            .borrow_mut()
            .get_mut(&(flow, leg))
            .and_then(|wakers| wakers.read.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) fn wake_writer(&self, flow: FlowId, leg: Leg) {
        let waker = self
            .wakers
            .borrow_mut()
            .get_mut(&(flow, leg))
            .and_then(|wakers| wakers.write.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The flow is gone: whoever waits finds out by asking again.
    pub(crate) fn wake_all(&self, flow: FlowId) {
        for leg in [Leg::Client, Leg::Server] {
            let wakers = self.wakers.borrow_mut().remove(&(flow, leg));
            for waker in wakers
                .into_iter()
                .flat_map(|wakers| [wakers.read, wakers.write])
                .flatten()
            {
                waker.wake();
            }
        }
    }

    /// What rules may ask about a flow.
    pub(crate) fn facts(&self, view: &FlowView) -> Facts {
        Facts::new(view, &self.directory)
    }

    /// Whether an acceptor wants the flow intercepted.
    pub(crate) fn wants_interception(&self, flow: FlowId) -> bool {
        let notes = self.notes.borrow();
        notes.get(&flow).is_some_and(|note| note.chain.is_some())
    }

    /// The configuration by which acceptors were asked about a flow: it holds for all its life.
    pub(crate) fn config_of(&self, flow: FlowId) -> Option<Arc<Config>> {
        self.notes.borrow().get(&flow)?.config.clone()
    }

    /// Resets both legs.
    pub(crate) fn abort(&self, flow: FlowId) {
        self.dataplane.borrow_mut().abort(flow, self.now());
        self.kick.give();
    }

    fn register(
        &self,
        flow: FlowId,
        leg: Leg,
        context: &Context<'_>,
        slot: fn(&mut Wakers) -> &mut Option<Waker>,
    ) {
        let mut wakers = self.wakers.borrow_mut();
        let slot = slot(wakers.entry((flow, leg)).or_default());
        match slot {
            Some(waker) => waker.clone_from(context.waker()),
            None => *slot = Some(context.waker().clone()),
        }
    }
}

/// How a stream was let go; shared with the task that made it.
#[derive(Debug, Default)]
pub(crate) struct LegEnd {
    shut_down: Cell<bool>,
}

impl LegEnd {
    /// Whether the end of the bytes was announced on purpose.
    pub(crate) fn was_shut_down(&self) -> bool {
        self.shut_down.get()
    }
}

/// The byte stream of one leg.
///
/// Shutting it down sends FIN after what was written. Dropping it without that says nothing to the
/// peer: [`LegEnd`] tells the flow's task, which resets what was not ended on purpose, because a
/// message that was cut off must not look complete.
#[derive(Debug)]
pub(crate) struct LegStream {
    core: Rc<Core>,
    flow: FlowId,
    leg: Leg,
    /// Bytes that were read to look at them, to be read again.
    unread: Bytes,
    end: Rc<LegEnd>,
}

impl LegStream {
    pub(crate) fn new(core: Rc<Core>, flow: FlowId, leg: Leg) -> Self {
        Self {
            core,
            flow,
            leg,
            unread: Bytes::new(),
            end: Rc::default(),
        }
    }

    /// Gives bytes back that were read to look at them.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.unread = if self.unread.is_empty() {
            bytes
        } else {
            [bytes, std::mem::take(&mut self.unread)].concat().into()
        };
    }

    pub(crate) fn end(&self) -> Rc<LegEnd> {
        Rc::clone(&self.end)
    }

    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let now = self.core.now();
        let outcome = self
            .core
            .dataplane
            .borrow_mut()
            .write(self.flow, self.leg, bytes, now);
        match outcome {
            // Zero bytes would be an error to callers that write all.
            WriteOutcome::Bytes(count) if count > 0 => {
                self.core.kick.give();
                Poll::Ready(Ok(count))
            }
            WriteOutcome::Bytes(_) | WriteOutcome::Full => {
                self.core
                    .register(self.flow, self.leg, context, |wakers| &mut wakers.write);
                Poll::Pending
            }
            WriteOutcome::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            WriteOutcome::TimedOut => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncRead for LegStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(out.remaining());
            out.put_slice(&self.unread[..count]);
            self.unread.advance(count);
            if self.unread.is_empty() {
                self.unread = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let now = self.core.now();
        let outcome = self.core.dataplane.borrow_mut().read(
            self.flow,
            self.leg,
            out.initialize_unfilled(),
            now,
        );
        match outcome {
            ReadOutcome::Bytes(count) => {
                out.advance(count);
                // Room in the receive window may be news to the peer.
                self.core.kick.give();
                Poll::Ready(Ok(()))
            }
            ReadOutcome::Empty => {
                self.core
                    .register(self.flow, self.leg, context, |wakers| &mut wakers.read);
                Poll::Pending
            }
            ReadOutcome::Finished => Poll::Ready(Ok(())),
            ReadOutcome::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            ReadOutcome::TimedOut => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncWrite for LegStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        for part in parts.iter().filter(|part| !part.is_empty()) {
            match self.write(context, part) {
                Poll::Ready(Ok(count)) => {
                    written += count;
                    if count < part.len() {
                        break;
                    }
                }
                // What was written before counts; the next call meets the same again.
                _ if written > 0 => break,
                other => return other,
            }
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.end.shut_down.replace(true) {
            self.core
                .dataplane
                .borrow_mut()
                .shutdown(self.flow, self.leg, self.core.now());
            self.core.kick.give();
        }
        Poll::Ready(Ok(()))
    }
}
