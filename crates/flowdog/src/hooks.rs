//! Hooks at work: raw packets on the way through a shard, and the bytes of taken-over connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use dataplane::{FlowId, FlowView, Leg};
use sdk::{
    FlowInfo, HookSight, Hooks, InnerPacket, PacketStep, RecordQueue, StreamHooks, StreamOutput,
    StreamStep,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::opening;
use crate::stream::{Core, LegStream};

/// Bytes that wait for one end before no more are read from either.
const HIGH_WATER: usize = 128 * 1024;
/// Bytes read at once.
const READ: usize = 16 * 1024;

/// What a shard remembers of a flow whose packets are shown to hooks.
#[derive(Debug)]
pub(crate) struct Hooked {
    hooks: Hooks,
    info: FlowInfo,
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
        self.hooked.borrow_mut().insert(view.id, hooked);
    }

    /// Shows a datagram of a hooked flow to its hooks and appends what is to be sent to `out`; false
    /// if nothing is.
    pub(crate) fn show(
        &self,
        flow: FlowId,
        from: Leg,
        datagram: &[u8],
        records: Option<&RecordQueue>,
        out: &mut Vec<u8>,
    ) -> bool {
        let hooked = self.hooked.borrow();
        let outer = wire::geneve::Packet::parse(datagram).ok();
        let inner = outer.as_ref().and_then(|outer| {
            let packet = InnerPacket::parse(outer.endpoint(), outer.inner()).ok()?;
            Some((outer.header(), packet))
        });
        let (Some(hooked), Some((header, mut packet))) = (hooked.get(&flow), inner) else {
            out.extend_from_slice(datagram);
            return true;
        };
        let sight = HookSight {
            flow: &hooked.info,
            from,
            now: self.clock.wall(self.clock.now()),
            records,
        };
        if hooked.hooks.on_packet(&mut packet, &sight) == PacketStep::Drop {
            return false;
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
                    self.show(core, Leg::Client, &bytes, &mut client, &mut server)?;
                }
                Some(Leg::Server) => {
                    let bytes = from_server.split();
                    self.show(core, Leg::Server, &bytes, &mut server, &mut client)?;
                }
                None => {}
            }
            server.tell(client.finished).await?;
            client.tell(server.finished).await?;
        }
        Ok(())
    }

    fn show(
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
        if self.streams.on_bytes(bytes, ended, &sight, &mut output) == StreamStep::Reset {
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
