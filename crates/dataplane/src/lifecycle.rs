//! How flows change state: verdict, release, take-over, end.

use wire::tcp::{Flags, Repr};

use crate::bypass::Bypass;
use crate::counters::BypassReason;
use crate::dispatch::{self, Fate};
use crate::emit;
use crate::event::{Event, FirstBytes, FlowEnd, Unseen, Verdict};
use crate::flow::{Denied, Flow, State, Tomb};
use crate::legs::Legs;
use crate::park::Park;
use crate::seen::Seen;
use crate::shared::{Load, Shared};
use crate::tracker::{Phase, Track};
use crate::{FlowId, Instant, Leg};

/// Gives a waiting flow its verdict and its parked packets their way.
pub(crate) fn decide(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    verdict: Verdict,
    now: Instant,
) {
    let State::Pending(park) = &mut flow.state else {
        return;
    };
    let park = core::mem::replace(&mut **park, Park::new(now));
    if flow.is_measured {
        shared.round_trips.ask(id.index, now);
    }
    let isn = park.isn;
    let first = park
        .packets
        .first()
        .and_then(|(datagram, _)| Seen::parse(datagram).ok());
    let counters = &mut shared.counters;
    flow.state = match verdict {
        Verdict::Pass => {
            counters.verdicts_pass += 1;
            State::Bypassed(raw(flow, isn.is_some()))
        }
        Verdict::Drop | Verdict::Reset => {
            let is_told = verdict == Verdict::Reset;
            if is_told {
                counters.verdicts_reset += 1;
            } else {
                counters.verdicts_drop += 1;
            }
            State::Denied(Denied {
                is_told,
                isn,
                answer_at: Instant::ZERO,
            })
        }
        Verdict::Inspect | Verdict::InspectEither => {
            counters.verdicts_inspect += 1;
            match first.as_ref().and_then(Seen::tcp) {
                Some(syn) if isn.is_some() => {
                    let is_full = shared.load.intercepted >= shared.config.max_intercepted;
                    // A guarded one may be judged without being taken over.
                    if is_full && flow.guard.is_none() {
                        counters.count_bypass(BypassReason::TooManyIntercepted);
                        State::Bypassed(raw(flow, true))
                    } else {
                        let mut track = Track::new(syn);
                        track.takes_greeting = verdict == Verdict::InspectEither;
                        track.holds_greeting = flow.guard.is_some();
                        State::Tracking(Box::new(track))
                    }
                }
                _ => {
                    counters.count_bypass(BypassReason::NotInspectable);
                    State::Bypassed(raw(flow, false))
                }
            }
        }
    };
    if let (State::Denied(Denied { is_told: true, .. }), true, Some(first)) =
        (&flow.state, flow.is_mid_flow, &first)
    {
        reset_receiver(flow, id, shared, first);
    }
    for (mut datagram, outer) in park.packets {
        let Ok(seen) = Seen::parse(&datagram) else {
            continue;
        };
        let from = sender(flow, &seen);
        let fate = dispatch::packet(flow, id, shared, &mut datagram, &seen, from, outer, now);
        match fate {
            Fate::Forward(len) => {
                datagram.truncate(len);
                let queued = dispatch::with_newest_header(flow, id, from, datagram, seen.inner_at);
                shared.send(flow, queued);
            }
            Fate::Dropped(reason) => shared.counters.count_drop(reason),
            Fate::Absorbed | Fate::Hooked(..) => {}
        }
    }
}

/// Answers for the held bytes.
pub(crate) fn classify(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    answer: FirstBytes,
    now: Instant,
) {
    match (&mut flow.state, answer) {
        (State::Tracking(track), answer) => {
            let reason = match &mut track.phase {
                Phase::Hold(hold) => {
                    hold.is_announced = false;
                    BypassReason::Classified
                }
                Phase::Open if track.greeting.is_some() => BypassReason::ServerFirst,
                Phase::Syn | Phase::SynAck | Phase::Open => return,
            };
            match answer {
                FirstBytes::NeedMore => {}
                FirstBytes::Bypass => release(flow, id, shared, reason),
                FirstBytes::Intercept => {
                    if shared.load.intercepted >= shared.config.max_intercepted {
                        give_up(flow, id, shared, BypassReason::TooManyIntercepted, now);
                    } else {
                        shared.counters.takeovers += 1;
                        take_over(flow, id, shared, now);
                    }
                }
                FirstBytes::Drop => {
                    let isn = Some(track.client.isn);
                    shared.counters.verdicts_drop += 1;
                    flow.state = State::Denied(Denied {
                        is_told: false,
                        isn,
                        answer_at: Instant::ZERO,
                    });
                }
                FirstBytes::Reset => {
                    shared.counters.verdicts_reset += 1;
                    reset_observed(flow, id, shared, now);
                }
            }
        }
        // Holding had to end before the answer came. What may not pass is reset; what may pass does so
        // through the legs.
        (State::Intercepted(_), FirstBytes::Drop | FirstBytes::Reset) => {
            abort(flow, id, shared);
        }
        _ => {}
    }
}

