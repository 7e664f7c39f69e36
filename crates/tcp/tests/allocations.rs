//! A connection that moves data takes no memory from the allocator for it: its queues have grown
//! to what the path needs, and everything else is in the connection.

#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use flowdog_tcp::{Algorithm, Config, Connection, Instant, Seq, Takeover, TimestampSeed};

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call is passed on unchanged to the system's allocator; the counter is a plain cell
// of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: `at` comes from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Pair {
    sender: Connection,
    receiver: Connection,
    now: u64,
    packets: u64,
}

impl Pair {
    fn new(algorithm: Algorithm) -> Self {
        let config = Arc::new(Config {
            congestion: algorithm,
            ..Config::default()
        });
        let takeover = |own: u32, peer: u32| Takeover {
            snd_nxt: Seq(own),
            rcv_nxt: Seq(peer),
            snd_wnd: 65_535,
            snd_shift: 8,
            rcv_shift: 8,
            rcv_right_edge: Seq(peer) + 65_535,
            mss: 1460,
            sack: true,
            timestamps: Some(TimestampSeed {
                tsval: 1,
                at: Instant(0),
                ts_recent: 1,
            }),
            ecn: false,
            srtt: Some(std::time::Duration::from_millis(1)),
        };
        let now = Instant(1_000_000);
        Self {
            sender: Connection::new(&config, &takeover(1, 2), now),
            receiver: Connection::new(&config, &takeover(2, 1), now),
            now: 1_000_000,
            packets: 0,
        }
    }

    /// A round of one millisecond: what may leave arrives, but for one in `lose`, and is read.
    fn round(&mut self, data: &[u8], out: &mut [u8], packet: &mut [u8], lose: u64) {
        self.now += 1_000;
        let now = Instant(self.now);
        self.sender.handle_timeout(now);
        self.receiver.handle_timeout(now);
        let room = data.len().saturating_sub(self.sender.unsent_or_unacked());
        self.sender.write(&data[..room]);
        while let Some(transmit) = self.sender.poll_transmit(now) {
            self.packets += 1;
            if lose > 0 && self.packets.is_multiple_of(lose) {
                continue;
            }
            self.sender.copy_payload(&transmit, packet);
            let payload = &packet[..transmit.payload_len];
            self.receiver
                .handle_segment(&transmit.repr, payload, false, now);
            while let Some(answer) = self.receiver.poll_transmit(now) {
                self.sender.handle_segment(&answer.repr, &[], false, now);
            }
        }
        self.receiver.read(out);
        while let Some(answer) = self.receiver.poll_transmit(now) {
            self.sender.handle_segment(&answer.repr, &[], false, now);
        }
    }
}

#[test]
fn no_packet_allocates_in_the_steady_state() {
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        for lose in [0, 50] {
            let mut pair = Pair::new(algorithm);
            let (data, mut out, mut packet) = (vec![7; 40_000], vec![0; 80_000], vec![0; 1500]);
            for _ in 0..2_000 {
                pair.round(&data, &mut out, &mut packet, lose);
            }
            let (before, packets) = (COUNT.get(), pair.packets);
            for _ in 0..2_000 {
                pair.round(&data, &mut out, &mut packet, lose);
            }
            let allocations = COUNT.get() - before;
            let packets = pair.packets - packets;
            assert!(packets > 5_000, "{algorithm:?}, {lose}: {packets} packets");
            assert_eq!(allocations, 0, "{algorithm:?}, {lose}: {packets} packets");
        }
    }
}

#[test]
fn a_connection_takes_no_memory_before_it_has_data() {
    let mut pair = Pair::new(Algorithm::Cubic);
    let before = COUNT.get();
    for _ in 0..1_000 {
        pair.round(&[], &mut [], &mut [], 0);
    }
    assert_eq!(COUNT.get(), before);
}
