//! `cargo +nightly fuzz run websocket_frame`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzzing::websocket_frame(bytes));
