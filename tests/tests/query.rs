//! `flowdog query` over tables of real traffic: the same statements give what DuckDB gives, in a folder and
//! in moto's S3; broken files and statements that are no questions are told.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::{flowdog, moto};
use serde_json::Value;

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="tables",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// DuckDB on a folder, with times and maps as `flowdog query` has them: prints an object for each row.
const DUCKDB: &str = r#"
import duckdb, json, sys
duckdb.sql(f"""CREATE VIEW exchanges AS SELECT * REPLACE (
    strftime(make_timestamp_ms(epoch_ms("time")), '%Y-%m-%d %H:%M:%S.%g') AS "time",
    to_json(request_headers) AS request_headers, to_json(response_headers) AS response_headers)
    FROM read_parquet('{sys.argv[1]}/**/*.parquet', hive_partitioning = true, hive_types_autocast = false)""")
for statement in sys.argv[2:]:
    rows = duckdb.sql(statement)
    print(json.dumps([dict(zip(rows.columns, row)) for row in rows.fetchall()], default=str))
"#;

/// Statements that mean the same in both languages.
const STATEMENTS: &[&str] = &[
    "SELECT etld1, count(*) AS calls, sum(duration_millis) AS millis, avg(client_port) AS port \
     FROM exchanges GROUP BY etld1 ORDER BY calls DESC, etld1 NULLS LAST",
    "SELECT time, method, host, url, status_code, tls_ja4, client_ip_address, aws_account_id \
     FROM exchanges ORDER BY time, url",
    "SELECT request_headers ->> 'user-agent' AS agent, count(*) AS calls FROM exchanges \
     WHERE request_headers ->> 'user-agent' IS NOT NULL GROUP BY 1 ORDER BY 1",
    "SELECT url FROM exchanges WHERE status_code >= 400 OR status_code IS NULL ORDER BY url",
    "SELECT count(*) AS calls FROM exchanges WHERE date >= '2020-01-01' AND date < '2021-01-01'",
    "SELECT count(*) AS calls, min(date) AS first, max(date) AS last FROM exchanges \
     WHERE etld1 IN ('lab.name', 'example.co.uk') AND date > '2020-01-01'",
    "SELECT count(*) AS calls FROM exchanges WHERE time BETWEEN '2020' AND '2099' AND etld1 = 'lab.name'",
    "SELECT count(*) AS calls FROM exchanges WHERE time < '2020'",
    "SELECT count(*) AS calls FROM exchanges WHERE etld1 IS NULL",
    "WITH slow AS (SELECT host, max(duration_millis) AS millis FROM exchanges GROUP BY host) \
     SELECT count(*) AS hosts FROM slow",
];

const TRAFFIC: &str = "c='curl -sS -o /dev/null'
    $c 'http://any.lab.name/echo?a=1'
    $c --http2 -A asks https://any.lab.name/status/404 \
       -H 'Authorization: AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/sts/aws4_request,SignedHeaders=host,Signature=ab'
    $c --http1.1 -X PUT -d x -A asks -H 'Host: www.example.co.uk' http://any.lab.name/upload
    $c -H 'Host: 10.1.2.3' http://any.lab.name/bytes/10
    for n in $(seq 40); do $c http://n$((n % 3)).lab.name/echo?n=$n; done
    $c --max-time 2 'https://any.lab.name/slow?ms=20000' || true
    ";
const ROWS: usize = 45;

fn config(keys: &str) -> String {
    format!(
        "[[interceptor]]\nname = 'table'\nuse = 'parquet'\nevery = '1s'\n{keys}\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['table']\n"
    )
}

