//! Datagrams that follow each other: one look at the flow, and one at the acknowledgment, for all of
//! them, as a network card's receive offload does.

use core::net::IpAddr;

use wire::ip::Family;
use wire::tcp::{Flags, HEADER_LEN, Repr, Segment, Seq};

use super::Dataplane;
use crate::flow::State;
use crate::seen::{MAX_INNER, Seen};
use crate::{Disposition, Instant, Outer};

/// Most segments that are taken together: as many as UDP_GRO gives (`UDP_MAX_SEGMENTS`).
const MOST: usize = 64;

impl Dataplane {
    /// Takes the first of some datagrams that came from one sender in a row, one behind the other, each
    /// of `stride` bytes but for the last, which may be shorter. Takes those with it that continue the
    /// byte stream of the first, if that is data of a connection with legs. Answers how many it took
    /// and what became of them; where there is more than one, all are absorbed.
    pub fn handle_run(
        &mut self,
        datagrams: &mut [u8],
        stride: usize,
        outer: Outer,
        now: Instant,
    ) -> (usize, Disposition) {
        let first = stride.max(1).min(datagrams.len());
        let (datagram, others) = datagrams.split_at_mut(first);
        let seen = self.see(datagram, outer);
        let mut place = None;
        if let Ok(seen) = &seen
            && let Some(headers) = Headers::of(datagram, seen)
            && headers.precede(others, stride, headers.end)
        {
            place = self.place(seen);
            if let Some((index, from_low)) = place
                && self.takes_runs(index)
                && let Some(run) = Run::gather(&headers, seen, others, stride)
            {
                self.take_run(index, from_low, datagram, seen, &run, outer, now);
                return (run.count, Disposition::Absorbed);
            }
        }
        (1, self.treat(datagram, seen, place, outer, now))
    }

    /// Whether nothing but its legs looks at the data of a flow.
    fn takes_runs(&self, index: u32) -> bool {
        self.table
            .at(index)
            .is_some_and(|flow| matches!(flow.state, State::Intercepted(_)) && !flow.is_measured)
    }

    fn take_run(
        &mut self,
        index: u32,
        from_low: bool,
        datagram: &[u8],
        seen: &Seen,
        run: &Run<'_>,
        outer: Outer,
        now: Instant,
    ) {
        let counters = &mut self.shared.counters;
        counters.received_packets += run.count as u64 - 1;
        counters.received_bytes += (run.bytes - datagram.len()) as u64;
        counters.absorbed_packets += run.count as u64;
        self.change(index, |flow, id, shared| {
            let from = flow.sender(from_low);
            let (cookie, addresses) = flow.note_outer(seen, datagram, outer);
            shared.counters.cookie_changes += u64::from(cookie);
            shared.counters.outer_changes += u64::from(addresses);
            let inner = run.bytes - run.count * seen.inner_at;
            flow.note_packets(from, run.count as u32, inner, now);
            let State::Intercepted(legs) = &mut flow.state else {
                return;
            };
            let payloads = run.payloads.get(..run.count).unwrap_or_default();
            let is_marked = seen.is_congestion_marked();
            legs.handle_run(from, &run.first, payloads, is_marked, now);
            legs.announce(id, &mut shared.events, &shared.config, now);
            shared.mark_dirty(flow, id);
        });
        self.arm(index);
    }
}

/// The headers of a datagram with plain data, to compare others with.
#[derive(Clone, Copy, Debug)]
struct Headers<'a> {
    datagram: &'a [u8],
    is_v6: bool,
    inner_at: usize,
    segment_at: usize,
    payload_at: usize,
    /// The sequence number behind the data.
    end: Seq,
}

impl<'a> Headers<'a> {
    /// `None` where something about the datagram is its own business: flags, fragments, padding,
    /// an odd encapsulation, a packet without data.
    fn of(datagram: &'a [u8], seen: &Seen) -> Option<Self> {
        let tcp = seen.tcp()?;
        let is_plain = seen.is_plain()
            && seen.oddities.is_empty()
            && seen.inner_end == datagram.len()
            && seen.inner_len() <= MAX_INNER
            && tcp.flags.without(Flags::PSH) == Flags::ACK
            && tcp.payload_len > 0;
        is_plain.then_some(Self {
            datagram,
            is_v6: Family::of(seen.src.ip()) == Family::V6,
            inner_at: seen.inner_at,
            segment_at: tcp.segment_at,
            payload_at: datagram.len().saturating_sub(tcp.payload_len as usize),
            end: tcp.payload_end(),
        })
    }

