//! What the data plane tells the shell, and what the shell answers.

use core::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use core::time::Duration;

use wire::gwlb::{AttachmentId, FlowCookie, VpcEndpointId};

use crate::counters::DropReason;
use crate::{FlowId, FlowKey, Instant, Protocol};

/// One of the two TCP connections of an intercepted flow, named by the peer it talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Leg {
    /// Towards the sender of the SYN; flowdog speaks as the server.
    Client,
    /// Towards the receiver of the SYN; flowdog speaks as the client.
    Server,
}

impl Leg {
    /// The other leg.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The outer addresses of a datagram: who sent it and which of our addresses it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outer {
    /// Source address and UDP source port: a load balancer's interface in one availability zone.
    pub gwlb: SocketAddrV4,
    /// Our address, from which the answer must leave.
    pub local: Ipv4Addr,
}

/// What became of a datagram given to [`Dataplane::handle_datagram`](crate::Dataplane::handle_datagram).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Send `datagram[..len]` back: from `local` with the load balancer's own source port, to the load
    /// balancer's address, port 6081. `len` is shorter than what came only if a SYN's data was cut.
    Hairpin {
        /// Bytes of the buffer to send.
        len: usize,
    },
    /// The same for a packet of a flow that is [hooked](crate::Dataplane::hook): the shell may send
    /// it changed, or not at all.
    Hooked {
        /// The flow.
        flow: FlowId,
        /// Who sent it.
        from: Leg,
        /// Bytes of the buffer that it has.
        len: usize,
    },
    /// Taken: parked, held or consumed by a leg.
    Absorbed,
    /// Not answered.
    Dropped(DropReason),
}

/// The answer to [`Event::FlowOpened`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Forward raw for ever.
    Pass,
    /// Swallow silently.
    Drop,
    /// Refuse: RST for TCP, ICMP "administratively prohibited" for the rest.
    Reset,
    /// Forward the handshake, hold the client's first bytes and ask again. Means `Pass` for flows that
    /// are not TCP or whose handshake was not seen.
    Inspect,
    /// The same, and where the server speaks before the client, the connection is taken over with the
    /// server's first bytes unread on its leg.
    InspectEither,
}

/// What becomes of a [guarded](crate::Dataplane::guard) flow whose client's first bytes cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unseen {
    /// It is forwarded raw.
    Pass,
    /// Its packets are swallowed.
    Drop,
    /// Both ends are reset.
    Reset,
}

/// The answer to [`Event::FirstBytes`] and [`Event::ServerSpoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FirstBytes {
    /// Release the held packets and forward raw for ever.
    Bypass,
    /// Take the connection over: both legs come to exist.
    Intercept,
    /// Too few bytes to tell; ask again when there are more.
    NeedMore,
    /// Swallow the held packets and everything after them.
    Drop,
    /// Reset both ends.
    Reset,
}

/// Why a leg ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both directions were finished and acknowledged.
    Finished,
    /// The peer sent a valid RST.
    Reset,
    /// The peer stopped answering.
    TimedOut,
}

/// Something the shell must know. Events of one flow arrive in the order they happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow was seen for the first time and waits for [`set_verdict`](crate::Dataplane::set_verdict).
    /// Its packets are parked, bounded in number, bytes and time.
    FlowOpened {
        /// The flow.
        flow: FlowId,
        /// A TCP flow whose handshake was not seen: only `Pass`, `Drop` and `Reset` make sense.
        mid_flow: bool,
    },
    /// One more packet was parked for a flow about which [more was
    /// awaited](crate::Dataplane::await_more), or none came in time.
    Parked {
        /// The flow.
        flow: FlowId,
        /// Whether the time is over.
        is_late: bool,
    },
    /// Held client bytes grew: read [`held`](crate::Dataplane::held), answer with
    /// [`set_first_bytes`](crate::Dataplane::set_first_bytes).
    FirstBytes {
        /// The flow.
        flow: FlowId,
    },
    /// The server of a [guarded](crate::Dataplane::guard) flow spoke before its client did, and what it
    /// said is held: answer with [`set_first_bytes`](crate::Dataplane::set_first_bytes). `NeedMore`
    /// leaves the flow to the end of the holding, after which it is taken over.
    ServerSpoke {
        /// The flow.
        flow: FlowId,
    },
    /// The flow was taken over and both legs exist; what was held is readable on the client leg. Comes
    /// after the answer `Intercept`, and without any answer when holding had to end (RELAY): the
    /// answer may then still be "pass the bytes on", but through the legs.
    LegsReady {
        /// The flow.
        flow: FlowId,
    },
    /// A leg has bytes, or its end, to read.
    Readable {
        /// The flow.
        flow: FlowId,
        /// The leg.
        leg: Leg,
    },
    /// A leg that was full takes bytes again.
    Writable {
        /// The flow.
        flow: FlowId,
        /// The leg.
        leg: Leg,
    },
    /// A leg ended.
    LegClosed {
        /// The flow.
        flow: FlowId,
        /// The leg.
        leg: Leg,
        /// Why.
        reason: CloseReason,
    },
    /// A TCP handshake is over; only if [`measure_handshakes`](crate::Config::measure_handshakes).
    Handshake {
        /// The flow.
        flow: FlowId,
        /// The way to the client and to the server, and back, where nothing was sent twice. The
        /// client's includes its time to answer.
        round_trips: [Option<Duration>; 2],
    },
    /// The flow is gone; its id finds nothing from here on.
    FlowEnded {
        /// The flow.
        flow: FlowId,
        /// What it was.
        summary: FlowSummary,
    },
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// FIN in both directions.
    Finished,
    /// A valid RST, by a peer or by us.
    Reset,
    /// Nothing was heard for the idle time.
    Idle,
    /// A leg's peer stopped answering.
    TimedOut,
    /// A new connection took its addresses.
    Replaced,
    /// The table was full and this flow was the most expendable.
    Evicted,
}