fn ask(from: &Path, arguments: &[&str]) -> Result<Output> {
    let output = flowdog()
        .arg("query")
        .arg("--from")
        .arg(from)
        .args(arguments)
        .output()?;
    Ok(output)
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(from: &Path, statement: &str) -> Result<Value> {
    let output = ask(from, &["--format", "json", statement])?;
    ensure!(output.status.success(), "{statement}: {}", told(&output));
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn answers_over_a_folder_are_those_of_duckdb() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let from = folder.path();
    let keys = format!("to = '{}'\nrows = 7\ncompression = 'gzip'", from.display());
    let outcome = Lab::new()?.config(&config(&keys))?.shell(TRAFFIC)?;
    let read = Command::new(flowdog_tests::python())
        .args(["-c", DUCKDB])
        .arg(from)
        .args(STATEMENTS)
        .output()?;
    ensure!(read.status.success(), "{}", told(&read));
    let theirs = String::from_utf8(read.stdout)?;
    let mut answers = 0;
    for (statement, theirs) in STATEMENTS.iter().zip(theirs.lines()) {
        let theirs: Value = serde_json::from_str(theirs)?;
        let ours = json(from, statement)?;
        assert_eq!(ours, theirs, "{statement}\n{}", outcome.log);
        answers += 1;
    }
    assert_eq!(answers, STATEMENTS.len());
    let all = json(from, "SELECT count(*) AS n FROM exchanges")?;
    assert_eq!(all[0]["n"], ROWS, "{}", outcome.log);

    // What is SQLite's alone, and the forms of an answer.
    let keys = json(
        from,
        "SELECT DISTINCT key FROM exchanges, json_each(request_headers) WHERE key = 'user-agent'",
    )?;
    assert_eq!(keys[0]["key"], "user-agent");
    let recent = "SELECT count(*) AS n FROM exchanges WHERE time > datetime('now', '-1 hour')";
    assert_eq!(json(from, recent)?[0]["n"], ROWS);
    let statement = "SELECT method, count(*) AS n FROM exchanges GROUP BY 1 ORDER BY 1";
    for (format, answer) in [
        ("csv", "method,n\nGET,44\nPUT,1\n"),
        (
            "jsonl",
            "{\"method\":\"GET\",\"n\":44}\n{\"method\":\"PUT\",\"n\":1}\n",
        ),
        ("table", "method   n\n------  --\nGET     44\nPUT      1\n"),
    ] {
        let output = ask(from, &["--format", format, statement])?;
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            answer,
            "{}",
            told(&output)
        );
    }
    Ok(())
}

#[test]
fn a_folder_with_strangers_is_answered_without_them() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let from = folder.path();
    let day = from.join("date=2026-01-02/etld1=example.com");
    std::fs::create_dir_all(&day)?;
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/table");
    let whole = std::fs::read(corpus.join("snappy.parquet"))?;
    std::fs::write(day.join("a.parquet"), &whole)?;
    std::fs::write(day.join("b.parquet"), &whole[..whole.len() / 2])?;
    std::fs::write(day.join("c\u{1b}[2J.parquet"), "no table at all")?;
    std::fs::write(day.join("d.txt"), "none of ours")?;
    let statement =
        "SELECT count(url) AS n, min(etld1) AS e FROM exchanges WHERE date = '2026-01-02'";
    let output = ask(from, &["--format", "csv", statement])?;
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "n,e\n24,example.com\n"
    );
    let said = told(&output);
    ensure!(
        said.contains("b.parquet: ")
            && said.contains("\\u{1b}[2J.parquet: ")
            && said.contains("2 file(s)"),
        "{said}"
    );
    let strict = ask(from, &["--strict", statement])?;
    assert_eq!(strict.status.code(), Some(1));
    ensure!(told(&strict).contains("b.parquet: "), "{}", told(&strict));
    // Days that are not asked for are not looked into.
    let other = ask(
        from,
        &[
            "--strict",
            "SELECT * FROM exchanges WHERE date > '2026-01-02'",
        ],
    )?;
    assert_eq!(other.status.code(), Some(0), "{}", told(&other));
    Ok(())
}

