//! What the fuzz targets `tcp_segments`, `tcp_adversary` and `tcp_import` run, and what the replay of
//! their committed corpora runs in the ordinary tests.
//!
//! For `tcp_segments` the bytes are a script of eight-byte steps: arriving segments, reads, writes,
//! passing time. The checks are those that hold whatever the peer does.

mod adversary;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use wire::tcp::{Flags, Options, Repr, SackBlock, Seq, Timestamps};

use crate::{
    Config, Connection, Instant, State, Takeover, TimestampSeed, TransmitRun, continues_run,
};

pub use adversary::adversary;

const OURS: Seq = Seq(u32::MAX - 3_000);
const THEIRS: Seq = Seq(u32::MAX - 9_000);
const LIMIT: usize = 32_768;
/// What arrives: the byte at each sequence number is a function of the number, so that whatever is
/// delivered can be checked.
const PATTERN: [u8; 256] = {
    let mut bytes = [0; 256];
    let mut index = 0;
    while index < 256 {
        bytes[index] = (index * 7 + 3) as u8;
        index += 1;
    }
    bytes
};

fn byte_at(seq: Seq) -> u8 {
    PATTERN[(seq.since(THEIRS) as u32 & 0xff) as usize]
}

/// Bytes that claim to be an exported connection. One that is taken behaves: it stops sending by
/// itself, watches over what is queued, survives segments, and exports to what imports again. Answers
/// whether it was taken.
pub fn import(bytes: &[u8]) -> bool {
    let config = Arc::new(Config {
        recv_buffer_max: LIMIT,
        send_buffer_max: LIMIT,
        max_ranges: 16,
        user_timeout: Some(Duration::from_secs(20)),
        ..Config::default()
    });
    let start = Instant::from_millis(5_000);
    let Ok(mut connection) = Connection::import(&config, bytes, start) else {
        return false;
    };
    if let Some(again) = connection.export(start) {
        assert!(
            Connection::import(&config, &again, start).is_ok(),
            "what was imported exports to something else"
        );
    }
    let mut now = start;
    let mut last = None;
    for round in 0..24u32 {
        let mut sent = 0;
        while let Some(transmit) = connection.poll_transmit(now) {
            sent += 1;
            assert!(sent < 2 * LIMIT, "no end of sending");
            let mut payload = vec![0; transmit.payload_len];
            connection.copy_payload(&transmit, &mut payload);
            last = Some(transmit.repr);
        }
        if connection.unsent_or_unacked() > 0 {
            assert!(
                connection.poll_timeout().is_some(),
                "a timer watches over what is queued"
            );
        }
        let mut out = [0; 512];
        connection.read(&mut out);
        connection.write(&out);
        if let (Some(repr), true) = (last, round % 3 == 2) {
            // The peer's answer to what was sent last.
            let answer = Repr {
                seq: repr.ack,
                ack: repr.seq,
                flags: Flags::ACK,
                window: 500,
                options: Options {
                    timestamps: repr.options.timestamps.map(|own| Timestamps {
                        tsval: own.tsecr.wrapping_add(round),
                        tsecr: own.tsval,
                    }),
                    ..Options::default()
                },
                ..Repr::default()
            };
            connection.handle_segment(&answer, &out[..100], false, now);
        }
        now = connection.poll_timeout().unwrap_or(now).max(now);
        connection.handle_timeout(now);
    }
    true
}

/// A script against one connection.
pub fn segments(script: &[u8]) {
    let Some((setup, script)) = script.split_first() else {
        return;
    };
    let config = Arc::new(Config {
        recv_buffer_max: LIMIT,
        send_buffer_max: LIMIT,
        max_ranges: 16,
        ..Config::default()
    });
    let start = Instant::from_millis(5_000);
    let takeover = Takeover {
        snd_nxt: OURS,
        rcv_nxt: THEIRS,
        snd_wnd: 20_000,
        snd_shift: setup >> 4 & 7,
        rcv_shift: setup >> 4 & 7,
        rcv_right_edge: THEIRS + 20_000,
        mss: 1460,
        sack: setup & 1 != 0,
        timestamps: (setup & 2 != 0).then_some(TimestampSeed {
            tsval: 9,
            at: start,
            ts_recent: 1_000,
        }),
        ecn: setup & 4 != 0,
        srtt: (setup & 8 != 0).then_some(Duration::from_millis(15)),
    };
    let mut world = World {
        connection: Connection::new(&config, &takeover, start),
        now: start,
        read_seq: THEIRS,
        shift: takeover.rcv_shift,
        edge: takeover.rcv_right_edge,
        mss: 1460,
    };
    for step in script.chunks_exact(8).take(4_096) {
        let mut fixed = [0; 8];
        fixed.copy_from_slice(step);
        world.step(fixed);
        world.drain();
    }
}

struct World {
    connection: Connection,
    now: Instant,
    read_seq: Seq,
    shift: u8,
    edge: Seq,
    mss: usize,
}

