//! Bytes of a file, wherever it is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::runtime::Handle;

use super::Fault;

/// What is asked of an object store at once.
pub(super) const PIECE: usize = 8 << 20;

/// A file that is read here and there.
pub(super) trait Source: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// How much is worth reading ahead.
    fn ahead(&self) -> usize;

    /// Exactly these bytes.
    fn bytes(&self, at: u64, length: usize) -> Result<Bytes, Fault>;

    /// These bytes, which the file says that it has.
    fn claimed(&self, at: u64, length: usize) -> Result<Bytes, Fault> {
        let end = at.checked_add(length as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(Fault::Bad("it is cut".to_owned()));
        }
        self.bytes(at, length)
    }
}

/// A file of this machine.
pub(super) struct Local {
    pub(super) file: File,
    pub(super) size: u64,
}

impl Source for Local {
    fn size(&self) -> u64 {
        self.size
    }

    fn ahead(&self) -> usize {
        256 << 10
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Bytes, Fault> {
        let mut bytes = vec![0; length];
        let read = self.file.read_exact_at(&mut bytes, at);
        read.map_err(|error| Fault::Away(error.to_string()))?;
        Ok(bytes.into())
    }
}

/// An object, asked for in ranges.
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) size: u64,
    /// The runtime of this thread.
    pub(super) runtime: Handle,
}

impl Source for Object {
    fn size(&self) -> u64 {
        self.size
    }

    fn ahead(&self) -> usize {
        // Each request is a connection.
        4 << 20
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Bytes, Fault> {
        let mut pieces = Vec::new();
        let (mut at, end) = (at, at + length as u64);
        while at < end {
            let next = end.min(at + PIECE as u64);
            let piece = self.store.get_range(&self.path, at..next);
            let piece = self.runtime.block_on(piece);
            pieces.push(piece.map_err(|error| Fault::Away(error.to_string()))?);
            at = next;
        }
        let bytes = match <[Bytes; 1]>::try_from(pieces) {
            Ok([only]) => only,
            Err(pieces) => pieces.concat().into(),
        };
        if bytes.len() != length {
            return Err(Fault::Away(
                "the store gave less than was asked for".to_owned(),
            ));
        }
        Ok(bytes)
    }
}

/// A file that is here already.
pub(super) struct Memory(pub(super) Bytes);

impl Source for Memory {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn ahead(&self) -> usize {
        0
    }

    fn bytes(&self, at: u64, length: usize) -> Result<Bytes, Fault> {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let cut = || Fault::Bad("it is cut".to_owned());
        let end = at.checked_add(length).filter(|end| *end <= self.0.len());
        Ok(self.0.slice(at..end.ok_or_else(cut)?))
    }
}
