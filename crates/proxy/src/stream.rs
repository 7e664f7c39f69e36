//! The two halves of a leg: an [`Inbound`] that reads into one buffer, and an [`Outbound`] that
//! gathers what is to be written so that a head and its first data leave in one write.
//!
//! Both halves of a leg are driven from one task, so a `RefCell` shares the stream between them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::error::{ProxyError, Side};

/// A leg's byte stream, without its concrete type: one copy of the protocol code serves them all.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// Counts progress on either leg, for the idle time-out and the summary.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Bytes read from the client.
    pub(crate) from_client: Cell<u64>,
    /// Bytes read from the server.
    pub(crate) from_server: Cell<u64>,
    /// Bytes written, to either side.
    pub(crate) written: Cell<u64>,
}

impl Progress {
    /// A value that differs whenever a byte has moved.
    pub(crate) fn total(&self) -> u64 {
        self.from_client
            .get()
            .wrapping_add(self.from_server.get())
            .wrapping_add(self.written.get())
    }
}

/// Room made for a read. 16 KiB: the most plain text in one TLS record.
const READ_SIZE: usize = 16 * 1024;

/// Where in an allocation a long read begins. Bodies go on from where they were read, and whoever
/// encrypts them copies them a few bytes behind the beginning of another allocation; from the beginning
/// of one to there some processors copy at a twentieth of their speed.
const READ_OFFSET: usize = 64;

thread_local! {
    /// Where reads of legs go that are not busy, so that a short message costs no long buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_SIZE].into());
}

/// Data up to this size is copied behind what is already gathered; larger data is queued by reference.
const COPY_LIMIT: usize = 2048;

/// Gathered bytes beyond which a writer must wait for the stream. 64 KiB.
pub(crate) const HIGH_WATER: usize = 64 * 1024;

/// Splits a stream into its halves.
pub(crate) fn split(
    io: Box<dyn Io>,
    progress: Rc<Progress>,
    from_client: bool,
) -> (Inbound, Outbound) {
    let vectored = io.is_write_vectored();
    let io = Rc::new(RefCell::new(io));
    let inbound = Inbound {
        io: Rc::clone(&io),
        buffer: BytesMut::new(),
        is_busy: false,
        finished: false,
        is_unclean: false,
        progress: Rc::clone(&progress),
        from_client,
    };
    let outbound = Outbound {
        io,
        gathered: BytesMut::new(),
        queue: VecDeque::new(),
        queued: 0,
        vectored,
        unflushed: false,
        progress,
    };
    (inbound, outbound)
}

