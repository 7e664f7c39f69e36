//! `cargo +nightly fuzz run client_hello`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls::fuzzing::client_hello(bytes));
