//! Replays the fuzz targets' committed seeds, so that what a fuzzer once found stays fixed without
//! a fuzzer at hand.

use std::path::Path;

#[test]
fn every_seed_of_the_fuzz_corpora_is_survived() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    let targets: [(&str, fn(&[u8])); 4] = [
        ("quic_initial", flowdog_tls::fuzzing::quic_initial),
        ("ocsp_answer", flowdog_tls::fuzzing::ocsp_answer),
        ("client_hello", flowdog_tls::fuzzing::client_hello),
        (
            "server_certificate",
            flowdog_tls::fuzzing::server_certificate,
        ),
    ];
    for (target, run) in targets {
        let mut replayed = 0;
        for entry in std::fs::read_dir(corpora.join(target)).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            replayed += 1;
        }
        assert!(
            replayed >= 4,
            "the corpus of {target} has only {replayed} seeds"
        );
    }
}
