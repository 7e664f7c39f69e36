//! Bodies over streams: window is given back to the sender only as the other side takes the data.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use h2::{Reason, RecvStream, SendStream};
use sdk::{Body, BodyError, Frame, Headers};

use super::convert;
use crate::error::{Fault, count_refused};
use crate::pace::Pace;

/// Why the peer's side of a stream ended early, when it did.
pub(super) type ResetCell = Rc<Cell<Option<Reason>>>;

/// Makes a body of a received stream, which fails when it is slower than `pace`.
pub(super) fn receive(
    stream: RecvStream,
    length: Option<u64>,
    reset: ResetCell,
    pace: Option<Pace>,
) -> Body {
    if stream.is_end_stream() {
        return Body::Empty;
    }
    Body::stream(
        length,
        Received {
            stream,
            unreleased: 0,
            state: State::Data,
            reset,
            pace,
        },
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Data,
    Trailers,
    Ended,
}

/// The receiving half of a stream.
struct Received {
    stream: RecvStream,
    /// Bytes handed out whose window has not been given back.
    unreleased: usize,
    state: State,
    reset: ResetCell,
    pace: Option<Pace>,
}

impl Received {
    fn fail(&mut self, error: &h2::Error) -> Result<Frame, BodyError> {
        self.state = State::Ended;
        self.reset
            .set(Some(error.reason().unwrap_or(Reason::CANCEL)));
        Err(BodyError::Incomplete)
    }
}

impl Stream for Received {
    type Item = Result<Frame, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Being asked for more says that the frame before has found a place.
        let unreleased = std::mem::take(&mut this.unreleased);
        if unreleased > 0 {
            // Fails only on a stream that is closed, where no window matters.
            let _ = this.stream.flow_control().release_capacity(unreleased);
        }
        if this.state == State::Data {
            let polled = this.stream.poll_data(cx);
            if let Some(pace) = &mut this.pace {
                match &polled {
                    Poll::Pending if pace.is_too_slow(cx) => {
                        count_refused(Fault::SlowBody);
                        this.state = State::Ended;
                        this.reset.set(Some(Reason::ENHANCE_YOUR_CALM));
                        return Poll::Ready(Some(Err(BodyError::TimedOut)));
                    }
                    Poll::Ready(Some(Ok(data))) => pace.advance(data.len()),
                    Poll::Pending | Poll::Ready(Some(Err(_)) | None) => {}
                }
            }
            match ready!(polled) {
                Some(Ok(data)) => {
                    this.unreleased = data.len();
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(this.fail(&error))),
                None => this.state = State::Trailers,
            }
        }
        if this.state == State::Trailers {
            match ready!(this.stream.poll_trailers(cx)) {
                Ok(trailers) => {
                    this.state = State::Ended;
                    if let Some(trailers) = trailers {
                        if !convert::are_values_clean(&trailers) {
                            this.reset.set(Some(Reason::PROTOCOL_ERROR));
                            return Poll::Ready(Some(Err(BodyError::Malformed(
                                "trailers with white space around a value".into(),
                            ))));
                        }
                        return Poll::Ready(Some(Ok(Frame::Trailers(Headers::from(&trailers)))));
                    }
                }
                Err(error) => return Poll::Ready(Some(this.fail(&error))),
            }
        }
        Poll::Ready(None)
    }
}

/// Why a body could not be sent.
#[derive(Debug)]
pub(super) enum SendFailure {
    /// The source failed; its reset cell says why, where it is a stream.
    Body,
    /// The receiving peer reset the stream, or its connection failed.
    Reset(Reason),
}

/// Sends a body, as fast as the receiver opens its window, and ends the stream.
pub(super) async fn send(
    body: &mut Body,
    stream: &mut SendStream<Bytes>,
) -> Result<(), SendFailure> {
    loop {
        let frame = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(SendFailure::Reset(reset.unwrap_or(Reason::CANCEL))));
            }
            body.poll_next(cx).map(Ok)
        })
        .await?;
        match frame {
            None => return finish(stream.send_data(Bytes::new(), true)),
            Some(Err(error)) => {
                tracing::debug!(%error, "body failed");
                return Err(SendFailure::Body);
            }
            Some(Ok(Frame::Trailers(trailers))) => {
                return finish(stream.send_trailers(convert::to_map(&trailers)));
            }
            Some(Ok(Frame::Data(data))) => send_data(data, stream).await?,
        }
    }
}

async fn send_data(mut data: Bytes, stream: &mut SendStream<Bytes>) -> Result<(), SendFailure> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|cx| {
            if let Poll::Ready(reset) = stream.poll_reset(cx) {
                return Poll::Ready(Err(SendFailure::Reset(reset.unwrap_or(Reason::CANCEL))));
            }
            match ready!(stream.poll_capacity(cx)) {
                Some(Ok(granted)) => Poll::Ready(Ok(granted)),
                Some(Err(error)) => Poll::Ready(Err(failure(&error))),
                None => Poll::Ready(Err(SendFailure::Reset(Reason::CANCEL))),
            }
        })
        .await?;
        let part = data.split_to(granted.min(data.len()));
        if !part.is_empty() {
            stream
                .send_data(part, false)
                .map_err(|error| failure(&error))?;
        }
    }
    Ok(())
}

fn finish(sent: Result<(), h2::Error>) -> Result<(), SendFailure> {
    sent.map_err(|error| failure(&error))
}

fn failure(error: &h2::Error) -> SendFailure {
    SendFailure::Reset(error.reason().unwrap_or(Reason::CANCEL))
}
