//! pcapng files in a folder that follow each other, the oldest of which go.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use crate::proto::{WatchResponse, watch_response::Item};
use crate::recorder::About;
use crate::recording::{Keep, OneFile};

/// What a finished file's name begins and ends with.
const PREFIX: &str = "flowdog-";
const SUFFIX: &str = ".pcapng";
/// Behind the name of the file that is being written.
const PART: &str = ".part";

/// When a file is full, and how many are kept.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// Bytes after which a new file begins.
    pub size: u64,
    /// Age at which a new one begins, if it has a packet.
    pub age: Duration,
    /// Finished files that are kept in the folder.
    pub files: usize,
}

/// Somebody who is told of each finished file.
pub type Finished = Box<dyn FnMut(&Path) + Send>;

/// Files in a folder.
///
/// Each is whole in itself: it has its own header, and the secrets of the TLS sessions that begin in
/// it. A connection that goes on into the next file cannot be decrypted there.
pub struct Folder {
    folder: PathBuf,
    rotation: Rotation,
    about: About,
    /// The open file and when it was begun.
    current: Option<(u64, PathBuf, OneFile)>,
    /// Keeps names apart that begin in the same millisecond.
    last: u64,
    finished: Option<Finished>,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder")
            .field("folder", &self.folder)
            .field("rotation", &self.rotation)
            .finish_non_exhaustive()
    }
}

impl Folder {
    /// Makes the folder if it is not there. The first file begins with the first packet.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(folder: &Path, rotation: Rotation, about: About) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            rotation,
            about,
            current: None,
            last: 0,
            finished: None,
        })
    }

    /// Tells this of each finished file, before the oldest go.
    #[must_use]
    pub fn on_finished(mut self, finished: Finished) -> Self {
        self.finished = Some(finished);
        self
    }

    /// The finished files in the folder, the oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn finished(&self) -> io::Result<Vec<PathBuf>> {
        let mut names: Vec<_> = fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
            .collect();
        // Names begin with the time.
        names.sort_unstable();
        Ok(names.iter().map(|name| self.folder.join(name)).collect())
    }

    fn file(&mut self, now: u64) -> io::Result<&mut OneFile> {
        if self.current.is_none() {
            let millis = (now / 1_000_000).max(self.last + 1);
            self.last = millis;
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            // No colons: not every file system has them in names.
            let name: String = humantime::format_rfc3339_millis(time)
                .to_string()
                .chars()
                .filter(|c| *c != ':' && *c != '-')
                .collect();
            let path = self.folder.join(format!("{PREFIX}{name}{SUFFIX}"));
            let file = BufWriter::new(File::create(part(&path))?);
            let file = OneFile::begin(Box::new(file), &self.about)?;
            self.current = Some((now, path, file));
        }
        match &mut self.current {
            Some((_, _, file)) => Ok(file),
            None => Err(io::Error::other("no file is open")),
        }
    }

    /// Ends the open file, and removes those that are too many.
    fn close(&mut self) -> io::Result<()> {
        let Some((_, path, mut file)) = self.current.take() else {
            return Ok(());
        };
        file.finish()?;
        drop(file);
        fs::rename(part(&path), &path)?;
        if let Some(finished) = &mut self.finished {
            finished(&path);
        }
        let files = self.finished()?;
        let surplus = files.len().saturating_sub(self.rotation.files);
        for file in files.iter().take(surplus) {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn part(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(PART);
    name.into()
}

impl Keep for Folder {
    fn keep(&mut self, now: u64, answer: &WatchResponse) -> io::Result<()> {
        let old = self.current.as_ref().is_some_and(|(begun, _, file)| {
            let age = Duration::from_nanos(now.saturating_sub(*begun));
            file.written() >= self.rotation.size || age >= self.rotation.age && file.packets() > 0
        });
        if old {
            self.close()?;
        }
        // Statistics alone are worth no file.
        if self.current.is_some() || !matches!(answer.item, Some(Item::Statistics(_)) | None) {
            self.file(now)?.keep(now, answer)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Packet, Side, Statistics};

    fn packet(time: u64, len: usize) -> WatchResponse {
        WatchResponse {
            item: Some(Item::Packet(Packet {
                time,
                side: Side::Client.into(),
                length: u32::try_from(len).unwrap(),
                data: vec![0x45; len],
                ..Packet::default()
            })),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn open(folder: &Path, size: u64, files: usize) -> Folder {
        let rotation = Rotation {
            size,
            age: Duration::from_secs(60),
            files,
        };
        let about = About {
            sides: vec![Side::Client],
            ..About::default()
        };
        Folder::open(folder, rotation, about).unwrap()
    }

    #[test]
    fn files_follow_each_other_by_size_and_the_oldest_go() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = open(folder.path(), 10_000, 3);
        let mut told = 0;
        for number in 0..60 {
            files.keep(number, &packet(number, 1000)).unwrap();
            told = told.max(names(folder.path()).len());
        }
        files.finish().unwrap();
        let names = names(folder.path());
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(told <= 4, "no more than one being written beside them");
        for name in &names {
            let len = fs::metadata(folder.path().join(name)).unwrap().len();
            assert!(name.ends_with(".pcapng") && len > 1000, "{name} has {len}");
            assert!(len < 12_000, "{name} has {len}");
        }
    }

    #[test]
    fn an_old_file_ends_when_the_service_says_anything_and_nothing_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let mut files = open(folder.path(), 1 << 30, 3);
        let idle = WatchResponse {
            item: Some(Item::Statistics(Statistics::default())),
        };
        let second = 1_000_000_000;
        files.keep(0, &idle).unwrap();
        files.keep(100 * second, &idle).unwrap();
        assert!(names(folder.path()).is_empty());
        files.keep(100 * second, &packet(1, 10)).unwrap();
        files.keep(159 * second, &idle).unwrap();
        assert!(names(folder.path())[0].ends_with(".part"));
        files.keep(160 * second, &idle).unwrap();
        assert_eq!(
            names(folder.path()),
            ["flowdog-19700101T000140.000Z.pcapng"]
        );
    }

    #[test]
    fn what_is_not_ours_stays_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["notes.txt", "flowdog-notes.txt", "other.pcapng"] {
            fs::write(folder.path().join(name), "kept").unwrap();
        }
        let mut files = open(folder.path(), 1, 0);
        for number in 0..3 {
            files.keep(number, &packet(number, 10)).unwrap();
        }
        files.finish().unwrap();
        let names = names(folder.path());
        assert_eq!(names, ["flowdog-notes.txt", "notes.txt", "other.pcapng"]);
    }
}
