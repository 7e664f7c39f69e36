//! Relaying bytes both ways without reading them.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use crate::error::{ProxyError, Side};
use crate::stream::{HIGH_WATER, Inbound, Outbound};

/// Both halves of both legs.
#[derive(Debug)]
pub(crate) struct Legs {
    pub(crate) client_in: Inbound,
    pub(crate) client_out: Outbound,
    pub(crate) server_in: Inbound,
    pub(crate) server_out: Outbound,
}

/// Copies both ways until both sides have ended.
///
/// The end of one direction is passed on while the other goes on; a failure of either ends both.
pub(crate) async fn relay(mut legs: Legs) -> Result<(), ProxyError> {
    let mut to_server = Direction::new(Side::Client);
    let mut to_client = Direction::new(Side::Server);
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

/// One direction of a tunnel.
#[derive(Debug)]
pub(crate) struct Direction {
    from: Side,
    to: Side,
    is_shut: bool,
}

impl Direction {
    /// The direction that begins at `from`.
    pub(crate) fn new(from: Side) -> Self {
        Self {
            from,
            to: match from {
                Side::Client => Side::Server,
                Side::Server => Side::Client,
            },
            is_shut: false,
        }
    }

    /// Moves bytes until there are none, or until the other side takes no more.
    /// Ready when the source has ended and the end was passed on.
    pub(crate) fn poll(
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
            if !inbound.buffer.is_empty() {
                outbound.push(inbound.buffer.split().freeze());
            }
            ready!(outbound.poll_below(cx, HIGH_WATER)).map_err(write_error)?;
            match inbound.poll_fill(cx) {
                Poll::Pending => {
                    ready!(outbound.poll_flush(cx)).map_err(write_error)?;
                    outbound.rest();
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
