//! HTTP/2 between the two legs (RFC 9113): each stream of the client becomes one stream to the
//! server, with the same limits, the same resets and the same flow control.
//!
//! Priorities are ignored and pushes are switched off (RFC 9113 §5.3.1 and §8.4 allow both).
//! Extended CONNECT (RFC 8441) is offered when the server offers it. WebSocket messages inside are
//! read where an interceptor wants them; other protocols are relayed.

mod body;
mod convert;
mod exchange;
mod ledger;
mod websocket;

pub(crate) use ledger::fuzz as fuzz_frames;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use sdk::{Chain, FlowInfo};

use crate::error::{Fault, ProxyError, Side};
use crate::limits::Limits;
use crate::serve::Work;
use crate::stream::Joined;
use crate::tunnel::Legs;
use ledger::Ledger;

type ServerLeg = h2::client::Connection<Joined, Bytes>;
type ClientLeg = h2::server::Connection<Ledger<Joined>, Bytes>;

/// What all exchanges of a connection share.
struct Shared {
    chain: Chain,
    flow: Arc<FlowInfo>,
    limits: Rc<Limits>,
    exchanges: Rc<Cell<u64>>,
    /// Whether the server takes extended CONNECT and the client was told so.
    extended_connect: bool,
}

/// A number that no server announces, to tell whether its SETTINGS have come.
const NOT_ANNOUNCED: usize = 0x7fff_fffe;

/// How long the server leg is kept to say goodbye in, after the client has gone.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves both legs until they have ended. Each stage is in a box of its own, so that a connection at
/// rest is no larger than the two that the library needs.
pub(crate) fn serve(
    legs: Legs,
    chain: Chain,
    flow: Arc<FlowInfo>,
    limits: Rc<Limits>,
    exchanges: Rc<Cell<u64>>,
) -> Work {
    let opening = Box::pin(open(legs, Rc::clone(&limits)));
    Box::pin(async move {
        let opened = opening.await?;
        let shared = Rc::new(Shared {
            chain,
            flow,
            limits,
            exchanges,
            extended_connect: opened.extended_connect,
        });
        Box::pin(run(opened, shared)).await
    })
}

/// Both connections of the library, ready for exchanges.
struct Opened {
    client: ClientLeg,
    server: ServerLeg,
    /// Gone once no further exchange begins.
    sender: Option<SendRequest<Bytes>>,
    /// The server takes extended CONNECT.
    extended_connect: bool,
}

/// Says hello to both sides, to the client with what the server allows.
async fn open(legs: Legs, limits: Rc<Limits>) -> Result<Box<Opened>, ProxyError> {
    let client_io = Ledger::new(Joined::new(legs.client_in, legs.client_out));
    let server_io = Joined::new(legs.server_in, legs.server_out);

    let (send_request, mut server) = h2::client::Builder::new()
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(limits.h2_header_list_bytes)
        .header_table_size(limits.h2_header_table_bytes)
        .initial_max_send_streams(NOT_ANNOUNCED)
        .enable_push(false)
        .handshake::<_, Bytes>(server_io)
        .await
        .map_err(|error| from_h2(error, Side::Server))?;
    wait_for_settings(&mut server, &send_request, &limits).await?;

    let extended_connect = send_request.is_extended_connect_protocol_enabled();
    let announced = u32::try_from(send_request.current_max_send_streams()).unwrap_or(u32::MAX);
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(limits.h2_stream_window)
        .initial_connection_window_size(limits.h2_connection_window)
        .max_header_list_size(limits.h2_header_list_bytes)
        .header_table_size(limits.h2_header_table_bytes)
        // A server that allows none for the moment would be asked by nobody ever.
        .max_concurrent_streams(announced.clamp(1, limits.h2_streams));
    if extended_connect {
        builder.enable_connect_protocol();
    }
    let mut handshake = pin!(builder.handshake::<_, Bytes>(client_io));
    let client = poll_fn(|cx| {
        if let Poll::Ready(result) = handshake.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|error| from_h2(error, Side::Client)));
        }
        match Pin::new(&mut server).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Err(from_h2(Reason::NO_ERROR.into(), Side::Server))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(from_h2(error, Side::Server))),
            Poll::Pending => Poll::Pending,
        }
    })
    .await?;

    Ok(Box::new(Opened {
        client,
        server,
        sender: Some(send_request),
        extended_connect,
    }))
}

