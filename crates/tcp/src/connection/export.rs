//! A connection as plain data, so that another process can go on with it.
//!
//! The form is versioned, big endian, and has no pointers and no absolute times: what the peer can
//! observe survives (numbers, windows, timestamps, what is in flight and reported, the pace). What is
//! only learned again cheaply is left out: BBR's model, the phase of CUBIC's curve, the limit on
//! challenges.

use std::sync::Arc;

use super::{
    AckState, Clock, Connection, DEFAULT_SEGMENT, Owed, Peer, SMALLEST_SEGMENT, TIMESTAMP_BYTES,
};
use crate::codec::{ImportError, Reader, Writer, require};
use crate::config::Config;
use crate::congestion::{Algorithm, Congestion, Controller};
use crate::flight::Flight;
use crate::recovery::{Phase, Recovery};
use crate::recv::Receiver;
use crate::rtt::Rtt;
use crate::sack::Scoreboard;
use crate::send::Sender;
use crate::spare::Spare;
use crate::state::{Events, State};
use crate::stats::Stats;
use crate::time::Instant;
use crate::timer::{Deadline, Timers};

const MAGIC: &[u8; 4] = b"fdtc";
/// Raised with every change of the form.
const VERSION: u16 = 1;
const STATES: [State; 7] = [
    State::Established,
    State::FinWait1,
    State::FinWait2,
    State::CloseWait,
    State::Closing,
    State::LastAck,
    State::TimeWait,
];

impl Connection {
    /// Everything that another process needs to go on with this connection ([`Self::import`]);
    /// `None` in CLOSED, where nothing is left. Unread, unsent and unacknowledged bytes are in it.
    ///
    /// The caller drops this connection without aborting it, and gives segments that arrive
    /// meanwhile to the new one or loses them.
    pub fn export(&self, now: Instant) -> Option<Vec<u8>> {
        let state = STATES.iter().position(|state| *state == self.state)?;
        let mut out = Writer::new(now);
        out.bytes.extend_from_slice(MAGIC);
        out.u16(VERSION);
        out.u8(state as u8);
        out.u16(self.mss);
        out.u16(self.mss_ceiling);
        out.flag(self.sack);
        self.send.export(&mut out);
        self.recv.export(&mut out);
        out.flag(self.clock.is_some());
        if let Some(clock) = &self.clock {
            out.u32(clock.value(now));
            out.u32(clock.first);
            out.u32(clock.recent);
            out.flag(clock.recent_is_ours);
            out.u32(now.as_secs_u32().wrapping_sub(clock.recent_at));
        }
        for part in self.rtt.parts(now) {
            out.u32(part);
        }
        out.flag(self.congestion.has_own_recovery());
        for part in self.congestion.parts() {
            out.u32(part);
        }
        let (phase, point) = match self.recovery.phase {
            Phase::Open => (0, self.send.nxt()),
            Phase::Fast { point } => (1, point),
            Phase::Timeout { point } => (2, point),
        };
        out.u8(phase);
        out.seq(point);
        out.u8(self.recovery.backoff);
        out.flag(self.recovery.peer_delays);
        for part in self.recovery.tolerance_parts() {
            out.u8(part);
        }
        self.flight.board.export(&mut out);
        if !self.flight.board.is_empty() {
            out.age(self.flight.progress_at);
            out.age(self.flight.expired_at);
        }
        out.age(self.sent_at);
        out.flag(self.acks.now > 0 || self.acks.pending > 0);
        out.u8(self.acks.quick);
        out.u16(self.acks.segment);
        out.seq(self.acks.last_sent);
        out.age(self.acks.data_at);
        out.flag(self.acks.ecn);
        out.flag(self.acks.echo);
        out.age(self.peer.heard_at);
        out.u8(self.peer.probes);
        let keepalive = self.timers.keepalive.instant();
        out.flag(keepalive.is_some());
        out.u64(keepalive.map_or(0, |at| at.since(now).as_micros() as u64));
        self.stats.export(&mut out);
        Some(out.bytes)
    }

    /// Goes on with an exported connection. What it allocates is bounded by `config` and by the
    /// length of `bytes`, whatever they say.
    ///
    /// All events that may have been waiting are reported again. The drain rule applies at once.
    ///
    /// # Errors
    /// What is wrong with `bytes`. The connection cannot be continued then; its peer learns it when
    /// its next segment is answered with a reset.
    pub fn import(config: &Arc<Config>, bytes: &[u8], now: Instant) -> Result<Self, ImportError> {
        let mut input = Reader::new(bytes, now);
        if input.take(MAGIC.len()) != Ok(MAGIC.as_slice()) {
            return Err(ImportError::NotAnExport);
        }
        let version = input.u16()?;
        if version != VERSION {
            return Err(ImportError::UnknownVersion(version));
        }
        let connection = Self::from_export(config, &mut input, now)?;
        if input.left() > 0 {
            return Err(ImportError::TrailingBytes);
        }
        Ok(connection.awake(now))
    }

