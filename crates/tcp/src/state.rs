//! The states of RFC 9293 §3.3.2 from ESTABLISHED on, and what happened to the connection.

/// Connection states, in the RFC's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Data flows both ways.
    Established,
    /// We have closed; the peer has not acknowledged it.
    FinWait1,
    /// We have closed and the peer knows; it may still send.
    FinWait2,
    /// The peer has closed; we may still send.
    CloseWait,
    /// Both have closed at the same time; our FIN is not acknowledged.
    Closing,
    /// The peer closed first, then we; our FIN is not acknowledged.
    LastAck,
    /// Both closed, waiting for stray segments.
    TimeWait,
    /// Nothing is left.
    Closed,
}

impl State {
    /// The state after the peer's FIN was received in order.
    pub(crate) fn after_peer_fin(self) -> Self {
        match self {
            Self::Established => Self::CloseWait,
            // Our FIN is not acknowledged here: an ACK is processed before the FIN beside it.
            Self::FinWait1 => Self::Closing,
            Self::FinWait2 => Self::TimeWait,
            Self::CloseWait | Self::Closing | Self::LastAck | Self::TimeWait | Self::Closed => self,
        }
    }

    /// The state after our FIN was acknowledged.
    pub(crate) fn after_fin_acked(self) -> Self {
        match self {
            Self::FinWait1 => Self::FinWait2,
            Self::Closing => Self::TimeWait,
            Self::LastAck => Self::Closed,
            Self::Established
            | Self::FinWait2
            | Self::CloseWait
            | Self::TimeWait
            | Self::Closed => self,
        }
    }

    /// The state after the local user asked to close.
    pub(crate) fn after_shutdown(self) -> Self {
        match self {
            Self::Established => Self::FinWait1,
            Self::CloseWait => Self::LastAck,
            Self::FinWait1
            | Self::FinWait2
            | Self::Closing
            | Self::LastAck
            | Self::TimeWait
            | Self::Closed => self,
        }
    }

    /// Whether the local user may still write.
    pub(crate) fn may_write(self) -> bool {
        matches!(self, Self::Established | Self::CloseWait)
    }

    /// Whether the peer may still send data.
    pub(crate) fn may_receive(self) -> bool {
        matches!(self, Self::Established | Self::FinWait1 | Self::FinWait2)
    }
}

/// A set of things that happened since the last [`crate::Connection::take_events`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(u8);

impl Events {
    /// Bytes became readable.
    pub const READABLE: Self = Self(1);
    /// Room for writing appeared after a write that took less than it was given.
    pub const WRITABLE: Self = Self(2);
    /// The peer's FIN arrived in order; bytes before it may still wait to be read.
    pub const PEER_FINISHED: Self = Self(4);
    /// The peer reset the connection.
    pub const RESET: Self = Self(8);
    /// The connection was given up: no answer for too long.
    pub const TIMED_OUT: Self = Self(16);
    /// The connection is in CLOSED and may be dropped once `poll_transmit` answers `None`.
    pub const CLOSED: Self = Self(32);

    /// Whether every event of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Adds the events of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
