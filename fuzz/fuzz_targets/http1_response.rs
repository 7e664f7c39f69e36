//! `cargo +nightly fuzz run http1_response`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzzing::http1_response(bytes));
