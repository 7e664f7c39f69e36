//! Watches a handshake that the two ends do with each other, until flowdog knows whether to step in.
//!
//! Three invariants make stepping in safe:
//!
//! 1. At take-over flowdog owns every payload byte that its receiver has not acknowledged: the client's
//!    are held, the server has not sent any, or its [`Greeting`] is held too.
//! 2. Until then it acknowledges nothing on anyone's behalf.
//! 3. Take-over is one-way: the two sequence spaces diverge with the first byte or ACK of our own.
//!
//! [`Track::step`] is the state table; it decides, [`Dataplane`](crate::Dataplane) acts.

mod greeting;
mod handshake;
mod hold;
mod sanitise;
mod takeover;

use core::time::Duration;

use wire::tcp::{Flags, Seq};

pub(crate) use greeting::Greeting;
pub(crate) use handshake::Half;
pub(crate) use hold::{Added, Hold};

use crate::bypass::{Bypass, Facts, Side};
use crate::counters::BypassReason;
use crate::seen::{Seen, Tcp};
use crate::{Config, Instant, Leg};

/// A connection under observation.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) phase: Phase,
    pub(crate) client: Half,
    pub(crate) server: Half,
    /// What the server said before the client did.
    pub(crate) greeting: Option<Box<Greeting>>,
    /// Whether the server's first bytes are reason enough to take over.
    pub(crate) takes_greeting: bool,
    /// Whether a server that speaks first is held and told of.
    pub(crate) holds_greeting: bool,
    /// The client's last SYN; `None` once it sent more than one, which makes a round trip ambiguous.
    syn_at: Option<Instant>,
    syn_count: u8,
    syn_ack_at: Option<Instant>,
    /// SYN to SYN-ACK: the round trip between us and the server.
    pub(crate) server_rtt: Option<Duration>,
    /// SYN-ACK to ACK: the round trip between us and the client.
    pub(crate) client_rtt: Option<Duration>,
}

/// How far the connection has come.
#[derive(Debug)]
pub(crate) enum Phase {
    /// The client's SYN was forwarded.
    Syn,
    /// The server's SYN-ACK was forwarded.
    SynAck,
    /// The handshake is done and nobody has sent data.
    Open,
    /// The client's first bytes are held.
    Hold(Hold),
}

/// What to do with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Forward so many bytes of the datagram.
    Forward(usize),
    /// Forward, with a SYN changed so that the connection can be taken over.
    ForwardEdited(usize),
    /// Forward; the TCP checksum is wrong and the segment counts for nothing.
    ForwardUnsound,
    /// Forward; a RST that its receiver will not accept.
    ForwardIgnoredReset,
    /// Release what is held, forward this, and never look again.
    Bypass(BypassReason),
    /// Keep a server's segment until the client has spoken.
    HoldGreeting,
    /// A valid RST: forward it and forget the connection soon.
    Reset,
    /// Hold the segment; first send a bare ACK in the client's name if `needs_ack`.
    Hold {
        /// The server has not seen the third packet of the handshake: this segment carries it.
        needs_ack: bool,
    },
}

impl Track {
    /// A connection whose SYN is about to be given to [`Track::step`].
    pub(crate) fn new(syn: &Tcp) -> Self {
        Self {
            phase: Phase::Syn,
            client: Half::new(syn.seq),
            server: Half::new(Seq(0)),
            greeting: None,
            takes_greeting: false,
            holds_greeting: false,
            syn_at: None,
            syn_count: 0,
            syn_ack_at: None,
            server_rtt: None,
            client_rtt: None,
        }
    }

    /// Judges a segment and takes note of it.
    pub(crate) fn step(
        &mut self,
        from: Leg,
        seen: &Seen,
        datagram: &mut [u8],
        config: &Config,
        now: Instant,
    ) -> Step {
        let all = Step::Forward(datagram.len());
        let Some(tcp) = seen.tcp().copied() else {
            return all;
        };
        if !seen.is_plain() {
            return Step::Bypass(BypassReason::Fragment);
        }
        if !seen.is_sound(datagram) {
            return Step::ForwardUnsound;
        }
        if tcp.has(Flags::RST) {
            return if self.accepts_reset(from, &tcp) {
                Step::Reset
            } else {
                Step::ForwardIgnoredReset
            };
        }
        match (tcp.has(Flags::SYN), tcp.has(Flags::ACK), from) {
            (true, false, Leg::Client) => self.on_syn(seen, datagram, config, now),
            (true, true, Leg::Server) => self.on_syn_ack(&tcp, seen, datagram, config, now),
            (true, _, _) => Step::Bypass(BypassReason::SimultaneousOpen),
            (false, _, Leg::Server) => self.on_server(&tcp, seen, datagram, now),
            (false, _, Leg::Client) => self.on_client(&tcp, seen, datagram, now),
        }
    }

