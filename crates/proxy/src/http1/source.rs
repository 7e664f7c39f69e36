//! The reading side of an HTTP/1 leg: heads, and bodies as streams that read from the leg when they
//! are asked and never before.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::Stream;
use sdk::{Body, BodyError, Frame};

use super::decode::{Decoded, Decoder, Framing};
use super::scan::{Block, Scan};
use crate::error::{Fault, ProxyError, Side};
use crate::limits::{Limits, SoftLimit};
use crate::pace::Pace;
use crate::stream::Inbound;

/// A leg's reading half and the message that is being read from it.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) inbound: Inbound,
    side: Side,
    limits: Rc<Limits>,
    scan: Scan,
    decoder: Decoder,
    /// Counts messages, so that the body of an earlier one can read nothing of a later one.
    message: u64,
    /// Content bytes of the current message so far.
    content_bytes: u64,
    /// How fast the current body comes, where that is limited.
    pace: Option<Pace>,
    /// Why the current body failed.
    failure: Option<ProxyError>,
}

/// What became of waiting for a head.
#[derive(Debug)]
pub(crate) enum HeadPoll {
    /// The whole head, taken off the buffer.
    Head(Bytes, Block),
    /// The peer ended its direction before the first byte of a head.
    Finished,
}

impl Source {
    pub(crate) fn new(inbound: Inbound, side: Side, limits: Rc<Limits>) -> Self {
        Self {
            inbound,
            side,
            limits,
            scan: Scan::default(),
            decoder: Decoder::Done,
            message: 0,
            content_bytes: 0,
            pace: None,
            failure: None,
        }
    }

    /// Whether some bytes of a head, and not all, have come.
    pub(crate) fn is_mid_head(&self) -> bool {
        !self.inbound.buffer.is_empty()
    }

    /// Whether everything of the current message was read.
    pub(crate) fn is_message_complete(&self) -> bool {
        self.decoder.is_done()
    }

    /// Whether any byte of the current body has been read.
    pub(crate) fn has_content(&self) -> bool {
        self.content_bytes > 0
    }

    /// Why the current body failed, if it did.
    pub(crate) fn take_failure(&mut self) -> Option<ProxyError> {
        self.failure.take()
    }

