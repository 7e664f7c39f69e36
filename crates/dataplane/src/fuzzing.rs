//! What the fuzz target `tracker` runs, and what the replay of its committed corpus runs in the
//! ordinary tests.
//!
//! The bytes are a script of six-byte steps: segments of two hosts, some of them in order, verdicts,
//! relaying, time. The byte at each sequence number is a function of the number, in both directions;
//! whoever sends data, the hosts or the legs in their names, it must be that.
#![expect(
    clippy::indexing_slicing,
    reason = "sides are 0 or 1, and a check of the fuzzer may end it"
)]

use core::time::Duration;
use std::net::{Ipv4Addr, SocketAddrV4};

use tcp::Instant;
use wire::geneve;
use wire::gwlb::{AttachmentId, FlowCookie, VpcEndpointId};
use wire::ip::{self, Family, Protocol};
use wire::tcp::{Flags, Options, Repr, Segment, Seq, Timestamps, fill_checksum};

use crate::{
    Config, Dataplane, Disposition, Event, FirstBytes, FlowId, Leg, Outer, ReadOutcome, Unseen,
    Verdict, WriteOutcome,
};

const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 1, 0, 2)];
const PORTS: [u16; 2] = [40_000, 443];
const HELD: usize = 8_192;
const FLOWS: usize = 8;

/// The byte of a stream at a sequence number.
fn byte_at(seq: Seq) -> u8 {
    let mixed = seq.0.wrapping_mul(0x9e37_79b1);
    (mixed >> 24) as u8
}

/// A script against the tracker of one flow and its generations.
pub fn tracker(script: &[u8]) {
    let Some((setup, script)) = script.split_first() else {
        return;
    };
    let config = Config {
        max_flows: FLOWS,
        hold_total_bytes: HELD,
        park_total_bytes: HELD,
        ..Config::default()
    };
    let mut world = World {
        dataplane: Dataplane::new(config, 3),
        now: Instant::from_millis(1_000_000),
        setup: *setup,
        next: [Seq(1_000), Seq(u32::MAX - 3_000)],
        waiting: None,
        undecided: None,
        legs: None,
        pending: [Vec::new(), Vec::new()],
    };
    for step in script.chunks_exact(6).take(2_048) {
        let mut fixed = [0; 6];
        fixed.copy_from_slice(step);
        world.step(fixed);
    }
}

struct World {
    dataplane: Dataplane,
    now: Instant,
    setup: u8,
    /// The next number of each host.
    next: [Seq; 2],
    /// A flow without a verdict, and one whose first bytes are not judged.
    waiting: Option<FlowId>,
    undecided: Option<FlowId>,
    legs: Option<FlowId>,
    /// Bytes read from a leg that the other one has no room for.
    pending: [Vec<u8>; 2],
}

impl World {
    fn step(&mut self, [kind, a, b, c, d, e]: [u8; 6]) {
        match kind & 15 {
            // What a host would send next.
            0..=6 => self.segment(usize::from(kind >> 7), a, 0, i32::from(b) * 8, c, d),
            // Something that it would not.
            7..=9 => {
                let away = i32::from(i16::from_be_bytes([b, e]));
                self.segment(usize::from(kind >> 7), a, away, i32::from(c) * 4, c, d);
            }
            10 => {
                self.now += Duration::from_micros(u64::from(a) * u64::from(b) * 40);
                self.dataplane.handle_timeout(self.now);
            }
            11 => {
                if let Some(flow) = self.waiting.take() {
                    self.verdict(flow, a);
                }
            }
            12 => {
                if let Some(flow) = self.undecided.take() {
                    self.first_bytes(flow, a);
                }
            }
            13 => self.relay(),
            14 if a < 8 => {
                if let Some(flow) = self.legs {
                    self.dataplane.abort(flow, self.now);
                }
            }
            15 if a < 8 => self.dataplane.reset_all(self.now),
            _ => {}
        }
        self.drain();
        assert!(
            self.dataplane.held_bytes() <= HELD,
            "what is held has a limit"
        );
        assert!(
            self.dataplane.parked_bytes() <= HELD,
            "what is parked has a limit"
        );
        assert!(
            self.dataplane.flows_active() <= FLOWS,
            "the table has a limit"
        );
    }

