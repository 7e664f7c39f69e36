//! A packet meets the state of its flow.

use core::time::Duration;

use wire::tcp::{Flags, Repr};

use crate::bypass::Effect;
use crate::counters::{BypassReason, DropReason};
use crate::emit::{self, Queued};
use crate::event::{Event, Outer};
use crate::flow::{Flow, State};
use crate::lifecycle;
use crate::seen::{Seen, Tcp};
use crate::shared::Shared;
use crate::tracker::{Added, Greeting, Hold, Phase, Step};
use crate::{FlowId, Instant, Leg};

/// Answers to a refused flow that has no pace of its own come no faster than this (RFC 1812 §4.3.2.8).
const ANSWER_INTERVAL: Duration = Duration::from_millis(500);

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// So many bytes of the datagram go back.
    Forward(usize),
    /// The same, past the hooks of the shell.
    Hooked(FlowId, Leg, usize),
    Absorbed,
    Dropped(DropReason),
}

/// Treats a packet of a known flow by the flow's state.
pub(crate) fn packet(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &mut [u8],
    seen: &Seen,
    from: Leg,
    outer: Outer,
    now: Instant,
) -> Fate {
    match &flow.state {
        State::Pending(_) => park(flow, id, shared, datagram, outer),
        State::Bypassed(_) => bypassed(flow, shared, datagram, seen, from),
        State::Denied(_) => denied(flow, id, shared, datagram, seen, outer, now),
        State::Tracking(_) => tracked(flow, id, shared, datagram, seen, from, now),
        State::Intercepted(_) => intercepted(flow, id, shared, datagram, seen, from, now),
        State::Tomb(_) => entombed(flow, id, shared, datagram, seen),
    }
}

fn park(flow: &mut Flow, id: FlowId, shared: &mut Shared, datagram: &[u8], outer: Outer) -> Fate {
    let State::Pending(park) = &mut flow.state else {
        return Fate::Absorbed;
    };
    let config = &shared.config;
    if park.packets.len() >= config.park_packets || park.bytes + datagram.len() > config.park_bytes
    {
        return Fate::Dropped(DropReason::ParkFull);
    }
    if shared.load.parked_bytes + datagram.len() > config.park_total_bytes {
        return Fate::Dropped(DropReason::ParkTotalFull);
    }
    park.push(datagram, outer);
    if park.awaited.take().is_some() {
        let is_late = false;
        shared.events.push_back(Event::Parked { flow: id, is_late });
    }
    shared.counters.parked_packets += 1;
    Fate::Absorbed
}

fn bypassed(flow: &mut Flow, shared: &mut Shared, datagram: &[u8], seen: &Seen, from: Leg) -> Fate {
    let State::Bypassed(bypass) = &mut flow.state else {
        return Fate::Absorbed;
    };
    if let Some(tcp) = seen.tcp() {
        // Only these have lasting effects; for the rest the sum over the payload would be wasted.
        let control = tcp.flags.0 & (Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0) != 0;
        if control && !seen.is_sound(datagram) {
            shared.counters.bad_checksum += 1;
            return Fate::Forward(datagram.len());
        }
        let scale = tcp.has(Flags::SYN).then(|| {
            seen.segment(datagram)
                .and_then(|segment| segment.repr().options.window_scale)
        });
        if bypass.note(from, tcp, scale) == Effect::IgnoredReset {
            shared.counters.rst_ignored += 1;
        }
    }
    Fate::Forward(datagram.len())
}

fn denied(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &[u8],
    seen: &Seen,
    outer: Outer,
    now: Instant,
) -> Fate {
    let is_tcp = flow.is_tcp();
    let State::Denied(denied) = &mut flow.state else {
        return Fate::Absorbed;
    };
    if denied.is_told {
        if is_tcp {
            refuse(flow, id, shared, seen);
        } else if denied.answer_at <= now {
            denied.answer_at = now + ANSWER_INTERVAL;
            if let Some(answer) = emit::prohibited(seen, datagram, outer, id) {
                shared.counters.icmp_sent += 1;
                shared.send(flow, answer);
            }
        }
    }
    Fate::Dropped(DropReason::Denied)
}

/// Answers a TCP segment with the RST that its sender accepts.
pub(crate) fn refuse(flow: &mut Flow, id: FlowId, shared: &mut Shared, seen: &Seen) {
    let Some(reset) = emit::reset_answer(seen) else {
        return;
    };
    let face = emit::Face {
        src: seen.dst,
        dst: seen.src,
        manner: crate::seen::Manner {
            hop_limit: 64,
            ..seen.manner()
        },
        ident: 0,
    };
    let datagram = emit::bare(flow, id, &face, &reset);
    shared.counters.resets_sent += 1;
    shared.send(flow, datagram);
}

