//! One exchange: a request through the chain to the server, and its response back, while both
//! bodies flow.

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::{Method, StatusCode, Version};
use sdk::{Body, Exchange, Outcome, Request, Response};

use super::Session;
use super::decode::Framing;
use super::encode::{self, SendError};
use super::head::{self, RequestHead, ResponseHead};
use super::source::{HeadPoll, Source, begin_body};
use super::upgrade::{self, Switch, Upgrade};
use crate::error::{Fault, ProxyError, Side};
use crate::stream::Outbound;
use crate::websocket::Handshake;

/// What becomes of the connection after an exchange.
#[derive(Debug)]
pub(super) enum Next {
    /// End it.
    Close {
        /// Whether the server has got all of the request, or none of it.
        request_complete: bool,
    },
    /// Wait for the next request.
    KeepAlive,
    /// Tell the client why, then end it. No byte of a final response was sent.
    Refuse(ProxyError),
    /// Relay bytes.
    Tunnel,
    /// Speak WebSocket.
    WebSocket(Handshake, Box<Exchange>),
}

/// What the response side of an exchange came to.
enum Delivered {
    /// The client has the whole response.
    Response {
        /// Whether both sides may go on.
        reusable: bool,
    },
    /// The server ended its leg without an answer.
    ServerGone,
    /// The server has switched protocols, and the client knows.
    Switched(Switch),
}

/// What both sides of an exchange need to know of each other.
#[derive(Debug, Default)]
struct Shared {
    /// The server has got the whole request, and the client has no more of it to send.
    upload_done: Cell<bool>,
    /// Bytes of the final response may have gone to the client.
    response_begun: Cell<bool>,
    /// The server has asked the client to go on with its body.
    continue_seen: Cell<bool>,
    /// More of the body was left over than is worth reading.
    leftover: Cell<bool>,
}

/// What a response is an answer to.
struct Asked {
    /// The method that the client used.
    method: Method,
    /// The client's version.
    version: Version,
    /// The method that the server saw.
    forwarded_method: Method,
    /// Whether the client and the request as sent want the connection kept.
    persistent: bool,
    upgrade: Upgrade,
}

impl Session {
    /// Runs one exchange. An error means that both legs are to be reset.
    pub(super) async fn exchange(&mut self, head: RequestHead) -> Result<Next, ProxyError> {
        let RequestHead {
            mut request,
            framing,
            persistent,
            expects_continue,
        } = head;
        let version = request.version;
        let method = request.method.clone();
        request.body = begin_body(&self.client, framing);
        let mut exchange = Exchange::new(self.flow.clone(), &request);

        let outcome = self.chain.on_request(&mut request, &mut exchange).await;
        request.version = version;
        if let Some(error) = self.client.borrow_mut().take_failure() {
            return Ok(Next::Refuse(error));
        }
        match outcome {
            Outcome::Forward => {}
            Outcome::Abort => return Err(ProxyError::Aborted),
            Outcome::Fail(failure) => {
                return Ok(Next::Refuse(ProxyError::Intercepted {
                    reason: failure.to_string(),
                    status: failure.status,
                }));
            }
            Outcome::Respond(response) => {
                let asked = Asked {
                    forwarded_method: method.clone(),
                    method,
                    version,
                    persistent,
                    upgrade: Upgrade::None,
                };
                return self
                    .answer(response, asked, &mut exchange, expects_continue)
                    .await;
            }
        }

        let upgrade = upgrade::prepare(&mut request, self.chain.wants_messages());
        let framing = match encode::frame_request(&mut request) {
            Ok(framing) => framing,
            Err(error) => return Ok(Next::Refuse(error)),
        };
        let asked = Asked {
            method,
            version,
            forwarded_method: request.method.clone(),
            persistent: persistent && !head::says_close(&request.headers),
            upgrade,
        };
        self.forward(request, framing, asked, exchange, expects_continue)
            .await
    }

