//! Everything the data plane counts, each with its meaning for operators.

macro_rules! reasons {
    ($(#[$outer:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $label:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// All of them, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The value of the metric's `reason` label.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// What it means, for operators.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+),)+ }
            }
        }
    };
}

reasons! {
    /// Why a datagram was not answered.
    DropReason {
        /// The sender is in none of the allowed networks.
        ForeignSource = "foreign_source",
        /// The datagram is shorter than the fixed GENEVE header.
        GeneveTruncated = "geneve_truncated",
        /// The GENEVE version is not 0.
        GeneveBadVersion = "geneve_bad_version",
        /// The GENEVE option area reaches past the datagram's end.
        GeneveOptionsTruncated = "geneve_options_truncated",
        /// A GENEVE option reaches past the option area.
        GeneveOptionTruncated = "geneve_option_truncated",
        /// A known GENEVE option has the wrong length.
        GeneveBadOptionLength = "geneve_bad_option_length",
        /// A known GENEVE option is there twice.
        GeneveDuplicateOption = "geneve_duplicate_option",
        /// An unknown GENEVE option is marked critical.
        GeneveUnknownCriticalOption = "geneve_unknown_critical_option",
        /// No GENEVE option names the VPC endpoint.
        GeneveMissingEndpoint = "geneve_missing_endpoint",
        /// No GENEVE option names the attachment.
        GeneveMissingAttachment = "geneve_missing_attachment",
        /// No GENEVE option holds the flow cookie.
        GeneveMissingCookie = "geneve_missing_cookie",
        /// The GENEVE protocol type is neither IPv4 nor IPv6.
        GeneveBadProtocolType = "geneve_bad_protocol_type",
        /// The inner packet's IP version differs from the GENEVE protocol type.
        GeneveFamilyMismatch = "geneve_family_mismatch",
        /// The inner packet is shorter than its header or its length field says.
        GeneveInnerTruncated = "geneve_inner_truncated",
        /// The inner IP header contradicts itself.
        IpMalformed = "ip_malformed",
        /// An IPv6 extension header reaches past the packet's end, or there are too many of them.
        IpExtensionHeaders = "ip_extension_headers",
        /// The flow waits for its verdict and has as many packets parked as it may.
        ParkFull = "park_full",
        /// All waiting flows together have parked as many bytes as they may.
        ParkTotalFull = "park_total_full",
        /// The verdict on the flow is to drop, or it was refused and has been told.
        Denied = "denied",
        /// A fragment of a taken-over connection, or one that could not be put together in its bound.
        Fragment = "fragment",
        /// A packet of a connection that flowdog reset.
        Ended = "ended",
        /// As many bytes wait to be sent as may.
        TransmitQueueFull = "transmit_queue_full",
        /// The flow table is full and the configuration says drop.
        TableFull = "table_full",
        /// A taken-over connection got a packet whose TCP checksum is wrong.
        Checksum = "checksum",
        /// A taken-over connection got a packet without a whole TCP header.
        TcpMalformed = "tcp_malformed",
    }
}

