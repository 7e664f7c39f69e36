//! Watching packets with flowdogshark, read by tshark.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;

/// Runs `$PLAN` while flowdogshark writes `$OUT`.
const WATCHED: &str = r#"
set -e
"$SHARK" capture -w out.pcapng --target "unix:$PWD/capture.sock" "$@" 2>shark.log &
pid=$!
for i in $(seq 200); do grep -q 'capture attached' appliance.log && break; sleep 0.05; done
sh ./plan.sh
sleep 1
kill -TERM $pid
wait $pid
cat shark.log >&2
"#;

fn shark() -> Result<String> {
    let program = flowdog_tests::flowdogshark();
    Ok(program.to_str().context("path of flowdogshark")?.to_owned())
}

/// A lab whose appliance can be watched.
fn lab(extra: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let socket = lab.folder().join("capture.sock");
    lab.config(&format!(
        "[capture]\nlisten = 'unix:{}'\nsecrets = 'on'\n{extra}",
        socket.display()
    ))
}

fn watched(lab: Lab, arguments: &[&str], plan: &str) -> Result<Lab> {
    let folder = lab.folder().to_owned();
    std::fs::write(folder.join("plan.sh"), plan)?;
    let script = format!(
        "cd {}\nSHARK={}\nset -- {}\n{WATCHED}",
        folder.display(),
        shark()?,
        arguments
            .iter()
            .map(|word| format!("'{word}'"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let outcome = lab.shell(&script)?;
    ensure!(
        outcome.code == Some(0),
        "{}\n{}\n{}",
        outcome.stdout,
        outcome.stderr,
        outcome.log
    );
    Ok(lab)
}

fn tool(program: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .output()
        .with_context(|| format!("start {program}"))?;
    ensure!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Fields of the packets that pass a display filter, a line each.
fn fields(folder: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>> {
    let mut arguments = vec!["-n", "-r", "out.pcapng", "-Y", filter, "-T", "fields"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let text = tool("tshark", folder, &arguments)?;
    Ok(text.lines().map(str::to_owned).collect())
}

const INTERCEPT: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]

[[rule]]
action = 'intercept'
interceptors = ['mark']
";

#[test]
fn an_intercepted_session_is_clear_on_both_sides_and_changed_only_after_rewriting() -> Result<()> {
    for (side, marked) in [("client", 0), ("server", 1)] {
        let lab = watched(
            lab(INTERCEPT)?,
            &["--side", side],
            "curl -sS --http2 https://any.lab.name/one >/dev/null
             curl -sS --http1.1 --tls-max 1.2 https://any.lab.name/two >/dev/null
             curl -sS http://any.lab.name/three >/dev/null",
        )?;
        let folder = lab.folder();
        // The file alone decrypts.
        let paths = fields(folder, "http2.headers.path", &["http2.headers.path"])?;
        ensure!(paths == ["/one"], "HTTP/2, {side}: {paths:?}");
        let found = fields(
            folder,
            "http2.header.name == \"x-marked\"",
            &["frame.number"],
        )?;
        ensure!(found.len() == marked, "{side}: {found:?}");
        let clear = fields(folder, "http.request", &["http.request.uri"])?;
        ensure!(clear == ["/two", "/three"], "HTTP/1, {side}: {clear:?}");
        let lines = fields(
            folder,
            "http.request.line contains \"x-marked\"",
            &["http.request.uri"],
        )?;
        ensure!(lines.len() == 2 * marked, "{side}: {lines:?}");
        let names = fields(folder, "tcp", &["frame.interface_name"])?;
        ensure!(names.iter().all(|name| *name == format!("{side} side")));
        let named = fields(
            folder,
            "frame.comment contains \"vpce-\"",
            &["frame.number"],
        )?;
        ensure!(!named.is_empty(), "no flow is named");
    }
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

#[test]
fn a_filter_a_snap_length_and_no_secrets_are_kept_to() -> Result<()> {
    let lab = watched(
        lab("")?,
        &["-f", "tcp port 80", "--snap-length", "60", "--no-secrets"],
        "curl -sS https://any.lab.name/one >/dev/null; curl -sS http://any.lab.name/ >/dev/null",
    )?;
    let folder = lab.folder();
    let ports = fields(folder, "tcp", &["tcp.port", "frame.cap_len"])?;
    ensure!(!ports.is_empty());
    for line in ports {
        let (ports, len) = line.split_once('\t').context("fields")?;
        ensure!(ports.split(',').any(|port| port == "80"), "{line}");
        ensure!(len.parse::<u32>()? <= 60, "{line}");
    }
    let bytes = std::fs::read(folder.join("out.pcapng"))?;
    ensure!(!bytes.windows(13).any(|part| part == b"CLIENT_RANDOM"));
    ensure!(!bytes.windows(14).any(|part| part == b"TRAFFIC_SECRET"));
    Ok(())
}

#[test]
fn threat_65_attaching_is_in_the_log_and_secrets_are_off_unless_allowed() -> Result<()> {
    let lab = Lab::new()?;
    let folder = lab.folder().to_owned();
    let socket = folder.join("capture.sock");
    let lab = lab.config(&format!(
        "[capture]\nlisten = 'unix:{}'\n",
        socket.display()
    ))?;
    let shark = shark()?;
    let folder = folder.display();
    let outcome = lab.shell(&format!(
        "cd {folder}
         {shark} interfaces --target unix:{folder}/capture.sock --json
         {shark} capture -w bad.pcapng --target unix:{folder}/capture.sock -f 'frobnicate' || echo code $?
         {shark} capture -w one.pcapng --target unix:{folder}/capture.sock -f 'host 1.2.3.4' --duration 1s"
    ))?;
    ensure!(
        outcome.stdout.contains("\"secrets\":false"),
        "{}",
        outcome.stdout
    );
    ensure!(outcome.stdout.contains("code 1"), "{}", outcome.stdout);
    ensure!(
        outcome.stderr.contains("`frobnicate` is not known"),
        "{}",
        outcome.stderr
    );
    ensure!(
        outcome.log.contains("capture attached") && outcome.log.contains("host 1.2.3.4"),
        "{}",
        outcome.log
    );
    Ok(())
}
