//! What the observer of a handshake hands to a connection.

use core::time::Duration;
use wire::tcp::Seq;

use crate::time::Instant;

/// Everything a connection needs to speak in the place of one end of an observed connection.
///
/// "Peer" is the end that the connection will talk to, "we" the end whose place it takes.
#[derive(Clone, Copy, Debug)]
pub struct Takeover {
    /// Next sequence number we send; everything before it has been acknowledged.
    pub snd_nxt: Seq,
    /// Next sequence number we expect.
    pub rcv_nxt: Seq,
    /// The peer's last window in bytes, already scaled.
    pub snd_wnd: u32,
    /// Shift for windows that we receive (RFC 7323 §2.2); 0 without the option.
    pub snd_shift: u8,
    /// Shift for windows that we send; 0 without the option.
    pub rcv_shift: u8,
    /// Highest right edge ever offered to the peer in our name; the window never shrinks below it.
    pub rcv_right_edge: Seq,
    /// Maximum segment size of the peer's SYN, before options; 0 counts as 536 (RFC 9293 §3.7.1).
    pub mss: u16,
    /// Whether SACK was negotiated end to end (RFC 2018).
    pub sack: bool,
    /// Present if timestamps were negotiated end to end (RFC 7323 §3.2).
    pub timestamps: Option<TimestampSeed>,
    /// Whether classic ECN was negotiated end to end (RFC 3168 §6.1.1).
    pub ecn: bool,
    /// Round-trip time between us and the peer, measured on the handshake.
    pub srtt: Option<Duration>,
}

/// The timestamp clock of the end whose place is taken.
#[derive(Clone, Copy, Debug)]
pub struct TimestampSeed {
    /// Last TSval that was seen from that end.
    pub tsval: u32,
    /// When it was seen; the clock runs on from there at 1 kHz.
    pub at: Instant,
    /// Last valid TSval of the peer.
    pub ts_recent: u32,
}
