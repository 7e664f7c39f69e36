//! A flow that is forwarded raw: just enough is remembered to forget it at the right time.

use core::time::Duration;

use wire::tcp::{Flags, Seq};

use crate::seen::{Tcp, side};
use crate::{Config, Leg};

/// What is remembered of one direction of a bypassed TCP connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Side {
    /// The newest acknowledgment number this side sent.
    pub(crate) ack: Seq,
    /// The newest window this side sent, in bytes.
    pub(crate) window: u32,
}

/// The same, apart from its numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Facts {
    /// Shift of this side's windows; the largest there is if its SYN was not seen.
    pub(crate) shift: u8,
    /// Whether its numbers mean anything.
    pub(crate) is_known: bool,
    /// Whether this side sent a FIN.
    pub(crate) has_finished: bool,
}

/// A bypassed flow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bypass {
    pub(crate) sides: [Side; 2],
    /// Apart, because together with the numbers they would be padded.
    pub(crate) facts: [Facts; 2],
    /// The client's initial sequence number, if its SYN was seen.
    pub(crate) isn: Option<Seq>,
    pub(crate) was_reset: bool,
}

/// What a packet did to a bypassed flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// A RST that its receiver will not accept.
    IgnoredReset,
}

impl Bypass {
    /// A connection whose first packet was not a SYN: windows may be scaled by anything.
    pub(crate) fn mid_flow() -> Self {
        let facts = Facts {
            shift: 14,
            ..Facts::default()
        };
        Self {
            facts: [facts; 2],
            ..Self::default()
        }
    }

    /// Notes a TCP segment whose checksum is right or does not matter: only SYN, FIN and RST have
    /// lasting effects, and the caller has verified those.
    pub(crate) fn note(
        &mut self,
        from: Leg,
        tcp: &Tcp,
        window_scale: Option<Option<u8>>,
    ) -> Effect {
        if tcp.has(Flags::RST) {
            if self.accepts_reset(from, tcp) {
                self.was_reset = true;
                return Effect::Nothing;
            }
            return Effect::IgnoredReset;
        }
        if tcp.is_request() && from == Leg::Client && !self.is_established() {
            self.isn = Some(tcp.seq);
        }
        let fin_counts = tcp.has(Flags::FIN) && self.is_in_window(from, tcp.payload_end());
        let at = side(from);
        let (Some(own), Some(facts)) = (self.sides.get_mut(at), self.facts.get_mut(at)) else {
            return Effect::Nothing;
        };
        // Shifts hold if both SYNs carry one (RFC 7323 §2.2); a shift too large only makes the
        // window of valid resets wider.
        if let Some(scale) = window_scale {
            facts.shift = scale.unwrap_or(0).min(14);
        }
        if tcp.has(Flags::ACK) {
            // The newest, not the highest: a wrong value heals with the next packet.
            own.ack = tcp.ack;
            own.window = u32::from(tcp.window) << facts.shift;
            facts.is_known = true;
        }
        facts.has_finished |= fin_counts;
        Effect::Nothing
    }

    /// Whether both sides have answered.
    pub(crate) fn is_established(&self) -> bool {
        self.facts.iter().all(|side| side.is_known)
    }

    /// Whether the connection is over.
    pub(crate) fn is_over(&self) -> bool {
        self.was_reset || self.is_finished()
    }

    /// Whether both sides sent FIN.
    pub(crate) fn is_finished(&self) -> bool {
        self.facts.iter().all(|side| side.has_finished)
    }

    /// How long silence may last.
    pub(crate) fn idle(&self, config: &Config) -> Duration {
        if self.is_over() {
            config.linger
        } else if self.is_established() || self.isn.is_none() {
            config.tcp_idle
        } else {
            config.handshake_idle
        }
    }

    fn accepts_reset(&self, from: Leg, tcp: &Tcp) -> bool {
        let receiver = self.facts.get(side(from.other()));
        if receiver.is_some_and(|receiver| receiver.is_known) {
            return self.is_in_window(from, tcp.seq);
        }
        match (from, self.isn) {
            // RFC 9293 §3.10.7.3: in SYN-SENT a RST counts if it acknowledges the SYN.
            (Leg::Server, Some(isn)) => tcp.has(Flags::ACK) && tcp.ack == isn + 1,
            (Leg::Client, Some(isn)) => tcp.seq == isn || tcp.seq == isn + 1,
            (_, None) => true,
        }
    }

    /// Whether the receiver of a segment from `from` accepts this sequence number.
    fn is_in_window(&self, from: Leg, seq: Seq) -> bool {
        let at = side(from.other());
        let is_known = self.facts.get(at).is_some_and(|facts| facts.is_known);
        self.sides.get(at).is_none_or(|receiver| {
            !is_known || seq.since(receiver.ack) as u32 <= receiver.window.max(1)
        })
    }
}
