//! The connection: its parts, and what the caller does with it.
//!
//! `input.rs` takes segments in the order of RFC 9293 §3.10.7.4, `ack.rs` is its fifth check,
//! `output.rs` makes segments, `run.rs` does both for segments that follow each other, `timeout.rs` does what time asks for, `path_mtu.rs` finds the
//! segment size, `export.rs` turns the whole into plain data and back.

mod ack;
mod export;
mod input;
mod output;
pub(crate) mod path_mtu;
mod run;
mod timeout;

pub use run::{TransmitRun, continues_run};

use core::time::Duration;
use std::sync::Arc;

use wire::tcp::{Repr, Seq};

use crate::config::Config;
use crate::congestion::{Algorithm, Congestion, Controller};
use crate::flight::Flight;
use crate::recovery::{Phase, Recovery};
use crate::recv::Receiver;
use crate::rtt::Rtt;
use crate::send::Sender;
use crate::spare::Spare;
use crate::state::{Events, State};
use crate::stats::Stats;
use crate::takeover::{Takeover, TimestampSeed};
use crate::time::Instant;
use crate::timer::{Deadline, Timers};

/// The size of the timestamp option with its padding (RFC 7323 appendix A).
const TIMESTAMP_BYTES: u16 = 12;
/// The least segment size that every path must carry (RFC 9293 §3.7.1), and less than any peer
/// may make us use: smaller ones only serve to make us send more packets.
const SMALLEST_SEGMENT: u16 = 88;
const DEFAULT_SEGMENT: u16 = 536;
/// A timestamp older than this says nothing (RFC 7323 §5.5).
const TIMESTAMP_VALID_SECONDS: u32 = 24 * 24 * 3600;

/// A segment to send: the header, and which part of the send queue is its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The header; ports are 0 and belong to the caller.
    pub repr: Repr,
    /// Sequence number of the first payload byte.
    pub payload_seq: Seq,
    /// Payload bytes; copy them with [`Connection::copy_payload`] before the next call that takes
    /// `&mut self`.
    pub payload_len: usize,
}

/// One connection from ESTABLISHED to CLOSED.
///
/// Holds no buffers while nothing is queued and nothing is unread. The caller obeys the drain rule
/// of the crate's documentation.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    state: State,
    events: Events,
    recv: Receiver,
    send: Sender,
    flight: Spare<Flight>,
    recovery: Recovery,
    rtt: Rtt,
    congestion: Controller,
    timers: Timers,
    clock: Option<Clock>,
    acks: AckState,
    peer: Peer,
    stats: Stats,
    /// Segment size before options, the largest that the peer takes, and when to try a larger one,
    /// in seconds.
    mss: u16,
    mss_ceiling: u16,
    raise_second: u32,
    sack: bool,
    /// When data was sent last.
    sent_at: Instant,
    /// Segments that are to leave although nothing else asks for them.
    owed: Owed,
    /// Buffer bytes that the budget knows of.
    charged: u32,
}

/// The timestamp clock (RFC 7323 §5.4): it runs on from where the observed end left it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    /// What it is ahead of the caller's clock, in milliseconds.
    ahead: u32,
    /// The first value that is ours: echoes of earlier ones measure somebody else.
    first: u32,
    /// TS.Recent and when it was taken.
    recent: u32,
    /// It comes from a segment that this connection took. The observer's value may stem from an
    /// acknowledgment that overtook data which is still to be replayed, so it rejects nothing.
    recent_is_ours: bool,
    /// In seconds.
    recent_at: u32,
}

/// When acknowledgments are due.
#[derive(Debug)]
struct AckState {
    /// Acknowledgments to send at once.
    now: u8,
    /// They answer out-of-order data, so they must not ride on data (RFC 5681 §2).
    pure: bool,
    /// Data segments not acknowledged.
    pending: u8,
    pending_bytes: u32,
    /// Data segments still to be acknowledged at once.
    quick: u8,
    /// Largest payload seen.
    segment: u16,
    /// RCV.NXT of the last acknowledgment (Last.ACK.sent of RFC 7323 §4.3).
    last_sent: Seq,
    /// When data arrived last.
    data_at: Instant,
    /// ECN was negotiated; a congestion mark waits for CWR.
    ecn: bool,
    echo: bool,
}

/// What is known about the peer's being there.
#[derive(Debug)]
struct Peer {
    heard_at: Instant,
    probes: u8,
    /// Challenge acknowledgments in the second of this number.
    challenges: u8,
    challenge_second: u32,
}

/// Segments to send once.
#[derive(Debug, Default)]
struct Owed {
    reset: Option<Reset>,
    /// The same once more, where the peer's window ends.
    reset_at_edge: bool,
    loss_probe: bool,
    window_probe: bool,
    keepalive: bool,
}

/// A reset to send.
#[derive(Clone, Copy, Debug)]
struct Reset {
    seq: Seq,
    ack: Option<Seq>,
}

