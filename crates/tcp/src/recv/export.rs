//! The receiving half as plain data.

use super::Receiver;
use crate::codec::{ImportError, Reader, Writer, require};
use crate::ring::Ring;
use crate::spare::Spare;
use crate::time::Instant;

/// The right edge lies no further away from RCV.NXT than the largest window, in either direction.
const MOST_WINDOW: u32 = 0xffff << 14;

impl Receiver {
    pub(crate) fn export(&self, out: &mut Writer) {
        for seq in [self.read_seq, self.rcv_nxt, self.edge] {
            out.seq(seq);
        }
        out.u32(self.limit);
        out.u8(self.shift);
        out.flag(self.finished);
        out.flag(self.has_fin);
        out.seq(self.fin);
        out.block(self.readable(), |space| self.ring.copy_at(0, space));
        let ranges = &self.holes.ranges;
        out.u32(ranges.descending().count() as u32);
        for range in ranges.descending() {
            out.seq(range.start);
            let offset = range.start.since(self.read_seq).max(0) as u32;
            let length = range.end.since(range.start).max(0) as usize;
            out.block(length, |space| self.ring.copy_at(offset, space));
        }
    }

    /// `limit_max` bounds what is taken and how far apart it may lie.
    pub(crate) fn import(
        input: &mut Reader<'_>,
        limit_max: usize,
        max_ranges: usize,
        now: Instant,
    ) -> Result<Self, ImportError> {
        let (read_seq, rcv_nxt, edge) = (input.seq()?, input.seq()?, input.seq()?);
        let limit = input.u32()?;
        let shift = input.u8()?;
        let (finished, has_fin, fin) = (input.flag()?, input.flag()?, input.seq()?);
        let readable = input.block()?;
        require(shift <= 14, "the scale of our window")?;
        let limit_max = limit_max.clamp(1, 0xffff << shift) as u32;
        require(limit > 0, "no receive buffer")?;
        if limit > limit_max {
            return Err(ImportError::TooLarge("the receive window"));
        }
        let mut receiver = Self {
            ring: Ring::default(),
            read_seq,
            rcv_nxt,
            edge,
            limit,
            limit_max,
            is_pressed: false,
            round_read: 0,
            round_since: now,
            shift,
            finished,
            has_fin,
            max_ranges: max_ranges.min(u16::MAX.into()) as u16,
            fin,
            holes: Spare::BLANK,
        };
        let bound = receiver.storage_bound();
        let received = rcv_nxt.since(read_seq) - i32::from(finished);
        require(
            received >= 0 && received as usize == readable.len(),
            "the bytes that wait to be read",
        )?;
        require(read_seq + readable.len() as u32 <= bound, "unread bytes")?;
        require(
            edge.since(rcv_nxt).unsigned_abs() <= MOST_WINDOW,
            "the window we offered",
        )?;
        if finished {
            require(has_fin && fin + 1 == rcv_nxt, "the peer's FIN")?;
        } else if has_fin {
            require(fin >= rcv_nxt && fin <= bound, "the peer's early FIN")?;
        }
        if !readable.is_empty() {
            receiver.ring.write_at(0, readable);
        }
        let count = input.u32()?;
        if count > u32::from(receiver.max_ranges) {
            return Err(ImportError::TooLarge("ranges behind holes"));
        }
        // From the highest down.
        let mut below = if has_fin { fin + 1 } else { bound + 1 };
        for _ in 0..count {
            let start = input.seq()?;
            let bytes = input.block()?;
            let end = start + bytes.len() as u32;
            require(
                !finished && start > rcv_nxt && start < end && end < below,
                "data behind a hole",
            )?;
            below = start;
            receiver.ring.write_at(start.since(read_seq) as u32, bytes);
            receiver
                .holes
                .ranges
                .insert(start, end, usize::from(receiver.max_ranges));
        }
        Ok(receiver)
    }
}
