//! HTTP/1.0 and HTTP/1.1 between the two legs: one exchange after the other, bodies streamed both
//! ways, nothing that is not understood let through (RFC 9112).

mod decode;
mod encode;
mod exchange;
pub(crate) mod fuzzing;
mod head;
mod scan;
mod source;
mod upgrade;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sdk::{Chain, FlowInfo};

use self::exchange::Next;
use self::head::RequestHead;
use self::source::{HeadPoll, Source};
use crate::error::{Fault, ProxyError, Side};
use crate::limits::Limits;
use crate::respond::{self, Reason};
use crate::stream::Outbound;
use crate::tunnel::{self, Legs};
use crate::websocket;

/// How long a closed connection is still read from, so that the peer gets the last answer instead of
/// a reset that overtakes it (RFC 9112 §9.6).
const LINGER: Duration = Duration::from_secs(1);

/// One HTTP/1 connection between two legs.
#[derive(Debug)]
pub(crate) struct Session {
    client: Rc<RefCell<Source>>,
    client_out: Outbound,
    server: Rc<RefCell<Source>>,
    server_out: Outbound,
    chain: Chain,
    flow: Arc<FlowInfo>,
    limits: Rc<Limits>,
    exchanges: Rc<std::cell::Cell<u64>>,
}

/// Why no further request is waited for.
enum End {
    /// Something happened while no request was open.
    Between(ProxyError),
    /// An exchange was the last one.
    After(Next),
}

impl Session {
    pub(crate) fn new(
        legs: Legs,
        chain: Chain,
        flow: Arc<FlowInfo>,
        limits: Rc<Limits>,
        exchanges: Rc<std::cell::Cell<u64>>,
    ) -> Self {
        let source =
            |inbound, side| Rc::new(RefCell::new(Source::new(inbound, side, Rc::clone(&limits))));
        Self {
            client: source(legs.client_in, Side::Client),
            client_out: legs.client_out,
            server: source(legs.server_in, Side::Server),
            server_out: legs.server_out,
            chain,
            flow,
            limits,
            exchanges,
        }
    }

    /// Runs exchanges until the connection ends.
    ///
    /// Everything but the wait for the next request is in a box of its own: a connection spends its life
    /// in that wait, and an exchange is ten times as large.
    pub(crate) async fn serve(mut self) -> Result<(), ProxyError> {
        loop {
            let end = match self.wait().await {
                Ok(true) => Box::pin(self.turn()).await?,
                Ok(false) => Some(Box::new(End::After(Next::Close {
                    request_complete: true,
                }))),
                Err(error) => Some(Box::new(End::Between(error))),
            };
            if let Some(end) = end {
                return Box::pin(self.end(end)).await;
            }
        }
    }

