//! Packets that pass, are dropped, or are none.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use flowdog::{Appliance, Config, Outer, Tap};

use crate::bench::{Bench, geneve, ipv4, udp};

#[test]
fn gwlb_a08_everything_is_passed_byte_for_byte_by_default() {
    let bench = Bench::new(1, "");
    for size in [0, 1, 100, 1400, 8400] {
        let datagram = udp(40_000, 53, &vec![0x5a; size]);
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    // ICMP echo and GRE, which are not understood and need not be.
    for protocol in [1, 47] {
        let datagram = geneve(&ipv4(
            protocol,
            [10, 0, 0, 1],
            [192, 0, 2, 9],
            &[8, 0, 0xf7, 0xff, 0, 0, 0, 0],
        ));
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    assert!(bench.metric("flowdog_dataplane_received_packets_total") >= 7.0);
    assert_eq!(bench.metric("flowdog_dataplane_packets_dropped_total"), 0.0);
}

#[test]
fn a_burst_of_many_flows_comes_back_complete() {
    let bench = Bench::new(2, "");
    let mut expected = Vec::new();
    // As many as the receive buffer of this test's own socket holds for certain.
    for number in 0..120_u16 {
        let datagram = udp(10_000 + number, 53, &number.to_be_bytes());
        bench.send(&datagram);
        expected.push(datagram);
    }
    let mut got = Vec::new();
    let mut buffer = vec![0; 65_536];
    while got.len() < expected.len() {
        let (len, _) = bench
            .back
            .recv_from(&mut buffer)
            .expect("a reply is missing");
        got.push(buffer[..len].to_vec());
    }
    // The flows are independent, so only the set must agree.
    got.sort();
    expected.sort();
    assert!(got == expected);
}

#[test]
fn gwlb_a03_threat_55_garbage_is_counted_by_reason_and_disturbs_nobody() {
    let bench = Bench::new(3, "");
    let good = udp(40_000, 53, b"good");
    let mut sent = 0;
    for cut in 0..40 {
        bench.send(&good[..cut]);
        sent += 1;
    }
    let mut state = 0x2545_f491_u32;
    for size in 0..300 {
        let noise: Vec<u8> = (0..size)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state as u8
            })
            .collect();
        bench.send(&noise);
        sent += 1;
    }
    let mut version = good.clone();
    version[0] |= 0x40;
    bench.send(&version);
    sent += 1;
    bench.wait_for("flowdog_dataplane_received_packets_total", f64::from(sent));
    assert!(
        bench.metric(
            "flowdog_dataplane_packets_dropped_total{shard=\"0\",reason=\"geneve_truncated\"}"
        ) >= 8.0
    );
    assert!(
        bench.metric(
            "flowdog_dataplane_packets_dropped_total{shard=\"0\",reason=\"geneve_bad_version\"}"
        ) >= 1.0
    );
    assert_eq!(bench.metric("flowdog_flow_panics_total"), 0.0);
    bench.send(&good);
    bench.expect(&good);
    assert_eq!(bench.get("/health").0, 200);
}

#[test]
fn a_rule_drops_what_it_matches_and_a_faulty_reload_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("flowdog.toml");
    let write = |rules: &str| {
        std::fs::write(
            &file,
            format!("[gwlb]\nlisten = '127.7.7.1:0'\n[health]\nlisten = '127.7.7.1:0'\n{rules}"),
        )
        .unwrap();
    };
    let bench = Bench::start(7, "[[rule]]\naction = 'drop'\nport = 53", |builder| {
        builder.config_file(&file)
    });
    bench.send(&udp(40_000, 53, b"dropped"));
    bench.expect_silence();
    assert!(
        bench.metric("flowdog_dataplane_packets_dropped_total{shard=\"0\",reason=\"denied\"}")
            >= 1.0
    );

    write("[[rule]]\naction = 'pas'\n");
    let faults = bench.running.reload().unwrap_err().to_string();
    assert!(
        faults.contains("flowdog.toml:6: rule[1].action: "),
        "{faults}"
    );
    bench.send(&udp(40_001, 53, b"still dropped"));
    bench.expect_silence();
    assert_eq!(bench.metric("flowdog_config_reload_failures_total"), 1.0);

    write("[[rule]]\naction = 'drop'\nport = 54\n");
    bench.running.reload().unwrap();
    let passed = udp(40_002, 53, b"passed");
    bench.send(&passed);
    bench.expect(&passed);
    assert_eq!(bench.metric("flowdog_config_reloads_total"), 1.0);
}

