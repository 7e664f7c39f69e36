//! What a run of the lab amounts to, for people and for `--report FILE`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::link::LinkStats;
use crate::sim::{GwlbStats, Violations};

/// The numbers of a lab.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LabReport {
    /// Rules of the load balancer that the appliance broke.
    pub violations: Violations,
    /// The load balancer's counters.
    pub gwlb: GwlbStats,
    /// All links together.
    pub links: LinkStats,
    /// Endpoints in the lab.
    pub endpoints: usize,
    /// Errors of the lab's own sockets and devices; their packets are lost.
    pub device_errors: u64,
    /// How often the appliance ended by itself, or was killed by the command, and was started anew.
    pub appliance_restarts: u64,
    /// The appliance's own metrics at the end, by series.
    pub metrics: BTreeMap<String, f64>,
}

impl LabReport {
    /// Whether the appliance broke no rule.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.violations.total() == 0
    }
}
