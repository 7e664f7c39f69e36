//! A TCP connection of a user-space host as an async stream.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stack;

/// One connection. Shutting down sends FIN; dropping lets queued data go out, as a kernel's close does.
#[derive(Debug)]
pub struct StackStream {
    stack: Stack,
    handle: SocketHandle,
    local: SocketAddr,
    peer: SocketAddr,
}

impl StackStream {
    pub(super) fn new(
        stack: Stack,
        handle: SocketHandle,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Self {
        Self {
            stack,
            handle,
            local,
            peer,
        }
    }

    pub(super) fn handle(&self) -> SocketHandle {
        self.handle
    }

    /// This host's end.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The other end.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Resets the connection.
    pub fn abort(&self) {
        self.with(|socket| socket.abort());
        self.stack.kick();
    }

    fn with<T>(&self, function: impl FnOnce(&mut tcp::Socket<'static>) -> T) -> T {
        function(
            self.stack
                .host()
                .sockets
                .get_mut::<tcp::Socket<'static>>(self.handle),
        )
    }
}

impl AsyncRead for StackStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.with(
            |socket| match socket.recv_slice(buffer.initialize_unfilled()) {
                Ok(0) if buffer.remaining() > 0 => {
                    socket.register_recv_waker(context.waker());
                    Poll::Pending
                }
                Ok(len) => Poll::Ready(Ok(len)),
                Err(tcp::RecvError::Finished) => Poll::Ready(Ok(0)),
                Err(tcp::RecvError::InvalidState) => {
                    Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
                }
            },
        );
        if let Poll::Ready(Ok(len)) = read {
            buffer.advance(len);
            self.stack.kick();
        }
        read.map_ok(|_| ())
    }
}

impl AsyncWrite for StackStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.with(|socket| match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
            Ok(len) => Poll::Ready(Ok(len)),
            Err(tcp::SendError::InvalidState) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        });
        if written.is_ready() {
            self.stack.kick();
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|socket| socket.close());
        self.stack.kick();
        Poll::Ready(Ok(()))
    }
}

impl Drop for StackStream {
    fn drop(&mut self) {
        let mut host = self.stack.host();
        host.sockets
            .get_mut::<tcp::Socket<'static>>(self.handle)
            .close();
        host.orphans.push((self.handle, Instant::now()));
        drop(host);
        self.stack.kick();
    }
}
