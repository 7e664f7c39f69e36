//! The two connections of an intercepted flow.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use tcp::{Connection, Events, Repr, Seq, State};

use crate::event::{CloseReason, Event, FlowEnd, ReadOutcome, WriteOutcome};
use crate::seen::{Manner, side};
use crate::tracker::Track;
use crate::{Config, FlowId, Instant, Leg};

/// One leg.
#[derive(Debug)]
struct End {
    connection: Connection,
    /// How our packets to this leg's peer are written: like those of the other peer.
    manner: Manner,
    ident: u16,
    closed: Option<CloseReason>,
    /// Whether an event is out that the shell has not followed by a read or a write.
    readable_announced: bool,
    wants_writable: bool,
}

/// Both legs.
#[derive(Debug)]
pub(crate) struct Legs {
    ends: [End; 2],
    /// The client's initial sequence number.
    pub(crate) isn: Seq,
    /// When to reset what is left, after one leg died or bytes were left unread.
    abort_at: Option<Instant>,
    is_aborted: bool,
}

impl Legs {
    /// Both legs from an observed handshake.
    pub(crate) fn new(
        track: &Track,
        is_v6: bool,
        config: &Config,
        tcp: &Arc<tcp::Config>,
        now: Instant,
    ) -> Self {
        let end = |takeover: &tcp::Takeover, manner| End {
            connection: Connection::new(tcp, takeover, now),
            manner,
            ident: 0,
            closed: None,
            readable_announced: false,
            wants_writable: false,
        };
        Self {
            ends: [
                end(&track.client_takeover(is_v6, config), track.server.manner),
                end(&track.server_takeover(is_v6, config), track.client.manner),
            ],
            isn: track.client.isn,
            abort_at: None,
            is_aborted: false,
        }
    }

    /// A segment from a leg's peer.
    pub(crate) fn handle_segment(
        &mut self,
        leg: Leg,
        repr: &Repr,
        payload: &[u8],
        ce: bool,
        now: Instant,
    ) {
        let Some(end) = self.end_mut(leg) else { return };
        end.connection.handle_segment(repr, payload, ce, now);
    }

    /// Segments from a leg's peer that follow each other.
    pub(crate) fn handle_run(
        &mut self,
        leg: Leg,
        first: &Repr,
        payloads: &[&[u8]],
        ce: bool,
        now: Instant,
    ) {
        let Some(end) = self.end_mut(leg) else { return };
        end.connection.handle_run(first, payloads, ce, now);
    }

