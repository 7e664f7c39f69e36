//! Hooks: extensions that see and edit what flows carry below HTTP: single packets of any
//! protocol, and the bytes of TCP connections that nothing else reads.

use core::fmt;
use core::future::{Future, poll_fn};
use core::panic::AssertUnwindSafe;
use core::pin::{Pin, pin};
use core::task::Poll;
use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use crate::{ConfigFault, ConfigTable, FlowInfo, InnerPacket, Leg, Record, RecordQueue};

/// Sees and edits packets of flows that are not intercepted, and the bytes of TCP connections that
/// are: DNS, ICMP, protocols of one's own.
///
/// Called on the shard's own thread, so it must be quick. A hook that has to ask somebody elsewhere
/// has the packet held ([`PacketStep::Hold`]) and decides about it in [`on_held`](Self::on_held).
/// Fragments after the first name no flow and are not shown.
///
/// ```
/// use flowdog_sdk::{HookContext, InnerPacket, PacketHook, PacketStep, Protocol};
///
/// /// Lets no ICMP echo request through that carries more than a ping needs.
/// #[derive(Debug)]
/// struct SmallPings {
///     most: usize,
/// }
///
/// impl PacketHook for SmallPings {
///     fn on_packet(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
///         let is_ping = packet.protocol() == Protocol::ICMP && packet.payload().first() == Some(&8);
///         if is_ping && packet.payload().len() > 8 + self.most {
///             context.note("large-ping");
///             return PacketStep::Drop;
///         }
///         PacketStep::Pass
///     }
/// }
/// ```
#[async_trait(?Send)]
pub trait PacketHook: Send + Sync + fmt::Debug {
    /// A packet is here, on its way to the other end.
    fn on_packet(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep;

    /// A copy of a packet that [`on_packet`](Self::on_packet) wants held: what is to become of it.
    /// May wait, but not occupy the thread. Later packets of the flow overtake it.
    async fn on_held(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        let _ = (packet, context);
        PacketStep::Pass
    }

    /// A packet that cannot be held, because too many are, or not any longer. To hold it is no
    /// answer here.
    fn on_unheld(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        let _ = (packet, context);
        PacketStep::Drop
    }

    /// Asked once for each TCP connection of a rule that intercepts: who is to see its bytes.
    /// Without an answer they are not shown to this hook.
    fn stream(&self) -> Option<Box<dyn StreamHook>> {
        None
    }
}

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketStep {
    /// Do not send it on.
    Drop,
    /// Keep it until [`PacketHook::on_held`] says what to do.
    Hold,
    /// Send it on, as it is now.
    Pass,
}

/// Sees and edits the bytes of one TCP connection, both directions. What it does not put into the
/// output is gone; what it keeps for later is its own to bound.
#[async_trait(?Send)]
pub trait StreamHook: fmt::Debug {
    /// Bytes are here, in order; how they are cut means nothing.
    fn on_bytes(
        &mut self,
        bytes: &[u8],
        output: &mut StreamOutput,
        context: &HookContext<'_>,
    ) -> StreamStep;

    /// Asked after [`StreamStep::Wait`]; no more bytes are shown until it answers. May wait, but not
    /// occupy the thread; to wait once more is no answer.
    async fn on_wait(
        &mut self,
        output: &mut StreamOutput,
        context: &HookContext<'_>,
    ) -> StreamStep {
        let _ = (output, context);
        StreamStep::Continue
    }

    /// One side has ended its bytes. What was kept of them goes on now or never.
    fn on_end(&mut self, output: &mut StreamOutput, context: &HookContext<'_>) {
        let _ = (output, context);
    }
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStep {
    /// Go on.
    Continue,
    /// Reset both ends.
    Reset,
    /// Show nothing more until [`StreamHook::on_wait`] has answered.
    Wait,
}

/// Bytes that leave a stream hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamOutput {
    /// For the other end.
    pub onward: Vec<u8>,
    /// For the one that the bytes came from: an answer.
    pub back: Vec<u8>,
}

/// What a hook knows beside the packet or the bytes, and where it says what it saw.
#[derive(Clone, Copy, Debug)]
pub struct HookContext<'a> {
    /// The flow.
    pub flow: &'a FlowInfo,
    /// Which end sent this.
    pub from: Leg,
    /// The time.
    pub now: SystemTime,
    counters: &'a Counters,
    records: Option<&'a RecordQueue>,
}

