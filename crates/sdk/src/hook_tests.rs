//! What hooks promise to packets and streams, and what is asked of them.

use super::*;
use crate::testing::flow;

#[derive(Debug)]
struct Appends(&'static str);

#[async_trait(?Send)]
impl PacketHook for Appends {
    async fn on_held(&self, packet: &mut InnerPacket<'_>, _: &HookContext<'_>) -> PacketStep {
        let data = packet.udp().map(|udp| udp.data.to_vec());
        match data.as_deref() {
            Some(b"held panic") => panic!("as a test asks"),
            Some(b"late") => core::future::pending().await,
            _ => {}
        }
        yields().await;
        if data.as_deref() == Some(b"hold to answer") {
            packet.answer(b"answer").unwrap();
        } else {
            packet.set_udp_data(self.0.as_bytes()).unwrap();
        }
        PacketStep::Pass
    }

    fn on_unheld(&self, packet: &mut InnerPacket<'_>, _: &HookContext<'_>) -> PacketStep {
        packet.set_udp_data(b"unheld").unwrap();
        PacketStep::Pass
    }

    fn on_packet(&self, packet: &mut InnerPacket<'_>, context: &HookContext<'_>) -> PacketStep {
        let Some(udp) = packet.udp() else {
            return PacketStep::Pass;
        };
        match udp.data {
            b"panic" => panic!("as a test asks"),
            b"drop" => return PacketStep::Drop,
            b"hold" | b"late" | b"held panic" | b"hold to answer" => return PacketStep::Hold,
            b"answer me" => {
                packet.answer(b"answer").unwrap();
                return PacketStep::Pass;
            }
            _ => {}
        }
        let data = [udp.data, self.0.as_bytes()].concat();
        context.note("appended");
        packet.set_udp_data(&data).unwrap();
        PacketStep::Pass
    }

    fn stream(&self) -> Option<Box<dyn StreamHook>> {
        Some(Box::new(Self(self.0)))
    }
}

/// Pending once.
async fn yields() {
    let mut polled = false;
    poll_fn(|context| {
        if polled {
            return Poll::Ready(());
        }
        polled = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Polls until there is an answer; a future that waits for nobody would spin here.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = core::task::Context::from_waker(core::task::Waker::noop());
    for _ in 0..100 {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
    panic!("it never ends");
}

#[async_trait(?Send)]
impl StreamHook for Appends {
    async fn on_wait(&mut self, output: &mut StreamOutput, _: &HookContext<'_>) -> StreamStep {
        yields().await;
        output.onward.extend_from_slice(b"waited ");
        output.onward.extend_from_slice(self.0.as_bytes());
        StreamStep::Continue
    }

    fn on_bytes(
        &mut self,
        bytes: &[u8],
        output: &mut StreamOutput,
        _: &HookContext<'_>,
    ) -> StreamStep {
        match bytes {
            b"panic" => panic!("as a test asks"),
            b"wait" => return StreamStep::Wait,
            b"?" => output.back.extend_from_slice(self.0.as_bytes()),
            _ => {
                output.onward.extend_from_slice(bytes);
                output.onward.extend_from_slice(self.0.as_bytes());
            }
        }
        StreamStep::Continue
    }

    fn on_end(&mut self, output: &mut StreamOutput, _: &HookContext<'_>) {
        output.onward.push(b'.');
    }
}

fn hooks() -> Hooks {
    let link = |name| HookLink::new(name, Arc::new(Appends(name)));
    Hooks::new(vec![link("a"), link("b")])
}

fn sight(flow: &FlowInfo, from: Leg) -> HookSight<'_> {
    HookSight {
        flow,
        from,
        now: SystemTime::UNIX_EPOCH,
        records: None,
    }
}

/// IPv4 and UDP headers around data; checksums are not looked at.
fn packet(data: &[u8]) -> Vec<u8> {
    let (total, length) = (28 + data.len() as u8, 8 + data.len() as u8);
    let ip = [
        0x45, 0, 0, total, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    let udp = [0, 9, 0, 9, 0, length, 0, 0];
    [&ip[..], &udp, data].concat()
}

fn shown(hooks: &Hooks, data: &[u8], from: Leg) -> (Shown, Vec<u8>) {
    let bytes = packet(data);
    let mut packet = InnerPacket::parse(crate::VpcEndpointId(1), &bytes).unwrap();
    let step = hooks.on_packet(&mut packet, &sight(&flow(), from));
    (step, packet.udp().unwrap().data.to_vec())
}

#[test]
fn packets_meet_hooks_in_order_and_answers_in_the_reverse_order() {
    let hooks = hooks();
    assert_eq!(shown(&hooks, b"x", Leg::Client).1, b"xab");
    assert_eq!(shown(&hooks, b"x", Leg::Server).1, b"xba");
    assert_eq!(shown(&hooks, b"drop", Leg::Client).0, Shown::Drop);
    let stats: Vec<_> = hooks.links().map(HookLink::stats).collect();
    assert_eq!(
        (stats[0].packets, stats[0].dropped, stats[0].edited),
        (3, 1, 1)
    );
    assert_eq!(
        (stats[1].packets, stats[1].dropped, stats[1].edited),
        (2, 0, 1)
    );
    assert_eq!(stats[1].notes["appended"], 2);
}

#[test]
fn threat_73_a_hook_that_panics_costs_its_effect_and_no_more() {
    let hooks = hooks();
    assert_eq!(
        shown(&hooks, b"panic", Leg::Client),
        (Shown::Pass, b"panic".to_vec())
    );
    let flow = flow();
    let mut output = StreamOutput::default();
    let step =
        hooks
            .streams()
            .unwrap()
            .on_bytes(b"panic", false, &sight(&flow, Leg::Client), &mut output);
    assert_eq!(step, StreamStep::Reset);
    assert!(hooks.links().all(|link| link.stats().panics >= 1));
}

#[test]
fn bytes_pass_through_all_hooks_and_an_answer_goes_straight_back() {
    let (hooks, flow) = (hooks(), flow());
    let mut streams = hooks.streams().unwrap();
    let mut output = StreamOutput::default();
    let mut show = |bytes: &[u8], ended, from| {
        output = StreamOutput::default();
        streams.on_bytes(bytes, ended, &sight(&flow, from), &mut output);
        (output.onward.clone(), output.back.clone())
    };
    assert_eq!(show(b"1", false, Leg::Client).0, b"1ab");
    assert_eq!(show(b"2", false, Leg::Server).0, b"2ba");
    assert_eq!(show(b"?", false, Leg::Client), (vec![], b"a".to_vec()));
    assert_eq!(show(b"", true, Leg::Client).0, b".b.");
}

#[test]
fn what_a_hook_answers_is_not_shown_to_those_after_it() {
    let (hooks, flow) = (hooks(), flow());
    let bytes = packet(b"answer me");
    let mut packet = InnerPacket::parse(crate::VpcEndpointId(1), &bytes).unwrap();
    let shown = hooks.on_packet(&mut packet, &sight(&flow, Leg::Client));
    assert!(matches!(shown, Shown::Pass) && packet.is_answer());
    assert_eq!(packet.udp().unwrap().data, b"answer");
}

#[test]
fn held_packets_go_on_when_the_hook_answers_or_time_is_up() {
    let (hooks, flow) = (hooks(), flow());
    let held = |data: &[u8], room: bool| {
        let bytes = packet(data);
        let mut packet = InnerPacket::parse(crate::VpcEndpointId(1), &bytes).unwrap();
        let sight = sight(&flow, Leg::Client);
        let Shown::Held(held) = hooks.on_packet(&mut packet, &sight) else {
            panic!("it is not held");
        };
        let is_sent = if room {
            // The deadline is a few turns away.
            let deadline = async {
                yields().await;
                yields().await;
            };
            block_on(hooks.on_held(held, &mut packet, &sight, deadline))
        } else {
            hooks.on_unheld(held, &mut packet, &sight)
        };
        (is_sent, packet.udp().unwrap().data.to_vec())
    };
    // What the first hook lets go, the second one sees.
    assert_eq!(held(b"hold", true), (true, b"ab".to_vec()));
    assert_eq!(held(b"late", true), (true, b"unheldb".to_vec()));
    assert_eq!(held(b"hold", false), (true, b"unheldb".to_vec()));
    // What it answers, the second one does not.
    assert_eq!(held(b"hold to answer", true), (true, b"answer".to_vec()));
    let stats = hooks.links().next().unwrap().stats();
    assert_eq!((stats.held, stats.unheld, stats.edited), (4, 2, 4));
}

#[test]
fn threat_73_a_hook_that_panics_while_it_holds_a_packet_costs_its_effect_and_no_more() {
    let (hooks, flow) = (hooks(), flow());
    let bytes = packet(b"held panic");
    let mut packet = InnerPacket::parse(crate::VpcEndpointId(1), &bytes).unwrap();
    let sight = sight(&flow, Leg::Client);
    let Shown::Held(held) = hooks.on_packet(&mut packet, &sight) else {
        panic!("it is not held");
    };
    assert!(block_on(hooks.on_held(
        held,
        &mut packet,
        &sight,
        core::future::pending()
    )));
    assert!(hooks.links().all(|link| link.stats().panics == 1));
}

#[test]
fn a_stream_that_waits_goes_on_through_the_hooks_after_it() {
    let (hooks, flow) = (hooks(), flow());
    let mut streams = hooks.streams().unwrap();
    let mut output = StreamOutput::default();
    let sight = sight(&flow, Leg::Client);
    let step = streams.on_bytes(b"wait", true, &sight, &mut output);
    assert_eq!((step, &output.onward[..]), (StreamStep::Wait, &b""[..]));
    let step = block_on(streams.wait(&sight, &mut output));
    assert_eq!(step, StreamStep::Continue);
    assert_eq!(output.onward, b"waited a.b.");
}
