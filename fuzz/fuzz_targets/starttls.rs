//! `cargo +nightly fuzz run starttls`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| proxy::fuzzing::starttls(bytes));
