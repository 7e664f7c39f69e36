//! Flows that wait for an acceptor.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::bench::{Bench, geneve, ipv4, udp};

/// An acceptor that answers each question after a pause, and counts them.
pub(crate) fn acceptor(answer: &'static str, pause: Duration) -> (String, Arc<AtomicU64>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counter) = (stream.unwrap(), Arc::clone(&counter));
            std::thread::spawn(move || {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(count) = stream.read(&mut buffer)
                    && count > 0
                {
                    seen.extend_from_slice(&buffer[..count]);
                    if seen.ends_with(b"}}") {
                        seen.clear();
                        counter.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(pause);
                        let reply = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{answer}",
                            answer.len()
                        );
                        if stream.write_all(reply.as_bytes()).is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    (url, asked)
}

/// Rules that ask about what goes to port 53 and pass the rest.
pub(crate) fn asking(url: &str, rest: &str, rule: &str) -> String {
    format!(
        "[[acceptor]]\nname = 'gate'\nuse = 'http-acceptor'\nurl = '{url}'\n{rest}\n\
         [[rule]]\naction = 'ask'\nacceptor = 'gate'\nport = 53\n{rule}\n"
    )
}

/// A SYN from 10.0.0.1 to 192.0.2.9, port 53.
fn syn(src_port: u16, sequence: u32) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(src_port.to_be_bytes());
    segment.extend(53u16.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let (src, dst) = ([10, 0, 0, 1], [192, 0, 2, 9]);
    let pseudo = [&src[..], &dst[..], &[0, 6, 0, 20], &segment[..]].concat();
    let sum: u32 = pseudo
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    geneve(&ipv4(6, src, dst, &segment))
}

#[test]
fn gwlb_b10_a_flow_that_waits_for_its_acceptor_delays_no_other() {
    let (url, asked) = acceptor(r#"{"Accept": true}"#, Duration::from_millis(600));
    let bench = Bench::new(41, &asking(&url, "", ""));
    let waiting: Vec<_> = (0..3).map(|n| udp(40_000, 53, &[n; 40])).collect();
    for datagram in &waiting {
        bench.send(datagram);
    }
    let began = Instant::now();
    for port in 0..100 {
        let datagram = udp(41_000 + port, 54, &[1; 100]);
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    assert!(began.elapsed() < Duration::from_millis(500), "held up");
    // What waited comes out in order, byte for byte.
    for datagram in &waiting {
        bench.expect(datagram);
    }
    assert!(began.elapsed() > Duration::from_millis(400));
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // The next one of the same key is known already.
    let again = udp(40_001, 53, &[9; 40]);
    let began = Instant::now();
    bench.send(&again);
    bench.expect(&again);
    assert!(began.elapsed() < Duration::from_millis(300));
    let cached = "flowdog_acceptor_answers_total{acceptor=\"gate\",kind=\"cached\"}";
    assert_eq!(bench.metric(cached), 1.0);
}

#[test]
fn gwlb_b11_threat_63_retransmitted_syns_ask_once_and_a_refusal_is_a_reset() {
    let (url, asked) = acceptor(
        r#"{"action": "deny", "reason": "not on the list"}"#,
        Duration::from_millis(300),
    );
    let bench = Bench::new(42, &asking(&url, "", ""));
    let datagram = syn(40_000, 1000);
    // The last one comes long after the refusal: the flow is known to be refused.
    for pause in [0, 50, 100, 500] {
        std::thread::sleep(Duration::from_millis(pause));
        bench.send(&datagram);
    }
    let mut buffer = [0; 2048];
    let mut resets = 0;
    bench
        .back
        .set_read_timeout(Some(Duration::from_millis(800)))
        .unwrap();
    while let Ok(len) = bench.back.recv(&mut buffer) {
        let inner = &buffer[40..len];
        assert_eq!(
            inner[12..20],
            [192, 0, 2, 9, 10, 0, 0, 1],
            "answers for the server"
        );
        assert_eq!(inner[33] & 0x04, 0x04, "RST");
        assert_eq!(inner[28..32], 1001u32.to_be_bytes(), "acknowledges the SYN");
        resets += 1;
    }
    assert!(resets >= 2, "{resets} resets");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // Others go on.
    let other = udp(1, 54, b"x");
    bench.send(&other);
    bench
        .back
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    bench.expect(&other);
}

#[test]
fn gwlb_b12_without_an_answer_the_rule_says_what_holds_after_the_deadline() {
    // Accepts connections and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let open = asking(&url, "deadline = '200ms'", "on-error = 'accept'");
    let bench = Bench::new(43, &open);
    let datagram = udp(40_000, 53, b"question");
    let began = Instant::now();
    bench.send(&datagram);
    bench.expect(&datagram);
    let waited = began.elapsed();
    assert!(
        waited > Duration::from_millis(150) && waited < Duration::from_secs(2),
        "{waited:?}"
    );

    let closed = asking(
        &url,
        "deadline = '200ms'\nrefuse = 'drop'",
        "on-error = 'refuse'",
    );
    let bench = Bench::new(44, &closed);
    bench.send(&datagram);
    bench.expect_silence();
    bench.wait_for(
        "flowdog_acceptor_answers_total{acceptor=\"gate\",kind=\"late\"}",
        1.0,
    );
    bench.expect_silence();
}

#[test]
fn a_refused_datagram_is_answered_with_administratively_prohibited() {
    let (url, _) = acceptor(r#"{"Accept": false}"#, Duration::ZERO);
    let bench = Bench::new(45, &asking(&url, "", ""));
    bench.send(&udp(40_000, 53, b"question"));
    let mut buffer = [0; 2048];
    let len = bench.back.recv(&mut buffer).expect("no reply");
    let inner = &buffer[40..len];
    assert_eq!(inner[9], 1, "ICMP");
    assert_eq!(
        inner[20..22],
        [3, 13],
        "RFC 1812 5.2.7.1: communication administratively prohibited"
    );
    assert_eq!(inner[16..20], [10, 0, 0, 1]);
}

#[test]
fn threat_34_63_a_flood_of_new_flows_to_a_slow_acceptor_is_bounded_and_hurts_nobody_else() {
    let (url, _) = acceptor(r#"{"Accept": true}"#, Duration::from_millis(100));
    let rest = "concurrency = 2\ndeadline = '500ms'\ncache-key = ['source-port']";
    let bench = Bench::new(46, &asking(&url, rest, "on-error = 'refuse'"));
    for port in 0..2000 {
        bench.send(&udp(10_000 + port, 53, &[7; 200]));
        if port % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let other = udp(1, 54, b"still here");
    bench.send(&other);
    let mut buffer = [0; 2048];
    loop {
        let len = bench.back.recv(&mut buffer).expect("no reply");
        if buffer[..len] == other[..] {
            break;
        }
    }
    bench.wait_for(
        "flowdog_acceptor_answers_total{acceptor=\"gate\",kind=\"late\"}",
        500.0,
    );
    let asked = bench.metric("flowdog_acceptor_questions_total");
    assert!(asked < 100.0, "{asked} questions");
}
