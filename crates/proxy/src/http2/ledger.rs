//! What the HTTP/2 library does by itself on the client's leg, counted.
//!
//! It refuses streams beyond the limit and answers SETTINGS and PING without telling anybody, so the
//! frames are looked at on their way: nine bytes of each, and the code of a reset. Nothing is changed or
//! kept.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::limits::SoftLimit;

/// RFC 9113 §3.4: what a client sends before its first frame.
const PREFACE: usize = 24;
/// RFC 9113 §4.1.
const HEAD: usize = 9;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;
const REFUSED_STREAM: u32 = 7;
/// SETTINGS and PING of a client in a second that are no flood. Browsers send one of either at times.
const CONTROL: u32 = 100;

/// A leg whose frames are looked at.
pub(super) struct Ledger<S> {
    leg: S,
    read: Walker,
    written: Walker,
    second: Instant,
    control: u32,
}

impl<S> Ledger<S> {
    pub(super) fn new(leg: S) -> Self {
        Self {
            leg,
            read: Walker {
                skip: PREFACE,
                ..Walker::default()
            },
            written: Walker::default(),
            second: Instant::now(),
            control: 0,
        }
    }

    fn was_read(&mut self, bytes: &[u8]) {
        let mut control = 0;
        self.read.walk(bytes, |frame| {
            let asks = matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0;
            control += u32::from(asks);
        });
        if control == 0 {
            return;
        }
        if self.second.elapsed() >= std::time::Duration::from_secs(1) {
            self.second = Instant::now();
            self.control = 0;
        }
        let before = self.control;
        self.control = before.saturating_add(control);
        if before <= CONTROL && self.control > CONTROL {
            SoftLimit::Http2Control.count();
        }
    }

    fn was_written(&mut self, mut count: usize, pieces: &[io::IoSlice<'_>]) {
        for piece in pieces {
            let taken = piece.get(..count.min(piece.len())).unwrap_or_default();
            count -= taken.len();
            self.written.walk(taken, |frame| {
                if frame.code == Some(REFUSED_STREAM) {
                    SoftLimit::Http2Streams.count();
                }
            });
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ledger<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.leg).poll_read(cx, buf))?;
        self.was_read(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ledger<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.leg).poll_write(cx, bytes))?;
        self.was_written(count, &[io::IoSlice::new(bytes)]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.leg).poll_write_vectored(cx, pieces))?;
        self.was_written(count, pieces);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.leg.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.leg).poll_shutdown(cx)
    }
}

/// A frame that has gone by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    /// The error code of RST_STREAM.
    code: Option<u32>,
}

/// Finds the frames in bytes that come in pieces.
#[derive(Debug, Default)]
struct Walker {
    /// The head of the frame, and the first bytes of its payload where they are wanted.
    kept: [u8; HEAD + 4],
    filled: usize,
    /// Bytes to pass over.
    skip: usize,
}

impl Walker {
    fn walk(&mut self, mut bytes: &[u8], mut seen: impl FnMut(Frame)) {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            if bytes.is_empty() {
                return;
            }
            let wanted = self.wanted();
            let count = (wanted - self.filled).min(bytes.len());
            let (new, rest) = bytes.split_at(count);
            if let Some(room) = self.kept.get_mut(self.filled..self.filled + count) {
                room.copy_from_slice(new);
            }
            self.filled += count;
            bytes = rest;
            if self.filled < self.wanted() {
                continue;
            }
            let [_, _, _, kind, flags, _, _, _, _, code @ ..] = self.kept;
            let has_code = self.filled > HEAD;
            self.skip = self.length() - (self.filled - HEAD);
            self.filled = 0;
            seen(Frame {
                kind,
                flags,
                code: has_code.then(|| u32::from_be_bytes(code)),
            });
        }
    }

    /// The length of the payload, once the head is there.
    fn length(&self) -> usize {
        let [a, b, c, ..] = self.kept;
        u32::from_be_bytes([0, a, b, c]) as usize
    }

    /// How much of the frame is to be looked at.
    fn wanted(&self) -> usize {
        let [_, _, _, kind, ..] = self.kept;
        let has_code = self.filled >= HEAD && kind == RST_STREAM && self.length() >= 4;
        if has_code { HEAD + 4 } else { HEAD }
    }
}

/// For the fuzz target: frames are the same in one piece and in pieces of any size.
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some((size, bytes)) = bytes.split_first() else {
        return;
    };
    let found = |size: usize| {
        let (mut walker, mut found) = (Walker::default(), Vec::new());
        for piece in bytes.chunks(size) {
            walker.walk(piece, |frame| found.push(frame));
        }
        found
    };
    let whole = found(bytes.len().max(1));
    assert!(whole.len() <= bytes.len() / HEAD);
    assert_eq!(whole, found(usize::from(*size).max(1)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn frames_are_found_whatever_pieces_they_come_in() {
        let mut bytes = frame(SETTINGS, 0, &[0; 12]);
        bytes.extend(frame(0, 1, &[3; 300]));
        bytes.extend(frame(RST_STREAM, 0, &7_u32.to_be_bytes()));
        // Too short to have a code, and followed by what could be taken for one.
        bytes.extend(frame(RST_STREAM, 0, &[0, 0]));
        bytes.extend(frame(PING, ACK, &[0, 0, 0, 7, 0, 0, 0, 7]));
        bytes.extend(frame(SETTINGS, ACK, &[]));
        let plain = |kind, flags| Frame {
            kind,
            flags,
            code: None,
        };
        let expected = [
            plain(SETTINGS, 0),
            plain(0, 1),
            Frame {
                kind: RST_STREAM,
                flags: 0,
                code: Some(7),
            },
            plain(RST_STREAM, 0),
            plain(PING, ACK),
            plain(SETTINGS, ACK),
        ];
        for size in 1..bytes.len() {
            let mut walker = Walker::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                walker.walk(piece, |frame| found.push(frame));
            }
            assert_eq!(found, expected, "in pieces of {size}");
        }
    }
}
