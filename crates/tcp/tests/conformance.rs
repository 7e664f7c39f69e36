//! The table of requirements names tests; each of them exists.

#![expect(clippy::expect_used, reason = "without its files the test fails")]

use std::path::Path;

/// Appends the text of every Rust file below `folder`.
fn collect(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("a readable folder").path();
        if path.is_dir() {
            collect(&path, text);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).expect("a readable source"));
        }
    }
}

#[test]
fn every_test_that_the_conformance_table_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let table = std::fs::read_to_string(root.join("docs/conformance-tcp.md")).expect("the table");
    let mut sources = String::new();
    for folder in [
        "crates/tcp/src",
        "crates/tcp/tests",
        "crates/dataplane/src",
        "crates/dataplane/tests",
        "tests/tcp-peers/tests",
        "tests/packetdrill/tests",
    ] {
        collect(&root.join(folder), &mut sources);
    }
    let mut named = 0;
    for line in table.lines().filter(|line| line.starts_with('|')) {
        // Every second piece stands between backticks; tests are the names with underscores.
        for name in line.split('`').skip(1).step_by(2) {
            let is_test = name.contains('_') && !name.contains("::") && !name.contains('/');
            if is_test {
                assert!(
                    sources.contains(&format!("fn {name}("))
                        || sources.contains(&format!("\"{name}\"")),
                    "docs/conformance-tcp.md names {name}, which does not exist"
                );
                named += 1;
            }
        }
    }
    assert!(named > 60, "only {named} tests are named");
}
