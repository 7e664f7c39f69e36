//! Tables read again: which files of a place hold rows that are asked for, and those rows.
//!
//! Whoever can write into a folder or a bucket has chosen every byte of what is read here. The `parquet`
//! crate reads the directory of a file and decodes values, but sees nothing that was not looked at before:
//! it allocates by what a file claims, and calls itself for each level of a schema. What it panics at in
//! spite of that is a fault of the file.

mod batch;
mod file;
mod listing;
mod pages;
mod source;
#[cfg(test)]
mod tests;
mod thrift;
mod wanted;

use core::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;

use sdk::ConfigFault;

pub use batch::{Batch, Cell};
pub use wanted::{Bounds, Wanted};

use super::columns;
use crate::config::{place, remote};
use crate::store::{Place, RemoteSettings};
use source::Source;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A moment of UTC, as `2026-11-28 20:32:07.123`.
    Time,
    /// A number.
    Integer,
    /// Text.
    Text,
    /// Names and values, as a JSON object.
    Map,
}

/// A column that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether it comes from the file's name.
    pub of_name: bool,
}

/// The column with the file's name: of a partition, too, but not of the exchange.
pub const FILE: &str = "file";
/// What rows are partitioned by, in the order of the folders.
const PARTITIONS: [&str; 2] = ["date", "etld1"];

/// All columns, in their order: those of the files, those of the folders, the name of the file.
#[must_use]
pub fn columns() -> Vec<Column> {
    let of_name = |name| Column {
        name,
        kind: Kind::Text,
        of_name: true,
    };
    columns::shape()
        .chain(PARTITIONS.map(of_name))
        .chain([of_name(FILE)])
        .collect()
}

/// Why rows are missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The file is none that can be read, now or later.
    #[error("{0}")]
    Bad(String),
    /// The place, or a file in it, could not be read.
    #[error("{0}")]
    Away(String),
}

/// What is told while tables are read.
#[derive(Debug)]
pub enum Told {
    /// Some rows.
    Rows(Batch),
    /// A file that could not be read, or not to its end.
    Skipped {
        /// Its name.
        file: String,
        /// Why.
        why: String,
    },
    /// A file is done.
    Done {
        /// How large it is; how much of that was read depends on the columns.
        bytes: u64,
    },
}

/// Whoever is told decides whether to go on.
type Tell<'a> = dyn FnMut(Told) -> ControlFlow<()> + 'a;

/// A place with tables.
#[derive(Clone, Debug)]
pub struct Tables {
    place: Place,
    remote: RemoteSettings,
}

impl Tables {
    /// `from` is what the interceptor's `to` is, or a folder relative to where the process is, or a file.
    /// Nothing is opened yet.
    ///
    /// # Errors
    /// The fault names the key: `to`, `region` or `endpoint`.
    pub fn new(
        from: &str,
        region: Option<String>,
        endpoint: Option<String>,
    ) -> Result<Self, ConfigFault> {
        let place = if from.is_empty() || from.starts_with('/') || from.contains("://") {
            place(from)?
        } else {
            let folder = std::path::absolute(from)
                .map_err(|error| ConfigFault::new("to", format!("{from:?}: {error}")))?;
            Place::Folder(folder)
        };
        Ok(Self {
            place,
            remote: remote(region, endpoint)?,
        })
    }

    /// The folder, if it is one.
    #[must_use]
    pub fn folder(&self) -> Option<&PathBuf> {
        match &self.place {
            Place::Folder(folder) => Some(folder),
            Place::Remote(_) => None,
        }
    }

    /// Reads what is wanted, file by file in the order of their names, and blocks meanwhile.
    ///
    /// # Errors
    /// [`Fault::Away`] when the place could not be read: what was told until then is not all.
    pub fn read(
        &self,
        wanted: &Wanted,
        tell: &mut dyn FnMut(Told) -> ControlFlow<()>,
    ) -> Result<(), Fault> {
        let done = match &self.place {
            Place::Folder(folder) => listing::folder(folder, wanted, tell)?,
            Place::Remote(address) => listing::bucket(address.clone(), &self.remote, wanted, tell)?,
        };
        // Who is told may have had enough; that is no fault.
        let (ControlFlow::Continue(()) | ControlFlow::Break(())) = done;
        Ok(())
    }
}

/// Reads one file. A fault of the file is told; one of the place is returned.
fn read_one(
    source: Arc<dyn Source>,
    name: &str,
    wanted: &Wanted,
    tell: &mut Tell<'_>,
) -> Result<ControlFlow<()>, Fault> {
    let bytes = source.size();
    // The state that a panic leaves is dropped with the file.
    let read = catch_unwind(AssertUnwindSafe(|| file::read(source, name, wanted, tell)));
    let read =
        read.unwrap_or_else(|_| Err(Fault::Bad("its contents contradict each other".to_owned())));
    match read {
        Ok(ControlFlow::Continue(())) => Ok(tell(Told::Done { bytes })),
        Ok(ControlFlow::Break(())) => Ok(ControlFlow::Break(())),
        Err(Fault::Bad(why)) => Ok(tell(Told::Skipped {
            file: name.to_owned(),
            why,
        })),
        Err(Fault::Away(why)) => Err(Fault::Away(format!("{name}: {why}"))),
    }
}

/// What the fuzz target runs: the rows of bytes that claim to be a file.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_bytes(
    bytes: bytes::Bytes,
    name: &str,
    wanted: &Wanted,
    tell: &mut dyn FnMut(Told) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Fault> {
    file::read(Arc::new(source::Memory(bytes)), name, wanted, tell)
}