    fn verdict(&mut self, flow: FlowId, choice: u8) {
        let verdict = match choice & 7 {
            0 => Verdict::Pass,
            1 => Verdict::Drop,
            2 => Verdict::Reset,
            _ => Verdict::Inspect,
        };
        match choice >> 3 & 7 {
            1 => self.dataplane.guard(flow, Unseen::Pass),
            2 => self.dataplane.guard(flow, Unseen::Drop),
            3 => self.dataplane.guard(flow, Unseen::Reset),
            _ => {}
        }
        self.dataplane.set_verdict(flow, verdict, self.now);
    }

    fn first_bytes(&mut self, flow: FlowId, choice: u8) {
        let answer = match choice & 3 {
            0 => FirstBytes::Bypass,
            1 => FirstBytes::NeedMore,
            2 if choice & 4 != 0 => FirstBytes::Reset,
            _ => FirstBytes::Intercept,
        };
        self.dataplane.set_first_bytes(flow, answer, self.now);
    }

    /// A segment of the host at `side`, `away` from where it stands.
    fn segment(&mut self, side: usize, flags: u8, away: i32, length: i32, options: u8, how: u8) {
        let mut letters = match flags & 15 {
            0 => Flags::SYN,
            1 => Flags::SYN.with(Flags::ACK),
            2 => Flags::RST.with(Flags::ACK),
            3 => Flags::FIN.with(Flags::ACK),
            4 => Flags::ACK.with(Flags::ECE),
            _ => Flags::ACK,
        };
        if flags & 16 != 0 {
            letters = letters.with(Flags::PSH);
        }
        let is_syn = letters.contains(Flags::SYN);
        let seq = self.next[side] + away as u32;
        let length = if is_syn || letters.contains(Flags::RST) {
            0
        } else {
            length.max(0) as u32
        };
        let with_timestamps = self.setup & 1 != 0 && options & 3 != 3;
        let stamp = (self.now.0 / 1_000) as u32;
        let repr = Repr {
            src_port: PORTS[side],
            dst_port: PORTS[1 - side],
            seq,
            ack: self.next[1 - side],
            flags: letters,
            window: u16::from(how) << 8 | 0xff,
            options: Options {
                mss: is_syn.then_some(1_460),
                window_scale: (is_syn && self.setup & 2 != 0).then_some(7),
                sack_permitted: is_syn && self.setup & 4 != 0,
                timestamps: with_timestamps.then_some(Timestamps {
                    tsval: stamp,
                    tsecr: stamp.saturating_sub(1),
                }),
                ..Options::default()
            },
            ..Repr::default()
        };
        if away == 0 {
            let takes = length + u32::from(is_syn || letters.contains(Flags::FIN));
            self.next[side] = seq + takes;
        }
        let payload: Vec<u8> = (0..length).map(|offset| byte_at(seq + offset)).collect();
        let mut datagrams = datagram(&repr, &payload, side, how & 1 != 0 && away != 0);
        let stride = datagrams.len();
        if how & 2 != 0 && away == 0 && length > 0 && !letters.contains(Flags::FIN) {
            // What follows comes with it.
            let seq = seq + length;
            let payload: Vec<u8> = (0..length).map(|offset| byte_at(seq + offset)).collect();
            let is_corrupt = how & 1 != 0;
            datagrams.extend(datagram(&Repr { seq, ..repr }, &payload, side, is_corrupt));
            self.next[side] = seq + if is_corrupt { 0 } else { length };
        }
        let original = datagrams.clone();
        let outer = Outer {
            gwlb: SocketAddrV4::new(Ipv4Addr::new(10, 9, 0, 1), 50_000),
            local: Ipv4Addr::new(10, 9, 1, 1),
        };
        let mut at = 0;
        while at < datagrams.len() {
            let (count, disposition) =
                self.dataplane
                    .handle_run(&mut datagrams[at..], stride, outer, self.now);
            if let Disposition::Hairpin { len } = disposition {
                let sent = at..at + len;
                assert!(
                    is_syn || datagrams[sent.clone()] == original[at..at + stride],
                    "what passes is unchanged"
                );
                check(&datagrams[sent]);
            }
            at += count * stride;
        }
    }

