//! Replays the fuzz targets' committed seeds, so that what a fuzzer once found stays fixed without
//! a fuzzer at hand.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use flowdog_proxy::fuzzing;
use proptest::prelude::*;

const TARGETS: [(&str, fn(&[u8])); 5] = [
    ("http1_request", fuzzing::http1_request),
    ("http1_response", fuzzing::http1_response),
    ("starttls", fuzzing::starttls),
    ("http2_frames", fuzzing::http2_frames),
    ("websocket_frame", fuzzing::websocket_frame),
];

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let mut paths: Vec<_> = std::fs::read_dir(corpora.join(target))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

#[test]
fn every_seed_of_the_fuzz_corpora_is_survived() {
    for (target, run) in TARGETS {
        let seeds = seeds(target);
        assert!(seeds.len() >= 4, "the corpus of {target} is too small");
        for seed in seeds {
            run(&seed);
        }
    }
}

proptest! {
    #[test]
    fn mutated_seeds_are_survived(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..6),
    ) {
        for (target, run) in TARGETS {
            let seeds = seeds(target);
            let mut bytes = pick.get(&seeds).clone();
            for (at, byte, kind) in &edits {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = *byte,
                    1 => bytes.insert(at, *byte),
                    _ => {
                        bytes.remove(at);
                    }
                }
            }
            run(&bytes);
        }
    }
}
