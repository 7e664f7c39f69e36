//! Files that captures are written to, here and in S3.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::moto;

use crate::watching::{CHANGING, fields, lab, tool, watched};

#[test]
fn files_follow_each_other_in_a_folder() -> Result<()> {
    let lab = lab(CHANGING)?;
    let folder = lab.folder().to_owned();
    let flowdog = flowdog_tests::flowdog();
    let outcome = lab.shell(&format!(
        "cd {}
         {} capture -c lab.toml --folder kept --size 100KiB --files 2 --filter 'sni any.lab.name' 2>capture.log &
         pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         curl -sS https://other.lab.name/bytes/400000 >/dev/null
         for i in 1 2 3 4 5; do curl -sS https://any.lab.name/bytes/120000 >/dev/null; done
         curl -sS https://any.lab.name/last >/dev/null
         sleep 1
         kill -TERM $pid
         wait $pid
         cat capture.log",
        folder.display(),
        Path::new(flowdog.get_program()).display()
    ))?;
    ensure!(
        outcome.stdout.contains(" packets written, "),
        "{}",
        outcome.stdout
    );
    let mut names: Vec<_> = std::fs::read_dir(folder.join("kept"))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    ensure!(names.len() == 2, "{names:?}");
    let mut clear = Vec::new();
    for name in &names {
        ensure!(name.ends_with(".pcapng"), "{names:?}");
        std::fs::copy(folder.join("kept").join(name), folder.join("out.pcapng"))?;
        clear.extend(fields(
            &folder,
            "http2.headers.path",
            &["http2.headers.path"],
        )?);
        let others = fields(
            &folder,
            "tls.handshake.extensions_server_name == \"other.lab.name\"",
            &["frame.number"],
        )?;
        ensure!(others.is_empty(), "the filter let another name through");
    }
    ensure!(
        clear.last().map(String::as_str) == Some("/last"),
        "{clear:?}"
    );
    Ok(())
}

#[test]
fn threat_75_every_packet_of_a_file_is_read_without_a_warning() -> Result<()> {
    let lab = watched(
        lab("")?,
        &["--side", "client,outer"],
        "curl -sS https://any.lab.name/one >/dev/null; curl -sS http://any.lab.name/ >/dev/null",
    )?;
    let folder = lab.folder();
    let bad = fields(
        folder,
        "_ws.malformed || _ws.short || ip.checksum.status == \"Bad\" || _ws.expert.severity == error",
        &["frame.number", "_ws.expert.message"],
    )?;
    ensure!(bad.is_empty(), "{bad:?}");
    let geneve = fields(
        folder,
        "frame.interface_id == 1 && geneve",
        &["udp.dstport"],
    )?;
    ensure!(!geneve.is_empty(), "no GENEVE on the outer interface");
    let about = tool("capinfos", folder, &["-T", "-m", "-c", "-o", "out.pcapng"])?;
    ensure!(about.contains("True"), "out of order: {about}");
    let output = Command::new("tshark")
        .args(["-r", "out.pcapng", "-q"])
        .current_dir(folder)
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let said: Vec<_> = said
        .lines()
        .filter(|line| !line.contains("Running as user"))
        .collect();
    ensure!(said.is_empty(), "tshark warns: {said:?}");
    tool("editcap", folder, &["-d", "out.pcapng", "again.pcapng"])?;
    tool(
        "mergecap",
        folder,
        &["-w", "both.pcapng", "out.pcapng", "again.pcapng"],
    )?;
    Ok(())
}

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="packets",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// Fetches all objects into the folder `fetched` and prints their names.
const FETCH: &str = r#"
import boto3, os, pathlib
s3 = boto3.client("s3", endpoint_url=os.environ["URL"])
folder = pathlib.Path("fetched")
folder.mkdir()
for found in s3.list_objects_v2(Bucket="packets").get("Contents", []):
    s3.download_file("packets", found["Key"], folder / found["Key"].split("/")[-1])
    print("object", found["Key"])
"#;

#[test]
fn files_are_moved_to_s3_where_tshark_reads_every_one() -> Result<()> {
    let lab = moto::with_credentials(lab(CHANGING)?);
    let folder = lab.folder().to_owned();
    let flowdog = flowdog_tests::flowdog();
    // What an earlier run left, larger than a part of an upload.
    let left: Vec<u8> = (0..20_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::fs::create_dir(folder.join("kept"))?;
    std::fs::write(
        folder.join("kept/flowdog-20200101T000000.000Z.pcapng"),
        &left,
    )?;
    let steps = format!(
        "touch away
         nsenter --net=/proc/$appliance/ns/net {} capture -c lab.toml --folder kept --size 100KiB --files 20 --filter 'sni any.lab.name' \
             --to s3://packets/all --to-region eu-central-1 --to-endpoint {} 2>capture.log &
         pid=$!
         for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
         for i in 1 2 3; do curl -sS https://any.lab.name/bytes/120000 >/dev/null; done
         for n in $(seq 100); do [ $(ls kept/*.pcapng | wc -l) -ge 3 ] && break; sleep 0.1; done
         echo waiting $(ls kept/*.pcapng | wc -l); rm away
         curl -sS https://any.lab.name/last >/dev/null
         sleep 3
         kill -TERM $pid; wait $pid || {{ cat capture.log; exit 1; }}
         cat capture.log; echo left $(ls kept | wc -l)",
        Path::new(flowdog.get_program()).display(),
        moto::ENDPOINT,
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, FETCH)?)?;
    let said = |start: &str| {
        let line = outcome
            .stdout
            .lines()
            .find_map(|line| line.strip_prefix(start));
        line.and_then(|rest| rest.parse::<usize>().ok())
            .with_context(|| format!("{start:?} in {}\n{}", outcome.stdout, outcome.log))
    };
    ensure!(said("waiting ")? >= 3, "{}", outcome.stdout);
    ensure!(said("left ")? == 0, "{}", outcome.stdout);
    let names: Vec<_> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("object all/"))
        .collect();
    ensure!(names.len() >= 4, "{}", outcome.stdout);
    ensure!(
        outcome
            .stdout
            .contains(&format!("{} files moved", names.len())),
        "{}",
        outcome.stdout
    );
    let (mut clear, mut packets) = (Vec::new(), 0);
    for name in &names {
        let (_, name) = name.split_once('/').context("a day")?;
        let file = folder.join("fetched").join(name);
        if name.starts_with("flowdog-2020") {
            ensure!(std::fs::read(&file)? == left, "not what was there");
            continue;
        }
        std::fs::copy(&file, folder.join("out.pcapng"))?;
        let about = tool("capinfos", &folder, &["-T", "-m", "-r", "-c", "out.pcapng"])?;
        let count = about.trim().rsplit(',').next().context("a count")?;
        let count: usize = count
            .trim_matches('"')
            .parse()
            .with_context(|| about.clone())?;
        let read = tool(
            "tshark",
            &folder,
            &["-r", "out.pcapng", "-T", "fields", "-e", "frame.number"],
        )?;
        ensure!(read.lines().count() == count, "{about}");
        packets += count;
        clear.extend(fields(
            &folder,
            "http2.headers.path",
            &["http2.headers.path"],
        )?);
    }
    let written = format!("{packets} packets written, ");
    ensure!(
        outcome.stdout.contains(&written),
        "{packets}: {}",
        outcome.stdout
    );
    ensure!(
        clear.last().map(String::as_str) == Some("/last"),
        "{clear:?}"
    );
    Ok(())
}
