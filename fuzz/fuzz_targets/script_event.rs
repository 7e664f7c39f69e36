//! `cargo +nightly fuzz run script_event`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| script::fuzzing::script_event(bytes));
