//! The client's first bytes, kept while somebody finds out what they are.

use wire::tcp::{Flags, Seq};

use crate::seen::{Seen, Tcp};
use crate::{Config, Instant};

/// Segments held for one flow at most, whatever their size.
const MAX_SEGMENTS: usize = 256;

/// A held segment, as the datagram that it came in.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) seen: Seen,
    pub(crate) datagram: Vec<u8>,
    seq: Seq,
    end: Seq,
}

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// The contiguous bytes grew, or the FIN behind them arrived.
    Grew,
    /// Nothing new in order.
    Same,
    /// It overlaps with bytes that are different: only one endpoint may decide which ones count, so
    /// the connection must be taken over.
    Conflict,
    /// More than may be held.
    Full,
}

/// The held segments, in order of sequence number.
#[derive(Debug)]
pub(crate) struct Hold {
    start: Seq,
    segments: Vec<Held>,
    /// The contiguous bytes from `start`.
    stream: Vec<u8>,
    /// Memory that the datagrams take.
    bytes: usize,
    until: Instant,
    hole_since: Option<Instant>,
    has_fin: bool,
    /// Whether the shell was told of bytes that it has not answered for.
    pub(crate) is_announced: bool,
}

impl Hold {
    /// An empty hold for bytes from `start`, which ends at `until`.
    pub(crate) fn new(start: Seq, until: Instant) -> Self {
        Self {
            start,
            segments: Vec::new(),
            stream: Vec::new(),
            bytes: 0,
            until,
            hole_since: None,
            has_fin: false,
            is_announced: false,
        }
    }

    /// Adds a segment. A copy that covers older ones replaces them: its timestamps are fresher.
    pub(crate) fn add(
        &mut self,
        seen: &Seen,
        tcp: &Tcp,
        datagram: &[u8],
        config: &Config,
        now: Instant,
    ) -> Added {
        let (seq, end) = (tcp.seq, tcp.end());
        let payload = seen
            .segment(datagram)
            .map(|segment| segment.payload())
            .unwrap_or_default();
        if self
            .segments
            .iter()
            .any(|held| !held.agrees_with(seq, payload))
        {
            return Added::Conflict;
        }
        let is_known = self
            .segments
            .iter()
            .any(|held| held.seq <= seq && held.end >= end && (held.seq, held.end) != (seq, end));
        if !is_known {
            let freed: usize = self
                .segments
                .iter()
                .filter(|held| held.is_within(seq, end))
                .map(|held| held.datagram.len())
                .sum();
            if self.segments.len() >= MAX_SEGMENTS
                || self.bytes - freed + datagram.len() > config.hold_bytes
            {
                return Added::Full;
            }
            self.segments.retain(|held| !held.is_within(seq, end));
            let at = self.segments.partition_point(|held| held.seq < seq);
            self.bytes = self.bytes - freed + datagram.len();
            self.segments.insert(at, Held::new(seen, tcp, datagram));
        }
        self.extend_stream(now)
    }

    fn extend_stream(&mut self, now: Instant) -> Added {
        let before = (self.stream.len(), self.has_fin);
        for held in &self.segments {
            let next = self.start + self.stream.len() as u32;
            if held.seq > next {
                break;
            }
            let skip = next.since(held.seq).max(0) as usize;
            if let Some(fresh) = held.payload().get(skip..) {
                self.stream.extend_from_slice(fresh);
            }
            let is_last = held.seen.tcp().is_some_and(|tcp| tcp.has(Flags::FIN));
            self.has_fin |= is_last && held.end == self.start + self.stream.len() as u32 + 1;
        }
        let next = self.start + self.stream.len() as u32;
        let has_hole = self.segments.last().is_some_and(|held| held.seq > next);
        self.hole_since = match (has_hole, self.hole_since) {
            (true, since) => since.or(Some(now)),
            (false, _) => None,
        };
        if before == (self.stream.len(), self.has_fin) {
            Added::Same
        } else {
            Added::Grew
        }
    }

    /// The contiguous bytes from the first.
    pub(crate) fn stream(&self) -> &[u8] {
        &self.stream
    }

    /// Memory that the hold takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.stream.len()
    }

    /// Whether there is a hole that lasts too long.
    pub(crate) fn has_old_hole(&self, config: &Config, now: Instant) -> bool {
        self.hole_since
            .is_some_and(|since| since + config.hold_hole <= now)
    }

    /// When holding must end.
    pub(crate) fn deadline(&self, config: &Config) -> Instant {
        match self.hole_since {
            Some(since) => self.until.min(since + config.hold_hole),
            None => self.until,
        }
    }

    /// The segments in order.
    pub(crate) fn into_segments(self) -> Vec<Held> {
        self.segments
    }
}

impl Held {
    pub(crate) fn new(seen: &Seen, tcp: &Tcp, datagram: &[u8]) -> Self {
        Self {
            seen: *seen,
            datagram: datagram.to_vec(),
            seq: tcp.seq,
            end: tcp.end(),
        }
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.seen
            .segment(&self.datagram)
            .map(|segment| segment.payload())
            .unwrap_or_default()
    }

    fn is_within(&self, seq: Seq, end: Seq) -> bool {
        self.seq >= seq && self.end <= end
    }

    /// Whether the bytes that both segments have are the same.
    fn agrees_with(&self, seq: Seq, payload: &[u8]) -> bool {
        let own = self.payload();
        let (own_at, other_at) = match self.seq.since(seq) {
            ahead @ 0.. => (0, ahead as usize),
            behind => (behind.unsigned_abs() as usize, 0),
        };
        match (own.get(own_at..), payload.get(other_at..)) {
            (Some(own), Some(other)) => own.iter().zip(other).all(|(a, b)| a == b),
            _ => true,
        }
    }
}
