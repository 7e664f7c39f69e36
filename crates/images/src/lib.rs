//! `upsidedown`: every image that passes is turned by 180 degrees and blurred.
//!
//! A crate of its own, as the decoders take time to build; whoever does without them leaves the
//! feature `images` of `flowdog` out.
#![forbid(unsafe_code)]

mod animation;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod pool;
mod turn;
mod upsidedown;
mod validators;

pub use pool::{PoolStats, stats};
pub use upsidedown::{KIND, UpsideDown};
