//! What a flow of ours takes from others on the same link, in virtual time.

mod sim;

use std::sync::Arc;

use flowdog_tcp::{Algorithm, Config};

use sim::app::App;
use sim::crowd::{Crowd, of_second_port, of_textbook};
use sim::engine::Engine;
use sim::link::Link;
use sim::measure::{Path, START, takeovers};
use sim::textbook::{Law, Textbook};
use sim::{Host, LEFT, Network, RIGHT, SECOND_PORT};

const SECOND: u64 = 1_000_000;
const PLENTY: u64 = 1 << 40;

/// A drop-tail queue of one product of bandwidth and delay.
const SHARED: Path = Path {
    mtu: 1500,
    megabits: 50,
    rtt: 20_000,
    loss: 0.0,
    queue: 125_000,
};

fn links(path: Path) -> [Link; 2] {
    let mut link = Link::new(path.megabits * 1_000_000, path.rtt / 2);
    link.loss = path.loss;
    link.queue = path.queue;
    let mut back = link.clone();
    back.loss = 0.0;
    [link, back]
}

fn engines(path: Path, algorithm: Algorithm, port: u16, seed: u64) -> [Engine; 2] {
    let config = Arc::new(Config {
        congestion: algorithm,
        ..Config::default()
    });
    let [left, right] = takeovers(path, seed);
    let [mut sends, mut receives] = [App::new(0, PLENTY, 0), App::new(1, 0, PLENTY)];
    for app in [&mut sends, &mut receives] {
        app.checks = false;
        app.closes_first = false;
    }
    let mut engines = [
        Engine::new(&config, &left, sends, LEFT, RIGHT, START),
        Engine::new(&config, &right, receives, RIGHT, LEFT, START),
    ];
    for engine in &mut engines {
        engine.port = port;
    }
    engines
}

/// Bytes that one flow gets for each byte of a textbook flow beside it.
fn share_beside(law: Law, path: Path, seed: u64) -> f64 {
    let [mut left, mut right] = engines(path, Algorithm::Cubic, sim::PORT, seed);
    // Out of step, as flows are.
    let begins = START + seed * 37_000;
    let mut sender = Textbook::new(law, true, path.mtu.into(), begins);
    let mut receiver = Textbook::new(law, false, path.mtu.into(), 0);
    run(
        [&mut left, &mut sender],
        [&mut right, &mut receiver],
        of_textbook,
        path,
        seed,
    );
    right.app.received as f64 / sender.delivered() as f64
}

fn run<'a>(
    left: [&'a mut dyn Host; 2],
    right: [&'a mut dyn Host; 2],
    belongs_to_second: fn(&[u8]) -> bool,
    path: Path,
    seed: u64,
) {
    let crowd = |hosts| Crowd {
        hosts,
        belongs_to_second,
    };
    let (mut left, mut right) = (crowd(left), crowd(right));
    Network::new([&mut left, &mut right], links(path), START, seed)
        .run(START + 60 * SECOND, |_| false);
}

fn mean(seeds: u64, figure: impl Fn(u64) -> f64) -> f64 {
    (1..=seeds).map(figure).sum::<f64>() / seeds as f64
}

#[test]
fn beside_a_textbook_cubic_our_cubic_takes_its_share() {
    let share = mean(4, |seed| share_beside(Law::Cubic, SHARED, seed));
    assert!((0.67..=1.5).contains(&share), "{share}");
}

#[test]
fn beside_a_textbook_reno_our_cubic_takes_no_more_than_cubic_may() {
    let share = mean(4, |seed| share_beside(Law::Reno, SHARED, seed));
    assert!((0.67..=2.0).contains(&share), "{share}");
}

#[test]
fn two_of_our_flows_share_evenly() {
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        let jain = mean(3, |seed| {
            let [mut left, mut right] = engines(SHARED, algorithm, sim::PORT, seed);
            let [mut left2, mut right2] = engines(SHARED, algorithm, SECOND_PORT, seed + 100);
            run(
                [&mut left, &mut left2],
                [&mut right, &mut right2],
                of_second_port,
                SHARED,
                seed,
            );
            let [a, b] = [right.app.received as f64, right2.app.received as f64];
            (a + b).powi(2) / (2.0 * (a * a + b * b))
        });
        assert!(jain > 0.9, "{algorithm:?}: {jain}");
    }
}

/// Loss that nobody causes: the same for the textbook and for us shows that goodput above another
/// stack's is the law's, not ours.
#[test]
fn under_random_loss_our_cubic_is_as_fast_as_the_textbooks() {
    for loss in [0.01, 0.03] {
        let path = Path {
            loss,
            megabits: 200,
            rtt: 10_000,
            queue: 4 << 20,
            ..SHARED
        };
        let ratio = mean(4, |seed| share_beside(Law::Cubic, path, seed));
        assert!((0.75..=1.15).contains(&ratio), "{loss}: {ratio}");
    }
}
