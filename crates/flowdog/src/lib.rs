//! The appliance: sockets, shards, clock, configuration, health, metrics, drain.
//!
//! This crate has no protocol in it. It moves datagrams between sockets and the
//! [data plane](dataplane), asks the rules what to do with each flow, and runs a task per
//! intercepted flow on the shard that the flow lives on.
//!
//! An appliance of one's own is a few lines:
//!
//! ```no_run
//! use flowdog::{Appliance, Config};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let kinds = flowdog::built_in();
//!     let config = Config::load("flowdog.toml".as_ref(), &kinds)?;
//!     flowdog::init_logging(&config.log);
//!     Appliance::builder().config(config).config_file("flowdog.toml").kinds(kinds).build()?.run()?;
//!     Ok(())
//! }
//! ```
//!
//! # Threads
//!
//! One per shard, with a socket, a flow table and a single-threaded executor of its own; one for
//! health checks and metrics; and the caller's, which waits for signals. Shards share nothing on
//! the packet path.
#![deny(missing_docs)]

mod acceptor;
mod appliance;
mod clear;
pub mod config;
mod control;
mod control_socket;
mod directory;
#[cfg(feature = "script")]
mod dns_function;
mod endpoints;
mod flow_log;
mod flow_metrics;
mod flow_task;
mod health;
mod hooks;
mod logging;
mod metrics;
mod opening;
mod policy;
mod process;
mod records;
mod renewal;
mod replay;
mod retired;
mod secrets;
mod shard;
mod socket;
mod stream;
mod tap;
mod telemetry;
mod trust;

pub use acceptor::{AcceptorLink, AcceptorSettings, KeyField};
pub use appliance::{Appliance, Builder, RunError, Running};
pub use config::{Config, Faults};
pub use dataplane::{Leg, Outer, VpcEndpointId};
pub use directory::Directory;
#[cfg(feature = "aws")]
pub use directory::refresh::list_once as list_ec2;
pub use logging::init as init_logging;
pub use policy::explain::{Explanation, Question, RuleSeen, explain, first_rule};
pub use policy::{ClientTls, TlsTerms};
pub use process::forbid_core_dumps;
pub use proxy::starttls::StartTls;
pub use replay::{
    Change, ExchangeReport, FlowReport, HooksReport, Replay, ReplayLimits, Totals as ReplayTotals,
};
pub use sdk;
pub use secrets::{Secret, SecretFeed};
pub use tap::{ClearConnection, ClearText, Hosts, Tap, TapMetric};

/// Heads, chunks and records are made on a shard and often freed elsewhere; the C library's allocator
/// takes a lock for that. Here and not in the command, which is not optimised.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The kinds of interceptors that come with flowdog.
#[must_use]
pub fn built_in() -> Vec<sdk::InterceptorKind> {
    let all = interceptors::all()
        .into_iter()
        .chain(::records::kinds())
        .chain([ssm::KIND]);
    #[cfg(feature = "script")]
    let all = all.chain([script::KIND]);
    #[cfg(feature = "images")]
    let all = all.chain([images::KIND]);
    #[cfg(feature = "archive")]
    let all = all.chain([archive::KIND]);
    #[cfg(feature = "parquet")]
    let all = all.chain([archive::PARQUET]);
    all.collect()
}

/// The kinds of hooks that come with flowdog.
#[must_use]
pub fn built_in_hooks() -> Vec<sdk::HookKind> {
    let all = interceptors::hooks();
    #[cfg(feature = "script")]
    let all = all.into_iter().chain([dns_function::KIND]).collect();
    all
}