/// Ends the inspection of a flow that was not judged: it is forwarded raw, unless it is guarded and the
/// shell said that this must not be.
pub(crate) fn give_up(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    reason: BypassReason,
    now: Instant,
) {
    let State::Tracking(track) = &flow.state else {
        return;
    };
    let is_told = match flow.guard {
        None | Some(Unseen::Pass) => return release(flow, id, shared, reason),
        Some(Unseen::Drop) => false,
        Some(Unseen::Reset) => true,
    };
    shared.counters.guarded_refused += 1;
    if is_told && !matches!(track.phase, Phase::Syn) {
        reset_observed(flow, id, shared, now);
    } else {
        // The server knows nothing of it, or is to learn nothing.
        flow.state = State::Denied(Denied {
            is_told,
            isn: Some(track.client.isn),
            answer_at: Instant::ZERO,
        });
    }
}

/// Forwards what is held, in order, and everything after it.
pub(crate) fn release(flow: &mut Flow, id: FlowId, shared: &mut Shared, reason: BypassReason) {
    let State::Tracking(track) = &mut flow.state else {
        return;
    };
    shared.counters.count_bypass(reason);
    let bypass = track.to_bypass();
    let phase = core::mem::replace(&mut track.phase, Phase::Open);
    let greeting = track
        .greeting
        .take()
        .map(|greeting| greeting.into_segments());
    flow.state = State::Bypassed(bypass);
    let held = match phase {
        Phase::Hold(hold) => hold.into_segments(),
        Phase::Syn | Phase::SynAck | Phase::Open => Vec::new(),
    };
    let from_server = greeting
        .into_iter()
        .flatten()
        .map(|held| (Leg::Server, held));
    let from_client = held.into_iter().map(|held| (Leg::Client, held));
    for (from, held) in from_server.chain(from_client) {
        if let (State::Bypassed(bypass), Some(tcp)) = (&mut flow.state, held.seen.tcp()) {
            bypass.note(from, tcp, None);
        }
        let queued =
            dispatch::with_newest_header(flow, id, from, held.datagram, held.seen.inner_at);
        shared.send(flow, queued);
    }
}

/// Takes a connection over although nobody has decided: holding on would stall it.
pub(crate) fn relay(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    if shared.load.intercepted >= shared.config.max_intercepted {
        give_up(flow, id, shared, BypassReason::TooManyIntercepted, now);
        return;
    }
    shared.counters.relays += 1;
    take_over(flow, id, shared, now);
}

/// Takes a connection over in which the server speaks first and somebody wants to hear it.
pub(crate) fn greet(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    if shared.load.intercepted >= shared.config.max_intercepted {
        give_up(flow, id, shared, BypassReason::TooManyIntercepted, now);
        return;
    }
    shared.counters.takeovers += 1;
    take_over(flow, id, shared, now);
}

/// Builds the legs and gives them what is held, as ordinary arrivals.
fn take_over(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    let State::Tracking(track) = &mut flow.state else {
        return;
    };
    let held = match core::mem::replace(&mut track.phase, Phase::Open) {
        Phase::Hold(hold) => hold.into_segments(),
        Phase::Open => Vec::new(),
        Phase::Syn | Phase::SynAck => return,
    };
    let mut legs = Legs::new(track, flow.key.is_v6(), &shared.config, &shared.tcp, now);
    let greeting = track
        .greeting
        .take()
        .map(|greeting| greeting.into_segments());
    let from_server = greeting
        .into_iter()
        .flatten()
        .map(|held| (Leg::Server, held));
    let from_client = held.into_iter().map(|held| (Leg::Client, held));
    for (from, held) in from_server.chain(from_client) {
        if let Some(segment) = held.seen.segment(&held.datagram) {
            let ce = held.seen.is_congestion_marked();
            legs.handle_segment(from, &segment.repr(), segment.payload(), ce, now);
        }
    }
    shared.events.push_back(Event::LegsReady { flow: id });
    legs.announce(id, &mut shared.events, &shared.config, now);
    flow.state = State::Intercepted(Box::new(legs));
    flow.was_intercepted = true;
    shared.mark_dirty(flow, id);
}

