//! Objects as files that appear whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// What unfinished files end with; they begin with a dot as well.
const UNFINISHED: &str = ".part";

/// A folder in which each file is written under another name first.
///
/// After a crash there may be files called `.NAME.part`. They are nobody's, and are taken away when
/// the folder is opened the next time.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Opens the folder, which is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be made or read.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        make(root)?;
        sweep(root, 0)?;
        Ok(Self {
            root: root.to_owned(),
        })
    }

    /// Keeps an object: nobody sees it before it is on the disk.
    ///
    /// # Errors
    /// When it could not be written.
    pub(crate) fn put(&self, key: &str, data: &[u8]) -> io::Result<()> {
        let path = self.root.join(key);
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        make(folder)?;
        let unfinished = folder.join(format!(".{}{UNFINISHED}", name.to_string_lossy()));
        let written = write(&unfinished, data).and_then(|()| fs::rename(&unfinished, &path));
        if written.is_err() {
            // A full disk should not be full of halves.
            let _ = fs::remove_file(&unfinished);
            return written;
        }
        File::open(folder)?.sync_all()
    }
}

fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(data)?;
    file.sync_all()
}

/// For this user only: archives hold what people say to one another.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Folders below folders that are looked into; no template makes more.
const MAX_DEPTH: usize = 32;

/// Takes away what a crash has left behind.
fn sweep(folder: &Path, depth: usize) -> io::Result<()> {
    for found in fs::read_dir(folder)? {
        let found = found?;
        let name = found.file_name();
        let name = name.to_string_lossy();
        let kind = found.file_type()?;
        if kind.is_dir() && depth < MAX_DEPTH {
            sweep(&found.path(), depth + 1)?;
        } else if kind.is_file() && name.starts_with('.') && name.ends_with(UNFINISHED) {
            fs::remove_file(found.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_appear_whole_and_for_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("har");
        let folder = Folder::open(&root).unwrap();
        folder.put("2026/a.har", b"one").unwrap();
        folder.put("2026/a.har", b"another").unwrap();
        let file = root.join("2026/a.har");
        assert_eq!(fs::read(&file).unwrap(), b"another");
        assert_eq!(fs::read_dir(root.join("2026")).unwrap().count(), 1);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&root)), (0o600, 0o700));
    }

    #[test]
    fn what_a_crash_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        fs::create_dir_all(&inner).unwrap();
        for name in [".x.har.part", "x.har", "y.part", ".z"] {
            fs::write(inner.join(name), b"{").unwrap();
        }
        Folder::open(dir.path()).unwrap();
        let mut left: Vec<_> = fs::read_dir(&inner)
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".z", "x.har", "y.part"]);
    }

    #[test]
    fn a_file_that_cannot_be_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        fs::create_dir_all(dir.path().join("taken.har/in")).unwrap();
        assert!(folder.put("taken.har", b"x").is_err());
        assert!(!dir.path().join(".taken.har.part").exists());
    }
}
