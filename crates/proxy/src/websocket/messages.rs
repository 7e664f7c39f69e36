//! Messages put together, shown to the chain, and sent on as one frame each.
//!
//! Control frames pass by themselves and in their place between messages.
//! Frames to the server are masked with the key of the client's own last frame: the client has chosen
//! it unpredictably, as RFC 6455 §5.3 asks.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sdk::{Chain, Direction, Exchange, Message, MessageStep, Payload};

use super::deflate::{self, Agreed, Inflater};
use super::frame::{FrameHeader, Opcode, Sequence, apply_mask};
use crate::error::{Fault, ProxyError, Side};
use crate::limits::Limits;
use crate::stream::{HIGH_WATER, Inbound, Outbound};
use crate::tunnel::Legs;

/// Close codes of RFC 6455 §7.4.1.
mod code {
    pub(super) const PROTOCOL_ERROR: u16 = 1002;
    pub(super) const INVALID_TEXT: u16 = 1007;
    pub(super) const TOO_BIG: u16 = 1009;
    pub(super) const INTERNAL_ERROR: u16 = 1011;
}

/// The reserved bit of a compressed message (RFC 7692 §6), among the three.
const COMPRESSED: u8 = 0b100;

/// Runs both directions until both sides have ended.
pub(super) async fn serve(
    mut legs: Legs,
    deflate: Option<Agreed>,
    chain: &Chain,
    mut exchange: Exchange,
    limits: &Limits,
) -> Result<(), ProxyError> {
    let limit = limits.websocket_message_bytes;
    let mut client = Reader::new(Side::Client, limit, deflate);
    let mut server = Reader::new(Side::Server, limit, deflate);
    let result = run(&mut legs, &mut client, &mut server, chain, &mut exchange).await;
    let close = match &result {
        Ok(None) => return Ok(()),
        Ok(Some(code)) => *code,
        Err(ProxyError::Peer { fault, .. }) => match fault {
            Fault::WebSocketText => code::INVALID_TEXT,
            Fault::WebSocketMessageTooLarge => code::TOO_BIG,
            _ => code::PROTOCOL_ERROR,
        },
        Err(ProxyError::Intercepted { .. }) => code::INTERNAL_ERROR,
        Err(_) => return result.map(|_| ()),
    };
    // Both sides learn why, as far as they still listen.
    let payload = Bytes::copy_from_slice(&close.to_be_bytes());
    if !server.is_closed {
        write_frame(&mut legs.client_out, Opcode::Close, payload.clone(), None);
    }
    if !client.is_closed {
        write_frame(
            &mut legs.server_out,
            Opcode::Close,
            payload,
            Some(client.key),
        );
    }
    let _ = legs.client_out.shutdown().await;
    let _ = legs.server_out.shutdown().await;
    result.map(|_| ())
}

/// Moves messages until both sides have ended, or an interceptor closes with a code.
async fn run(
    legs: &mut Legs,
    client: &mut Reader,
    server: &mut Reader,
    chain: &Chain,
    exchange: &mut Exchange,
) -> Result<Option<u16>, ProxyError> {
    loop {
        let (side, item) = poll_fn(|cx| poll_either(legs, client, server, cx)).await?;
        let (direction, out, key) = match side {
            Side::Client => (Direction::ToServer, &mut legs.server_out, Some(client.key)),
            Side::Server => (Direction::ToClient, &mut legs.client_out, None),
        };
        match item {
            Item::Control(opcode, payload) => write_frame(out, opcode, payload, key),
            Item::End => {
                let to = match side {
                    Side::Client => Side::Server,
                    Side::Server => Side::Client,
                };
                out.shutdown()
                    .await
                    .map_err(|error| ProxyError::Io { side: to, error })?;
                if client.is_finished && server.is_finished {
                    return Ok(None);
                }
            }
            Item::Message(payload, window) => {
                let mut message = Message { direction, payload };
                let step = chain
                    .on_message(&mut message, exchange)
                    .await
                    .map_err(|failure| ProxyError::Intercepted {
                        reason: failure.to_string(),
                        status: failure.status,
                    })?;
                match step {
                    MessageStep::Close(code) => return Ok(Some(code)),
                    MessageStep::Drop => {}
                    MessageStep::Forward => write_payload(out, message.payload, key, window),
                }
                for Message { direction, payload } in exchange.take_injected() {
                    // Nothing may follow a side's Close (RFC 6455 §5.5.1).
                    match direction {
                        Direction::ToServer if !client.is_closed => {
                            let key = Some(client.key);
                            write_payload(&mut legs.server_out, payload, key, None);
                        }
                        Direction::ToClient if !server.is_closed => {
                            write_payload(&mut legs.client_out, payload, None, None);
                        }
                        Direction::ToServer | Direction::ToClient => {}
                    }
                }
            }
        }
    }
}