/// Resets both legs.
pub(crate) fn abort(flow: &mut Flow, id: FlowId, shared: &mut Shared) {
    if let State::Intercepted(legs) = &mut flow.state {
        legs.abort();
        shared.counters.resets_sent += 2;
        shared.mark_dirty(flow, id);
    }
}

/// Drops the legs of a connection that is over and remembers what stray packets must not do.
pub(crate) fn bury(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    let State::Intercepted(legs) = &flow.state else {
        return;
    };
    let end = legs.end();
    let retransmits = [Leg::Client, Leg::Server].map(|leg| legs.stats(leg).retransmits);
    shared.counters.segments_retransmitted += retransmits.map(u64::from).iter().sum::<u64>();
    let memory = match end {
        FlowEnd::Finished => shared.config.linger,
        _ => shared.config.tomb,
    };
    flow.state = State::Tomb(Tomb {
        until: now + memory,
        isn: legs.isn,
        retransmits,
    });
    report(flow, id, shared, end);
}

/// Tells the shell that a flow is over, once.
pub(crate) fn report(flow: &mut Flow, id: FlowId, shared: &mut Shared, end: FlowEnd) {
    if flow.is_reported {
        return;
    }
    flow.is_reported = true;
    if core::mem::take(&mut flow.is_measured) {
        shared.round_trips.forget(id.index);
    }
    let counters = &mut shared.counters;
    match end {
        FlowEnd::Finished => counters.flows_ended_finished += 1,
        FlowEnd::Reset => counters.flows_ended_reset += 1,
        FlowEnd::Idle => counters.flows_ended_idle += 1,
        FlowEnd::TimedOut => counters.flows_ended_timed_out += 1,
        FlowEnd::Replaced => counters.flows_replaced += 1,
        FlowEnd::Evicted => counters.flows_evicted += 1,
    }
    let summary = flow.summary(end);
    shared
        .events
        .push_back(Event::FlowEnded { flow: id, summary });
}

/// Makes way for a new connection on the same addresses: the server is told that the old one is gone
/// before it sees the new SYN, and bytes that are held go where they were bound.
pub(crate) fn make_way(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    match &mut flow.state {
        State::Tracking(track) if matches!(track.phase, Phase::Hold(_)) => {
            give_up(flow, id, shared, BypassReason::Inconsistent, now);
        }
        State::Intercepted(legs) => {
            legs.abort_leg(Leg::Server);
            shared.counters.resets_sent += 1;
            let mut bytes = Vec::new();
            while next_run(flow, Leg::Server, 1, &mut bytes, now).is_some() {
                let datagram = emit::Queued {
                    bytes: core::mem::take(&mut bytes),
                    outer: flow.outer,
                    flow: None,
                    hooked: None,
                };
                shared.send(flow, datagram);
            }
        }
        _ => {}
    }
}

/// Appends the next segments of a leg to `out`, at most `most`, in the flow's newest GENEVE header.
/// Answers the length of each datagram and how many there are.
pub(crate) fn next_run(
    flow: &mut Flow,
    leg: Leg,
    most: usize,
    out: &mut Vec<u8>,
    now: Instant,
) -> Option<(usize, usize)> {
    let blank = emit::face(flow, leg, crate::seen::Manner::default(), 0);
    let State::Intercepted(legs) = &mut flow.state else {
        return None;
    };
    let outgoing = legs.poll_transmit(leg, most, now)?;
    let face = emit::Face {
        manner: outgoing.manner,
        ident: outgoing.ident,
        ..blank
    };
    let len = emit::run(flow.header.bytes(), &face, &outgoing, out);
    Some((len, outgoing.run.count))
}

