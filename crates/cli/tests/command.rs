//! The `flowdog` program from outside: exit codes, faults, signals.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn flowdog(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowdog"))
        .args(arguments)
        .env_remove("FLOWDOG_CONFIG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn the_example_file_passes_the_check() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../flowdog.example.toml");
    let output = flowdog(&["check", "--config", example.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
}

#[test]
fn a_broken_file_gives_one_line_per_fault_and_exit_78() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flowdog.toml");
    std::fs::write(
        &file,
        "[gwlb]\nlisten = 'here'\n\n[[rule]]\naction = 'pass'\nprot = 443\n",
    )
    .unwrap();
    let output = flowdog(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    let name = file.display();
    let output = text(&output.stdout);
    let faults: Vec<&str> = output.lines().collect();
    assert_eq!(faults.len(), 2, "{output}");
    assert_eq!(
        faults[0],
        format!(
            "{name}:2: gwlb.listen: \"here\" is not valid here; allowed: an IPv4 address and a port, as \"0.0.0.0:6081\""
        )
    );
    let unknown = format!("{name}:6: rule[1].prot: unknown key; did you mean `port`?; allowed: ");
    assert!(
        faults[1].starts_with(&unknown) && faults[1].contains("action, "),
        "{output}"
    );
    let output = flowdog(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(78));
    assert_eq!(
        text(&output.stderr).lines().count(),
        2,
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn a_file_that_is_not_there_is_exit_78() {
    let output = flowdog(&["check", "--config", "/nonexistent.toml"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(
        text(&output.stdout).contains("/nonexistent.toml:1: cannot read"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn a_wrong_command_line_is_exit_64_and_help_is_exit_0() {
    for wrong in [&["dance"][..], &["check"], &["run", "--colour", "red"], &[]] {
        assert_eq!(flowdog(wrong).status.code(), Some(64), "{wrong:?}");
    }
    for right in [
        &["--help"][..],
        &["run", "--help"],
        &["check", "--help"],
        &["--version"],
    ] {
        let output = flowdog(right);
        assert_eq!(output.status.code(), Some(0), "{right:?}");
        assert!(!output.stdout.is_empty(), "{right:?}");
    }
}

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let output = flowdog(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{shell}");
        let script = text(&output.stdout);
        for command in ["run", "check", "completions"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
}

/// The appliance as a process; killed when the test ends before it does.
struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
    health: String,
}

impl Process {
    fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_flowdog"))
            .args(["run", "--config"])
            .arg(file)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut process = Self {
            child,
            lines,
            health: String::new(),
        };
        let line = process.wait_for("health checks and metrics");
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        process.health = json["listen"].as_str().unwrap().to_owned();
        process.wait_for("flowdog is running");
        process
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The first line of the log from here on that contains `text`.
    fn wait_for(&self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no {text:?} in the log: {seen:#?}")
            };
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }

    fn status(&self) -> u16 {
        let mut stream = TcpStream::connect(&self.health).unwrap();
        stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(dir: &tempfile::TempDir, last: u8, rest: &str) -> PathBuf {
    let file = dir.path().join("flowdog.toml");
    let text = format!(
        "[gwlb]\nlisten = '127.7.100.{last}:0'\n[health]\nlisten = '127.7.100.{last}:0'\n[log]\nformat = 'json'\n{rest}"
    );
    std::fs::write(&file, text).unwrap();
    file
}

#[test]
fn gwlb_d03_sigterm_drains_and_exits_0() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(&config(&dir, 1, ""));
    assert_eq!(process.status(), 200);
    process.signal("TERM");
    process.wait_for("draining");
    assert_eq!(process.exit_code(), Some(0));
    process.wait_for("flowdog has stopped");
}

#[test]
fn gwlb_d03_health_fails_while_draining_and_a_second_signal_forces() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(&config(&dir, 2, "[drain]\ngrace = '1h'\ndeadline = '2h'\n"));
    process.signal("TERM");
    process.wait_for("draining");
    assert_eq!(process.status(), 503);
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        process.child.try_wait().unwrap().is_none(),
        "it waits for its grace"
    );
    process.signal("INT");
    process.wait_for("second signal");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn threat_71_sighup_with_a_faulty_file_keeps_the_old_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut process = Process::start(&config(&dir, 3, ""));
    config(&dir, 3, "[[rule]]\naction = 'dance'\n");
    process.signal("HUP");
    let line = process.wait_for("configuration not reloaded");
    assert!(line.contains("flowdog.toml:8: rule[1].action"), "{line}");
    assert_eq!(process.status(), 200);
    config(&dir, 3, "[[rule]]\naction = 'pass'\n");
    process.signal("HUP");
    process.wait_for("configuration reloaded");
    process.signal("TERM");
    assert_eq!(process.exit_code(), Some(0));
}

#[test]
fn a_taken_port_is_told_with_its_key_and_exit_1() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.7.100.4:0").unwrap();
    let file = config(&dir, 4, "");
    let text = std::fs::read_to_string(&file).unwrap();
    let text = text.replacen(
        "[health]\nlisten = '127.7.100.4:0'",
        &format!("[health]\nlisten = '{}'", taken.local_addr().unwrap()),
        1,
    );
    std::fs::write(&file, text).unwrap();
    let output = flowdog(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("health.listen: cannot open 127.7.100.4:"),
        "{told}"
    );
}