impl HookContext<'_> {
    /// Counts something worth an operator's eye, such as `malformed`. It appears in the metrics
    /// under the hook's name; each text is one time series, hence `'static`.
    pub fn note(&self, what: &'static str) {
        let mut notes = self
            .counters
            .notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let what = if notes.len() < MAX_NOTE_KINDS || notes.contains_key(what) {
            what
        } else {
            "other"
        };
        *notes.entry(what).or_default() += 1;
    }

    /// Whether records are kept at all; making one that is not is wasted.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        self.records.is_some()
    }

    /// Gives a record to where records are kept; a full queue loses and counts it.
    pub fn record(&self, record: Record) {
        if let Some(queue) = self.records {
            queue.push(record);
        }
    }
}

/// Different notes counted per hook; further ones count as `other`.
const MAX_NOTE_KINDS: usize = 64;

/// A kind of hook: what `use = "..."` in a `[[hook]]` of the config names.
#[derive(Clone, Copy)]
pub struct HookKind {
    /// The value of `use`: kebab-case.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub summary: &'static str,
    /// Makes one from the keys of its table, without `name` and `use`.
    pub build: fn(&ConfigTable) -> Result<Arc<dyn PacketHook>, ConfigFault>,
}

impl fmt::Debug for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookKind")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A hook with the name the operator gave it. Cheap to clone; clones share its counters.
#[derive(Clone, Debug)]
pub struct HookLink {
    name: Arc<str>,
    hook: Arc<dyn PacketHook>,
    counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    packets: AtomicU64,
    edited: AtomicU64,
    dropped: AtomicU64,
    held: AtomicU64,
    unheld: AtomicU64,
    streams: AtomicU64,
    panics: AtomicU64,
    notes: Mutex<BTreeMap<&'static str, u64>>,
}

/// What a hook did so far. All are counts since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookStats {
    /// Packets it was shown.
    pub packets: u64,
    /// Packets it changed, answers included.
    pub edited: u64,
    /// Packets it dropped.
    pub dropped: u64,
    /// Packets it had held.
    pub held: u64,
    /// Packets that could not be held, or not until it answered.
    pub unheld: u64,
    /// TCP connections it saw the bytes of.
    pub streams: u64,
    /// Calls that ended in a panic: a bug in the hook. The packet passed; the connection was reset.
    pub panics: u64,
    /// What it counted itself with [`HookContext::note`].
    pub notes: BTreeMap<&'static str, u64>,
}

impl HookLink {
    /// `name` is the `name` of the `[[hook]]` in the config.
    pub fn new(name: impl Into<Arc<str>>, hook: Arc<dyn PacketHook>) -> Self {
        Self {
            name: name.into(),
            hook,
            counters: Arc::default(),
        }
    }

    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it did so far.
    #[must_use]
    pub fn stats(&self) -> HookStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let notes = &counters.notes;
        HookStats {
            packets: read(&counters.packets),
            edited: read(&counters.edited),
            dropped: read(&counters.dropped),
            held: read(&counters.held),
            unheld: read(&counters.unheld),
            streams: read(&counters.streams),
            panics: read(&counters.panics),
            notes: notes.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    fn context<'a>(&'a self, sight: &HookSight<'a>) -> HookContext<'a> {
        HookContext {
            flow: sight.flow,
            from: sight.from,
            now: sight.now,
            counters: &self.counters,
            records: sight.records,
        }
    }

    fn on_packet(&self, packet: &mut InnerPacket<'_>, sight: &HookSight<'_>) -> PacketStep {
        let context = self.context(sight);
        count(&self.counters.packets);
        let was_edited = packet.is_edited();
        let call = AssertUnwindSafe(|| self.hook.on_packet(packet, &context));
        let step = catch_unwind(call).unwrap_or_else(|_| self.panicked());
        if step == PacketStep::Hold {
            count(&self.counters.held);
            return step;
        }
        self.settled(step, packet, was_edited)
    }

    async fn on_held(&self, packet: &mut InnerPacket<'_>, sight: &HookSight<'_>) -> PacketStep {
        let context = self.context(sight);
        let was_edited = packet.is_edited();
        let call = caught(self.hook.on_held(packet, &context)).await;
        let step = call.unwrap_or_else(|| self.panicked());
        self.settled(step, packet, was_edited)
    }

    fn on_unheld(&self, packet: &mut InnerPacket<'_>, sight: &HookSight<'_>) -> PacketStep {
        let context = self.context(sight);
        count(&self.counters.unheld);
        let was_edited = packet.is_edited();
        let call = AssertUnwindSafe(|| self.hook.on_unheld(packet, &context));
        let step = catch_unwind(call).unwrap_or_else(|_| self.panicked());
        self.settled(step, packet, was_edited)
    }

    /// A bug in a hook costs its effect, never the shard.
    fn panicked(&self) -> PacketStep {
        count(&self.counters.panics);
        PacketStep::Pass
    }

    /// Counts the last word of a hook about a packet.
    fn settled(&self, step: PacketStep, packet: &InnerPacket<'_>, was_edited: bool) -> PacketStep {
        match step {
            // There is nothing more to wait for.
            PacketStep::Drop | PacketStep::Hold => {
                count(&self.counters.dropped);
                PacketStep::Drop
            }
            PacketStep::Pass => {
                if packet.is_edited() && !was_edited {
                    count(&self.counters.edited);
                }
                PacketStep::Pass
            }
        }
    }
}

/// Runs to the end of a future, or to its panic.
async fn caught<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        polled.map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// What hooks are shown beside the packet or the bytes.
#[derive(Clone, Copy, Debug)]
pub struct HookSight<'a> {
    /// The flow.
    pub flow: &'a FlowInfo,
    /// Which end sent this.
    pub from: Leg,
    /// The time.
    pub now: SystemTime,
    /// Where records go.
    pub records: Option<&'a RecordQueue>,
}

