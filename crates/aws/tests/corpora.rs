//! Replays the fuzz targets' committed seeds, so that what a fuzzer once found stays fixed without
//! a fuzzer at hand.

use std::path::Path;

use flowdog_aws::fuzzing;

#[test]
fn every_seed_of_the_fuzz_corpora_is_survived() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let targets: [(&str, fn(&[u8])); 2] = [
        ("ec2_answer", fuzzing::ec2_answer),
        ("ec2_event", fuzzing::ec2_event),
    ];
    for (target, run) in targets {
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpora.join(target)).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            run(&seed);
            // Every prefix, and every byte changed once.
            for at in 0..seed.len() {
                run(seed.get(..at).unwrap());
                for change in [0x01, 0x80, 0xff] {
                    let mut other = seed.clone();
                    *other.get_mut(at).unwrap() ^= change;
                    run(&other);
                }
            }
            replayed += 1;
        }
        assert!(
            replayed >= 4,
            "the corpus of {target} has only {replayed} seeds"
        );
    }
}