/// What a flow was, once it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSummary {
    /// Identity.
    pub key: FlowKey,
    /// Who opened it.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// First packet.
    pub opened_at: Instant,
    /// From the first to the last packet.
    pub duration: Duration,
    /// Inner packets received from the client and from the server.
    pub packets: [u64; 2],
    /// Inner bytes received from the client and from the server.
    pub bytes: [u64; 2],
    /// Whether it was taken over.
    pub intercepted: bool,
    /// How it was refused, if it was guarded and could not be inspected. Also there if it was judged,
    /// and refused then.
    pub refused: Option<Unseen>,
    /// Segments that were sent again to the client and to the server, if it was taken over.
    pub retransmits: [u32; 2],
    /// How it ended.
    pub end: FlowEnd,
}

/// What is being done with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowState {
    /// Waits for a verdict.
    Pending,
    /// Its handshake is forwarded and watched.
    Tracking,
    /// The client's first bytes are held.
    Holding,
    /// Forwarded raw for ever.
    Bypassed,
    /// Two legs.
    Intercepted,
    /// Refused by verdict.
    Denied,
    /// Over; stray packets are still answered.
    Ended,
}

/// A look at a live flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowView {
    /// The flow.
    pub id: FlowId,
    /// Identity.
    pub key: FlowKey,
    /// The VPC endpoint it came through.
    pub endpoint: VpcEndpointId,
    /// The attachment id of the newest packet.
    pub attachment: AttachmentId,
    /// The flow cookie of the newest packet.
    pub cookie: FlowCookie,
    /// The load balancer address of the newest packet and ours.
    pub outer: Outer,
    /// The upper-layer protocol.
    pub protocol: Protocol,
    /// Who opened it: the sender of the SYN, or of the first packet seen.
    pub client: SocketAddr,
    /// Whom it was opened to.
    pub server: SocketAddr,
    /// When its first packet arrived.
    pub opened_at: Instant,
    /// Whether its handshake was not seen.
    pub mid_flow: bool,
    /// What is being done with it.
    pub state: FlowState,
    /// Inner packets received from the client and from the server.
    pub packets: [u64; 2],
    /// Inner bytes received from the client and from the server.
    pub bytes: [u64; 2],
}

/// Result of [`Dataplane::read`](crate::Dataplane::read).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOutcome {
    /// So many bytes were copied.
    Bytes(usize),
    /// Nothing yet; [`Event::Readable`] follows.
    Empty,
    /// The peer's FIN was reached.
    Finished,
    /// The leg was reset, or the flow is gone.
    Reset,
    /// The peer stopped answering.
    TimedOut,
}

/// Result of [`Dataplane::write`](crate::Dataplane::write).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// So many bytes were taken.
    Bytes(usize),
    /// The send buffer is full; [`Event::Writable`] follows.
    Full,
    /// The leg was reset or shut down, or the flow is gone.
    Reset,
    /// The peer stopped answering.
    TimedOut,
}

/// One datagram from [`Dataplane::poll_transmit`](crate::Dataplane::poll_transmit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Send from `local` with source port `gwlb.port()` to `gwlb.ip()`, port 6081.
    pub outer: Outer,
    /// Bytes appended to the buffer.
    pub len: usize,
    /// The flow it belongs to, if that still exists.
    pub flow: Option<FlowId>,
    /// Who sent it, if it is a raw packet of a [hooked](crate::Dataplane::hook) flow: the shell may
    /// send it changed, or not at all.
    pub hooked: Option<Leg>,
}

/// Datagrams to send, as [`Dataplane::poll_transmit_run`](crate::Dataplane::poll_transmit_run) gives
/// them: one behind the other, of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmitRun {
    /// As for a [`Transmit`].
    pub outer: Outer,
    /// Bytes of each.
    pub len: usize,
    /// How many there are.
    pub count: usize,
    /// As for a [`Transmit`].
    pub flow: Option<FlowId>,
    /// As for a [`Transmit`]; such a packet comes alone.
    pub hooked: Option<Leg>,
}