/// The hooks of a rule, in the order in which what the client sends meets them; what the server
/// sends meets them in the reverse order. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Hooks(Arc<[HookLink]>);

impl Hooks {
    /// Hooks in this order.
    #[must_use]
    pub fn new(links: Vec<HookLink>) -> Self {
        Self(links.into())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn links(&self) -> impl Iterator<Item = &HookLink> {
        self.0.iter()
    }

    /// Shows them a packet, until one drops it or wants it held.
    pub fn on_packet(&self, packet: &mut InnerPacket<'_>, sight: &HookSight<'_>) -> Shown {
        self.show_from(0, packet, sight)
    }

    fn show_from(
        &self,
        first: usize,
        packet: &mut InnerPacket<'_>,
        sight: &HookSight<'_>,
    ) -> Shown {
        for (turn, at) in order(self.0.len(), sight.from).enumerate().skip(first) {
            let Some(link) = self.0.get(at) else { break };
            match link.on_packet(packet, sight) {
                PacketStep::Drop => return Shown::Drop,
                PacketStep::Hold => return Shown::Held(Held { turn, at }),
                // It is no longer what its sender sent, and goes back to it.
                PacketStep::Pass if packet.is_answer() => return Shown::Pass,
                PacketStep::Pass => {}
            }
        }
        Shown::Pass
    }

    /// Waits for the hook that has a packet held, and shows it to those after it. True: send it.
    /// When `deadline` ends first, the hook that it waits for says what becomes of it.
    pub async fn on_held(
        &self,
        mut held: Held,
        packet: &mut InnerPacket<'_>,
        sight: &HookSight<'_>,
        deadline: impl Future<Output = ()>,
    ) -> bool {
        let mut deadline = pin!(deadline);
        loop {
            let Some(link) = self.0.get(held.at) else {
                return true;
            };
            let answered = sooner(pin!(link.on_held(packet, sight)), deadline.as_mut()).await;
            let step = answered.unwrap_or_else(|| link.on_unheld(packet, sight));
            if step != PacketStep::Pass {
                return false;
            }
            if packet.is_answer() {
                return true;
            }
            match self.show_from(held.turn + 1, packet, sight) {
                Shown::Pass => return true,
                Shown::Drop => return false,
                Shown::Held(next) => held = next,
            }
        }
    }

    /// Ends the holding of a packet before it begins: too many are held. True: send it.
    pub fn on_unheld(
        &self,
        mut held: Held,
        packet: &mut InnerPacket<'_>,
        sight: &HookSight<'_>,
    ) -> bool {
        loop {
            let Some(link) = self.0.get(held.at) else {
                return true;
            };
            if link.on_unheld(packet, sight) != PacketStep::Pass {
                return false;
            }
            if packet.is_answer() {
                return true;
            }
            match self.show_from(held.turn + 1, packet, sight) {
                Shown::Pass => return true,
                Shown::Drop => return false,
                Shown::Held(next) => held = next,
            }
        }
    }

    /// Those that see the bytes of a new TCP connection; `None` if nobody does.
    #[must_use]
    pub fn streams(&self) -> Option<StreamHooks> {
        let streams: Vec<_> = self
            .links()
            .filter_map(|link| {
                let made = catch_unwind(AssertUnwindSafe(|| link.hook.stream()));
                let stream = made.unwrap_or_else(|_| {
                    count(&link.counters.panics);
                    None
                })?;
                count(&link.counters.streams);
                Some((link.clone(), stream))
            })
            .collect();
        (!streams.is_empty()).then_some(StreamHooks {
            streams,
            between: StreamOutput::default(),
            waiting: None,
        })
    }

    /// Whether any of them sees the bytes of TCP connections.
    #[must_use]
    pub fn sees_streams(&self) -> bool {
        self.links().any(|link| {
            catch_unwind(AssertUnwindSafe(|| link.hook.stream().is_some())).unwrap_or(false)
        })
    }
}

/// What hooks made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// It is not to be sent on.
    Drop,
    /// One of them wants it held: [`Hooks::on_held`].
    Held(Held),
    /// It is to be sent on.
    Pass,
}

