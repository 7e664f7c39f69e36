//! `cargo +nightly fuzz run server_certificate`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls::fuzzing::server_certificate(bytes));
