//! One stream of the client and its counterpart to the server.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::Method;
use sdk::{Body, Exchange, Outcome, Response};

use super::body::{self, ResetCell, SendFailure};
use super::{Incoming, Shared, convert};
use crate::error::{Fault, Side, count_refused};
use crate::pace::Pace;
use crate::{respond, websocket};

/// How an exchange ends when it does not end well.
pub(super) enum Failure {
    /// Answer with a reason of flowdog's own, if nothing was answered yet.
    Answer(respond::Reason),
    /// Reset the client's stream with this code.
    Reset(Reason),
}

/// Runs one exchange to its end. What goes wrong ends the two streams and nothing else.
/// Says whether the client reset its stream.
pub(super) async fn run(
    request: Incoming,
    mut respond: SendResponse<Bytes>,
    sender: Option<SendRequest<Bytes>>,
    shared: Rc<Shared>,
) -> bool {
    let method = request.method().clone();
    let mut responding = Responding {
        respond: &mut respond,
        is_begun: false,
    };
    let result = exchange(request, &mut responding, sender, &shared).await;
    let reason = match result {
        Ok(()) => return false,
        Err(Failure::Reset(reason)) => reason,
        Err(Failure::Answer(_)) if responding.is_begun => Reason::INTERNAL_ERROR,
        Err(Failure::Answer(reason)) => {
            if let respond::Reason::Refused(_, fault) = reason {
                count_refused(fault);
            }
            let mut response = respond::answer(reason, shared.limits.error_page.as_deref());
            match send_response(&mut response, &method, &mut responding).await {
                Ok(()) => return false,
                Err(_) => Reason::INTERNAL_ERROR,
            }
        }
    };
    let was_reset = respond
        .poll_reset(&mut Context::from_waker(Waker::noop()))
        .is_ready();
    respond.send_reset(reason);
    was_reset
}

/// The sending half of the client's stream.
pub(super) struct Responding<'a> {
    pub(super) respond: &'a mut SendResponse<Bytes>,
    /// Whether the final head has gone out.
    pub(super) is_begun: bool,
}

