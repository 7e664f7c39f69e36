//! Watching a VPC: what the appliance shows of the packets it handles, to whom, and in which form.
//!
//! ```text
//! shard -- Hub::datagram --> filter --> bounded queue --> Watch --> gRPC --> flowdogshark --> pcapng
//!    \---- Hub::secret ----------------------/   (sides, flows, secrets first)
//! ```
//!
//! The [`hub`] is all that the appliance's shards touch; it never waits. [`service`] answers over
//! gRPC on a UNIX socket or on TCP. [`client`] is the other end, used by `flowdogshark` (live, in
//! Wireshark) and by `flowdog capture` (files on the appliance).
#![forbid(unsafe_code)]

mod address;
mod apart;
pub mod client;
pub mod control;
pub mod decrypted;
pub mod file;
pub mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod hello;
pub mod hub;
pub mod names;
pub mod pcapng;
pub mod recorder;
pub mod recording;
pub mod rotation;
#[cfg(unix)]
pub mod service;
pub mod watch;

pub use address::Address;

#[cfg(test)]
mod testing;

/// The messages of the capture service, as `proto/capture.proto` describes them.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated; the proto files have the words"
)]
pub mod proto {
    include!("generated/flowdog.capture.v1.rs");
}

/// The service of the first flowdog, as `proto/vpcshark.proto` describes it.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated; the proto files have the words"
)]
pub mod vpcshark {
    include!("generated/vpcshark.rs");
}