    /// Reads a request's head and runs its exchange.
    async fn turn(&mut self) -> Result<Option<Box<End>>, ProxyError> {
        let head = match self.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => {
                return Ok(Some(Box::new(End::After(Next::Close {
                    request_complete: true,
                }))));
            }
            Err(error) => return Ok(Some(Box::new(End::Between(error)))),
        };
        self.exchanges.set(self.exchanges.get() + 1);
        Ok(match self.exchange(head).await? {
            Next::KeepAlive => None,
            next => Some(Box::new(End::After(next))),
        })
    }

    /// What comes after the last exchange.
    async fn end(self, end: Box<End>) -> Result<(), ProxyError> {
        match *end {
            End::Between(error) => self.refuse(error, true).await,
            End::After(Next::KeepAlive) => Ok(()),
            End::After(Next::Close { request_complete }) => self.close(request_complete).await,
            End::After(Next::Refuse(error)) => self.refuse(error, false).await,
            End::After(Next::Tunnel) => tunnel::relay(self.into_legs()).await,
            End::After(Next::WebSocket(handshake, exchange)) => {
                let chain = self.chain.clone();
                let limits = Rc::clone(&self.limits);
                let legs = self.into_legs();
                websocket::serve(legs, handshake, chain, *exchange, &limits).await
            }
        }
    }

    /// Waits for the first bytes of the next request; false when either side has ended the connection
    /// in between.
    async fn wait(&mut self) -> Result<bool, ProxyError> {
        poll_fn(|cx| {
            let polled = self.poll_wait(cx);
            if polled.is_pending() {
                // Nothing is on its way, so nothing needs room.
                self.client_out.rest();
                self.server_out.rest();
            }
            polled
        })
        .await
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, ProxyError>> {
        let mut server = self.server.borrow_mut();
        if server.is_mid_head() {
            return Poll::Ready(Err(server.fault(Fault::ResponseUnasked)));
        }
        let mut client = self.client.borrow_mut();
        if client.is_mid_head() {
            return Poll::Ready(Ok(true));
        }
        match client.poll_fill(cx) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Ok(false)),
            Poll::Ready(Ok(_)) => return Poll::Ready(Ok(true)),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {}
        }
        match server.poll_fill(cx) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(false)),
            Poll::Ready(Ok(_)) => Poll::Ready(Err(server.fault(Fault::ResponseUnasked))),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Reads the head of a request that has begun; `None` when the client ends the connection instead.
    async fn read_head(&mut self) -> Result<Option<RequestHead>, ProxyError> {
        let at_once = self.client.borrow_mut().find_head()?;
        let found = match at_once {
            Some(found) => found,
            None => {
                let head = poll_fn(|cx| self.client.borrow_mut().poll_head(cx));
                match tokio::time::timeout(self.limits.head_time, head).await {
                    Ok(found) => found?,
                    Err(_) => return Err(self.client.borrow().fault(Fault::SlowHead)),
                }
            }
        };
        match found {
            HeadPoll::Finished => Ok(None),
            HeadPoll::Head(head, block) => head::parse_request(&head, block, &self.limits)
                .map(Some)
                .map_err(|fault| self.client.borrow().fault(fault)),
        }
    }

    /// Ends both legs in good order.
    ///
    /// A request that the server got only in part ends with a reset of its leg, not with a FIN that
    /// might be taken for its end.
    async fn close(mut self, request_complete: bool) -> Result<(), ProxyError> {
        let client_out = &mut self.client_out;
        let server_out = &mut self.server_out;
        let to_server = async {
            if request_complete {
                // A server that is gone, or that takes nothing, cannot be told that the client is.
                let _ = tokio::time::timeout(LINGER, server_out.shutdown()).await;
            }
        };
        let (closed, ()) = tokio::join!(client_out.shutdown(), to_server);
        closed.map_err(|error| ProxyError::Io {
            side: Side::Client,
            error,
        })?;
        self.linger().await;
        Ok(())
    }

    /// Answers with the reason where HTTP has one, and ends both legs.
    async fn refuse(mut self, error: ProxyError, between: bool) -> Result<(), ProxyError> {
        let reason = match &error {
            // No request is open that an answer could belong to.
            ProxyError::Peer {
                side: Side::Server, ..
            } if between => return Err(error),
            ProxyError::Peer { side, fault } => Reason::Refused(*side, *fault),
            ProxyError::Intercepted { status, .. } => Reason::InterceptorFailed(*status),
            ProxyError::Body { .. } => Reason::InterceptorFailed(http::StatusCode::BAD_GATEWAY),
            ProxyError::Aborted | ProxyError::Idle | ProxyError::Io { .. } => return Err(error),
        };
        if between {
            // The server has no request open: its leg ends in good order.
            let _ = tokio::time::timeout(LINGER, self.server_out.shutdown()).await;
        }
        let mut response = respond::answer_and_close(reason, self.limits.error_page.as_deref());
        let framing = encode::frame_response(
            &mut response,
            &http::Method::GET,
            http::Version::HTTP_11,
            None,
        );
        encode::write_response_head(self.client_out.gather(), &response);
        // The client may be gone; the error to report is the first one.
        let sent = encode::send_body(&mut response.body, framing, &mut self.client_out).await;
        if sent.is_ok() && self.client_out.shutdown().await.is_ok() {
            self.linger().await;
        }
        Err(error)
    }

    /// Reads on for a moment after the last answer.
    async fn linger(&mut self) {
        let mut left = self.limits.drain_bytes;
        let drained = poll_fn(|cx| {
            let mut client = self.client.borrow_mut();
            loop {
                let buffered = client.inbound.buffer.len() as u64;
                client.inbound.buffer.clear();
                match left.checked_sub(buffered) {
                    Some(less) => left = less,
                    None => return Poll::Ready(()),
                }
                match client.poll_fill(cx) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        // Running out of time is as good an end as any here.
        let _ = tokio::time::timeout(LINGER, drained).await;
    }

    fn into_legs(self) -> Legs {
        Legs {
            client_in: self.client.borrow_mut().inbound.take(),
            client_out: self.client_out,
            server_in: self.server.borrow_mut().inbound.take(),
            server_out: self.server_out,
        }
    }
}