#[test]
fn statements_that_are_no_questions_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let from = folder.path();
    let victim = from.join("victim.db");
    for (statement, word) in [
        ("DELETE FROM exchanges", "may not be modified"),
        ("CREATE TABLE a(b)", "no question"),
        (
            &*format!("ATTACH '{}' AS a", victim.display()),
            "no question",
        ),
        (
            &*format!("VACUUM INTO '{}'", victim.display()),
            "no question",
        ),
        ("PRAGMA temp_store_directory = '/'", "no question"),
        (
            "SELECT * FROM pragma_table_info('exchanges')",
            "no question",
        ),
        ("SELECT load_extension('/lib/x.so')", "not authorized"),
        ("SELECT 1; SELECT 2", "more than one"),
        ("", "no question"),
        ("SELECT nope FROM exchanges", "no such column: nope"),
        ("SELECT \"nope\" FROM exchanges", "no such column"),
        ("SELEC 1", "syntax error"),
    ] {
        let output = ask(from, &[statement])?;
        assert_eq!(
            output.status.code(),
            Some(64),
            "{statement}: {}",
            told(&output)
        );
        ensure!(
            told(&output).contains(word),
            "{statement}: {}",
            told(&output)
        );
    }
    ensure!(!victim.exists());
    for (from, code, word) in [
        ("ftp://a/b", 64, "allowed: an absolute folder, s3://"),
        ("/nowhere/at/all", 1, "/nowhere/at/all: No such file"),
    ] {
        let output = ask(Path::new(from), &["SELECT * FROM exchanges"])?;
        assert_eq!(output.status.code(), Some(code), "{}", told(&output));
        ensure!(told(&output).contains(word), "{}", told(&output));
    }
    Ok(())
}

#[test]
fn answers_over_a_bucket_are_those_over_a_folder() -> Result<()> {
    let lab = Lab::new()?.config(&config(&format!(
        "to = 's3://tables/web'\nrows = 7\nregion = 'eu-central-1'\nendpoint = '{}'",
        moto::ENDPOINT
    )))?;
    let lab = moto::with_credentials(lab);
    let program = flowdog().get_program().to_string_lossy().into_owned();
    let query = format!(
        "inside {program} query --from s3://tables/web --region eu-central-1 --endpoint {} --format jsonl",
        moto::ENDPOINT
    );
    let steps = format!(
        "{TRAFFIC}
         for n in $(seq 300); do
           written=$(inside curl -fsS http://127.0.0.1:8080/metrics | awk '/^flowdog_outlet_written_total[{{]/ {{print $2}}')
           [ \"$written\" = {ROWS} ] && break; sleep 0.1
         done
         {query} \"SELECT 'calls' AS what, etld1, count(*) AS n FROM exchanges GROUP BY 2 ORDER BY 2\"
         {query} \"SELECT 'agent' AS what, count(*) AS n FROM exchanges
           WHERE date > '2020-01-01' AND etld1 = 'lab.name' AND request_headers ->> 'user-agent' = 'asks'\"
         {query} \"SELECT 'none' AS what, count(*) AS n FROM exchanges WHERE date < '2020-01-01'\"
         {query} 'SELECT nope FROM exchanges' || echo \"code $?\"
         touch away; {query} 'SELECT count(*) FROM exchanges' || echo \"code $?\"; rm away"
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, "")?)?;
    let lines: Vec<_> = outcome
        .stdout
        .lines()
        .filter(|line| line.starts_with("{\"what\"") || line.starts_with("code "))
        .collect();
    assert_eq!(
        lines,
        [
            "{\"what\":\"calls\",\"etld1\":null,\"n\":1}",
            "{\"what\":\"calls\",\"etld1\":\"example.co.uk\",\"n\":1}",
            "{\"what\":\"calls\",\"etld1\":\"lab.name\",\"n\":43}",
            "{\"what\":\"agent\",\"n\":1}",
            "{\"what\":\"none\",\"n\":0}",
            "code 64",
            "code 1",
        ],
        "{}\n{}",
        outcome.stdout,
        outcome.log
    );
    Ok(())
}