impl World {
    fn step(&mut self, [kind, a0, a1, b0, b1, c0, c1, d]: [u8; 8]) {
        let a = u16::from_be_bytes([a0, a1]);
        let b = u16::from_be_bytes([b0, b1]);
        let c = u16::from_be_bytes([c0, c1]);
        match kind & 7 {
            0..=3 => self.arrive(kind, a, b, c, d),
            4 => {
                self.now += Duration::from_micros(u64::from(a) * u64::from(d).pow(2));
                self.connection.handle_timeout(self.now);
            }
            5 => self.read(usize::from(a)),
            6 => {
                self.connection.write(&vec![d; usize::from(a)]);
            }
            _ => match d {
                0 => self.connection.shutdown(),
                1 => self.connection.abort(),
                2 => {
                    self.connection.set_max_segment(a);
                }
                _ => {}
            },
        }
    }

    /// A segment near what is expected, in both directions.
    fn arrive(&mut self, kind: u8, a: u16, b: u16, c: u16, d: u8) {
        let seq = self.read_seq + u32::from(a) - 8_192;
        let payload: Vec<u8> = (0..u32::from(c & 0x7ff))
            .map(|offset| byte_at(seq + offset))
            .collect();
        let mut flags = Flags::ACK;
        // Rare enough that scripts get somewhere.
        match kind >> 3 {
            0x1f => flags = flags.with(Flags::FIN),
            0x1e => flags = flags.with(Flags::SYN),
            0x1d => flags = flags.with(Flags::RST),
            0x1c => flags = Flags::PSH,
            0x1b => flags = flags.with(Flags::CWR),
            _ => {}
        }
        let ack = OURS + u32::from(b);
        let block = |offset: u32, length: u32| {
            Some(SackBlock {
                left: ack + offset,
                right: ack + offset + length,
            })
        };
        let mut options = Options::default();
        if kind & 1 != 0 {
            options.sack = [
                block(u32::from(d) * 32, 1 + u32::from(a & 0xfff)),
                block(u32::from(c), 1_460),
                None,
                None,
            ];
        }
        if kind & 2 != 0 {
            options.timestamps = Some(Timestamps {
                tsval: 1_000 + u32::from(d),
                tsecr: 9 + u32::from(c & 0xff),
            });
        }
        let window = if d & 1 != 0 { c } else { 30_000 };
        let repr = Repr {
            seq,
            ack,
            flags,
            window,
            options,
            ..Repr::default()
        };
        let ce = d & 2 != 0;
        if d & 4 != 0 && payload.len() > 2 && continues_run(&repr, seq, &repr) {
            let parts: Vec<&[u8]> = payload.chunks(payload.len() / 3).collect();
            self.connection.handle_run(&repr, &parts, ce, self.now);
        } else {
            self.connection
                .handle_segment(&repr, &payload, ce, self.now);
        }
    }

    fn read(&mut self, most: usize) {
        let mut out = vec![0; most];
        let count = self.connection.read(&mut out);
        for &byte in &out[..count] {
            assert_eq!(
                byte,
                byte_at(self.read_seq),
                "delivered bytes are those that arrived"
            );
            self.read_seq += 1;
        }
    }

    fn drain(&mut self) {
        let was_closed = self.connection.state() == State::Closed;
        let mut sent = 0;
        let mut waiting = VecDeque::new();
        loop {
            if waiting.is_empty() {
                let run = self.connection.poll_transmit_run(3, self.now);
                waiting.extend(run.iter().flat_map(TransmitRun::segments));
            }
            let Some(transmit) = waiting.pop_front() else {
                break;
            };
            sent += 1;
            assert!(sent < 2_000, "no end of sending");
            assert!(
                transmit.payload_len <= self.mss,
                "a segment larger than the peer takes"
            );
            let repr = transmit.repr;
            if repr.flags.contains(Flags::RST) {
                continue;
            }
            assert!(!was_closed, "only resets leave in CLOSED");
            let edge = repr.ack + (u32::from(repr.window) << self.shift);
            assert!(
                edge + (1 << self.shift) > self.edge,
                "the right edge retreats"
            );
            self.edge = self.edge.max(edge);
            let mut payload = vec![0; transmit.payload_len];
            self.connection.copy_payload(&transmit, &mut payload);
        }
        assert!(
            self.connection.readable() <= LIMIT + LIMIT / 8,
            "memory within the limit"
        );
        assert!(
            self.connection.unsent_or_unacked() <= LIMIT,
            "memory within the limit"
        );
        if self.connection.unsent_or_unacked() > 0 {
            assert!(
                self.connection.poll_timeout().is_some(),
                "a timer watches over what is queued"
            );
        }
        let due = self
            .connection
            .poll_timeout()
            .is_some_and(|at| at < self.now);
        if due {
            self.connection.handle_timeout(self.now);
        }
    }
}