    /// Runs what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for end in &mut self.ends {
            if end.connection.poll_timeout().is_some_and(|at| at <= now) {
                end.connection.handle_timeout(now);
            }
        }
        if self.abort_at.is_some_and(|at| at <= now) {
            self.abort();
        }
    }

    /// When [`Legs::handle_timeout`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let connections = self
            .ends
            .iter()
            .filter_map(|end| end.connection.poll_timeout());
        connections.chain(self.abort_at).min()
    }

    /// Turns what happened to the connections into events.
    pub(crate) fn announce(
        &mut self,
        flow: FlowId,
        events: &mut VecDeque<Event>,
        config: &Config,
        now: Instant,
    ) {
        for leg in [Leg::Client, Leg::Server] {
            let Some(end) = self.end_mut(leg) else {
                continue;
            };
            let happened = end.connection.take_events();
            if happened.is_empty() {
                continue;
            }
            let to_read =
                happened.contains(Events::READABLE) || happened.contains(Events::PEER_FINISHED);
            if to_read && !end.readable_announced {
                end.readable_announced = true;
                events.push_back(Event::Readable { flow, leg });
            }
            if happened.contains(Events::WRITABLE) && end.wants_writable {
                end.wants_writable = false;
                events.push_back(Event::Writable { flow, leg });
            }
            let reason = if happened.contains(Events::RESET) {
                CloseReason::Reset
            } else if happened.contains(Events::TIMED_OUT) {
                CloseReason::TimedOut
            } else if happened.contains(Events::CLOSED) {
                CloseReason::Finished
            } else {
                continue;
            };
            if end.closed.is_some() {
                continue;
            }
            end.closed = Some(reason);
            if reason != CloseReason::Finished {
                // The other leg gets its RST when the shell has relayed what it read, or then.
                self.abort_in(config.reset_grace, now);
            }
            if !self.is_aborted {
                events.push_back(Event::LegClosed { flow, leg, reason });
            }
        }
    }

    /// The next segments to a leg's peer, at most `most` of them.
    pub(crate) fn poll_transmit(
        &mut self,
        leg: Leg,
        most: usize,
        now: Instant,
    ) -> Option<Outgoing<'_>> {
        let end = self.end_mut(leg)?;
        let run = end.connection.poll_transmit_run(most, now)?;
        let ident = end.ident.wrapping_add(1);
        end.ident = end.ident.wrapping_add(run.count as u16);
        Some(Outgoing {
            manner: end.manner,
            ident,
            connection: &end.connection,
            run,
        })
    }

    /// Moves received bytes out.
    pub(crate) fn read(&mut self, leg: Leg, out: &mut [u8]) -> ReadOutcome {
        let Some(end) = self.end_mut(leg) else {
            return ReadOutcome::Reset;
        };
        end.readable_announced = false;
        match end.connection.read(out) {
            0 => {}
            n => return ReadOutcome::Bytes(n),
        }
        if end.connection.is_read_finished() {
            return ReadOutcome::Finished;
        }
        match end.closed {
            Some(CloseReason::Reset) => ReadOutcome::Reset,
            Some(CloseReason::TimedOut) => ReadOutcome::TimedOut,
            Some(CloseReason::Finished) => ReadOutcome::Finished,
            None => ReadOutcome::Empty,
        }
    }

    /// Queues bytes for a leg's peer.
    pub(crate) fn write(&mut self, leg: Leg, bytes: &[u8]) -> WriteOutcome {
        let is_aborted = self.is_aborted;
        let Some(end) = self.end_mut(leg) else {
            return WriteOutcome::Reset;
        };
        match (end.closed, end.connection.state()) {
            (Some(CloseReason::TimedOut), _) => return WriteOutcome::TimedOut,
            (None, State::Established | State::CloseWait) if !is_aborted => {}
            _ => return WriteOutcome::Reset,
        }
        let taken = end.connection.write(bytes);
        end.wants_writable |= taken < bytes.len();
        match taken {
            0 if !bytes.is_empty() => WriteOutcome::Full,
            taken => WriteOutcome::Bytes(taken),
        }
    }

    /// FIN after what was written.
    pub(crate) fn shutdown(&mut self, leg: Leg) {
        if let Some(end) = self.end_mut(leg) {
            end.connection.shutdown();
        }
    }

    /// RST to both peers.
    pub(crate) fn abort(&mut self) {
        self.is_aborted = true;
        self.abort_at = None;
        for end in &mut self.ends {
            end.connection.abort();
        }
    }

    /// RST to one peer.
    pub(crate) fn abort_leg(&mut self, leg: Leg) {
        if let Some(end) = self.end_mut(leg) {
            end.connection.abort();
        }
    }

    /// Whether nothing is left to do once `poll_transmit` has answered `None`. Bytes that nobody reads
    /// keep the legs for a while only.
    pub(crate) fn is_over(&mut self, config: &Config, now: Instant) -> bool {
        let all_closed = self
            .ends
            .iter()
            .all(|end| end.connection.state() == State::Closed);
        if !all_closed {
            return false;
        }
        if self.is_aborted || self.ends.iter().all(|end| end.connection.readable() == 0) {
            return true;
        }
        self.abort_in(config.reset_grace, now);
        false
    }

    /// How the flow ended, once it is over.
    pub(crate) fn end(&self) -> FlowEnd {
        let mut reasons = self.ends.iter().filter_map(|end| end.closed);
        if reasons
            .clone()
            .any(|reason| reason == CloseReason::TimedOut)
        {
            FlowEnd::TimedOut
        } else if self.is_aborted || reasons.any(|reason| reason == CloseReason::Reset) {
            FlowEnd::Reset
        } else {
            FlowEnd::Finished
        }
    }

    /// Lowers the segment size towards a leg's peer if the quoted sequence number is in flight there
    /// (RFC 5927 §4: a blind attacker does not know it).
    pub(crate) fn lower_segment_size(&mut self, leg: Leg, seq: Seq, mss: u16) -> bool {
        self.end_mut(leg)
            .is_some_and(|end| end.connection.packet_too_big(seq, mss))
    }

    /// Chooses the congestion control of both.
    pub(crate) fn set_congestion(&mut self, congestion: tcp::Algorithm, now: Instant) {
        for end in &mut self.ends {
            end.connection.set_congestion(congestion, now);
        }
    }

    /// Smoothed round-trip time to a leg's peer.
    pub(crate) fn srtt(&self, leg: Leg) -> Option<Duration> {
        self.ends.get(side(leg))?.connection.srtt()
    }

    /// What a leg's connection has done.
    pub(crate) fn stats(&self, leg: Leg) -> tcp::Stats {
        self.ends
            .get(side(leg))
            .map(|end| end.connection.stats())
            .unwrap_or_default()
    }

    fn abort_in(&mut self, grace: Duration, now: Instant) {
        if self.abort_at.is_none() && !self.is_aborted {
            self.abort_at = Some(now + grace);
        }
    }

    fn end_mut(&mut self, leg: Leg) -> Option<&mut End> {
        self.ends.get_mut(side(leg))
    }
}

/// Segments on their way out.
#[derive(Debug)]
pub(crate) struct Outgoing<'a> {
    pub(crate) manner: Manner,
    /// Of the first one; the others count up.
    pub(crate) ident: u16,
    pub(crate) connection: &'a Connection,
    pub(crate) run: tcp::TransmitRun,
}
