//! A byte stream in memory between two parties on one thread.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that one direction holds before its writer must wait: about what a socket holds.
pub(crate) const CAPACITY: usize = 256 * 1024;

/// One direction.
#[derive(Debug, Default)]
struct Half {
    bytes: VecDeque<u8>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end of a stream. It never ends: its users know how much to expect.
#[derive(Debug)]
pub(crate) struct End {
    incoming: Rc<RefCell<Half>>,
    outgoing: Rc<RefCell<Half>>,
}

/// Two ends that see each other's bytes.
pub(crate) fn pipe() -> (End, End) {
    let (one, two) = (
        Rc::<RefCell<Half>>::default(),
        Rc::<RefCell<Half>>::default(),
    );
    let near = End {
        incoming: Rc::clone(&one),
        outgoing: Rc::clone(&two),
    };
    let far = End {
        incoming: two,
        outgoing: one,
    };
    (near, far)
}

impl End {
    /// Lets `take` read what has arrived; `None` when nothing has.
    pub(crate) fn read_with<T>(
        &self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut VecDeque<u8>) -> T,
    ) -> Option<T> {
        let mut half = self.incoming.borrow_mut();
        if half.bytes.is_empty() {
            half.reader = Some(cx.waker().clone());
            return None;
        }
        let taken = take(&mut half.bytes);
        if let Some(writer) = half.writer.take() {
            writer.wake();
        }
        Some(taken)
    }

    /// Lets `give` write; `None` when the other side has not read enough.
    pub(crate) fn write_with<T>(
        &self,
        cx: &mut Context<'_>,
        give: impl FnOnce(&mut VecDeque<u8>) -> T,
    ) -> Option<T> {
        let mut half = self.outgoing.borrow_mut();
        if half.bytes.len() >= CAPACITY {
            half.writer = Some(cx.waker().clone());
            return None;
        }
        let given = give(&mut half.bytes);
        if let Some(reader) = half.reader.take() {
            reader.wake();
        }
        Some(given)
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.read_with(cx, |bytes| {
            let count = bytes.read(out.initialize_unfilled())?;
            out.advance(count);
            Ok(())
        });
        read.map_or(Poll::Pending, Poll::Ready)
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.write_with(cx, |bytes| {
            bytes.extend(data);
            Ok(data.len())
        });
        written.map_or(Poll::Pending, Poll::Ready)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.write_with(cx, |bytes| {
            Ok(parts
                .iter()
                .map(|part| {
                    bytes.extend(&**part);
                    part.len()
                })
                .sum())
        });
        written.map_or(Poll::Pending, Poll::Ready)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
