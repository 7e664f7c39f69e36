//! AWS Systems Manager through the appliance: an agent with a real shell, and a service with a user.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::{moto, pki, python};
use serde_json::Value;

const MESSAGE: &str = include_str!("ssm/message.py");
const SERVICE: &str = include_str!("ssm/service.py");
const AGENT: &str = include_str!("ssm/agent.py");

const RULES: &str = r"
[[interceptor.rule]]
name = 'no-rm'
on = 'input'
find = 'rm\s+-rf'
[[interceptor.rule]]
name = 'no-curl'
on = 'command'
find = 'curl .*\| *sh'
with = 'ask us first'
";

fn with_ending(folder: &std::path::Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == ending) {
            paths.push(path);
        }
    }
    Ok(paths)
}

#[test]
fn threat_74_a_shell_is_recorded_and_guarded_and_agent_and_service_notice_nothing_else()
-> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    pki::certificates(&folder, &["ssmmessages.eu-west-1.lab.name"])?;
    for name in ["precious", "sessions"] {
        std::fs::create_dir(folder.join(name))?;
    }
    let config = format!(
        "[tls.upstream]\nroots = ['system', 'root.pem']\n[records]\noutput = 'records.json'\n\
         [[interceptor]]\nname = 'ssm'\nuse = 'ssm'\nfolder = '{}'\nmessage-hosts = ['*.lab.name']\n{RULES}\
         [[rule]]\naction = 'intercept'\ninterceptors = ['ssm']\n",
        folder.join("sessions").display()
    );
    let lab = lab
        .config(&config)?
        .server(&format!("{MESSAGE}\n{SERVICE}"))?;
    let outcome = lab.python(&format!("{MESSAGE}\n{AGENT}"))?;
    ensure!(outcome.stdout.trim() == "OK", "{}", outcome.stdout);
    ensure!(folder.join("precious").is_dir(), "the blocked line ran");

    // What the service heard: the agent's word on one command, and the appliance's on the other.
    let heard = std::fs::read_to_string(folder.join("service.json"))?;
    let heard: Vec<(String, Value)> = serde_json::from_str(&heard)?;
    let replies: Vec<Value> = heard
        .iter()
        .filter(|(kind, _)| kind == "agent_job_reply")
        .map(|(_, reply)| {
            Ok(serde_json::from_str(
                reply["content"].as_str().context("content")?,
            )?)
        })
        .collect::<Result<_>>()?;
    let status = |status: &str| {
        replies
            .iter()
            .find(|reply| reply["documentStatus"] == status)
    };
    ensure!(
        heard
            .iter()
            .filter(|(kind, _)| kind == "agent_job_ack")
            .count()
            == 2,
        "{heard:?}"
    );
    ensure!(status("Success").is_some(), "{replies:?}");
    let failed = status("Failed").context("a failed command")?;
    ensure!(failed["documentTraceOutput"] == "ask us first", "{failed}");

    // The recording, read by another's program.
    let sessions = folder.join("sessions");
    let casts = with_ending(&sessions, "cast")?;
    ensure!(casts.len() == 1, "{casts:?}");
    let cast = casts.first().context("a recording")?;
    ensure!(
        std::fs::metadata(cast)?.permissions().mode() & 0o777 == 0o600,
        "readable by others"
    );
    let text = std::fs::read_to_string(cast)?;
    let header: Value = serde_json::from_str(text.lines().next().context("a header")?)?;
    let about = &header["flowdog"];
    ensure!(
        (&header["width"], &header["height"]) == (&100.into(), &30.into()),
        "{header}"
    );
    ensure!(
        about["instance"] == "i-0lab" && about["region"] == "eu-west-1",
        "{about}"
    );
    ensure!(
        about["owner"] == "arn:aws:iam::1:user/ann" && about["session"] == "ann-0a1b",
        "{about}"
    );
    ensure!(
        text.contains(r#""r", "90x25""#) && text.contains(r#""m", "rule no-rm""#),
        "{text}"
    );
    let played = Command::new(python())
        .args(["-m", "asciinema", "cat"])
        .arg(cast)
        .env("ASCIINEMA_CONFIG_HOME", &folder)
        .output()?;
    ensure!(
        played.status.success(),
        "{}",
        String::from_utf8_lossy(&played.stderr)
    );
    let played = String::from_utf8(played.stdout)?;
    ensure!(played.contains("h\u{e9}llo 42\r\n"), "{played}");
    let transcripts = with_ending(&sessions, "txt")?;
    let transcript = std::fs::read_to_string(transcripts.first().context("a transcript")?)?;
    for line in [
        "$ echo 'h\u{e9}llo' $((6*7))",
        "h\u{e9}llo 42",
        "$ # blocked by policy",
        "[closed]",
    ] {
        ensure!(
            transcript.lines().any(|found| found == line),
            "{line}: {transcript}"
        );
    }

    // The records.
    let text = std::fs::read_to_string(folder.join("records.json"))?;
    let records: Vec<Value> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let count = |kind: &str, name: &str, value: &str| {
        records
            .iter()
            .filter(|record| record["type"] == kind && record[name] == value)
            .count()
    };
    for (kind, name, value, expected) in [
        ("ssm-agent", "platform", "Linux", 1),
        ("ssm-session", "event", "asked", 1),
        ("ssm-session", "event", "begin", 2),
        ("ssm-session", "event", "end", 2),
        ("ssm-session", "rule", "no-rm", 1),
        ("ssm-session", "kmsKey", "arn:aws:kms:eu-west-1:1:key/k", 1),
        ("ssm-command", "command", "c-1", 4),
        ("ssm-command", "blockedBy", "no-curl", 2),
        ("ssm-command-reply", "status", "Success", 2),
    ] {
        ensure!(
            count(kind, name, value) == expected,
            "{kind} {name} {value}: {text}"
        );
    }
    for (name, text) in [
        ("records", &text),
        ("log", &outcome.log),
        ("transcript", &transcript),
    ] {
        ensure!(!text.contains("token-of"), "a token is in the {name}");
    }
    ensure!(outcome.metric("flowdog_interceptor_notes_total", "\"malformed\"") == 0.0);
    Ok(())
}

