//! Message bodies: streamed by default, buffered on demand and never without a limit.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use crate::Headers;

/// The body of a request or response.
///
/// The proxy works out the framing from what it finds here when the interceptors are done:
/// `Empty` and `Full` have a known length, a `Stream` has one when it says so and is sent
/// chunked (HTTP/1) or as plain DATA frames (HTTP/2) otherwise. An interceptor never has to set
/// Content-Length.
#[derive(Debug, Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes are here.
    Full(Bytes),
    /// Bytes that are still to come.
    Stream(BodyStream),
}

/// One piece of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Content.
    Data(Bytes),
    /// The fields after the content (RFC 9110 §6.5). Always the last frame.
    Trailers(Headers),
}

/// Why a body cannot be read to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// Somebody else gave the body up: the other side went away or the exchange was aborted.
    #[error("the body was abandoned before its end")]
    Aborted,
    /// The sender closed or reset its side before the announced end.
    #[error("the sender went away before the end of the body")]
    Incomplete,
    /// The framing is wrong; the text says how.
    #[error("the body is malformed: {0}")]
    Malformed(Cow<'static, str>),
    /// An interceptor in the middle of the stream refused to go on; the text says why.
    #[error("refused by an interceptor: {0}")]
    Refused(Cow<'static, str>),
    /// Nothing came for too long.
    #[error("the body stalled for too long")]
    TimedOut,
    /// More bytes than the caller of [`Body::buffer`] was ready to hold. The body is intact.
    #[error("the body is larger than {limit} bytes")]
    TooLarge {
        /// What the caller allowed, in bytes.
        limit: usize,
    },
}

type Frames = Pin<Box<dyn Stream<Item = Result<Frame, BodyError>>>>;

/// A body whose bytes are still to come.
///
/// Frames already read but given back (see [`Body::buffer`]) come first.
pub struct BodyStream {
    length: Option<u64>,
    ahead: VecDeque<Result<Frame, BodyError>>,
    rest: Option<Frames>,
}

impl fmt::Debug for BodyStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyStream")
            .field("length", &self.length)
            .field("frames_ahead", &self.ahead.len())
            .finish()
    }
}

/// What [`Body::buffer`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffered {
    /// The content.
    pub data: Bytes,
    /// The trailers, when the sender had any.
    pub trailers: Option<Headers>,
}

