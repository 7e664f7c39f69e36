//! `cargo +nightly fuzz run geneve`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::geneve(bytes));
