//! What leaves the appliance through an extension, seen from outside: how much waits, what was lost,
//! and how to end it in good order.

use core::fmt;
use core::time::Duration;

/// A way out of the appliance that an interceptor feeds: records to a stream, archives to a bucket.
///
/// The appliance asks for the numbers when somebody looks at its metrics, and finishes every outlet
/// when it ends, after the last flow.
pub trait Outlet: Send + Sync + fmt::Debug {
    /// What it has done so far.
    fn stats(&self) -> OutletStats;

    /// Nothing more comes: what waits is delivered without waiting for company. Returns at once. Called
    /// when the outlet's configuration is replaced and the last flow that had it is gone.
    fn close(&self) {}

    /// Takes nothing more and delivers what waits, for `within` at most. What is left then is lost
    /// and counted. Blocks its thread. Answers whether everything went out.
    fn finish(&self, within: Duration) -> bool;
}

/// What an outlet has done. Items are records, entries or lines, as the outlet's interceptor says.
///
/// At every moment `taken = written + dropped + failed + waiting`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutletStats {
    /// Items offered since the start.
    pub taken: u64,
    /// Items delivered.
    pub written: u64,
    /// Items for which there was no room.
    pub dropped: u64,
    /// Items given up: refused for good, or after too many attempts.
    pub failed: u64,
    /// Items that wait, are on their way, or are part of something that is not complete.
    pub waiting: u64,
    /// Bytes of the items that wait.
    pub waiting_bytes: u64,
    /// Items that were sent once more.
    pub retried: u64,
    /// Items put with others, because there was no place of their own for them.
    pub diverted: u64,
    /// Deliveries that failed in whole or in part.
    pub errors: u64,
    /// How long the oldest item has waited.
    pub lag: Duration,
}
