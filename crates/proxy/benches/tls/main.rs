//! What interception costs beside the TLS library alone: `cargo xtask bench tls` runs it.
//!
//! A new connection is compared with two plain handshakes of the same kinds, the one that flowdog
//! makes as a client and the one it makes as a server; bulk with the same bytes both ways through
//! two plain connections. All on one thread, in memory, in CPU time, in rounds that take turns;
//! the figures are medians of the rounds. Prints a JSON object a line.

#![expect(clippy::print_stdout, reason = "a benchmark speaks on standard output")]
#![expect(clippy::unwrap_used, reason = "a benchmark that fails has no figures")]

// The name that the other crates of the workspace use.
extern crate flowdog_proxy as proxy;

mod bare;
mod pipe;
mod world;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join3, select};
use nix::time::{ClockId, clock_gettime};
use proxy::{Limits, Protocol};
use sdk::Chain;

use bare::Bare;
use pipe::pipe;
use world::{ADDRESS, KINDS, Kind, World};

/// Rounds of each measurement; odd, for the median.
const ROUNDS: usize = 21;
/// Connections in a round.
const CONNECTIONS: u32 = 40;
/// Bytes each way in a round of bulk.
const BULK: usize = 32 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --all-targets` starts benchmarks too, without this word.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    for kind in KINDS {
        runtime.block_on(connections(*kind));
    }
    runtime.block_on(minting());
    for kind in [KINDS.first(), KINDS.last()].into_iter().flatten() {
        runtime.block_on(bulk(*kind));
    }
}

/// What one thing took us, and the yardstick: of the parts that are compared, and of the thread.
struct Round {
    ours: Duration,
    ours_all: Duration,
    bare: Duration,
    bare_all: Duration,
}

async fn connections(kind: Kind) {
    let world = World::new(kind);
    // The leaf is minted, and everybody's memory is warm.
    for _ in 0..CONNECTIONS {
        intercepted(&world).await;
        plain(&world).await;
    }
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (mut ours, mut bare) = (Duration::ZERO, Duration::ZERO);
        let start = cpu();
        for _ in 0..CONNECTIONS {
            ours += intercepted(&world).await;
        }
        let between = cpu();
        for _ in 0..CONNECTIONS {
            bare += plain(&world).await;
        }
        rounds.push(Round {
            ours: ours / CONNECTIONS,
            ours_all: (between - start) / CONNECTIONS,
            bare: bare / CONNECTIONS,
            bare_all: (cpu() - between) / CONNECTIONS,
        });
    }
    assert_eq!(world.impersonator.mint().minted(), 1);
    let micros =
        |of: fn(&Round) -> Duration| median(&rounds, |round| of(round).as_secs_f64() * 1e6);
    let name = kind.name;
    let (ours, bare) = (micros(|r| r.ours), micros(|r| r.bare));
    report(
        &format!("new connection: {name}"),
        ours,
        "us CPU",
        bare,
        "max",
        1.25,
    );
    report(
        &format!("new connections: {name}"),
        1e6 / ours,
        "1/s",
        1e6 / bare,
        "min",
        0.8,
    );
    let (ours, bare) = (micros(|r| r.ours_all), micros(|r| r.bare_all));
    report(
        &format!("with both hosts: {name}"),
        ours,
        "us CPU",
        bare,
        "max",
        1.25,
    );
}

/// One intercepted connection, and what the part between the hosts took.
async fn intercepted(world: &World) -> Duration {
    let (near, client_leg) = pipe();
    let (server_leg, far) = pipe();
    let mut client = Bare::new(world.client(), near);
    let mut origin = Bare::new(world.origin(), far);
    let between = measured(async {
        let done = world
            .impersonator
            .intercept(client_leg, server_leg, ADDRESS)
            .await;
        drop(done.unwrap());
    });
    let (_, between, _) = join3(client.handshake(), between, origin.handshake()).await;
    between
}

/// Two plain handshakes, and what they took where flowdog would stand.
async fn plain(world: &World) -> Duration {
    let (near, far) = pipe();
    let ours = measured(async {
        let mut tls = Bare::new(world.bare_client(), near);
        tls.handshake().await;
    });
    let mut origin = Bare::new(world.origin(), far);
    let (as_client, ()) = join(ours, origin.handshake()).await;
    let (near, far) = pipe();
    let ours = measured(async {
        let mut tls = Bare::new(world.bare_server(), far);
        tls.handshake().await;
    });
    let mut client = Bare::new(world.bare_client(), near);
    let (as_server, ()) = join(ours, client.handshake()).await;
    as_client + as_server
}

/// What a leaf costs that is not in the cache, beside the two handshakes that need it.
async fn minting() {
    let Some(kind) = KINDS.get(1) else { return };
    let world = World::new(*kind);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let leaves: Vec<_> = (0..CONNECTIONS).map(|_| world::server_leaf()).collect();
        let start = cpu();
        for leaf in &leaves {
            let mint = world.impersonator.mint();
            let made = mint.leaf_for(leaf, None, ADDRESS, tls::KeyType::EcdsaP256);
            drop(made.await.unwrap());
        }
        let ours = (cpu() - start) / CONNECTIONS;
        let bare = plain(&world).await;
        rounds.push(Round {
            ours,
            ours_all: ours,
            bare,
            bare_all: bare,
        });
    }
    let micros =
        |of: fn(&Round) -> Duration| median(&rounds, |round| of(round).as_secs_f64() * 1e6);
    let (ours, bare) = (micros(|r| r.ours), micros(|r| r.bare));
    report(
        "a new leaf, beside its handshakes",
        ours,
        "us CPU",
        bare,
        "max",
        0.8,
    );
}

async fn bulk(kind: Kind) {
    let world = World::new(kind);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = cpu();
        let ours = intercepted_bulk(&world).await;
        let between = cpu();
        let bare = plain_bulk(&world).await;
        rounds.push(Round {
            ours,
            ours_all: between - start,
            bare,
            bare_all: cpu() - between,
        });
    }
    // Both directions, once each, whatever the number of connections on the way.
    let bytes = 2.0 * BULK as f64 / 1e6;
    let rate =
        |of: fn(&Round) -> Duration| median(&rounds, |round| bytes / of(round).as_secs_f64());
    let name = kind.name;
    let (ours, bare) = (rate(|r| r.ours_all), rate(|r| r.bare_all));
    report(
        &format!("bulk, with both hosts: {name}"),
        ours,
        "MB/s",
        bare,
        "min",
        0.8,
    );
    let (ours, bare) = (rate(|r| r.ours), rate(|r| r.bare));
    report(&format!("bulk: {name}"), ours, "MB/s", bare, "min", 0.8);
}

async fn intercepted_bulk(world: &World) -> Duration {
    let (near, client_leg) = pipe();
    let (server_leg, far) = pipe();
    let mut client = Bare::new(world.client(), near);
    let mut origin = Bare::new(world.origin(), far);
    let handshakes = world
        .impersonator
        .intercept(client_leg, server_leg, ADDRESS);
    let (_, established, _) = join3(client.handshake(), handshakes, origin.handshake()).await;
    let established = established.unwrap();
    let flow = Arc::new(sdk::testing::flow());
    let limits = Limits::default();
    let relay = proxy::serve(
        established.client,
        established.server,
        Protocol::Opaque,
        Chain::default(),
        flow,
        &limits,
    );
    let took = Rc::new(std::cell::Cell::new(Duration::ZERO));
    let relay = pin!(counted(relay, Rc::clone(&took)));
    let hosts = pin!(join(client.exchange(BULK), origin.exchange(BULK)));
    // The relay has no end of its own here: the hosts say when they have everything.
    drop(select(hosts, relay).await);
    took.get()
}

async fn plain_bulk(world: &World) -> Duration {
    let took = Rc::new(std::cell::Cell::new(Duration::ZERO));
    for we_are_client in [true, false] {
        let (near, far) = pipe();
        let mut client = Bare::new(world.bare_client(), near);
        let mut server = Bare::new(world.bare_server(), far);
        join(client.handshake(), server.handshake()).await;
        if we_are_client {
            let ours = counted(client.exchange(BULK), Rc::clone(&took));
            join(ours, server.exchange(BULK)).await;
        } else {
            let ours = counted(server.exchange(BULK), Rc::clone(&took));
            join(client.exchange(BULK), ours).await;
        }
    }
    took.get()
}

/// The CPU time that a future takes, and not those beside it.
async fn measured(future: impl Future<Output = ()>) -> Duration {
    let took = Rc::new(std::cell::Cell::new(Duration::ZERO));
    counted(future, Rc::clone(&took)).await;
    took.get()
}

/// Adds what each step of a future takes.
async fn counted<T>(future: impl Future<Output = T>, took: Rc<std::cell::Cell<Duration>>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        let start = cpu();
        let polled = future.as_mut().poll(cx);
        took.set(took.get() + (cpu() - start));
        polled
    })
    .await
}

/// What this thread has taken so far: other programs on the machine do not count.
fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .unwrap()
        .into()
}

fn median(rounds: &[Round], of: impl Fn(&Round) -> f64) -> f64 {
    let mut values: Vec<f64> = rounds.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// `bound` is a ratio to the yardstick.
fn report(name: &str, value: f64, unit: &str, yardstick: f64, kind: &str, bound: f64) {
    println!(
        "{{\"measure\":\"{name}\",\"value\":{value:.2},\"unit\":\"{unit}\",\"yardstick\":{yardstick:.2},\"bound\":{:.2},\"kind\":\"{kind}\"}}",
        yardstick * bound
    );
}
