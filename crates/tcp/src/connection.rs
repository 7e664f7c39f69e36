//! The connection.

use core::time::Duration;
use std::sync::Arc;

use wire::tcp::{Repr, Seq};

use crate::config::Config;
use crate::state::{Events, State};
use crate::stats::Stats;
use crate::takeover::Takeover;
use crate::time::Instant;

/// A segment to send: the header, and which part of the send queue is its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The header; ports are 0 and belong to the caller.
    pub repr: Repr,
    /// Sequence number of the first payload byte.
    pub payload_seq: Seq,
    /// Payload bytes; copy them with [`Connection::copy_payload`].
    pub payload_len: usize,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    config: Arc<Config>,
    state: State,
}

impl Connection {
    /// A connection in ESTABLISHED.
    pub fn new(config: &Arc<Config>, takeover: &Takeover, now: Instant) -> Self {
        Self { config: Arc::clone(config), state: State::Established }
    }
    /// Processes a segment from the peer.
    pub fn handle_segment(&mut self, repr: &Repr, payload: &[u8], ce: bool, now: Instant) {}
    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {}
    /// The next segment to send.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        None
    }
    /// Copies the payload of `transmit` to the start of `out`.
    pub fn copy_payload(&self, transmit: &Transmit, out: &mut [u8]) {}
    /// When `handle_timeout` wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// Moves received bytes to `out`.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        0
    }
    /// Bytes that `read` would give.
    pub fn readable(&self) -> usize {
        0
    }
    /// Whether the peer closed and everything was read.
    pub fn is_read_finished(&self) -> bool {
        false
    }
    /// Queues bytes; answers how many were taken.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        0
    }
    /// Bytes that `write` would take.
    pub fn writable(&self) -> usize {
        0
    }
    /// Bytes in the send queue.
    pub fn unsent_or_unacked(&self) -> usize {
        0
    }
    /// FIN after what is queued.
    pub fn shutdown(&mut self) {}
    /// RST.
    pub fn abort(&mut self) {}
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }
    /// Takes the events.
    pub fn take_events(&mut self) -> Events {
        Events::default()
    }
    /// Lowers the segment size.
    pub fn set_max_segment(&mut self, mss: u16) {}
    /// Counters.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }
    /// Smoothed round-trip time.
    pub fn srtt(&self) -> Option<Duration> {
        None
    }
}
