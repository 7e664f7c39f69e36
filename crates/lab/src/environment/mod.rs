//! Joins the lab with its origins and its tour: who serves where, and where the tour's client sits.

mod kernel;
mod user_space;

pub use kernel::{KernelEnvironment, OriginServers};
pub use user_space::{UserspaceEnvironment, serve_user_space};
