//! `cargo +nightly fuzz run quic_initial`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tls::fuzzing::quic_initial(bytes));
