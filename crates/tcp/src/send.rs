//! The sending half: the queue, the peer's window, and how much of the queue makes the next
//! segment.

mod export;

use wire::tcp::Seq;

use crate::memory::UNDER_PRESSURE;
use crate::ring::Ring;

/// Bytes beyond those in flight that a writer may queue. 128 KiB: some rounds of a shard's work. What
/// waits longer than that has left the processor's caches before it is sent, and grows old.
const UNSENT: u32 = 128 << 10;

/// What the next new segment could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Everything queued has been sent.
    Nothing,
    /// The peer's window has no room for a segment worth sending.
    WindowClosed,
    /// `payload` bytes from SND.NXT on, perhaps with our FIN.
    Segment { payload: u32, fin: bool },
}

/// The sender's sequence space and queue.
#[derive(Debug)]
pub(crate) struct Sender {
    /// Offset 0 is SND.UNA.
    ring: Ring,
    una: Seq,
    nxt: Seq,
    /// Bytes in the ring.
    queued: u32,
    /// Bytes that may be queued now, and ever.
    limit: u32,
    limit_max: u32,
    /// The budget of all connections is used up.
    is_pressed: bool,
    window: u32,
    max_window: u32,
    wl1: Seq,
    wl2: Seq,
    shift: u8,
    fin: Fin,
    supply: Supply,
}

/// What is known of whoever writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// All of the last write was taken.
    Done,
    /// It was not, so room is worth an event.
    WaitsForRoom,
    /// The event is out.
    Called,
}

/// Our FIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fin {
    NotAsked,
    Queued,
    Acknowledged,
}

impl Sender {
    pub(crate) fn new(
        nxt: Seq,
        window: u32,
        rcv_nxt: Seq,
        shift: u8,
        [limit, limit_max]: [usize; 2],
    ) -> Self {
        let limit_max = limit_max.clamp(1, 1 << 29) as u32;
        Self {
            ring: Ring::default(),
            una: nxt,
            nxt,
            queued: 0,
            limit: (limit as u32).clamp(1, limit_max),
            limit_max,
            is_pressed: false,
            window,
            max_window: window,
            // Any acceptable segment may update the window.
            wl1: rcv_nxt - 1,
            wl2: nxt - 1,
            shift: shift.min(14),
            fin: Fin::NotAsked,
            supply: Supply::Done,
        }
    }

