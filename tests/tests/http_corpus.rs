//! The request corpus of gunicorn, byte for byte as a client's, through the lab to an origin that
//! records: what is invalid is refused and never seen, what is valid is seen with the same meaning.

use anyhow::Result;
use flowdog_tests::lab::Lab;

/// Serves one connection after the other and writes down each request that it reads, in a file
/// named after the client's port.
const RECORDER: &str = include_str!("http/recorder.py");

/// Sends each file of the corpus and compares.
const CLIENT: &str = include_str!("http/gunicorn_corpus.py");

#[test]
fn threat_01_to_10_the_gunicorn_corpus_is_refused_or_seen_with_the_same_meaning() -> Result<()> {
    let corpus = flowdog_tests::corpus("gunicorn")?;
    let lab = Lab::new()?
        // gunicorn's own limits, so that the files that exceed them do so here.
        .config(
            "[proxy]\ntarget = \"4094B\"\nhead = \"12KiB\"\nhead-time = \"3s\"\nheader-count = 100\n\
             [[rule]]\naction = \"intercept\"\n",
        )?
        .server(RECORDER)?;
    let folder = lab.folder().display().to_string();
    let program = CLIENT
        .replace("@FOLDER@", &folder)
        .replace("@CORPUS@", &corpus.display().to_string());
    let outcome = lab.python(&program)?;
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("OK"), "{}", outcome.stdout);
    Ok(())
}