/// Which hook has a packet held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    turn: usize,
    at: usize,
}

/// What a future gives, unless the other one ends first.
async fn sooner<T>(
    mut wanted: Pin<&mut impl Future<Output = T>>,
    mut limit: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    poll_fn(|context| {
        if let Poll::Ready(value) = wanted.as_mut().poll(context) {
            return Poll::Ready(Some(value));
        }
        limit.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// The hooks of one TCP connection.
#[derive(Debug)]
pub struct StreamHooks {
    streams: Vec<(HookLink, Box<dyn StreamHook>)>,
    between: StreamOutput,
    waiting: Option<Waiting>,
}

/// Bytes that stopped at a hook.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    turn: usize,
    ended: bool,
}

impl StreamHooks {
    /// Shows them bytes; `ended` says that no more come from that side. What leaves is appended to
    /// `output`. After [`StreamStep::Wait`], [`wait`](Self::wait) goes on.
    pub fn on_bytes(
        &mut self,
        bytes: &[u8],
        ended: bool,
        sight: &HookSight<'_>,
        output: &mut StreamOutput,
    ) -> StreamStep {
        self.show_from(0, bytes.to_vec(), ended, sight, output)
    }

    fn show_from(
        &mut self,
        first: usize,
        mut input: Vec<u8>,
        ended: bool,
        sight: &HookSight<'_>,
        output: &mut StreamOutput,
    ) -> StreamStep {
        let turns = order(self.streams.len(), sight.from).enumerate();
        for (turn, at) in turns.skip(first) {
            let Some((link, stream)) = self.streams.get_mut(at) else {
                break;
            };
            let context = link.context(sight);
            let between = &mut self.between;
            between.onward.clear();
            let call = AssertUnwindSafe(|| {
                let step = if input.is_empty() {
                    StreamStep::Continue
                } else {
                    stream.on_bytes(&input, between, &context)
                };
                if ended && step == StreamStep::Continue {
                    stream.on_end(between, &context);
                }
                step
            });
            let step = catch_unwind(call).unwrap_or_else(|_| {
                count(&link.counters.panics);
                StreamStep::Reset
            });
            match step {
                StreamStep::Continue => {}
                StreamStep::Reset => return StreamStep::Reset,
                StreamStep::Wait => {
                    self.waiting = Some(Waiting { turn, ended });
                    return StreamStep::Wait;
                }
            }
            output.back.append(&mut between.back);
            core::mem::swap(&mut input, &mut between.onward);
        }
        output.onward.append(&mut input);
        StreamStep::Continue
    }

    /// Waits for the hook that has asked for it, and shows what it lets through to those after it.
    pub async fn wait(&mut self, sight: &HookSight<'_>, output: &mut StreamOutput) -> StreamStep {
        while let Some(Waiting { turn, ended }) = self.waiting.take() {
            let at = order(self.streams.len(), sight.from).nth(turn);
            let Some((link, stream)) = at.and_then(|at| self.streams.get_mut(at)) else {
                break;
            };
            let context = link.context(sight);
            let between = &mut self.between;
            let step = caught(async {
                let step = stream.on_wait(between, &context).await;
                if ended && step != StreamStep::Reset {
                    stream.on_end(between, &context);
                }
                step
            })
            .await;
            let step = step.unwrap_or_else(|| {
                count(&link.counters.panics);
                StreamStep::Reset
            });
            if step == StreamStep::Reset {
                return StreamStep::Reset;
            }
            output.back.append(&mut self.between.back);
            let input = core::mem::take(&mut self.between.onward);
            if self.show_from(turn + 1, input, ended, sight, output) == StreamStep::Reset {
                return StreamStep::Reset;
            }
        }
        StreamStep::Continue
    }
}

fn order(len: usize, from: Leg) -> impl Iterator<Item = usize> {
    (0..len).map(move |at| match from {
        Leg::Client => at,
        Leg::Server => len - 1 - at,
    })
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
