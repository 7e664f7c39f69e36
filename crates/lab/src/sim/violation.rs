//! What the appliance did wrong, by kind.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Samples kept for the report.
const MAX_SAMPLES: usize = 16;

/// A rule that a reply of the appliance broke. The reply is dropped, as a real load balancer would.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Violation {
    /// TCP data for a flow that had been idle for longer than the idle time-out.
    AfterIdle,
    /// The inner IPv4 header checksum is wrong in a packet that the appliance made or changed.
    BadIpChecksum,
    /// The inner TCP, UDP or ICMP checksum is wrong in a packet that the appliance made or changed.
    BadTransportChecksum,
    /// The cookie and the tuple fit, but other bytes of the GENEVE header differ from what was sent.
    HeaderAltered,
    /// The first answer for a flow came later than the load balancer waits (30 s).
    LateAnswer,
    /// Not a GENEVE datagram with the load balancer's options.
    MalformedHeader,
    /// The inner packet is not IP, or its lengths contradict each other.
    MalformedInner,
    /// The inner packet is larger than the load balancer carries (8,500 bytes).
    Oversize,
    /// Sent to the source port of the load balancer instead of 6081.
    PortsSwapped,
    /// The cookie belonged to an earlier generation of the flow.
    StaleCookie,
    /// The tuple is no flow, but the cookie is that of another one.
    TupleOfAnotherFlow,
    /// A flow that the load balancer never delivered.
    Unsolicited,
    /// The cookie never belonged to this flow.
    WrongCookie,
    /// Sent to another zone's address than the one the flow's newest packet came from.
    WrongGwlbAddress,
    /// Sent from another address than the one the load balancer delivers to.
    WrongSourceAddress,
    /// Sent from another UDP source port than the flow's newest packet came from.
    WrongSourcePort,
}

impl Violation {
    /// The name used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AfterIdle => "after-idle",
            Self::BadIpChecksum => "bad-ip-checksum",
            Self::BadTransportChecksum => "bad-transport-checksum",
            Self::HeaderAltered => "header-altered",
            Self::LateAnswer => "late-answer",
            Self::MalformedHeader => "malformed-header",
            Self::MalformedInner => "malformed-inner",
            Self::Oversize => "oversize",
            Self::PortsSwapped => "ports-swapped",
            Self::StaleCookie => "stale-cookie",
            Self::TupleOfAnotherFlow => "tuple-of-another-flow",
            Self::Unsolicited => "unsolicited",
            Self::WrongCookie => "wrong-cookie",
            Self::WrongGwlbAddress => "wrong-gwlb-address",
            Self::WrongSourceAddress => "wrong-source-address",
            Self::WrongSourcePort => "wrong-source-port",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Violations counted by kind, with the first few described.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Violations {
    /// How often each kind occurred; kinds that did not occur are absent.
    pub by_kind: BTreeMap<Violation, u64>,
    /// The first sixteen, in words.
    pub samples: Vec<String>,
}

impl Violations {
    /// All violations together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }

    /// How often one kind occurred.
    #[must_use]
    pub fn count(&self, kind: Violation) -> u64 {
        self.by_kind.get(&kind).copied().unwrap_or(0)
    }

    pub(crate) fn record(&mut self, kind: Violation, describe: impl FnOnce() -> String) {
        *self.by_kind.entry(kind).or_default() += 1;
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(format!("{kind}: {}", describe()));
        }
    }
}
