//! The engine's public face.

mod run;

use core::time::Duration;
use std::collections::VecDeque;
use std::sync::Arc;

use wire::icmp::{Kind, Message};
use wire::ip::{Family, Fragment};
use wire::tcp::Flags;

use crate::counters::{BypassReason, Counters, DropReason};
use crate::dispatch::{self, Fate};
use crate::emit::TransmitQueue;
use crate::event::FlowEnd;
use crate::flow::{Flow, State};
use crate::fragments::{Fragments, Piece};
use crate::hash::{KeyedHash, Random};
use crate::key::PackedKey;
use crate::lifecycle;
use crate::park::Park;
use crate::seen::{MAX_INNER, Seen, Upper, end};
use crate::shared::{Load, Shared};
use crate::table::FlowTable;
use crate::timer::TimerWheel;
use crate::tracker::Phase;
use crate::{
    Config, Congestion, Disposition, Event, FirstBytes, FlowId, FlowView, Instant, Leg, Outer,
    Protocol, ReadOutcome, Transmit, TransmitRun, Unseen, Verdict, WriteOutcome,
};

/// Segments of one flow in a row before another flow's turn; enough for the shell to join into one
/// send.
const BURST: u32 = 32;

/// One shard's flows: what arrives, what leaves, when, and what the shell must decide.
///
/// **The drain rule**: after every call that takes `now`, call [`Dataplane::poll_event`] and
/// [`Dataplane::poll_transmit`] until they answer `None`, then sleep until
/// [`Dataplane::poll_timeout`].
#[derive(Debug)]
pub struct Dataplane {
    table: FlowTable,
    wheel: TimerWheel,
    shared: Shared,
    fragments: Fragments,
    burst: u32,
}

impl Dataplane {
    /// An empty data plane. `seed` keys the flow table's hash and every random choice: secret in
    /// production, fixed in a test.
    pub fn new(config: Config, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut tcp = config.tcp.clone();
        tcp.memory = Arc::new(tcp::Memory::new(config.tcp_memory_bytes));
        // The load balancer forgets a flow after `tcp_idle` without a packet; ask well before.
        let latest = config.tcp_idle * 2 / 5;
        tcp.keepalive = Some(
            tcp.keepalive
                .map_or(latest, |keepalive| keepalive.min(latest)),
        );
        Self {
            table: FlowTable::new(config.max_flows, KeyedHash::new(&mut random)),
            wheel: TimerWheel::new(),
            fragments: Fragments::default(),
            burst: 0,
            shared: Shared {
                queue: TransmitQueue::new(config.transmit_queue_bytes),
                tcp: Arc::new(tcp),
                config,
                counters: Counters::default(),
                events: VecDeque::new(),
                dirty: VecDeque::new(),
                load: Load::default(),
                in_hand: Load::default(),
                round_trips: Default::default(),
                random,
            },
        }
    }

    /// Takes one UDP payload that came to port 6081. The buffer is edited only where a SYN must be;
    /// a packet that is answered at once is answered from this very buffer.
    pub fn handle_datagram(
        &mut self,
        datagram: &mut [u8],
        outer: Outer,
        now: Instant,
    ) -> Disposition {
        let seen = self.see(datagram, outer);
        self.treat(datagram, seen, None, outer, now)
    }

    fn see(&mut self, datagram: &[u8], outer: Outer) -> Result<Seen, DropReason> {
        self.shared.counters.received_packets += 1;
        self.shared.counters.received_bytes += datagram.len() as u64;
        if self.shared.config.allows(*outer.gwlb.ip()) {
            Seen::parse(datagram)
        } else {
            Err(DropReason::ForeignSource)
        }
    }

