//! Replays the committed seeds of the fuzz target, and scripts drawn at random.

use std::path::Path;

use flowdog_dataplane::fuzzing::tracker;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

#[test]
fn committed_seeds_pass() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/tracker");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).expect("a corpus for the target") {
        let path = entry.expect("a readable corpus").path();
        tracker(&std::fs::read(&path).expect("a readable seed"));
        replayed += 1;
    }
    assert!(replayed >= 8, "the corpus has only {replayed} seeds");
}

/// A handshake, so that what follows means something.
const HANDSHAKE: [[u8; 6]; 3] = [
    [0, 0, 0, 0, 0xff, 0],
    [0x80, 1, 0, 0, 0xff, 0],
    [0, 5, 0, 0, 0xff, 0],
];

#[test]
fn random_scripts_pass() {
    let count = std::env::var("FLOWDOG_SEEDS").map_or(2_000, |count| {
        count.parse().expect("FLOWDOG_SEEDS is a number")
    });
    for seed in 0..count {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut script = vec![rng.random()];
        if rng.random_bool(0.8) {
            script.extend_from_slice(HANDSHAKE.as_flattened());
        }
        let mut steps = vec![0; 6 * rng.random_range(1..200usize)];
        rng.fill_bytes(&mut steps);
        for step in steps.chunks_exact_mut(6) {
            // Data and acknowledgments most of the time; a reset ends all.
            if rng.random_bool(0.9) {
                step[1] = step[1] & 0xf0 | 5;
            }
        }
        script.append(&mut steps);
        tracker(&script);
    }
}
