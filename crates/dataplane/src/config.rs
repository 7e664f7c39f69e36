//! Limits and times, each with its default and where that comes from.

use core::net::Ipv4Addr;
use core::time::Duration;

use crate::event::Verdict;

/// How the data plane behaves. `Default` is right behind a load balancer with default settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Networks (address and prefix length) whose datagrams are taken; the load balancer's subnets.
    /// Empty, the default, means all: security groups are the usual guard.
    pub allowed_sources: Vec<(Ipv4Addr, u8)>,
    /// A TCP flow is forgotten after this long without a packet. 350 s, the load balancer's own
    /// default (`tcp.idle_timeout.seconds`); keep both the same. Intercepted legs send keep-alives
    /// below half of it.
    pub tcp_idle: Duration,
    /// The same for every other protocol. 120 s, fixed in the load balancer.
    pub other_idle: Duration,
    /// A half-open TCP connection is forgotten after this long. 120 s.
    pub handshake_idle: Duration,
    /// The same while more than `half_open_pressure` connections are half open. 5 s.
    pub handshake_idle_under_pressure: Duration,
    /// Half-open inspected connections above which the shorter time holds. 65,536.
    pub half_open_pressure: usize,
    /// How long an ended connection is remembered so that stray packets do not look new. 5 s.
    pub linger: Duration,
    /// How long a connection that flowdog reset is remembered; its packets must not reach the other
    /// end raw, because the sequence numbers differ. 60 s.
    pub tomb: Duration,
    /// How long the bytes read from a reset leg may still be relayed before the other leg is reset
    /// too. 3 s.
    pub reset_grace: Duration,

    /// How long a flow waits for its verdict. 5 s; the load balancer gives up on a new flow after 30 s.
    pub verdict_deadline: Duration,
    /// The verdict when none came in time. `Pass`: fail open.
    pub verdict_on_deadline: Verdict,
    /// Packets parked for one waiting flow. 32.
    pub park_packets: usize,
    /// Bytes parked for one waiting flow. 128 KiB.
    pub park_bytes: usize,
    /// Bytes parked for all waiting flows. 64 MiB.
    pub park_total_bytes: usize,

    /// Client bytes held for one flow; more means RELAY. 64 KiB.
    pub hold_bytes: usize,
    /// Bytes held for all flows; more means that further ones bypass. 64 MiB.
    pub hold_total_bytes: usize,
    /// How long bytes are held at most; less on paths with a short round-trip time. 150 ms.
    pub hold_time: Duration,
    /// How long a hole in the held bytes may persist. 10 ms.
    pub hold_hole: Duration,

    /// Whether handshakes are measured, for records. No.
    pub measure_handshakes: bool,

    /// Flows remembered. 1,048,576, at 256 bytes for a bypassed one.
    pub max_flows: usize,
    /// What happens to a new flow when no other can be evicted: `Pass` or `Drop`. `Pass`.
    pub on_table_full: Verdict,
    /// Flows intercepted at once; more bypass. 65,536.
    pub max_intercepted: usize,
    /// Bytes of raw packets waiting to be sent. 16 MiB.
    pub transmit_queue_bytes: usize,
    /// Bytes in the buffers of all legs; the nearer they come, the less a leg may use. Takes the
    /// place of `tcp.memory`. 1 GiB.
    pub tcp_memory_bytes: usize,

    /// Largest TCP segment of ours towards an IPv4 peer. 8,460: the load balancer drops inner packets
    /// above 8,500 bytes without a word.
    pub mss_clamp_v4: u16,
    /// The same for IPv6. 8,440.
    pub mss_clamp_v6: u16,
    /// How legs speak TCP. Keep-alives come at two fifths of `tcp_idle` at the latest.
    pub tcp: tcp::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            allowed_sources: Vec::new(),
            tcp_idle: Duration::from_secs(350),
            other_idle: Duration::from_secs(120),
            handshake_idle: Duration::from_secs(120),
            handshake_idle_under_pressure: Duration::from_secs(5),
            half_open_pressure: 65_536,
            linger: Duration::from_secs(5),
            tomb: Duration::from_secs(60),
            reset_grace: Duration::from_secs(3),
            verdict_deadline: Duration::from_secs(5),
            verdict_on_deadline: Verdict::Pass,
            park_packets: 32,
            park_bytes: 128 * 1024,
            park_total_bytes: 64 * 1024 * 1024,
            hold_bytes: 64 * 1024,
            hold_total_bytes: 64 * 1024 * 1024,
            hold_time: Duration::from_millis(150),
            hold_hole: Duration::from_millis(10),
            measure_handshakes: false,
            max_flows: 1 << 20,
            on_table_full: Verdict::Pass,
            max_intercepted: 65_536,
            transmit_queue_bytes: 16 * 1024 * 1024,
            tcp_memory_bytes: 1 << 30,
            mss_clamp_v4: 8460,
            mss_clamp_v6: 8440,
            tcp: tcp::Config::default(),
        }
    }
}

impl Config {
    /// Whether a datagram from this outer address is taken.
    pub(crate) fn allows(&self, source: Ipv4Addr) -> bool {
        let is_in = |(network, prefix): &(Ipv4Addr, u8)| {
            let mask = u32::MAX
                .checked_shl(32u32.saturating_sub(u32::from(*prefix)))
                .unwrap_or(0);
            (network.to_bits() ^ source.to_bits()) & mask == 0
        };
        self.allowed_sources.is_empty() || self.allowed_sources.iter().any(is_in)
    }
}
