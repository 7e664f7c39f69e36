//! Transcripts: what arrives, what must leave, at which time.
//!
//! Sequence numbers are relative to the take-over in both directions.

mod close;
mod data;
mod defence;
mod loss;
mod window;

use std::sync::Arc;

use core::time::Duration;

use crate::{
    Config, Connection, Events, Flags, Instant, Options, Repr, SackBlock, Seq, State, Takeover,
    TimestampSeed, Timestamps, Transmit,
};

/// Where our and the peer's numbers begin; ours wrap soon.
const OURS: Seq = Seq(u32::MAX - 2_500);
const THEIRS: Seq = Seq(70_000);

/// One connection on the bench.
struct Bench {
    connection: Connection,
    now: Instant,
    last: Option<Transmit>,
}

/// A segment of the peer; everything not said is as usual.
#[derive(Clone)]
struct Peer {
    seq: u32,
    ack: u32,
    flags: Flags,
    window: u16,
    payload: Vec<u8>,
    timestamps: Option<Timestamps>,
    sack: Vec<(u32, u32)>,
}

/// A bare acknowledgment.
fn ack(ack: u32) -> Peer {
    Peer {
        seq: 0,
        ack,
        flags: Flags::ACK,
        window: 60_000,
        payload: Vec::new(),
        timestamps: None,
        sack: Vec::new(),
    }
}

/// A segment with `length` bytes of data.
fn data(seq: u32, length: usize) -> Peer {
    let payload = (0..length)
        .map(|index| (seq as usize + index) as u8)
        .collect();
    Peer {
        seq,
        payload,
        ..ack(0)
    }
}

impl Peer {
    fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }
    fn acks(self, ack: u32) -> Self {
        Self { ack, ..self }
    }
    fn window(self, window: u16) -> Self {
        Self { window, ..self }
    }
    fn with(self, flags: Flags) -> Self {
        Self {
            flags: self.flags.with(flags),
            ..self
        }
    }
    fn only(self, flags: Flags) -> Self {
        Self { flags, ..self }
    }
    fn sack(self, blocks: &[(u32, u32)]) -> Self {
        Self {
            sack: blocks.to_vec(),
            ..self
        }
    }
    fn stamped(self, tsval: u32, tsecr: u32) -> Self {
        Self {
            timestamps: Some(Timestamps { tsval, tsecr }),
            ..self
        }
    }
}

impl Bench {
    /// SACK, no timestamps, segments of 1000, a round trip of 20 ms, no quick acknowledgments.
    fn new() -> Self {
        Self::with(|_, _| {})
    }

    fn with(change: impl FnOnce(&mut Config, &mut Takeover)) -> Self {
        let mut config = Config {
            quick_acks: 0,
            keepalive: None,
            ..Config::default()
        };
        let mut takeover = Takeover {
            snd_nxt: OURS,
            rcv_nxt: THEIRS,
            snd_wnd: 60_000,
            snd_shift: 0,
            rcv_shift: 0,
            rcv_right_edge: THEIRS + 10_000,
            mss: 1000,
            sack: true,
            timestamps: None,
            ecn: false,
            srtt: Some(Duration::from_millis(20)),
        };
        change(&mut config, &mut takeover);
        let now = Instant::from_millis(1_000_000);
        Self {
            connection: Connection::new(&Arc::new(config), &takeover, now),
            now,
            last: None,
        }
    }

    /// Lets time pass up to `millis` since the take-over, running every timer on the way.
    /// Answers what left meanwhile.
    fn at(&mut self, millis: u64) -> Vec<String> {
        let until = Instant::from_millis(1_000_000 + millis);
        let mut left = self.drain();
        while let Some(due) = self.connection.poll_timeout()
            && due <= until
        {
            self.now = self.now.max(due);
            self.connection.handle_timeout(self.now);
            let since = self.now.since(Instant::from_millis(1_000_000)).as_millis();
            left.extend(
                self.drain()
                    .into_iter()
                    .map(|segment| format!("{since}: {segment}")),
            );
        }
        self.now = until;
        left
    }

    /// Takes a segment; answers what leaves at once.
    fn receive(&mut self, peer: Peer) -> Vec<String> {
        self.receive_marked(peer, false)
    }

    fn receive_marked(&mut self, peer: Peer, ce: bool) -> Vec<String> {
        self.handle(&peer, ce);
        self.drain()
    }

    fn handle(&mut self, peer: &Peer, ce: bool) {
        let mut sack = [None; 4];
        for (slot, &(left, right)) in sack.iter_mut().zip(&peer.sack) {
            *slot = Some(SackBlock {
                left: OURS + left,
                right: OURS + right,
            });
        }
        let repr = Repr {
            seq: THEIRS + peer.seq,
            ack: OURS + peer.ack,
            flags: peer.flags,
            window: peer.window,
            options: Options {
                timestamps: peer.timestamps,
                sack,
                ..Options::default()
            },
            ..Repr::default()
        };
        self.connection
            .handle_segment(&repr, &peer.payload, ce, self.now);
    }

    fn write(&mut self, length: usize) -> Vec<String> {
        assert_eq!(self.connection.write(&vec![7; length]), length);
        self.drain()
    }

    fn shutdown(&mut self) -> Vec<String> {
        self.connection.shutdown();
        self.drain()
    }

    fn read(&mut self) -> Vec<u8> {
        let mut out = vec![0; self.connection.readable()];
        self.connection.read(&mut out);
        out
    }

    fn drain(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(self.now) {
            left.push(show(&transmit));
            self.last = Some(transmit);
            assert!(left.len() < 1000, "no end of sending");
        }
        left
    }

    fn last(&self) -> &Repr {
        &self.last.as_ref().expect("something was sent").repr
    }

    fn state(&self) -> State {
        self.connection.state()
    }

    fn events(&mut self) -> Events {
        self.connection.take_events()
    }
}

/// `0..1000`, `1000..1500 fin`, `ack 20`, `ack 20 sack 30..40 50..60`, `rst 7`.
fn show(transmit: &Transmit) -> String {
    let repr = &transmit.repr;
    let seq = repr.seq.since(OURS);
    let fin = if repr.flags.contains(Flags::FIN) {
        " fin"
    } else {
        ""
    };
    if repr.flags.contains(Flags::RST) {
        return format!("rst {seq}");
    }
    if transmit.payload_len > 0 || !fin.is_empty() {
        return format!("{seq}..{}{fin}", seq + transmit.payload_len as i32);
    }
    let mut text = format!("ack {}", repr.ack.since(THEIRS));
    for (index, block) in repr.options.sack.iter().flatten().enumerate() {
        text += if index == 0 { " sack " } else { " " };
        text += &format!(
            "{}..{}",
            block.left.since(THEIRS),
            block.right.since(THEIRS)
        );
    }
    text
}

const NOTHING: [&str; 0] = [];

#[test]
fn an_idle_connection_is_small_and_holds_no_buffers() {
    let size = size_of::<Connection>();
    assert!(size <= 432, "{size} bytes");
}
