//! A lab whose appliance is watched, and the tools that read what came of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use flowdog_tests::lab::Lab;

/// Runs `$PLAN` while flowdogshark writes `$OUT`.
pub(crate) const WATCHED: &str = r#"
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

/// Runs a program where the appliance is: its loopback is not the client's. The brackets keep the
/// pattern from finding the shell that has it in its own command.
pub(crate) const INSIDE: &str = r#"
inside() {
    nsenter -t "$(pgrep -f "[f]lowdog run --config $PWD/lab.toml")" -n "$@"
}
"#;

pub(crate) fn shark() -> Result<String> {
    let program = flowdog_tests::flowdogshark();
    Ok(program.to_str().context("path of flowdogshark")?.to_owned())
}

/// A lab whose appliance can be watched.
pub(crate) fn lab(extra: &str) -> Result<Lab> {
    let lab = Lab::new()?;
    let socket = lab.folder().join("capture.sock");
    lab.config(&format!(
        "[capture]\nlisten = 'unix:{}'\nsecrets = 'on'\n{extra}",
        socket.display()
    ))
}

pub(crate) fn watched(lab: Lab, arguments: &[&str], plan: &str) -> Result<Lab> {
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

pub(crate) fn tool(program: &str, folder: &Path, arguments: &[&str]) -> Result<String> {
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
pub(crate) fn fields(folder: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>> {
    let mut arguments = vec!["-n", "-r", "out.pcapng", "-Y", filter, "-T", "fields"];
    for field in fields {
        arguments.extend(["-e", field]);
    }
    let text = tool("tshark", folder, &arguments)?;
    Ok(text.lines().map(str::to_owned).collect())
}

pub(crate) const INTERCEPT: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]

[[rule]]
action = 'intercept'
interceptors = ['mark']
";

/// Changes the head of a request and the text of WebSocket messages.
pub(crate) const CHANGING: &str = "
[[interceptor]]
name = 'mark'
use = 'edit-headers'
request = [{ set = 'x-marked', value = 'yes' }]

[[interceptor]]
name = 'words'
use = 'edit-body'
message = [{ find = 'cat', replace = 'dog' }]

[[rule]]
action = 'intercept'
interceptors = ['mark', 'words']
";
