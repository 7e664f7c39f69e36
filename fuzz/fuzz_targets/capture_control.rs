//! `cargo +nightly fuzz run capture_control`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| capture::fuzzing::control(bytes));
