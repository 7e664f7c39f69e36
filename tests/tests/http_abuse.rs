//! HTTP/2 peers that flood, bomb or break the rules, as raw frames through the running appliance: each
//! loses its own connection or is held back, memory stays bounded, and nobody beside it notices.

use anyhow::Result;
use flowdog_tests::lab::{Lab, Outcome};

/// Runs the attacks of one number.
fn attack(threat: &str) -> Result<Outcome> {
    let program = include_str!("http/abuse.py").replace("@THREAT@", threat);
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .python(&program)?;
    let bad: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| !line.starts_with("OK"))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(outcome.stdout.contains(threat), "{}", outcome.stdout);
    Ok(outcome)
}

#[test]
fn threat_20_header_blocks_without_an_end_are_cut_off() -> Result<()> {
    attack("threat_20").map(drop)
}

#[test]
fn threat_21_floods_of_frames_are_cut_off_or_held_back() -> Result<()> {
    let outcome = attack("threat_21")?;
    let count = |limit| outcome.metric("flowdog_http_limits_total", limit);
    assert!(count("\"http2-control\"") >= 2.0, "SETTINGS and PING");
    assert!(count("\"http2-streams\"") >= 40.0, "streams refused");
    Ok(())
}

#[test]
fn threat_22_bombs_and_faults_of_compression_end_the_connection() -> Result<()> {
    attack("threat_22").map(drop)
}

#[test]
fn threat_24_frames_where_they_must_not_be_end_the_connection() -> Result<()> {
    attack("threat_24").map(drop)
}

#[test]
fn threat_20_21_22_24_bad_origins_of_http2_reach_no_client() -> Result<()> {
    const ORIGINS: &str = include_str!("http/bad_origins.py");
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .server(&format!(
            "import sys\nsys.argv[1:] = [\"serve\"]\n{ORIGINS}"
        ))?
        .python(ORIGINS)?;
    println!("{}", outcome.stdout);
    let (good, bad): (Vec<&str>, Vec<&str>) = outcome
        .stdout
        .lines()
        .partition(|line| line.starts_with("OK"));
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(good.len() > 20, "{}", outcome.stdout);
    Ok(())
}