    /// Sends the request on and brings the response back.
    async fn forward(
        &mut self,
        mut request: Request,
        framing: Framing,
        asked: Asked,
        mut exchange: Exchange,
        expects_continue: bool,
    ) -> Result<Next, ProxyError> {
        let shared = Shared::default();
        let delivered = {
            let client = &self.client;
            let drain_bytes = self.limits.drain_bytes;
            encode::write_request_head(self.server_out.gather(), &request);
            let mut up = pin!(upload(
                client,
                &mut request.body,
                framing,
                &mut self.server_out,
                drain_bytes,
                &shared
            ));
            let mut down = pin!(download(
                &self.server,
                &mut self.client_out,
                &self.chain,
                &mut exchange,
                &self.limits,
                &asked,
                &shared,
            ));
            // A server that stops reading may have answered before it did: its answer counts.
            let mut server_stopped = false;
            let delivered = poll_fn(|cx| {
                if !server_stopped && let Poll::Ready(Err(error)) = up.as_mut().poll(cx) {
                    if matches!(
                        error,
                        ProxyError::Io {
                            side: Side::Server,
                            ..
                        }
                    ) {
                        server_stopped = true;
                    } else {
                        return Poll::Ready(Err(error));
                    }
                }
                down.as_mut().poll(cx)
            })
            .await;
            let wait_for_upload = match &delivered {
                Ok(Delivered::Response { reusable }) => {
                    // RFC 9110 §10.1.1: a client whose expectation was answered with a final status
                    // may or may not send the body, so nobody knows where the next request begins.
                    let body_is_unsure = expects_continue
                        && !shared.continue_seen.get()
                        && !client.borrow().has_content();
                    *reusable && !body_is_unsure
                }
                Ok(Delivered::Switched(_)) => true,
                Ok(Delivered::ServerGone) | Err(_) => false,
            };
            // The response is complete and the request is not: the next exchange begins when both
            // are (RFC 9112 §9.3).
            if wait_for_upload && !server_stopped {
                poll_fn(|cx| {
                    if shared.upload_done.get() {
                        return Poll::Ready(Ok(()));
                    }
                    match up.as_mut().poll(cx) {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Pending if shared.upload_done.get() => Poll::Ready(Ok(())),
                        Poll::Pending => Poll::Pending,
                    }
                })
                .await?;
            }
            delivered
        };
        let request_complete = shared.upload_done.get();
        match delivered {
            Ok(Delivered::Response { reusable })
                if reusable && request_complete && !shared.leftover.get() =>
            {
                Ok(Next::KeepAlive)
            }
            Ok(Delivered::Response { .. } | Delivered::ServerGone) => {
                Ok(Next::Close { request_complete })
            }
            Ok(Delivered::Switched(_)) if !request_complete => Err(ProxyError::Peer {
                side: Side::Server,
                fault: Fault::Upgrade,
            }),
            Ok(Delivered::Switched(Switch::Tunnel)) => Ok(Next::Tunnel),
            Ok(Delivered::Switched(Switch::WebSocket(handshake))) => {
                Ok(Next::WebSocket(handshake, Box::new(exchange)))
            }
            Err(error) if shared.response_begun.get() => Err(error),
            Err(error) => Ok(Next::Refuse(error)),
        }
    }

    /// Sends an interceptor's own response; the server hears nothing of the exchange.
    async fn answer(
        &mut self,
        mut response: Response,
        asked: Asked,
        exchange: &mut Exchange,
        expects_continue: bool,
    ) -> Result<Next, ProxyError> {
        if let Err(failure) = self.chain.on_response(&mut response, exchange).await {
            return Ok(Next::Refuse(ProxyError::Intercepted {
                reason: failure.to_string(),
                status: failure.status,
            }));
        }
        response.version = asked.version;
        let framing = encode::frame_response(&mut response, &asked.method, asked.version, None);
        let mut reusable =
            asked.persistent && framing != Framing::ToEnd && !head::says_close(&response.headers);
        // A client that waits for a 100 will never get one, and may or may not send its body.
        let is_unsure = expects_continue && !self.client.borrow().is_message_complete();
        if is_unsure && reusable {
            response.headers.append(
                sdk::FieldName::from_static("Connection"),
                sdk::HeaderValue::from_static("close"),
            );
            reusable = false;
        }
        encode::write_response_head(self.client_out.gather(), &response);
        match encode::send_body(&mut response.body, framing, &mut self.client_out).await {
            Ok(()) => {}
            Err(SendError::Io(error)) => {
                return Err(ProxyError::Io {
                    side: Side::Client,
                    error,
                });
            }
            Err(SendError::Body(error)) => return Err(body_error(&error)),
            Err(SendError::Length) => return Err(length_error()),
        }
        let mut left = self.limits.drain_bytes;
        let client = &self.client;
        if reusable && poll_fn(|cx| client.borrow_mut().poll_drain(cx, &mut left)).await? {
            Ok(Next::KeepAlive)
        } else {
            Ok(Next::Close {
                request_complete: true,
            })
        }
    }
}