/// Runs what is due for one flow. Answers `false` if the flow is to be forgotten.
pub(crate) fn on_timer(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) -> bool {
    if flow.deadline(&shared.config, shared.load.half_open) > now {
        return true;
    }
    match &mut flow.state {
        State::Pending(park) if park.deadline > now => {
            park.awaited = None;
            let is_late = true;
            shared.events.push_back(Event::Parked { flow: id, is_late });
            true
        }
        State::Pending(_) => {
            shared.counters.verdict_deadlines += 1;
            let verdict = shared.config.verdict_on_deadline;
            decide(flow, id, shared, verdict, now);
            true
        }
        State::Tracking(track) => match &track.phase {
            Phase::Hold(hold) => {
                if hold.has_old_hole(&shared.config, now) {
                    shared.counters.relays_hole += 1;
                } else {
                    shared.counters.relays_time += 1;
                }
                relay(flow, id, shared, now);
                true
            }
            Phase::Open if track.greeting.is_some() => {
                greeting_is_over(flow, id, shared, now);
                true
            }
            Phase::Syn | Phase::SynAck | Phase::Open => false,
        },
        State::Intercepted(legs) => {
            if legs.deadline().is_some() {
                legs.handle_timeout(now);
            } else {
                // Keep-alives are off and nothing was heard: RST while the cookie is still good.
                legs.abort();
            }
            legs.announce(id, &mut shared.events, &shared.config, now);
            shared.mark_dirty(flow, id);
            true
        }
        State::Bypassed(_) | State::Denied(_) | State::Tomb(_) => false,
    }
}

/// A server spoke first and its client had the time to answer.
fn greeting_is_over(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    let State::Tracking(track) = &mut flow.state else {
        return;
    };
    match track.greeting.as_deref_mut() {
        Some(greeting) if track.holds_greeting && !greeting.is_announced => {
            greeting.is_announced = true;
            greeting.prolong(&shared.config, now);
            shared.events.push_back(Event::ServerSpoke { flow: id });
        }
        Some(_) if track.holds_greeting => {
            shared.counters.relays_time += 1;
            relay(flow, id, shared, now);
        }
        _ => release(flow, id, shared, BypassReason::ServerFirst),
    }
}

/// Updates the totals after a flow changed.
pub(crate) fn settle(flow: &Flow, before: Load, shared: &mut Shared) {
    let after = Load::of(flow);
    if before != after {
        shared.load.change(before, after);
    }
}

/// RST to both ends of a connection whose handshake was watched and whose first bytes are refused.
fn reset_observed(flow: &mut Flow, id: FlowId, shared: &mut Shared, now: Instant) {
    let State::Tracking(track) = &flow.state else {
        return;
    };
    let (client, server) = (track.client, track.server);
    flow.state = State::Tomb(Tomb {
        until: now + shared.config.tomb,
        isn: client.isn,
        retransmits: [0; 2],
    });
    for (to, seq, ack, manner) in [
        (Leg::Client, server.next, client.next, server.manner),
        (Leg::Server, client.next, server.next, client.manner),
    ] {
        let repr = Repr {
            seq,
            ack,
            flags: Flags::RST.with(Flags::ACK),
            ..Repr::default()
        };
        let face = emit::face(flow, to, manner, 0);
        let datagram = emit::bare(flow, id, &face, &repr);
        shared.counters.resets_sent += 1;
        shared.send(flow, datagram);
    }
    report(flow, id, shared, FlowEnd::Reset);
}

/// The receiver's half of "reset both ends" for a connection in the middle: the sequence number of the
/// packet that it would have got is the one that it expects.
fn reset_receiver(flow: &mut Flow, id: FlowId, shared: &mut Shared, first: &Seen) {
    let Some(tcp) = first.tcp() else { return };
    let repr = Repr {
        seq: tcp.seq,
        ack: tcp.ack,
        flags: Flags::RST.with(Flags(tcp.flags.0 & Flags::ACK.0)),
        ..Repr::default()
    };
    let face = emit::Face {
        src: first.src,
        dst: first.dst,
        manner: first.manner(),
        ident: 0,
    };
    let datagram = emit::bare(flow, id, &face, &repr);
    shared.counters.resets_sent += 1;
    shared.send(flow, datagram);
}

fn raw(flow: &Flow, has_syn: bool) -> Bypass {
    if has_syn || !flow.is_tcp() {
        Bypass::default()
    } else {
        Bypass::mid_flow()
    }
}

fn sender(flow: &Flow, seen: &Seen) -> Leg {
    if seen.src == flow.client() {
        Leg::Client
    } else {
        Leg::Server
    }
}
