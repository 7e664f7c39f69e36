//! Thousands of small worlds: our engine against itself and against smoltcp over bad links.
//!
//! Each world is built from one seed. A failure prints it; `FLOWDOG_SEED=… cargo test -p
//! flowdog-tcp --test simulation NAME` replays it alone. `FLOWDOG_SEEDS=5000`, or `cargo xtask sim
//! --seeds 5000`, runs about so many of each kind; of those that take long, fewer.

#![expect(
    clippy::expect_used,
    reason = "a malformed seed is the developer's to mend"
)]

mod sim;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use flowdog_tcp::{Algorithm, Config, Instant, Seq, Takeover, TimestampSeed};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use sim::app::App;
use sim::engine::Engine;
use sim::link::{Bursts, CoDel, Link};
use sim::middlebox::Strip;
use sim::peer::{Offer, Smoltcp};
use sim::{Host, LEFT, Network, RIGHT};

const SECOND: u64 = 1_000_000;
const START: u64 = 1_000 * SECOND;

/// Runs `world` for each seed, or only for the one in the environment.
fn for_seeds(seeds: std::ops::Range<u64>, world: impl Fn(u64)) {
    if let Ok(seed) = std::env::var("FLOWDOG_SEED") {
        world(seed.parse().expect("FLOWDOG_SEED is a number"));
        return;
    }
    let count = std::env::var("FLOWDOG_SEEDS")
        .map(|count| count.parse().expect("FLOWDOG_SEEDS is a number"));
    // Kinds begin at multiples of a thousand; more than that many seeds may overlap harmlessly.
    // `FLOWDOG_SEEDS` is for worlds of a tenth of a second; the longest are fewer.
    let count = count.map(|count: u64| (count * (seeds.end - seeds.start)).div_ceil(100));
    for seed in seeds.start..count.map_or(seeds.end, |count: u64| seeds.start + count) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world(seed))) {
            eprintln!("replay with FLOWDOG_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn pick<T: Copy>(rng: &mut SmallRng, choices: &[T]) -> T {
    choices[rng.random_range(0..choices.len())]
}

/// Links of a seed: the same kind of trouble in both directions, loss up to `loss`.
fn links(rng: &mut SmallRng, loss: f64) -> [Link; 2] {
    let rate = pick(rng, &[2, 20, 200, 1000]) * 1_000_000;
    let delay = pick(rng, &[50, 1_000, 5_000, 25_000, 100_000]);
    let mut link = Link::new(rate, delay);
    link.loss = pick(rng, &[0.0, loss / 10.0, loss, loss]);
    link.duplicate = pick(rng, &[0.0, 0.01, 0.05]);
    link.corrupt = pick(rng, &[0.0, 0.005, 0.01]);
    link.jitter = pick(rng, &[0, 0, 100, delay / 2, delay * 2]);
    link.queue = pick(rng, &[30_000, 250_000, 4 << 20]);
    let mut back = link.clone();
    back.loss = pick(rng, &[0.0, link.loss]);
    [link, back]
}

fn config(rng: &mut SmallRng) -> Arc<Config> {
    Arc::new(Config {
        recv_buffer_max: pick(rng, &[20_000, 65_535, 300_000, 1 << 20]),
        send_buffer_max: pick(rng, &[8_000, 100_000, 1 << 20]),
        quick_acks: pick(rng, &[0, 16]),
        max_ranges: pick(rng, &[4, 256]),
        congestion: pick(rng, &[Algorithm::Cubic, Algorithm::Cubic, Algorithm::Bbr]),
        pacing: rng.random_bool(0.3),
        ..Config::default()
    })
}

/// Two take-overs that fit each other, as if the ends had shaken hands.
fn pair(rng: &mut SmallRng, now: u64) -> [Takeover; 2] {
    let isn = [rng.random(), pick(rng, &[0, u32::MAX - 70_000, 12_345_678])];
    let shifts = if rng.random_bool(0.2) {
        [0, 0]
    } else {
        [rng.random_range(0..=9), rng.random_range(0..=9)]
    };
    let sack = rng.random_bool(0.8);
    let timestamps = rng.random_bool(0.7);
    let tsval = [rng.random::<u32>(), u32::MAX - 3_000];
    let window = 65_535;
    let mss = pick(rng, &[536, 1460, 1460, 8460]);
    [0, 1].map(|side| Takeover {
        snd_nxt: Seq(isn[side]),
        rcv_nxt: Seq(isn[1 - side]),
        snd_wnd: window,
        snd_shift: shifts[1 - side],
        rcv_shift: shifts[side],
        rcv_right_edge: Seq(isn[1 - side]) + window,
        mss,
        sack,
        timestamps: timestamps.then_some(TimestampSeed {
            tsval: tsval[side],
            at: Instant(now),
            ts_recent: tsval[1 - side],
        }),
        ecn: false,
        srtt: None,
    })
}

fn shape(rng: &mut SmallRng, app: &mut App) {
    app.chunk = pick(rng, &[700, 16_384, 1 << 16]);
    app.read_pause = pick(rng, &[0, 0, 0, 2_000]);
    app.closes_first = rng.random_bool(0.7);
}

/// The time after which a transfer counts as stuck: many times what a reasonable sender needs.
fn patience(links: &[Link; 2], bytes: u64, chunk: [usize; 2], pause: [u64; 2]) -> u64 {
    let link = &links[0];
    let rtt = 2 * (link.delay + link.jitter) + 1000;
    let serial = bytes * 8 * SECOND / link.bits_per_second;
    let loss = (link.loss + links[1].loss + link.corrupt * 2.0).max(0.001);
    // Mathis with a small segment and a factor of ten.
    let rounds = (bytes as f64 / 500.0 * loss.sqrt() * 10.0) as u64;
    let reading: u64 = (0..2)
        .map(|side| bytes / chunk[side] as u64 * pause[side])
        .sum();
    let unlucky = if link.loss > 0.1 { 2_000 } else { 60 };
    unlucky * SECOND + 10 * serial + rounds * rtt + 4 * reading
}

fn run(network: &mut Network<'_>, limit: u64, what: &str) -> u64 {
    let done = network.run(START + limit, |hosts| {
        hosts
            .iter()
            .all(|host| host.app().has_everything() && host.is_closed())
    });
    assert!(
        done,
        "{what}: stuck after {} s\n{}\n{}\n{:?}",
        (network.now - START) / SECOND,
        network.hosts[0].describe(),
        network.hosts[1].describe(),
        network.links
    );
    network.now - START
}

/// What is wrong with a path besides iid loss, duplicates, corruption and jitter.
#[derive(Clone, Copy, PartialEq)]
enum Trouble {
    None,
    /// Loss in bursts of some packets.
    Bursts,
    /// A queue of RFC 8289.
    CoDel,
    /// Packets above a size vanish without a word.
    BlackHole,
    /// Options are missing from every segment although they were negotiated.
    Stripped,
    /// Resets, SYNs and acknowledgments from off the path.
    Spoofed,
    /// Hosts stand still and find that time has jumped.
    Stalls,
}

impl Trouble {
    fn befall(self, rng: &mut SmallRng, links: &mut [Link; 2]) {
        let strip = pick(rng, &[Strip::Sack, Strip::Timestamps]);
        for link in links {
            match self {
                Self::None | Self::Stalls => {}
                Self::Bursts => {
                    link.bursts = Some(Bursts {
                        enter: pick(rng, &[0.001, 0.005]),
                        leave: pick(rng, &[0.1, 0.3]),
                        loss: pick(rng, &[0.5, 1.0]),
                    });
                }
                Self::CoDel => {
                    link.codel = Some(CoDel::default());
                    link.queue = 4 << 20;
                }
                Self::BlackHole => link.mtu = pick(rng, &[1280, 1400, 4000]),
                Self::Stripped => link.strip = Some(strip),
                Self::Spoofed => link.spoof = 0.02,
            }
        }
    }
}

fn engine_world(seed: u64, loss: f64, sizes: [u64; 2]) {
    troubled_world(seed, loss, sizes, Trouble::None);
}

fn troubled_world(seed: u64, loss: f64, sizes: [u64; 2], trouble: Trouble) {
    world(seed, loss, sizes, trouble, Segments::OneByOne, 1);
}

/// How hosts take and give segments that follow each other.
#[derive(Clone, Copy, PartialEq)]
enum Segments {
    OneByOne,
    InRuns,
}

/// Everything that a world shows from outside, and what was done in company on the way.
#[derive(Debug, PartialEq)]
struct Seen {
    trace: u64,
    stats: [flowdog_tcp::Stats; 2],
}

fn world(
    seed: u64,
    loss: f64,
    sizes: [u64; 2],
    trouble: Trouble,
    segments: Segments,
    gathers: u64,
) -> (Seen, [u64; 2]) {
    let rng = &mut SmallRng::seed_from_u64(seed);
    let mut links = links(rng, loss);
    if trouble != Trouble::None {
        trouble.befall(rng, &mut links);
    }
    for link in &mut links {
        link.gathers = gathers;
    }
    let takeovers = pair(rng, START);
    let mut configs = [config(rng), config(rng)];
    if loss > 0.1 || trouble == Trouble::Bursts {
        // Bad luck for two minutes is to be expected here.
        for config in &mut configs {
            Arc::make_mut(config).user_timeout = None;
            Arc::make_mut(config).keepalive = None;
        }
    }
    let mut apps = [
        App::new(0, sizes[0], sizes[1]),
        App::new(1, sizes[1], sizes[0]),
    ];
    for app in &mut apps {
        shape(rng, app);
    }
    // Somebody has to begin.
    apps[0].closes_first |= !apps[1].closes_first;
    let limit = patience(
        &links,
        sizes[0] + sizes[1],
        [0, 1].map(|side| apps[side].chunk.min(configs[side].recv_buffer_max / 4)),
        [0, 1].map(|side| apps[side].read_pause),
    );
    let [app_left, app_right] = apps;
    let mut left = Engine::new(&configs[0], &takeovers[0], app_left, LEFT, RIGHT, START);
    let mut right = Engine::new(&configs[1], &takeovers[1], app_right, RIGHT, LEFT, START);
    for host in [&mut left, &mut right] {
        host.has_runs = segments == Segments::InRuns;
    }
    let mut total_loss = links[0].loss + links[1].loss + links[0].corrupt + links[1].corrupt;
    if trouble != Trouble::None {
        // What the trouble costs is not what is counted here.
        total_loss += 0.5;
    }
    let small_queue = links[0].queue < 100_000;
    let mut network = Network::new([&mut left, &mut right], links, START, seed);
    network.trace = Some(0);
    let mut limit = limit;
    if trouble == Trouble::Stalls {
        network.stalls = [Some((300_000, 2 * SECOND)), Some((50_000, 700_000))];
    }
    if trouble != Trouble::None {
        limit = 10 * limit + 600 * SECOND;
    }
    run(&mut network, limit, "engine and engine");
    let trace = network.trace.unwrap_or_default();
    for (host, takeover) in [(&left, &takeovers[0]), (&right, &takeovers[1])] {
        let stats = host.connection.stats();
        // If the last acknowledgments are lost until the peer has left TIME-WAIT, its CLOSED answers
        // with a reset; what it received is checked by its application.
        assert!(host.was_reset || stats.bytes_acked == host.app.to_send);
        assert_eq!(stats.bytes_received, host.app.expects);
        // Amplification: what left is in proportion to what there was to say and to what came.
        let segment = u64::from(takeover.mss - 12).min(host.app.chunk as u64);
        let least =
            host.app.to_send.div_ceil(segment) + host.app.to_send.div_ceil(host.app.chunk as u64);
        let bound = least + host.received_packets;
        let factor = 1.5 + 4.0 * total_loss + if small_queue { 0.5 } else { 0.0 };
        assert!(
            host.sent_packets as f64 <= factor * bound as f64 + 100.0,
            "{} packets where {bound} would do: {}",
            host.sent_packets,
            host.describe()
        );
    }
    let seen = Seen {
        trace,
        stats: [left.connection.stats(), right.connection.stats()],
    };
    let in_runs = [0, 1].map(|way| left.in_runs[way] + right.in_runs[way]);
    (seen, in_runs)
}

fn smoltcp_world(seed: u64, loss: f64, sizes: [u64; 2]) {
    let rng = &mut SmallRng::seed_from_u64(seed);
    let mut links = links(rng, loss);
    // smoltcp overruns a smaller queue again and again and backs off for minutes.
    links[1].queue = links[1].queue.max(250_000);
    // Each segment that is refused for want of ranges costs smoltcp a second.
    let config = Arc::new(Config {
        max_ranges: 256,
        ..config(rng).as_ref().clone()
    });
    let mut apps = [
        App::new(0, sizes[0], sizes[1]),
        App::new(1, sizes[1], sizes[0]),
    ];
    for app in &mut apps {
        shape(rng, app);
    }
    apps[0].closes_first |= !apps[1].closes_first;
    let buffers = pick(rng, &[16_000, 65_535, 1 << 20]);
    let mut limit = patience(
        &links,
        sizes[0] + sizes[1],
        [0, 1].map(|side| apps[side].chunk.min(4_000)),
        [0, 1].map(|side| apps[side].read_pause),
    );
    // A second for each loss, with back-off.
    limit +=
        (sizes[1] as f64 / 500.0 * (links[1].loss + links[0].loss + 0.03) * 10.0) as u64 * SECOND;
    let [app_left, app_right] = apps;
    let timestamps = rng.random_bool(0.5);
    let mut right = Smoltcp::new(
        app_right,
        pick(rng, &[576, 1500, 8500]),
        buffers,
        timestamps,
        seed,
    );
    let offer = Offer {
        isn: rng.random(),
        mss: pick(rng, &[536, 1460, 8460]),
        shift: if rng.random_bool(0.8) {
            Some(rng.random_range(0..=9))
        } else {
            None
        },
        sack: rng.random_bool(0.8),
        timestamps: rng.random_bool(0.8),
        window: pick(rng, &[4_096, 65_535]),
    };
    let takeover = if rng.random_bool(0.5) {
        right.connect(offer, START)
    } else {
        right.accept(offer, START)
    };
    let mut left = Engine::new(&config, &takeover, app_left, LEFT, RIGHT, START);
    run(
        &mut Network::new([&mut left, &mut right], links, START, seed),
        limit,
        "engine and smoltcp",
    );
    assert_eq!(left.connection.stats().bytes_acked, sizes[0]);
}

fn random_sizes(seed: u64, most: u64) -> [u64; 2] {
    let rng = &mut SmallRng::seed_from_u64(seed ^ 0x5125);
    let size = |rng: &mut SmallRng| match rng.random_range(0..4) {
        0 => rng.random_range(0..3_000),
        1 => rng.random_range(0..most / 10),
        _ => rng.random_range(0..most),
    };
    [size(rng), size(rng)]
}

#[test]
fn engine_and_engine_agree_at_one_percent_loss() {
    for_seeds(0..120, |seed| {
        engine_world(seed, 0.01, random_sizes(seed, 1_500_000))
    });
}

#[test]
fn engine_and_engine_agree_at_five_percent_loss() {
    for_seeds(1_000..1_120, |seed| {
        engine_world(seed, 0.05, random_sizes(seed, 700_000))
    });
}

#[test]
fn engine_and_engine_agree_at_thirty_percent_loss() {
    for_seeds(2_000..2_040, |seed| {
        engine_world(seed, 0.3, random_sizes(seed, 50_000))
    });
}

#[test]
fn engine_and_smoltcp_agree_at_one_percent_loss() {
    for_seeds(3_000..3_080, |seed| {
        smoltcp_world(seed, 0.01, random_sizes(seed, 1_000_000))
    });
}

#[test]
fn engine_and_smoltcp_agree_at_five_percent_loss() {
    for_seeds(4_000..4_060, |seed| {
        smoltcp_world(seed, 0.05, random_sizes(seed, 300_000))
    });
}

#[test]
fn twenty_megabytes_arrive_over_a_bad_link() {
    for_seeds(5_000..5_002, |seed| {
        engine_world(seed, 0.01, [20_000_000, 1_000])
    });
}

#[test]
fn engine_and_engine_agree_while_loss_comes_in_bursts() {
    for_seeds(6000..6060, |seed| {
        troubled_world(seed, 0.01, random_sizes(seed, 300_000), Trouble::Bursts);
    });
}

#[test]
fn engine_and_engine_agree_while_a_codel_queue_drops() {
    for_seeds(7000..7060, |seed| {
        troubled_world(seed, 0.01, random_sizes(seed, 1_000_000), Trouble::CoDel);
    });
}

#[test]
fn engine_and_engine_agree_while_large_packets_vanish() {
    for_seeds(8000..8060, |seed| {
        troubled_world(seed, 0.01, random_sizes(seed, 200_000), Trouble::BlackHole);
    });
}

#[test]
fn engine_and_engine_agree_while_options_are_stripped() {
    for_seeds(9000..9060, |seed| {
        troubled_world(seed, 0.02, random_sizes(seed, 500_000), Trouble::Stripped);
    });
}

#[test]
fn engine_and_engine_agree_while_segments_are_forged() {
    for_seeds(10000..10060, |seed| {
        troubled_world(seed, 0.01, random_sizes(seed, 500_000), Trouble::Spoofed);
    });
}

#[test]
fn engine_and_engine_agree_while_time_jumps() {
    for_seeds(11000..11060, |seed| {
        troubled_world(seed, 0.01, random_sizes(seed, 300_000), Trouble::Stalls);
    });
}

#[test]
fn runs_show_nothing_that_single_segments_do_not() {
    const ALL: [Trouble; 7] = [
        Trouble::None,
        Trouble::Bursts,
        Trouble::CoDel,
        Trouble::BlackHole,
        Trouble::Stripped,
        Trouble::Spoofed,
        Trouble::Stalls,
    ];
    let total = std::cell::Cell::new([0; 2]);
    for_seeds(12000..12070, |seed| {
        let trouble = ALL[seed as usize % ALL.len()];
        let sizes = random_sizes(seed, 400_000);
        let gathers = [1, 250, 2_000][seed as usize % 3];
        let world = |segments| world(seed, 0.01, sizes, trouble, segments, gathers);
        let (expected, _) = world(Segments::OneByOne);
        let (seen, in_runs) = world(Segments::InRuns);
        assert_eq!(seen, expected);
        let [taken, given] = total.get();
        total.set([taken + in_runs[0], given + in_runs[1]]);
    });
    let [taken, given] = total.get();
    assert!(
        taken > 3_000 && given > 5_000,
        "{taken} taken, {given} given"
    );
}

#[test]
fn a_burst_of_loss_ends_with_time_however_few_packets_meet_it() {
    let rng = &mut SmallRng::seed_from_u64(1);
    let mut link = Link::new(1_000_000, 1);
    let bursts = |enter| Bursts {
        enter,
        leave: 0.0,
        loss: 1.0,
    };
    let mut arrives = |link: &mut Link, seconds: u64| {
        let mut arrived = false;
        link.carry(vec![0; 100], seconds * SECOND, rng, |_, _| arrived = true);
        arrived
    };
    link.bursts = Some(bursts(1.0));
    assert!(!arrives(&mut link, 1));
    link.bursts = Some(bursts(0.0));
    assert!(!arrives(&mut link, 5));
    assert!(arrives(&mut link, 6));
}
