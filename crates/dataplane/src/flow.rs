//! One entry of the flow table.

use core::net::SocketAddr;

use wire::geneve::TEMPLATE_LEN;
use wire::gwlb::{AttachmentId, FlowCookie, VpcEndpointId};
use wire::tcp::Seq;

use crate::bypass::Bypass;
use crate::event::{FlowEnd, FlowState, FlowSummary, FlowView, Outer, Unseen};
use crate::key::{KeptKey, PackedKey};
use crate::legs::Legs;
use crate::park::Park;
use crate::seen::{Seen, side};
use crate::tracker::{Phase, Track};
use crate::{Config, FlowId, Instant, Leg, Protocol};

/// The newest GENEVE header of a flow, verbatim.
#[derive(Clone, Debug)]
pub(crate) enum Header {
    /// The three options that AWS sends.
    Usual([u8; TEMPLATE_LEN]),
    /// Any other number of options.
    Long(Box<[u8]>),
}

impl Header {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match bytes.try_into() {
            Ok(usual) => Self::Usual(usual),
            Err(_) => Self::Long(bytes.into()),
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Usual(bytes) => bytes,
            Self::Long(bytes) => bytes,
        }
    }
}

/// A flow.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) key: KeptKey,
    pub(crate) header: Header,
    pub(crate) state: State,
    pub(crate) opened_at: Instant,
    pub(crate) last_seen: Instant,
    bytes: [u64; 2],
    packets: [u32; 2],
    pub(crate) generation: u32,
    pub(crate) outer: Outer,
    /// Datagrams of this flow in the transmit queue: later ones must queue behind them.
    pub(crate) queued: u16,
    pub(crate) client_is_low: bool,
    pub(crate) is_mid_flow: bool,
    pub(crate) was_intercepted: bool,
    /// Whether the shell was told that it is over.
    pub(crate) is_reported: bool,
    /// Whether it stands in the list of flows whose legs may have something to send.
    pub(crate) is_dirty: bool,
    /// Whether its handshake is under way and measured.
    pub(crate) is_measured: bool,
    /// Whether the shell wants to see its raw packets before they leave.
    pub(crate) is_hooked: bool,
    /// What becomes of it if its first bytes cannot be had and that matters.
    pub(crate) guard: Option<Unseen>,
}

/// What is being done with a flow, and what is remembered for it.
#[derive(Debug)]
pub(crate) enum State {
    Pending(Box<Park>),
    Bypassed(Bypass),
    Denied(Denied),
    Tracking(Box<Track>),
    Intercepted(Box<Legs>),
    Tomb(Tomb),
}

/// A flow that policy refuses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Denied {
    /// Whether to say so.
    pub(crate) is_told: bool,
    /// The SYN's sequence number: another one is a new attempt.
    pub(crate) isn: Option<Seq>,
    /// When an answer may be sent next, for protocols without their own pace.
    pub(crate) answer_at: Instant,
}

/// A connection that was taken over and is over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tomb {
    pub(crate) until: Instant,
    /// The client's initial sequence number.
    pub(crate) isn: Seq,
    /// Segments that were sent again on each leg.
    pub(crate) retransmits: [u32; 2],
}

impl Flow {
    pub(crate) fn new(
        key: PackedKey,
        client_is_low: bool,
        seen: &Seen,
        datagram: &[u8],
        outer: Outer,
        state: State,
        generation: u32,
        now: Instant,
    ) -> Self {
        Self {
            key: KeptKey::new(&key),
            header: Header::new(seen.header(datagram)),
            state,
            opened_at: now,
            last_seen: now,
            bytes: [0; 2],
            packets: [0; 2],
            generation,
            outer,
            queued: 0,
            client_is_low,
            is_mid_flow: false,
            was_intercepted: false,
            is_reported: false,
            is_dirty: false,
            is_measured: false,
            is_hooked: false,
            guard: None,
        }
    }

    /// Keeps the newest header and addresses. Answers whether the cookie and the outer addresses
    /// changed.
    pub(crate) fn note_outer(
        &mut self,
        seen: &Seen,
        datagram: &[u8],
        outer: Outer,
    ) -> (bool, bool) {
        let header = seen.header(datagram);
        let is_same_header = self.header.bytes() == header;
        let changes = (
            !is_same_header && self.cookie() != seen.cookie,
            self.outer != outer,
        );
        if !is_same_header {
            self.header = Header::new(header);
        }
        self.outer = outer;
        changes
    }

    /// The cookie of the newest packet.
    pub(crate) fn cookie(&self) -> FlowCookie {
        self.identity().1
    }

    fn identity(&self) -> (AttachmentId, FlowCookie) {
        let identity = wire::geneve::identity(self.header.bytes());
        // Every header here was read by the parser before.
        identity.unwrap_or((AttachmentId(0), FlowCookie(0)))
    }

    pub(crate) fn note_packet(&mut self, from: Leg, seen: &Seen, now: Instant) {
        self.note_packets(from, 1, seen.inner_len(), now);
    }

