//! Copies what an appliance shows to where it is kept: one file or pipe, a file for each side, or
//! files in a folder that follow each other.

use std::future::Future;
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::client::Target;
use crate::proto::{self, DescribeRequest, WatchRequest, WatchResponse, watch_response::Item};
use crate::recorder::{About, Recorder};

/// Longer than any capture.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// Where answers of the service are kept.
pub trait Keep {
    /// Keeps one answer that came at `now`, in nanoseconds since 1970.
    ///
    /// # Errors
    /// Those of the files.
    fn keep(&mut self, now: u64, answer: &WatchResponse) -> io::Result<()>;

    /// Ends the files in good order.
    ///
    /// # Errors
    /// Those of the files.
    fn finish(&mut self) -> io::Result<()>;
}

/// One file or pipe.
pub struct OneFile {
    out: Box<dyn Write>,
    recorder: Recorder,
    bytes: Vec<u8>,
    written: u64,
    packets: u64,
}

impl std::fmt::Debug for OneFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OneFile")
            .field("recorder", &self.recorder)
            .finish_non_exhaustive()
    }
}

impl OneFile {
    /// Begins it, and writes what it says about itself.
    ///
    /// # Errors
    /// Those of the file.
    pub fn begin(out: Box<dyn Write>, about: &About) -> io::Result<Self> {
        let mut bytes = Vec::new();
        let recorder = Recorder::begin(&mut bytes, about);
        let mut file = Self {
            out,
            recorder,
            bytes,
            written: 0,
            packets: 0,
        };
        file.write()?;
        Ok(file)
    }

    fn write(&mut self) -> io::Result<()> {
        self.out.write_all(&self.bytes)?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        self.out.flush()
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Packets written so far.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.packets
    }
}

impl Keep for OneFile {
    fn keep(&mut self, _now: u64, answer: &WatchResponse) -> io::Result<()> {
        self.packets += u64::from(matches!(answer.item, Some(Item::Packet(_))));
        self.recorder.write(&mut self.bytes, answer);
        self.write()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.recorder.end(&mut self.bytes);
        self.write()
    }
}

/// A file for each side, with packets as they are.
#[derive(Debug)]
pub struct BySide {
    files: Vec<(proto::Side, OneFile)>,
}

impl BySide {
    /// Begins a file for each side; `open` is told the side.
    ///
    /// # Errors
    /// Those of the files.
    pub fn begin(
        about: &About,
        mut open: impl FnMut(proto::Side) -> io::Result<Box<dyn Write>>,
    ) -> io::Result<Self> {
        let mut files = Vec::new();
        for side in &about.sides {
            let about = About {
                sides: vec![*side],
                ..about.clone()
            };
            files.push((*side, OneFile::begin(open(*side)?, &about)?));
        }
        Ok(Self { files })
    }
}

impl Keep for BySide {
    fn keep(&mut self, now: u64, answer: &WatchResponse) -> io::Result<()> {
        let wanted = match &answer.item {
            Some(Item::Packet(packet)) => Some(packet.side()),
            Some(Item::Secret(secret)) => Some(secret.side()),
            _ => None,
        };
        for (side, file) in &mut self.files {
            if wanted.is_none_or(|wanted| wanted == *side) {
                file.keep(now, answer)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        self.files
            .iter_mut()
            .try_for_each(|(_, file)| file.finish())
    }
}

/// What to watch, as far as it does not change while a recording runs.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// One VPC endpoint, or all.
    pub endpoint: Option<u64>,
    /// Bytes kept of each packet; 0 for all.
    pub snap_length: u32,
    /// One of so many flows.
    pub sample: u32,
}

/// What may be changed while a recording runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// The capture filter.
    pub filter: String,
    /// Which sides.
    pub sides: Vec<proto::Side>,
    /// TLS secrets too.
    pub secrets: bool,
    /// Leave packets out for now.
    pub paused: bool,
}

/// When a recording ends by itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ends {
    /// After so many packets.
    pub packets: Option<u64>,
    /// After so long.
    pub duration: Option<Duration>,
}

/// What was kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Packets lost on the way, as the appliance says.
    pub dropped: u64,
    /// TLS secrets.
    pub secrets: u64,
}

/// Why a recording failed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The appliance cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] crate::client::Unreachable),
    /// The appliance refuses, or went away.
    #[error("the appliance says: {}", .0.message())]
    Refused(Box<tonic::Status>),
    /// What was to be kept could not be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

impl From<tonic::Status> for RecordError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// Copies until `stop` is there, the appliance or the reader goes, or the recording ends by itself.
///
/// `begin` is told the appliance's name, and opens what everything is kept in.
///
/// # Errors
/// See [`RecordError`]. A pipe whose reader is gone is none: that is how a reader says stop.
pub async fn record<K: Keep>(
    target: &Target,
    what: &What,
    begin: impl FnOnce(&str) -> io::Result<K>,
    ends: Ends,
    mut live: watch::Receiver<Live>,
    stop: impl Future<Output = ()>,
) -> Result<Counts, RecordError> {
    let mut client = target.connect().await?;
    let about = client.describe(DescribeRequest {}).await?.into_inner();
    let request = |live: &Live| WatchRequest {
        filter: live.filter.clone(),
        sides: live.sides.iter().map(|side| (*side).into()).collect(),
        endpoint: what.endpoint.unwrap_or(0),
        snap_length: what.snap_length,
        sample: what.sample,
        secrets: live.secrets && about.secrets,
    };
    let mut current = live.borrow_and_update().clone();
    let mut answers = client.watch(request(&current)).await?.into_inner();
    let mut counts = Counts::default();
    let ended_by_reader = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let mut kept = match begin(&about.hostname) {
        Err(error) if ended_by_reader(&error) => return Ok(counts),
        kept => kept?,
    };
    tokio::pin!(stop);
    let wait = tokio::time::sleep(ends.duration.unwrap_or(FOR_EVER));
    tokio::pin!(wait);
    // A sender that is gone changes nothing any more.
    let mut changes = true;
    while ends.packets.is_none_or(|most| counts.packets < most) {
        tokio::select! {
            answer = answers.message() => {
                let Some(answer) = answer? else { break };
                if current.paused && matches!(answer.item, Some(Item::Packet(_))) {
                    continue;
                }
                match &answer.item {
                    Some(Item::Packet(_)) => counts.packets += 1,
                    Some(Item::Secret(_)) => counts.secrets += 1,
                    Some(Item::Statistics(statistics)) => counts.dropped = statistics.dropped,
                    None => {}
                }
                match kept.keep(now(), &answer) {
                    Err(error) if ended_by_reader(&error) => return Ok(counts),
                    done => done?,
                }
            }
            changed = live.changed(), if changes => {
                changes = changed.is_ok();
                let next = live.borrow_and_update().clone();
                let same = Live { paused: current.paused, ..next.clone() } == current;
                current = next;
                if !same {
                    answers = client.watch(request(&current)).await?.into_inner();
                }
            }
            () = &mut stop => break,
            () = &mut wait => break,
        }
    }
    match kept.finish() {
        Err(error) if ended_by_reader(&error) => {}
        done => done?,
    }
    Ok(counts)
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        })
}
