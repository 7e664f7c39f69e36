//! Counts by VPC endpoint, bounded: whoever can reach the port can invent endpoint ids.

use std::collections::BTreeMap;

use dataplane::{FlowSummary, VpcEndpointId};

/// Most endpoints counted by name, the number of GWLB endpoints that one VPC service usually has
/// many times over; further ones count together.
const MOST: usize = 256;

/// What was seen of the flows of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EndpointCounters {
    /// Flows opened.
    pub(crate) opened: u64,
    /// Flows ended.
    pub(crate) ended: u64,
    /// Flows ended that had been intercepted.
    pub(crate) intercepted: u64,
    /// Inner packets of flows that have ended, from the client and from the server.
    pub(crate) packets: [u64; 2],
    /// Inner bytes of the same.
    pub(crate) bytes: [u64; 2],
}

/// The counters of all endpoints that one shard has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Endpoints {
    named: BTreeMap<VpcEndpointId, EndpointCounters>,
    other: EndpointCounters,
}

impl Endpoints {
    pub(crate) fn count_opened(&mut self, endpoint: VpcEndpointId) {
        self.at(endpoint).opened += 1;
    }

    pub(crate) fn count_ended(&mut self, summary: &FlowSummary) {
        let counters = self.at(summary.key.endpoint);
        counters.ended += 1;
        counters.intercepted += u64::from(summary.intercepted);
        for side in 0..2 {
            counters.packets[side] += summary.packets[side];
            counters.bytes[side] += summary.bytes[side];
        }
    }

    /// Every endpoint with its counters; the nameless rest last, as `other`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (String, EndpointCounters)> + '_ {
        let named = self
            .named
            .iter()
            .map(|(endpoint, counters)| (endpoint.to_string(), *counters));
        let other =
            (self.other != EndpointCounters::default()).then(|| ("other".to_owned(), self.other));
        named.chain(other)
    }

    /// The endpoints that are counted by name.
    pub(crate) fn ids(&self) -> impl Iterator<Item = VpcEndpointId> + '_ {
        self.named.keys().copied()
    }

    fn at(&mut self, endpoint: VpcEndpointId) -> &mut EndpointCounters {
        if self.named.len() >= MOST && !self.named.contains_key(&endpoint) {
            return &mut self.other;
        }
        self.named.entry(endpoint).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_endpoints_count_together_once_there_are_too_many() {
        let mut endpoints = Endpoints::default();
        for id in 0..10_000 {
            endpoints.count_opened(VpcEndpointId(id));
        }
        endpoints.count_opened(VpcEndpointId(3));
        let entries: Vec<_> = endpoints.entries().collect();
        assert_eq!(entries.len(), MOST + 1);
        assert_eq!(entries[3].0, "vpce-00000000000000003");
        assert_eq!(entries[3].1.opened, 2);
        assert_eq!(entries[MOST].0, "other");
        assert_eq!(entries[MOST].1.opened, 10_000 - MOST as u64);
    }
}
