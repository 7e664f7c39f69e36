//! The TLS library alone on a stream: the yardstick, and the hosts around the impersonator.

use std::future::poll_fn;
use std::io::{Read as _, Write as _};
use std::task::{Context, Poll};

use rustls::Connection;

use crate::pipe::End;

/// Plain text written at once: the most that one record holds.
const CHUNK: usize = 16 * 1024;

/// A connection and its stream.
pub(crate) struct Bare {
    tls: Connection,
    end: End,
}

impl Bare {
    pub(crate) fn new(tls: impl Into<Connection>, end: End) -> Self {
        Self {
            tls: tls.into(),
            end,
        }
    }

    /// Makes the handshake, and leaves nothing unsent.
    pub(crate) async fn handshake(&mut self) {
        poll_fn(|cx| {
            loop {
                let sent = self.send(cx);
                if !self.tls.is_handshaking() {
                    return if sent { Poll::Ready(()) } else { Poll::Pending };
                }
                if !self.receive(cx) {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Sends and receives `amount` bytes at the same time.
    pub(crate) async fn exchange(&mut self, amount: usize) {
        let data = vec![0x5a; CHUNK];
        let mut space = vec![0; 4 * CHUNK];
        let (mut to_send, mut to_receive) = (amount, amount);
        poll_fn(|cx| {
            loop {
                let mut idle = true;
                if self.send(cx) && to_send > 0 {
                    let chunk = data.get(..to_send.min(CHUNK)).unwrap_or_default();
                    to_send -= self.tls.writer().write(chunk).unwrap_or(0);
                    self.send(cx);
                    idle = false;
                }
                if to_receive > 0 {
                    while let Ok(count @ 1..) = self.tls.reader().read(&mut space) {
                        to_receive -= count;
                        idle = false;
                    }
                    idle &= !self.receive(cx);
                }
                if to_send == 0 && to_receive == 0 && !self.tls.wants_write() {
                    return Poll::Ready(());
                }
                if idle {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// Whether everything is on its way.
    fn send(&mut self, cx: &mut Context<'_>) -> bool {
        while self.tls.wants_write() {
            let tls = &mut self.tls;
            if self.end.write_with(cx, |to| tls.write_tls(to)).is_none() {
                return false;
            }
        }
        true
    }

    /// Whether there was something.
    #[expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]
    fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        let tls = &mut self.tls;
        let read = self.end.read_with(cx, |from| tls.read_tls(from).unwrap());
        if read.is_some() {
            self.tls.process_new_packets().unwrap();
        }
        read.is_some()
    }
}
