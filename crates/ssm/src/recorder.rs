//! Writes recordings: behind a pump, so that no disk holds up a session.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use records::{Deliver, Pump, Report};
use sdk::async_trait;
use serde_json::Value;

use crate::asciicast::{self, What};
use crate::moving::Moving;
use crate::transcript::Transcript;

/// What may wait to be written. Whoever reads along is a moment behind.
const WAITING: records::Limits = records::Limits {
    items: 8192,
    bytes: 16 << 20,
    batch: 512,
    batch_bytes: 1 << 20,
    linger: Duration::from_millis(20),
    pause: Duration::ZERO,
    longest_pause: Duration::ZERO,
    attempts: 1,
};
/// How often to look for recordings that nobody moves.
const LOOK: Duration = Duration::from_secs(600);
/// Files of one name that are tried.
const MAX_SAME_NAME: u32 = 100;

/// What recordings are allowed.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// Where they go.
    pub(crate) folder: PathBuf,
    /// Whether a plain text is written beside each.
    pub(crate) transcripts: bool,
    /// Bytes of one recording.
    pub(crate) bytes: u64,
    /// Where finished recordings are moved to, if they do not stay in the folder.
    pub(crate) moving: Moving,
}

/// How a recording fares, for the session that is recorded.
#[derive(Debug, Default)]
pub(crate) struct Fate {
    /// Its file could not be made or written.
    pub(crate) failed: AtomicBool,
    /// Events that did not fit into the queue.
    pub(crate) lost: AtomicU64,
    /// Whether it has reached its limit.
    pub(crate) full: AtomicBool,
}

/// What a recording begins with.
#[derive(Debug)]
pub(crate) struct Opening {
    /// The name of the file, without its ending.
    pub(crate) name: String,
    pub(crate) title: String,
    /// Seconds since 1970.
    pub(crate) timestamp: u64,
    pub(crate) size: (u32, u32),
    /// Who, where, when.
    pub(crate) about: Value,
}

/// What there is to do for the thread.
#[derive(Debug)]
pub(crate) enum Job {
    /// A session has begun: from here on somebody looks whether it still lives.
    Watch,
    Open(u64, Box<Opening>, Arc<Fate>),
    Event(u64, Duration, What, String),
    Close(u64, &'static str),
}

/// The way to the thread that writes.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// `None`: nothing is ever written.
    pump: Option<Arc<Pump<Job>>>,
    next: AtomicU64,
}

/// A recording that is under way; closed when dropped.
#[derive(Debug)]
pub(crate) struct Recording {
    number: u64,
    pump: Arc<Pump<Job>>,
    pub(crate) fate: Arc<Fate>,
    pub(crate) why: &'static str,
}

impl Recorder {
    /// `tick` is called about once a second from the first session on.
    pub(crate) fn new(limits: Option<Limits>, tick: Box<dyn Fn() + Send>) -> Self {
        let writer = Writer {
            limits,
            files: BTreeMap::new(),
            tick,
            next_look: None,
        };
        Self {
            pump: Some(Pump::new("ssm", WAITING, writer)),
            next: AtomicU64::new(0),
        }
    }

    /// The queue and its numbers.
    pub(crate) fn pump(&self) -> Option<&Arc<Pump<Job>>> {
        self.pump.as_ref()
    }

    /// A session has begun.
    pub(crate) fn watch(&self) {
        if let Some(pump) = &self.pump {
            pump.push(Job::Watch, 0);
        }
    }

    /// Begins a recording; `None` if the queue is full.
    pub(crate) fn open(&self, opening: Opening) -> Option<Recording> {
        let pump = self.pump.as_ref()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let fate = Arc::new(Fate::default());
        let job = Job::Open(number, Box::new(opening), Arc::clone(&fate));
        pump.push(job, 0).then(|| Recording {
            number,
            pump: Arc::clone(pump),
            fate,
            why: "stopped",
        })
    }
}

