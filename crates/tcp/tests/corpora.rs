//! Replays the committed seeds of the fuzz targets, and scripts drawn at random.

#![expect(clippy::expect_used, reason = "without its corpus the test fails")]

use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// Answers how many of them `run` takes.
fn replay(target: &str, run: impl Fn(&[u8]) -> bool) -> usize {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let (mut replayed, mut taken) = (0, 0);
    for entry in std::fs::read_dir(corpus.join(target)).expect("a corpus for the target") {
        let path = entry.expect("a readable corpus").path();
        taken += usize::from(run(&std::fs::read(&path).expect("a readable seed")));
        replayed += 1;
    }
    assert!(replayed >= 8, "the corpus has only {replayed} seeds");
    taken
}

#[test]
fn committed_seeds_pass() {
    replay("tcp_segments", |seed| {
        flowdog_tcp::fuzzing::segments(seed);
        true
    });
    replay("tcp_adversary", |seed| {
        flowdog_tcp::fuzzing::adversary(seed);
        true
    });
    // Seeds of a form that is not read any more find nothing.
    assert!(replay("tcp_import", flowdog_tcp::fuzzing::import) >= 8);
}

#[test]
fn random_scripts_pass() {
    let count = std::env::var("FLOWDOG_SEEDS").map_or(2_000, |count| {
        count.parse().expect("FLOWDOG_SEEDS is a number")
    });
    for seed in 0..count {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut script = vec![0; 1 + 8 * rng.random_range(1..200usize)];
        rng.fill_bytes(&mut script);
        for step in script[1..].chunks_exact_mut(8) {
            // Near the expected numbers most of the time.
            if rng.random_bool(0.8) {
                step[1..3].copy_from_slice(&rng.random_range(8_192..12_000u16).to_be_bytes());
                step[3..5].copy_from_slice(&rng.random_range(0..4_000u16).to_be_bytes());
            }
        }
        flowdog_tcp::fuzzing::segments(&script);
    }
}

#[test]
fn random_adversaries_change_nothing() {
    let count = std::env::var("FLOWDOG_SEEDS").map_or(2_000, |count| {
        count.parse().expect("FLOWDOG_SEEDS is a number")
    });
    for seed in 0..count {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut script = vec![0; 1 + 4 * rng.random_range(1..400usize)];
        rng.fill_bytes(&mut script);
        flowdog_tcp::fuzzing::adversary(&script);
    }
}