reasons! {
    /// Why a flow that was to be inspected is forwarded raw.
    BypassReason {
        /// The answer to the first bytes was to bypass.
        Classified = "classified",
        /// The server spoke first.
        ServerFirst = "server_first",
        /// A FIN came before any data.
        FinFirst = "fin_first",
        /// The SYN carries an MD5 signature or TCP-AO.
        Signed = "signed",
        /// The SYN-ACK negotiated an option that cannot survive a take-over.
        Option = "option",
        /// Both ends sent a SYN.
        SimultaneousOpen = "simultaneous_open",
        /// A part of the handshake was not seen or contradicts the rest.
        Inconsistent = "inconsistent",
        /// The flow is not TCP, or its handshake was not seen.
        NotInspectable = "not_inspectable",
        /// A TCP segment came in fragments, or with IPv6 extension headers.
        Fragment = "fragment",
        /// All holding flows together hold as many bytes as they may.
        HoldTotalFull = "hold_total_full",
        /// As many flows are intercepted as may be.
        TooManyIntercepted = "too_many_intercepted",
        /// The appliance stops, and the flow had not been judged.
        Draining = "draining",
        /// The flow table is full.
        TableFull = "table_full",
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Totals since the start. Plain numbers: a shard owns its data plane and publishes copies.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: u64,)+
            dropped: [u64; DropReason::ALL.len()],
            bypassed: [u64; BypassReason::ALL.len()],
        }

        impl Counters {
            /// Name, meaning and value of every plain counter.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+), self.$name),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams received.
    received_packets,
    /// Bytes of datagrams received, GENEVE header included.
    received_bytes,
    /// Datagrams sent back as they came, without a copy.
    hairpinned_packets,
    /// Bytes of datagrams sent back as they came.
    hairpinned_bytes,
    /// Raw packets that were given to hooks instead of being sent back as they came.
    hooked_packets,
    /// Datagrams sent from the transmit queue: released packets and those of our own making.
    transmitted_packets,
    /// Bytes of datagrams sent from the transmit queue.
    transmitted_bytes,
    /// Datagrams consumed by a leg, parked or held.
    absorbed_packets,
    /// Datagrams with something unusual but legal in the GENEVE header: network identifier, attachment,
    /// reserved, control or critical bit, unknown option.
    unusual_outer,
    /// Datagrams whose GENEVE options are not the usual three in the usual order.
    slow_path_outer,
    /// Packets of flows without state that were passed: SYN-ACK, FIN or RST of a connection not seen.
    stateless_packets,
    /// Fragments passed as they came.
    fragments_passed,
    /// Fragmented segments of taken-over connections put together again.
    fragments_reassembled,
    /// TCP packets with a wrong checksum, passed raw and otherwise ignored.
    bad_checksum,
    /// Inner packets above 8,500 bytes received.
    oversize_received,
    /// Flows opened, TCP.
    flows_opened_tcp,
    /// Flows opened, UDP.
    flows_opened_udp,
    /// Flows opened, neither TCP nor UDP.
    flows_opened_other,
    /// Flows opened by a TCP packet in the middle of a connection.
    flows_opened_mid,
    /// Flows ended by FIN.
    flows_ended_finished,
    /// Flows ended by RST.
    flows_ended_reset,
    /// Flows ended by silence.
    flows_ended_idle,
    /// Flows ended because a leg's peer stopped answering.
    flows_ended_timed_out,
    /// Flows whose addresses were taken by a new connection.
    flows_replaced,
    /// Flows evicted because the table was full.
    flows_evicted,
    /// Flows passed without state because the table was full.
    flows_untracked,
    /// Packets parked while a verdict was awaited.
    parked_packets,
    /// Flows that got the configured verdict because none came in time.
    verdict_deadlines,
    /// Verdicts: pass.
    verdicts_pass,
    /// Verdicts: drop.
    verdicts_drop,
    /// Verdicts: reset.
    verdicts_reset,
    /// Verdicts: inspect.
    verdicts_inspect,
    /// Guarded flows refused because their client's first bytes could not be had.
    guarded_refused,
    /// Known flows whose cookie changed.
    cookie_changes,
    /// Known flows whose load balancer address, port or our own address changed.
    outer_changes,
    /// SYN segments edited so that the connection can be taken over.
    syn_edited,
    /// Bare ACKs made because the client's third packet already carried data.
    acks_synthesised,
    /// Client segments held.
    held_packets,
    /// Held connections taken over by answer.
    takeovers,
    /// Held connections taken over because holding had to end.
    relays,
    /// ... because a hole in the client's bytes persisted.
    relays_hole,
    /// ... because no answer came in time.
    relays_time,
    /// ... because too many bytes were held.
    relays_size,
    /// ... because overlapping segments differed.
    relays_overlap,
    /// Connections taken over whose congestion control is BBR.
    congestion_bbr,
    /// Segments sent by legs.
    segments_sent,
    /// Segments sent again by legs.
    segments_retransmitted,
    /// RST segments made.
    resets_sent,
    /// ICMP errors made.
    icmp_sent,
    /// ICMP "packet too big" messages that lowered a leg's segment size.
    path_mtu_lowered,
    /// RST segments outside the window, forwarded or ignored without an effect on the flow.
    rst_ignored,
}

impl Counters {
    /// How many datagrams were dropped for a reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.dropped
            .get(reason as usize)
            .copied()
            .unwrap_or_default()
    }

    /// How many flows were bypassed for a reason.
    pub fn bypassed(&self, reason: BypassReason) -> u64 {
        self.bypassed
            .get(reason as usize)
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        if let Some(count) = self.dropped.get_mut(reason as usize) {
            *count += 1;
        }
    }

    pub(crate) fn count_bypass(&mut self, reason: BypassReason) {
        if let Some(count) = self.bypassed.get_mut(reason as usize) {
            *count += 1;
        }
    }
}
