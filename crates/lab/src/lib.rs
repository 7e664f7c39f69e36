//! A VPC in a box: simulated Gateway Load Balancer, hosts, links, origins.
//!
//! The lab puts a real client and a real server into private network namespaces, carries their
//! packets through lossy links to a strict simulated load balancer, and that one speaks GENEVE with
//! an appliance that runs as a child process and knows nothing of the lab. Whatever the appliance
//! does that a real load balancer would drop is dropped and counted.
//!
//! Start with [`netns::enter`] while the process has one thread, then [`Lab::builder`]. The parts
//! below namespaces and sockets ([`sim`], [`link`], [`fabric`]) are sans-IO and serve deterministic
//! tests by themselves. Nothing here is needed by the appliance.
#![cfg(target_os = "linux")]

pub mod addresses;
pub mod appliance;
pub mod command;
pub mod dns;
pub mod driver;
pub mod environment;
pub mod fabric;
mod host_net;
mod lab;
pub mod link;
pub mod netns;
pub mod origins;
pub mod report;
mod segments;
pub mod sim;
pub mod stack;
pub mod tour;
pub mod userspace;

pub use appliance::{Appliance, ApplianceCommand};
pub use driver::LabHandle;
pub use lab::{Lab, LabBuilder, LabError, Network, PID_VARIABLE};
pub use link::LinkConfig;
pub use report::LabReport;
pub use userspace::UserspaceLab;