async fn exchange(
    request: Incoming,
    responding: &mut Responding<'_>,
    sender: Option<SendRequest<Bytes>>,
    shared: &Shared,
) -> Result<(), Failure> {
    let (parts, stream) = request.into_parts();
    let protocol = parts.extensions.get::<Protocol>().cloned();
    if protocol.is_some() && !shared.extended_connect {
        // RFC 8441 §3: not to be used before the server's SETTINGS allow it.
        return Err(Failure::Reset(Reason::PROTOCOL_ERROR));
    }
    let mut request = convert::request(&parts)
        .map_err(|fault| Failure::Answer(respond::Reason::Refused(Side::Client, fault)))?;
    let method = request.method.clone();
    let client_reset: ResetCell = Rc::new(Cell::new(None));
    let length = convert::content_length(&parts.headers);
    let is_websocket = protocol
        .as_ref()
        .is_some_and(|name| name.as_str() == "websocket");
    let mut messages = None;
    if is_websocket && shared.chain.wants_messages() {
        messages = Some(stream);
    } else {
        // Bodies without a length may be calls that wait for hours.
        let pace = length.and_then(|_| Pace::new(&shared.limits));
        request.body = body::receive(stream, length, Rc::clone(&client_reset), pace);
    }
    let mut exchange = Exchange::new(shared.flow.clone(), &request);

    let outcome = {
        let mut asked = pin!(shared.chain.on_request(&mut request, &mut exchange));
        watched(responding, asked.as_mut()).await?
    };
    match outcome {
        Outcome::Forward => {}
        Outcome::Abort => return Err(Failure::Reset(Reason::CANCEL)),
        Outcome::Fail(failure) => {
            if let Some(reason) = client_reset.get() {
                return Err(Failure::Reset(reason));
            }
            tracing::debug!(%failure, "exchange failed by policy");
            return Err(failed(&failure));
        }
        Outcome::Respond(mut response) => {
            shared
                .chain
                .on_response(&mut response, &mut exchange)
                .await
                .map_err(|failure| failed(&failure))?;
            return send_response(&mut response, &method, responding).await;
        }
    }

    // Without a sender the server leg has gone; a refused stream may be tried again elsewhere.
    let refused = |_| Failure::Reset(Reason::REFUSED_STREAM);
    let sender = sender.ok_or(Failure::Reset(Reason::REFUSED_STREAM))?;
    let mut sender = watched(responding, pin!(sender.ready()))
        .await?
        .map_err(refused)?;
    let offer = messages.is_some().then(|| {
        websocket::offer_deflate_only(&mut request);
        websocket::Offer::of_connect(&request)
    });
    let mut head = convert::to_request(&mut request, &shared.flow).map_err(|_| {
        Failure::Answer(respond::Reason::InterceptorFailed(
            http::StatusCode::BAD_GATEWAY,
        ))
    })?;
    let forwarded_method = request.method.clone();
    if let Some(protocol) = protocol {
        head.extensions_mut().insert(protocol);
    }
    let ends = request.body.is_empty() && messages.is_none();
    let (response, mut to_server) = sender.send_request(head, ends).map_err(|error| {
        if error.is_go_away() || error.is_io() {
            Failure::Reset(Reason::REFUSED_STREAM)
        } else {
            Failure::Answer(respond::Reason::InterceptorFailed(
                http::StatusCode::BAD_GATEWAY,
            ))
        }
    })?;

    if let (Some(from_client), Some(offer)) = (messages, offer) {
        return super::websocket::run(
            &offer,
            from_client,
            to_server,
            response,
            responding,
            exchange,
            shared,
        )
        .await;
    }
    let transfer = transfer(
        &mut request.body,
        ends,
        &mut to_server,
        response,
        responding,
        &mut exchange,
        shared,
        &method,
        &forwarded_method,
        &client_reset,
    );
    let result = transfer.await;
    if let Err(failure) = &result {
        // The server hears why, too, where the client has given up.
        let reason = match (failure, client_reset.get()) {
            (_, Some(reason)) => reason,
            (Failure::Reset(reason), None) => *reason,
            (Failure::Answer(_), None) => Reason::CANCEL,
        };
        to_server.send_reset(reason);
    }
    result
}

