//! Ends as the other host made them.
//!
//! An end of data without `close_notify` may have been made by somebody on the way (RFC 8446 §6.1). Whoever
//! reads it from one leg must not see an orderly end on the other, where flowdog would vouch for it.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::{Session, TlsStream};

/// A stream that can end without saying so in the words of TLS.
pub trait Cut {
    /// Ends the leg below after what was written, without `close_notify`.
    ///
    /// # Errors
    /// Those of the leg.
    fn poll_cut(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

impl<L: AsyncRead + AsyncWrite + Unpin, S: Session> Cut for TlsStream<L, S> {
    fn poll_cut(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_end(cx)
    }
}

/// One of two legs, made by [`ends_alike`].
#[derive(Debug)]
pub struct EndsAlike<T> {
    stream: T,
    /// This leg has ended without `close_notify`.
    is_cut: Rc<Cell<bool>>,
    /// The other leg has.
    other_is_cut: Rc<Cell<bool>>,
}

/// Ties two legs together: `shutdown` of one sends no `close_notify` once the other has ended without.
#[must_use]
pub fn ends_alike<A, B>(client: A, server: B) -> (EndsAlike<A>, EndsAlike<B>) {
    let (client_is_cut, server_is_cut) = (Rc::default(), Rc::default());
    let server = EndsAlike {
        stream: server,
        is_cut: Rc::clone(&server_is_cut),
        other_is_cut: Rc::clone(&client_is_cut),
    };
    let client = EndsAlike {
        stream: client,
        is_cut: client_is_cut,
        other_is_cut: server_is_cut,
    };
    (client, server)
}

impl<T: AsyncRead + Unpin> AsyncRead for EndsAlike<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, space));
        if let Err(error) = &read
            && error.kind() == io::ErrorKind::UnexpectedEof
        {
            self.is_cut.set(true);
        }
        Poll::Ready(read)
    }
}

impl<T: AsyncWrite + Cut + Unpin> AsyncWrite for EndsAlike<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.other_is_cut.get() {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            return Pin::new(&mut self.stream).poll_cut(cx);
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
