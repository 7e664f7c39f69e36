//! `cargo +nightly fuzz run ip`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::fuzzing::ip(bytes));