/// The reading half of a leg.
pub(crate) struct Inbound {
    io: Rc<RefCell<Box<dyn Io>>>,
    /// What was read and not yet taken.
    pub(crate) buffer: BytesMut,
    /// Whether the last read brought so much that the next will, too.
    is_busy: bool,
    /// Whether the peer has ended its direction.
    finished: bool,
    /// Whether that end came without the closure alert of TLS (RFC 8446 §6.1).
    is_unclean: bool,
    progress: Rc<Progress>,
    from_client: bool,
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbound")
            .field("buffered", &self.buffer.len())
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

impl Inbound {
    /// Reads more; 0 means that the peer has ended its direction.
    ///
    /// A buffer is only held while there are bytes in it: a stream that has nothing to give leaves
    /// none behind, so that an idle connection costs no buffer.
    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Ok(0));
        }
        let polled = if self.is_busy {
            self.poll_read_directly(cx)
        } else {
            self.poll_read_briefly(cx)
        };
        if polled.is_pending() {
            self.is_busy = false;
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
        }
        let count = self.count(ready!(polled))?;
        self.is_busy = count >= READ_SIZE / 2;
        self.note(count);
        Poll::Ready(Ok(count))
    }

    fn poll_read_directly(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.capacity() - self.buffer.len() < READ_SIZE / 4 {
            self.buffer.reserve(READ_SIZE + READ_OFFSET);
            if self.buffer.is_empty() {
                // It may be a body that is encrypted again from here.
                self.buffer.resize(READ_OFFSET, 0);
                self.buffer.advance(READ_OFFSET);
            }
        }
        poll_read_buf(&mut **self.io.borrow_mut(), cx, &mut self.buffer)
    }

    fn poll_read_briefly(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        SCRATCH.with(|scratch| {
            let Ok(mut scratch) = scratch.try_borrow_mut() else {
                return self.poll_read_directly(cx);
            };
            let mut space = ReadBuf::new(&mut scratch);
            ready!(Pin::new(&mut **self.io.borrow_mut()).poll_read(cx, &mut space))?;
            self.buffer.extend_from_slice(space.filled());
            Poll::Ready(Ok(space.filled().len()))
        })
    }

    /// Whether the peer's end may have been made up by somebody on the way: it must not end a message
    /// that has no end of its own.
    pub(crate) fn is_unclean(&self) -> bool {
        self.is_unclean
    }

    /// Takes an end without a closure alert for an end: many peers leave the alert out.
    fn count(&mut self, read: io::Result<usize>) -> io::Result<usize> {
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.is_unclean = true;
                Ok(0)
            }
            other => other,
        }
    }

    /// Notes what a read has brought; nothing is the end.
    fn note(&mut self, count: usize) {
        self.finished = count == 0;
        let counter = if self.from_client {
            &self.progress.from_client
        } else {
            &self.progress.from_server
        };
        counter.set(counter.get().wrapping_add(count as u64));
    }

    /// Waits until either half has bytes or has ended.
    pub(crate) async fn wait_for_either(&mut self, other: &mut Self) -> Result<(), ProxyError> {
        poll_fn(|cx| {
            for (half, side) in [(&mut *self, Side::Client), (&mut *other, Side::Server)] {
                if !half.buffer.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                match half.poll_fill(cx) {
                    Poll::Ready(Ok(_)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(ProxyError::Io { side, error }));
                    }
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes the reading half over; what stays behind reads as ended.
    pub(crate) fn take(&mut self) -> Self {
        let taken = Self {
            io: Rc::clone(&self.io),
            buffer: std::mem::take(&mut self.buffer),
            is_busy: self.is_busy,
            finished: self.finished,
            is_unclean: self.is_unclean,
            progress: Rc::clone(&self.progress),
            from_client: self.from_client,
        };
        self.finished = true;
        taken
    }
}

/// The `poll` form of `AsyncReadExt::read_buf`.
fn poll_read_buf(
    io: &mut dyn Io,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    // `read_buf` keeps no state between polls (it is documented as cancel safe), so a new future
    // for each poll is the same as one future polled again.
    pin!(io.read_buf(buffer)).poll(cx)
}

/// The writing half of a leg.
pub(crate) struct Outbound {
    io: Rc<RefCell<Box<dyn Io>>>,
    /// Small pieces, in order, after everything in `queue`.
    gathered: BytesMut,
    /// What is to be written before `gathered`.
    queue: VecDeque<Bytes>,
    /// Bytes in `queue`.
    queued: usize,
    vectored: bool,
    /// Whether something was written since the last flush.
    unflushed: bool,
    progress: Rc<Progress>,
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound")
            .field("pending", &self.pending())
            .finish_non_exhaustive()
    }
}

impl Outbound {
    /// Bytes that wait to be written.
    pub(crate) fn pending(&self) -> usize {
        self.queued + self.gathered.len()
    }

    /// The buffer that small pieces are appended to.
    pub(crate) fn gather(&mut self) -> &mut BytesMut {
        &mut self.gathered
    }

    /// Appends bytes, by reference where they are many.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_LIMIT {
            self.gathered.extend_from_slice(&bytes);
        } else {
            self.seal();
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Writes until at most `high` bytes wait.
    pub(crate) fn poll_below(&mut self, cx: &mut Context<'_>, high: usize) -> Poll<io::Result<()>> {
        while self.pending() > high {
            ready!(self.poll_write_once(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything and flushes the stream.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_below(cx, 0))?;
        if self.unflushed {
            ready!(Pin::new(&mut **self.io.borrow_mut()).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes everything and flushes the stream.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Gives back the room of what was written, for nothing will be for now.
    pub(crate) fn rest(&mut self) {
        if self.pending() == 0 {
            self.gathered = BytesMut::new();
            self.queue = VecDeque::new();
        }
    }

    /// Writes everything, then ends this direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut **self.io.borrow_mut()).poll_shutdown(cx)
    }

    /// Writes everything, then ends this direction.
    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_shutdown(cx)).await
    }

    /// Moves the gathered pieces to the queue.
    fn seal(&mut self) {
        if !self.gathered.is_empty() {
            self.queued += self.gathered.len();
            self.queue.push_back(self.gathered.split().freeze());
        }
    }

    fn poll_write_once(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.queue.is_empty() {
            self.seal();
        }
        let written = ready!(self.poll_write_front(cx))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.unflushed = true;
        self.progress
            .written
            .set(self.progress.written.get().wrapping_add(written as u64));
        self.consume(written);
        Poll::Ready(Ok(()))
    }

    /// Offers the stream as much of what waits as it takes in one call.
    fn poll_write_front(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut io = self.io.borrow_mut();
        let io = Pin::new(&mut **io);
        if !self.vectored || (self.queue.len() <= 1 && self.gathered.is_empty()) {
            let piece = self.queue.front().map_or(&[][..], |piece| &piece[..]);
            return io.poll_write(cx, piece);
        }
        let mut slices = [IoSlice::new(&[]); 16];
        let pieces = self.queue.iter().map(|piece| &piece[..]);
        let pieces = pieces.chain(std::iter::once(&self.gathered[..]));
        let mut used = 0;
        for (slot, piece) in slices.iter_mut().zip(pieces) {
            *slot = IoSlice::new(piece);
            used += 1;
        }
        io.poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
    }

    /// Takes written bytes off the front.
    fn consume(&mut self, mut written: usize) {
        while let Some(front) = self.queue.front_mut() {
            if written == 0 {
                return;
            }
            let step = written.min(front.len());
            front.advance(step);
            self.queued -= step;
            written -= step;
            if front.is_empty() {
                self.queue.pop_front();
            }
        }
        self.gathered.advance(written.min(self.gathered.len()));
    }
}

/// A leg put together again, for a library that wants one stream.
pub(crate) struct Joined {
    inbound: Inbound,
    io: Rc<RefCell<Box<dyn Io>>>,
    vectored: bool,
    progress: Rc<Progress>,
}

impl fmt::Debug for Joined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joined").finish_non_exhaustive()
    }
}

impl Joined {
    /// Both halves of one leg, before anything was written to it.
    pub(crate) fn new(inbound: Inbound, outbound: Outbound) -> Self {
        Self {
            inbound,
            io: outbound.io,
            vectored: outbound.vectored,
            progress: outbound.progress,
        }
    }

    fn note_written(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(written)) = written {
            let total = self.progress.written.get();
            self.progress
                .written
                .set(total.wrapping_add(*written as u64));
        }
    }
}

impl AsyncRead for Joined {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let buffered = &mut self.inbound.buffer;
        if !buffered.is_empty() {
            let step = buffered.len().min(space.remaining());
            space.put_slice(&buffered.split_to(step));
            return Poll::Ready(Ok(()));
        }
        if self.inbound.finished {
            return Poll::Ready(Ok(()));
        }
        let before = space.filled().len();
        let read = ready!(Pin::new(&mut **self.io.borrow_mut()).poll_read(cx, space));
        let filled = space.filled().len().saturating_sub(before);
        let count = self.inbound.count(read.map(|()| filled))?;
        self.inbound.note(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Joined {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut **self.io.borrow_mut()).poll_write(cx, bytes);
        self.note_written(&written);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut **self.io.borrow_mut()).poll_write_vectored(cx, slices);
        self.note_written(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.io.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut **self.io.borrow_mut()).poll_shutdown(cx)
    }
}