impl Connection {
    /// A connection in ESTABLISHED that speaks in the place of one end of an observed one.
    pub fn new(config: &Arc<Config>, takeover: &Takeover, now: Instant) -> Self {
        let mss = if takeover.mss == 0 {
            DEFAULT_SEGMENT
        } else {
            takeover.mss
        };
        let mss = mss.min(config.mss_clamp).max(SMALLEST_SEGMENT);
        let clock = takeover.timestamps.map(|seed| Clock::new(seed, now));
        let segment = u32::from(mss - if clock.is_some() { TIMESTAMP_BYTES } else { 0 });
        let mut timers = Timers::new();
        if let Some(keepalive) = config.keepalive {
            timers.keepalive = Deadline::after(now, keepalive);
        }
        Self {
            config: Arc::clone(config),
            state: State::Established,
            events: Events::default(),
            recv: Receiver::new(
                takeover.rcv_nxt,
                takeover.rcv_right_edge,
                takeover.rcv_shift,
                [config.recv_buffer_initial, config.recv_buffer_max],
                config.max_ranges,
                now,
            ),
            send: Sender::new(
                takeover.snd_nxt,
                takeover.snd_wnd,
                takeover.rcv_nxt,
                takeover.snd_shift,
                [config.send_buffer_initial, config.send_buffer_max],
            ),
            flight: Spare::BLANK,
            recovery: Recovery::new(),
            rtt: Rtt::new(takeover.srtt, now),
            congestion: Controller::new(config.congestion, segment, config.initial_window, now),
            timers,
            clock,
            acks: AckState {
                now: 0,
                pure: false,
                pending: 0,
                pending_bytes: 0,
                quick: config.quick_acks,
                segment: DEFAULT_SEGMENT,
                last_sent: takeover.rcv_nxt,
                data_at: now,
                ecn: takeover.ecn,
                echo: false,
            },
            peer: Peer {
                heard_at: now,
                probes: 0,
                challenges: 0,
                challenge_second: 0,
            },
            stats: Stats::default(),
            mss,
            mss_ceiling: mss,
            raise_second: 0,
            sack: takeover.sack,
            sent_at: now,
            owed: Owed::default(),
            charged: 0,
        }
    }

