//! WebSocket messages (RFC 6455 §5.6) as interceptors see them: whole, unmasked, decompressed.

use bytes::Bytes;

/// Which way something travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

/// One message. Control frames (ping, pong, close) are not messages and pass by themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Which way it travels. A change has no effect.
    pub direction: Direction,
    /// What it says. May be changed, also from text to binary.
    pub payload: Payload,
}

/// The content of a WebSocket message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Opcode 2.
    Binary(Bytes),
    /// Opcode 1, UTF-8.
    Text(String),
}

impl Payload {
    /// The content as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Binary(bytes) => bytes,
            Self::Text(text) => text.as_bytes(),
        }
    }
}

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageStep {
    /// Close the WebSocket in both directions with this status code (RFC 6455 §7.4).
    Close(u16),
    /// Take the message out; the connection goes on.
    Drop,
    /// Send the message on, as it is now.
    Forward,
}
