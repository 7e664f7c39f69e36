//! What the kernel and the engine reach over the same link, each between two ends of its own kind,
//! and what they leave each other.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use flowdog_tcp::{Algorithm, Config};

use crate::case::{OURS, Path, THEIRS, settings};
use crate::kernel::{Kernel, Task};
use crate::opening::Opening;
use crate::sim::app::App;
use crate::sim::engine::Engine;
use crate::sim::measure::takeovers;
use crate::sim::{Host, LEFT, RIGHT};
use crate::world::{Clock, Party, START, World};

/// Where the second sender stands.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 3);
/// How long two flows may settle before their shares count.
const SETTLE: Duration = Duration::from_secs(3);

/// Whose TCP is at an end.
#[derive(Clone, Copy, Debug)]
pub enum Stack {
    /// The engine.
    Ours(Algorithm),
    /// The kernel, with this controller and buffers of so many bytes, or of its own choice.
    Linux(&'static str, Option<usize>),
}

/// A transfer in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// From the established connection to the last byte read, or to the limit.
    pub time: Duration,
    /// Bytes read.
    pub bytes: u64,
}

impl Transfer {
    /// Mbit/s.
    #[must_use]
    pub fn megabits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.time.as_micros() as f64
    }
}

fn task(stream: u8, to_send: u64, expects: u64) -> Task {
    Task {
        stream,
        to_send,
        expects,
        checks: false,
    }
}

fn app(task: Task) -> App {
    let mut app = App::new(task.stream, task.to_send, task.expects);
    app.checks = false;
    app.closes_first = false;
    app
}

/// Sends `bytes` over `path` between two ends with the same stack.
///
/// # Errors
/// What the system refused.
pub fn transfer(
    stack: Stack,
    path: &Path,
    bytes: u64,
    limit: Duration,
    seed: u64,
) -> io::Result<Transfer> {
    let clock = Clock::start();
    let tasks = [task(0, bytes, 0), task(1, 0, bytes)];
    match stack {
        Stack::Ours(congestion) => {
            let config = Arc::new(Config {
                congestion,
                ..Config::default()
            });
            let [left, right] = takeovers(
                crate::sim::measure::Path {
                    mtu: path.mtu,
                    megabits: path.rate / 1_000_000,
                    rtt: path.rtt.as_micros() as u64,
                    loss: path.loss,
                    queue: path.queue,
                },
                seed,
            );
            let mut left = Engine::new(&config, &left, app(tasks[0]), LEFT, RIGHT, START);
            let mut right = Engine::new(&config, &right, app(tasks[1]), RIGHT, LEFT, START);
            let begun = clock.now();
            let parties = vec![
                Party::new(&mut left, LEFT, 0, None),
                Party::new(&mut right, RIGHT, 1, None),
            ];
            let end = run(parties, path, clock, limit, seed)?;
            Ok(Transfer {
                time: Duration::from_micros(end.unwrap_or_else(|| clock.now()) - begun),
                bytes: right.app.received,
            })
        }
        Stack::Linux(congestion, buffers) => {
            let settings = settings(path.mtu, congestion, buffers);
            let mut left = Kernel::new(OURS, settings)?;
            let mut right = Kernel::new(THEIRS, settings)?;
            right.listen(&[(OURS, tasks[1])], clock)?;
            left.connect(THEIRS, tasks[0], clock)?;
            let wakes = [Some(left.wakes()?), Some(right.wakes()?)];
            let [wakes_left, wakes_right] = wakes;
            let parties = vec![
                Party::new(&mut left, LEFT, 0, wakes_left),
                Party::new(&mut right, RIGHT, 1, wakes_right),
            ];
            let end = run(parties, path, clock, limit, seed)?;
            let begun = left.connection(0).begun_at();
            if begun == 0 {
                return Err(io::Error::other(format!("no connection: {left:?}")));
            }
            let end = end.unwrap_or_else(|| clock.now());
            Ok(Transfer {
                time: Duration::from_micros(end.saturating_sub(begun)),
                bytes: right.connection(0).received(),
            })
        }
    }
}

/// Until the right end has read everything; answers when.
fn run(
    parties: Vec<Party<'_>>,
    path: &Path,
    clock: Clock,
    limit: Duration,
    seed: u64,
) -> io::Result<Option<u64>> {
    let mut end = None;
    World::new(parties, path.links(), clock, seed).run(limit, |parties, _| {
        end = parties[1].host.app().complete_at;
        end.is_some()
    })?;
    Ok(end)
}

/// The goodput, in Mbit/s, of two flows that share a link for `time`: the first one's sender is the
/// kernel with CUBIC, the second one's is `second`. Both receivers are the kernel.
///
/// # Errors
/// What the system refused.
pub fn share(second: Stack, path: &Path, time: Duration, seed: u64) -> io::Result<[f64; 2]> {
    const PLENTY: u64 = 1 << 40;
    let clock = Clock::start();
    let cubic = settings(path.mtu, "cubic", None);
    let mut receiver = Kernel::new(THEIRS, cubic)?;
    let tasks = [(OURS, task(1, 0, PLENTY)), (OTHER, task(1, 0, PLENTY))];
    receiver.listen(&tasks, clock)?;
    let mut engine;
    let mut kernel;
    let (host, wakes): (&mut dyn Host, _) = match second {
        Stack::Ours(congestion) => {
            let mut opening = Opening::new(&mut receiver, OTHER, THEIRS, path, clock, seed);
            let takeover = opening.ask()?;
            let config = Arc::new(Config {
                congestion,
                ..Config::default()
            });
            let app = app(task(0, PLENTY, 0));
            engine = Engine::new(&config, &takeover, app, OTHER.into(), RIGHT, clock.now());
            (&mut engine, None)
        }
        Stack::Linux(congestion, buffers) => {
            kernel = Kernel::new(OTHER, settings(path.mtu, congestion, buffers))?;
            kernel.connect(THEIRS, task(0, PLENTY, 0), clock)?;
            let wakes = kernel.wakes()?;
            (&mut kernel, Some(wakes))
        }
    };
    let mut first = Kernel::new(OURS, cubic)?;
    first.connect(THEIRS, task(0, PLENTY, 0), clock)?;
    let first_wakes = first.wakes()?;
    let received = [0, 1].map(|index| Arc::clone(receiver.connection(index)));
    let receiver_wakes = receiver.wakes()?;
    let mut world = World::new(
        vec![
            Party::new(&mut first, LEFT, 0, Some(first_wakes)),
            Party::new(&mut receiver, RIGHT, 1, Some(receiver_wakes)),
            Party::new(host, OTHER.into(), 0, wakes),
        ],
        path.links(),
        clock,
        seed,
    );
    let count = || [0, 1].map(|index| received[index].received());
    world.run(SETTLE, |_, _| false)?;
    let (before, begun) = (count(), clock.now());
    world.run(time, |_, _| false)?;
    let (after, end) = (count(), clock.now());
    Ok([0, 1].map(|index| (after[index] - before[index]) as f64 * 8.0 / (end - begun) as f64))
}