    fn drain(&mut self) {
        let mut bytes = Vec::new();
        for round in 0.. {
            assert!(round < 10_000, "no end of events");
            let mut idle = true;
            while let Some(event) = self.dataplane.poll_event() {
                idle = false;
                match event {
                    Event::FlowOpened { flow, .. } if self.setup & 8 != 0 => {
                        self.waiting = Some(flow);
                    }
                    Event::FlowOpened { flow, .. } => self.verdict(flow, 3),
                    Event::FirstBytes { flow } | Event::ServerSpoke { flow }
                        if self.setup & 16 != 0 =>
                    {
                        self.undecided = Some(flow);
                    }
                    Event::FirstBytes { flow } | Event::ServerSpoke { flow } => {
                        self.first_bytes(flow, 3);
                    }
                    Event::LegsReady { flow } => {
                        self.legs = Some(flow);
                        self.pending = [Vec::new(), Vec::new()];
                    }
                    Event::FlowEnded { flow, .. } if self.legs == Some(flow) => self.legs = None,
                    Event::Readable { .. } | Event::Writable { .. } if self.setup & 32 == 0 => {
                        self.relay();
                    }
                    _ => {}
                }
            }
            while let Some(run) = self.dataplane.poll_transmit_run(5, self.now, &mut bytes) {
                idle = false;
                bytes.chunks(run.len).for_each(check);
                bytes.clear();
            }
            if idle {
                return;
            }
        }
    }

    /// Carries bytes from each leg to the other.
    fn relay(&mut self) {
        let Some(flow) = self.legs else { return };
        let mut buffer = [0; 2_048];
        for (side, from) in [Leg::Client, Leg::Server].into_iter().enumerate() {
            loop {
                let pending = &mut self.pending[side];
                if pending.is_empty() {
                    match self.dataplane.read(flow, from, &mut buffer, self.now) {
                        ReadOutcome::Bytes(count) => pending.extend_from_slice(&buffer[..count]),
                        ReadOutcome::Finished => {
                            self.dataplane.shutdown(flow, from.other(), self.now);
                            break;
                        }
                        _ => break,
                    }
                }
                match self.dataplane.write(flow, from.other(), pending, self.now) {
                    WriteOutcome::Bytes(count) => drop(pending.drain(..count)),
                    _ => break,
                }
            }
        }
    }
}

/// Whatever leaves is well formed, and its data is what its numbers say.
fn check(datagram: &[u8]) {
    let geneve = geneve::Packet::parse(datagram);
    let Ok(packet) = geneve.as_ref().map_or(Err(()), |one| {
        ip::Packet::parse(one.inner()).map_err(|_| ())
    }) else {
        unreachable!("an inner packet leaves");
    };
    let Ok(segment) = Segment::parse(packet.payload()) else {
        unreachable!("a segment leaves");
    };
    let repr = segment.repr();
    let first = repr.seq + u32::from(repr.flags.contains(Flags::SYN));
    for (offset, &found) in segment.payload().iter().enumerate() {
        assert_eq!(
            found,
            byte_at(first + offset as u32),
            "data belongs to its numbers"
        );
    }
}

fn datagram(repr: &Repr, payload: &[u8], side: usize, is_corrupt: bool) -> Vec<u8> {
    let (src, dst) = (HOSTS[side].into(), HOSTS[1 - side].into());
    let mut segment = vec![0; repr.header_len()];
    repr.emit(&mut segment);
    segment.extend_from_slice(payload);
    fill_checksum(&mut segment, src, dst);
    if is_corrupt {
        // Of the checksum itself, so that the data stays what it is.
        segment[16] ^= 0x40;
    }
    let network = ip::Repr {
        src,
        dst,
        protocol: Protocol::TCP,
        hop_limit: 60,
        traffic_class: 0,
        dont_fragment: true,
        ident: 1,
        payload_len: segment.len(),
    };
    let header = geneve::Repr {
        endpoint: VpcEndpointId(5),
        attachment: AttachmentId(0),
        cookie: FlowCookie(9),
        family: Family::V4,
        ..geneve::Repr::default()
    };
    let start = header.header_len();
    let mut bytes = vec![0; start + network.header_len()];
    header.emit(&mut bytes);
    network.emit(&mut bytes[start..]);
    bytes.extend_from_slice(&segment);
    bytes
}
