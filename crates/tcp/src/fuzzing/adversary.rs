//! Two connections with somebody between them who holds, repeats, drops and forges segments.

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use wire::tcp::{Flags, Repr, Seq};

use crate::{Config, Connection, Events, Instant, State, Takeover, TimestampSeed};

const ISN: [Seq; 2] = [Seq(u32::MAX - 2_000), Seq(77)];
const LIMIT: usize = 32_768;
/// Old segments that may be repeated.
const REMEMBERED: usize = 32;
/// What each end writes at most.
const MOST: u64 = 60_000;

/// A script of four-byte steps: who acts, what happens to a segment on its way, how much time
/// passes.
///
/// Whatever the one in the middle does without forging, each end reads a beginning of what the
/// other wrote, and everything once the middle is left alone. Forged segments lie outside of what
/// the receiver can take for the other end's data, so the same holds, unless a connection is reset.
pub fn adversary(script: &[u8]) {
    let Some((setup, script)) = script.split_first() else {
        return;
    };
    let mut world = World::new(*setup);
    for step in script.chunks_exact(4).take(4_096) {
        let mut fixed = [0; 4];
        fixed.copy_from_slice(step);
        world.step(fixed);
    }
    world.leave_alone();
}

#[derive(Clone, Debug)]
struct Packet {
    repr: Repr,
    payload: Vec<u8>,
}

struct End {
    connection: Connection,
    written: u64,
    read: u64,
    /// On the way to the other end.
    sent: VecDeque<Packet>,
    /// What had been sent before.
    old: VecDeque<Packet>,
    edge: Seq,
    has_failed: bool,
}

struct World {
    ends: [End; 2],
    now: Instant,
    shift: u8,
}

/// The byte at an offset of a stream.
fn byte(side: usize, at: u64) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8 ^ (side as u8) << 7
}

impl World {
    fn new(setup: u8) -> Self {
        let now = Instant::from_millis(9_000);
        let config = Arc::new(Config {
            recv_buffer_max: LIMIT,
            send_buffer_max: LIMIT,
            max_ranges: 8,
            user_timeout: None,
            keepalive: None,
            ..Config::default()
        });
        let shift = setup >> 3 & 7;
        let ends = [0, 1].map(|side| {
            let takeover = Takeover {
                snd_nxt: ISN[side],
                rcv_nxt: ISN[1 - side],
                snd_wnd: 20_000,
                snd_shift: shift,
                rcv_shift: shift,
                rcv_right_edge: ISN[1 - side] + 20_000,
                mss: 1460,
                sack: setup & 1 != 0,
                timestamps: (setup & 2 != 0).then_some(TimestampSeed {
                    tsval: 5,
                    at: now,
                    ts_recent: 5,
                }),
                ecn: setup & 4 != 0,
                srtt: None,
            };
            End {
                connection: Connection::new(&config, &takeover, now),
                written: 0,
                read: 0,
                sent: VecDeque::new(),
                old: VecDeque::new(),
                edge: takeover.rcv_right_edge,
                has_failed: false,
            }
        });
        Self { ends, now, shift }
    }

    fn step(&mut self, [kind, a, b, c]: [u8; 4]) {
        let side = usize::from(kind >> 7);
        let picked = usize::from(a) % self.ends[side].sent.len().max(1);
        match kind & 15 {
            0 | 1 => {
                if let Some(packet) = self.ends[side].sent.pop_front() {
                    self.deliver(side, packet, c & 1 != 0);
                }
            }
            // Out of order.
            2 => {
                if let Some(packet) = self.ends[side].sent.remove(picked) {
                    self.deliver(side, packet, false);
                }
            }
            // Once more.
            3 => {
                if let Some(packet) = self.ends[side].sent.get(picked).cloned() {
                    self.deliver(side, packet, false);
                }
            }
            4 => drop(self.ends[side].sent.remove(picked)),
            // Long after.
            5 => {
                let old = &self.ends[side].old;
                if let Some(packet) = old.get(usize::from(a) % old.len().max(1)).cloned() {
                    self.deliver(side, packet, false);
                }
            }
            6 | 7 => self.forge(side, a, b, c),
            8 | 9 => self.write(side, usize::from(a) << (b & 7)),
            10 | 11 => self.read(side, usize::from(a) << (b & 7)),
            12 => self.pass(Duration::from_micros(u64::from(a) * u64::from(b) * 64)),
            13 => self.pass(Duration::from_micros(u64::from(a) * 8)),
            14 if c == 0 => self.ends[side].connection.shutdown(),
            15 if c == 0 => self.ends[side].connection.set_max_segment(u16::from(a) * 8),
            _ => {}
        }
        self.drain();
    }

