//! Datagram to flow to verdict to datagram: the data plane of one shard, without I/O and without a clock.
//!
//! A datagram from the load balancer is parsed (`seen`), its flow looked up (`table`), and treated by
//! the flow's state (`dispatch`): parked while a verdict is awaited (`park`), forwarded raw from the
//! buffer it came in (`bypass`), watched while two hosts shake hands (`tracker`), or consumed by one
//! of the two connections of an intercepted flow (`legs`). How a flow changes state is in
//! `lifecycle`.
//!
//! The data plane never calls policy: it reports [`Event`]s and is told [`Verdict`]s.
#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]
#![cfg_attr(
    test,
    expect(clippy::indexing_slicing, reason = "a test may fail by panicking")
)]

mod bypass;
mod config;
mod counters;
mod dataplane;
mod dispatch;
mod emit;
mod event;
mod flow;
mod fragments;
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod key;
mod legs;
mod lifecycle;
mod park;
mod round_trip;
mod seen;
mod shared;
mod table;
mod timer;
mod tracker;

pub use config::Config;
pub use counters::{BypassReason, Counters, DropReason};
pub use dataplane::Dataplane;
pub use event::{
    CloseReason, Disposition, Event, FirstBytes, FlowEnd, FlowState, FlowSummary, FlowView, Leg,
    Outer, ReadOutcome, Transmit, TransmitRun, Unseen, Verdict, WriteOutcome,
};
pub use key::{FlowId, FlowKey};
/// Congestion control of the legs.
pub use tcp::Algorithm as Congestion;
pub use tcp::Instant;
pub use wire::gwlb::*;
pub use wire::ip::Protocol;
