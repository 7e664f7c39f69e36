//! Datagram to flow to verdict to datagram: the data plane of one shard, without I/O and without a clock.
//!
//! **The drain rule**: after every call that takes `now`, call [`Dataplane::poll_event`] and
//! [`Dataplane::poll_transmit`] until they return `None`, then sleep until [`Dataplane::poll_timeout`].
#![forbid(unsafe_code)]

mod config;
mod counters;
mod dataplane;
mod event;
mod key;

pub use config::Config;
pub use counters::{BypassReason, Counters, DropReason};
pub use dataplane::Dataplane;
pub use event::{
    CloseReason, Disposition, Event, FirstBytes, FlowEnd, FlowState, FlowSummary, FlowView, Leg,
    Outer, ReadOutcome, Transmit, Verdict, WriteOutcome,
};
pub use key::{FlowId, FlowKey};
pub use tcp::Instant;
pub use wire::gwlb::*;
pub use wire::ip::Protocol;