/// Gives the server a moment to announce its limits, so that the client hears them from the start.
async fn wait_for_settings(
    server: &mut ServerLeg,
    send_request: &SendRequest<Bytes>,
    limits: &Limits,
) -> Result<(), ProxyError> {
    let announced = poll_fn(|cx| {
        let polled = Pin::new(&mut *server).poll(cx);
        if let Poll::Ready(Err(error)) = polled {
            return Poll::Ready(Err(from_h2(error, Side::Server)));
        }
        if polled.is_ready() || send_request.current_max_send_streams() != NOT_ANNOUNCED {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    });
    // A server that takes its time gets requests as if it had no limits (RFC 9113 §6.5.2), and the
    // excess waits once they are known.
    tokio::time::timeout(limits.h2_settings_time, announced)
        .await
        .unwrap_or(Ok(()))
}

/// Moves exchanges until the client has gone.
async fn run(mut opened: Box<Opened>, shared: Rc<Shared>) -> Result<(), ProxyError> {
    let Opened {
        client,
        server,
        sender,
        ..
    } = &mut *opened;
    let mut exchanges = FuturesUnordered::new();
    let mut server_gone = false;
    let mut is_draining = false;
    let mut resets = Resets::new(shared.limits.h2_resets);
    let outcome = poll_fn(|cx| {
        if !server_gone && let Poll::Ready(ended) = Pin::new(&mut *server).poll(cx) {
            server_gone = true;
            is_draining = true;
            match ended.as_ref().err().and_then(h2::Error::reason) {
                // RFC 9113 §6.8: the code tells the client what the server thinks.
                Some(reason) if reason != Reason::NO_ERROR => client.abrupt_shutdown(reason),
                _ => client.graceful_shutdown(),
            }
        }
        if !is_draining && is_going_away(sender.as_mut()) {
            is_draining = true;
            client.graceful_shutdown();
        }
        loop {
            while let Poll::Ready(Some(was_reset)) = exchanges.poll_next_unpin(cx) {
                if was_reset && resets.is_one_too_many() {
                    client.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    // Whether the client hears of it is its own affair.
                    let _ = client.poll_closed(cx);
                    return Poll::Ready(Err(Ended::Resets));
                }
            }
            match client.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    shared.exchanges.set(shared.exchanges.get() + 1);
                    let sender = sender.clone();
                    let shared = Rc::clone(&shared);
                    // In a box: the library keeps the waker of the last exchange, and with it the room
                    // of a task that is over.
                    exchanges.push(Box::pin(exchange::run(request, respond, sender, shared)));
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(Ended::Library(error)));
                }
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;

    // Dropping the exchanges cancels what the client did not wait for; without a sender the server
    // leg says goodbye and ends.
    drop(exchanges);
    *sender = None;
    if !server_gone && outcome.is_ok() {
        let _ = tokio::time::timeout(FAREWELL, &mut *server).await;
    }
    match outcome {
        Ok(()) => Ok(()),
        Err(Ended::Resets) => Err(ProxyError::Peer {
            side: Side::Client,
            fault: Fault::Http2Resets,
        }),
        // A GOAWAY from the client is its own will, whatever the code.
        Err(Ended::Library(error)) if error.is_go_away() && error.is_remote() => Ok(()),
        Err(Ended::Library(error)) => Err(from_h2(error, Side::Client)),
    }
}

/// Why the client's leg has ended.
enum Ended {
    Library(h2::Error),
    /// Too many resets in a second.
    Resets,
}

/// Counts the client's resets, second by second (CVE-2023-44487).
struct Resets {
    limit: u32,
    second: tokio::time::Instant,
    count: u32,
}

impl Resets {
    fn new(limit: u32) -> Self {
        Self {
            limit,
            second: tokio::time::Instant::now(),
            count: 0,
        }
    }

    fn is_one_too_many(&mut self) -> bool {
        if self.second.elapsed() >= std::time::Duration::from_secs(1) {
            *self = Self::new(self.limit);
        }
        self.count += 1;
        self.count > self.limit
    }
}

/// Whether the server has said that it takes no new streams.
fn is_going_away(send_request: Option<&mut SendRequest<Bytes>>) -> bool {
    // Without a stream of its own that waits, the answer comes at once and no waker is kept.
    let mut cx = Context::from_waker(Waker::noop());
    send_request.is_some_and(|sender| matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_))))
}

/// Sorts an error of the library: what the stream said, or what the peer did.
fn from_h2(error: h2::Error, side: Side) -> ProxyError {
    if error.is_io() {
        let error = error
            .into_io()
            .unwrap_or_else(|| std::io::ErrorKind::Other.into());
        return ProxyError::Io { side, error };
    }
    let fault = match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) if !error.is_remote() => Fault::Http2Flood,
        Some(Reason::COMPRESSION_ERROR) if !error.is_remote() => Fault::Http2Compression,
        _ => Fault::Http2,
    };
    ProxyError::Peer { side, fault }
}

/// One request from the client, as the library gives it.
type Incoming = http::Request<RecvStream>;
