use core::time::Duration;
use std::path::Path;
use std::time::UNIX_EPOCH;

use records::{Redaction, RedactionConfig};
use sdk::{FieldName, HeaderValue, Method, Request, RequestHead, Target};

use super::super::columns::{Compression, Writer};
use super::super::row::Row;
use super::*;
use crate::budget::{Budget, Share};

/// A file of so many requests, one each second from the second day of 2026 on.
fn file(rows: u64, compression: Compression) -> Vec<u8> {
    let flow = Arc::new(sdk::testing::flow());
    let row = |number: u64| {
        let target = Target::parse(&Method::GET, format!("/{number}").as_bytes()).unwrap();
        let mut request = Request::new(Method::GET, target);
        for (name, value) in [("Host", "a.example.com"), ("User-Agent", "asks \"\u{e9}\"")] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers.append(FieldName::from_static(name), value);
        }
        Row {
            at: UNIX_EPOCH + Duration::from_millis(1_767_312_000_123 + 1000 * number),
            took: Duration::from_millis(number),
            flow: Arc::clone(&flow),
            request: RequestHead::of(&request),
            caller: None,
            answer: None,
            share: Share::of(&Budget::new(0)),
        }
    };
    let rows: Vec<_> = (0..rows).map(row).collect();
    let writer = Writer::new(compression, Redaction::new(&RedactionConfig::default()));
    writer.file(&rows).unwrap().to_vec()
}

fn at(name: &str) -> usize {
    let columns = columns();
    columns
        .iter()
        .position(|column| column.name == name)
        .unwrap()
}

fn wanted(names: &[&str]) -> Wanted {
    let mut wanted = Wanted::all();
    wanted.columns.fill(false);
    for name in names {
        wanted.columns[at(name)] = true;
    }
    wanted
}

/// Rows as texts, and what was left out.
fn read(root: &Path, wanted: &Wanted, names: &[&str]) -> (Vec<String>, Vec<String>) {
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    let tables = Tables::new(root.to_str().unwrap(), None, None).unwrap();
    let told = tables.read(wanted, &mut |told| {
        match told {
            Told::Rows(batch) => {
                for row in 0..batch.rows() {
                    let cells = names.iter().map(|name| match batch.cell(row, at(name)) {
                        Cell::Null => "-".to_owned(),
                        Cell::Integer(number) => number.to_string(),
                        Cell::Text(text) => text.into_owned(),
                    });
                    rows.push(cells.collect::<Vec<_>>().join(" "));
                }
            }
            Told::Skipped { file, why } => {
                let name = file.rsplit('/').next().unwrap();
                skipped.push(format!("{name}: {why}"));
            }
            Told::Done { bytes } => assert!(bytes > 0),
        }
        ControlFlow::Continue(())
    });
    told.unwrap();
    (rows, skipped)
}

