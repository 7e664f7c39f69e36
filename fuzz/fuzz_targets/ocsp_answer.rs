//! `cargo +nightly fuzz run ocsp_answer`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls::fuzzing::ocsp_answer(bytes));
