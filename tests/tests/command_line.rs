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
