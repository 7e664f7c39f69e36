//! Frames relayed as they come: only headers are read, no byte is changed or held back.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use super::frame::{FrameHeader, Sequence};
use crate::error::{Fault, ProxyError, Side};
use crate::stream::{HIGH_WATER, Inbound, Outbound};
use crate::tunnel::Legs;

/// Relays both ways until both sides have ended.
pub(super) async fn serve(mut legs: Legs, has_extensions: bool) -> Result<(), ProxyError> {
    let mut to_server = Relay::new(Side::Client, has_extensions);
    let mut to_client = Relay::new(Side::Server, has_extensions);
    poll_fn(|cx| {
        let up = to_server.poll(&mut legs.client_in, &mut legs.server_out, cx)?;
        let down = to_client.poll(&mut legs.server_in, &mut legs.client_out, cx)?;
        if up.is_ready() && down.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// One direction.
struct Relay {
    from: Side,
    to: Side,
    sequence: Sequence,
    /// Payload bytes of the current frame that have not passed.
    missing: u64,
    is_shut: bool,
}

impl Relay {
    fn new(from: Side, has_extensions: bool) -> Self {
        let (from_client, to) = match from {
            Side::Client => (true, Side::Server),
            Side::Server => (false, Side::Client),
        };
        Self {
            from,
            to,
            sequence: Sequence::new(from_client, has_extensions),
            missing: 0,
            is_shut: false,
        }
    }

    /// How many of `bytes` may pass: all but a header that is not complete.
    fn admit(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            if self.missing > 0 {
                let step = usize::try_from(self.missing).map_or(rest.len(), |m| m.min(rest.len()));
                self.missing -= step as u64;
                passed += step;
                if self.missing > 0 || step == rest.len() {
                    return Ok(passed);
                }
                continue;
            }
            let Some(header) = FrameHeader::parse(rest)? else {
                return Ok(passed);
            };
            self.sequence.admit(&header)?;
            passed += header.header_len;
            self.missing = header.length;
        }
    }

    fn poll(
        &mut self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), ProxyError>> {
        let (from, to) = (self.from, self.to);
        let write_error = |error| ProxyError::Io { side: to, error };
        if self.is_shut {
            return Poll::Ready(Ok(()));
        }
        loop {
            let passed = self
                .admit(&inbound.buffer)
                .map_err(|fault| ProxyError::Peer { side: from, fault })?;
            if passed > 0 {
                outbound.push(inbound.buffer.split_to(passed).freeze());
            }
            ready!(outbound.poll_below(cx, HIGH_WATER)).map_err(write_error)?;
            match inbound.poll_fill(cx) {
                Poll::Pending => {
                    ready!(outbound.poll_flush(cx)).map_err(write_error)?;
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => {
                    ready!(outbound.poll_shutdown(cx)).map_err(write_error)?;
                    self.is_shut = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(ProxyError::Io { side: from, error }));
                }
            }
        }
    }
}

/// Relays bytes given in pieces of `step`: how many passed, and the fault that ended it.
///
/// Bytes before a fault may or may not have passed when it is found, so none are counted then.
pub(super) fn admit_all(bytes: &[u8], step: usize, from_client: bool) -> Result<usize, Fault> {
    let side = if from_client {
        Side::Client
    } else {
        Side::Server
    };
    let mut relay = Relay::new(side, false);
    let mut waiting = Vec::new();
    let mut passed = 0;
    for piece in bytes.chunks(step) {
        waiting.extend_from_slice(piece);
        let count = relay.admit(&waiting)?;
        waiting.drain(..count);
        passed += count;
    }
    Ok(passed)
}