fn tracked(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &mut [u8],
    seen: &Seen,
    from: Leg,
    now: Instant,
) -> Fate {
    let State::Tracking(track) = &mut flow.state else {
        return Fate::Absorbed;
    };
    let all = Fate::Forward(datagram.len());
    match track.step(from, seen, datagram, &shared.config, now) {
        Step::Forward(len) => Fate::Forward(len),
        Step::ForwardEdited(len) => {
            shared.counters.syn_edited += 1;
            Fate::Forward(len)
        }
        Step::ForwardUnsound => {
            shared.counters.bad_checksum += 1;
            all
        }
        Step::ForwardIgnoredReset => {
            shared.counters.rst_ignored += 1;
            all
        }
        Step::Bypass(reason) => {
            lifecycle::give_up(flow, id, shared, reason, now);
            given_up(flow, id, shared, datagram, seen, from, now)
        }
        Step::Reset => reset(flow, id, shared, from, all),
        Step::Hold { needs_ack } => {
            if needs_ack {
                synthesise_ack(flow, id, shared, datagram, seen);
            }
            hold(flow, id, shared, datagram, seen, now)
        }
        Step::HoldGreeting => hold_greeting(flow, id, shared, datagram, seen, from, now),
    }
}

/// The packet that ended the inspection of its flow.
fn given_up(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &[u8],
    seen: &Seen,
    from: Leg,
    now: Instant,
) -> Fate {
    match &flow.state {
        // What made the flow bypass counts for its end too.
        State::Bypassed(_) => bypassed(flow, shared, datagram, seen, from),
        State::Denied(_) => denied(flow, id, shared, datagram, seen, flow.outer, now),
        _ => Fate::Dropped(DropReason::Denied),
    }
}

/// Keeps what a server says before the client does; bypasses when there is no room for it.
fn hold_greeting(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &[u8],
    seen: &Seen,
    from: Leg,
    now: Instant,
) -> Fate {
    let has_room = shared.may_hold(flow, datagram.len());
    let (State::Tracking(track), Some(tcp)) = (&mut flow.state, seen.tcp()) else {
        return Fate::Absorbed;
    };
    // The client's preface may be on its way.
    let may_wait = Greeting::begins(seen, tcp, datagram, track.server.next);
    let greeting = track
        .greeting
        .get_or_insert_with(|| Box::new(Greeting::new(&shared.config, now)));
    if has_room && greeting.add(seen, tcp, datagram) {
        shared.counters.held_packets += 1;
        if matches!(track.phase, Phase::Open) {
            if track.takes_greeting {
                lifecycle::greet(flow, id, shared, now);
            } else if track.holds_greeting && !may_wait && !greeting.is_announced {
                greeting.is_announced = true;
                shared.events.push_back(Event::ServerSpoke { flow: id });
            }
        }
        return Fate::Absorbed;
    }
    let reason = if has_room {
        BypassReason::ServerFirst
    } else {
        BypassReason::HoldTotalFull
    };
    lifecycle::give_up(flow, id, shared, reason, now);
    if !matches!(flow.state, State::Bypassed(_)) {
        return given_up(flow, id, shared, datagram, seen, from, now);
    }
    // What is released is queued; behind it, not before it, goes this segment.
    bypassed(flow, shared, datagram, seen, from);
    let queued = with_newest_header(flow, id, from, datagram.to_vec(), seen.inner_at);
    shared.send(flow, queued);
    Fate::Absorbed
}

/// A valid RST ends a connection that was not taken over.
fn reset(flow: &mut Flow, id: FlowId, shared: &mut Shared, from: Leg, forward: Fate) -> Fate {
    let State::Tracking(track) = &mut flow.state else {
        return forward;
    };
    let mut bypass = track.to_bypass();
    bypass.was_reset = true;
    let held = matches!(track.phase, Phase::Hold(_)) && from == Leg::Client;
    let (client_next, manner) = (track.client.next, track.client.manner);
    flow.state = State::Bypassed(bypass);
    if !held {
        return forward;
    }
    // The client's RST stands behind bytes that the server never gets. With the sequence number that
    // the server expects it is certain to be accepted (RFC 5961 §3.2).
    let repr = Repr {
        seq: client_next,
        flags: Flags::RST,
        ..Repr::default()
    };
    let face = emit::face(flow, Leg::Server, manner, 0);
    let datagram = emit::bare(flow, id, &face, &repr);
    shared.counters.resets_sent += 1;
    shared.send(flow, datagram);
    Fate::Absorbed
}

/// The third packet of the handshake, for a client that sent it with data: the data is held, the
/// server must still get to ESTABLISHED.
fn synthesise_ack(flow: &mut Flow, id: FlowId, shared: &mut Shared, datagram: &[u8], seen: &Seen) {
    let Some(repr) = seen.segment(datagram).map(|segment| segment.repr()) else {
        return;
    };
    let State::Tracking(track) = &flow.state else {
        return;
    };
    let repr = Repr {
        seq: track.client.next,
        flags: Flags::ACK,
        urgent: 0,
        ..repr
    };
    let face = emit::face(flow, Leg::Server, track.client.manner, 0);
    let datagram = emit::bare(flow, id, &face, &repr);
    shared.counters.acks_synthesised += 1;
    shared.send(flow, datagram);
}

