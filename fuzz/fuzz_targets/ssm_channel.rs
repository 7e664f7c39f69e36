//! `cargo +nightly fuzz run ssm_channel`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ssm::fuzzing::channel(bytes));
