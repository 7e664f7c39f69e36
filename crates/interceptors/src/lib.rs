//! The interceptors and hooks that come with flowdog, one file each.
//!
//! They are written on the `sdk` alone and can do nothing that an interceptor from another crate
//! cannot do. [`all`] is the only list of them.
#![forbid(unsafe_code)]

mod block;
mod dns;
mod edit_body;
mod edit_headers;
#[doc(hidden)]
pub mod fuzzing;
mod geneve_headers;
mod map_local;
mod map_remote;
mod same_host;
mod sts_rickroll;

pub use block::Block;
pub use dns::{Dns, DnsAsk, DnsEdit, DnsJudge, DnsOnError, DnsVerdict};
pub use edit_body::EditBody;
pub use edit_headers::EditHeaders;
pub use geneve_headers::GeneveHeaders;
pub use map_local::MapLocal;
pub use map_remote::MapRemote;
pub use same_host::SameHost;
pub use sts_rickroll::StsRickroll;

use sdk::{HookKind, InterceptorKind};

/// Every built-in kind, in the order of their names.
#[must_use]
pub fn all() -> Vec<InterceptorKind> {
    vec![
        block::KIND,
        edit_body::KIND,
        edit_headers::KIND,
        geneve_headers::KIND,
        map_local::KIND,
        map_remote::KIND,
        same_host::KIND,
        sts_rickroll::KIND,
    ]
}

/// Every built-in kind of hook, in the order of their names.
#[must_use]
pub fn hooks() -> Vec<HookKind> {
    vec![dns::KIND]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_kebab_case_and_in_order() {
        let names: Vec<_> = all().iter().map(|kind| kind.name).collect();
        assert!(names.is_sorted_by(|a, b| a < b), "{names:?}");
        for kind in all() {
            assert!(
                kind.name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                kind.name
            );
            assert!(kind.summary.ends_with('.'), "{}", kind.name);
        }
    }

    #[test]
    fn the_docs_describe_every_kind() {
        let docs = include_str!("../../../docs/interceptors.md");
        for kind in all() {
            assert!(
                docs.contains(&format!("\n## {}\n", kind.name)),
                "docs/interceptors.md lacks {}",
                kind.name
            );
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_every_kind() {
        let table = toml::toml! { no-such-key = 1 };
        for kind in all() {
            let fault = (kind.build)(&table).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some("no-such-key"), "{}", kind.name);
            assert!(fault.allowed.is_some(), "{}: {fault}", kind.name);
        }
    }
}
