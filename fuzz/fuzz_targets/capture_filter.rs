//! `cargo +nightly fuzz run capture_filter`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| capture::fuzzing::filter(bytes));
