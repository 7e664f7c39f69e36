//! What the fuzz targets in `fuzz/` run, and what the replay of their committed corpora runs in the
//! ordinary tests.

/// A client's bytes as a request with its body.
pub fn http1_request(bytes: &[u8]) {
    crate::http1::fuzzing::request(bytes);
}

/// A server's bytes as a response with its body.
pub fn http1_response(bytes: &[u8]) {
    crate::http1::fuzzing::response(bytes);
}

/// A peer's bytes as HTTP/2 frames.
pub fn http2_frames(bytes: &[u8]) {
    crate::http2::fuzz_frames(bytes);
}

/// Both ends of a protocol that may change to TLS.
pub fn starttls(bytes: &[u8]) {
    crate::starttls::fuzzing::conversation(bytes);
}

/// A peer's bytes as WebSocket frames.
pub fn websocket_frame(bytes: &[u8]) {
    crate::websocket::fuzzing::frames(bytes);
}
