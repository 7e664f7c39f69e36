//! One TCP connection, from ESTABLISHED to CLOSED, as a sans-IO state machine.
#![forbid(unsafe_code)]

pub mod time;

pub use time::Instant;
pub use wire::tcp::{Flags, Options, Repr, SackBlock, Seq, Timestamps};
