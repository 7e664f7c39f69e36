//! Bytes to headers and back: GENEVE with cloud options, inner IPv4 and IPv6, TCP, UDP, ICMP, checksums.
//!
//! A `Packet` (or `Segment`, `Datagram`, `Message`) is a checked view of bytes; a `Repr` is an owned,
//! valid meaning that can be emitted. Lengths are checked once, where bytes enter: after `parse`
//! returned `Ok`, no accessor panics, and `emit` never panics given a buffer of at least the length
//! that the `Repr` asks for.
//!
//! This crate knows no flows, no time and no connections, and allocates nothing while parsing.
#![forbid(unsafe_code)]
// No slice in here is indexed by a number that a peer chose.
#![warn(clippy::indexing_slicing)]
#![cfg_attr(
    test,
    expect(clippy::indexing_slicing, reason = "a test may fail by panicking")
)]

pub mod checksum;
pub mod fuzzing;
pub mod geneve;
pub mod gwlb;
pub mod icmp;
pub mod ip;
pub mod tcp;
pub mod udp;
