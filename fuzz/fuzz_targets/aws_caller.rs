//! `cargo +nightly fuzz run aws_caller`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| records::fuzz_caller(bytes));
