//! `cargo +nightly fuzz run icmp`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::icmp(bytes));
