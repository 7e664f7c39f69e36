//! What an operator may choose about TCP, each with its default and source.

use core::time::Duration;
use std::sync::Arc;

use crate::congestion::Algorithm;
use crate::memory::Memory;

/// Settings shared by all connections; put it behind one `Arc`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Lowest retransmission time-out. 200 ms: RFC 6298 §2.4 says one second, every deployed
    /// stack uses less because tail losses would cost a second each.
    pub min_rto: Duration,
    /// Highest retransmission time-out after back-off. 60 s (RFC 6298 §2.5).
    pub max_rto: Duration,
    /// Time-out before the first round-trip sample. 1 s (RFC 6298 §2.1).
    pub initial_rto: Duration,
    /// The receive window before a connection has shown that it needs more. 128 KiB: more than
    /// two rounds of any peer's slow start, in which the window grows. Memory is taken only for
    /// what arrives.
    pub recv_buffer_initial: usize,
    /// Bytes of one connection's receive window at most, and what it stores at most. 8 MiB: half a
    /// gigabit each second over 100 ms.
    pub recv_buffer_max: usize,
    /// Bytes that wait for transmission or acknowledgment before the congestion window asks for
    /// more. 128 KiB.
    pub send_buffer_initial: usize,
    /// Bytes that wait for transmission or acknowledgment at most. 8 MiB.
    pub send_buffer_max: usize,
    /// What the buffers of all connections with this budget may hold; clones of the settings share
    /// it. 1 GiB.
    pub memory: Arc<Memory>,
    /// Segments of the initial congestion window. 10 (RFC 6928).
    pub initial_window: u32,
    /// How the congestion window moves. CUBIC.
    pub congestion: Algorithm,
    /// Whether data of a CUBIC connection leaves evenly over the round-trip time (BBR's always
    /// does). Off: it costs a timer for every few segments.
    pub pacing: bool,
    /// Silence after which a probe asks whether the peer is alive; `None` switches it off.
    /// 120 s: two probes fit into the 350 s after which GWLB forgets a flow.
    pub keepalive: Option<Duration>,
    /// Time between unanswered keep-alive probes. 15 s.
    pub keepalive_interval: Duration,
    /// Unanswered keep-alive probes after which the connection is given up. 5.
    pub keepalive_probes: u8,
    /// Time without progress on sent data after which the connection is given up
    /// (RFC 9293 §3.8.3, RFC 5482); `None` means never. 120 s.
    pub user_timeout: Option<Duration>,
    /// Ceiling for the segment size, before options, whatever the peer announced. 8460: an inner
    /// IPv4 packet of 8500 bytes, the most that GWLB carries.
    pub mss_clamp: u16,
    /// How long after the segment size was lowered larger segments are tried again. 600 s (RFC 8899
    /// §5.1.1, RFC 4821 §7.7).
    pub mtu_raise_interval: Duration,
    /// Longest time an acknowledgment may wait for company (RFC 9293 §3.8.6.3 allows 500 ms).
    /// 25 ms; above 40 ms the interplay with a peer's Nagle algorithm is felt by people.
    pub max_ack_delay: Duration,
    /// Data segments after take-over, or after an idle time, that are acknowledged at once, so
    /// that the peer's slow start is not halved. 16.
    pub quick_acks: u8,
    /// How long TIME-WAIT lasts. 2 s: 2 MSL (RFC 9293 §3.4.2) protects a later connection of the
    /// same name, which here gets through only by a new handshake that the flow table judges.
    pub time_wait: Duration,
    /// Separate ranges of out-of-order data that one connection remembers; data that would make
    /// one more is dropped and comes again. 256.
    pub max_ranges: usize,
    /// What a loss probe for a lone segment allows once the peer has shown that it delays
    /// acknowledgments (WCDelAckT of RFC 8985 §7.2, which suggests 200 ms from the start, useless
    /// beside a time-out of 200 ms). 50 ms: a probe that was not needed costs one segment.
    pub probe_ack_delay: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            min_rto: Duration::from_millis(200),
            max_rto: Duration::from_secs(60),
            initial_rto: Duration::from_secs(1),
            recv_buffer_initial: 128 << 10,
            recv_buffer_max: 8 << 20,
            send_buffer_initial: 128 << 10,
            send_buffer_max: 8 << 20,
            memory: Arc::new(Memory::new(1 << 30)),
            initial_window: 10,
            congestion: Algorithm::Cubic,
            pacing: false,
            keepalive: Some(Duration::from_secs(120)),
            keepalive_interval: Duration::from_secs(15),
            keepalive_probes: 5,
            user_timeout: Some(Duration::from_secs(120)),
            mss_clamp: 8460,
            mtu_raise_interval: Duration::from_secs(600),
            max_ack_delay: Duration::from_millis(25),
            quick_acks: 16,
            time_wait: Duration::from_secs(2),
            max_ranges: 256,
            probe_ack_delay: Duration::from_millis(50),
        }
    }
}
