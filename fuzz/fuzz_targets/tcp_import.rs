//! `cargo +nightly fuzz run tcp_import`
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    tcp::fuzzing::import(bytes);
});