impl From<Buffered> for Body {
    fn from(buffered: Buffered) -> Self {
        match buffered.trailers {
            None if buffered.data.is_empty() => Self::Empty,
            None => Self::Full(buffered.data),
            Some(trailers) => {
                let mut ahead = VecDeque::with_capacity(2);
                if !buffered.data.is_empty() {
                    ahead.push_back(Ok(Frame::Data(buffered.data)));
                }
                ahead.push_back(Ok(Frame::Trailers(trailers)));
                // HTTP/1 can carry trailers only in a chunked body, hence no length.
                Self::Stream(BodyStream {
                    length: None,
                    ahead,
                    rest: None,
                })
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl Body {
    /// A body that will come from `frames`. `length` is the number of content bytes when it is
    /// known beforehand; the stream must then yield exactly as many.
    pub fn stream(
        length: Option<u64>,
        frames: impl Stream<Item = Result<Frame, BodyError>> + 'static,
    ) -> Self {
        Self::Stream(BodyStream {
            length,
            ahead: VecDeque::new(),
            rest: Some(Box::pin(frames)),
        })
    }

    /// Takes the body out and leaves an empty one.
    #[must_use]
    pub fn take(&mut self) -> Self {
        core::mem::take(self)
    }

    /// Reads the whole body, if it has at most `limit` bytes, and keeps it: whatever the outcome,
    /// the body afterwards yields the same bytes, trailers and error as before.
    ///
    /// Nothing is read when the announced length is over the limit already.
    ///
    /// # Errors
    /// [`BodyError::TooLarge`] when there is more than `limit` bytes, or the error with which the
    /// stream ended.
    pub async fn buffer(&mut self, limit: usize) -> Result<Buffered, BodyError> {
        let too_large = BodyError::TooLarge { limit };
        let stream = match self {
            Self::Empty => return Ok(Buffered::default()),
            Self::Full(data) if data.len() > limit => return Err(too_large),
            Self::Full(data) => {
                return Ok(Buffered {
                    data: data.clone(),
                    trailers: None,
                });
            }
            Self::Stream(stream) => stream,
        };
        if stream.length.is_some_and(|length| length > limit as u64) {
            return Err(too_large);
        }
        let mut read = Prefix {
            stream,
            data: Vec::new(),
        };
        let mut size = 0_usize;
        let trailers = loop {
            match read.stream.next().await {
                None => break None,
                Some(Ok(Frame::Trailers(trailers))) => break Some(trailers),
                Some(Ok(Frame::Data(data))) => {
                    size = size.saturating_add(data.len());
                    read.data.push(data);
                    if size > limit {
                        return Err(too_large);
                    }
                }
                Some(Err(error)) => {
                    read.stream.ahead.push_front(Err(error.clone()));
                    return Err(error);
                }
            }
        };
        let data = join(core::mem::take(&mut read.data), size);
        drop(read);
        let buffered = Buffered { data, trailers };
        *self = buffered.clone().into();
        Ok(buffered)
    }

    /// The next piece, or `None` at the end. Trailers, if any, come last.
    pub async fn next(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Body::next`], for those who write their own futures.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) => {
                let data = core::mem::take(data);
                *self = Self::Empty;
                Poll::Ready((!data.is_empty()).then_some(Ok(Frame::Data(data))))
            }
            Self::Stream(stream) => stream.poll_next(cx),
        }
    }

    /// The number of content bytes still to come, when that is known.
    #[must_use]
    pub fn known_length(&self) -> Option<u64> {
        match self {
            Self::Empty => Some(0),
            Self::Full(data) => Some(data.len() as u64),
            Self::Stream(stream) => stream.length,
        }
    }

    /// Whether it is certain that neither content nor trailers will come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(data) => data.is_empty(),
            Self::Stream(_) => false,
        }
    }
}

/// Gives the frames read so far back to the stream when dropped: on overflow, on an error, and
/// when the future that reads is cancelled half way.
struct Prefix<'a> {
    stream: &'a mut BodyStream,
    data: Vec<Bytes>,
}

impl Drop for Prefix<'_> {
    fn drop(&mut self) {
        for data in self.data.drain(..).rev() {
            if let Some(length) = &mut self.stream.length {
                *length += data.len() as u64;
            }
            self.stream.ahead.push_front(Ok(Frame::Data(data)));
        }
    }
}

fn join(mut pieces: Vec<Bytes>, size: usize) -> Bytes {
    if pieces.len() <= 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(size);
    for piece in &pieces {
        whole.extend_from_slice(piece);
    }
    whole.freeze()
}

impl BodyStream {
    async fn next(&mut self) -> Option<Result<Frame, BodyError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        let frame = match self.ahead.pop_front() {
            Some(frame) => Some(frame),
            None => match &mut self.rest {
                None => None,
                Some(rest) => match rest.as_mut().poll_next(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(frame) => frame,
                },
            },
        };
        match &frame {
            Some(Ok(Frame::Data(data))) => {
                if let Some(length) = &mut self.length {
                    *length = length.saturating_sub(data.len() as u64);
                }
            }
            // After the end, an error or the trailers nothing may follow.
            Some(Ok(Frame::Trailers(_)) | Err(_)) | None => self.rest = None,
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn pieces(length: Option<u64>, frames: Vec<Result<Frame, BodyError>>) -> Body {
        Body::stream(length, stream::iter(frames))
    }

    fn data(text: &'static str) -> Result<Frame, BodyError> {
        Ok(Frame::Data(Bytes::from_static(text.as_bytes())))
    }

    async fn drain(mut body: Body) -> (String, Option<Headers>, Option<BodyError>) {
        let (mut text, mut trailers, mut error) = (String::new(), None, None);
        while let Some(frame) = body.next().await {
            match frame {
                Ok(Frame::Data(data)) => text.push_str(core::str::from_utf8(&data).unwrap()),
                Ok(Frame::Trailers(fields)) => trailers = Some(fields),
                Err(e) => error = Some(e),
            }
        }
        (text, trailers, error)
    }

    #[tokio::test]
    async fn buffering_keeps_the_body_and_turns_it_into_one_piece() {
        let mut body = pieces(None, vec![data("ab"), data("cd"), data("e")]);
        assert_eq!(body.buffer(5).await.unwrap().data, "abcde");
        assert_eq!(body.known_length(), Some(5));
        assert_eq!(drain(body).await.0, "abcde");
    }

    #[tokio::test]
    async fn a_body_over_the_limit_stays_intact() {
        let mut body = pieces(None, vec![data("ab"), data("cd"), data("ef")]);
        assert_eq!(body.buffer(3).await, Err(BodyError::TooLarge { limit: 3 }));
        assert_eq!(body.known_length(), None);
        assert_eq!(drain(body).await, ("abcdef".into(), None, None));
    }

    #[tokio::test]
    async fn an_announced_length_over_the_limit_is_refused_without_reading() {
        let never =
            stream::poll_fn(|_| -> Poll<Option<Result<Frame, BodyError>>> { panic!("read") });
        let mut body = Body::stream(Some(10), never);
        assert_eq!(body.buffer(9).await, Err(BodyError::TooLarge { limit: 9 }));
        assert_eq!(body.known_length(), Some(10));
    }

    #[tokio::test]
    async fn a_lying_length_does_not_defeat_the_limit() {
        let mut body = pieces(Some(2), vec![data("abcd"), data("ef")]);
        assert_eq!(body.buffer(3).await, Err(BodyError::TooLarge { limit: 3 }));
        assert_eq!(drain(body).await.0, "abcdef");
    }

    #[tokio::test]
    async fn trailers_survive_buffering() {
        let trailers: Headers = [crate::Field {
            name: "X-Sum".parse().unwrap(),
            value: "1".parse().unwrap(),
        }]
        .into_iter()
        .collect();
        let mut body = pieces(
            None,
            vec![data("ab"), Ok(Frame::Trailers(trailers.clone()))],
        );
        assert_eq!(
            body.buffer(5).await.unwrap().trailers,
            Some(trailers.clone())
        );
        assert_eq!(drain(body).await, ("ab".into(), Some(trailers), None));
    }

    #[tokio::test]
    async fn an_error_while_buffering_is_seen_again_by_the_next_reader() {
        let mut body = pieces(Some(4), vec![data("ab"), Err(BodyError::Incomplete)]);
        assert_eq!(body.buffer(10).await, Err(BodyError::Incomplete));
        assert_eq!(body.known_length(), Some(4));
        assert_eq!(
            drain(body).await,
            ("ab".into(), None, Some(BodyError::Incomplete))
        );
    }

    #[tokio::test]
    async fn a_cancelled_read_loses_no_byte() {
        let mut first = true;
        let stalls = stream::poll_fn(move |cx| {
            if core::mem::take(&mut first) {
                return Poll::Ready(Some(data("ab")));
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        let mut body = Body::stream(Some(4), stalls);
        tokio::select! {
            biased;
            _ = body.buffer(10) => unreachable!("the stream never ends"),
            () = tokio::task::yield_now() => {}
        }
        assert_eq!(body.known_length(), Some(4));
        assert_eq!(body.next().await, Some(data("ab")));
    }

    #[tokio::test]
    async fn known_length_counts_down_and_nothing_follows_an_error() {
        let mut body = pieces(
            Some(4),
            vec![data("ab"), Err(BodyError::TimedOut), data("cd")],
        );
        assert_eq!(body.next().await, Some(data("ab")));
        assert_eq!(body.known_length(), Some(2));
        assert_eq!(body.next().await, Some(Err(BodyError::TimedOut)));
        assert_eq!(body.next().await, None);
    }

    #[tokio::test]
    async fn empty_and_full_bodies_end() {
        assert_eq!(Body::Empty.next().await, None);
        let mut full = Body::from("x");
        assert_eq!(full.next().await, Some(data("x")));
        assert_eq!(full.next().await, None);
        assert!(full.is_empty() && Body::from("").is_empty());
    }
}
