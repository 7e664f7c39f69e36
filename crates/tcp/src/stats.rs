//! What one connection has done.

/// Counters since take-over. They wrap; take differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Payload bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Payload bytes received in order.
    pub bytes_received: u64,
    /// Segments sent, acknowledgments and probes included.
    pub segments_sent: u32,
    /// Segments given to the connection.
    pub segments_received: u32,
    /// Segments with payload or FIN that were sent again, loss probes included.
    pub retransmits: u32,
    /// Retransmission time-outs (RFC 6298).
    pub timeouts: u32,
    /// Tail loss probes (RFC 8985 §7).
    pub loss_probes: u32,
    /// Segments sent to find out whether the path carries larger ones (RFC 4821).
    pub size_probes: u32,
    /// Fast recoveries entered.
    pub recoveries: u32,
    /// Recoveries that proved needless and were undone.
    pub undone: u32,
    /// Segments that arrived out of order.
    pub out_of_order: u32,
    /// Segments whose payload had been received before.
    pub duplicates: u32,
    /// Segments dropped: outside the window, PAWS, unusable acknowledgment, or a limit reached.
    pub dropped: u32,
    /// Challenge acknowledgments sent (RFC 5961).
    pub challenge_acks: u32,
}