impl Recording {
    /// Adds what happened, or counts it as lost.
    pub(crate) fn event(&self, after: Duration, what: What, text: String) {
        let size = text.len();
        if !self
            .pump
            .push(Job::Event(self.number, after, what, text), size)
        {
            self.fate.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // If there is no room even for this, the thread finds that nobody holds the fate any more.
        self.pump.push(Job::Close(self.number, self.why), 0);
    }
}

/// What the thread works on.
struct Writer {
    limits: Option<Limits>,
    files: BTreeMap<u64, Cast>,
    tick: Box<dyn Fn() + Send>,
    /// When to look for recordings that nobody moves.
    next_look: Option<Instant>,
}

// Blocks its thread, which is its own.
#[async_trait]
impl Deliver<Job> for Writer {
    async fn deliver(&mut self, batch: Vec<Job>) -> Report<Job> {
        let mut report = Report::default();
        for job in batch {
            if self.work_on(job) {
                report.written += 1;
            } else {
                report.refused += 1;
            }
        }
        // Whoever reads along sees what there is.
        for file in self.files.values_mut() {
            file.flush();
        }
        report
    }

    async fn tick(&mut self) -> Report<Job> {
        (self.tick)();
        self.close_left();
        self.look_for_left();
        Report::default()
    }

    async fn finish(&mut self) -> Report<Job> {
        for (_, file) in core::mem::take(&mut self.files) {
            self.end(file, "stopped");
        }
        Report::default()
    }
}

impl Writer {
    /// Closes the files of sessions that are over and could not say so: their queue was full.
    fn close_left(&mut self) {
        let left: Vec<_> = self
            .files
            .extract_if(.., |_, file| {
                file.is_left(Arc::strong_count(&file.fate) == 1)
            })
            .collect();
        for (_, file) in left {
            self.end(file, "stopped");
        }
    }

    /// The end of a recording, which is moved then.
    fn end(&mut self, file: Cast, why: &str) {
        let path = file.finish(why);
        if let Some(limits) = &mut self.limits {
            limits.moving.push(path);
        }
    }

    /// Moves what an appliance that was killed has left in the folder.
    fn look_for_left(&mut self) {
        let now = Instant::now();
        if self.next_look.is_none_or(|next| next <= now)
            && let Some(limits) = &mut self.limits
        {
            self.next_look = Some(now + LOOK);
            limits.moving.look_for_left(&limits.folder);
        }
    }

    /// Whether it was done.
    fn work_on(&mut self, job: Job) -> bool {
        match job {
            Job::Watch => true,
            Job::Open(number, opening, fate) => {
                let Some(limits) = &self.limits else {
                    return false;
                };
                match Cast::create(limits, *opening, Arc::clone(&fate)) {
                    Ok(cast) => {
                        self.files.insert(number, cast);
                        true
                    }
                    Err(error) => {
                        fate.failed.store(true, Ordering::Relaxed);
                        tracing::error!(%error, folder = %limits.folder.display(),
                            "a session is not recorded: its file cannot be made");
                        false
                    }
                }
            }
            Job::Event(number, after, what, text) => self
                .files
                .get_mut(&number)
                .is_some_and(|file| file.event(after, what, &text)),
            Job::Close(number, why) => {
                let file = self.files.remove(&number);
                file.map(|file| self.end(file, why)).is_some()
            }
        }
    }
}

/// A name for a file of what somebody else has chosen: letters, digits and a few signs, not too many.
pub(crate) fn file_name(name: &str) -> String {
    let is_plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '@' | '+' | '=');
    let plain: String = name
        .chars()
        .take(100)
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    match plain.trim_start_matches('.') {
        "" => "unnamed".to_owned(),
        plain => plain.to_owned(),
    }
}

/// The files of a session.
#[derive(Debug)]
struct Cast {
    path: PathBuf,
    /// `None` once the header is written.
    opening: Option<Opening>,
    cast: BufWriter<File>,
    text: Option<(BufWriter<File>, Transcript)>,
    written: u64,
    most: u64,
    fate: Arc<Fate>,
    is_dirty: bool,
    /// Nobody held the fate a tick ago.
    is_left: bool,
}

impl Cast {
    fn create(limits: &Limits, opening: Opening, fate: Arc<Fate>) -> io::Result<Self> {
        let (path, cast) = create(&limits.folder, &opening.name)?;
        // As long as it is held, nobody takes the file for one that was left.
        cast.lock()?;
        let text = if limits.transcripts {
            let mut text = BufWriter::new(private(&path.with_extension("txt"))?);
            for line in about_lines(&opening.about) {
                text.write_all(line.as_bytes())?;
            }
            text.write_all(b"\n")?;
            Some((text, Transcript::default()))
        } else {
            None
        };
        Ok(Self {
            path,
            opening: Some(opening),
            cast: BufWriter::new(cast),
            text,
            written: 0,
            most: limits.bytes,
            fate,
            is_dirty: true,
            is_left: false,
        })
    }