#[test]
fn gwlb_a11_threat_54_foreign_senders_are_not_heard() {
    let bench = Bench::new(8, "[gwlb]\nallowed-sources = ['10.0.0.0/8', '127.7.8.9']");
    bench.send(&udp(40_000, 53, b"foreign"));
    bench.expect_silence();
    assert_eq!(bench.metric("flowdog_shard_receive_foreign_total"), 1.0);
    assert_eq!(
        bench.metric("flowdog_dataplane_received_packets_total"),
        0.0
    );
}

#[test]
fn gwlb_b05_with_several_shards_both_directions_and_odd_headers_find_their_flow() {
    let bench = Bench::new(9, "[gwlb]\nshards = 3");
    let (status, _, body) = bench.get("/health");
    assert_eq!(status, 200, "{body}");
    for number in 0..60_u16 {
        let datagram = udp(20_000 + number, 53, &[7; 64]);
        bench.send(&datagram);
        bench.expect(&datagram);
        // The way back, under another cookie and with an option that is not known.
        let mut inner = ipv4(17, [192, 0, 2, 9], [10, 0, 0, 1], &[]);
        inner[2..4].copy_from_slice(&28_u16.to_be_bytes());
        inner.extend(53_u16.to_be_bytes());
        inner.extend((20_000 + number).to_be_bytes());
        inner.extend([0, 8, 0, 0]);
        let mut back = geneve(&inner);
        back[36] ^= 0xff;
        back[0] += 1;
        back.splice(8..8, [0x01, 0x99, 0x05, 0x00]);
        bench.send(&back);
        bench.expect(&back);
    }
    let by_endpoint = "flowdog_endpoint_flows_opened_total{endpoint=\"vpce-00123456789abcdef\"}";
    assert_eq!(bench.metric(by_endpoint), 60.0, "gwlb.md D4");
    let opened = bench.metric("flowdog_dataplane_flows_opened_udp_total");
    assert_eq!(opened, 60.0, "one flow for both directions");
    assert!(bench.metric("flowdog_shard_strays_sent_total") > 0.0);
}

/// Counts, and keeps the last of each kind.
#[derive(Debug, Default)]
struct Watch {
    received: AtomicU64,
    sent: AtomicU64,
    last: Mutex<[Vec<u8>; 2]>,
}

impl Tap for Watch {
    fn on_received(&self, _: usize, datagram: &[u8], _: &Outer) {
        self.received.fetch_add(1, Ordering::SeqCst);
        self.last.lock().unwrap()[0] = datagram.to_vec();
    }
    fn on_sent(&self, _: usize, datagram: &[u8], _: &Outer) {
        self.sent.fetch_add(1, Ordering::SeqCst);
        self.last.lock().unwrap()[1] = datagram.to_vec();
    }
}

#[test]
fn a_tap_sees_every_datagram_before_and_after() {
    let watch = Arc::new(Watch::default());
    let bench = Bench::start(10, "", |builder| {
        builder.tap(Arc::clone(&watch) as Arc<dyn Tap>)
    });
    let datagram = udp(40_000, 53, b"watched");
    bench.send(&datagram);
    bench.expect(&datagram);
    bench.send(b"garbage");
    bench.wait_for("flowdog_dataplane_received_packets_total", 2.0);
    assert_eq!(watch.received.load(Ordering::SeqCst), 2);
    assert_eq!(watch.sent.load(Ordering::SeqCst), 1, "garbage is not sent");
    let last = watch.last.lock().unwrap();
    assert_eq!(last[0], b"garbage");
    assert_eq!(last[1], datagram);
}

#[test]
fn a_taken_port_is_an_error_that_names_the_key() {
    let taken = UdpSocket::bind("127.7.11.1:0").unwrap();
    let text = format!(
        "[gwlb]\nlisten = '{}'\n[health]\nlisten = '127.7.11.1:0'\n",
        taken.local_addr().unwrap()
    );
    for shards in [1, 2] {
        let text = text.replace("[health]", &format!("shards = {shards}\n[health]"));
        let config = Config::parse(&text, Path::new("a.toml"), &[]).unwrap();
        let error = Appliance::builder()
            .config(config)
            .build()
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("gwlb.listen: cannot open 127.7.11.1:"),
            "{error}"
        );
    }
}