/// Waits for the next item from either side while what was gathered is written.
///
/// A side is only read from while the other takes what it sends.
fn poll_either(
    legs: &mut Legs,
    client: &mut Reader,
    server: &mut Reader,
    cx: &mut Context<'_>,
) -> Poll<Result<(Side, Item), ProxyError>> {
    let io = |side| move |error| ProxyError::Io { side, error };
    if legs.server_out.pending() < HIGH_WATER
        && let Poll::Ready(item) = client.poll(&mut legs.client_in, cx)
    {
        return Poll::Ready(item.map(|item| (Side::Client, item)));
    }
    if legs.client_out.pending() < HIGH_WATER
        && let Poll::Ready(item) = server.poll(&mut legs.server_in, cx)
    {
        return Poll::Ready(item.map(|item| (Side::Server, item)));
    }
    let full = (
        legs.server_out.pending() >= HIGH_WATER,
        legs.client_out.pending() >= HIGH_WATER,
    );
    let to_server = legs.server_out.poll_flush(cx).map_err(io(Side::Server))?;
    let to_client = legs.client_out.poll_flush(cx).map_err(io(Side::Client))?;
    // Whoever has made room may be read for again at once.
    if (full.0 && to_server.is_ready()) || (full.1 && to_client.is_ready()) {
        cx.waker().wake_by_ref();
    }
    Poll::Pending
}

fn write_payload(out: &mut Outbound, payload: Payload, key: Option<[u8; 4]>, window: Option<u8>) {
    match payload {
        Payload::Binary(data) => write_message(out, Opcode::Binary, data, key, window),
        Payload::Text(text) => write_message(out, Opcode::Text, text.into(), key, window),
    }
}

/// Appends a message, compressed if `window` says how.
fn write_message(
    out: &mut Outbound,
    opcode: Opcode,
    payload: Bytes,
    key: Option<[u8; 4]>,
    window: Option<u8>,
) {
    match window.and_then(|bits| deflate::deflate(&payload, bits)) {
        Some(compressed) => write_with(out, opcode, COMPRESSED, compressed.into(), key),
        None => write_frame(out, opcode, payload, key),
    }
}

/// Appends a frame; `key` masks it.
fn write_frame(out: &mut Outbound, opcode: Opcode, payload: Bytes, key: Option<[u8; 4]>) {
    write_with(out, opcode, 0, payload, key);
}

fn write_with(
    out: &mut Outbound,
    opcode: Opcode,
    reserved: u8,
    payload: Bytes,
    key: Option<[u8; 4]>,
) {
    let header = FrameHeader {
        is_final: true,
        reserved,
        opcode,
        mask: key,
        length: payload.len() as u64,
        header_len: 0,
    };
    header.emit(out.gather());
    match key {
        None => out.push(payload),
        Some(key) => {
            let mut masked = BytesMut::from(payload);
            apply_mask(&mut masked, key, 0);
            out.push(masked.freeze());
        }
    }
}

/// What a side has sent.
#[derive(Debug)]
enum Item {
    Control(Opcode, Bytes),
    End,
    /// A message, and the window to compress it with again if it came compressed.
    Message(Payload, Option<u8>),
}

/// Puts one side's messages together.
#[derive(Debug)]
struct Reader {
    side: Side,
    limit: usize,
    sequence: Sequence,
    /// The frame that is being read, and how much of its payload is missing.
    frame: Option<(FrameHeader, u64)>,
    /// Payload of the message so far, unmasked.
    message: BytesMut,
    is_text: bool,
    /// The window that this side's messages may be compressed with, if they may.
    window: Option<u8>,
    inflater: Inflater,
    /// Whether the message that is under way is compressed.
    is_compressed: bool,
    /// The masking key of the side's last frame.
    key: [u8; 4],
    /// Whether the side has sent its Close.
    is_closed: bool,
    /// Whether the side has ended its direction.
    is_finished: bool,
}

impl Reader {
    fn new(side: Side, limit: usize, deflate: Option<Agreed>) -> Self {
        let window = deflate.map(|agreed| match side {
            Side::Client => agreed.client_bits,
            Side::Server => agreed.server_bits,
        });
        Self {
            side,
            limit,
            window,
            inflater: Inflater::default(),
            is_compressed: false,
            sequence: Sequence::new(side == Side::Client, deflate.is_some()),
            frame: None,
            message: BytesMut::new(),
            is_text: false,
            key: [0; 4],
            is_closed: false,
            is_finished: false,
        }
    }