    /// Whether nobody has held the fate for a tick: what was on its way has come by then.
    fn is_left(&mut self, is_now: bool) -> bool {
        core::mem::replace(&mut self.is_left, is_now) && is_now
    }

    /// Whether it is written, as far as can be told yet.
    fn event(&mut self, after: Duration, what: What, text: &str) -> bool {
        if self.fate.full.load(Ordering::Relaxed) || self.fate.failed.load(Ordering::Relaxed) {
            return false;
        }
        if let (What::Resize, Some(opening)) = (what, &mut self.opening)
            && let Some((columns, rows)) = size_of(text)
        {
            // Before anything was written: that is the size the session begins with.
            opening.size = (columns, rows);
            return true;
        }
        let mut written = self.begin();
        let line = asciicast::event(after, what, text);
        if self.written + line.len() as u64 > self.most {
            self.fate.full.store(true, Ordering::Relaxed);
            let end = asciicast::event(
                after,
                What::Marker,
                "the recording ends here: it is at its limit",
            );
            written = written.and_then(|()| self.cast.write_all(end.as_bytes()));
        } else {
            self.written += line.len() as u64;
            written = written.and_then(|()| self.cast.write_all(line.as_bytes()));
            if let (What::Output, Some((file, transcript))) = (what, &mut self.text) {
                let lines = transcript.feed(text);
                written = written.and_then(|()| file.write_all(lines.as_bytes()));
            }
        }
        self.is_dirty = true;
        self.judge(written);
        !self.fate.full.load(Ordering::Relaxed) && !self.fate.failed.load(Ordering::Relaxed)
    }

    /// Writes the header unless it is there.
    fn begin(&mut self) -> io::Result<()> {
        let Some(opening) = self.opening.take() else {
            return Ok(());
        };
        let header = asciicast::header(
            opening.size,
            opening.timestamp,
            &opening.title,
            &opening.about,
        );
        self.written += header.len() as u64;
        self.cast.write_all(header.as_bytes())
    }

    fn flush(&mut self) {
        if core::mem::take(&mut self.is_dirty) {
            let mut flushed = self.cast.flush();
            if let Some((text, _)) = &mut self.text {
                flushed = flushed.and_then(|()| text.flush());
            }
            self.judge(flushed);
        }
    }

    fn judge(&self, written: io::Result<()>) {
        if let Err(error) = written
            && !self.fate.failed.swap(true, Ordering::Relaxed)
        {
            tracing::error!(%error, "the recording of a session ends early");
        }
    }

    /// Its file.
    fn finish(mut self, why: &str) -> PathBuf {
        let mut written = self.begin();
        if let Some((text, transcript)) = &mut self.text {
            let rest = transcript.finish();
            let end = format!("{rest}\n[{why}]\n");
            written = written.and_then(|()| text.write_all(end.as_bytes()));
        }
        self.is_dirty = true;
        self.judge(written);
        self.flush();
        self.path
    }
}

/// `80x24`.
fn size_of(text: &str) -> Option<(u32, u32)> {
    let (columns, rows) = text.split_once('x')?;
    Some((columns.parse().ok()?, rows.parse().ok()?))
}

/// What is known about the session, for the top of a transcript.
fn about_lines(about: &Value) -> Vec<String> {
    let fields = about.as_object().into_iter().flatten();
    fields
        .map(|(name, value)| match value {
            // As JSON has it, without the quotes: no control character survives.
            Value::String(_) => format!("# {name}: {}\n", value.to_string().trim_matches('"')),
            value => format!("# {name}: {value}\n"),
        })
        .collect()
}

