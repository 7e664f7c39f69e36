//! Proxies side by side, loaded in turns.
//!
//! The pace of a machine that is shared changes by a tenth from one second to the next, and by more than
//! what is to be told apart. So all that is compared stands at the same time, each gets short turns in an
//! order by chance, and what is printed is the ratio of the sums with its standard error. Some of a
//! process's pace is decided when it starts, so all of it is done again with fresh ones.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;

use crate::standing::{Proxy, Standing};
use crate::{EMPTY, Figures, HOST, Line, Load, secure};

/// One turn; what is told apart is lost in the rhythm of threads if it is shorter.
const TURN: Duration = Duration::from_millis(500);
/// Loads each proxy for so long in each round, where what is to be seen is some percent.
const SECONDS: u32 = 20;
/// What each proxy gets before anything counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// A figure beside its yardstick.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beside {
    pub(crate) value: f64,
    pub(crate) yardstick: f64,
    /// Standard error of their ratio.
    pub(crate) error: Option<f64>,
}

/// What a figure says.
pub(crate) type Of = fn(&Figures) -> f64;

/// How fast requests go: on the clock, of which the lab has most on a small machine, and by the CPU time of
/// the process with all its threads.
pub(crate) const PACES: [(&str, &str, Of); 2] = [
    ("requests per second on the wall", "1/s", |f| {
        f.requests as f64 / f.wall
    }),
    ("requests per CPU second", "1/s of CPU", |f| {
        f.requests as f64 / f.cpu
    }),
];

/// All turns of all proxies: for each round one of each.
pub(crate) struct Taken(Vec<Vec<Figures>>);

impl Taken {
    /// What the proxy at `ours` came to beside the one at `theirs`.
    pub(crate) fn beside(&self, ours: usize, theirs: usize, of: Of) -> Beside {
        let sum = |at: usize| self.0.iter().filter_map(|round| round.get(at)).sum();
        let (ours_sum, theirs_sum): (Figures, Figures) = (sum(ours), sum(theirs));
        let ratios: Vec<f64> = self
            .0
            .iter()
            .filter_map(|round| Some(of(round.get(ours)?) / of(round.get(theirs)?)))
            .collect();
        let count = ratios.len() as f64;
        let mean = ratios.iter().sum::<f64>() / count;
        let squares: f64 = ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum();
        Beside {
            value: of(&ours_sum),
            yardstick: of(&theirs_sum),
            error: (ratios.len() > 1).then(|| (squares / (count - 1.0) / count).sqrt()),
        }
    }
}

/// Loads the proxies in turns.
///
/// Everything is started `FLOWDOG_BENCH_ROUNDS` times (3), and each time every proxy is loaded for
/// `FLOWDOG_BENCH_SECONDS`, or `seconds`.
pub(crate) fn take(proxies: &[Proxy], load: Load, seconds: u32) -> Result<Taken> {
    let (rounds, seconds) = (setting("ROUNDS", 3)?, setting("SECONDS", seconds)?);
    let turns = (u128::from(seconds) * 1000 / TURN.as_millis()).max(1);
    let seed = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut taken = Vec::new();
    for round in 1..=rounds {
        tell(&format!(
            "{}: round {round} of {rounds}, {seconds} s of each of {}, order of seed {seed}",
            load.word(),
            proxies.len()
        ));
        let folder = tempfile::tempdir()?;
        secure::write_certificates(folder.path(), HOST)?;
        let mut standing = Vec::new();
        for (at, proxy) in proxies.iter().enumerate() {
            let own = folder.path().join(at.to_string());
            std::fs::create_dir(&own)?;
            let mut started = Standing::start(proxy, load, folder.path(), &own)?;
            started.turn(WARM_UP)?;
            standing.push(started);
        }
        let mut order: Vec<usize> = (0..standing.len()).collect();
        for _ in 0..turns {
            let mut figures = vec![Figures::default(); standing.len()];
            order.shuffle(&mut random);
            for at in &order {
                if let (Some(figures), Some(proxy)) = (figures.get_mut(*at), standing.get_mut(*at))
                {
                    *figures = proxy.turn(TURN)?;
                }
            }
            taken.push(figures);
        }
    }
    Ok(Taken(taken))
}

/// Requests through the appliance with `config` beside the same through one that does nothing. `least` is the
/// bound for requests per second on the wall, as a part of those.
pub(crate) fn beside_empty(
    config: String,
    loads: [Load; 2],
    what: &str,
    least: f64,
) -> Result<Vec<Line>> {
    let proxies = [Proxy::appliance(EMPTY), Proxy::appliance(config)];
    let mut lines = Vec::new();
    for load in loads {
        let taken = take(&proxies, load, SECONDS)?;
        for ((measure, unit, of), least) in PACES.into_iter().zip([Some(least), None]) {
            let measure = format!("{} {measure}, {what}", load.word());
            lines.push(Line::at_least(least, measure, unit, taken.beside(1, 0, of)));
        }
    }
    Ok(lines)
}

/// Loads each proxy once, one after the other: for what does not depend on pace.
pub(crate) fn take_once(proxies: &[Proxy], load: Load) -> Result<Taken> {
    tell(&format!("{}: once for each", load.word()));
    let mut figures = Vec::new();
    for proxy in proxies {
        let folder = tempfile::tempdir()?;
        secure::write_certificates(folder.path(), HOST)?;
        let own = folder.path().join("own");
        std::fs::create_dir(&own)?;
        figures.push(Standing::start(proxy, load, folder.path(), &own)?.turn(TURN)?);
    }
    Ok(Taken(vec![figures]))
}

fn setting(name: &str, default: u32) -> Result<u32> {
    let name = format!("FLOWDOG_BENCH_{name}");
    match std::env::var(&name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is {text:?}, which is not a number")),
        Err(_) => Ok(default),
    }
}

#[expect(clippy::print_stderr, reason = "a benchmark tells how far it is")]
fn tell(line: &str) {
    eprintln!("{line}");
}
