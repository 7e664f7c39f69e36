//! `cargo +nightly fuzz run http2_frames`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzzing::http2_frames(bytes));
