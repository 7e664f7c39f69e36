//! The engine's public face.

use std::collections::VecDeque;

use crate::counters::{Counters, DropReason};
use crate::{
    Config, Disposition, Event, FirstBytes, FlowId, FlowView, Instant, Leg, Outer, ReadOutcome,
    Transmit, Verdict, WriteOutcome,
};

/// One shard's flows.
#[derive(Debug)]
pub struct Dataplane {
    config: Config,
    counters: Counters,
    events: VecDeque<Event>,
}

impl Dataplane {
    /// An empty data plane. `seed` keys the flow table's hash and every random choice.
    pub fn new(config: Config, _seed: u64) -> Self {
        Self {
            config,
            counters: Counters::default(),
            events: VecDeque::new(),
        }
    }
    /// Takes one UDP payload in.
    pub fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        _outer: Outer,
        _now: Instant,
    ) -> Disposition {
        self.counters.received_packets += 1;
        self.counters.received_bytes += datagram.len() as u64;
        Disposition::Dropped(DropReason::GeneveTruncated)
    }
    /// Runs what is due.
    pub fn handle_timeout(&mut self, _now: Instant) {}
    /// When [`Dataplane::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }
    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }
    /// Appends one datagram to `out`.
    pub fn poll_transmit(&mut self, _now: Instant, _out: &mut Vec<u8>) -> Option<Transmit> {
        None
    }
    /// Answers [`Event::FlowOpened`].
    pub fn set_verdict(&mut self, _flow: FlowId, _verdict: Verdict, _now: Instant) {}
    /// Answers [`Event::FirstBytes`].
    pub fn set_first_bytes(&mut self, _flow: FlowId, _answer: FirstBytes, _now: Instant) {}
    /// The client's held bytes, contiguous from the first; `None` if the flow does not hold.
    pub fn held(&self, _flow: FlowId) -> Option<&[u8]> {
        None
    }
    /// A look at a flow.
    pub fn flow(&self, _flow: FlowId) -> Option<FlowView> {
        None
    }
    /// Reads from a leg.
    pub fn read(
        &mut self,
        _flow: FlowId,
        _leg: Leg,
        _out: &mut [u8],
        _now: Instant,
    ) -> ReadOutcome {
        ReadOutcome::Reset
    }
    /// Writes to a leg.
    pub fn write(
        &mut self,
        _flow: FlowId,
        _leg: Leg,
        _bytes: &[u8],
        _now: Instant,
    ) -> WriteOutcome {
        WriteOutcome::Reset
    }
    /// Sends FIN on a leg after what was written.
    pub fn shutdown(&mut self, _flow: FlowId, _leg: Leg, _now: Instant) {}
    /// Resets both legs.
    pub fn abort(&mut self, _flow: FlowId, _now: Instant) {}
    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.config
    }
    /// Flows remembered.
    pub fn flows_active(&self) -> usize {
        0
    }
    /// Flows intercepted.
    pub fn intercepted_flows(&self) -> usize {
        0
    }
    /// From here on new flows bypass.
    pub fn begin_drain(&mut self) {}
    /// Resets both legs of every intercepted flow.
    pub fn reset_all(&mut self, _now: Instant) {}
}
