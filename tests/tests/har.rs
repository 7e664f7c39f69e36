//! HAR archives of real traffic, read by others: the schema of npm, haralyzer, boto3.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::moto;
use serde_json::Value;

const VALID: &str = include_str!("har/valid.js");
const READ: &str = include_str!("har/read.py");

fn config(keys: &str) -> String {
    format!(
        "[[interceptor]]\nname = 'archive'\nuse = 'har'\n{keys}\n\
         [[rule]]\naction = 'intercept'\ninterceptors = ['archive']\n"
    )
}

/// All archives below a folder; what begins with a dot is none.
fn archives(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(archives(&path)?);
        } else if !path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'))
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// The entries of all archives, after the schema and haralyzer had a look at them.
fn entries(folder: &Path) -> Result<Vec<Value>> {
    let bin = flowdog_tests::python();
    let bin = bin.parent().context("a folder of programs")?;
    let checked = Command::new(bin.join("node"))
        .args(["-e", VALID, "--"])
        .args(archives(folder)?)
        .env("NODE_MODULES", bin.join("../node_modules"))
        .output()
        .context("run node")?;
    ensure!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    let count: usize = String::from_utf8(checked.stdout)?.trim().parse()?;
    let read = Command::new(flowdog_tests::python())
        .args(["-c", READ])
        .arg(folder)
        .output()?;
    ensure!(
        read.status.success(),
        "{}",
        String::from_utf8_lossy(&read.stderr)
    );
    let entries: Vec<Value> = serde_json::from_slice(&read.stdout)?;
    ensure!(entries.len() == count, "{} and {count}", entries.len());
    Ok(entries)
}

/// The entries whose path begins with this.
fn about<'a>(entries: &'a [Value], path: &str) -> Vec<&'a Value> {
    let is_meant = |entry: &&Value| {
        let url = entry["request"]["url"].as_str().unwrap_or_default();
        let path_at = url.find(".name").map_or(0, |at| at + ".name".len());
        url.get(path_at..)
            .is_some_and(|rest| rest.starts_with(path))
    };
    entries.iter().filter(is_meant).collect()
}

const TALK: &str = r#"
import asyncio, os, ssl, websockets

async def main():
    async with websockets.connect("wss://any.lab.name/ws", ssl=ssl.create_default_context()) as ws:
        for message in ["a text", b"\0\1\2"]:
            await ws.send(message)
            assert await ws.recv() == message

asyncio.run(main())
"#;

#[test]
fn archives_of_real_traffic_keep_to_the_schema_and_are_read_elsewhere() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lab = Lab::new()?.config(&config(&format!(
        "to = '{}'\nentries = 4\nevery = '1s'\nbody = '4KiB'\nkey = '{{date}}/{{host}}/{{endpoint}}-{{id}}'",
        folder.path().display()
    )))?;
    let talk = lab.folder().join("talk.py");
    std::fs::write(&talk, TALK)?;
    let outcome = lab.shell(&format!(
        "c='curl -sS -o /dev/null'
         $c 'http://any.lab.name/echo?a=1&b=%C3%A9'
         $c --http2 -d 'name=value' https://any.lab.name/upload
         $c --http1.1 https://any.lab.name/gzip
         $c https://any.lab.name/bytes/3000
         $c https://any.lab.name/bytes/300000
         $c https://any.lab.name/slow?ms=100
         $c https://any.lab.name/status/404
         $c --max-time 0.5 'https://any.lab.name/slow?ms=3000' || true
         {python} {talk}",
        python = flowdog_tests::python().display(),
        talk = talk.display(),
    ))?;
    let entries = entries(folder.path())?;
    assert_eq!(entries.len(), 9, "{}", outcome.log);
    let files = archives(folder.path())?;
    assert!(files.len() >= 3, "{files:?}");

    let echo = about(&entries, "/echo")[0];
    assert_eq!(echo["request"]["httpVersion"], "HTTP/1.1");
    let query = echo["request"]["queryString"].as_array().context("query")?;
    assert_eq!(query[1]["value"], "\u{e9}", "{echo}");
    assert!(
        echo["_flow"]["endpoint"]
            .as_str()
            .is_some_and(|id| id.contains("vpce-")),
        "{echo}"
    );
    assert!(echo["_tls"].is_null());
    assert!(
        echo["response"]["content"]["text"]
            .as_str()
            .is_some_and(|text| text.contains("sha1")),
        "{echo}"
    );

    let upload = about(&entries, "/upload")[0];
    assert_eq!(upload["request"]["httpVersion"], "HTTP/2");
    assert_eq!(upload["request"]["postData"]["text"], "name=value");
    assert_eq!(upload["_tls"]["alpn"], "h2");
    assert_eq!(upload["_tls"]["serverName"], "any.lab.name");

    let content = &about(&entries, "/gzip")[0]["response"]["content"];
    let text = content["text"].as_str().context("a text")?;
    assert_eq!(content["size"], text.len(), "the decoded length");
    assert!(content["compression"].as_i64().is_some(), "{content}");
    assert!(content["encoding"].is_null());

    let content = &about(&entries, "/bytes/3000")[0]["response"]["content"];
    assert_eq!(
        (&content["encoding"], &content["size"]),
        (&"base64".into(), &3000.into())
    );
    let content = &about(&entries, "/bytes/300000")[0]["response"]["content"];
    assert_eq!(
        (&content["_truncated"], &content["size"]),
        (&"long".into(), &300_000.into())
    );
    assert_eq!(
        content["text"].as_str().map(str::len),
        Some(4096_usize.div_ceil(3) * 4)
    );

    let slow = about(&entries, "/slow");
    let answered = slow
        .iter()
        .find(|entry| entry["response"]["status"] == 200)
        .context("slow")?;
    let time = |name: &str| answered["timings"][name].as_f64().unwrap_or(-2.0);
    assert!(time("wait") > 90.0 && time("receive") > 90.0, "{answered}");
    let sum = time("send") + time("wait") + time("receive");
    assert!((answered["time"].as_f64().unwrap_or(0.0) - sum).abs() < 0.01);
    assert!(
        slow.iter().any(|entry| entry["response"]["status"] == 0),
        "given up"
    );
    assert_eq!(about(&entries, "/status/404")[0]["response"]["status"], 404);

    let talk = about(&entries, "/ws")[0];
    let messages = talk["_webSocketMessages"].as_array().context("messages")?;
    let said: Vec<_> = messages
        .iter()
        .map(|one| {
            (
                one["type"].as_str(),
                one["opcode"].as_u64(),
                one["data"].as_str(),
            )
        })
        .map(|(way, opcode, data)| (way.unwrap_or(""), opcode.unwrap_or(0), data.unwrap_or("")))
        .collect();
    assert_eq!(
        said,
        [
            ("send", 1, "a text"),
            ("receive", 1, "a text"),
            ("send", 2, "AAEC"),
            ("receive", 2, "AAEC")
        ]
    );
    Ok(())
}

