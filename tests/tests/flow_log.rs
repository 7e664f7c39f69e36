//! The flow log as those see it who read it: a file of lines.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gwlb::{Zone, udp_packet};
use flowdog_tests::lab::Lab;
use nix::sys::signal::Signal;
use serde_json::Value;

fn records(path: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?)
}

#[test]
fn an_intercepted_connection_has_its_tcp_and_tls_facts_in_its_record() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let config = format!(
        "[flow-log]\noutput = '{}'\n[[rule]]\nname = 'web'\naction = 'intercept'\nport = 443\n",
        path.display()
    );
    let lab = Lab::new()?.config(&config)?;
    lab.shell("curl -fsS --http2 https://any.lab.name/echo >/dev/null && sleep 0.3")?;
    let records = records(&path)?;
    let flow = records
        .iter()
        .find(|one| one["serverPort"] == 443 && one["type"] == "flow")
        .with_context(|| format!("no such record: {records:?}"))?;
    assert_eq!(flow["verdict"], "intercept", "{flow}");
    assert_eq!(flow["rule"], "web");
    assert_eq!(flow["serverName"], "any.lab.name");
    assert_eq!(flow["tls"]["clientVersion"], "1.3");
    assert_eq!(flow["tls"]["serverVersion"], "1.3");
    assert_eq!(flow["tls"]["alpn"], "h2");
    assert!(
        flow["ja4"]
            .as_str()
            .is_some_and(|ja4| ja4.starts_with("t13d")),
        "{flow}"
    );
    for side in ["client", "server"] {
        let rtt = flow[format!("{side}HandshakeMs")].as_f64();
        // Zero where one turn of a busy shard saw both packets.
        assert!(
            rtt.is_some_and(|rtt| (0.0..5000.0).contains(&rtt)),
            "{flow}"
        );
        assert!(flow[format!("{side}Retransmits")].is_u64(), "{flow}");
    }
    Ok(())
}

#[test]
fn sighup_leaves_a_file_that_was_moved_away_and_begins_a_new_one() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (path, moved) = (
        folder.path().join("flows.json"),
        folder.path().join("old.json"),
    );
    let config = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\noutput = '{}'\n",
        path.display()
    );
    let appliance = Appliance::start(Ipv4Addr::new(127, 77, 23, 1), &config)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 23, 2), appliance.gwlb())?;
    let from = |port| SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 5), port);
    let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), 53);
    let flow = |port| -> Result<()> {
        zone.send(&udp_packet(7, 1, from(port), to, b"question"))?;
        zone.receive()?;
        Ok(())
    };
    let wait = |path: &Path, port: u16| -> Result<()> {
        let began = Instant::now();
        while !records(path)?.iter().any(|one| one["clientPort"] == port) {
            ensure!(
                began.elapsed() < Duration::from_secs(8),
                "no record in {}",
                path.display()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    flow(1001)?;
    wait(&path, 1001)?;
    std::fs::rename(&path, &moved)?;
    flow(1002)?;
    wait(&moved, 1002)?;
    appliance.signal(Signal::SIGHUP)?;
    let began = Instant::now();
    while appliance.metric("flowdog_config_reloads_total", "")? < 1.0 {
        ensure!(began.elapsed() < Duration::from_secs(5), "not reloaded");
        std::thread::sleep(Duration::from_millis(20));
    }
    flow(1003)?;
    wait(&path, 1003)?;
    assert!(!records(&moved)?.iter().any(|one| one["clientPort"] == 1003));
    Ok(())
}
