//! The segment size in simulated worlds: paths that lose their size and get it back, and somebody off
//! the path who says that they did.

mod sim;

use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Config, Seq};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use sim::app::App;
use sim::engine::Engine;
use sim::link::Link;
use sim::measure::{Path, START, takeovers};
use sim::{Host, LEFT, Network, RIGHT};

const PATH: Path = Path {
    mtu: 8500,
    megabits: 50,
    rtt: 20_000,
    loss: 0.0,
    queue: 500_000,
};

fn pair(config: &Arc<Config>, bytes: u64, seed: u64) -> [Engine; 2] {
    let takeovers = takeovers(PATH, seed);
    [
        Engine::new(
            config,
            &takeovers[0],
            App::new(0, bytes, 0),
            LEFT,
            RIGHT,
            START,
        ),
        Engine::new(
            config,
            &takeovers[1],
            App::new(1, 0, bytes),
            RIGHT,
            LEFT,
            START,
        ),
    ]
}

fn links(loss: f64) -> [Link; 2] {
    let mut link = Link::new(PATH.megabits * 1_000_000, PATH.rtt / 2);
    (link.queue, link.loss) = (PATH.queue, loss);
    [link.clone(), link]
}

#[test]
fn a_path_that_gets_its_size_back_is_used_to_the_full_again() {
    for seed in 0..4u64 {
        let config = Arc::new(Config {
            mtu_raise_interval: Duration::from_secs(3),
            ..Config::default()
        });
        let [mut left, mut right] = pair(&config, 60_000_000, seed);
        let mut links = links([0.0, 0.005][seed as usize % 2]);
        links[0].mtu = 1_450;
        let mut network = Network::new([&mut left, &mut right], links, START, seed);
        // It takes some time-outs to see that full segments vanish.
        let narrow = network.run(START + 8_000_000, |hosts| hosts[1].app().has_everything());
        assert!(!narrow, "seed {seed}: faster than the narrow path allows");
        network.links[0].mtu = 9_000;
        let done = network.run(START + 600_000_000, |hosts| hosts[1].app().has_everything());
        assert!(done, "seed {seed}: {}", network.hosts[0].describe());
        drop(network);
        let stats = left.connection.stats();
        assert!(stats.size_probes >= 2, "seed {seed}: {stats:?}");
        // With segments of 1388 bytes it would be 43,000 packets, most of eight seconds' worth of
        // which have left.
        assert!(
            left.sent_packets < 30_000,
            "seed {seed}: {} packets, {stats:?}",
            left.sent_packets
        );
    }
}

/// A host that hears, at every turn, that one of its segments was too big; the numbers are guessed.
struct Harassed {
    engine: Engine,
    rng: SmallRng,
    believed: u32,
}

impl Host for Harassed {
    fn receive(&mut self, packet: &[u8], now: u64) {
        self.engine.receive(packet, now);
    }
    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        let guess = Seq(self.rng.random());
        self.believed += u32::from(self.engine.connection.packet_too_big(guess, 536));
        self.engine.turn(now, out);
    }
    fn wake_at(&mut self, now: u64) -> Option<u64> {
        self.engine.wake_at(now)
    }
    fn is_closed(&self) -> bool {
        self.engine.is_closed()
    }
    fn app(&self) -> &App {
        self.engine.app()
    }
    fn describe(&self) -> String {
        self.engine.describe()
    }
}

#[test]
fn forged_messages_do_not_shrink_segments() {
    let (mut guesses, mut believed) = (0, 0);
    for seed in 0..10u64 {
        let config = Arc::new(Config::default());
        let [left, mut right] = pair(&config, 3_000_000, seed);
        let mut left = Harassed {
            engine: left,
            rng: SmallRng::seed_from_u64(seed),
            believed: 0,
        };
        let mut network = Network::new([&mut left, &mut right], links(0.01), START, seed);
        let done = network.run(START + 600_000_000, |hosts| hosts[1].app().has_everything());
        assert!(done, "seed {seed}");
        drop(network);
        guesses += left.engine.received_packets;
        believed += left.believed;
        if left.believed == 0 {
            // Segments of 8448 bytes: 356 of them, and what was lost.
            assert!(
                left.engine.sent_packets < 450,
                "{}",
                left.engine.sent_packets
            );
        }
    }
    // A window of 200 kB is one of twenty thousand numbers.
    assert!(guesses > 1_000, "{guesses}");
    assert!(
        believed <= 2,
        "{believed} of {guesses} guesses were believed"
    );
}
