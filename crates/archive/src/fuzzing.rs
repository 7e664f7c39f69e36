//! What the fuzz target in `fuzz/` runs, and what the replay of its committed corpus runs in the
//! ordinary tests.
#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "panicking is how a fuzz target reports a bug"
)]

use std::time::SystemTime;

use records::Redaction;
use sdk::{Direction, FieldName, HeaderValue, Method, Request, StatusCode, Target};
use serde_json::Value;

use crate::entry::{Answer, Captured, Cut, Entry, Messages, Said};
use crate::har::Writer;
use crate::key::plain;
use crate::secrets::scrub;

const SECRET: &str = "planted-secret";

/// What a peer said, everywhere in an archive: the archive is JSON, its names are plain, and a secret
/// beside what was said stays out of it.
pub fn archive(bytes: &[u8]) {
    let name = plain(&String::from_utf8_lossy(bytes));
    assert!(!name.starts_with('.') && !name.contains("..") && !name.contains('/'));

    let text = String::from_utf8_lossy(bytes);
    let body = serde_json::json!({ "a": text, "token": SECRET }).to_string();
    let scrubbed = scrub(&body, &Redaction::default());
    assert!(!scrubbed.contains(SECRET), "{scrubbed}");

    let (first, rest) = bytes.split_first().unwrap_or((&0, bytes));
    let writer = Writer {
        redaction: Redaction::default(),
        is_by_host: true,
    };
    let line = writer.write(entry(*first, rest));
    let (begin, end) = (Writer::BEGIN.as_bytes(), Writer::END.as_bytes());
    let out = [begin, line.bytes(true), line.bytes(false), end].concat();
    let archive: Value = serde_json::from_slice(&out).expect("an archive is JSON");
    let url = archive["log"]["entries"][0]["request"]["url"].as_str();
    let url = url.expect("an address");
    assert!(url.bytes().all(|b| b.is_ascii_graphic()), "{url}");
}

fn entry(kind: u8, bytes: &[u8]) -> Entry {
    let target = Target::parse(&Method::POST, bytes).unwrap_or(Target::Asterisk);
    let mut request = Request::new(Method::POST, target);
    let codings = ["gzip", "br", "zstd", "deflate", "identity", "x"];
    let coding = codings.get(usize::from(kind % 6)).unwrap_or(&"x");
    let fields = [
        ("Content-Encoding", coding.as_bytes()),
        ("Content-Type", b"application/x-www-form-urlencoded"),
        ("Cookie", bytes),
        ("Host", bytes),
        ("Set-Cookie", bytes),
        ("Location", bytes),
    ];
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            request.headers.append(FieldName::from_static(name), value);
        }
    }
    let body = Captured {
        data: bytes.to_vec().into(),
        size: bytes.len() as u64,
        cut: (kind & 0x80 != 0).then_some(Cut::Long),
        trailers: Some(request.headers.clone()),
    };
    let said = |is_text| Said {
        at: SystemTime::UNIX_EPOCH,
        direction: Direction::ToServer,
        is_text,
        data: bytes.to_vec().into(),
        size: bytes.len(),
    };
    Entry {
        request_body: body.clone(),
        response: Some(Answer {
            status: StatusCode::OK,
            reason: String::from_utf8_lossy(bytes).into_owned(),
            version: request.version,
            headers: request.headers.clone(),
            body,
        }),
        messages: Some(Messages {
            list: vec![said(true), said(false)],
            ..Messages::default()
        }),
        ..Entry::sample(&request)
    }
}

/// A file that somebody put among the tables: whatever is in it, it has rows or a fault, and what comes of
/// a map is JSON.
#[cfg(feature = "reading")]
pub fn table(bytes: &[u8]) {
    use core::cell::Cell as Flag;
    use core::ops::ControlFlow;
    use std::panic::{self, AssertUnwindSafe, catch_unwind};
    use std::sync::Once;

    use crate::table::reading::{self, Cell, Kind, Told, Wanted};

    thread_local! {
        static IS_READING: Flag<bool> = const { Flag::new(false) };
    }
    // What the outside crate panics at is a fault of the file, and no finding; what aborts is one.
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !IS_READING.get() {
                others(panic);
            }
        }));
    });

    let columns = reading::columns();
    let (mut rows, mut broken) = (0, None);
    let mut tell = |told| {
        let Told::Rows(batch) = told else {
            return ControlFlow::Continue(());
        };
        for row in 0..batch.rows() {
            for (at, column) in columns.iter().enumerate() {
                if let Cell::Text(text) = batch.cell(row, at)
                    && column.kind == Kind::Map
                    && serde_json::from_str::<Value>(&text).is_err()
                {
                    broken = Some(text.into_owned());
                }
            }
        }
        rows += batch.rows();
        // A few bytes may stand for millions of nulls.
        match rows {
            ..10_000 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    };
    IS_READING.set(true);
    let read = AssertUnwindSafe(|| {
        let name = "date=2026-01-02/etld1=example.com/a.parquet";
        reading::read_bytes(bytes.to_vec().into(), name, &Wanted::all(), &mut tell)
    });
    let _ = catch_unwind(read);
    IS_READING.set(false);
    assert_eq!(broken, None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_66_the_committed_corpus_and_damaged_seeds_make_valid_archives() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/archive");
        let mut replayed = 0;
        for seed in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(seed.unwrap().path()).unwrap();
            archive(&bytes);
            for at in 0..bytes.len() {
                archive(bytes.get(..at).unwrap());
                for flip in [0x01, 0x20, 0x80] {
                    let mut damaged = bytes.clone();
                    *damaged.get_mut(at).unwrap() ^= flip;
                    archive(&damaged);
                }
            }
            replayed += 1;
        }
        assert!(replayed >= 5, "the corpus has only {replayed} seeds");
    }

    #[test]
    #[cfg(feature = "reading")]
    fn threat_66_the_committed_corpus_and_damaged_seeds_of_tables_have_rows_or_faults() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/table");
        let mut replayed = 0;
        for seed in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(seed.unwrap().path()).unwrap();
            table(&bytes);
            // Each byte of the directory, and every seventh of the pages.
            for at in (0..bytes.len())
                .step_by(7)
                .chain(bytes.len() - 700..bytes.len())
            {
                for flip in [0x01, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    *damaged.get_mut(at).unwrap() ^= flip;
                    table(&damaged);
                }
            }
            replayed += 1;
        }
        assert!(replayed >= 7, "the corpus has only {replayed} seeds");
    }
}
