//! Replays the fuzz target's committed seeds, so that what a fuzzer once found stays fixed without a
//! fuzzer at hand.

use std::path::Path;

use flowdog_ssm::fuzzing;

#[test]
fn threat_74_every_seed_of_the_fuzz_corpus_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/ssm_channel");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        fuzzing::channel(&seed);
        // Prefixes, and bytes changed once, some of each: seeds are long.
        for at in (0..seed.len()).step_by(7) {
            fuzzing::channel(seed.get(..at).unwrap());
            let mut other = seed.clone();
            *other.get_mut(at).unwrap() ^= 1 << (at % 8);
            fuzzing::channel(&other);
        }
        replayed += 1;
    }
    assert!(replayed >= 6, "the corpus has only {replayed} seeds");
}
