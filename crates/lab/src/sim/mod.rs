//! The strict simulated Gateway Load Balancer.
//!
//! Sans-IO: packets and datagrams go in with the time, datagrams and packets come out. It keeps the
//! flow table that a real load balancer keeps, gives each flow its cookie, and judges every answer
//! of the appliance: what a real one would drop is dropped and counted by kind.

mod config;
mod flow;
mod gwlb;
mod header;
pub(crate) mod inner;
#[cfg(test)]
mod tests;
mod violation;

pub use config::{GENEVE_PORT, GwlbConfig, GwlbStats, Stickiness, Switches};
pub use gwlb::{Delivery, Gwlb, Side, ToAppliance};
pub use header::ExtraOption;
pub use violation::{Violation, Violations};
