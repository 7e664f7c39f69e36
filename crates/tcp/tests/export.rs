//! Connections that move to another process in the middle of a transfer.

#![expect(clippy::expect_used, reason = "a test may fail by panicking")]

mod sim;

use std::sync::Arc;

use flowdog_tcp::{Algorithm, Config, Connection, ImportError, Instant};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use sim::app::App;
use sim::engine::Engine;
use sim::link::Link;
use sim::measure::{Path, START, takeovers};
use sim::{Host, LEFT, Network, RIGHT};

/// A host whose connection is exported and imported again and again.
struct Moving {
    engine: Engine,
    config: Arc<Config>,
    rng: SmallRng,
    moves: u32,
}

impl Host for Moving {
    fn receive(&mut self, packet: &[u8], now: u64) {
        self.engine.receive(packet, now);
    }

    fn turn(&mut self, now: u64, out: &mut Vec<Vec<u8>>) {
        if self.rng.random_bool(0.05)
            && let Some(bytes) = self.engine.connection.export(Instant(now))
        {
            let imported =
                Connection::import(&self.config, &bytes, Instant(now)).expect("an export");
            // The same moment gives the same bytes.
            assert_eq!(imported.export(Instant(now)).as_ref(), Some(&bytes));
            self.engine.connection = imported;
            self.moves += 1;
        }
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
fn a_transfer_goes_on_through_many_moves_of_both_ends() {
    let mut moves = 0;
    for seed in 0..40u64 {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let loss = [0.0, 0.01, 0.05][rng.random_range(0..3)];
        let path = Path {
            mtu: [1500, 8500][rng.random_range(0..2)],
            megabits: 50,
            rtt: 20_000,
            loss,
            queue: 100_000,
        };
        let mut takeovers = takeovers(path, seed);
        let (sack, stamps) = (rng.random_bool(0.7), rng.random_bool(0.7));
        for takeover in &mut takeovers {
            takeover.sack = sack;
            takeover.timestamps = takeover.timestamps.filter(|_| stamps);
        }
        let config = Arc::new(Config {
            congestion: [Algorithm::Cubic, Algorithm::Bbr][rng.random_range(0..2)],
            ..Config::default()
        });
        let mut hosts = [0u8, 1].map(|side| {
            let mut app = App::new(side, 300_000, 300_000);
            app.read_pause = [0, 2_000][rng.random_range(0..2)];
            let ends = [(LEFT, RIGHT), (RIGHT, LEFT)][usize::from(side)];
            let takeover = &takeovers[usize::from(side)];
            Moving {
                engine: Engine::new(&config, takeover, app, ends.0, ends.1, START),
                config: Arc::clone(&config),
                rng: SmallRng::seed_from_u64(seed ^ u64::from(side)),
                moves: 0,
            }
        });
        let mut link = Link::new(path.megabits * 1_000_000, path.rtt / 2);
        link.loss = loss;
        link.jitter = [0, 3_000][rng.random_range(0..2)];
        link.queue = path.queue;
        let [left, right] = &mut hosts;
        let mut network = Network::new([left, right], [link.clone(), link], START, seed);
        let done = network.run(START + 300_000_000, |hosts| {
            hosts
                .iter()
                .all(|host| host.app().has_everything() && host.is_closed())
        });
        assert!(
            done,
            "seed {seed}: stuck\n{}\n{}",
            network.hosts[0].describe(),
            network.hosts[1].describe()
        );
        moves += hosts[0].moves + hosts[1].moves;
    }
    assert!(moves > 1_000, "only {moves} moves");
}

/// A connection with something of everything: unread bytes, a hole, data in flight.
fn busy() -> (Arc<Config>, Vec<u8>, Instant) {
    // Within what the fuzz target allows.
    let config = Arc::new(Config {
        recv_buffer_max: 32_768,
        send_buffer_max: 32_768,
        ..Config::default()
    });
    let path = Path {
        mtu: 1500,
        megabits: 10,
        rtt: 20_000,
        loss: 0.0,
        queue: 100_000,
    };
    let [own, _] = takeovers(path, 3);
    let now = Instant(START);
    let mut connection = Connection::new(&config, &own, now);
    connection.write(&[7; 20_000]);
    let mut repr = None;
    while let Some(transmit) = connection.poll_transmit(now) {
        repr.get_or_insert(transmit.repr);
    }
    let mut arriving = repr.expect("something was sent");
    (arriving.seq, arriving.ack) = (arriving.ack, arriving.seq);
    arriving.options.timestamps = None;
    connection.handle_segment(&arriving, &[1; 700], false, now);
    arriving.seq += 2_000;
    connection.handle_segment(&arriving, &[2; 500], false, now);
    let bytes = connection.export(now).expect("it is open");
    (config, bytes, now)
}

#[test]
fn the_importer_may_have_another_clock() {
    let (config, bytes, now) = busy();
    let before = Connection::import(&config, &bytes, now).expect("an export");
    let elsewhere = Instant::from_millis(77);
    let mut after = Connection::import(&config, &bytes, elsewhere).expect("an export");
    let wait = |connection: &Connection, now| connection.poll_timeout().map(|at| at.since(now));
    assert_eq!(wait(&after, elsewhere), wait(&before, now));
    assert_eq!(after.readable(), 700);
    assert_eq!(after.unsent_or_unacked(), 20_000);
    let first = after.poll_transmit(elsewhere).expect("the acknowledgment");
    let stamps = first.repr.options.timestamps.expect("negotiated");
    // 50 ms after the value of 1 that was seen.
    assert_eq!(stamps.tsval, 51);
}

#[test]
fn no_bytes_but_an_export_are_taken() {
    let (config, bytes, now) = busy();
    let import = |bytes: &[u8]| Connection::import(&config, bytes, now).map(|_| ());
    assert_eq!(import(&bytes), Ok(()));
    assert_eq!(import(b""), Err(ImportError::NotAnExport));
    assert_eq!(import(b"GET / HTTP/1.1"), Err(ImportError::NotAnExport));
    let mut other = bytes.clone();
    other[5] = 9;
    assert_eq!(import(&other), Err(ImportError::UnknownVersion(9)));
    for end in 6..bytes.len() {
        assert!(import(&bytes[..end]).is_err(), "{end}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(import(&longer), Err(ImportError::TrailingBytes));
    let small = Arc::new(Config {
        send_buffer_max: 10_000,
        ..Config::default()
    });
    let refused = Connection::import(&small, &bytes, now).map(|_| ());
    assert!(matches!(refused, Err(ImportError::TooLarge(_))));
}

#[test]
fn changed_exports_are_refused_or_harmless() {
    let (_, bytes, _) = busy();
    let rng = &mut SmallRng::seed_from_u64(1);
    assert!(flowdog_tcp::fuzzing::import(&bytes));
    // Bytes of the queues change nothing; the fields around them do.
    let fields: Vec<usize> = (6..bytes.len())
        .filter(|&at| {
            !bytes[at - 3..bytes.len().min(at + 4)]
                .iter()
                .all(|byte| [1, 2, 7].contains(byte))
        })
        .collect();
    assert!(fields.len() < 700, "{}", fields.len());
    for _ in 0..4_000 {
        let mut changed = bytes.clone();
        for _ in 0..rng.random_range(1..4) {
            changed[fields[rng.random_range(0..fields.len())]] ^= 1 << rng.random_range(0..8);
        }
        flowdog_tcp::fuzzing::import(&changed);
    }
}
