//! Time-outs and size limits of HTTP through the running appliance, each with what it counts.

use anyhow::Result;
use flowdog_tests::lab::Lab;

#[test]
fn threat_27_28_slow_peers_and_large_messages_are_ended_told_and_counted() -> Result<()> {
    let outcome = Lab::new()?
        .config(
            "[proxy]\nhead = \"4KiB\"\ntarget = \"1KiB\"\nheader-count = 20\nhead-time = \"1s\"\n\
             body-rate = \"1000B\"\nbody-time = \"1s\"\nidle-time = \"3s\"\nsniff-time = \"1s\"\n\
             [[rule]]\naction = \"intercept\"\n",
        )?
        .python(include_str!("http/limits.py"))?;
    println!("{}", outcome.stdout);
    assert!(outcome.stdout.contains("ALL 13"), "{}", outcome.stdout);
    for (fault, count) in [
        ("head-too-large", 2.0),
        ("slow-body", 2.0),
        ("slow-head", 2.0),
        ("target-too-long", 2.0),
        ("too-many-fields", 1.0),
    ] {
        let counted = outcome.metric("flowdog_http_refused_total", &format!("\"{fault}\""));
        assert!(counted >= count, "{fault}: {counted}");
    }
    let idle = outcome.metric("flowdog_flows_failed_total", "idle");
    assert!(idle >= 2.0, "idle: {idle}");
    Ok(())
}
