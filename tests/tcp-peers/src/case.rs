//! One transfer between the engine and the kernel.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Algorithm, Config, State};

use crate::kernel::{Kernel, Settings, Task};
use crate::opening::Opening;
use crate::sim::app::App;
use crate::sim::engine::Engine;
use crate::sim::link::Link;
use crate::sim::peer::Offer;
use crate::sim::{LEFT, RIGHT};
use crate::world::{Clock, Party, World};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// What is transferred over what, between whom.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The kernel's settings; the options are on at our end.
    pub settings: Settings,
    /// Our controller.
    pub algorithm: Algorithm,
    /// Bytes that we send, and bytes that the kernel sends.
    pub bytes: [u64; 2],
    /// Whether the kernel opens the connection.
    pub kernel_connects: bool,
    /// Loss in both directions.
    pub loss: f64,
    /// Bits a second.
    pub rate: u64,
    /// The round-trip time without queues.
    pub rtt: Duration,
    /// Bytes that wait at most before each link.
    pub queue: u64,
    /// Seed of the losses.
    pub seed: u64,
    /// Whether bytes are made and compared.
    pub checks: bool,
    /// When to give up.
    pub limit: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Until the last byte of both directions was read, or the limit.
    pub time: Duration,
    /// Bytes read by the kernel and by us.
    pub received: [u64; 2],
    /// Packets sent by us and by the kernel.
    pub packets: [u64; 2],
    /// Whether everything arrived and both ends saw the other one's end.
    pub complete: bool,
}

impl Case {
    /// Runs it.
    ///
    /// # Errors
    /// What the system refused, or how the transfer differs from what it has to be.
    pub fn run(&self) -> io::Result<Outcome> {
        let clock = Clock::start();
        let mut kernel = Kernel::new(THEIRS, self.settings)?;
        let task = Task {
            stream: 1,
            to_send: self.bytes[1],
            expects: self.bytes[0],
            checks: self.checks,
        };
        if self.kernel_connects {
            kernel.connect(OURS, task, clock)?;
        } else {
            kernel.listen(&[(OURS, task)], clock)?;
        }
        let mut opening = Opening {
            kernel: &mut kernel,
            local: OURS,
            remote: THEIRS,
            offer: Offer {
                isn: self.seed as u32 ^ 0x8000_0000,
                mss: self.settings.mtu - 40,
                shift: Some(8),
                sack: true,
                timestamps: true,
                window: 65_535,
            },
            rtt: self.rtt,
            clock,
        };
        let takeover = if self.kernel_connects {
            opening.answer()?
        } else {
            opening.ask()?
        };
        let config = Arc::new(Config {
            congestion: self.algorithm,
            // The test need not wait for it.
            time_wait: Duration::from_millis(10),
            ..Config::default()
        });
        let mut app = App::new(0, self.bytes[0], self.bytes[1]);
        app.checks = self.checks;
        let begun = clock.now();
        let mut engine = Engine::new(&config, &takeover, app, LEFT, RIGHT, begun);
        let mut link = Link::new(self.rate, self.rtt.as_micros() as u64 / 2);
        link.loss = self.loss;
        link.queue = self.queue;
        let wakes = kernel.wakes()?;
        let mut world = World::new(
            vec![
                Party {
                    host: &mut engine,
                    address: LEFT,
                    side: 0,
                    wakes: None,
                },
                Party {
                    host: &mut kernel,
                    address: RIGHT,
                    side: 1,
                    wakes: Some(wakes),
                },
            ],
            [link.clone(), link],
            clock,
            self.seed,
        );
        let mut read_at = None;
        let complete = world.run(self.limit, |parties, now| {
            let done = |index: usize| parties[index].host.app().has_everything();
            if done(0) && done(1) {
                read_at.get_or_insert(now);
            }
            done(0) && done(1) && parties.iter().all(|party| party.host.is_closed())
        })?;
        let time = read_at.unwrap_or_else(|| clock.now()) - begun;
        if let Some(failure) = kernel.connection(0).failure() {
            return Err(io::Error::other(format!("{failure}\n{engine:?}")));
        }
        let stats = engine.connection.stats();
        let is_over = engine.connection.state() == State::Closed;
        if complete && (stats.bytes_acked != self.bytes[0] || !is_over) {
            return Err(io::Error::other(format!("{stats:?}")));
        }
        Ok(Outcome {
            time: Duration::from_micros(time),
            received: [kernel.connection(0).received(), engine.app.received],
            packets: [engine.sent_packets, kernel.sent_packets],
            complete,
        })
    }
}