/// A new file of this name, or of this name and a number.
fn create(folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut number = 1;
    loop {
        let path = match number {
            1 => folder.join(format!("{name}.cast")),
            _ => folder.join(format!("{name}-{number}.cast")),
        };
        match private(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error)
                if error.kind() == io::ErrorKind::AlreadyExists && number < MAX_SAME_NAME =>
            {
                number += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file that was not there, for its owner alone.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use sdk::{Outlet as _, OutletStats};
    use serde_json::json;

    use super::*;

    fn opening(name: &str) -> Opening {
        Opening {
            name: name.to_owned(),
            title: "t".to_owned(),
            timestamp: 1,
            size: (80, 24),
            about: json!({"session": "s\n\u{1b}"}),
        }
    }

    fn record(bytes: u64, work: impl FnOnce(&Recorder)) -> (tempfile::TempDir, OutletStats) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits {
            folder: folder.path().to_owned(),
            transcripts: true,
            bytes,
            moving: Moving::default(),
        };
        let recorder = Recorder::new(Some(limits), Box::new(|| {}));
        work(&recorder);
        let pump = recorder.pump().unwrap();
        assert!(pump.finish(Duration::from_secs(30)));
        (folder, pump.stats())
    }

    fn read(folder: &tempfile::TempDir, name: &str) -> String {
        std::fs::read_to_string(folder.path().join(name)).unwrap()
    }

    #[test]
    fn a_recording_is_a_private_file_with_a_transcript_beside_it() {
        let at = Duration::from_millis(250);
        let (folder, _) = record(1 << 20, |recorder| {
            let first = recorder.open(opening("a")).unwrap();
            let mut second = recorder.open(opening("a")).unwrap();
            first.event(at, What::Resize, "100x30".into());
            first.event(at, What::Output, "$ ls\r\n".into());
            first.event(at, What::Resize, "90x30".into());
            second.why = "closed";
        });
        let cast = read(&folder, "a.cast");
        let lines: Vec<Value> = cast
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(
            (&lines[0]["width"], &lines[0]["height"]),
            (&100.into(), &30.into())
        );
        assert_eq!(lines[1], json!([0.25, "o", "$ ls\r\n"]));
        assert_eq!(lines[2], json!([0.25, "r", "90x30"]));
        assert_eq!(
            read(&folder, "a.txt"),
            "# session: s\\n\\u001b\n\n$ ls\n\n[stopped]\n"
        );
        assert!(read(&folder, "a-2.txt").ends_with("[closed]\n"));
        let mode = std::fs::metadata(folder.path().join("a.cast"))
            .unwrap()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_recording_ends_at_its_limit_and_a_file_that_cannot_be_made_is_told() {
        let mut fates = Vec::new();
        let (folder, stats) = record(1000, |recorder| {
            let full = recorder.open(opening("full")).unwrap();
            for _ in 0..100 {
                full.event(Duration::ZERO, What::Output, "x".repeat(50));
            }
            let bad = recorder.open(opening("no/such/folder")).unwrap();
            bad.event(Duration::ZERO, What::Output, "x".into());
            fates = vec![Arc::clone(&full.fate), Arc::clone(&bad.fate)];
        });
        assert!(fates[0].full.load(Ordering::Relaxed) && !fates[0].failed.load(Ordering::Relaxed));
        assert!(fates[1].failed.load(Ordering::Relaxed));
        // Every event is written or counted.
        assert_eq!(stats.taken, stats.written + stats.failed);
        assert!(stats.failed > 80, "{stats:?}");
        let cast = read(&folder, "full.cast");
        assert!(
            cast.len() < 1100 && cast.trim_end().ends_with("at its limit\"]"),
            "{cast}"
        );
    }

    #[test]
    fn threat_34_what_is_not_taken_is_counted_and_never_waited_for() {
        let recorder = Recorder::new(None, Box::new(|| {}));
        let recording = recorder.open(opening("a")).unwrap();
        recording.event(Duration::ZERO, What::Output, "x".repeat(17 << 20));
        assert_eq!(recording.fate.lost.load(Ordering::Relaxed), 1);
        assert!(recorder.pump().unwrap().finish(Duration::from_secs(30)));
        recording.event(Duration::ZERO, What::Output, "x".into());
        assert_eq!(recording.fate.lost.load(Ordering::Relaxed), 2);
        assert!(recorder.open(opening("b")).is_none());
    }

    #[test]
    fn threat_66_a_file_name_stays_in_its_folder() {
        for (name, expected) in [
            ("user-0a1b", "user-0a1b"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("..", "unnamed"),
            ("", "unnamed"),
            ("a\n\u{1b}[31m\0b", "a___31m_b"),
            ("a@b.example+c=d", "a@b.example+c=d"),
        ] {
            assert_eq!(file_name(name), expected);
        }
        assert_eq!(file_name(&"x".repeat(500)).len(), 100);
    }
}
