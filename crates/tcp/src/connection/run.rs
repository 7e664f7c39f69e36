//! Runs: segments that follow each other, taken and given in one go.
//!
//! What comes out is what would come out one by one; only the work that would be repeated for each
//! segment is done once.

use wire::tcp::{Flags, Repr, Seq};

use super::{Connection, Transmit};
use crate::recovery::Phase;
use crate::send::Next;
use crate::state::Events;
use crate::time::Instant;

/// Segments to send one behind the other, equal but for their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransmitRun {
    /// The first one.
    pub first: Transmit,
    /// How many there are. More than one have equally much payload each, and follow each other
    /// without a gap.
    pub count: usize,
    /// The flags of the last one, which may differ from those of all others by PSH.
    pub last_flags: Flags,
}

impl TransmitRun {
    /// The segments one by one.
    pub fn segments(&self) -> impl Iterator<Item = Transmit> + '_ {
        (0..self.count).map(|index| {
            let mut transmit = self.first;
            let offset = (index * self.first.payload_len) as u32;
            transmit.repr.seq += offset;
            transmit.payload_seq += offset;
            if index + 1 == self.count {
                transmit.repr.flags = self.last_flags;
            }
            transmit
        })
    }
}

/// Whether a segment with the header `next` may stand in a run that begins with `first` and whose
/// payload ends at `end`: it tells nothing that `first` does not, but for its payload.
pub fn continues_run(first: &Repr, end: Seq, next: &Repr) -> bool {
    let plain = |repr: &Repr| Flags(repr.flags.0 & !Flags::PSH.0) == Flags::ACK;
    plain(first)
        && plain(next)
        && next.seq == end
        && next.ack == first.ack
        && next.window == first.window
        && next.options == first.options
        && first.options.sack[0].is_none()
}

impl Connection {
    /// Takes segments that arrived one behind the other and whose checksums were verified. `first` is
    /// the header of the first one; each of the others passes [`continues_run`]. `ce` is what
    /// [`Self::handle_segment`] says, the same for all.
    pub fn handle_run(&mut self, first: &Repr, payloads: &[&[u8]], ce: bool, now: Instant) {
        let total: usize = payloads.iter().map(|payload| payload.len()).sum();
        if let Ok(total) = u32::try_from(total)
            && let [_, .., last] = payloads
            && self.takes_run(first, total, now)
            && payloads.iter().all(|payload| !payload.is_empty())
        {
            let last_seq = first.seq + (total - last.len() as u32);
            self.take_run(first, payloads, total, last_seq, ce, now);
            return;
        }
        let mut repr = *first;
        for payload in payloads {
            self.handle_segment(&repr, payload, ce, now);
            repr.seq += payload.len() as u32;
        }
    }

    /// Whether all of a run is to be taken as the first segment of it is: next in order, within every
    /// bound, and while nothing is being repaired, when each segment has a say.
    fn takes_run(&self, first: &Repr, total: u32, now: Instant) -> bool {
        continues_run(first, first.seq, first)
            && self.state.may_receive()
            && self.recovery.phase == Phase::Open
            && self.recv.takes_run(first.seq, total)
            && first.ack <= self.send.nxt()
            && first.ack >= self.send.una() - self.send.max_window()
            && !self.is_from_the_past(first, now)
    }

    fn take_run(
        &mut self,
        first: &Repr,
        payloads: &[&[u8]],
        total: u32,
        last_seq: Seq,
        ce: bool,
        now: Instant,
    ) {
        let count = payloads.len();
        self.stats.segments_received = self.stats.segments_received.wrapping_add(count as _);
        self.heard(first.flags, ce, now);
        self.handle_ack(first, total, now);
        // The window that all of them tell is the last one's word.
        self.send
            .update_window(last_seq, first.ack, first.window, false);
        self.note_timestamp(first, now);

        self.recv.set_pressed(self.config.memory.is_used_up());
        self.recv.append_run(payloads, total);
        self.adapt_window(now);
        let largest = payloads.iter().map(|payload| payload.len()).max();
        let largest = largest.unwrap_or(0).min(usize::from(u16::MAX)) as u16;
        self.acks.segment = self.acks.segment.max(largest);
        self.stats.bytes_received = self.stats.bytes_received.wrapping_add(u64::from(total));
        self.events.insert(Events::READABLE);
        self.count_in_order(count.min(usize::from(u8::MAX)) as u8, total, now);
        self.acks.data_at = now;
        self.watch_memory(now);
    }

    /// The next segments to send, at most `most` that follow each other, or `None` until something
    /// happens: what as many calls of [`Self::poll_transmit`] would give.
    pub fn poll_transmit_run(&mut self, most: usize, now: Instant) -> Option<TransmitRun> {
        let first = self.poll_transmit(now)?;
        let mut run = TransmitRun {
            first,
            count: 1,
            last_flags: first.repr.flags,
        };
        let segment = self.segment_size();
        let ends_it = Flags::PSH.0 | Flags::FIN.0 | Flags::RST.0;
        // Only new data is followed by more of it.
        let may_go_on = first.payload_len == segment as usize
            && first.payload_seq + segment == self.send.nxt()
            && first.repr.flags.0 & ends_it == 0;
        if most < 2 || !may_go_on || self.has_more_to_say() {
            return Some(run);
        }
        while run.count < most && self.may_add(segment, now) {
            let end = self.send.nxt() + segment;
            self.note_new_segment(segment, now);
            run.count += 1;
            if self.send.is_end(end) {
                run.last_flags = run.last_flags.with(Flags::PSH);
                break;
            }
        }
        if run.count > 1 {
            self.rearm_loss_timer(None, now);
        }
        Some(run)
    }

    /// Whether something other than new data is to leave, or is to be looked at before it does.
    fn has_more_to_say(&self) -> bool {
        let owed = &self.owed;
        owed.reset.is_some()
            || owed.loss_probe
            || owed.window_probe
            || owed.keepalive
            || self.flight.board.lost_count() > 0
            || self.may_try_size(self.sent_at)
    }

    /// Whether another full segment of new data may leave behind the one that just did, and would be
    /// nothing but that.
    fn may_add(&self, segment: u32, now: Instant) -> bool {
        let next = Next::Segment {
            payload: segment,
            fin: false,
        };
        self.send.next(segment, false) == next
            && self.pipe() + segment <= self.window()
            && !self.is_ahead_of_pace(now)
    }
}
