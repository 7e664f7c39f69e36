//! Replays the fuzz targets' committed seeds, so that what a fuzzer once found stays fixed without
//! a fuzzer at hand.

use std::path::Path;

use flowdog_interceptors::fuzzing;

#[test]
fn every_seed_of_the_fuzz_corpora_is_survived() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/dns");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let seed = std::fs::read(entry.unwrap().path()).unwrap();
        fuzzing::dns(&seed);
        // Every prefix, and every byte changed once.
        for at in 0..seed.len() {
            fuzzing::dns(seed.get(..at).unwrap());
            for change in [0x01, 0x80, 0xff] {
                let mut other = seed.clone();
                *other.get_mut(at).unwrap() ^= change;
                fuzzing::dns(&other);
            }
        }
        replayed += 1;
    }
    assert!(replayed >= 4, "the corpus has only {replayed} seeds");
}
