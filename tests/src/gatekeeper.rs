//! What the sample functions have to do, whatever they are written in.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::appliance::Appliance;
use crate::gwlb::{Zone, udp_packet};
use crate::ministack::Ministack;

/// Asks the function about flows of several kinds, and reads in the flow log what it said. `net` keeps
/// tests apart that run at the same time.
///
/// # Errors
/// What the function, or the appliance, does otherwise.
pub fn check(stack: &Ministack, net: u8) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("flows.json");
    let config = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\noutput = '{}'\n\
         [[acceptor]]\nname = 'gate'\nuse = 'lambda-acceptor'\nfunction = 'gate'\nregion = 'eu-west-1'\n\
         endpoint = 'http://127.0.0.1:{}'\ndeadline = '4s'\nrefuse = 'drop'\n\
         [[rule]]\naction = 'ask'\nacceptor = 'gate'\n",
        path.display(),
        stack.port()
    );
    let credentials = [
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ];
    let appliance = Appliance::start_with(Ipv4Addr::new(127, 77, net, 1), &config, &credentials)?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, net, 2), appliance.gwlb())?;
    let packet = |host: [u8; 4], from: u16, port: u16| {
        let from = SocketAddrV4::new(host.into(), from);
        udp_packet(
            7,
            1,
            from,
            SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 9), port),
            b"hello",
        )
    };
    let (good, bad) = ([10, 1, 0, 5], [10, 66, 0, 5]);
    // The first run starts the function, which may take longer than the deadline.
    let began = Instant::now();
    for from in 1000.. {
        let asked = packet(good, from, 53);
        zone.send(&asked)?;
        if zone.receive().is_ok_and(|(answer, _)| answer == asked) {
            break;
        }
        ensure!(
            began.elapsed() < Duration::from_secs(40),
            "{}\n{}",
            appliance.log(),
            stack.log()
        );
    }
    zone.send(&packet(good, 2001, 25))?;
    zone.send(&packet(bad, 2002, 53))?;
    let answers = |kind: &str| appliance.metric("flowdog_acceptor_answers_total", kind);
    let wait = |kind: &str, count: f64| -> Result<()> {
        let began = Instant::now();
        while answers(kind)? < count {
            ensure!(
                began.elapsed() < Duration::from_secs(10),
                "{kind}: {}",
                appliance.log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    wait("\"refused\"", 2.0)?;
    // Its answer about the host in quarantine holds for every port.
    let cached = answers("\"cached\"")?;
    zone.send(&packet(bad, 2003, 8080))?;
    wait("\"cached\"", cached + 1.0)?;
    ensure!(answers("\"refused\"")? < 3.0, "asked again");
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let records: Vec<Value> = text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?;
        let of = |key: &str, value: u16| records.iter().find(|one| one[key] == value);
        if let (Some(mail), Some(quarantine), Some(passed)) = (
            of("serverPort", 25),
            of("serverPort", 8080),
            records.iter().find(|one| one["verdict"] == "pass"),
        ) {
            ensure!(
                mail["verdict"] == "drop" && mail["acceptor"] == "gate",
                "{mail}"
            );
            ensure!(mail["reason"] == "port 25 is closed for you", "{mail}");
            ensure!(
                quarantine["reason"] == "the host is in quarantine",
                "{quarantine}"
            );
            ensure!(passed["context"]["team"] == "unknown", "{passed}");
            return Ok(());
        }
        ensure!(began.elapsed() < Duration::from_secs(10), "{records:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
