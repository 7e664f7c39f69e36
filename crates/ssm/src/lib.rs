//! AWS Systems Manager, seen on its way: interactive sessions recorded, commands recorded, both edited
//! and blocked by rule.
//!
//! The agent on an instance talks to the Message Gateway Service over WebSockets: one control channel,
//! and a data channel for each session. [`message`] is their binary form. [`Ssm`] is the interceptor;
//! what it knows of a session outlives the WebSocket that carries it.
//!
//! What is encrypted from end to end (a KMS key in Session Manager's settings) stays so: such sessions
//! are recorded without their content.
#![forbid(unsafe_code)]

mod answer;
mod asciicast;
mod control;
mod delivery;
mod desk;
mod document;
#[doc(hidden)]
pub mod fuzzing;
mod interceptor;
pub mod message;
mod moving;
mod recorder;
mod session;
mod stream;
mod transcript;
mod typed;
mod whereabouts;

pub use interceptor::{KIND, Ssm};
