//! One TCP connection, from ESTABLISHED to CLOSED, as a sans-IO state machine.
//!
//! flowdog lets the two ends of a flow shake hands with each other and then takes over: it builds
//! one [`Connection`] that speaks to the client as the server and another that speaks to the
//! server as the client, both from what was observed on the wire ([`Takeover`]). So this crate has
//! no LISTEN, no SYN-SENT and no choice of initial sequence numbers; everything after the
//! handshake is here.
//!
//! # Contract
//!
//! The engine never reads a clock, never draws a random number and never does I/O. The caller
//! passes `now`, monotonic, to every call that needs it.
//!
//! **The drain rule**: after every [`Connection::handle_segment`], [`Connection::handle_timeout`],
//! [`Connection::read`], [`Connection::write`], [`Connection::shutdown`] and
//! [`Connection::abort`], call [`Connection::poll_transmit`] until it answers `None`, look at
//! [`Connection::take_events`], then sleep until [`Connection::poll_timeout`].
//!
//! [`Connection::handle_run`] and [`Connection::poll_transmit_run`] do the same for segments that follow
//! each other, at the price of one.
//!
//! The payload of a segment stays in the send queue until it is acknowledged;
//! [`Connection::copy_payload`] copies it into the packet being built, once.
//!
//! # Where to start reading
//!
//! `connection/` follows the order of RFC 9293 §3.10.7; `recv.rs` is the receiver, `send.rs` the
//! send queue and window, `sack.rs` the record of what is in flight, `recovery.rs` what is lost
//! and how fast to repair it, `congestion/` how much may be in flight.
#![forbid(unsafe_code)]

mod codec;
mod config;
mod congestion;
mod connection;
mod flight;
#[doc(hidden)]
pub mod fuzzing;
mod memory;
mod ranges;
mod recovery;
mod recv;
mod ring;
mod rtt;
mod sack;
mod send;
mod spare;
mod state;
mod stats;
mod takeover;
#[cfg(test)]
mod tests;
pub mod time;
mod timer;

pub use codec::ImportError;
pub use config::Config;
pub use congestion::Algorithm;
pub use connection::{Connection, Transmit, TransmitRun, continues_run};
pub use memory::Memory;
pub use state::{Events, State};
pub use stats::Stats;
pub use takeover::{Takeover, TimestampSeed};
pub use time::Instant;
pub use wire::tcp::{Flags, Options, Repr, SackBlock, Seq, Timestamps};
