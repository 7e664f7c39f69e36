//! `flowdog lab` from the outside: the tour, a command, and what goes wrong.
#![allow(clippy::unwrap_used, reason = "helpers of tests may fail like tests")]

use std::fs;
use std::process::{Command, Output};

use tempfile::tempdir;

fn lab(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowdog"))
        .arg("lab")
        .args(arguments)
        .env_remove("FLOWDOG_CONFIG")
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn report(file: &std::path::Path) -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_tour_is_right_and_breaks_no_rule() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("report.json");
    let output = lab(&["--report", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let report = report(&file);
    assert_eq!(report["violations"]["by_kind"], serde_json::json!({}));
    assert_eq!(report["endpoints"], 2);
    assert!(report["gwlb"]["flows"].as_u64().unwrap() > 20, "{report}");
}

#[test]
fn the_tour_is_right_without_namespaces_and_speaks_json() {
    let output = lab(&["--user-space", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(lines.lines().count() > 10, "{lines}");
    for line in lines.lines() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(step.is_object(), "{line}");
    }
}

#[test]
fn a_command_is_the_client_and_its_exit_code_is_passed_on() {
    let script = "curl -sS --max-time 20 https://any.lab.name/ && exit 41";
    let output = lab(&["--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(41), "{}", text(&output));
    let answer = text(&output);
    assert!(answer.contains("x-gwlb-vpc-endpoint-id: vpce-"), "{answer}");
    assert!(answer.contains("x-flowdog-lab: tour"), "{answer}");
    let killed = lab(&["--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(killed.status.code(), Some(128 + 15), "{}", text(&killed));
}

#[test]
fn an_expired_server_is_refused_to_the_command() {
    let output = lab(&[
        "--",
        "curl",
        "-sS",
        "--max-time",
        "20",
        "https://expired.lab.name/",
    ]);
    assert!(!output.status.success(), "{}", text(&output));
    assert!(output.stdout.is_empty(), "{}", text(&output));
}

#[test]
fn a_configuration_of_ones_own_is_used_and_a_faulty_one_is_told() {
    let directory = tempdir().unwrap();
    let file = directory.path().join("flowdog.toml");
    fs::write(&file, "[[rule]]\naction = \"pass\"\n").unwrap();
    let config = file.to_str().unwrap();
    let output = lab(&[
        "--config",
        config,
        "--",
        "curl",
        "-sS",
        "--max-time",
        "20",
        "https://any.lab.name/",
    ]);
    assert!(output.status.success(), "{}", text(&output));
    assert!(
        !text(&output).contains("x-gwlb-vpc-endpoint-id"),
        "{}",
        text(&output)
    );

    fs::write(&file, "[gwlb]\nlisten = \"nowhere\"\n").unwrap();
    let output = lab(&["--config", config, "--", "true"]);
    assert_eq!(output.status.code(), Some(78), "{}", text(&output));
    assert!(text(&output).contains("gwlb.listen"), "{}", text(&output));
}

#[test]
fn a_wrong_link_is_a_usage_error_that_says_how_it_is_written() {
    let output = lab(&["--link", "loss=lots"]);
    assert_eq!(output.status.code(), Some(64), "{}", text(&output));
    assert!(text(&output).contains("loss=1%"), "{}", text(&output));
}
