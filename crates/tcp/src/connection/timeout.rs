//! What happens when time passes.

use core::time::Duration;

use super::Connection;
use crate::congestion::Congestion;
use crate::recovery::{Doubt, Phase, Undo};
use crate::send::Next;
use crate::state::{Events, State};
use crate::time::Instant;
use crate::timer::{Deadline, LossTimer};

/// How long empty buffers are kept: as long as a busy connection may pause.
const BUFFERS_KEPT: Duration = Duration::from_millis(500);

impl Connection {
    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.state == State::TimeWait && self.timers.keepalive.is_due(now) {
            self.close();
            return;
        }
        if self.timers.release.is_due(now) {
            self.release_memory(now);
        }
        if self.flight.pace.is_due(now) {
            // The drain that follows sends.
            self.flight.pace = Deadline::NEVER;
        }
        if self.timers.ack.is_due(now) {
            self.timers.ack = Deadline::NEVER;
            self.acknowledge_now(false);
        }
        if self.timers.keepalive.is_due(now) {
            self.check_peer(now);
        }
        if self.timers.loss.is_due(now) && self.state != State::Closed {
            self.timers.loss = Deadline::NEVER;
            match self.timers.loss_kind {
                LossTimer::Reordering => self.detect_late(now),
                LossTimer::Probe => {
                    self.owed.loss_probe = true;
                    // Set before the probe leaves, so that the time-out is armed either way.
                    self.recovery.repair.probe = Some(crate::recovery::Probe {
                        end: self.send.nxt(),
                        retransmission: true,
                        stamp: None,
                    });
                    self.rearm_loss_timer(None, now);
                }
                LossTimer::Retransmission => self.expire(now),
                LossTimer::Persist => self.probe_window(now),
            }
        }
    }

    /// Sets the loss timer for what it has to watch; `look_again` is when a late segment may be
    /// declared lost.
    pub(super) fn rearm_loss_timer(&mut self, look_again: Option<Instant>, now: Instant) {
        if matches!(self.state, State::Closed | State::TimeWait) {
            self.timers.loss = Deadline::NEVER;
            return;
        }
        if self.flight.board.is_empty() {
            let persisting =
                self.timers.loss_kind == LossTimer::Persist && self.timers.loss.is_set();
            let waiting = self.send.next(self.segment_size(), false) == Next::WindowClosed;
            if !waiting {
                self.timers.loss = Deadline::NEVER;
            } else if !persisting {
                self.arm_persist(now);
            }
            return;
        }
        // A sending in between must not forget that a late segment is being watched.
        let look_again = look_again.map(Deadline::at).or_else(|| {
            let watching =
                self.timers.loss_kind == LossTimer::Reordering && self.timers.loss.is_set();
            watching.then_some(self.timers.loss)
        });
        let expires = self.expires_at();
        if let Some(look_again) = look_again
            && look_again < expires
        {
            self.timers.loss = look_again;
            self.timers.loss_kind = LossTimer::Reordering;
            return;
        }
        if let Some(delay) = self.probe_delay() {
            let probe = Deadline::after(now, delay);
            if probe < expires {
                self.timers.loss = probe;
                self.timers.loss_kind = LossTimer::Probe;
                return;
            }
        }
        self.timers.loss = expires;
        self.timers.loss_kind = LossTimer::Retransmission;
    }

    /// After how much silence a probe is worth a segment; `None` if the time-out has to do.
    fn probe_delay(&self) -> Option<Duration> {
        let (recovery, board) = (&self.recovery, &self.flight.board);
        if !self.sack || recovery.repair.probe.is_some() || recovery.backoff > 0 {
            return None;
        }
        let smoothed = self.rtt.smoothed()?;
        match recovery.phase {
            // RFC 8985 §7.2.
            Phase::Open if board.sacked_count() == 0 => {
                let delayed = board.count() == 1 && recovery.peer_delays;
                let patience = if delayed {
                    self.config.probe_ack_delay
                } else {
                    Duration::ZERO
                };
                Some(smoothed * 2 + Duration::from_millis(2) + patience)
            }
            // When nothing else is in flight, nothing shows that a repetition was lost, and the RFC
            // leaves that to the time-out. What fills a hole is acknowledged at once (RFC 5681 §4.2),
            // so no delay of the peer needs to be waited for.
            Phase::Fast { .. } if board.lost_count() == 0 => {
                Some(smoothed + self.rtt.spread().max(smoothed / 2))
            }
            Phase::Open | Phase::Fast { .. } | Phase::Timeout { .. } => None,
        }
    }

    /// Probes the peer's window later.
    pub(super) fn arm_persist(&mut self, now: Instant) {
        if self.timers.loss_kind != LossTimer::Persist || !self.timers.loss.is_set() {
            self.timers.loss = Deadline::after(now, self.backed_off_timeout());
            self.timers.loss_kind = LossTimer::Persist;
        }
    }

    /// Looks later whether the buffers are still empty.
    pub(super) fn watch_memory(&mut self, now: Instant) {
        if !self.timers.release.is_set() && self.state != State::Closed {
            self.timers.release = Deadline::after(now, BUFFERS_KEPT);
        }
    }

    /// RFC 6298 §5.1 to §5.3: counted from the last transmission of the first segment, from the
    /// last progress, or from the last expiration.
    fn expires_at(&self) -> Deadline {
        let sent = self
            .flight
            .board
            .first()
            .map_or(self.flight.progress_at, |(sent, _)| sent);
        Deadline::after(
            sent.max(self.flight.progress_at)
                .max(self.flight.expired_at),
            self.backed_off_timeout(),
        )
    }

    /// The retransmission timer expired (RFC 6298 §5.4 to §5.6).
    fn expire(&mut self, now: Instant) {
        if self
            .config
            .user_timeout
            .is_some_and(|limit| now.since(self.flight.progress_at) >= limit)
        {
            self.give_up();
            return;
        }
        self.stats.timeouts = self.stats.timeouts.wrapping_add(1);
        self.flight.expired_at = now;
        self.recovery.backoff = self.recovery.backoff.saturating_add(1);
        self.shrink_segments();
        // RFC 5681 §3.1: the threshold is lowered once for the data in question.
        let first = !matches!(self.recovery.phase, Phase::Timeout { .. });
        if first {
            let before = match self.recovery.repair.undo {
                // A fast recovery that fails has lowered it already.
                Some(undo) if self.recovery.phase != Phase::Open => undo.before,
                _ => self.congestion.snapshot(),
            };
            self.recovery.repair.undo = Some(Undo::new(before, self.send.una()));
        }
        let was_open = self.recovery.phase == Phase::Open;
        self.congestion.on_timeout(was_open);
        self.flight.board.lose_all();
        self.recovery.enter_timeout(self.send.nxt());
        // Where there are timestamps their echo tells sooner.
        if was_open && self.clock.is_none() {
            self.recovery.repair.doubt = Some(Doubt::Asked);
        }
        self.rearm_loss_timer(None, now);
    }

    fn probe_window(&mut self, now: Instant) {
        if self
            .config
            .user_timeout
            .is_some_and(|limit| now.since(self.peer.heard_at) >= limit)
        {
            self.give_up();
            return;
        }
        self.owed.window_probe = true;
        self.recovery.backoff = self.recovery.backoff.saturating_add(1);
        self.arm_persist(now);
    }

    /// Keep-alive (RFC 9293 §3.8.4).
    fn check_peer(&mut self, now: Instant) {
        let Some(idle) = self.config.keepalive else {
            self.timers.keepalive = Deadline::NEVER;
            return;
        };
        let silent_since = self.peer.heard_at;
        if now.since(silent_since) < idle {
            self.peer.probes = 0;
            self.timers.keepalive = Deadline::after(silent_since, idle);
            return;
        }
        if self.peer.probes >= self.config.keepalive_probes {
            self.give_up();
            return;
        }
        self.timers.keepalive = Deadline::after(now, self.config.keepalive_interval);
        // Data in flight asks the same question.
        if self.flight.board.is_empty() {
            self.peer.probes += 1;
            self.owed.keepalive = true;
        }
    }

    fn release_memory(&mut self, now: Instant) {
        self.timers.release = Deadline::NEVER;
        let latest = self.acks.data_at.max(self.sent_at);
        let busy = now.since(latest.max(self.flight.progress_at)) < BUFFERS_KEPT;
        if !busy {
            self.recv.release_if_empty();
            self.send.release_if_empty();
            self.rest();
        }
        self.settle_memory();
        if self.holds_memory() {
            self.watch_memory(now);
        }
    }

    /// Gives back what only data in flight needs. BBR's model counts on with its account of
    /// deliveries, so that one stays, empty.
    fn rest(&mut self) {
        if !self.flight.board.is_empty() {
            return;
        }
        self.recovery.rest();
        if self.congestion.rest() {
            self.flight.release();
        } else if self.flight.is_there() {
            self.flight.board.release_if_empty();
        }
    }

    /// No answer for too long: the peer, should it be there, is told.
    fn give_up(&mut self) {
        self.events.insert(Events::TIMED_OUT);
        self.abort();
    }
}
