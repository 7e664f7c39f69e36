//! Web traffic as archives and tables: HAR 1.2 and Parquet, in a folder or in an object store, written while it happens.
//!
//! An interceptor copies exchanges as they pass, up to a cap for each body and a bound for all of
//! them together; a thread of its own makes objects of them and writes those. Each object is whole:
//! an archive that can be read by itself, of so many entries, so many bytes or so much time.
//!
//! What it refuses: to make traffic wait, to hold more than its bound in memory, to replace one object
//! by another, and to let what a peer says choose where an object goes.
#![forbid(unsafe_code)]

mod budget;
mod config;
mod content;
mod delivery;
mod entry;
mod files;
#[cfg(any(test, feature = "testing"))]
pub mod fuzzing;
mod har;
mod interceptor;
mod key;
mod moving;
mod object;
mod pack;
mod recording;
mod secrets;
mod store;
#[cfg(feature = "parquet")]
mod table;
mod url;

pub use interceptor::{Har, KIND};
pub use moving::Moving;
#[cfg(feature = "reading")]
pub use table::reading;
#[cfg(feature = "parquet")]
pub use table::{PARQUET, Parquet};

#[cfg(test)]
mod tests {
    #[test]
    fn the_docs_describe_the_kinds() {
        let docs = include_str!("../../../docs/interceptors.md");
        assert!(docs.contains("\n## har\n") && docs.contains("\n## parquet\n"));
    }
}
