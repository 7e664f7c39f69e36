//! How the load balancer is set up, and what it counts.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use ipnet::IpNet;
use serde::Serialize;
use wire::gwlb::{AttachmentId, VpcEndpointId};

use super::header::ExtraOption;

/// The port of GENEVE on both sides.
pub const GENEVE_PORT: u16 = 6081;

/// Which part of a packet defines its flow (target group attribute `stickiness.type`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stickiness {
    /// Addresses, protocol and ports for TCP and UDP; addresses and protocol for the rest.
    #[default]
    FiveTuple,
    /// Addresses and protocol.
    ThreeTuple,
    /// Addresses.
    TwoTuple,
}

/// Things a load balancer may or may not do; nobody has published which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Order of the option types 1, 2 and 3 in the header.
    pub option_order: [u8; 3],
    /// A further option after the three.
    pub extra_option: Option<ExtraOption>,
    /// Value of the attachment option.
    pub attachment: AttachmentId,
    /// The header byte with the O (0x80) and C (0x40) bits.
    pub control_bits: u8,
    /// Virtual network identifier, 24 bits.
    pub vni: u32,
    /// Each direction of a flow comes from its own source port.
    pub port_per_direction: bool,
    /// Each direction of a flow has its own cookie.
    pub cookie_per_direction: bool,
    /// The source port changes after so many packets of a flow.
    pub change_port_every: Option<u64>,
    /// The zone (source address) changes after so many packets of a flow.
    pub change_zone_every: Option<u64>,
    /// The cookie changes after so many packets of a flow, as after a rebalance.
    pub change_cookie_every: Option<u64>,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            option_order: [1, 2, 3],
            extra_option: None,
            attachment: AttachmentId(0),
            control_bits: 0,
            vni: 0,
            port_per_direction: false,
            cookie_per_direction: false,
            change_port_every: None,
            change_zone_every: None,
            change_cookie_every: None,
        }
    }
}

/// How the load balancer is set up. Times are AWS's unless a test shortens them.
#[derive(Clone, Debug)]
pub struct GwlbConfig {
    /// The endpoints, by the index that packets are labelled with.
    pub endpoints: Vec<VpcEndpointId>,
    /// One source address per zone.
    pub zones: Vec<Ipv4Addr>,
    /// UDP source ports of each zone.
    pub ports: Vec<u16>,
    /// Where the appliance listens.
    pub appliance: SocketAddrV4,
    /// Destinations that lie behind the client side of every endpoint; all others are servers.
    pub client_networks: Vec<IpNet>,
    /// What defines a flow.
    pub stickiness: Stickiness,
    /// Idle time of TCP flows (350 s; 60 to 6,000 s on AWS).
    pub tcp_idle: Duration,
    /// Idle time of all other flows (120 s, fixed on AWS).
    pub other_idle: Duration,
    /// How long the first answer of a flow may take (30 s).
    pub answer_deadline: Duration,
    /// How long a closed TCP flow still passes its last segments.
    pub close_linger: Duration,
    /// How long an answer may be under way that still bears a replaced cookie, port or zone.
    pub in_flight_grace: Duration,
    /// Largest inner packet carried, in bytes (8,500).
    pub max_inner: usize,
    /// Flow table size; packets that would open more are dropped and counted.
    pub max_flows: usize,
    /// The unknowns.
    pub switches: Switches,
    /// Seed of cookies and ports.
    pub seed: u64,
}

impl Default for GwlbConfig {
    fn default() -> Self {
        Self {
            endpoints: vec![VpcEndpointId(0x0f00_dcaf_e000_0001)],
            zones: vec![Ipv4Addr::new(127, 0, 1, 1), Ipv4Addr::new(127, 0, 2, 1)],
            ports: (41_000..41_016).collect(),
            appliance: SocketAddrV4::new(Ipv4Addr::LOCALHOST, GENEVE_PORT),
            client_networks: Vec::new(),
            stickiness: Stickiness::default(),
            tcp_idle: Duration::from_secs(350),
            other_idle: Duration::from_secs(120),
            answer_deadline: Duration::from_secs(30),
            close_linger: Duration::from_secs(60),
            in_flight_grace: Duration::from_millis(250),
            max_inner: 8_500,
            max_flows: 200_000,
            switches: Switches::default(),
            seed: 1,
        }
    }
}

/// Everything counted besides violations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GwlbStats {
    /// Packets that hosts sent.
    pub packets_from_hosts: u64,
    /// Bytes of those packets.
    pub bytes_from_hosts: u64,
    /// Datagrams sent to the appliance.
    pub datagrams_to_appliance: u64,
    /// Datagrams that the appliance sent.
    pub datagrams_from_appliance: u64,
    /// Inner packets delivered to hosts.
    pub packets_to_hosts: u64,
    /// Bytes of those packets.
    pub bytes_to_hosts: u64,
    /// Flow entries created, generations of a reused tuple included.
    pub flows: u64,
    /// Cookies issued.
    pub cookies: u64,
    /// Flow entries now.
    pub flows_open: u64,
    /// Dropped: hosts' packets that are not IP.
    pub unparsable: u64,
    /// Dropped: multicast, link-local and the like, which a VPC does not route.
    pub unroutable: u64,
    /// Dropped: hosts' packets above the largest size.
    pub oversize_from_hosts: u64,
    /// Dropped: hosts' TCP data for a flow that idled out.
    pub host_data_after_idle: u64,
    /// Dropped: hosts' TCP data for a flow that was closed.
    pub host_data_after_close: u64,
    /// Dropped: packets that would have overfilled the flow table.
    pub flow_table_full: u64,
    /// Dropped: answers that were under way when their cookie was replaced.
    pub answers_overtaken: u64,
    /// Dropped: answers for a flow that was closed and forgotten.
    pub answers_after_close: u64,
}
