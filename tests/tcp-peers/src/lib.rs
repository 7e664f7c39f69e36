//! The TCP engine and the kernel's TCP on the two ends of one simulated link, in real time.
//!
//! The link is the one of the engine's simulator; the kernel's end is a device in a private network
//! namespace, so nothing here needs root.
#![cfg(target_os = "linux")]

mod case;
pub mod kernel;
pub mod measure;
mod opening;
pub mod takeover;
mod world;

// The simulator of the engine's own tests: hosts, applications, links.
#[path = "../../../crates/tcp/tests/sim/mod.rs"]
mod sim;

pub use case::{Case, Path};
pub use world::Clock;