    fn treat(
        &mut self,
        datagram: &mut [u8],
        seen: Result<Seen, DropReason>,
        place: Option<(u32, bool)>,
        outer: Outer,
        now: Instant,
    ) -> Disposition {
        let fate = match seen {
            Ok(seen) => self.route(datagram, &seen, place, outer, now),
            Err(reason) => Fate::Dropped(reason),
        };
        let counters = &mut self.shared.counters;
        match fate {
            Fate::Forward(len) => {
                counters.hairpinned_packets += 1;
                counters.hairpinned_bytes += len as u64;
                Disposition::Hairpin { len }
            }
            Fate::Hooked(flow, from, len) => {
                counters.hooked_packets += 1;
                Disposition::Hooked { flow, from, len }
            }
            Fate::Absorbed => {
                counters.absorbed_packets += 1;
                Disposition::Absorbed
            }
            Fate::Dropped(reason) => {
                counters.count_drop(reason);
                Disposition::Dropped(reason)
            }
        }
    }

    /// Runs what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.fragments.expire(now);
        while let Some(index) = self.wheel.expire(now) {
            let keeps = self
                .change(index, |flow, id, shared| {
                    lifecycle::on_timer(flow, id, shared, now)
                })
                .unwrap_or(true);
            if keeps {
                // The legs of a flow that has something to send say when they want to be called once
                // that is sent.
                if self.table.at(index).is_some_and(|flow| !flow.is_dirty) {
                    self.arm(index);
                }
            } else {
                let end = self.table.at(index).map(Flow::end_if_removed);
                self.forget(index, end.unwrap_or(FlowEnd::Idle));
            }
        }
    }

    /// When [`Dataplane::handle_timeout`] is due next. May be early, never late by more than 256 µs.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timers = [self.wheel.next(), self.fragments.deadline()];
        timers.into_iter().flatten().min()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.shared.events.pop_front()
    }

    /// Appends the next datagram to send to `out`.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> Option<Transmit> {
        let run = self.poll_transmit_run(1, now, out)?;
        Some(Transmit {
            outer: run.outer,
            len: run.len,
            flow: run.flow,
            hooked: run.hooked,
        })
    }

    /// Appends the next datagrams to send to `out`: one, or up to `most` of one flow and one size, as
    /// UDP_SEGMENT sends them in one call. The same leaves as by [`Dataplane::poll_transmit`].
    pub fn poll_transmit_run(
        &mut self,
        most: usize,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Option<TransmitRun> {
        let run = match self.shared.queue.pop() {
            Some(queued) => {
                if let Some(flow) = queued.flow.and_then(|id| self.table.get_mut(id)) {
                    flow.queued = flow.queued.saturating_sub(1);
                }
                out.extend_from_slice(&queued.bytes);
                TransmitRun {
                    outer: queued.outer,
                    len: queued.bytes.len(),
                    count: 1,
                    flow: queued.flow,
                    hooked: queued.hooked,
                }
            }
            None => self.next_run(most, now, out)?,
        };
        self.shared.counters.transmitted_packets += run.count as u64;
        self.shared.counters.transmitted_bytes += (run.len * run.count) as u64;
        Some(run)
    }

    /// Answers [`Event::FlowOpened`]. Late and repeated answers have no effect.
    pub fn set_verdict(&mut self, flow: FlowId, verdict: Verdict, now: Instant) {
        self.change_id(flow, |flow, id, shared| {
            lifecycle::decide(flow, id, shared, verdict, now);
        });
    }

    /// Answers [`Event::FirstBytes`]. After holding had to end (RELAY), `Intercept`, `Bypass` and
    /// `NeedMore` have no effect: the connection has legs and stays so; `Drop` and `Reset` reset it.
    pub fn set_first_bytes(&mut self, flow: FlowId, answer: FirstBytes, now: Instant) {
        self.change_id(flow, |flow, id, shared| {
            lifecycle::classify(flow, id, shared, answer, now);
        });
    }

    /// The client's held bytes, contiguous from the first; `None` if the flow does not hold.
    pub fn held(&self, flow: FlowId) -> Option<&[u8]> {
        match &self.table.get(flow)?.state {
            State::Tracking(track) => match &track.phase {
                Phase::Hold(hold) => Some(hold.stream()),
                _ => None,
            },
            _ => None,
        }
    }

    /// The inner packets parked for a flow that waits for its verdict, oldest first; none for other
    /// flows.
    pub fn parked(&self, flow: FlowId) -> impl Iterator<Item = &[u8]> {
        let park = self.table.get(flow).and_then(|flow| match &flow.state {
            State::Pending(park) => Some(park),
            _ => None,
        });
        let packets = park.into_iter().flat_map(|park| &park.packets);
        packets.filter_map(|(datagram, _)| Some(Seen::parse(datagram).ok()?.inner(datagram)))
    }

    /// [`Event::Parked`] is to tell of the next packet that is parked for the flow, or that none came
    /// until then.
    pub fn await_more(&mut self, flow: FlowId, until: Instant) {
        self.change_id(flow, |flow, _, _| {
            if let State::Pending(park) = &mut flow.state {
                park.awaited = Some(until);
            }
        });
    }

    /// From here on the flow's raw packets are given to the shell as [`Disposition::Hooked`] and
    /// with [`Transmit::hooked`]. Later fragments, which name no flow, are not among them.
    pub fn hook(&mut self, flow: FlowId) {
        self.change_id(flow, |flow, _, _| flow.is_hooked = true);
    }

    /// Before [`set_verdict`](Self::set_verdict) with an inspection: it matters that the client's first
    /// bytes are seen before anything passes. `unseen` holds where they cannot be had (fragments,
    /// options that forbid a take-over, a full hold or table of legs, ...), and a server that speaks
    /// before its client is held and told of by [`Event::ServerSpoke`].
    pub fn guard(&mut self, flow: FlowId, unseen: Unseen) {
        self.change_id(flow, |flow, _, _| flow.guard = Some(unseen));
    }

    /// A look at a flow.
    pub fn flow(&self, flow: FlowId) -> Option<FlowView> {
        Some(self.table.get(flow)?.view(flow))
    }

    /// Moves bytes that a leg received to `out`.
    pub fn read(&mut self, flow: FlowId, leg: Leg, out: &mut [u8], now: Instant) -> ReadOutcome {
        let _ = now;
        self.change_id(flow, |flow, id, shared| match &mut flow.state {
            State::Intercepted(legs) => {
                let outcome = legs.read(leg, out);
                if let ReadOutcome::Bytes(_) = outcome {
                    // Room in the window may be worth telling.
                    shared.mark_dirty(flow, id);
                }
                outcome
            }
            _ => ReadOutcome::Reset,
        })
        .unwrap_or(ReadOutcome::Reset)
    }

    /// Queues bytes to a leg's peer.
    pub fn write(&mut self, flow: FlowId, leg: Leg, bytes: &[u8], now: Instant) -> WriteOutcome {
        let _ = now;
        self.change_id(flow, |flow, id, shared| match &mut flow.state {
            State::Intercepted(legs) => {
                let outcome = legs.write(leg, bytes);
                if let WriteOutcome::Bytes(_) = outcome {
                    shared.mark_dirty(flow, id);
                }
                outcome
            }
            _ => WriteOutcome::Reset,
        })
        .unwrap_or(WriteOutcome::Reset)
    }

    /// Sends FIN to a leg's peer, after what was written.
    pub fn shutdown(&mut self, flow: FlowId, leg: Leg, now: Instant) {
        let _ = now;
        self.change_id(flow, |flow, id, shared| {
            if let State::Intercepted(legs) = &mut flow.state {
                legs.shutdown(leg);
                shared.mark_dirty(flow, id);
            }
        });
    }

    /// Resets both ends of an intercepted or held flow; no effect on others.
    pub fn abort(&mut self, flow: FlowId, now: Instant) {
        self.change_id(flow, |flow, id, shared| match &flow.state {
            State::Tracking(_) => lifecycle::classify(flow, id, shared, FirstBytes::Reset, now),
            _ => lifecycle::abort(flow, id, shared),
        });
    }

    /// Chooses the congestion control of both legs of an intercepted flow; no effect on others. Best
    /// before anything is written: each leg begins again with the initial window.
    pub fn set_congestion(&mut self, flow: FlowId, congestion: Congestion, now: Instant) {
        self.change_id(flow, |flow, _, shared| {
            if let State::Intercepted(legs) = &mut flow.state {
                legs.set_congestion(congestion, now);
                shared.counters.congestion_bbr += u64::from(congestion == Congestion::Bbr);
            }
        });
    }

    /// Smoothed round-trip time to a leg's peer.
    pub fn leg_srtt(&self, flow: FlowId, leg: Leg) -> Option<Duration> {
        match &self.table.get(flow)?.state {
            State::Intercepted(legs) => legs.srtt(leg),
            _ => None,
        }
    }

    /// What a leg's TCP connection has done.
    pub fn leg_stats(&self, flow: FlowId, leg: Leg) -> Option<tcp::Stats> {
        match &self.table.get(flow)?.state {
            State::Intercepted(legs) => Some(legs.stats(leg)),
            _ => None,
        }
    }

    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The configuration in force.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// Flows remembered, those that linger after their end included.
    pub fn flows_active(&self) -> usize {
        self.table.len()
    }

    /// Flows with two legs.
    pub fn intercepted_flows(&self) -> usize {
        self.shared.load.intercepted
    }

    /// Bytes of packets parked for flows that wait for a verdict.
    pub fn parked_bytes(&self) -> usize {
        self.shared.load.parked_bytes
    }

    /// Bytes of packets held while their protocol is being recognised.
    pub fn held_bytes(&self) -> usize {
        self.shared.load.held_bytes
    }

    /// Bytes of fragments of taken-over connections that wait for the rest of their packet.
    pub fn fragment_bytes(&self) -> usize {
        self.fragments.bytes()
    }

    /// Resets both legs of every intercepted flow and ends all waiting. What nobody has judged yet is
    /// dropped: its sender asks again, and gets an answer from whoever comes next. Walks the whole table:
    /// for the end of a drain.
    pub fn reset_all(&mut self, now: Instant) {
        let indices: Vec<u32> = self.table.indices().collect();
        for index in indices {
            self.change(index, |flow, id, shared| match &flow.state {
                State::Pending(_) => lifecycle::decide(flow, id, shared, Verdict::Drop, now),
                State::Tracking(_) => {
                    lifecycle::give_up(flow, id, shared, BypassReason::Draining, now);
                }
                _ => lifecycle::abort(flow, id, shared),
            });
            self.arm(index);
        }
    }

    /// The flow of a packet, and whether it goes from low to high.
    fn place(&self, seen: &Seen) -> Option<(u32, bool)> {
        let (key, from_low) =
            PackedKey::new(seen.endpoint, seen.protocol, end(seen.src), end(seen.dst));
        Some((self.table.find(&key)?, from_low))
    }

    /// `place` is what [`Self::place`] says, where that is known.
    fn route(
        &mut self,
        datagram: &mut [u8],
        seen: &Seen,
        place: Option<(u32, bool)>,
        outer: Outer,
        now: Instant,
    ) -> Fate {
        let counters = &mut self.shared.counters;
        if !seen.oddities.is_empty() {
            counters.unusual_outer += 1;
            let layout = seen.oddities.contains(wire::geneve::Oddities::LAYOUT);
            counters.slow_path_outer += u64::from(layout);
        }
        if seen.inner_len() > MAX_INNER {
            counters.oversize_received += 1;
        }
        if seen.fragment == Fragment::Later {
            return self.later_fragment(datagram, seen, outer, now);
        }
        match seen.upper {
            Upper::BadTcp => return Fate::Dropped(DropReason::TcpMalformed),
            Upper::Icmp => self.notice_icmp(datagram, seen),
            Upper::Tcp(_) | Upper::Other => {}
        }
        if let Some((index, from_low)) = place.or_else(|| self.place(seen)) {
            if seen.fragment == Fragment::First && self.is_intercepted(index) {
                return self.collect(datagram, seen, outer, now);
            }
            match self.known(index, from_low, datagram, seen, outer, now) {
                Some(fate) => return fate,
                None => self.forget(index, FlowEnd::Replaced),
            }
        }
        let (key, from_low) =
            PackedKey::new(seen.endpoint, seen.protocol, end(seen.src), end(seen.dst));
        self.unknown(key, from_low, datagram, seen, outer, now)
    }

    /// A fragment without ports. Its first one decides: nobody can use this one without it, so it may
    /// pass; a copy waits in case the first one turns out to belong to a taken-over connection.
    fn later_fragment(&mut self, datagram: &[u8], seen: &Seen, outer: Outer, now: Instant) -> Fate {
        let may_matter = self.shared.load.intercepted > 0 && seen.protocol == Protocol::TCP;
        let is_ours = may_matter && self.fragments.has_first(seen, datagram);
        if may_matter {
            let fate = self.collect(datagram, seen, outer, now);
            if is_ours {
                return fate;
            }
        }
        self.shared.counters.fragments_passed += 1;
        Fate::Forward(datagram.len())
    }

    /// Keeps a fragment, and treats the whole packet once it is complete.
    fn collect(&mut self, datagram: &[u8], seen: &Seen, outer: Outer, now: Instant) -> Fate {
        let Some(name) = Fragments::name(seen, datagram) else {
            return Fate::Dropped(DropReason::Fragment);
        };
        match self.fragments.add(name, seen, datagram, now) {
            Piece::Kept => Fate::Absorbed,
            Piece::Refused => Fate::Dropped(DropReason::Fragment),
            Piece::Whole(mut whole) => {
                let Ok(seen) = Seen::parse(&whole) else {
                    return Fate::Dropped(DropReason::Fragment);
                };
                self.shared.counters.fragments_reassembled += 1;
                match self.route(&mut whole, &seen, None, outer, now) {
                    // The connection is not taken over any more; the caller's buffer holds one piece.
                    Fate::Forward(_) | Fate::Hooked(..) => Fate::Dropped(DropReason::Fragment),
                    fate => fate,
                }
            }
        }
    }

    fn is_intercepted(&self, index: u32) -> bool {
        self.table
            .at(index)
            .is_some_and(|flow| matches!(flow.state, State::Intercepted(_)))
    }

    /// A packet of a flow in the table; `None` if it makes that flow a thing of the past.
    fn known(
        &mut self,
        index: u32,
        from_low: bool,
        datagram: &mut [u8],
        seen: &Seen,
        outer: Outer,
        now: Instant,
    ) -> Option<Fate> {
        let fate = self.change(index, |flow, id, shared| {
            let from = flow.sender(from_low);
            let is_replaced = dispatch::replaces(flow, seen, datagram, from);
            let (cookie, addresses) = flow.note_outer(seen, datagram, outer);
            shared.counters.cookie_changes += u64::from(cookie);
            shared.counters.outer_changes += u64::from(addresses);
            if is_replaced {
                lifecycle::make_way(flow, id, shared, now);
                return None;
            }
            flow.note_packet(from, seen, now);
            if flow.is_measured
                && let Some(round_trips) = shared.round_trips.note(id.index, from, seen.tcp(), now)
            {
                flow.is_measured = false;
                shared.events.push_back(Event::Handshake {
                    flow: id,
                    round_trips,
                });
            }
            let fate = dispatch::packet(flow, id, shared, datagram, seen, from, outer, now);
            if seen.fragment == Fragment::First && fate == Fate::Forward(datagram.len()) {
                shared.counters.fragments_passed += 1;
            }
            Some(match (fate, flow.queued) {
                // Never overtake what waits in the queue.
                (Fate::Forward(len), 1..) => {
                    let bytes = datagram.get(..len).unwrap_or_default().to_vec();
                    let queued = dispatch::with_newest_header(flow, id, from, bytes, seen.inner_at);
                    shared.send(flow, queued);
                    Fate::Absorbed
                }
                (Fate::Forward(len), 0) if flow.is_hooked => Fate::Hooked(id, from, len),
                _ => fate,
            })
        })?;
        if fate.is_some() {
            self.arm(index);
        }
        fate
    }

    /// A packet of a flow that is not in the table.
    fn unknown(
        &mut self,
        key: PackedKey,
        from_low: bool,
        datagram: &mut [u8],
        seen: &Seen,
        outer: Outer,
        now: Instant,
    ) -> Fate {
        let all = Fate::Forward(datagram.len());
        let shared = &mut self.shared;
        let mut isn = None;
        let mut mid_flow = false;
        if let Some(tcp) = seen.tcp() {
            if !seen.is_sound(datagram) {
                shared.counters.bad_checksum += 1;
                return all;
            }
            if tcp.is_request() {
                isn = Some(tcp.seq);
            } else if tcp.has(Flags::SYN) || tcp.has(Flags::FIN) || tcp.has(Flags::RST) {
                // The answer to, or the end of, something that was never ours.
                shared.counters.stateless_packets += 1;
                return all;
            } else {
                mid_flow = true;
            }
        }
        if shared.load.parked_bytes + datagram.len() > shared.config.park_total_bytes {
            return Fate::Dropped(DropReason::ParkTotalFull);
        }
        if self.table.is_full() && !self.evict() {
            self.shared.counters.flows_untracked += 1;
            return match self.shared.config.on_table_full {
                Verdict::Drop | Verdict::Reset => Fate::Dropped(DropReason::TableFull),
                Verdict::Pass | Verdict::Inspect | Verdict::InspectEither => {
                    self.shared.counters.count_bypass(BypassReason::TableFull);
                    all
                }
            };
        }
        let counters = &mut self.shared.counters;
        match seen.protocol {
            Protocol::TCP => counters.flows_opened_tcp += 1,
            Protocol::UDP => counters.flows_opened_udp += 1,
            _ => counters.flows_opened_other += 1,
        }
        counters.flows_opened_mid += u64::from(mid_flow);
        counters.parked_packets += 1;
        let mut park = Park::new(now + self.shared.config.verdict_deadline);
        park.isn = isn;
        park.push(datagram, outer);
        let mut flow = Flow::new(
            key,
            from_low,
            seen,
            datagram,
            outer,
            State::Pending(Box::new(park)),
            self.table.next_generation(),
            now,
        );
        flow.is_mid_flow = mid_flow;
        flow.note_packet(Leg::Client, seen, now);
        flow.is_measured = self.shared.config.measure_handshakes && isn.is_some();
        let is_measured = flow.is_measured;
        self.shared.load.change(Load::default(), Load::of(&flow));
        let generation = flow.generation;
        let index = self.table.insert(flow);
        if is_measured {
            self.shared.round_trips.ask(index, now);
        }
        self.shared.events.push_back(Event::FlowOpened {
            flow: FlowId { index, generation },
            mid_flow,
        });
        self.arm(index);
        Fate::Absorbed
    }

    /// An ICMP error passes raw whatever it says; if it says that a segment of a leg was too big, the
    /// leg sends smaller ones.
    fn notice_icmp(&mut self, datagram: &[u8], seen: &Seen) {
        if seen.fragment != Fragment::Whole {
            return;
        }
        let family = Family::of(seen.src.ip());
        let Ok(inner) = wire::ip::Packet::parse(seen.inner(datagram)) else {
            return;
        };
        let Ok(message) = Message::parse(inner.payload(), family) else {
            return;
        };
        let Kind::PacketTooBig { mtu } = message.kind() else {
            return;
        };
        if !message.verify_checksum(inner.src(), inner.dst()) {
            return;
        }
        let Some(quoted) = message.quoted() else {
            return;
        };
        let (Some((src_port, dst_port)), Some(seq)) = (quoted.ports, quoted.seq) else {
            return;
        };
        let (src, dst) = ((quoted.src, src_port), (quoted.dst, dst_port));
        let (key, from_low) = PackedKey::new(seen.endpoint, quoted.protocol, src, dst);
        // RFC 9293 §3.7.1; below 536 and 1220 nothing on a path needs to go (RFC 8201 §4: 1280).
        let (overhead, least) = match family {
            Family::V4 => (40, 536),
            Family::V6 => (60, 1220),
        };
        let mss = u16::try_from(mtu.saturating_sub(overhead))
            .unwrap_or(u16::MAX)
            .max(least);
        let Some(index) = self.table.find(&key) else {
            return;
        };
        let lowered = self.change(index, |flow, id, shared| {
            // The quoted packet's sender is the one whose place the leg takes.
            let leg = flow.sender(from_low).other();
            let State::Intercepted(legs) = &mut flow.state else {
                return false;
            };
            let lowered = legs.lower_segment_size(leg, seq, mss);
            shared.mark_dirty(flow, id);
            lowered
        });
        self.shared.counters.path_mtu_lowered += u64::from(lowered == Some(true));
    }

    /// The next segments of any leg, flows taking turns.
    fn next_run(&mut self, most: usize, now: Instant, out: &mut Vec<u8>) -> Option<TransmitRun> {
        while let Some(id) = self.shared.dirty.front().copied() {
            let most = most.min((BURST - self.burst) as usize);
            let sent = self.table.get_mut(id).and_then(|flow| {
                let sent = lifecycle::next_run(flow, Leg::Client, most, out, now)
                    .or_else(|| lifecycle::next_run(flow, Leg::Server, most, out, now))?;
                Some((flow.outer, sent))
            });
            if let Some((outer, (len, count))) = sent {
                self.shared.counters.segments_sent += count as u64;
                self.burst += count as u32;
                if self.burst >= BURST {
                    self.burst = 0;
                    self.shared.dirty.rotate_left(1);
                }
                return Some(TransmitRun {
                    outer,
                    len,
                    count,
                    flow: Some(id),
                    hooked: None,
                });
            }
            self.burst = 0;
            self.shared.dirty.pop_front();
            self.change_id(id, |flow, id, shared| {
                flow.is_dirty = false;
                if let State::Intercepted(legs) = &mut flow.state {
                    legs.announce(id, &mut shared.events, &shared.config, now);
                    if legs.is_over(&shared.config, now) {
                        lifecycle::bury(flow, id, shared, now);
                    }
                }
            });
        }
        None
    }

    /// Runs `action` on a flow and keeps the totals right. The deadline is the caller's to set.
    fn change<T>(
        &mut self,
        index: u32,
        action: impl FnOnce(&mut Flow, FlowId, &mut Shared) -> T,
    ) -> Option<T> {
        let flow = self.table.at_mut(index)?;
        let id = FlowId {
            index,
            generation: flow.generation,
        };
        let before = Load::of(flow);
        self.shared.in_hand = before;
        let result = action(flow, id, &mut self.shared);
        lifecycle::settle(flow, before, &mut self.shared);
        Some(result)
    }

    /// The same by id, and sets the deadline.
    fn change_id<T>(
        &mut self,
        id: FlowId,
        action: impl FnOnce(&mut Flow, FlowId, &mut Shared) -> T,
    ) -> Option<T> {
        self.table.get(id)?;
        let result = self.change(id.index, action);
        self.arm(id.index);
        result
    }

    /// Sets a flow's deadline.
    fn arm(&mut self, index: u32) {
        if let Some(flow) = self.table.at(index) {
            let at = flow.deadline(&self.shared.config, self.shared.load.half_open);
            self.wheel.schedule(index, at);
        }
    }

    /// Removes a flow.
    fn forget(&mut self, index: u32, end: FlowEnd) {
        self.wheel.cancel(index);
        let Some(mut flow) = self.table.remove(index) else {
            return;
        };
        let id = FlowId {
            index,
            generation: flow.generation,
        };
        self.shared.load.change(Load::of(&flow), Load::default());
        lifecycle::report(&mut flow, id, &mut self.shared, end);
    }

    /// Makes room for one flow; `false` if none may go.
    fn evict(&mut self) -> bool {
        match self.table.expendable(&mut self.shared.random) {
            Some(index) => {
                self.forget(index, FlowEnd::Evicted);
                true
            }
            None => false,
        }
    }
}
