//! `cargo +nightly fuzz run tcp_segments`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tcp::fuzzing::segments(bytes));
