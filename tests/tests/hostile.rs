//! What anybody can send to UDP port 6081: it never ends the appliance, never makes it grow, is counted by
//! reason, and does not disturb the flows beside it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Result;
use flowdog_tests::appliance::Appliance;
use flowdog_tests::gwlb::{Zone, header, udp_packet};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

const CLIENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 10), 40000);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 1), 7777);

/// Datagrams that are random, cut, or have flipped bits; every shape that the parsers must survive.
fn garbage(rng: &mut SmallRng, templates: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = templates[rng.random_range(0..templates.len())].clone();
    match rng.random_range(0..4) {
        0 => {
            bytes = vec![0; rng.random_range(0..200)];
            rng.fill_bytes(&mut bytes);
        }
        1 => bytes.truncate(rng.random_range(0..bytes.len())),
        2 => {
            for _ in 0..rng.random_range(1..8) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] ^= 1 << rng.random_range(0..8);
            }
        }
        _ => {
            // A right header in front of rubbish.
            let at = rng.random_range(40..=bytes.len());
            rng.fill_bytes(&mut bytes[at..]);
        }
    }
    bytes
}

/// Inner packets that lead deep into the state machine: SYN, SYN-ACK, data, ICMP errors, fragments.
fn templates() -> Vec<Vec<u8>> {
    let mut all = vec![udp_packet(1, 2, CLIENT, SERVER, b"hello")];
    for (flags, len) in [
        (0x02u8, 40usize),
        (0x12, 40),
        (0x10, 60),
        (0x18, 90),
        (0x04, 40),
        (0x11, 40),
    ] {
        let mut packet = header(1, 3);
        let total = u16::try_from(len).unwrap_or(40);
        packet.extend([0x45, 0]);
        packet.extend(total.to_be_bytes());
        packet.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 10, 198, 18, 0, 1]);
        packet.extend([
            0x9c, 0x40, 0x01, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0,
        ]);
        packet.resize(40 + len, 0);
        all.push(packet);
    }
    let mut icmp = header(1, 4);
    icmp.extend([
        0x45, 0, 0, 56, 0, 1, 0, 0, 64, 1, 0, 0, 198, 18, 0, 1, 10, 0, 0, 10,
    ]);
    icmp.extend([3, 4, 0, 0, 0, 0, 5, 0xdc]);
    icmp.extend([
        0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 10, 198, 18, 0, 1, 0x9c, 0x40, 1, 0xbb,
        0, 0, 0, 1,
    ]);
    all.push(icmp);
    let mut fragment = header(1, 5);
    fragment.extend([
        0x45, 0, 0, 60, 0, 1, 0x60, 0, 64, 6, 0, 0, 10, 0, 0, 10, 198, 18, 0, 1,
    ]);
    fragment.resize(100, 7);
    all.push(fragment);
    all
}

#[test]
fn threat_55_a_million_bad_datagrams_are_counted_and_disturb_nobody() -> Result<()> {
    let seed: u64 = std::env::var("FLOWDOG_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    println!("seed {seed}; replay with FLOWDOG_SEED={seed}");
    let mut appliance = Appliance::start(
        Ipv4Addr::new(127, 77, 1, 1),
        "[flows]\nmax = 20000\nmax-intercepted = 2000\n\
         [[interceptor]]\nname = \"who\"\nuse = \"geneve-headers\"\n\
         [[rule]]\naction = \"intercept\"\ninterceptors = [\"who\"]\n",
    )?;
    let zone = Zone::new(Ipv4Addr::new(127, 77, 1, 9), appliance.gwlb())?;
    let attacker = Zone::new(Ipv4Addr::new(127, 77, 1, 10), appliance.gwlb())?;
    let mut rng = SmallRng::seed_from_u64(seed);
    let templates = templates();

    let mut resident = Vec::new();
    let mut echoed = 0;
    for round in 0..100u32 {
        for burst in 0..100 {
            for _ in 0..100 {
                attacker.send(&garbage(&mut rng, &templates))?;
            }
            if burst % 10 == 0 {
                // Let the appliance keep pace: a datagram that the kernel drops tests nothing.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // A flow beside it: its packets come back byte for byte.
        let sent = udp_packet(7, 70, CLIENT, SERVER, &round.to_be_bytes());
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            zone.send(&sent)?;
            if let Ok((got, right)) = zone.receive() {
                assert!(right, "an answer from the wrong address or port");
                // A repeated question may be answered twice; only the newest counts.
                if got == sent {
                    echoed += 1;
                    break;
                }
            }
        }
        if round % 10 == 9 {
            resident.push(appliance.resident()?);
        }
    }
    assert_eq!(
        echoed, 100,
        "flows beside the garbage must not be disturbed"
    );
    assert_eq!(
        appliance.wait(Duration::ZERO).ok(),
        None,
        "{}",
        appliance.log()
    );

    let received = appliance.metric("flowdog_dataplane_received_packets_total", "")?;
    let dropped = appliance.metric("flowdog_dataplane_packets_dropped_total", "")?;
    println!("received {received}, dropped {dropped}, resident {resident:?}");
    assert!(
        received > 500_000.0,
        "only {received} of a million arrived: the test tested too little"
    );
    for reason in ["geneve_truncated", "geneve_bad_version", "geneve_option"] {
        assert!(
            appliance.metric("flowdog_dataplane_packets_dropped_total", reason)? > 0.0,
            "no drop counted as {reason}"
        );
    }
    // Flows that garbage opened fill the table up to its limit; from then on memory stays as it is.
    let (early, late) = (resident[4], resident[9]);
    assert!(late < early + (1 << 20), "memory grows: {resident:?}");
    let log = appliance.log();
    assert!(!log.contains("panicked"), "{log}");
    Ok(())
}
