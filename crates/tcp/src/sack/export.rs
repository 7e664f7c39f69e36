//! Data in flight as plain data: for each segment its length, its age and its marks.

use std::collections::VecDeque;

use wire::tcp::Seq;

use super::{APP_LIMITED, LOST, MAX_REPORTED_RANGES, RETRANSMITTED, SACKED, Scoreboard, Sent};
use crate::codec::{ImportError, Reader, Writer, require};

/// Bytes of a segment's entry.
const ENTRY: usize = 4 + 8 + 1;

impl Scoreboard {
    pub(crate) fn export(&self, out: &mut Writer) {
        out.u32(self.segments.len() as u32);
        for segment in &self.segments {
            out.u32(segment.length);
            out.age(segment.sent_at);
            out.u8(segment.marks);
        }
    }

    /// The segments between `una` and `nxt`. What was known about the order of deliveries is not
    /// kept: the next acknowledgments say it again.
    pub(crate) fn import(input: &mut Reader<'_>, una: Seq, nxt: Seq) -> Result<Self, ImportError> {
        let count = input.u32()? as usize;
        // What is allocated is in proportion to what is there.
        if count > input.left() / ENTRY {
            return Err(ImportError::Truncated);
        }
        let mut board = Self::NEW;
        board.segments = VecDeque::with_capacity(count);
        let mut seq = una;
        for _ in 0..count {
            let length = input.u32()?;
            let sent_at = input.age()?;
            let marks = input.u8()?;
            let left = nxt.since(seq).max(0) as u32;
            require(length > 0 && length <= left, "the segments in flight")?;
            require(
                marks & !(SACKED | LOST | RETRANSMITTED | APP_LIMITED) == 0
                    && marks & (SACKED | LOST) != SACKED | LOST,
                "the marks of a segment in flight",
            )?;
            let segment = Sent {
                seq,
                length,
                sent_at,
                serial: 0,
                marks,
                delivered: 0,
                send_elapsed: 0,
                delivered_at: sent_at,
            };
            seq += length;
            board.lost_count += u32::from(segment.is(LOST));
            board.sacked_count += u32::from(segment.is(SACKED));
            if segment.in_flight() {
                board.pipe += length;
            }
            if segment.is(SACKED) {
                board.reported.insert(segment.seq, seq, MAX_REPORTED_RANGES);
                board.highest = Some(seq);
            }
            board.segments.push_back(segment);
        }
        require(seq == nxt, "the segments in flight")?;
        board.rebuild_order();
        Ok(board)
    }
}
