//! AWS Systems Manager through the appliance: an agent with a real shell, and a service with a user.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;
use flowdog_tests::{pki, python};
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
