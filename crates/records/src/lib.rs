//! The common ground of everything that leaves the appliance as records.
//!
//! An interceptor that keeps something makes an [`Pump`] with a [`Deliver`] behind it and pushes items
//! into it from any shard: a push never waits, and what does not fit is dropped and counted. The pump's
//! own thread, started with the first item, hands over batches, tries failed items again with a growing
//! and jittered pause, and gives them up in the end. Every item is accounted for: taken = written +
//! dropped + failed + waiting, at every moment, which [`queue`] shows in virtual time.
//!
//! Give the pump to the appliance with [`Interceptor::outlets`](sdk::Interceptor::outlets): its numbers
//! then appear in the metrics under the interceptor's name, and it is finished when the appliance ends.
//!
//! What is kept goes through [`Redaction`] first, so that secrets stay where they were.
#![forbid(unsafe_code)]

mod account_id_emf;
mod caller;
mod emf;
mod firehose;
pub mod json;
mod lines;
#[cfg(feature = "aws")]
mod logs;
mod per_flow;
mod pump;
pub mod queue;
mod redaction;
#[cfg(feature = "aws")]
mod stream;
mod websocket_records;

pub use account_id_emf::AccountIdEmf;
#[doc(hidden)]
pub use caller::fuzz as fuzz_caller;
pub use caller::{Caller, account_of};
pub use firehose::Firehose;
pub use lines::Place;
pub use per_flow::PerFlow;
pub use pump::{Deliver, Pump};
pub use queue::{Limits, Report};
pub use redaction::{REDACTED, Redaction, RedactionConfig};
pub use suffix::etld_plus_one;
pub use websocket_records::WebsocketRecords;

use sdk::InterceptorKind;

/// The kinds of interceptors here, in the order of their names.
#[must_use]
pub fn kinds() -> Vec<InterceptorKind> {
    vec![
        account_id_emf::KIND,
        firehose::KIND,
        websocket_records::KIND,
    ]
}
