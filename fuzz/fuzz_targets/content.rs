//! `cargo +nightly fuzz run content`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sdk::fuzzing::content(bytes));
