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
use crate::sim::{LEFT, RIGHT};
use crate::world::{Clock, Party, World};

pub(crate) const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// A link, the same in both directions.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// Largest packet, in bytes.
    pub mtu: u16,
    /// Bits a second.
    pub rate: u64,
    /// The round-trip time without queues.
    pub rtt: Duration,
    /// Loss in each direction.
    pub loss: f64,
    /// Bytes that wait at most.
    pub queue: u64,
}

impl Path {
    pub(crate) fn links(&self) -> [Link; 2] {
        let mut link = Link::new(self.rate, self.rtt.as_micros() as u64 / 2);
        link.loss = self.loss;
        link.queue = self.queue;
        [link.clone(), link]
    }
}

/// The kernel with everything on.
pub(crate) fn settings(mtu: u16, congestion: &'static str, buffers: Option<usize>) -> Settings {
    Settings {
        mtu,
        congestion,
        sack: true,
        timestamps: true,
        window_scaling: true,
        buffers,
    }
}

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
    /// What is between them.
    pub path: Path,
    /// Seed of the losses.
    pub seed: u64,
    /// When to give up.
    pub limit: Duration,
}

impl Case {
    /// Runs it: both ends check every byte they read.
    ///
    /// # Errors
    /// What the system refused, or how the transfer differs from what it has to be.
    pub fn run(&self) -> io::Result<()> {
        let clock = Clock::start();
        let mut kernel = Kernel::new(THEIRS, self.settings)?;
        let task = Task {
            stream: 1,
            to_send: self.bytes[1],
            expects: self.bytes[0],
            checks: true,
        };
        if self.kernel_connects {
            kernel.connect(OURS, task, clock)?;
        } else {
            kernel.listen(&[(OURS, task)], clock)?;
        }
        let mut opening = Opening::new(&mut kernel, OURS, THEIRS, &self.path, clock, self.seed);
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
        let app = App::new(0, self.bytes[0], self.bytes[1]);
        let mut engine = Engine::new(&config, &takeover, app, LEFT, RIGHT, clock.now());
        let wakes = kernel.wakes()?;
        let parties = vec![
            Party::new(&mut engine, LEFT, 0, None),
            Party::new(&mut kernel, RIGHT, 1, Some(wakes)),
        ];
        let mut world = World::new(parties, self.path.links(), clock, self.seed);
        let complete = world.run(self.limit, |parties, _| {
            parties
                .iter()
                .all(|party| party.host.app().has_everything() && party.host.is_closed())
        })?;
        let failure = kernel.connection(0).failure();
        let acked = engine.connection.stats().bytes_acked;
        let is_over = engine.connection.state() == State::Closed;
        if complete && failure.is_none() && acked == self.bytes[0] && is_over {
            return Ok(());
        }
        Err(io::Error::other(format!("{kernel:?}\n{engine:?}")))
    }
}
