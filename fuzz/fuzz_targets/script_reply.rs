//! `cargo +nightly fuzz run script_reply`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| script::fuzzing::script_reply(bytes));
