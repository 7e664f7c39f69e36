//! What a flow costs while nothing happens, counted at the allocator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "a test may fail by panicking, its helpers too"
)]
#![expect(unsafe_code, reason = "an allocator that counts is an allocator")]

mod bench;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use bench::*;
use flowdog_dataplane::{FirstBytes, FlowId, Leg, ReadOutcome, Verdict, WriteOutcome};

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// What the system's allocator keeps beside each block.
const BLOCK_OVERHEAD: i64 = 8;

struct Counting;

fn count(size: i64) {
    let _ = LIVE.try_with(|live| live.set(live.get() + size));
}

// SAFETY: every call is passed on unchanged to the system's allocator; the counter is a plain cell
// of the thread and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64 + BLOCK_OVERHEAD);
        // SAFETY: the caller keeps to the contract of `alloc`, which is the same here.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as i64) - BLOCK_OVERHEAD);
        // SAFETY: `at` comes from `alloc` above, that is from the system's allocator.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// As many as fill the index and the chunks of the table, so that what is measured is a flow and not
/// what the tables have in reserve.
const FLOWS: u16 = 7_168;

/// The packet with another client port.
fn of_flow(flow: u16, mut tcp: Tcp) -> Packet {
    let port = 10_000 + flow;
    if tcp.src == client() {
        tcp.src.set_port(port);
    } else {
        tcp.dst.set_port(port);
    }
    tcp.packet()
}

/// Opens all flows with `packets`, calls `then` on each, lets two seconds pass; answers bytes a flow.
fn cost(verdict: Verdict, packets: &[Tcp], mut then: impl FnMut(&mut Bench, u16)) -> f64 {
    let mut bench = Bench::with_verdict(verdict);
    bench.first_bytes = Some(FirstBytes::Intercept);
    let before = LIVE.get();
    for flow in 0..FLOWS {
        for packet in packets {
            bench.give(&of_flow(flow, packet.clone()));
            bench.pass(ms(1));
        }
        then(&mut bench, flow);
        bench.events = Vec::new();
        bench.sent = Vec::new();
    }
    bench.pass(Duration::from_secs(2));
    bench.events = Vec::new();
    bench.sent = Vec::new();
    assert_eq!(bench.dataplane.flows_active(), usize::from(FLOWS));
    (LIVE.get() - before) as f64 / f64::from(FLOWS)
}

/// Reads what one leg received and writes it to the other.
fn relay(bench: &mut Bench, flow: FlowId, from: Leg, expected: &[u8]) {
    let mut buffer = [0; 16];
    let read = bench.dataplane.read(flow, from, &mut buffer, bench.now);
    assert_eq!(read, ReadOutcome::Bytes(expected.len()));
    assert!(buffer.starts_with(expected));
    let written = bench
        .dataplane
        .write(flow, from.other(), expected, bench.now);
    assert_eq!(written, WriteOutcome::Bytes(expected.len()));
    bench.drain();
}

#[test]
fn a_bypassed_flow_takes_two_hundred_bytes() {
    let packets = [
        syn(),
        syn_ack(),
        from_client(0, b""),
        from_client(0, b"hello"),
        from_server(0, 5, b"hello"),
    ];
    let bytes = cost(Verdict::Pass, &packets, |_, _| {});
    assert!(bytes <= 200.0, "{bytes:.1}");
}

#[test]
fn an_idle_intercepted_flow_takes_twelve_hundred_bytes() {
    let opening = [
        syn(),
        syn_ack(),
        from_client(0, b""),
        from_client(0, b"hello"),
    ];
    let bytes = cost(Verdict::Inspect, &opening, |bench, flow| {
        // A question and its answer go through both legs.
        let id = bench.flow_opened();
        relay(bench, id, Leg::Client, b"hello");
        bench.give(&of_flow(flow, from_server(0, 5, b"world")));
        relay(bench, id, Leg::Server, b"world");
        let mut answer = from_client(5, b"");
        answer.repr.ack += 5;
        bench.give(&of_flow(flow, answer));
    });
    assert!(bytes <= 1_200.0, "{bytes:.1}");
}
