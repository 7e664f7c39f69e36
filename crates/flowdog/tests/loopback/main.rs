//! A whole appliance in this process, on loopback, in front of a load balancer made by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

mod acceptors;
mod bench;
mod flow_log;
mod interception;
mod management;
mod packets;
