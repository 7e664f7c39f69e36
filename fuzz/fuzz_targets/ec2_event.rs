//! `cargo +nightly fuzz run ec2_event`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| aws::fuzzing::ec2_event(bytes));
