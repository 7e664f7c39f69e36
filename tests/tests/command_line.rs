//! The programs as scripts and operators meet them: exit codes, messages, signals.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::Result;
use flowdog_tests::appliance::Appliance;
use flowdog_tests::flowdog;
use nix::sys::signal::Signal;

#[test]
fn a_broken_file_is_refused_with_file_line_key_and_fix() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("broken.toml");
    std::fs::write(
        &path,
        "[gwlb]\nlisten = \"nowhere\"\nlissten = \"0.0.0.0:6081\"\n\n[[rule]]\naction = \"interceptt\"\n\
         \n[[rule]]\naction = \"intercept\"\ninterceptors = [\"ghost\"]\n",
    )?;
    let output = flowdog().args(["check", "--config"]).arg(&path).output()?;
    assert_eq!(output.status.code(), Some(78));
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    for (line, key, word) in [
        (2, "listen", "nowhere"),
        (3, "lissten", "listen"),
        (6, "action", "intercept"),
        (10, "interceptors", "ghost"),
    ] {
        let wanted = format!("broken.toml:{line}:");
        assert!(
            said.lines()
                .any(|said| said.contains(&wanted) && said.contains(key) && said.contains(word)),
            "no line for {wanted} {key} {word} in:\n{said}"
        );
    }
    Ok(())
}

#[test]
fn an_empty_file_and_the_example_are_right() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let empty = folder.path().join("empty.toml");
    std::fs::write(&empty, "")?;
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../flowdog.example.toml").into();
    for path in [empty, example] {
        let output = flowdog().args(["check", "--config"]).arg(&path).output()?;
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

#[test]
fn wrong_use_is_64_and_completions_are_printed() -> Result<()> {
    assert_eq!(
        flowdog().arg("--no-such-flag").output()?.status.code(),
        Some(64)
    );
    for shell in ["bash", "zsh", "fish"] {
        let output = flowdog().args(["completions", shell]).output()?;
        assert!(
            output.status.success() && output.stdout.len() > 500,
            "{shell}"
        );
    }
    Ok(())
}

#[test]
fn gwlb_d03_sigterm_drains_and_exits_with_zero() -> Result<()> {
    let mut appliance = Appliance::start(Ipv4Addr::new(127, 77, 2, 1), "")?;
    appliance.signal(Signal::SIGTERM)?;
    assert_eq!(
        appliance.wait(Duration::from_secs(20))?,
        Some(0),
        "{}",
        appliance.log()
    );
    Ok(())
}

#[test]
fn threat_71_a_bad_file_at_reload_keeps_the_old_one() -> Result<()> {
    let mut appliance = Appliance::start(Ipv4Addr::new(127, 77, 3, 1), "")?;
    appliance.write_config("[gwlb]\nlisten = 5\n")?;
    appliance.signal(Signal::SIGHUP)?;
    std::thread::sleep(Duration::from_millis(500));
    assert!(appliance.get("/health")?.starts_with("HTTP/1.1 200"));
    let log = appliance.log();
    assert!(log.contains("listen"), "the fault is in the log: {log}");
    appliance.signal(Signal::SIGTERM)?;
    assert_eq!(appliance.wait(Duration::from_secs(20))?, Some(0));
    Ok(())
}

#[test]
fn explain_names_the_rule_that_decides_for_people_and_for_programs() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("rules.toml");
    std::fs::write(
        &path,
        "[[rule]]\nname = \"bank\"\naction = \"pass\"\nserver-name = \"*.bank.example\"\n\
         [[rule]]\naction = \"drop\"\nsource = \"10.9.0.0/16\"\n\
         [[rule]]\nname = \"web\"\naction = \"intercept\"\napplication = \"http1\"\n",
    )?;
    let explain = |more: &[&str]| {
        let mut command = flowdog();
        command.args(["explain", "--config"]).arg(&path);
        command.args(["--to", "1.2.3.4:443"]).args(more).output()
    };
    let told = explain(&["--from", "10.0.0.5:1234", "--sni", "a.bank.example"])?;
    assert_eq!(told.status.code(), Some(0));
    let text = String::from_utf8(told.stdout)?;
    assert!(text.contains("line 1, bank (pass): matches"), "{text}");
    assert!(text.contains("pass: bank decides"), "{text}");
    let told = explain(&["--from", "10.9.0.5:1234", "--json"])?;
    let json: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(json["outcome"], "drop");
    assert_eq!(json["decidedBy"], "rule[2]");
    assert_eq!(json["rules"][0]["unmet"], "server-name is nothing");
    let told = explain(&["--from", "10.0.0.5:1", "--http-host", "a.example", "--json"])?;
    let json: serde_json::Value = serde_json::from_slice(&told.stdout)?;
    assert_eq!(
        (&json["outcome"], &json["decidedBy"]),
        (&"intercept".into(), &"web".into())
    );
    assert_eq!(explain(&["--from", "nowhere"])?.status.code(), Some(64));
    assert_eq!(explain(&["--from", "[::1]:1"])?.status.code(), Some(64));
    Ok(())
}
