//! What is known of one end of an observed connection.

use wire::tcp::{Flags, Seq};

use crate::Instant;
use crate::seen::{Manner, Seen, Tcp};

/// One end, as seen from what it sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Half {
    /// Initial sequence number.
    pub(crate) isn: Seq,
    /// Next sequence number the other end expects.
    pub(crate) next: Seq,
    /// Newest acknowledgment number that was forwarded.
    pub(crate) acked: Option<Seq>,
    /// Newest window that was forwarded, in bytes.
    pub(crate) window: u32,
    /// Highest right edge ever offered.
    pub(crate) right_edge: Seq,
    /// MSS option of its SYN: the least, if several SYNs differ.
    pub(crate) mss: Option<u16>,
    /// Window scale of its SYN, capped at 14 (RFC 7323 §2.3).
    pub(crate) shift: Option<u8>,
    /// Whether some SYN of its permitted SACK.
    pub(crate) sack: bool,
    /// Whether some SYN of its had timestamps.
    pub(crate) has_timestamps: bool,
    /// Newest timestamp that was forwarded, and when.
    pub(crate) tsval: u32,
    pub(crate) tsval_at: Instant,
    /// Whether its SYN or SYN-ACK agreed to classic ECN (RFC 3168 §6.1.1).
    pub(crate) ecn: bool,
    /// How it writes IP headers.
    pub(crate) manner: Manner,
}

impl Half {
    pub(crate) fn new(isn: Seq) -> Self {
        Self {
            isn,
            next: isn + 1,
            acked: None,
            window: 0,
            right_edge: Seq(0),
            mss: None,
            shift: None,
            sack: false,
            has_timestamps: false,
            tsval: 0,
            tsval_at: Instant::ZERO,
            ecn: false,
            manner: Manner::default(),
        }
    }

    /// Notes a SYN or SYN-ACK. A repeated SYN may carry fewer options; what some SYN offered and the
    /// SYN-ACK accepted is negotiated.
    pub(crate) fn note_syn(&mut self, seen: &Seen, datagram: &[u8], now: Instant) {
        let Some(repr) = seen.segment(datagram).map(|segment| segment.repr()) else {
            return;
        };
        let options = repr.options;
        self.mss = match (self.mss, options.mss) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.shift = options
            .window_scale
            .map(|shift| shift.min(14))
            .or(self.shift);
        self.sack |= options.sack_permitted;
        if let Some(timestamps) = options.timestamps {
            self.has_timestamps = true;
            self.tsval = timestamps.tsval;
            self.tsval_at = now;
        }
        // Windows in SYN segments are never scaled (RFC 7323 §2.2).
        self.window = u32::from(repr.window);
        self.ecn = if repr.flags.contains(Flags::ACK) {
            repr.flags.contains(Flags::ECE) && !repr.flags.contains(Flags::CWR)
        } else {
            repr.flags.contains(Flags::ECE.with(Flags::CWR))
        };
        self.manner = seen.manner();
    }

    /// Notes a forwarded segment without SYN.
    pub(crate) fn note(
        &mut self,
        tcp: &Tcp,
        shift: u8,
        seen: &Seen,
        datagram: &[u8],
        now: Instant,
    ) {
        self.note_ack(tcp.ack, u32::from(tcp.window) << shift);
        if self.has_timestamps
            && let Some(repr) = seen.segment(datagram).map(|segment| segment.repr())
            && let Some(timestamps) = repr.options.timestamps
            // Keep the newest: packets may be reordered.
            && timestamps.tsval.wrapping_sub(self.tsval) as i32 >= 0
        {
            self.tsval = timestamps.tsval;
            self.tsval_at = now;
        }
        self.manner = seen.manner();
    }

    /// Notes an acknowledgment and a window in bytes.
    pub(crate) fn note_ack(&mut self, ack: Seq, window: u32) {
        let edge = ack + window;
        self.right_edge = match self.acked {
            None => edge,
            Some(_) => self.right_edge.max(edge),
        };
        if self.acked.is_none_or(|acked| ack >= acked) {
            self.acked = Some(ack);
            self.window = window;
        }
    }
}