    /// Moves received bytes to `out`; answers how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.recv.read(out)
    }

    /// Queues bytes; answers how many were taken, 0 after [`Self::shutdown`] and in CLOSED.
    ///
    /// [`Events::WRITABLE`] follows a write that took less than it was given.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        if !self.state.may_write() {
            return 0;
        }
        self.send.set_pressed(self.config.memory.is_used_up());
        let count = self.send.write(bytes);
        self.settle_memory();
        count
    }

    /// Closes our direction: FIN follows what is queued. The other direction stays open.
    pub fn shutdown(&mut self) {
        if self.state.may_write() {
            self.send.finish();
            self.state = self.state.after_shutdown();
        }
    }

    /// Ends the connection at once with RST (RFC 9293 §3.10.5). Unread bytes stay readable.
    ///
    /// A peer that has closed its window over what is in flight drops a RST from behind it, so where
    /// the rounding of the scale leaves open whether it has, two leave.
    pub fn abort(&mut self) {
        if matches!(self.state, State::Closed) {
            return;
        }
        if self.state != State::TimeWait {
            let seq = self.send.acceptable_seq();
            self.owed.reset = Some(Reset {
                seq,
                ack: Some(self.recv.rcv_nxt()),
            });
            // The window is told only to the precision of its scale: one number for a peer that takes
            // it, and one that lies within the window for certain.
            self.owed.reset_at_edge = self.send.window_edge() < seq;
        }
        self.close();
    }

    /// Replaces the congestion controller, best before anything is sent: the new one begins with
    /// the initial window.
    pub fn set_congestion(&mut self, algorithm: Algorithm, now: Instant) {
        self.congestion = Controller::new(
            algorithm,
            self.segment_size(),
            self.config.initial_window,
            now,
        );
    }

    /// Takes what happened since the last call.
    pub fn take_events(&mut self) -> Events {
        core::mem::take(&mut self.events)
    }

    /// Copies the payload of `transmit` to the start of `out`, which has room for
    /// `transmit.payload_len` bytes.
    pub fn copy_payload(&self, transmit: &Transmit, out: &mut [u8]) {
        let [first, second] = self.payload(transmit);
        let (to_first, rest) = out.split_at_mut(first.len().min(out.len()));
        to_first.copy_from_slice(&first[..to_first.len()]);
        let length = second.len().min(rest.len());
        rest[..length].copy_from_slice(&second[..length]);
    }

    /// The payload of `transmit`, in two parts where the queue wraps around.
    pub fn payload(&self, transmit: &Transmit) -> [&[u8]; 2] {
        self.send.bytes(transmit.payload_seq, transmit.payload_len)
    }

    /// When [`Self::handle_timeout`] wants to be called; earlier calls are harmless.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.earliest().min(self.flight.pace).instant()
    }

    /// Bytes that [`Self::read`] would give.
    pub fn readable(&self) -> usize {
        self.recv.readable()
    }

    /// Whether the peer has closed its direction and everything before was read.
    pub fn is_read_finished(&self) -> bool {
        self.recv.is_finished() && self.recv.readable() == 0
    }

    /// Bytes that [`Self::write`] would take.
    pub fn writable(&self) -> usize {
        if self.state.may_write() {
            self.send.writable()
        } else {
            0
        }
    }

    /// Bytes queued that the peer has not acknowledged.
    pub fn unsent_or_unacked(&self) -> usize {
        self.send.queued() as usize
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Counters since take-over.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// The smoothed round-trip time between us and the peer.
    pub fn srtt(&self) -> Option<Duration> {
        self.rtt.smoothed()
    }

    /// The congestion window in bytes.
    pub fn congestion_window(&self) -> usize {
        self.window() as usize
    }

    /// Whether a look at what can be given back is worth while.
    pub(crate) fn holds_memory(&self) -> bool {
        let keeps_account = self.congestion.has_own_recovery();
        self.recv.holds_memory()
            || self.send.capacity() > 0
            || self.flight.board.holds_memory()
            || (self.flight.is_there() && !keeps_account)
    }

    /// Bytes allocated by both queues.
    fn buffers(&self) -> usize {
        self.recv.capacity() + self.send.capacity()
    }

    /// Tells the budget what the queues hold now.
    fn settle_memory(&mut self) {
        let held = self.buffers() as u32;
        if held != self.charged {
            self.config
                .memory
                .change(self.charged as usize, held as usize);
            self.charged = held;
        }
    }

    /// Payload bytes of a full segment.
    fn segment_size(&self) -> u32 {
        u32::from(
            self.mss
                - if self.clock.is_some() {
                    TIMESTAMP_BYTES
                } else {
                    0
                },
        )
    }

    /// The window that applies in this phase.
    fn window(&self) -> u32 {
        match self.recovery.phase {
            Phase::Fast { .. } if !self.congestion.has_own_recovery() => self.recovery.window(),
            Phase::Fast { .. } | Phase::Open | Phase::Timeout { .. } => self.congestion.window(),
        }
    }

    /// What is in flight, with duplicate acknowledgments counted where SACK is absent.
    fn pipe(&self) -> u32 {
        let board = &self.flight.board;
        board.pipe().saturating_sub(self.recovery.repair.dup_bytes)
    }

    /// The time-out with its back-off.
    fn backed_off_timeout(&self) -> Duration {
        let timeout = self.rtt.timeout(&self.config);
        timeout
            .saturating_mul(1 << self.recovery.backoff.min(16))
            .min(self.config.max_rto)
    }

    /// Enters CLOSED.
    fn close(&mut self) {
        self.state = State::Closed;
        self.events.insert(Events::CLOSED);
        self.timers = Timers::new();
        self.send.clear();
        self.settle_memory();
        self.flight.release();
        self.recovery.repair.release();
        self.acks.now = 0;
        self.acks.pending = 0;
        self.owed = Owed {
            reset: self.owed.reset,
            reset_at_edge: self.owed.reset_at_edge,
            ..Owed::default()
        };
    }

    /// Enters TIME-WAIT, or begins it anew.
    fn linger(&mut self, now: Instant) {
        self.state = State::TimeWait;
        self.timers.keepalive = Deadline::after(now, self.config.time_wait);
        self.timers.loss = Deadline::NEVER;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.config.memory.change(self.charged as usize, 0);
    }
}

impl Clock {
    fn new(seed: TimestampSeed, now: Instant) -> Self {
        let mut clock = Self {
            ahead: seed.tsval.wrapping_sub(seed.at.as_millis_u32()),
            first: 0,
            recent: seed.ts_recent,
            recent_is_ours: false,
            recent_at: now.as_secs_u32(),
        };
        if clock.value(now) == seed.tsval {
            // The value already stands on a segment that was forwarded.
            clock.ahead = clock.ahead.wrapping_add(1);
        }
        clock.first = clock.value(now);
        clock
    }

    /// TSval: milliseconds.
    fn value(&self, now: Instant) -> u32 {
        now.as_millis_u32().wrapping_add(self.ahead)
    }

    /// Whether TS.Recent is too old to reject anything (RFC 7323 §5.5), or may be taken for ours.
    fn is_recent_stale(&self, now: Instant) -> bool {
        !self.recent_is_ours
            || now.as_secs_u32().wrapping_sub(self.recent_at) >= TIMESTAMP_VALID_SECONDS
    }

    /// The age of an echoed value of ours in milliseconds.
    fn age(&self, echo: u32, now: Instant) -> Option<u32> {
        let current = self.value(now);
        let since_first = echo.wrapping_sub(self.first) as i32;
        let age = current.wrapping_sub(echo) as i32;
        (since_first >= 0 && age >= 0).then_some(age as u32)
    }
}
