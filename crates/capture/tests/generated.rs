//! The code that is generated from `proto/` is committed, so that building flowdog takes no compiler for
//! it. Here it is generated anew and compared; `FLOWDOG_WRITE_GENERATED=1` writes it.

use std::path::Path;

#[test]
fn the_generated_code_is_what_the_proto_files_say() {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let protos = crate_folder.join("proto");
    let folder = tempfile::tempdir().unwrap();
    let files = ["vpcshark.proto", "capture.proto"].map(|name| protos.join(name));
    let descriptors = protox::compile(files, [&protos]).unwrap();
    tonic_prost_build::configure()
        .out_dir(folder.path())
        .compile_fds(descriptors)
        .unwrap();
    for (made, committed) in [
        ("flowdog.capture.v1.rs", "flowdog.capture.v1.rs"),
        ("_.rs", "vpcshark.rs"),
    ] {
        let made = std::fs::read_to_string(folder.path().join(made)).unwrap();
        let committed = crate_folder.join("src/generated").join(committed);
        if std::env::var_os("FLOWDOG_WRITE_GENERATED").is_some() {
            std::fs::write(&committed, &made).unwrap();
        }
        let known = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(
            made == known,
            "{} is old: run this test with FLOWDOG_WRITE_GENERATED=1",
            committed.display()
        );
    }
}
