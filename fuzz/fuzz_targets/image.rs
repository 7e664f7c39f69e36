//! `cargo +nightly fuzz run image`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| images::fuzzing::image(bytes));
