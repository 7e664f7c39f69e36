//! Hooks at work: raw packets on the way through a shard, and the bytes of taken-over connections.

use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use dataplane::{FlowId, FlowView, Leg, Outer};
use sdk::{
    FlowInfo, Held, HookSight, Hooks, InnerPacket, RecordQueue, Shown, StreamHooks, StreamOutput,
    StreamStep,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::opening;
use crate::stream::{Core, LegStream};

/// Bytes that wait for one end before no more are read from either.
const HIGH_WATER: usize = 128 * 1024;
/// Bytes read at once.
const READ: usize = 16 * 1024;
/// Packets that hooks have held at once, each shard for itself: 8.5 MB at most.
const MOST_HELD: usize = 1000;
/// Longest time that a packet is held, or that a connection waits for a hook. Those who ask for a
/// name ask again after two seconds or more.
const LONGEST_HOLD: Duration = Duration::from_secs(2);

/// What a shard remembers of a flow whose packets are shown to hooks.
#[derive(Debug)]
pub(crate) struct Hooked {
    hooks: Hooks,
    info: FlowInfo,
}

/// Packets that hooks had held, on their way out.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    count: Cell<usize>,
    released: RefCell<Vec<(Vec<u8>, Outer)>>,
}

impl Holding {
    /// The packets that may go on now.
    pub(crate) fn take_released(&self) -> Vec<(Vec<u8>, Outer)> {
        self.released.take()
    }
}

/// A packet that is held.
struct HeldPacket {
    hooked: Rc<Hooked>,
    held: Held,
    from: Leg,
    datagram: Vec<u8>,
    outer: Outer,
    records: Option<Arc<RecordQueue>>,
}

impl HeldPacket {
    /// Waits for the hook, and leaves what is to be sent where the shard looks for it.
    async fn wait(self, core: Rc<Core>) {
        let mut out = Vec::new();
        let sight = HookSight {
            flow: &self.hooked.info,
            from: self.from,
            now: core.clock.wall(core.clock.now()),
            records: self.records.as_deref(),
        };
        if let Some((header, mut packet)) = parts(&self.datagram) {
            let deadline = tokio::time::sleep(LONGEST_HOLD);
            let hooks = &self.hooked.hooks;
            if hooks
                .on_held(self.held, &mut packet, &sight, deadline)
                .await
            {
                out.extend_from_slice(header);
                out.extend_from_slice(packet.bytes());
            }
        }
        let holding = &core.holding;
        holding.count.set(holding.count.get().saturating_sub(1));
        if !out.is_empty() {
            holding.released.borrow_mut().push((out, self.outer));
            core.kick.give();
        }
    }
}

/// What goes before the inner packet of a datagram, and that packet.
fn parts(datagram: &[u8]) -> Option<(&[u8], InnerPacket<'_>)> {
    let outer = wire::geneve::Packet::parse(datagram).ok()?;
    let packet = InnerPacket::parse(outer.endpoint(), outer.inner()).ok()?;
    Some((outer.header(), packet))
}

impl Core {
    /// From here on the flow's raw packets are shown to these hooks. The caller holds the data
    /// plane, and gives its verdict after this.
    pub(crate) fn hook(
        &self,
        dataplane: &mut dataplane::Dataplane,
        view: &FlowView,
        hooks: &Hooks,
    ) {
        if hooks.is_empty() {
            return;
        }
        dataplane.hook(view.id);
        let hooked = Hooked {
            hooks: hooks.clone(),
            info: opening::info(self, view, &self.facts(view)),
        };
        self.hooked.borrow_mut().insert(view.id, Rc::new(hooked));
    }

    /// Shows a datagram of a hooked flow to its hooks and appends what is to be sent to `out`; false
    /// if nothing is, or not yet.
    pub(crate) fn show(
        self: &Rc<Self>,
        (flow, from): (FlowId, Leg),
        datagram: &[u8],
        outer: Outer,
        records: Option<&Arc<RecordQueue>>,
        out: &mut Vec<u8>,
    ) -> bool {
        let hooked = self.hooked.borrow();
        let (Some(hooked), Some((header, mut packet))) = (hooked.get(&flow), parts(datagram))
        else {
            out.extend_from_slice(datagram);
            return true;
        };
        let sight = HookSight {
            flow: &hooked.info,
            from,
            now: self.clock.wall(self.clock.now()),
            records: records.map(|queue| &**queue),
        };
        match hooked.hooks.on_packet(&mut packet, &sight) {
            Shown::Pass => {}
            Shown::Drop => return false,
            Shown::Held(held) if self.holding.count.get() < MOST_HELD => {
                let mut kept = header.to_vec();
                kept.extend_from_slice(packet.bytes());
                let held = HeldPacket {
                    hooked: Rc::clone(hooked),
                    held,
                    from,
                    datagram: kept,
                    outer,
                    records: records.cloned(),
                };
                self.holding.count.set(self.holding.count.get() + 1);
                tokio::task::spawn_local(held.wait(Rc::clone(self)));
                return false;
            }
            Shown::Held(held) => {
                if !hooked.hooks.on_unheld(held, &mut packet, &sight) {
                    return false;
                }
            }
        }
        if packet.is_edited() {
            out.extend_from_slice(header);
            out.extend_from_slice(packet.bytes());
        } else {
            out.extend_from_slice(datagram);
        }
        true
    }
}

