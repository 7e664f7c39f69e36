use core::time::Duration;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;
use sdk::OutletStats;
use sdk::testing::Playbook;

use super::*;

type Read = BTreeMap<String, Field>;

struct Stage {
    folder: tempfile::TempDir,
    parquet: Arc<dyn Interceptor>,
}

impl Stage {
    fn new(keys: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let text = format!("to = '{}'\n{keys}", folder.path().display());
        let parquet = Parquet::build(&text.parse().unwrap()).unwrap();
        Self { folder, parquet }
    }

    async fn exchange(&self, request: &str, response: &str) {
        let mut play = Playbook::from_arc(Arc::clone(&self.parquet));
        assert_eq!(play.request(request).await.to_server(), request);
        if !response.is_empty() {
            play.response(response).await;
        }
    }

    /// All rows with the folders they are in, and what was counted.
    fn end(&self) -> (Vec<(String, Read)>, OutletStats) {
        let outlet = self.parquet.outlets().pop().unwrap();
        assert!(outlet.finish(Duration::from_secs(60)));
        let mut rows = Vec::new();
        for path in files(self.folder.path()) {
            let folder = path.parent().unwrap().strip_prefix(self.folder.path());
            let folder = folder.unwrap().display().to_string();
            let file = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
            for row in file.get_row_iter(None).unwrap() {
                rows.push((
                    folder.clone(),
                    row.unwrap().into_columns().into_iter().collect(),
                ));
            }
        }
        let stats = outlet.stats();
        assert_eq!(stats.written, rows.len() as u64);
        assert_eq!(stats.taken, stats.written + stats.dropped + stats.failed);
        (rows, stats)
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
        .into_iter()
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn text(row: &Read, column: &str) -> Option<String> {
    match &row[column] {
        Field::Str(text) => Some(text.clone()),
        Field::Null => None,
        other => panic!("{column}: {other}"),
    }
}

fn map(row: &Read, column: &str) -> BTreeMap<String, String> {
    let Field::MapInternal(map) = &row[column] else {
        panic!("{column}: {}", row[column]);
    };
    let text = |field: &Field| match field {
        Field::Str(text) => text.clone(),
        other => panic!("{other}"),
    };
    map.entries()
        .iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

const REQUEST: &str = "GET /a?b=c&X-Amz-Signature=planted HTTP/1.1\nhost: www.example.co.uk\nUser-Agent: x\n\
    Cookie: id=planted\nAuthorization: AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=planted\n\
    X-Amz-Security-Token: planted\n\n";
const RESPONSE: &str =
    "HTTP/1.1 200 Fine\nSet-Cookie: id=planted; Path=/\nX-A: 1\nX-A: 2\nContent-Length: 0\n\n";

#[tokio::test]
async fn an_exchange_is_a_row_with_what_firehose_says() {
    for compression in ["none", "gzip", "snappy"] {
        let stage = Stage::new(&format!("compression = '{compression}'"));
        stage.exchange(REQUEST, RESPONSE).await;
        stage
            .exchange("GET / HTTP/1.1\nHost: 10.0.0.1\n\n", "")
            .await;
        let (rows, stats) = stage.end();
        assert_eq!((rows.len(), stats.taken, stats.diverted), (2, 2, 0));
        let today = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let (folder, row) = &rows[1];
        assert_eq!(
            folder,
            &format!("date={}/etld1=example.co.uk", &today[..10])
        );
        for (column, value) in [
            ("method", "GET"),
            ("host", "www.example.co.uk"),
            ("etld_plus_one", "example.co.uk"),
            (
                "url",
                "http://www.example.co.uk/a?b=c&X-Amz-Signature=(redacted)",
            ),
            ("status_message", "Fine"),
            ("aws_account_id", "029608264753"),
            ("aws_service", "s3"),
            ("aws_key_id", "ASIAQNZGKIQY56JQ7WML"),
        ] {
            assert_eq!(text(row, column).as_deref(), Some(value), "{column}");
        }
        assert_eq!(row["status_code"], Field::Int(200));
        assert!(text(row, "vpc_endpoint_id").unwrap().starts_with("vpce-"));
        let Field::TimestampMillis(time) = row["time"] else {
            panic!("{}", row["time"]);
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        assert!(
            now.abs_diff(u128::try_from(time).unwrap()) < 60_000,
            "{time}"
        );
        let fields = map(row, "request_headers");
        assert_eq!((fields["user-agent"].as_str(), fields.len()), ("x", 5));
        assert_eq!(map(row, "response_headers")["x-a"], "1");

        let (folder, row) = &rows[0];
        assert!(
            folder.ends_with("/etld1=__HIVE_DEFAULT_PARTITION__"),
            "{folder}"
        );
        assert_eq!(
            (&row["status_code"], &row["etld_plus_one"]),
            (&Field::Null, &Field::Null)
        );
        assert_eq!(map(row, "request_headers").len(), 1);
        assert!(map(row, "response_headers").is_empty());
    }
}

#[tokio::test]
async fn threat_67_no_secret_is_in_a_row_unless_an_operator_wants_it() {
    let bytes = async |keys: &str| {
        let stage = Stage::new(&format!("compression = 'none'\n{keys}"));
        stage.exchange(REQUEST, RESPONSE).await;
        assert_eq!(stage.end().0.len(), 1);
        std::fs::read(&files(stage.folder.path())[0]).unwrap()
    };
    let has = |bytes: &[u8], word: &[u8]| bytes.windows(word.len()).any(|part| part == word);
    assert!(!has(&bytes("").await, b"planted"));
    let shown = bytes("show-fields = ['Cookie']").await;
    assert!(has(&shown, b"id=planted") && !has(&shown, b"Signature=planted"));
}

#[tokio::test]
async fn threat_66_hosts_cannot_lead_out_of_the_folder() {
    let stage = Stage::new("");
    for host in [
        "a.../../../etc.com",
        "x=y/date=1.example",
        "%2e%2e.%2f.com",
        "..",
        "",
    ] {
        stage
            .exchange(&format!("GET / HTTP/1.1\nHost: {host}\n\n"), "")
            .await;
    }
    let (rows, _) = stage.end();
    assert_eq!(rows.len(), 5);
    for (folder, _) in rows {
        let (day, domain) = folder.split_once('/').unwrap();
        let domain = domain.strip_prefix("etld1=").unwrap();
        assert!(day.starts_with("date=2"), "{folder}");
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(
            domain.bytes().all(is_plain) && !domain.starts_with('.'),
            "{folder}"
        );
    }
}

#[tokio::test]
async fn threat_68_hosts_that_peers_make_up_share_a_partition() {
    let stage = Stage::new("partitions = 3\nrows = 10");
    for number in 0..20 {
        let request = format!("GET / HTTP/1.1\nHost: n{number}.example\n\n");
        stage.exchange(&request, RESPONSE).await;
    }
    let (rows, stats) = stage.end();
    assert_eq!(stats.diverted, 17);
    let others = rows
        .iter()
        .filter(|(folder, _)| folder.ends_with("/etld1=other"));
    let domains: Vec<_> = others
        .map(|(_, row)| text(row, "etld_plus_one").unwrap())
        .collect();
    assert_eq!(domains.len(), 17);
    assert!(domains.contains(&"n19.example".to_owned()), "{domains:?}");
    assert_eq!(files(stage.folder.path()).len(), 3 + 2);
}

#[tokio::test]
async fn only_what_is_meant_is_a_row() {
    let stage = Stage::new("when = 'status >= 500'");
    for status in ["200 OK", "503 Away"] {
        let response = format!("HTTP/1.1 {status}\n\n");
        stage
            .exchange("GET / HTTP/1.1\nHost: h\n\n", &response)
            .await;
    }
    let (rows, stats) = stage.end();
    assert_eq!((rows.len(), stats.taken), (1, 1));
    assert_eq!(rows[0].1["status_code"], Field::Int(503));
}

#[tokio::test]
async fn threat_34_without_memory_rows_are_dropped_and_counted() {
    // No file can be made below a file, so that nothing ever leaves.
    let stage = Stage::new("memory = '1MiB'\nrows = 1");
    std::fs::remove_dir(stage.folder.path()).unwrap();
    std::fs::write(stage.folder.path(), "").unwrap();
    let field = "x".repeat(50_000);
    for _ in 0..30 {
        let request = format!("GET / HTTP/1.1\nHost: h\nX: {field}\n\n");
        stage.exchange(&request, "").await;
    }
    let outlet = stage.parquet.outlets().pop().unwrap();
    let stats = outlet.stats();
    assert_eq!((stats.taken, stats.written), (30, 0));
    assert!((8..=12).contains(&stats.dropped), "{stats:?}");
    // The place is there again.
    std::fs::remove_file(stage.folder.path()).unwrap();
    std::fs::create_dir(stage.folder.path()).unwrap();
    let (rows, stats) = stage.end();
    assert_eq!(rows.len() as u64, 30 - stats.dropped);
}

#[test]
fn threads_begin_with_the_first_exchange_only() {
    assert_eq!(Stage::new("").end().1, OutletStats::default());
    let table = "to = '/proc/nowhere'".parse().unwrap();
    assert!(Parquet::build(&table).is_ok());
}