    /// Queues bytes up to the limit; answers how many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.writable());
        self.supply = if count < bytes.len() {
            Supply::WaitsForRoom
        } else {
            Supply::Done
        };
        if count > 0 {
            self.ring.write_at(self.queued, &bytes[..count]);
            self.queued += count as u32;
        }
        count
    }

    /// Lets two congestion windows be queued: one in flight, one to follow it.
    pub(crate) fn follow(&mut self, congestion_window: u32) {
        let wanted = congestion_window.saturating_mul(2).min(self.limit_max);
        self.limit = self.limit.max(wanted);
    }

    pub(crate) fn set_pressed(&mut self, is_pressed: bool) {
        self.is_pressed = is_pressed;
    }

    fn effective_limit(&self) -> u32 {
        if self.is_pressed {
            self.limit.min(UNDER_PRESSURE)
        } else {
            self.limit
        }
    }

    /// Whether an empty queue means that there is nothing to send, rather than that the writer had to
    /// wait for room.
    pub(crate) fn is_writer_done(&self) -> bool {
        self.supply == Supply::Done
    }

    /// Queues our FIN behind the data.
    pub(crate) fn finish(&mut self) {
        self.supply = Supply::Done;
        if self.fin == Fin::NotAsked {
            self.fin = Fin::Queued;
        }
    }

    /// Forgets everything queued.
    pub(crate) fn clear(&mut self) {
        self.ring.advance(self.queued);
        self.ring.release_if_empty();
        self.queued = 0;
    }

    /// Takes an acknowledgment within SND.UNA..=SND.NXT; answers the payload bytes it covers.
    pub(crate) fn acknowledge(&mut self, ack: Seq) -> u32 {
        let covered = ack.since(self.una).max(0) as u32;
        let bytes = covered.min(self.queued);
        self.ring.advance(bytes);
        self.queued -= bytes;
        if covered > bytes {
            self.fin = Fin::Acknowledged;
        }
        self.una = ack;
        bytes
    }

    /// RFC 9293 §3.10.7.4, the window update; answers whether the window changed.
    ///
    /// A segment that acknowledges more than any before it (`advanced`) says where the window stands
    /// now, even if it repeats old data: keeping the old size from the new SND.UNA on would move the
    /// right edge to where the peer never put it.
    pub(crate) fn update_window(&mut self, seq: Seq, ack: Seq, field: u16, advanced: bool) -> bool {
        if !(advanced || self.wl1 < seq || (self.wl1 == seq && self.wl2 <= ack)) {
            return false;
        }
        self.wl1 = seq;
        self.wl2 = ack;
        let window = u32::from(field) << self.shift;
        let changed = window != self.window;
        self.window = window;
        self.max_window = self.max_window.max(window);
        changed
    }

    /// What may be sent next, with segments of at most `segment` payload bytes.
    ///
    /// `force` sends into a window that is too small to be worth it (RFC 9293 §3.8.6.2.1, the
    /// override time-out).
    pub(crate) fn next(&self, segment: u32, force: bool) -> Next {
        let sent = self.nxt.since(self.una) as u32;
        let unsent = self.queued.saturating_sub(sent);
        let fin = self.fin == Fin::Queued && sent <= self.queued;
        if unsent == 0 && !fin {
            return Next::Nothing;
        }
        let room = self.window.saturating_sub(sent);
        let full = unsent.min(segment);
        let payload = full.min(room);
        if payload < full && (payload == 0 || !(force || payload >= self.max_window / 2)) {
            return Next::WindowClosed;
        }
        let fin = fin && payload == unsent && room > payload;
        if payload == 0 && !fin {
            return Next::WindowClosed;
        }
        Next::Segment { payload, fin }
    }

    /// `length` sequence numbers from SND.NXT on leave.
    pub(crate) fn sent(&mut self, length: u32) {
        self.nxt += length;
    }

    /// How much of `length` sequence numbers from `seq` on is payload; the rest is our FIN.
    pub(crate) fn payload_of(&self, seq: Seq, length: u32) -> u32 {
        let end = self.una + self.queued;
        length.min(end.since(seq).max(0) as u32)
    }

    /// Up to `length` queued bytes from `seq` on, in two parts where they wrap around.
    pub(crate) fn bytes(&self, seq: Seq, length: usize) -> [&[u8]; 2] {
        match u32::try_from(seq.since(self.una)) {
            Ok(offset) => self.ring.parts(offset, length),
            Err(_) => [&[]; 2],
        }
    }

    /// Whether room appeared after a short write: once.
    pub(crate) fn take_room_event(&mut self) -> bool {
        // A quarter of the queue is worth waking somebody for, or half of what may wait unsent.
        let worth = (self.effective_limit() / 4).min(UNSENT / 2);
        if self.supply == Supply::WaitsForRoom && self.writable() as u32 >= worth {
            self.supply = Supply::Called;
            return true;
        }
        false
    }

    pub(crate) fn writable(&self) -> usize {
        if self.fin == Fin::NotAsked {
            let room = self.effective_limit().saturating_sub(self.queued);
            room.min(UNSENT.saturating_sub(self.unsent())) as usize
        } else {
            0
        }
    }
    /// Bytes queued that were never sent.
    fn unsent(&self) -> u32 {
        self.queued
            .saturating_sub(self.nxt.since(self.una).max(0) as u32)
    }
    pub(crate) fn queued(&self) -> u32 {
        self.queued
    }
    pub(crate) fn una(&self) -> Seq {
        self.una
    }
    pub(crate) fn nxt(&self) -> Seq {
        self.nxt
    }
    pub(crate) fn max_window(&self) -> u32 {
        self.max_window
    }
    /// A number for a segment without data that the peer finds acceptable: SND.NXT, unless the peer
    /// has pulled its window back behind it by more than the rounding of the scale.
    pub(crate) fn acceptable_seq(&self) -> Seq {
        let beyond = self.nxt.since(self.window_edge());
        if beyond >= 1 << self.shift {
            self.window_edge()
        } else {
            self.nxt
        }
    }
    /// The first sequence number that the peer's window excludes.
    pub(crate) fn window_edge(&self) -> Seq {
        self.una + self.window
    }
    pub(crate) fn is_fin_acknowledged(&self) -> bool {
        self.fin == Fin::Acknowledged
    }
    /// Whether `seq` is where the queued bytes end: the segment that ends there is pushed.
    pub(crate) fn is_end(&self, seq: Seq) -> bool {
        seq == self.una + self.queued
    }
    /// Bytes allocated.
    pub(crate) fn capacity(&self) -> usize {
        self.ring.capacity()
    }
    pub(crate) fn release_if_empty(&mut self) {
        self.ring.release_if_empty();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender(window: u32) -> Sender {
        Sender::new(Seq(u32::MAX - 5), window, Seq(1), 0, [10_000; 2])
    }

    #[test]
    fn segments_are_full_or_everything_that_is_queued() {
        let mut s = sender(100_000);
        assert_eq!(s.next(1000, false), Next::Nothing);
        s.write(&[1; 1500]);
        assert_eq!(
            s.next(1000, false),
            Next::Segment {
                payload: 1000,
                fin: false
            }
        );
        s.sent(1000);
        assert_eq!(
            s.next(1000, false),
            Next::Segment {
                payload: 500,
                fin: false
            }
        );
        s.finish();
        assert_eq!(
            s.next(1000, false),
            Next::Segment {
                payload: 500,
                fin: true
            }
        );
        s.sent(501);
        assert_eq!(s.next(1000, false), Next::Nothing);
        assert_eq!(s.acknowledge(s.nxt()), 1500);
        assert!(s.is_fin_acknowledged());
    }

    #[test]
    fn a_small_window_is_not_worth_a_segment_until_forced() {
        let mut s = sender(3000);
        s.write(&[1; 8000]);
        s.sent(3000);
        assert_eq!(s.next(1000, false), Next::WindowClosed);
        s.acknowledge(s.nxt());
        assert!(s.update_window(Seq(1), s.nxt(), 300, false));
        assert_eq!(s.next(1000, false), Next::WindowClosed);
        assert_eq!(
            s.next(1000, true),
            Next::Segment {
                payload: 300,
                fin: false
            }
        );
        // Half of the largest window is worth it.
        assert!(s.update_window(Seq(2), s.nxt(), 1499, false));
        assert_eq!(s.next(2000, false), Next::WindowClosed);
        assert!(s.update_window(Seq(3), s.nxt(), 1500, false));
        assert_eq!(
            s.next(2000, false),
            Next::Segment {
                payload: 1500,
                fin: false
            }
        );
    }

    #[test]
    fn a_window_that_shrinks_below_what_is_in_flight_only_stops_new_data() {
        let mut s = sender(3000);
        s.write(&[1; 4000]);
        s.sent(3000);
        s.update_window(Seq(1), s.una(), 1000, false);
        assert_eq!(s.next(1000, true), Next::WindowClosed);
    }

    #[test]
    fn an_older_segment_does_not_change_the_window() {
        let mut s = sender(3000);
        assert!(s.update_window(Seq(10), s.una(), 2000, false));
        assert!(!s.update_window(Seq(9), s.una(), 5000, false));
        assert!(s.update_window(Seq(10), s.una(), 4000, false));
    }

    #[test]
    fn room_is_an_event_only_after_a_short_write() {
        let mut s = sender(100_000);
        assert_eq!(s.write(&[0; 9000]), 9000);
        assert!(!s.take_room_event());
        assert_eq!(s.write(&[0; 9000]), 1000);
        s.sent(10_000);
        s.acknowledge(s.una() + 1000);
        assert!(!s.take_room_event());
        s.acknowledge(s.una() + 2000);
        assert!(s.take_room_event());
        assert!(!s.take_room_event());
    }

    #[test]
    fn a_writer_that_waits_for_room_is_not_one_that_has_nothing_to_say() {
        let mut s = sender(100_000);
        assert!(s.is_writer_done());
        s.write(&[0; 12_000]);
        s.sent(10_000);
        s.acknowledge(s.una() + 10_000);
        assert!(s.take_room_event());
        // Everything has left, and the writer has not answered yet.
        assert_eq!(s.next(1000, false), Next::Nothing);
        assert!(!s.is_writer_done());
        s.write(&[0; 2_000]);
        assert!(s.is_writer_done());
        s.write(&[0; 12_000]);
        s.finish();
        assert!(s.is_writer_done());
    }
}