fn hold(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &mut [u8],
    seen: &Seen,
    now: Instant,
) -> Fate {
    // The payload is kept once more, in order.
    let takes = datagram.len() + seen.tcp().map_or(0, |tcp| tcp.payload_len as usize);
    let has_room = shared.may_hold(flow, takes);
    let (State::Tracking(track), Some(tcp)) = (&mut flow.state, seen.tcp()) else {
        return Fate::Absorbed;
    };
    if !has_room {
        lifecycle::give_up(flow, id, shared, BypassReason::HoldTotalFull, now);
        return given_up(flow, id, shared, datagram, seen, Leg::Client, now);
    }
    if !matches!(track.phase, Phase::Hold(_)) {
        let until = now + track.hold_time(&shared.config);
        track.phase = Phase::Hold(Hold::new(track.client.next, until));
    }
    let Phase::Hold(hold) = &mut track.phase else {
        return Fate::Absorbed;
    };
    shared.counters.held_packets += 1;
    let added = hold.add(seen, tcp, datagram, &shared.config, now);
    match added {
        Added::Same => return Fate::Absorbed,
        Added::Grew => {
            if !hold.is_announced {
                hold.is_announced = true;
                shared.events.push_back(Event::FirstBytes { flow: id });
            }
            return Fate::Absorbed;
        }
        Added::Conflict => shared.counters.relays_overlap += 1,
        Added::Full => shared.counters.relays_size += 1,
    }
    lifecycle::relay(flow, id, shared, now);
    // The leg, not the hold, judges the segment that ended the holding.
    match &flow.state {
        State::Intercepted(_) => intercepted(flow, id, shared, datagram, seen, Leg::Client, now),
        _ => given_up(flow, id, shared, datagram, seen, Leg::Client, now),
    }
}

fn intercepted(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &[u8],
    seen: &Seen,
    from: Leg,
    now: Instant,
) -> Fate {
    let State::Intercepted(legs) = &mut flow.state else {
        return Fate::Absorbed;
    };
    if seen.fragment != wire::ip::Fragment::Whole {
        return Fate::Dropped(DropReason::Fragment);
    }
    let Some(segment) = seen.segment(datagram) else {
        return Fate::Dropped(DropReason::TcpMalformed);
    };
    if !segment.verify_checksum(seen.src.ip(), seen.dst.ip()) {
        return Fate::Dropped(DropReason::Checksum);
    }
    legs.handle_segment(
        from,
        &segment.repr(),
        segment.payload(),
        seen.is_congestion_marked(),
        now,
    );
    legs.announce(id, &mut shared.events, &shared.config, now);
    shared.mark_dirty(flow, id);
    Fate::Absorbed
}

/// A packet of a connection that flowdog ended: it must not reach the other end, where its sequence
/// numbers mean something else. Data is answered with a RST, so that its sender stops.
fn entombed(
    flow: &mut Flow,
    id: FlowId,
    shared: &mut Shared,
    datagram: &[u8],
    seen: &Seen,
) -> Fate {
    let asks = |tcp: &Tcp| tcp.payload_len > 0 || tcp.has(Flags::FIN) || tcp.has(Flags::SYN);
    if seen.tcp().is_some_and(asks) && seen.is_sound(datagram) {
        refuse(flow, id, shared, seen);
    }
    Fate::Dropped(DropReason::Ended)
}

/// Whether a packet starts a new connection on the addresses of a known one.
pub(crate) fn replaces(flow: &Flow, seen: &Seen, datagram: &[u8], from: Leg) -> bool {
    let Some(tcp) = seen.tcp().filter(|tcp| tcp.is_request()) else {
        return false;
    };
    let is_new_cookie = flow.cookie() != seen.cookie;
    let is_new = match &flow.state {
        State::Pending(park) => from == Leg::Client && park.isn != Some(tcp.seq),
        State::Bypassed(bypass) => {
            let is_other_half = from == Leg::Server
                && bypass.isn.is_some()
                && !bypass.is_established()
                && !bypass.is_over();
            !is_other_half && bypass.isn != Some(tcp.seq)
        }
        State::Denied(denied) => denied.isn != Some(tcp.seq),
        State::Tracking(track) => from == Leg::Client && track.client.isn != tcp.seq,
        // With the old cookie it may be forged: the leg answers with a challenge (RFC 5961 §4).
        State::Intercepted(_) => is_new_cookie,
        State::Tomb(tomb) => tomb.isn != tcp.seq || is_new_cookie,
    };
    is_new && seen.is_sound(datagram)
}

/// A released packet under the flow's newest GENEVE header.
pub(crate) fn with_newest_header(
    flow: &Flow,
    id: FlowId,
    from: Leg,
    mut bytes: Vec<u8>,
    header_len: usize,
) -> Queued {
    let newest = flow.header.bytes();
    match bytes.get_mut(..header_len) {
        Some(header) if header.len() == newest.len() => header.copy_from_slice(newest),
        _ => {
            bytes.splice(..header_len.min(bytes.len()), newest.iter().copied());
        }
    }
    Queued {
        bytes,
        outer: flow.outer,
        flow: Some(id),
        hooked: flow.is_hooked.then_some(from),
    }
}