/// Moves both bodies at the same time.
async fn transfer(
    request_body: &mut Body,
    request_ended: bool,
    to_server: &mut SendStream<Bytes>,
    response: ResponseFuture,
    responding: &mut Responding<'_>,
    exchange: &mut Exchange,
    shared: &Shared,
    method: &Method,
    forwarded_method: &Method,
    client_reset: &ResetCell,
) -> Result<(), Failure> {
    let mut up = pin!(async {
        if request_ended {
            return Ok(());
        }
        body::send(request_body, to_server).await
    });
    let mut down = pin!(download(
        response,
        responding,
        exchange,
        shared,
        method,
        forwarded_method
    ));
    let mut up_done = false;
    let mut down_done = false;
    poll_fn(|cx| {
        if !up_done && let Poll::Ready(sent) = up.as_mut().poll(cx) {
            up_done = true;
            match sent {
                // A reset from the server reaches the response side as well, after whatever it has
                // sent before (RFC 9113 §8.1 lets it answer early); that side decides.
                Ok(()) | Err(SendFailure::Reset(_)) => {}
                Err(SendFailure::Body) => {
                    let reason = client_reset.get().unwrap_or(Reason::INTERNAL_ERROR);
                    return Poll::Ready(Err(Failure::Reset(reason)));
                }
            }
        }
        if !down_done {
            match down.as_mut().poll(cx) {
                Poll::Ready(Ok(())) => down_done = true,
                Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
                Poll::Pending => {}
            }
        }
        // A response may be complete while the request still flows.
        if up_done && down_done {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Brings interim responses and the final one to the client.
async fn download(
    response: ResponseFuture,
    responding: &mut Responding<'_>,
    exchange: &mut Exchange,
    shared: &Shared,
    method: &Method,
    forwarded_method: &Method,
) -> Result<(), Failure> {
    let received = final_head(response, responding, shared).await?;
    answer(
        received,
        responding,
        exchange,
        shared,
        method,
        forwarded_method,
    )
    .await
}

/// Brings interim responses to the client until the final one is here.
pub(super) async fn final_head(
    mut response: ResponseFuture,
    responding: &mut Responding<'_>,
    shared: &Shared,
) -> Result<http::Response<h2::RecvStream>, Failure> {
    let mut interim_left = shared.limits.interim_count;
    poll_fn(|cx| {
        while let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            let interim = interim.map_err(|error| reset_of(&error))?;
            if interim_left == 0 {
                return Poll::Ready(Err(Failure::Answer(respond::Reason::Refused(
                    Side::Server,
                    Fault::InterimFlood,
                ))));
            }
            interim_left -= 1;
            // Fails only on a stream that the client has reset, which is noticed below.
            let _ = responding.respond.send_informational(interim);
        }
        if let Poll::Ready(reset) = responding.respond.poll_reset(cx) {
            return Poll::Ready(Err(Failure::Reset(reset.unwrap_or(Reason::CANCEL))));
        }
        let received = ready!(Pin::new(&mut response).poll(cx));
        Poll::Ready(received.map_err(|error| reset_of(&error)))
    })
    .await
}

/// Brings the final response to the client.
pub(super) async fn answer(
    received: http::Response<h2::RecvStream>,
    responding: &mut Responding<'_>,
    exchange: &mut Exchange,
    shared: &Shared,
    method: &Method,
    forwarded_method: &Method,
) -> Result<(), Failure> {
    let (parts, stream) = received.into_parts();
    let refused = |fault| Failure::Answer(respond::Reason::Refused(Side::Server, fault));
    let mut response = convert::response(&parts).map_err(refused)?;
    let server_reset: ResetCell = Rc::new(Cell::new(None));
    // The length of an answer to HEAD is that of content which does not come.
    let length = (forwarded_method != Method::HEAD)
        .then(|| convert::content_length(&parts.headers))
        .flatten();
    response.body = body::receive(stream, length, Rc::clone(&server_reset), None);
    {
        let mut seen = pin!(shared.chain.on_response(&mut response, exchange));
        watched(responding, seen.as_mut())
            .await?
            .map_err(|failure| failed(&failure))?;
    }
    send_response(&mut response, method, responding)
        .await
        .map_err(|failure| match server_reset.get() {
            Some(reason) => Failure::Reset(reason),
            None => failure,
        })
}

/// Sends a response with its body.
async fn send_response(
    response: &mut Response,
    to: &Method,
    responding: &mut Responding<'_>,
) -> Result<(), Failure> {
    let (head, ends) = convert::to_response(response, to);
    let mut stream = responding
        .respond
        .send_response(head, ends)
        .map_err(|error| reset_of(&error))?;
    responding.is_begun = true;
    if ends {
        return Ok(());
    }
    match body::send(&mut response.body, &mut stream).await {
        Ok(()) => Ok(()),
        Err(SendFailure::Reset(reason)) => Err(Failure::Reset(reason)),
        Err(SendFailure::Body) => Err(Failure::Reset(Reason::INTERNAL_ERROR)),
    }
}

/// Waits for an interceptor, but not longer than the client does.
pub(super) async fn watched<T>(
    responding: &mut Responding<'_>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Failure> {
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        if let Poll::Ready(reset) = responding.respond.poll_reset(cx) {
            return Poll::Ready(Err(Failure::Reset(reset.unwrap_or(Reason::CANCEL))));
        }
        Poll::Pending
    })
    .await
}

/// The answer that an interceptor's failure gives.
pub(super) fn failed(failure: &sdk::Failure) -> Failure {
    Failure::Answer(respond::Reason::InterceptorFailed(failure.status))
}

/// The reset that stands for an error of the server leg.
pub(super) fn reset_of(error: &h2::Error) -> Failure {
    match error.reason() {
        // Streams that a GOAWAY leaves out were not processed (RFC 9113 §6.8).
        Some(_) if error.is_go_away() => Failure::Reset(Reason::REFUSED_STREAM),
        Some(reason) => Failure::Reset(reason),
        None => Failure::Reset(Reason::CANCEL),
    }
}