/// Sends the request body on, then watches the client. Ends only with an error.
async fn upload(
    client: &Rc<RefCell<Source>>,
    body: &mut Body,
    framing: Framing,
    server_out: &mut Outbound,
    drain_bytes: u64,
    shared: &Shared,
) -> Result<Infallible, ProxyError> {
    match encode::send_body(body, framing, server_out).await {
        Ok(()) => {}
        Err(SendError::Io(error)) => {
            return Err(ProxyError::Io {
                side: Side::Server,
                error,
            });
        }
        Err(SendError::Body(error)) => {
            let failure = client.borrow_mut().take_failure();
            return Err(failure.unwrap_or_else(|| body_error(&error)));
        }
        Err(SendError::Length) => return Err(length_error()),
    }
    // An interceptor may have put another body in place of the client's.
    let mut left = drain_bytes;
    let complete = poll_fn(|cx| client.borrow_mut().poll_drain(cx, &mut left)).await?;
    shared.leftover.set(shared.leftover.get() || !complete);
    shared.upload_done.set(true);
    Err(poll_fn(|cx| client.borrow_mut().poll_watch(cx)).await)
}

/// Brings interim responses and the final one to the client.
async fn download(
    server: &Rc<RefCell<Source>>,
    client_out: &mut Outbound,
    chain: &sdk::Chain,
    exchange: &mut Exchange,
    limits: &crate::limits::Limits,
    asked: &Asked,
    shared: &Shared,
) -> Result<Delivered, ProxyError> {
    let client_error = |error| ProxyError::Io {
        side: Side::Client,
        error,
    };
    let mut interim_left = limits.interim_count;
    let ResponseHead {
        mut response,
        framing,
        persistent,
    } = loop {
        let (bytes, block) = match poll_fn(|cx| server.borrow_mut().poll_head(cx)).await? {
            HeadPoll::Finished => return Ok(Delivered::ServerGone),
            HeadPoll::Head(bytes, block) => (bytes, block),
        };
        let head = head::parse_response(&bytes, block, &asked.forwarded_method, limits)
            .map_err(|fault| server.borrow().fault(fault))?;
        let status = head.response.status;
        if !status.is_informational() || status == StatusCode::SWITCHING_PROTOCOLS {
            break head;
        }
        if interim_left == 0 {
            return Err(server.borrow().fault(Fault::InterimFlood));
        }
        interim_left -= 1;
        if status == StatusCode::CONTINUE {
            shared.continue_seen.set(true);
        }
        // RFC 9110 §15.2: a client of HTTP/1.0 does not know interim responses.
        if asked.version == Version::HTTP_11 {
            encode::write_response_head(client_out.gather(), &head.response);
            client_out.flush().await.map_err(client_error)?;
        }
    };

    let switch = upgrade::judge(&asked.upgrade, &asked.forwarded_method, &response)
        .map_err(|fault| server.borrow().fault(fault))?;
    let version = response.version;
    let status = response.status;
    response.body = begin_body(server, framing);
    let seen = chain.on_response(&mut response, exchange).await;
    response.version = version;
    if let Some(error) = server.borrow_mut().take_failure() {
        return Err(error);
    }
    seen.map_err(|failure| ProxyError::Intercepted {
        reason: failure.to_string(),
        status: failure.status,
    })?;
    // A switch that an interceptor has turned into something else is no switch for the client, and
    // the server must not be spoken to as if it were.
    let switch = switch.filter(|_| response.status == status);
    let switch_refused = switch.is_none()
        && (status == StatusCode::SWITCHING_PROTOCOLS || asked.method != asked.forwarded_method);
    if response.status == StatusCode::SWITCHING_PROTOCOLS && switch.is_none() {
        return Err(server.borrow().fault(Fault::Upgrade));
    }

    let out_framing =
        encode::frame_response(&mut response, &asked.method, asked.version, Some(framing));
    shared.response_begun.set(true);
    encode::write_response_head(client_out.gather(), &response);
    match encode::send_body(&mut response.body, out_framing, client_out).await {
        Ok(()) => {}
        Err(SendError::Io(error)) => return Err(client_error(error)),
        Err(SendError::Body(error)) => {
            let failure = server.borrow_mut().take_failure();
            return Err(failure.unwrap_or_else(|| body_error(&error)));
        }
        Err(SendError::Length) => return Err(length_error()),
    }
    if let Some(switch) = switch {
        return Ok(Delivered::Switched(switch));
    }
    let mut reusable = asked.persistent
        && persistent
        && !switch_refused
        && out_framing != Framing::ToEnd
        && !head::says_close(&response.headers);
    if reusable {
        // An interceptor may have put another body in place of the server's.
        let mut left = limits.drain_bytes;
        reusable = poll_fn(|cx| server.borrow_mut().poll_drain(cx, &mut left)).await?;
    }
    Ok(Delivered::Response { reusable })
}

fn body_error(error: &sdk::BodyError) -> ProxyError {
    ProxyError::Body {
        reason: error.to_string(),
    }
}

fn length_error() -> ProxyError {
    ProxyError::Body {
        reason: "its length differs from the one announced, or its trailers may not be sent"
            .to_owned(),
    }
}
