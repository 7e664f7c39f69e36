//! Bytes to headers and back: GENEVE with cloud options, inner IPv4 and IPv6, TCP, UDP, ICMP, checksums.
//!
//! A `Packet` is a checked view of bytes; a `Repr` is an owned, valid meaning that can be emitted.
//! Lengths are checked once, where bytes enter: after `parse` returned `Ok`, no accessor panics, and
//! `emit` never panics given a buffer of exactly the length the `Repr` asks for.
//!
//! This crate knows no flows, no time and no connections, and allocates nothing while parsing.
#![forbid(unsafe_code)]

pub mod gwlb;
pub mod tcp;