    fn on_syn(&mut self, seen: &Seen, datagram: &mut [u8], config: &Config, now: Instant) -> Step {
        if !matches!(self.phase, Phase::Syn | Phase::SynAck) {
            return Step::Forward(datagram.len());
        }
        let (len, edited) = match sanitise::request(datagram, seen, config) {
            Ok(sanitised) => sanitised,
            Err(reason) => return Step::Bypass(reason),
        };
        self.syn_count = self.syn_count.saturating_add(1);
        self.syn_at = (self.syn_count == 1).then_some(now);
        self.client.note_syn(seen, datagram, now);
        if edited {
            Step::ForwardEdited(len)
        } else {
            Step::Forward(len)
        }
    }

    fn on_syn_ack(
        &mut self,
        tcp: &Tcp,
        seen: &Seen,
        datagram: &mut [u8],
        config: &Config,
        now: Instant,
    ) -> Step {
        let all = Step::Forward(datagram.len());
        if !matches!(self.phase, Phase::Syn | Phase::SynAck) || tcp.ack != self.client.next {
            return all;
        }
        if tcp.payload_len > 0 {
            return Step::Bypass(BypassReason::ServerFirst);
        }
        let edited = match sanitise::response(datagram, seen, config) {
            Ok(edited) => edited,
            Err(reason) => return Step::Bypass(reason),
        };
        let is_new = matches!(self.phase, Phase::Syn);
        if !is_new && self.server.isn != tcp.seq {
            // A server that forgot its first answer: only the client knows which one it believed.
            self.server = Half::new(tcp.seq);
        }
        if is_new {
            self.server = Half::new(tcp.seq);
            self.server_rtt = self.syn_at.map(|at| now.since(at));
            self.syn_ack_at = Some(now);
            self.phase = Phase::SynAck;
        } else {
            self.syn_ack_at = None;
        }
        self.server.note_syn(seen, datagram, now);
        self.server.note_ack(tcp.ack, u32::from(tcp.window));
        if edited {
            Step::ForwardEdited(datagram.len())
        } else {
            all
        }
    }

    fn on_server(&mut self, tcp: &Tcp, seen: &Seen, datagram: &[u8], now: Instant) -> Step {
        let is_answered = !matches!(self.phase, Phase::Syn);
        // A keep-alive repeats the byte before the next one and is no data.
        let has_data =
            tcp.payload_len > 0 && (!is_answered || tcp.payload_end() > self.server.next);
        if has_data {
            let is_open = matches!(self.phase, Phase::Open | Phase::Hold(_));
            let is_greeting = self.takes_greeting
                || self.holds_greeting
                || self.greeting.is_some()
                || Greeting::begins(seen, tcp, datagram, self.server.next);
            return if is_open && is_greeting {
                Step::HoldGreeting
            } else {
                Step::Bypass(BypassReason::ServerFirst)
            };
        }
        if tcp.has(Flags::FIN) {
            return Step::Bypass(BypassReason::FinFirst);
        }
        if is_answered && tcp.has(Flags::ACK) {
            if tcp.ack > self.client.next {
                // The server has bytes that never came this way.
                return Step::Bypass(BypassReason::Inconsistent);
            }
            self.server
                .note(tcp, self.server_shift(), seen, datagram, now);
        }
        Step::Forward(datagram.len())
    }

