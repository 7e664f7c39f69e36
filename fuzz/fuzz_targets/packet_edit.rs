//! `cargo +nightly fuzz run packet_edit`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sdk::fuzzing::packet_edit(bytes));