    fn poll(
        &mut self,
        inbound: &mut Inbound,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Item, ProxyError>> {
        if self.is_finished {
            return Poll::Pending;
        }
        loop {
            let side = self.side;
            let found = self
                .decode(&mut inbound.buffer)
                .map_err(|fault| ProxyError::Peer { side, fault })?;
            if let Some(item) = found {
                return Poll::Ready(Ok(item));
            }
            let count =
                ready!(inbound.poll_fill(cx)).map_err(|error| ProxyError::Io { side, error })?;
            if count == 0 {
                self.is_finished = true;
                return Poll::Ready(Ok(Item::End));
            }
        }
    }

    /// Takes the next item off the front of `buffer`.
    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Item>, Fault> {
        loop {
            let Some((header, missing)) = &mut self.frame else {
                let Some(header) = FrameHeader::parse(buffer)? else {
                    return Ok(None);
                };
                self.begin(&header)?;
                buffer.advance(header.header_len);
                self.frame = Some((header, header.length));
                continue;
            };
            let header = *header;
            if header.opcode.is_control() {
                // At most 125 bytes: wait for all of them.
                let length = header.length as usize;
                if buffer.len() < length {
                    return Ok(None);
                }
                let mut payload = buffer.split_to(length);
                if let Some(key) = header.mask {
                    apply_mask(&mut payload, key, 0);
                }
                self.frame = None;
                if header.opcode == Opcode::Close {
                    check_close(&payload)?;
                    self.is_closed = true;
                }
                return Ok(Some(Item::Control(header.opcode, payload.freeze())));
            }
            let step = usize::try_from(*missing).map_or(buffer.len(), |m| m.min(buffer.len()));
            let mut piece = buffer.split_to(step);
            if let Some(key) = header.mask {
                apply_mask(&mut piece, key, header.length - *missing);
            }
            *missing -= step as u64;
            let is_frame_complete = *missing == 0;
            if self.message.is_empty() {
                self.message = piece;
            } else {
                self.message.put_slice(&piece);
            }
            if !is_frame_complete {
                return Ok(None);
            }
            self.frame = None;
            if header.is_final {
                let data = std::mem::take(&mut self.message).freeze();
                return self.finish(data).map(Some);
            }
        }
    }

    /// Checks a frame header before any of its payload is kept.
    fn begin(&mut self, header: &FrameHeader) -> Result<(), Fault> {
        self.sequence.admit(header)?;
        if let Some(key) = header.mask {
            self.key = key;
        }
        // RFC 7692 §6: the bit stands in the first frame of a message and nowhere else.
        let begins = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        if header.reserved & !COMPRESSED != 0 || (header.reserved != 0 && !begins) {
            return Err(Fault::WebSocketFrame);
        }
        if begins {
            self.is_compressed = header.reserved != 0;
        }
        match header.opcode {
            Opcode::Text => self.is_text = true,
            Opcode::Binary => self.is_text = false,
            Opcode::Continuation | Opcode::Close | Opcode::Ping | Opcode::Pong => {}
        }
        let room = self.limit.saturating_sub(self.message.len());
        if !header.opcode.is_control() && header.length > room as u64 {
            return Err(Fault::WebSocketMessageTooLarge);
        }
        Ok(())
    }

    fn finish(&mut self, data: Bytes) -> Result<Item, Fault> {
        let window = self.window.filter(|_| self.is_compressed);
        let data = if self.is_compressed {
            self.inflater.inflate(&data, self.limit)?.into()
        } else {
            data
        };
        let payload = if self.is_text {
            let text = String::from_utf8(data.into()).map_err(|_| Fault::WebSocketText)?;
            Payload::Text(text)
        } else {
            Payload::Binary(data)
        };
        Ok(Item::Message(payload, window))
    }
}

/// Checks the payload of a Close (RFC 6455 §5.5.1 and §7.4).
fn check_close(payload: &[u8]) -> Result<(), Fault> {
    let [high, low, reason @ ..] = payload else {
        return if payload.is_empty() {
            Ok(())
        } else {
            Err(Fault::WebSocketFrame)
        };
    };
    match u16::from_be_bytes([*high, *low]) {
        1000..=1003 | 1007..=1014 | 3000..=4999 => {}
        _ => return Err(Fault::WebSocketFrame),
    }
    std::str::from_utf8(reason).map_err(|_| Fault::WebSocketText)?;
    Ok(())
}

/// Reads bytes given in pieces of `step`: what came out, and the fault that ended it.
pub(super) fn decode_all(
    bytes: &[u8],
    step: usize,
    from_client: bool,
) -> (Vec<String>, Option<Fault>) {
    let side = if from_client {
        Side::Client
    } else {
        Side::Server
    };
    let mut reader = Reader::new(side, 1 << 16, None);
    let mut buffer = BytesMut::new();
    let mut items = Vec::new();
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match reader.decode(&mut buffer) {
                Ok(Some(item)) => items.push(format!("{item:?}")),
                Ok(None) => break,
                Err(fault) => return (items, Some(fault)),
            }
        }
    }
    (items, None)
}
