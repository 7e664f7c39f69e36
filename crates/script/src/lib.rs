//! JavaScript in the model of CloudFront Functions: as an [interceptor](KIND), and for whoever has
//! an event and wants an answer.
//!
//! A [`Function`] is a file. It is called with an event in JSON ([`Call`]) on threads of its own
//! beside the packet path, within [`Limits`], and nothing that one call leaves can be seen by the
//! next. The engine is QuickJS-ng through `rquickjs`; there is no file, no network, no timer and no
//! way to make code from text in it.
//!
//! Begin reading with `interceptor.rs`, then `engine/mod.rs`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod apply;
mod engine;
mod event;
mod fault;
mod function;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod interceptor;
mod kvs;
mod log;
mod origin;
mod pool;
mod program;
mod rules;
mod settings;
mod snapshot;
mod trial;

pub use engine::{Call, Done, Limits};
pub use event::dns_event;
pub use fault::Fault;
pub use function::{Function, LoadError, Runner, Settings};
pub use interceptor::{CloudfrontFunction, KIND};
pub use kvs::{MAX_STORE, RemotePlace, RemoteStore, StorePlace, StoreSource};
pub use pool::{PoolStats, start, stats};
pub use program::{Entry, MAX_SOURCE};
pub use rules::Profile;
pub use snapshot::{stay_offline, stores_not_asked};
pub use trial::{BadEvent, Trial};

#[cfg(test)]
mod tests {
    #[test]
    fn the_docs_describe_the_kind_and_each_of_its_counts() {
        let docs = include_str!("../../../docs/interceptors.md");
        assert!(docs.contains("\n## cloudfront-function\n"));
        for fault in [
            super::Fault::Invalid(String::new()),
            super::Fault::Thrown(String::new()),
            super::Fault::TooSlow(core::time::Duration::ZERO),
            super::Fault::OutOfMemory(0),
            super::Fault::NeverSettles,
            super::Fault::Stuck(core::time::Duration::ZERO),
            super::Fault::Overloaded,
            super::Fault::NoHandler,
        ] {
            assert!(docs.contains(&format!("`{}`", fault.word())), "{fault:?}");
        }
    }
}