    /// Something near a segment that is on its way, but outside of what changes the streams.
    fn forge(&mut self, side: usize, a: u8, b: u8, c: u8) {
        let Some(packet) = self.ends[side].sent.front() else {
            return;
        };
        let mut forged = packet.clone();
        forged.payload.clear();
        let repr = &mut forged.repr;
        // A FIN tells something about the stream.
        repr.flags = Flags::ACK;
        match b & 7 {
            0 => repr.flags = Flags::SYN,
            1 => repr.flags = Flags::RST,
            2 => repr.ack += u32::from(a) << 20,
            3 => repr.ack = repr.ack - (u32::from(a) << 12),
            4 => repr.window = u16::from(a),
            5 => repr.options.timestamps = None,
            6 => repr.flags = Flags::ACK.with(Flags::ECE),
            _ => repr.options.sack[0] = repr.options.sack[1],
        }
        if b & 7 != 4 {
            repr.seq = repr.seq + u32::from(c) * 700 + 1;
        }
        self.deliver(side, forged, false);
    }

    fn deliver(&mut self, from: usize, packet: Packet, marked: bool) {
        let end = &mut self.ends[1 - from];
        end.connection
            .handle_segment(&packet.repr, &packet.payload, marked, self.now);
    }

    fn write(&mut self, side: usize, count: usize) {
        let end = &mut self.ends[side];
        let count = count.min((MOST - end.written) as usize);
        let bytes: Vec<u8> = (0..count as u64)
            .map(|offset| byte(side, end.written + offset))
            .collect();
        end.written += end.connection.write(&bytes) as u64;
    }

    fn read(&mut self, side: usize, most: usize) {
        let mut out = vec![0; most];
        let other_wrote = self.ends[1 - side].written;
        let end = &mut self.ends[side];
        let count = end.connection.read(&mut out);
        for &found in &out[..count] {
            assert_eq!(
                found,
                byte(1 - side, end.read),
                "the stream is what was written"
            );
            end.read += 1;
        }
        assert!(end.read <= other_wrote, "no more than was written");
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for end in &mut self.ends {
            if end
                .connection
                .poll_timeout()
                .is_some_and(|at| at <= self.now)
            {
                end.connection.handle_timeout(self.now);
            }
        }
    }

    fn drain(&mut self) {
        for end in &mut self.ends {
            let mut count = 0;
            while let Some(transmit) = end.connection.poll_transmit(self.now) {
                count += 1;
                assert!(count < 2_000, "no end of sending");
                let repr = transmit.repr;
                if !repr.flags.contains(Flags::RST) {
                    let edge = repr.ack + (u32::from(repr.window) << self.shift);
                    assert!(
                        edge + (1 << self.shift) > end.edge,
                        "the right edge retreats"
                    );
                    end.edge = end.edge.max(edge);
                }
                let mut payload = vec![0; transmit.payload_len];
                end.connection.copy_payload(&transmit, &mut payload);
                let packet = Packet { repr, payload };
                end.old.push_back(packet.clone());
                if end.old.len() > REMEMBERED {
                    end.old.pop_front();
                }
                end.sent.push_back(packet);
            }
            let events = end.connection.take_events();
            end.has_failed |= events.contains(Events::RESET);
            assert!(
                end.connection.readable() <= LIMIT + LIMIT / 8,
                "memory within the limit"
            );
            let waits = end.connection.unsent_or_unacked() > 0;
            assert!(
                !waits || end.connection.poll_timeout().is_some(),
                "a timer watches over what is queued"
            );
        }
    }

    /// With nobody in the middle everything that was written arrives.
    fn leave_alone(&mut self) {
        for _ in 0..20_000 {
            for side in 0..2 {
                while let Some(packet) = self.ends[side].sent.pop_front() {
                    self.deliver(side, packet, false);
                }
                self.read(side, LIMIT);
            }
            self.drain();
            let [left, right] = &self.ends;
            if left.has_failed || right.has_failed {
                // A forged segment hit the one number that counts; that is what it is for.
                return;
            }
            if left.read == right.written && right.read == left.written {
                return;
            }
            if left.sent.is_empty() && right.sent.is_empty() {
                let next = [left, right].map(|end| end.connection.poll_timeout());
                let next = next.into_iter().flatten().min();
                let next = next.map_or(Duration::from_secs(1), |at| at.since(self.now));
                self.pass(next.max(Duration::from_micros(1)));
                self.drain();
            }
        }
        let closed = |end: &End| end.connection.state() == State::Closed;
        let over = self.ends.iter().any(closed);
        assert!(over, "what was written arrives");
    }
}