fn place(root: &Path, key: &str, bytes: &[u8]) {
    let path = root.join(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn what_was_written_is_read() {
    for compression in [Compression::Gzip, Compression::None, Compression::Snappy] {
        let root = tempfile::tempdir().unwrap();
        let key = "date=2026-01-02/etld1=example.com/a.parquet";
        place(root.path(), key, &file(2500, compression));
        let names = [
            "time",
            "duration_millis",
            "host",
            "url",
            "status_code",
            "request_headers",
            "response_headers",
            "date",
            "etld1",
        ];
        let (rows, skipped) = read(root.path(), &Wanted::all(), &names);
        assert_eq!((rows.len(), skipped.len()), (2500, 0), "{skipped:?}");
        assert_eq!(
            rows[2499],
            "2026-01-02 00:41:39.123 2499 a.example.com http://a.example.com/2499 - \
             {\"host\":\"a.example.com\",\"user-agent\":\"asks \\\"\u{e9}\\\"\"} {} \
             2026-01-02 example.com"
        );
        // What is not asked for is not read, and rows are counted all the same.
        let (rows, _) = read(root.path(), &wanted(&[]), &["url"]);
        assert_eq!((rows.len(), &*rows[0]), (2500, "-"));
    }
}

#[test]
fn folders_and_parts_of_files_that_cannot_match_are_not_read() {
    let root = tempfile::tempdir().unwrap();
    let rows = file(10, Compression::Snappy);
    for (day, domain) in [
        ("01", "a.example"),
        ("02", "a.example"),
        ("02", "b.example"),
    ] {
        let key = format!("date=2026-01-{day}/etld1={domain}/x.parquet");
        place(root.path(), &key, &rows);
    }
    place(
        root.path(),
        "date=2026-01-03/etld1=a.example/x.parquet",
        b"broken",
    );
    place(
        root.path(),
        "date=2026-01-02/etld1=a.example/.x.parquet.part",
        b"broken",
    );
    place(root.path(), "date=2026-01-02/etld1=a.example/_SUCCESS", b"");
    let mut some = wanted(&[]);
    some.date.at_least("2026-01-02", true);
    some.date.at_most("2026-01-03", false);
    let names = ["date", "etld1"];
    let (rows, skipped) = read(root.path(), &some, &names);
    assert_eq!((rows.len(), skipped.len()), (20, 0));
    some.etld1.at_least("b.example", true);
    let (rows, _) = read(root.path(), &some, &names);
    assert_eq!((rows.len(), &*rows[0]), (10, "2026-01-02 b.example"));
    // A folder that is a partition itself.
    let below = root.path().join("date=2026-01-02");
    assert_eq!(read(&below, &some, &names).0, rows);
    // The file says from when to when its rows are.
    some.time.at_least("2026-01-02 00:00:10", true);
    assert_eq!(read(root.path(), &some, &names).0, Vec::<String>::new());
}

#[test]
fn what_is_no_table_is_left_out() {
    let root = tempfile::tempdir().unwrap();
    let whole = file(100, Compression::Snappy);
    place(root.path(), "a.parquet", b"");
    place(root.path(), "b.parquet", b"no file of this kind");
    place(root.path(), "c.parquet", &whole[..whole.len() - 100]);
    place(root.path(), "d.parquet", &[&whole[1000..]].concat());
    place(root.path(), "e.parquet", b"\xff\xff\xff\x00PAR1");
    place(root.path(), "f.parquet", &whole);
    let (rows, skipped) = read(root.path(), &Wanted::all(), &["url"]);
    assert!(rows.len() >= 100, "{}", rows.len());
    let names: Vec<_> = skipped.iter().map(|why| &why[..1]).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"], "{skipped:?}");
    assert!(skipped[0].contains("no Parquet file"), "{skipped:?}");
}

#[test]
fn tables_that_others_wrote_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/table");
    let names = [
        "time",
        "duration_millis",
        "method",
        "host",
        "url",
        "status_code",
        "request_headers",
        "tls_ja4",
    ];
    let (rows, skipped) = read(&folder, &Wanted::all(), &names);
    // Five of 24 rows, one of 5, with other pages, encodings, codings and units.
    assert_eq!(rows.len(), 125);
    assert_eq!(skipped.len(), 1);
    assert!(
        skipped[0].starts_with("zstd.parquet: it is compressed with ZSTD"),
        "{skipped:?}"
    );
    let of = |number: usize| {
        let suffix = format!("/{number} ");
        let mut rows: Vec<_> = rows.iter().filter(|row| row.contains(&suffix)).collect();
        rows.dedup();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows[0].clone()
    };
    for (number, row) in [
        (
            0,
            "2026-01-02 00:00:00.007 0 POST - https://h0.example.com/0 - - -",
        ),
        (
            1,
            "2026-01-02 00:00:01.007 1 GET h1.example.com https://h1.example.com/1 201 \
             {\"user-agent\":\"a1\",\"x-n\":\"1\"} -",
        ),
        (
            4,
            "2026-01-02 00:00:04.007 4 GET h4.example.com https://h4.example.com/4 200 {} -",
        ),
    ] {
        assert_eq!(of(number), row);
    }
}

#[test]
fn a_place_that_is_not_there_is_a_fault_of_the_place() {
    let tables = Tables::new("/nowhere/at/all", None, None).unwrap();
    let read = tables.read(&Wanted::all(), &mut |_| ControlFlow::Continue(()));
    assert!(
        matches!(&read, Err(Fault::Away(why)) if why.starts_with("/nowhere/at/all: ")),
        "{read:?}"
    );
    for (from, key) in [("s3://", "to"), ("", "to")] {
        let fault = Tables::new(from, None, None).unwrap_err();
        assert_eq!(fault.key.as_deref(), Some(key));
    }
    assert!(
        Tables::new("tables", None, None)
            .unwrap()
            .folder()
            .unwrap()
            .is_absolute()
    );
}

#[test]
fn whoever_has_enough_ends_it() {
    let root = tempfile::tempdir().unwrap();
    place(root.path(), "a.parquet", &file(3000, Compression::Snappy));
    place(root.path(), "b.parquet", &file(3000, Compression::Snappy));
    let tables = Tables::new(root.path().to_str().unwrap(), None, None).unwrap();
    let mut told = 0;
    let read = tables.read(&Wanted::all(), &mut |_| {
        told += 1;
        ControlFlow::Break(())
    });
    assert_eq!((read, told), (Ok(()), 1));
}