#[test]
fn threat_34_a_killed_appliance_leaves_archives_that_are_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let lab = Lab::new()?.config(&config(&format!(
        "to = '{}'\nentries = 1\nbody = '1MiB'",
        folder.path().display()
    )))?;
    // Killed while it writes one archive after the other.
    let outcome = lab.run(&[
        "bash",
        "-c",
        &format!(
            "{}
             for n in $(seq 4); do
               (while timeout 2 curl -fsS -o /dev/null http://any.lab.name/bytes/100000; do :; done) >/dev/null 2>&1 &
             done
             sleep 2.5; kill -9 $appliance",
            moto::INSIDE
        ),
    ])?;
    let entries = entries(folder.path())?;
    assert!(entries.len() >= 5, "{}\n{}", entries.len(), outcome.log);
    Ok(())
}

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="archive",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// Fetches all objects into a folder and prints their names and tags.
const FETCH: &str = r#"
import boto3, os, pathlib, sys
folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "fetched")
s3 = boto3.client("s3", endpoint_url=os.environ["URL"])
for page in s3.get_paginator("list_objects_v2").paginate(Bucket="archive"):
    for found in page.get("Contents", []):
        path = folder / found["Key"]
        path.parent.mkdir(parents=True, exist_ok=True)
        answer = s3.get_object(Bucket="archive", Key=found["Key"])
        path.write_bytes(answer["Body"].read())
        print(found["Key"], answer["ETag"])
"#;

/// A lab whose appliance archives to the bucket, through the proxy before moto.
fn lab_with_s3(keys: &str) -> Result<Lab> {
    let config = config(&format!(
        "to = 's3://archive/har'\nendpoint = '{}'\n{keys}",
        moto::ENDPOINT
    ));
    Ok(moto::with_credentials(Lab::new()?.config(&config)?))
}

#[test]
fn large_archives_reach_s3_in_parts_and_come_back_through_boto3() -> Result<()> {
    let lab = lab_with_s3("every = '2s'\nbody = '1MiB'\ncompression = 'none'")?;
    let script = moto::script(
        &lab,
        SETUP,
        "for n in $(seq 20); do curl -fsS -o /dev/null http://any.lab.name/bytes/900000; done
         for n in $(seq 100); do
           inside $python read.py seen | grep -q . && break; sleep 0.2
         done; sleep 3",
        FETCH,
    )?;
    let outcome = lab.shell(&script)?;
    let entries = entries(&lab.folder().join("fetched"))?;
    assert_eq!(entries.len(), 20, "{}", outcome.log);
    for entry in &entries {
        let content = &entry["response"]["content"];
        assert_eq!(content["size"], 900_000);
        assert_eq!(content["text"].as_str().map(str::len), Some(1_200_000));
    }
    // The tag of an object in parts ends with their number.
    let in_parts = outcome
        .stdout
        .lines()
        .filter(|line| line.starts_with("har/") && line.contains("-") && line.ends_with("\""))
        .filter(|line| {
            line.rsplit('-').next().is_some_and(|end| {
                end.trim_end_matches('"')
                    .parse::<u32>()
                    .is_ok_and(|parts| (2..100).contains(&parts))
            })
        });
    assert!(in_parts.count() >= 1, "{}", outcome.stdout);
    Ok(())
}

