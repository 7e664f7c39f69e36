//! WebSocket messages over a stream (RFC 8441): each side's stream as a leg of its own, so that the
//! code which reads messages over HTTP/1 reads these.

use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Method;
use sdk::Exchange;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::ResetCell;
use super::exchange::{Failure, Responding, answer, failed, final_head, reset_of, watched};
use super::{Shared, convert};
use crate::error::{ProxyError, Side, count_refused};
use crate::respond;
use crate::stream::{Progress, split};
use crate::tunnel::Legs;
use crate::websocket::{self, Offer};

/// Waits for the server's answer to an extended CONNECT and, when it agrees, moves messages until
/// both sides have ended.
pub(super) async fn run(
    offer: &Offer,
    from_client: RecvStream,
    mut to_server: SendStream<Bytes>,
    response: ResponseFuture,
    responding: &mut Responding<'_>,
    mut exchange: Exchange,
    shared: &Shared,
) -> Result<(), Failure> {
    let received = final_head(response, responding, shared).await?;
    if !received.status().is_success() {
        // No WebSocket: nothing of the client's will follow. A stream that has ended needs no end.
        let _ = to_server.send_data(Bytes::new(), true);
        let connect = Method::CONNECT;
        return answer(
            received,
            responding,
            &mut exchange,
            shared,
            &connect,
            &connect,
        )
        .await;
    }
    let (parts, from_server) = received.into_parts();
    let refused = |fault| Failure::Answer(respond::Reason::Refused(Side::Server, fault));
    let mut response = convert::response(&parts).map_err(refused)?;
    let handshake = offer.check_connect(&response).map_err(refused)?;
    {
        let mut seen = pin!(shared.chain.on_response(&mut response, &mut exchange));
        watched(responding, seen.as_mut())
            .await?
            .map_err(|failure| failed(&failure))?;
    }
    let (head, _) = convert::to_response(&mut response, &Method::CONNECT);
    let to_client = responding
        .respond
        .send_response(head, false)
        .map_err(|error| reset_of(&error))?;
    responding.is_begun = true;

    let client_reset = ResetCell::default();
    let server_reset = ResetCell::default();
    let progress = Rc::new(Progress::default());
    let client = StreamIo::new(from_client, to_client, Rc::clone(&client_reset));
    let server = StreamIo::new(from_server, to_server, Rc::clone(&server_reset));
    let (client_in, client_out) = split(Box::new(client), Rc::clone(&progress), true);
    let (server_in, server_out) = split(Box::new(server), progress, false);
    let legs = Legs {
        client_in,
        client_out,
        server_in,
        server_out,
    };
    let chain = shared.chain.clone();
    match websocket::serve(legs, handshake, chain, exchange, &shared.limits).await {
        Ok(()) => Ok(()),
        Err(ProxyError::Io { .. }) => {
            let reason = client_reset.get().or_else(|| server_reset.get());
            Err(Failure::Reset(reason.unwrap_or(Reason::CANCEL)))
        }
        Err(error) => {
            // Both sides were told by a Close. The library resets what has not ended, after that.
            if let ProxyError::Peer { fault, .. } = error {
                count_refused(fault);
            }
            tracing::debug!(%error, "a WebSocket was closed");
            Ok(())
        }
    }
}

/// Both directions of a stream as bytes.
struct StreamIo {
    receive: RecvStream,
    send: SendStream<Bytes>,
    /// What came and was not read.
    unread: Bytes,
    is_shut: bool,
    reset: ResetCell,
}

impl StreamIo {
    fn new(receive: RecvStream, send: SendStream<Bytes>, reset: ResetCell) -> Self {
        Self {
            receive,
            send,
            unread: Bytes::new(),
            is_shut: false,
            reset,
        }
    }

    fn failed(&self, error: &h2::Error) -> io::Error {
        self.reset
            .set(Some(error.reason().unwrap_or(Reason::CANCEL)));
        io::ErrorKind::ConnectionReset.into()
    }
}

impl AsyncRead for StreamIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Ok(data)) => self.unread = data,
                Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
            }
        }
        let count = self.unread.len().min(out.remaining());
        out.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        // Fails only on a stream that is closed, where no window matters.
        let _ = self.receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(bytes.len());
        let granted = loop {
            match self.send.capacity() {
                0 => match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Poll::Ready(Err(self.failed(&error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                },
                granted => break granted.min(bytes.len()),
            }
        };
        let part = Bytes::copy_from_slice(bytes.get(..granted).unwrap_or_default());
        let sent = self.send.send_data(part, false);
        Poll::Ready(sent.map_err(|error| self.failed(&error)).map(|()| granted))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_shut, true) {
            let sent = self.send.send_data(Bytes::new(), true);
            sent.map_err(|error| self.failed(&error))?;
        }
        Poll::Ready(Ok(()))
    }
}
