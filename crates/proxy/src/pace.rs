//! Whether the sender of a body makes it last on purpose.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::limits::Limits;

/// Watches one body. Only time in which its sender was waited for counts: a receiver that does not
/// take what came is not the sender's fault.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Bytes that must come in each window.
    least: u64,
    window: Duration,
    /// Bytes of the current window.
    bytes: u64,
    /// Time waited in the current window, without the wait that is under way.
    waited: Duration,
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    /// `None` where the limits have none.
    pub(crate) fn new(limits: &Limits) -> Option<Self> {
        let window = limits.body_time;
        let least = limits.body_rate.saturating_mul(window.as_secs());
        (least > 0).then_some(Self {
            least,
            window,
            bytes: 0,
            waited: Duration::ZERO,
            waiting_since: None,
            timer: None,
        })
    }

    /// Bytes have come.
    pub(crate) fn advance(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if let Some(since) = self.waiting_since.take() {
            self.waited += since.elapsed();
        }
    }

    /// Nothing is there: whether too little has come for too long. Wakes the task when it may be so.
    pub(crate) fn is_too_slow(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            let now = Instant::now();
            let since = *self.waiting_since.get_or_insert(now);
            if self.waited + (now - since) >= self.window {
                if self.bytes < self.least {
                    return true;
                }
                self.bytes = 0;
                self.waited = Duration::ZERO;
                self.waiting_since = Some(now);
                continue;
            }
            let due = since + (self.window - self.waited);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if timer.deadline() != due {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}
