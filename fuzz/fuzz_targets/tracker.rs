//! `cargo +nightly fuzz run tracker`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| dataplane::fuzzing::tracker(bytes));