    /// Reads until a head is complete.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<HeadPoll, ProxyError>> {
        loop {
            if let Some(found) = self.find_head()? {
                return Poll::Ready(Ok(found));
            }
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(if self.inbound.buffer.is_empty() {
                    Ok(HeadPoll::Finished)
                } else {
                    Err(self.fault(Fault::HeadTruncated))
                });
            }
        }
    }

    /// Looks for a complete head in what has been read.
    pub(crate) fn find_head(&mut self) -> Result<Option<HeadPoll>, ProxyError> {
        let at_start = self.scan.first_line_so_far() == Some(0);
        if at_start && self.side == Side::Client && self.inbound.buffer.starts_with(b"\r\n") {
            // RFC 9112 §2.2: at least one empty line before a request line is to be ignored. More
            // than one falls through to the parser, which refuses it.
            let _ = self.inbound.buffer.split_to(2);
        }
        let found = self
            .scan
            .advance(&self.inbound.buffer, self.limits.head_bytes, false)
            .map_err(|fault| self.fault(fault))?;
        match found {
            Some(block) => {
                self.scan = Scan::default();
                let head = self.inbound.buffer.split_to(block.len).freeze();
                Ok(Some(HeadPoll::Head(head, block)))
            }
            None => {
                // The target is the only part of a request line that has a limit of its own.
                let line = self.scan.first_line_so_far().unwrap_or(0);
                if self.side == Side::Client && line > self.limits.target_bytes + 64 {
                    return Err(self.fault(Fault::TargetTooLong));
                }
                Ok(None)
            }
        }
    }

    /// Reads ahead while something else is waited for; keeps at most a small amount.
    ///
    /// Ready only when the leg has failed: this is how the loss of a peer is noticed early.
    pub(crate) fn poll_watch(&mut self, cx: &mut Context<'_>) -> Poll<ProxyError> {
        const READ_AHEAD: usize = 16 * 1024;
        loop {
            if self.inbound.buffer.len() >= READ_AHEAD {
                return Poll::Pending;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => return Poll::Pending,
                Ok(_) => {}
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Reads more, whatever it is; 0 means that the peer has ended its direction.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ProxyError>> {
        let filled = ready!(self.inbound.poll_fill(cx));
        Poll::Ready(filled.map_err(|error| self.io_error(error)))
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, BodyError>>> {
        if self.failure.is_some() {
            return Poll::Ready(Some(Err(BodyError::Incomplete)));
        }
        loop {
            match self.decoder.decode(&mut self.inbound.buffer, &self.limits) {
                Ok(Decoded::Data(data)) => {
                    self.content_bytes = self.content_bytes.wrapping_add(data.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::Data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    return Poll::Ready(Some(Ok(Frame::Trailers(trailers))));
                }
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::NeedMore) => {}
                Err(fault) => {
                    self.failure = Some(self.fault(fault));
                    let error = BodyError::Malformed(fault.as_str().into());
                    return Poll::Ready(Some(Err(error)));
                }
            }
            let filled = self.poll_fill(cx);
            if let Some(pace) = &mut self.pace {
                match &filled {
                    Poll::Pending if pace.is_too_slow(cx) => {
                        self.failure = Some(self.fault(Fault::SlowBody));
                        return Poll::Ready(Some(Err(BodyError::TimedOut)));
                    }
                    Poll::Ready(Ok(count)) => pace.advance(*count),
                    Poll::Pending | Poll::Ready(Err(_)) => {}
                }
            }
            match ready!(filled) {
                Ok(0) => match self.decoder.end_of_stream(self.inbound.is_unclean()) {
                    Ok(()) => return Poll::Ready(None),
                    Err(fault) => {
                        self.failure = Some(self.fault(fault));
                        return Poll::Ready(Some(Err(BodyError::Incomplete)));
                    }
                },
                Ok(_) => {}
                Err(error) => {
                    self.failure = Some(error);
                    return Poll::Ready(Some(Err(BodyError::Incomplete)));
                }
            }
        }
    }

    /// Reads what is left of the current body and throws it away, up to `limit` bytes.
    /// The answer says whether the body was complete within the limit.
    pub(crate) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        left: &mut u64,
    ) -> Poll<Result<bool, ProxyError>> {
        loop {
            match ready!(self.poll_frame(cx)) {
                None => return Poll::Ready(Ok(true)),
                Some(Ok(Frame::Trailers(_))) => {}
                Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len() as u64) {
                    Some(less) => *left = less,
                    None => {
                        SoftLimit::Drain.count();
                        return Poll::Ready(Ok(false));
                    }
                },
                Some(Err(_)) => {
                    return Poll::Ready(Err(self
                        .take_failure()
                        .unwrap_or_else(|| self.fault(Fault::BodyTruncated))));
                }
            }
        }
    }

    pub(crate) fn fault(&self, fault: Fault) -> ProxyError {
        ProxyError::Peer {
            side: self.side,
            fault,
        }
    }

    fn io_error(&self, error: std::io::Error) -> ProxyError {
        ProxyError::Io {
            side: self.side,
            error,
        }
    }
}

/// Begins the body of a message whose head was just read.
pub(crate) fn begin_body(source: &Rc<RefCell<Source>>, framing: Framing) -> Body {
    let message = {
        let mut source = source.borrow_mut();
        source.decoder = Decoder::new(framing);
        source.message = source.message.wrapping_add(1);
        source.content_bytes = 0;
        source.failure = None;
        let is_limited = source.side == Side::Client && matches!(framing, Framing::Length(1..));
        source.pace = is_limited.then(|| Pace::new(&source.limits)).flatten();
        source.message
    };
    let length = match framing {
        Framing::None | Framing::Length(0) => return Body::Empty,
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::ToEnd => None,
    };
    Body::stream(
        length,
        Frames {
            source: Rc::clone(source),
            message,
        },
    )
}

/// The body of one message.
struct Frames {
    source: Rc<RefCell<Source>>,
    message: u64,
}

impl Stream for Frames {
    type Item = Result<Frame, BodyError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut source = self.source.borrow_mut();
        if source.message != self.message {
            return Poll::Ready(Some(Err(BodyError::Aborted)));
        }
        source.poll_frame(cx)
    }
}
