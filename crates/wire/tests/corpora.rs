//! Replays the committed fuzz corpora, so that a bug once found stays found without a fuzzer.

use std::path::Path;

#[test]
fn the_committed_corpora_of_every_target_replay_without_panic() {
    let targets: [(&str, fn(&[u8])); 5] = [
        ("geneve", flowdog_wire::fuzzing::geneve),
        ("ip", flowdog_wire::fuzzing::ip),
        ("tcp", flowdog_wire::fuzzing::tcp),
        ("udp", flowdog_wire::fuzzing::udp),
        ("icmp", flowdog_wire::fuzzing::icmp),
    ];
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for (target, run) in targets {
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpora.join(target)).expect("a corpus for each target") {
            let path = entry.expect("a readable corpus").path();
            let bytes = std::fs::read(&path).expect("a readable seed");
            println!("{}", path.display());
            run(&bytes);
            // Cut short and with each bit flipped, a seed reaches the checks next to it.
            for len in 0..bytes.len().min(120) {
                run(&bytes[..len]);
                for bit in 0..8 {
                    let mut flipped = bytes.clone();
                    flipped[len] ^= 1 << bit;
                    run(&flipped);
                }
            }
            replayed += 1;
        }
        assert!(
            replayed >= 2,
            "the corpus of {target} has only {replayed} seeds"
        );
    }
}
