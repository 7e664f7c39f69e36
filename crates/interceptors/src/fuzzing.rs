//! What the fuzz targets in `fuzz/` run, and what the replay of their committed corpora runs in the
//! ordinary tests.

/// A peer's bytes as a DNS message.
pub fn dns(bytes: &[u8]) {
    crate::dns::fuzzing::message(bytes);
}