/// Waits on this very thread for the hook that has a packet held: for a replay, where nobody else
/// waits. True if the packet goes on.
pub(crate) fn settle(
    hooks: &Hooks,
    held: Held,
    packet: &mut InnerPacket<'_>,
    sight: &HookSight<'_>,
) -> bool {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let begin = std::time::Instant::now();
    let deadline = poll_fn(|_| match begin.elapsed() < LONGEST_HOLD {
        true => Poll::Pending,
        false => Poll::Ready(()),
    });
    let mut answer = pin!(hooks.on_held(held, packet, sight, deadline));
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        if let Poll::Ready(goes_on) = answer.as_mut().poll(&mut Context::from_waker(&waker)) {
            return goes_on;
        }
        // The deadline wakes nobody.
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A taken-over connection whose bytes go through hooks.
pub(crate) struct HookedStream {
    pub(crate) streams: StreamHooks,
    pub(crate) info: FlowInfo,
    pub(crate) records: Option<Arc<RecordQueue>>,
    /// Longest time in which neither end moves a byte.
    pub(crate) idle: Duration,
}

/// One end: what it sends, and what waits for it.
struct End {
    reader: ReadHalf<LegStream>,
    writer: WriteHalf<LegStream>,
    waiting: BytesMut,
    /// Whether it has ended its bytes.
    finished: bool,
    /// Whether it was told that no more come for it.
    told: bool,
}

impl End {
    fn new(stream: LegStream) -> Self {
        let (reader, writer) = tokio::io::split(stream);
        Self {
            reader,
            writer,
            waiting: BytesMut::new(),
            finished: false,
            told: false,
        }
    }

    /// Tells the end that no more come, once everything before has been written.
    async fn tell(&mut self, other_finished: bool) -> io::Result<()> {
        if other_finished && self.waiting.is_empty() && !self.told {
            self.told = true;
            self.writer.shutdown().await?;
        }
        Ok(())
    }
}

/// Why a hooked connection ended before both ends had said so.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HookedError {
    #[error("a hook reset it")]
    Reset,
    #[error("a hook did not answer within {0:?}")]
    Slow(Duration),
    #[error("neither end moved a byte for {0:?}")]
    Idle(Duration),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl HookedError {
    /// The label in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Reset => "hook_reset",
            Self::Slow(_) => "hook_slow",
            Self::Idle(_) => "idle",
            Self::Io(_) => "io",
        }
    }
}

impl HookedStream {
    /// Runs until both ends have ended.
    pub(crate) async fn run(
        mut self,
        core: &Core,
        client: LegStream,
        server: LegStream,
    ) -> Result<(), HookedError> {
        let (mut client, mut server) = (End::new(client), End::new(server));
        let mut read = [BytesMut::new(), BytesMut::new()];
        let idle = tokio::time::sleep(self.idle);
        tokio::pin!(idle);
        while !(client.told && server.told) {
            let has_room = client.waiting.len() < HIGH_WATER && server.waiting.len() < HIGH_WATER;
            let [from_client, from_server] = &mut read;
            from_client.reserve(READ);
            from_server.reserve(READ);
            let from = tokio::select! {
                count = client.reader.read_buf(from_client), if has_room && !client.finished => {
                    client.finished = count? == 0;
                    Some(Leg::Client)
                }
                count = server.reader.read_buf(from_server), if has_room && !server.finished => {
                    server.finished = count? == 0;
                    Some(Leg::Server)
                }
                count = client.writer.write(&client.waiting), if !client.waiting.is_empty() => {
                    client.waiting.advance(count?);
                    None
                }
                count = server.writer.write(&server.waiting), if !server.waiting.is_empty() => {
                    server.waiting.advance(count?);
                    None
                }
                () = &mut idle => return Err(HookedError::Idle(self.idle)),
            };
            idle.as_mut().reset(tokio::time::Instant::now() + self.idle);
            match from {
                Some(Leg::Client) => {
                    let bytes = from_client.split();
                    self.show(core, Leg::Client, &bytes, &mut client, &mut server)
                        .await?;
                }
                Some(Leg::Server) => {
                    let bytes = from_server.split();
                    self.show(core, Leg::Server, &bytes, &mut server, &mut client)
                        .await?;
                }
                None => {}
            }
            server.tell(client.finished).await?;
            client.tell(server.finished).await?;
        }
        Ok(())
    }

    async fn show(
        &mut self,
        core: &Core,
        from: Leg,
        bytes: &[u8],
        sender: &mut End,
        receiver: &mut End,
    ) -> Result<(), HookedError> {
        let sight = HookSight {
            flow: &self.info,
            from,
            now: core.clock.wall(core.clock.now()),
            records: self.records.as_deref(),
        };
        let mut output = StreamOutput::default();
        let ended = sender.finished;
        let mut step = self.streams.on_bytes(bytes, ended, &sight, &mut output);
        if step == StreamStep::Wait {
            let waited = self.streams.wait(&sight, &mut output);
            let limit = tokio::time::timeout(LONGEST_HOLD, waited).await;
            step = limit.map_err(|_| HookedError::Slow(LONGEST_HOLD))?;
        }
        if step == StreamStep::Reset {
            return Err(HookedError::Reset);
        }
        if !receiver.told {
            receiver.waiting.extend_from_slice(&output.onward);
        }
        // One that was told the end of the other's bytes gets no answers either.
        if !sender.told {
            sender.waiting.extend_from_slice(&output.back);
        }
        Ok(())
    }
}