const SETUP: &str = r#"
import boto3, os
boto3.client("s3", endpoint_url=os.environ["URL"]).create_bucket(Bucket="sessions",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
"#;

/// Prints the name of each object and its text, as JSON.
const READ: &str = r#"
import boto3, json, os
s3 = boto3.client("s3", endpoint_url=os.environ["URL"])
for found in s3.list_objects_v2(Bucket="sessions").get("Contents", []):
    text = s3.get_object(Bucket="sessions", Key=found["Key"])["Body"].read().decode()
    print("object", json.dumps([found["Key"], text]))
"#;

#[test]
fn recordings_are_moved_to_s3_when_it_is_there_and_so_are_those_that_a_crash_left() -> Result<()> {
    let lab = moto::with_credentials(Lab::new()?);
    let folder = lab.folder().to_owned();
    pki::certificates(&folder, &["ssmmessages.eu-west-1.lab.name"])?;
    let sessions = folder.join("sessions");
    std::fs::create_dir(folder.join("precious"))?;
    std::fs::create_dir(&sessions)?;
    let left = std::fs::File::create(sessions.join("left.cast"))?;
    left.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600))?;
    drop(left);
    let lab = lab
        .config(&format!(
            "[tls.upstream]\nroots = ['system', 'root.pem']\n\
             [[interceptor]]\nname = 'ssm'\nuse = 'ssm'\nfolder = '{}'\nmessage-hosts = ['*.lab.name']\n\
             to = 's3://sessions/all'\nregion = 'eu-central-1'\nendpoint = '{}'\n{RULES}\
             [[rule]]\naction = 'intercept'\ninterceptors = ['ssm']\n",
            sessions.display(),
            moto::ENDPOINT,
        ))?
        .server(&format!("{MESSAGE}\n{SERVICE}"))?;
    std::fs::write(folder.join("agent.py"), format!("{MESSAGE}\n{AGENT}"))?;
    let steps = "touch away
         $python agent.py
         sleep 2; ls sessions; rm away
         for n in $(seq 300); do [ -z \"$(ls sessions)\" ] && break; sleep 0.1; done
         ls sessions";
    let outcome = lab.shell(&moto::script(&lab, SETUP, steps, READ)?)?;
    let objects: Vec<(String, String)> = outcome
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("object "))
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let named = |part: &str, ending: &str| {
        let found = objects.iter().find(|(key, _)| {
            key.starts_with("all/2") && key.contains(part) && key.ends_with(ending)
        });
        found.with_context(|| format!("{part} {ending} in {}\n{}", outcome.stdout, outcome.log))
    };
    ensure!(objects.len() == 3, "{}\n{}", outcome.stdout, outcome.log);
    ensure!(named("/left-", ".cast")?.1.is_empty());
    let (_, cast) = named("-ann-0a1b-", ".cast")?;
    let header: Value = serde_json::from_str(cast.lines().next().context("a header")?)?;
    ensure!(header["flowdog"]["session"] == "ann-0a1b", "{header}");
    let (_, transcript) = named("-ann-0a1b-", ".txt")?;
    ensure!(transcript.ends_with("[closed]\n"), "{transcript}");
    ensure!(
        std::fs::read_dir(&sessions)?.next().is_none(),
        "moved means gone here"
    );
    let metric = |name: &str| outcome.metric(&format!("flowdog_outlet_{name}"), "ssm");
    ensure!(
        metric("errors_total") > 0.0 && metric("failed_total") + metric("dropped_total") == 0.0
    );
    Ok(())
}