    fn on_client(&mut self, tcp: &Tcp, seen: &Seen, datagram: &[u8], now: Instant) -> Step {
        let has_data = tcp.payload_len > 0;
        let all = Step::Forward(datagram.len());
        match &self.phase {
            Phase::Syn if has_data && tcp.seq == self.client.next => {
                Step::Bypass(BypassReason::Inconsistent)
            }
            Phase::Syn => all,
            Phase::SynAck if tcp.has(Flags::ACK) && tcp.ack == self.server.next => {
                if !has_data && tcp.has(Flags::FIN) {
                    return Step::Bypass(BypassReason::FinFirst);
                }
                self.client_rtt = self.syn_ack_at.map(|at| now.since(at));
                self.phase = Phase::Open;
                self.client
                    .note(tcp, self.client_shift(), seen, datagram, now);
                if has_data && self.is_for_server(tcp) {
                    Step::Hold { needs_ack: true }
                } else {
                    all
                }
            }
            Phase::SynAck if has_data && tcp.seq == self.client.next => {
                Step::Bypass(BypassReason::Inconsistent)
            }
            Phase::SynAck => all,
            Phase::Open | Phase::Hold(_) => {
                if tcp.has(Flags::ACK) && tcp.ack > self.server.next {
                    return Step::Bypass(BypassReason::Inconsistent);
                }
                let holds = matches!(self.phase, Phase::Hold(_));
                if has_data && self.is_for_server(tcp) {
                    return Step::Hold { needs_ack: false };
                }
                if tcp.has(Flags::FIN) {
                    return match holds {
                        true if self.is_for_server(tcp) => Step::Hold { needs_ack: false },
                        true => all,
                        false => Step::Bypass(BypassReason::FinFirst),
                    };
                }
                if !has_data {
                    self.client
                        .note(tcp, self.client_shift(), seen, datagram, now);
                }
                all
            }
        }
    }

    /// Whether a client segment brings the server something that it would accept: the rest is
    /// forwarded, and the server answers it.
    fn is_for_server(&self, tcp: &Tcp) -> bool {
        tcp.end() > self.client.next && tcp.seq < self.server.right_edge.max(self.client.next + 1)
    }

    fn accepts_reset(&self, from: Leg, tcp: &Tcp) -> bool {
        match (&self.phase, from) {
            // RFC 9293 §3.10.7.3: in SYN-SENT a RST counts if it acknowledges the SYN.
            (Phase::Syn, Leg::Server) => tcp.has(Flags::ACK) && tcp.ack == self.client.next,
            (Phase::Syn, Leg::Client) => tcp.seq == self.client.isn || tcp.seq == self.client.next,
            (_, Leg::Server) => {
                let window = self.client.window.max(1);
                (tcp.seq.since(self.server.next) as u32) < window
            }
            (_, Leg::Client) => {
                let window = self.server.right_edge.since(self.client.next).max(1) as u32;
                (tcp.seq.since(self.client.next) as u32) < window
            }
        }
    }

    /// The shift of windows that the client sends.
    pub(crate) fn client_shift(&self) -> u8 {
        match self.server.shift {
            Some(_) => self.client.shift.unwrap_or(0),
            None => 0,
        }
    }

    /// The shift of windows that the server sends.
    pub(crate) fn server_shift(&self) -> u8 {
        match self.client.shift {
            Some(_) => self.server.shift.unwrap_or(0),
            None => 0,
        }
    }

    /// SYN to ACK: the round trip of the whole path.
    pub(crate) fn path_rtt(&self) -> Option<Duration> {
        Some(self.server_rtt? + self.client_rtt?)
    }

    /// How long the client's bytes may be held: less than what makes the client send again.
    pub(crate) fn hold_time(&self, config: &Config) -> Duration {
        const LEAST: Duration = Duration::from_millis(20);
        match self.path_rtt() {
            Some(rtt) => (rtt + rtt / 2).max(LEAST).min(config.hold_time),
            None => config.hold_time,
        }
    }

    /// Whether the handshake is not done.
    pub(crate) fn is_half_open(&self) -> bool {
        matches!(self.phase, Phase::Syn | Phase::SynAck)
    }

    /// When something must happen if nothing arrives.
    pub(crate) fn deadline(
        &self,
        last_seen: Instant,
        config: &Config,
        half_open: usize,
    ) -> Instant {
        match &self.phase {
            Phase::Syn | Phase::SynAck if half_open > config.half_open_pressure => {
                last_seen + config.handshake_idle_under_pressure
            }
            Phase::Syn | Phase::SynAck => last_seen + config.handshake_idle,
            Phase::Open => match &self.greeting {
                Some(greeting) => greeting.deadline(),
                None => last_seen + config.tcp_idle,
            },
            Phase::Hold(hold) => hold.deadline(config),
        }
    }

    /// What a bypassed connection remembers of the handshake.
    pub(crate) fn to_bypass(&self) -> Bypass {
        let side = |half: &Half| Side {
            ack: half.acked.unwrap_or_default(),
            window: half.window,
        };
        let facts = |half: &Half, shift| Facts {
            shift,
            is_known: half.acked.is_some(),
            has_finished: false,
        };
        Bypass {
            sides: [side(&self.client), side(&self.server)],
            facts: [
                facts(&self.client, self.client_shift()),
                facts(&self.server, self.server_shift()),
            ],
            isn: Some(self.client.isn),
            was_reset: false,
        }
    }
}
