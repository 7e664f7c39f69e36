//! A stream that gives back bytes read ahead, and remembers the last ones read.
//!
//! hyper lower-cases the names of HTTP/1 fields. To report a request head as it came, the bytes under
//! hyper are kept for a while and the head is looked up in them.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How many bytes are remembered at least; longer request heads than this are not served anyhow.
const MAX_REMEMBERED: usize = 320 * 1024;

/// The bytes last read from a stream.
#[derive(Clone, Debug, Default)]
pub(super) struct Recording(Rc<RefCell<Vec<u8>>>);

impl Recording {
    fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.borrow_mut();
        kept.extend_from_slice(bytes);
        // Moving the rest is worth it only now and then.
        if kept.len() > 2 * MAX_REMEMBERED {
            let excess = kept.len() - MAX_REMEMBERED;
            kept.drain(..excess);
        }
    }

    /// Takes out the field lines of the next request head with this method and target, as (name,
    /// value) in order; what was read before the head's end is forgotten. `None` if it is not found.
    pub(super) fn take_fields(&self, method: &str, target: &str) -> Option<Vec<(String, String)>> {
        let mut kept = self.0.borrow_mut();
        let line = format!("{method} {target} HTTP/1.");
        let start = find(&kept, line.as_bytes())?;
        let end = start + find(kept.get(start..)?, b"\r\n\r\n")? + 4;
        let head: Vec<u8> = kept.drain(..end).skip(start).collect();
        let text = String::from_utf8_lossy(&head);
        let fields = text
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        Some(fields)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

/// A stream with some bytes before it, and optionally a recording of what is read.
#[derive(Debug)]
pub(super) struct Prefixed<S> {
    prefix: Bytes,
    stream: S,
    recording: Option<Recording>,
}

impl<S> Prefixed<S> {
    pub(super) fn new(prefix: Bytes, stream: S) -> Self {
        Self {
            prefix,
            stream,
            recording: None,
        }
    }

    pub(super) fn recorded(mut self, recording: Recording) -> Self {
        self.recording = Some(recording);
        self
    }

    /// Ends the recording.
    pub(super) fn recording_off(&mut self) {
        self.recording = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.prefix.has_remaining() {
            let len = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(len));
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        }
        if let (Some(recording), Some(read)) = (&self.recording, buf.filled().get(before..)) {
            recording.push(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
