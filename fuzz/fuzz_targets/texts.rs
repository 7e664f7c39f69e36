//! `cargo +nightly fuzz run texts`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sdk::fuzzing::texts(bytes));
