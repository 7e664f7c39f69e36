//! What the shell counts: events of connections, not of packets, so shared atomics are cheap enough.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tls::TlsOutcome;

/// Counters of all shards together. Relaxed: each is read for itself.
#[derive(Debug, Default)]
pub(crate) struct Telemetry {
    tls: [AtomicU64; TlsOutcome::ALL.len()],
    /// Flows to be intercepted whose first bytes were passed on: neither TLS nor HTTP.
    pub(crate) passed_opaque: AtomicU64,
    pub(crate) passed_no_authority: AtomicU64,
    pub(crate) passed_unsupported_hello: AtomicU64,
    pub(crate) passed_draining: AtomicU64,
    pub(crate) passed_encrypted_hello: AtomicU64,
    /// Flows to be intercepted that were passed because earlier ones could not be.
    pub(crate) passed_learned: AtomicU64,
    /// Taken-over flows that were reset because their first bytes never told enough.
    pub(crate) refused_unseen: AtomicU64,
    /// Intercepted flows that ended in good order.
    pub(crate) served: AtomicU64,
    /// Intercepted flows that ended in an error, by the proxy's word for it.
    pub(crate) failed: Labelled,
    /// Flows that began in clear and were followed towards TLS, by protocol and by how that ended.
    pub(crate) starttls: Labelled<(&'static str, &'static str)>,
    /// Tasks of flows, and what exchanges held when it was let go of, that panicked: a bug, contained.
    pub(crate) panics: AtomicU64,
    /// Records of flows that were written.
    pub(crate) flow_records: AtomicU64,
    /// Records of flows that did not fit into the queue or could not be written.
    pub(crate) flow_records_lost: AtomicU64,
    /// Records of hooks that were written.
    pub(crate) records_written: AtomicU64,
    /// Records of hooks that did not fit into the queue.
    pub(crate) records_dropped: AtomicU64,
    /// Records of hooks that could not be written.
    pub(crate) records_failed: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) reload_failures: AtomicU64,
    /// The missing authority was told once; repeating it for each flow helps nobody.
    pub(crate) told_no_authority: AtomicBool,
}

impl Telemetry {
    pub(crate) fn count_tls(&self, outcome: TlsOutcome) {
        if let Some(at) = TlsOutcome::ALL.iter().position(|one| *one == outcome) {
            self.tls[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every outcome of TLS interception with its count.
    pub(crate) fn tls(&self) -> impl Iterator<Item = (TlsOutcome, u64)> + '_ {
        TlsOutcome::ALL
            .into_iter()
            .zip(&self.tls)
            .map(|(outcome, count)| (outcome, read(count)))
    }
}

/// Counts by a label from a small fixed vocabulary.
#[derive(Debug, Default)]
pub(crate) struct Labelled<L = &'static str>(std::sync::Mutex<std::collections::BTreeMap<L, u64>>);

impl<L: Copy + Ord> Labelled<L> {
    pub(crate) fn add(&self, label: L) {
        let mut counts = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *counts.entry(label).or_default() += 1;
    }

    pub(crate) fn snapshot(&self) -> Vec<(L, u64)> {
        let counts = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        counts
            .iter()
            .map(|(label, count)| (*label, *count))
            .collect()
    }
}

pub(crate) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn add_many(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
