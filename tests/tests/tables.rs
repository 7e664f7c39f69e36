//! Tables of real traffic, read by others: DuckDB in a folder, Arrow in moto's S3.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::{Lab, Outcome};
use flowdog_tests::moto;
use serde_json::Value;

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="tables",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// Prints a JSON object for each row, by a reader that knows partitions of Hive.
const DUCKDB: &str = r#"
import duckdb, json, sys
rows = duckdb.sql(f"""SELECT *, epoch_ms("time") AS millis FROM
    read_parquet('{sys.argv[1]}/**/*.parquet', hive_partitioning = true) ORDER BY "time" """)
for row in rows.fetchall():
    print(json.dumps(dict(zip(rows.columns, row)), default=str))
"#;

/// The same with Arrow, from S3 without a file between.
const ARROW: &str = r#"
import json, os, pyarrow.dataset
from pyarrow.fs import S3FileSystem
host = os.environ["URL"].removeprefix("http://")
s3 = S3FileSystem(endpoint_override=host, scheme="http", region="eu-central-1")
table = pyarrow.dataset.dataset("tables/web", filesystem=s3, format="parquet", partitioning="hive").to_table()
for row in table.sort_by("time").to_pylist(maps_as_pydicts="strict"):
    print("row", json.dumps(row, default=str))
"#;

fn config(keys: &str) -> String {
    format!(
        "[[interceptor]]\nname = 'table'\nuse = 'parquet'\n{keys}\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['table']\n"
    )
}

/// Requests of several kinds, one after the other.
const TRAFFIC: &str = "c='curl -sS -o /dev/null'
    $c 'http://any.lab.name/echo?a=1&X-Amz-Signature=planted-parameter'
    $c --http2 -A asks -b id=planted-cookie https://any.lab.name/status/404 \
       -H 'Authorization: AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/sts/aws4_request,SignedHeaders=host,Signature=planted-mac'
    $c --http1.1 -X PUT -d x -H 'Host: www.example.co.uk' http://any.lab.name/upload
    $c -H 'Host: 10.1.2.3' http://any.lab.name/bytes/10
    $c --max-time 2 'https://any.lab.name/slow?ms=20000' || true
    ";

/// That the rows are those requests.
fn check(rows: &[Value]) -> Result<()> {
    ensure!(rows.len() == 5, "{} rows: {rows:?}", rows.len());
    let text: Vec<_> = rows.iter().map(ToString::to_string).collect();
    ensure!(!text.concat().contains("planted"), "{text:?}");
    let (methods, domains): (Vec<_>, Vec<_>) = rows
        .iter()
        .map(|row| (row["method"].as_str(), row["etld1"].as_str()))
        .unzip();
    let lab = Some("lab.name");
    assert_eq!(methods, ["GET", "GET", "PUT", "GET", "GET"].map(Some));
    // Arrow keeps the name for null as it is.
    let null = domains[3].filter(|domain| *domain != "__HIVE_DEFAULT_PARTITION__");
    assert_eq!(
        [domains[0], domains[1], domains[2], null, domains[4]],
        [lab, lab, Some("example.co.uk"), None, lab]
    );
    let statuses: Vec<_> = rows.iter().map(|row| row["status_code"].as_i64()).collect();
    assert_eq!(statuses, [Some(200), Some(404), Some(200), Some(200), None]);
    assert_eq!(
        rows[0]["url"],
        "http://any.lab.name/echo?a=1&X-Amz-Signature=(redacted)"
    );
    assert!(rows[0]["tls_version"].is_null() && rows[0]["aws_key_id"].is_null());
    let signed = &rows[1];
    assert_eq!(signed["url"], "https://any.lab.name/status/404");
    assert_eq!(signed["tls_server_name"], "any.lab.name");
    assert_eq!(signed["tls_version"], 0x0304);
    assert_eq!(signed["aws_account_id"], "029608264753");
    assert_eq!(signed["request_headers"]["user-agent"], "asks");
    assert_eq!(signed["request_headers"]["cookie"], "id=(redacted)");
    assert!(
        signed["vpc_endpoint_id"]
            .as_str()
            .is_some_and(|id| id.starts_with("vpce-"))
    );
    assert!(signed["server_port"] == 443 && signed["client_port"].is_u64());
    let day = rows[0]["date"].as_str().context("a day")?;
    ensure!(
        rows[0]["time"]
            .as_str()
            .is_some_and(|time| time.starts_with(day)),
        "{}",
        rows[0]
    );
    ensure!(
        rows[4]["duration_millis"]
            .as_u64()
            .is_some_and(|time| time >= 100),
        "{}",
        rows[4]
    );
    Ok(())
}

