//! Shows what intercepted connections say in clear to whoever watches packets.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use dataplane::Leg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tap::ClearText;

/// A leg whose cleartext is told to somebody.
pub(crate) struct Told<S> {
    leg: S,
    told: Option<Box<dyn ClearText>>,
    /// What is read from this leg was said by the client.
    reads_client: bool,
}

impl<S> Told<S> {
    pub(crate) fn new(leg: S, which: Leg, told: Option<Box<dyn ClearText>>) -> Self {
        Self {
            leg,
            told,
            reads_client: which == Leg::Client,
        }
    }

    /// Tells what a write took of these pieces.
    fn tell_written(&mut self, mut count: usize, pieces: &[&[u8]]) {
        let Some(told) = &mut self.told else { return };
        for piece in pieces {
            let taken = piece.get(..count.min(piece.len())).unwrap_or_default();
            told.said(!self.reads_client, taken);
            count -= taken.len();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Told<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        ready!(Pin::new(&mut self.leg).poll_read(context, buf))?;
        let reads_client = self.reads_client;
        if let Some(told) = &mut self.told {
            match buf.filled().get(before..).unwrap_or_default() {
                [] if room => told.finished(reads_client),
                bytes => told.said(reads_client, bytes),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Told<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.leg).poll_write(context, bytes))?;
        self.tell_written(count, &[bytes]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.leg).poll_write_vectored(context, pieces))?;
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| &**piece).collect();
        self.tell_written(count, &pieces);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.leg.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.leg).poll_shutdown(context))?;
        let reads_client = self.reads_client;
        if let Some(told) = &mut self.told {
            told.finished(!reads_client);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[derive(Debug)]
    struct Words(Rc<RefCell<String>>);

    impl ClearText for Words {
        fn said(&mut self, by_client: bool, bytes: &[u8]) {
            let text = String::from_utf8_lossy(bytes);
            self.0
                .borrow_mut()
                .push_str(&format!("{by_client} {text};"));
        }

        fn finished(&mut self, by_client: bool) {
            self.0.borrow_mut().push_str(&format!("{by_client} ends;"));
        }
    }

    #[tokio::test]
    async fn what_is_read_and_written_is_told_with_who_said_it() {
        for (leg, expected) in [
            (
                Leg::Client,
                "true question;false answer;true ends;false ends;",
            ),
            (
                Leg::Server,
                "false question;true answer;false ends;true ends;",
            ),
        ] {
            let (mut peer, own) = tokio::io::duplex(64);
            let words = Rc::new(RefCell::new(String::new()));
            let mut told = Told::new(own, leg, Some(Box::new(Words(Rc::clone(&words)))));
            peer.write_all(b"question").await.unwrap();
            let mut buf = [0; 64];
            assert_eq!(told.read(&mut buf).await.unwrap(), 8);
            told.write_all(b"answer").await.unwrap();
            peer.shutdown().await.unwrap();
            assert_eq!(told.read(&mut buf).await.unwrap(), 0);
            told.shutdown().await.unwrap();
            assert_eq!(*words.borrow(), expected);
        }
    }
}