#[test]
fn threat_34_while_s3_is_away_traffic_goes_on_and_every_entry_is_accounted_for() -> Result<()> {
    let lab = lab_with_s3("every = '1s'\nmemory = '1MiB'\nbody = '16KiB'")?;
    let script = moto::script(
        &lab,
        SETUP,
        "burst() { for n in $(seq $1); do echo url=http://any.lab.name/bytes/20000; echo output=/dev/null; done | curl -fsS -K - ; }
         burst 10; sleep 2
         touch away
         began=$(date +%s%N); burst 200; ended=$(date +%s%N)
         echo took $(( (ended - began) / 1000000 ))
         sleep 4; rm away
         for n in $(seq 100); do
           left=$(inside curl -fsS http://127.0.0.1:8080/metrics | awk '/^flowdog_outlet_waiting[{]/ {print $2}')
           [ \"$left\" = 0 ] && break; sleep 0.2
         done
         burst 5; sleep 3",
        FETCH,
    )?;
    let outcome = lab.shell(&script)?;
    let entries = entries(&lab.folder().join("fetched"))?;
    let metric = |name: &str| outcome.metric(&format!("flowdog_outlet_{name}"), "archive");
    let (taken, written) = (metric("taken_total"), metric("written_total"));
    assert_eq!(taken, 215.0, "{}", outcome.log);
    assert_eq!(written, entries.len() as f64, "what S3 has");
    assert_eq!(
        taken,
        written + metric("dropped_total") + metric("failed_total")
    );
    assert!(metric("dropped_total") > 0.0, "1 MiB holds fewer than 200");
    assert!(metric("errors_total") > 0.0 && metric("retried_total") > 0.0);
    // No request waited for S3.
    let took = outcome
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix("took "));
    let took: u64 = took.context("a time")?.parse()?;
    assert!(took < 30_000, "{took} ms");
    Ok(())
}

/// Planted in every place where traffic carries secrets.
const SECRETS: [&str; 10] = [
    "planted-mac",
    "planted-basic",
    "planted-cookie",
    "planted-session",
    "planted-signature",
    "planted-query",
    "planted-form",
    "planted-json",
    "planted-nested",
    "planted-message",
];

#[test]
fn threat_67_planted_secrets_are_in_no_archive_and_the_operator_may_lift_that() -> Result<()> {
    let talk = TALK.replace("\"a text\"", "'{\"TokenValue\": \"planted-message\"}'");
    let traffic = "curl -fsS -o /dev/null https://any.lab.name/bytes/10 -H \
           'Authorization: AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/s3/aws4_request,SignedHeaders=host,Signature=planted-mac'
         curl -fsS -o /dev/null -u user:planted-basic -b id=planted-cookie \
           -H 'X-Amz-Security-Token: planted-session' \
           'https://any.lab.name/bytes/10?X-Amz-Signature=planted-signature&token=planted-query'
         curl -fsS -o /dev/null -d 'password=planted-form' https://any.lab.name/upload
         curl -fsS -o /dev/null -H 'Content-Type: application/json' \
           -d '{\"SecretAccessKey\":\"planted-json\",\"inner\":\"{\\\"token\\\":\\\"planted-nested\\\"}\"}' \
           https://any.lab.name/upload";
    let archived = |keys: &str| -> Result<(String, usize)> {
        let folder = tempfile::tempdir()?;
        let lab = Lab::new()?.config(&config(&format!(
            "to = '{}'\ncompression = 'none'\n{keys}",
            folder.path().display()
        )))?;
        let program = lab.folder().join("talk.py");
        std::fs::write(&program, &talk)?;
        let python = flowdog_tests::python();
        lab.shell(&format!(
            "{traffic}\n{} {}",
            python.display(),
            program.display()
        ))?;
        let count = entries(folder.path())?.len();
        let text = archives(folder.path())?
            .iter()
            .map(std::fs::read_to_string)
            .collect::<Result<Vec<_>, _>>()?;
        Ok((text.concat(), count))
    };
    // The basic credentials travel in base64.
    let (text, count) = archived("")?;
    assert_eq!(count, 5);
    for secret in SECRETS.iter().chain(&["dXNlcjpwbGFudGVk"]) {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
    assert!(text.contains("\"_accountId\":\"029608264753\""), "{text}");
    assert!(text.contains("(redacted)") && text.contains("x-amz-security-token"));

    let (text, _) = archived(
        "show-fields = ['Cookie', 'X-Amz-Security-Token']\nshow-parameters = ['token', 'TokenValue']",
    )?;
    for secret in SECRETS {
        let is_shown = ["cookie", "session", "query", "nested", "message"]
            .iter()
            .any(|shown| secret.ends_with(shown));
        assert_eq!(text.contains(secret), is_shown, "{secret}");
    }
    Ok(())
}
