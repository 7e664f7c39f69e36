//! Health, metrics and the drain, as a load balancer and an operator see them.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::bench::{Bench, udp};

#[test]
fn gwlb_d01_health_and_metrics_are_valid_http() {
    let bench = Bench::new(4, "");
    for path in ["/", "/health"] {
        let (status, head, body) = bench.get(path);
        assert_eq!(status, 200);
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(
            head.contains(&format!("content-length: {}", body.len())),
            "{head}"
        );
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(json["status"], "healthy");
        assert_eq!(json["shards"][0]["turning"], true);
    }
    let (status, head, body) =
        bench.http("HEAD /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: "), "{head}");
    assert_eq!(bench.get("/nothing").0, 404);
    assert_eq!(
        bench
            .http("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
            .0,
        405
    );
    // HTTP/1.0, as simple checkers speak it.
    assert_eq!(bench.http("GET / HTTP/1.0\r\n\r\n").0, 200);

    let (_, head, body) = bench.get("/metrics");
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let mut seen = std::collections::BTreeSet::new();
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let name = rest.split(' ').next().unwrap();
            assert!(seen.insert(name.to_owned()), "{name} twice");
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(seen.contains(name), "{name} without a type");
            assert!(
                line.rsplit(' ').next().unwrap().parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }
    for name in [
        "flowdog_build_info",
        "flowdog_shard_receive_buffer_errors_total",
        "flowdog_tls_handshakes_total",
    ] {
        assert!(seen.contains(name), "{name}");
    }
}

#[test]
fn gwlb_d01_twenty_checks_at_once_and_a_silent_one_do_not_get_in_each_others_way() {
    let bench = Bench::new(5, "");
    // A TCP check connects, and may stay silent.
    let silent: Vec<_> = (0..20)
        .map(|_| TcpStream::connect(bench.health).unwrap())
        .collect();
    let began = Instant::now();
    for _ in 0..20 {
        assert_eq!(bench.get("/").0, 200);
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    drop(silent);
}

#[test]
fn gwlb_d02_draining_is_unhealthy_and_packets_still_pass() {
    let rules = "[[rule]]\naction = 'drop'\nport = 54\n[[rule]]\naction = 'intercept'";
    let bench = Bench::new(6, rules);
    let datagram = udp(40_000, 53, b"before");
    bench.send(&datagram);
    bench.expect(&datagram);
    bench.running.begin_drain();
    let (status, _, body) = bench.get("/health");
    assert_eq!(status, 503);
    assert!(body.contains("\"draining\""), "{body}");
    for port in [40_000, 40_001] {
        let datagram = udp(port, 53, b"after");
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    bench.send(&udp(40_002, 54, b"refused"));
    bench.expect_silence();
    let health = bench.health;
    bench.running.stop();
    assert!(
        TcpStream::connect(health).is_err(),
        "the listener is closed"
    );
}