    /// `count` packets of `length` bytes together.
    pub(crate) fn note_packets(&mut self, from: Leg, count: u32, length: usize, now: Instant) {
        self.last_seen = now;
        if let (Some(bytes), Some(packets)) = (
            self.bytes.get_mut(side(from)),
            self.packets.get_mut(side(from)),
        ) {
            *bytes += length as u64;
            *packets = packets.saturating_add(count);
        }
    }

    /// Which end sent a packet, given whether it goes from low to high.
    pub(crate) fn sender(&self, from_low: bool) -> Leg {
        if from_low == self.client_is_low {
            Leg::Client
        } else {
            Leg::Server
        }
    }

    pub(crate) fn client(&self) -> SocketAddr {
        if self.client_is_low {
            self.key.packed().low()
        } else {
            self.key.packed().high()
        }
    }

    pub(crate) fn server(&self) -> SocketAddr {
        if self.client_is_low {
            self.key.packed().high()
        } else {
            self.key.packed().low()
        }
    }

    pub(crate) fn is_tcp(&self) -> bool {
        self.key.protocol() == Protocol::TCP
    }

    /// When the flow needs attention next if nothing arrives.
    pub(crate) fn deadline(&self, config: &Config, half_open: usize) -> Instant {
        match &self.state {
            State::Pending(park) => park
                .awaited
                .map_or(park.deadline, |at| at.min(park.deadline)),
            State::Bypassed(bypass) if self.is_tcp() => self.last_seen + bypass.idle(config),
            State::Bypassed(_) | State::Denied(_) => self.last_seen + config.other_idle,
            State::Tracking(track) => track.deadline(self.last_seen, config, half_open),
            State::Intercepted(legs) => legs.deadline().unwrap_or(self.last_seen + config.tcp_idle),
            State::Tomb(tomb) => tomb.until,
        }
    }

    /// The order in which flows may be evicted, lowest first; `None` for those that may not.
    pub(crate) fn expendability(&self) -> Option<u8> {
        match &self.state {
            State::Tomb(_) => Some(0),
            State::Bypassed(bypass) if self.is_tcp() && bypass.is_over() => Some(0),
            State::Denied(_) => Some(1),
            State::Tracking(track) if track.is_half_open() => Some(1),
            State::Bypassed(bypass)
                if self.is_tcp() && bypass.isn.is_some() && !bypass.is_established() =>
            {
                Some(1)
            }
            State::Bypassed(_) => Some(2),
            State::Pending(_) | State::Tracking(_) | State::Intercepted(_) => None,
        }
    }

    pub(crate) fn end_if_removed(&self) -> FlowEnd {
        match &self.state {
            State::Bypassed(bypass) if bypass.was_reset => FlowEnd::Reset,
            State::Bypassed(bypass) if self.is_tcp() && bypass.is_finished() => FlowEnd::Finished,
            State::Denied(_) => FlowEnd::Reset,
            _ => FlowEnd::Idle,
        }
    }

    pub(crate) fn summary(&self, end: FlowEnd) -> FlowSummary {
        FlowSummary {
            key: self.key.packed().unpack(),
            client: self.client(),
            server: self.server(),
            opened_at: self.opened_at,
            duration: self.last_seen.since(self.opened_at),
            packets: self.packets.map(u64::from),
            bytes: self.bytes,
            intercepted: self.was_intercepted,
            refused: self.guard.filter(|_| {
                let is_denied = matches!(self.state, State::Denied(_) | State::Tomb(_));
                is_denied && !self.was_intercepted
            }),
            retransmits: match &self.state {
                State::Tomb(tomb) => tomb.retransmits,
                _ => [0; 2],
            },
            end,
        }
    }

    pub(crate) fn view(&self, id: FlowId) -> FlowView {
        let key = self.key.packed().unpack();
        let (attachment, cookie) = self.identity();
        FlowView {
            id,
            key,
            endpoint: VpcEndpointId(key.endpoint.0),
            attachment,
            cookie,
            outer: self.outer,
            protocol: key.protocol,
            client: self.client(),
            server: self.server(),
            opened_at: self.opened_at,
            mid_flow: self.is_mid_flow,
            state: self.public_state(),
            packets: self.packets.map(u64::from),
            bytes: self.bytes,
        }
    }

    fn public_state(&self) -> FlowState {
        match &self.state {
            State::Pending(_) => FlowState::Pending,
            State::Bypassed(bypass) if self.is_tcp() && bypass.is_over() => FlowState::Ended,
            State::Bypassed(_) => FlowState::Bypassed,
            State::Denied(_) => FlowState::Denied,
            State::Tracking(track) => match track.phase {
                Phase::Hold(_) => FlowState::Holding,
                _ => FlowState::Tracking,
            },
            State::Intercepted(_) => FlowState::Intercepted,
            State::Tomb(_) => FlowState::Ended,
        }
    }
}

/// A bypassed flow, its place in the timer wheel and in the index together.
const _: () = assert!(
    size_of::<Option<Flow>>() + size_of::<crate::timer::Node>() + 8 <= 200,
    "a bypassed flow must fit 200 bytes"
);
