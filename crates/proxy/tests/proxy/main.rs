//! Whole connections in memory: the client's bytes in, the exact bytes at the origin and back at the
//! client, on a paused clock.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod detect;
mod http1;
mod http1_strict;
mod http2;
mod rig;
mod splits;
mod streaming;
mod versions;
mod websocket;
