//! `cargo +nightly fuzz run capture_file`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| capture::fuzzing::file(bytes));