fn ask_duckdb(folder: &Path) -> Result<Vec<Value>> {
    let read = Command::new(flowdog_tests::python())
        .args(["-c", DUCKDB])
        .arg(folder)
        .output()?;
    ensure!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let text = String::from_utf8(read.stdout)?;
    let rows: Result<_, _> = text.lines().map(serde_json::from_str).collect();
    Ok(rows?)
}

fn accounted(outcome: &Outcome, rows: usize) {
    let metric = |name: &str| outcome.metric(&format!("flowdog_outlet_{name}"), "table");
    assert_eq!(metric("taken_total"), rows as f64, "{}", outcome.log);
    assert_eq!(metric("written_total"), rows as f64);
    assert_eq!(metric("dropped_total") + metric("failed_total"), 0.0);
}

#[test]
fn rows_in_a_folder_are_the_requests_made_says_duckdb() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lab = Lab::new()?.config(&config(&format!(
        "to = '{}'\nrows = 2\nevery = '1s'\ncompression = 'gzip'",
        folder.path().display()
    )))?;
    let outcome = lab.shell(TRAFFIC)?;
    let rows = ask_duckdb(folder.path()).with_context(|| outcome.log.clone())?;
    check(&rows)
}

#[test]
fn rows_in_s3_are_the_requests_made_says_arrow_and_none_is_lost_while_s3_is_away() -> Result<()> {
    let lab = Lab::new()?.config(&config(&format!(
        "to = 's3://tables/web'\nevery = '1s'\npartitions = 3\nregion = 'eu-central-1'\nendpoint = '{}'",
        moto::ENDPOINT
    )))?;
    let lab = moto::with_credentials(lab);
    let steps = format!(
        "touch away
         {TRAFFIC}
         sleep 3; rm away
         for n in $(seq 300); do
           written=$(inside curl -fsS http://127.0.0.1:8080/metrics | awk '/^flowdog_outlet_written_total[{{]/ {{print $2}}')
           [ \"$written\" = 5 ] && break; sleep 0.1
         done"
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, ARROW)?)?;
    let rows: Vec<Value> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("row "))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    check(&rows).with_context(|| outcome.log.clone())?;
    accounted(&outcome, 5);
    let metric = |name: &str| outcome.metric(&format!("flowdog_outlet_{name}"), "table");
    assert!(metric("errors_total") > 0.0 && metric("retried_total") > 0.0);
    assert_eq!(metric("diverted_total"), 0.0);
    Ok(())
}

#[test]
fn the_end_waits_for_rows_of_a_configuration_that_was_replaced() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (to, ending) = (folder.path().join("table"), folder.path().join("ending"));
    // No folder can be made where a file is.
    std::fs::write(&to, "")?;
    let lab = Lab::new()?.config(&config(&format!("to = '{}'\nevery = '1h'", to.display())))?;
    let script = format!(
        "{}curl -sS -o /dev/null http://any.lab.name/echo
         kill -HUP $appliance
         for n in $(seq 100); do
           inside curl -fsS http://127.0.0.1:8080/metrics | grep -q '^flowdog_config_reloads_total 1' && break; sleep 0.1
         done
         touch {}",
        moto::INSIDE,
        ending.display()
    );
    let mend = std::thread::spawn(move || {
        while !ending.exists() {
            std::thread::sleep(Duration::from_millis(20));
        }
        // By now the appliance is about to end.
        std::thread::sleep(Duration::from_secs(3));
        std::fs::remove_file(to)
    });
    let outcome = lab.shell(&script)?;
    mend.join().map_err(|_| anyhow::anyhow!("panicked"))??;
    let rows = ask_duckdb(folder.path()).with_context(|| outcome.log.clone())?;
    ensure!(rows.len() == 1, "{rows:?}\n{}", outcome.log);
    assert_eq!(rows[0]["url"], "http://any.lab.name/echo");
    Ok(())
}