    /// Whether the first of `others` goes on where `end` is, and says nothing else that is new.
    fn precede(&self, others: &[u8], stride: usize, end: Seq) -> bool {
        let next = others.get(..stride.max(1)).unwrap_or(others);
        self.precede_one(next, end).unwrap_or(false)
    }

    fn precede_one(&self, next: &[u8], end: Seq) -> Option<bool> {
        if next.len() <= self.payload_at || next.len() > self.datagram.len() {
            return Some(false);
        }
        let geneve = ..self.inner_at;
        if next.get(geneve)? != self.datagram.get(geneve)? {
            return Some(false);
        }
        let ip = self.inner_at..self.segment_at;
        let (ip, next_ip) = (self.datagram.get(ip.clone())?, next.get(ip)?);
        let inner_len = next.len() - self.inner_at;
        let same_ip = if self.is_v6 {
            let length = (inner_len - ip.len()) as u16;
            // What differs: the length.
            ip.get(..4)? == next_ip.get(..4)?
                && next_ip.get(4..6)? == length.to_be_bytes()
                && ip.get(6..)? == next_ip.get(6..)?
        } else {
            // What differs: length, identification and checksum.
            ip.get(..2)? == next_ip.get(..2)?
                && next_ip.get(2..4)? == (inner_len as u16).to_be_bytes()
                && ip.get(6..10)? == next_ip.get(6..10)?
                && ip.get(12..)? == next_ip.get(12..)?
        };
        if !same_ip {
            return Some(false);
        }
        let tcp = self.segment_at..self.payload_at;
        let (tcp, next_tcp) = (self.datagram.get(tcp.clone())?, next.get(tcp)?);
        let (fixed, options) = tcp.split_first_chunk::<HEADER_LEN>()?;
        let (next_fixed, next_options) = next_tcp.split_first_chunk::<HEADER_LEN>()?;
        let push = Flags::PSH.0 as u8;
        let same = next_fixed[4..8] == end.0.to_be_bytes()
            && fixed[..4] == next_fixed[..4]
            && fixed[8..13] == next_fixed[8..13]
            && fixed[13] | push == next_fixed[13] | push
            && fixed[14..16] == next_fixed[14..16]
            && fixed[18..20] == next_fixed[18..20]
            && options == next_options;
        Some(same)
    }
}

/// Segments that follow each other.
#[derive(Debug)]
struct Run<'a> {
    first: Repr,
    payloads: [&'a [u8]; MOST],
    count: usize,
    /// Of all datagrams.
    bytes: usize,
}

impl<'a> Run<'a> {
    /// The datagram of `headers` and those of `others` that continue it, as far as checksums are right;
    /// `None` if that is but one.
    fn gather(headers: &Headers<'a>, seen: &Seen, others: &'a [u8], stride: usize) -> Option<Self> {
        let ends = (seen.src.ip(), seen.dst.ip());
        let first = sound_segment(headers.datagram, headers.segment_at, ends)?;
        let mut run = Self {
            first: first.repr(),
            payloads: [&[]; MOST],
            count: 1,
            bytes: headers.datagram.len(),
        };
        *run.payloads.first_mut()? = first.payload();
        let mut end = headers.end;
        for datagram in others.chunks(stride.max(1)) {
            let Some(slot) = run.payloads.get_mut(run.count) else {
                break;
            };
            if !headers.precede(datagram, stride, end) {
                break;
            }
            let Some(segment) = sound_segment(datagram, headers.segment_at, ends) else {
                break;
            };
            *slot = segment.payload();
            end += segment.payload().len() as u32;
            run.count += 1;
            run.bytes += datagram.len();
        }
        (run.count > 1).then_some(run)
    }
}

fn sound_segment(datagram: &[u8], at: usize, (src, dst): (IpAddr, IpAddr)) -> Option<Segment<'_>> {
    let segment = Segment::parse(datagram.get(at..)?).ok()?;
    segment.verify_checksum(src, dst).then_some(segment)
}
