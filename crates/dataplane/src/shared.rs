//! What all flows share, apart from the table itself.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::counters::{Counters, DropReason};
use crate::emit::{Queued, TransmitQueue};
use crate::event::Event;
use crate::flow::{Flow, State};
use crate::hash::Random;
use crate::round_trip::RoundTrips;
use crate::tracker::Phase;
use crate::{Config, FlowId};

/// Configuration, queues and totals.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) tcp: Arc<tcp::Config>,
    pub(crate) counters: Counters,
    pub(crate) events: VecDeque<Event>,
    pub(crate) queue: TransmitQueue,
    /// Flows whose legs may have something to send, each at most once.
    pub(crate) dirty: VecDeque<FlowId>,
    pub(crate) load: Load,
    /// What the flow in hand took when its turn began; `load` still says so.
    pub(crate) in_hand: Load,
    pub(crate) round_trips: RoundTrips,
    pub(crate) random: Random,
}

/// What flows take of the limits that they share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) half_open: usize,
    pub(crate) intercepted: usize,
    pub(crate) held_bytes: usize,
    pub(crate) parked_bytes: usize,
}

impl Load {
    /// What one flow takes.
    pub(crate) fn of(flow: &Flow) -> Self {
        let mut load = Self::default();
        match &flow.state {
            State::Pending(park) => load.parked_bytes = park.bytes,
            State::Tracking(track) => {
                load.half_open = usize::from(track.is_half_open());
                if let Phase::Hold(hold) = &track.phase {
                    load.held_bytes = hold.bytes();
                }
                load.held_bytes += track
                    .greeting
                    .as_ref()
                    .map_or(0, |greeting| greeting.bytes());
            }
            State::Intercepted(_) => load.intercepted = 1,
            State::Bypassed(_) | State::Denied(_) | State::Tomb(_) => {}
        }
        load
    }

    /// Replaces what a flow took by what it takes.
    pub(crate) fn change(&mut self, before: Self, after: Self) {
        let change = |total: &mut usize, before: usize, after: usize| {
            *total = (*total + after).saturating_sub(before);
        };
        change(&mut self.half_open, before.half_open, after.half_open);
        change(&mut self.intercepted, before.intercepted, after.intercepted);
        change(&mut self.held_bytes, before.held_bytes, after.held_bytes);
        change(
            &mut self.parked_bytes,
            before.parked_bytes,
            after.parked_bytes,
        );
    }
}

impl Shared {
    /// Whether the flow in hand may hold so many bytes more. What it has held in this very turn counts.
    pub(crate) fn may_hold(&self, flow: &Flow, bytes: usize) -> bool {
        let others = self.load.held_bytes.saturating_sub(self.in_hand.held_bytes);
        others + Load::of(flow).held_bytes + bytes <= self.config.hold_total_bytes
    }

    /// Queues a datagram of a flow, or counts that there was no room.
    pub(crate) fn send(&mut self, flow: &mut Flow, datagram: Queued) {
        if self.queue.push(datagram) {
            flow.queued = flow.queued.saturating_add(1);
        } else {
            self.counters.count_drop(DropReason::TransmitQueueFull);
        }
    }

    /// Notes that a flow's legs may have something to send.
    pub(crate) fn mark_dirty(&mut self, flow: &mut Flow, id: FlowId) {
        if !flow.is_dirty {
            flow.is_dirty = true;
            self.dirty.push_back(id);
        }
    }
}
