//! `cargo +nightly fuzz run table`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| archive::fuzzing::table(bytes));