    fn from_export(
        config: &Arc<Config>,
        input: &mut Reader<'_>,
        now: Instant,
    ) -> Result<Self, ImportError> {
        let state = *STATES
            .get(usize::from(input.u8()?))
            .ok_or(ImportError::Contradiction("the state"))?;
        let mss = input.u16()?;
        require(mss >= SMALLEST_SEGMENT, "the segment size")?;
        let ceiling = input.u16()?.min(config.mss_clamp).max(SMALLEST_SEGMENT);
        let mss = mss.min(ceiling);
        let sack = input.flag()?;
        let send = Sender::import(input, config.send_buffer_max)?;
        let recv = Receiver::import(input, config.recv_buffer_max, config.max_ranges, now)?;
        require(
            (send.fin_facts(), recv.is_finished()) == fin_facts(state),
            "the state and the FINs",
        )?;
        let clock = if input.flag()? {
            Some(Clock {
                ahead: input.u32()?.wrapping_sub(now.as_millis_u32()),
                first: input.u32()?,
                recent: input.u32()?,
                recent_is_ours: input.flag()?,
                recent_at: now.as_secs_u32().wrapping_sub(input.u32()?),
            })
        } else {
            None
        };
        let segment = u32::from(mss - if clock.is_some() { TIMESTAMP_BYTES } else { 0 });
        let rtt = Rtt::import(input, now)?;
        let algorithm = if input.flag()? {
            Algorithm::Bbr
        } else {
            Algorithm::Cubic
        };
        let parts = [input.u32()?, input.u32()?, input.u32()?, input.u32()?];
        let congestion = Controller::import(algorithm, parts, segment, config.initial_window, now);
        let (phase, point) = (input.u8()?, input.seq()?);
        let mut recovery = Recovery::new();
        recovery.backoff = input.u8()?;
        recovery.peer_delays = input.flag()?;
        recovery.set_tolerance([input.u8()?, input.u8()?, input.u8()?]);
        let board = Scoreboard::import(input, send.una(), send.nxt())?;
        match phase {
            0 => {}
            1 | 2 => {
                require(
                    point > send.una() && point <= send.nxt(),
                    "the end of the repair",
                )?;
                if phase == 1 {
                    recovery.enter_fast(point, board.pipe());
                } else {
                    recovery.enter_timeout(point);
                }
            }
            _ => return Err(ImportError::Contradiction("the phase of the repair")),
        }
        let mut flight = Spare::BLANK;
        if !board.is_empty() {
            let part: &mut Flight = &mut flight;
            part.board = board;
            part.progress_at = input.age()?;
            part.expired_at = input.age()?;
        }
        let sent_at = input.age()?;
        let acks = AckState::import(input)?;
        require(acks.last_sent <= recv.rcv_nxt(), "what was acknowledged")?;
        let peer = Peer {
            heard_at: input.age()?,
            probes: input.u8()?,
            challenges: 0,
            challenge_second: 0,
        };
        let has_keepalive = input.flag()?;
        let rest = core::time::Duration::from_micros(input.u64()?);
        let longest = match (state, config.keepalive) {
            (State::TimeWait, _) => Some(config.time_wait),
            (_, keepalive) => keepalive.filter(|_| has_keepalive),
        };
        let mut timers = Timers::new();
        if let Some(longest) = longest {
            timers.keepalive = Deadline::after(now, rest.min(longest));
        }
        Ok(Self {
            config: Arc::clone(config),
            state,
            events: Events::default(),
            recv,
            send,
            flight,
            recovery,
            rtt,
            congestion,
            timers,
            clock,
            acks,
            peer,
            stats: Stats::import(input)?,
            mss,
            mss_ceiling: ceiling,
            raise_second: 0,
            sack,
            sent_at,
            owed: Owed::default(),
            charged: 0,
        })
    }

    /// Starts what was running.
    fn awake(mut self, now: Instant) -> Self {
        self.settle_memory();
        if self.recv.readable() > 0 {
            self.events.insert(Events::READABLE);
        }
        if self.recv.is_finished() {
            self.events.insert(Events::PEER_FINISHED);
        }
        if self.send.wants_room() {
            self.events.insert(Events::WRITABLE);
        }
        if !self.flight.board.is_empty() {
            let segment = self.segment_size();
            self.congestion
                .wake(segment, self.config.initial_window, self.send.nxt());
            self.flight.board.split(segment);
        }
        self.rearm_loss_timer(None, now);
        self.watch_memory(now);
        self
    }
}

/// Whether our FIN is asked for and acknowledged, and whether the peer's was received.
fn fin_facts(state: State) -> ((bool, bool), bool) {
    match state {
        State::Established => ((false, false), false),
        State::FinWait1 => ((true, false), false),
        State::FinWait2 => ((true, true), false),
        State::CloseWait => ((false, false), true),
        State::Closing | State::LastAck => ((true, false), true),
        State::TimeWait | State::Closed => ((true, true), true),
    }
}

impl AckState {
    fn import(input: &mut Reader<'_>) -> Result<Self, ImportError> {
        Ok(Self {
            now: u8::from(input.flag()?),
            pure: false,
            pending: 0,
            pending_bytes: 0,
            quick: input.u8()?,
            segment: input.u16()?.max(DEFAULT_SEGMENT),
            last_sent: input.seq()?,
            data_at: input.age()?,
            ecn: input.flag()?,
            echo: input.flag()?,
        })
    }
}

impl Stats {
    fn counts(&mut self) -> [&mut u32; 12] {
        [
            &mut self.segments_sent,
            &mut self.segments_received,
            &mut self.retransmits,
            &mut self.timeouts,
            &mut self.loss_probes,
            &mut self.size_probes,
            &mut self.recoveries,
            &mut self.undone,
            &mut self.out_of_order,
            &mut self.duplicates,
            &mut self.dropped,
            &mut self.challenge_acks,
        ]
    }

    fn export(&self, out: &mut Writer) {
        out.u64(self.bytes_acked);
        out.u64(self.bytes_received);
        for count in { *self }.counts() {
            out.u32(*count);
        }
    }

    fn import(input: &mut Reader<'_>) -> Result<Self, ImportError> {
        let mut stats = Self {
            bytes_acked: input.u64()?,
            bytes_received: input.u64()?,
            ..Self::default()
        };
        for count in stats.counts() {
            *count = input.u32()?;
        }
        Ok(stats)
    }
}
