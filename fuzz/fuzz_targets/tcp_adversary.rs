//! `cargo +nightly fuzz run tcp_adversary`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tcp::fuzzing::adversary(bytes));
