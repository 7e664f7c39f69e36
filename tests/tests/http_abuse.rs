//! HTTP/2 peers that flood, bomb or break the rules, as raw frames through the running appliance: each
//! loses its own connection or is held back, memory stays bounded, and nobody beside it notices.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn threat_20_21_22_24_bad_clients_of_http2_are_cut_off_or_held_back() -> Result<()> {
    let outcome = Lab::new()?
        .config("[[rule]]\naction = \"intercept\"\n")?
        .python(include_str!("http/abuse.py"))?;
    println!("{}", outcome.stdout);
    let bad: Vec<&str> = outcome
        .stdout
        .lines()
        .filter(|line| !line.starts_with("OK"))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
    for threat in ["threat_20", "threat_21", "threat_22", "threat_24"] {
        assert!(outcome.stdout.contains(threat), "{}", outcome.stdout);
    }
    Ok(())
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
