//! A whole appliance in this process, on loopback, in front of a load balancer made by hand.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on fails"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flowdog::{Appliance, Config, Outer, Running, Tap};

/// An appliance, and a load balancer that talks to it from an address of its own.
struct Bench {
    running: Running,
    health: SocketAddr,
    appliance: SocketAddrV4,
    /// Where the load balancer sends from: a port that it chose.
    from: UdpSocket,
    /// Where it receives: the appliance's own port number.
    back: UdpSocket,
}

impl Bench {
    /// `net` keeps tests apart that run at the same time.
    fn new(net: u8, rest: &str) -> Self {
        Self::start(net, rest, |builder| builder)
    }

    fn start(net: u8, rest: &str, more: impl FnOnce(flowdog::Builder) -> flowdog::Builder) -> Self {
        let text = format!(
            "[health]\nlisten = '127.7.{net}.1:0'\n{rest}\n{}",
            if rest.contains("[gwlb]") {
                ""
            } else {
                "[gwlb]"
            }
        )
        .replace("[gwlb]", &format!("[gwlb]\nlisten = '127.7.{net}.1:0'"));
        let kinds = flowdog::built_in();
        let config = Config::parse(&text, Path::new("flowdog.toml"), &kinds).unwrap();
        let builder = more(Appliance::builder().config(config).kinds(kinds));
        let appliance = builder.build().unwrap();
        let (address, health) = (
            appliance.gwlb_address().unwrap(),
            appliance.health_address().unwrap(),
        );
        let gwlb = Ipv4Addr::new(127, 7, net, 2);
        let from = UdpSocket::bind((gwlb, 0)).unwrap();
        let back = UdpSocket::bind((gwlb, address.port())).unwrap();
        back.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Self {
            running: appliance.start().unwrap(),
            health,
            appliance: address,
            from,
            back,
        }
    }

    fn send(&self, datagram: &[u8]) {
        self.from.send_to(datagram, self.appliance).unwrap();
    }

    fn expect(&self, datagram: &[u8]) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.back.recv_from(&mut buffer).expect("no reply");
        assert_eq!(&buffer[..len], datagram, "not byte for byte");
        // gwlb.md A5: addresses swapped, ports kept.
        let port = self.from.local_addr().unwrap().port();
        assert_eq!(from, SocketAddr::from((*self.appliance.ip(), port)));
    }

    fn expect_silence(&self) {
        self.back
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let got = self.back.recv_from(&mut [0; 2048]);
        self.back
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert!(got.is_err(), "a reply came: {got:?}");
    }

    fn get(&self, path: &str) -> (u16, String, String) {
        self.http(&format!(
            "GET {path} HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Status, head and body of the answer.
    fn http(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.health).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// The sum of all samples whose line begins so.
    fn metric(&self, prefix: &str) -> f64 {
        let (status, _, body) = self.get("/metrics");
        assert_eq!(status, 200);
        let samples: Vec<f64> = body
            .lines()
            .filter(|line| line.starts_with(prefix))
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        assert!(!samples.is_empty(), "no metric {prefix}");
        samples.iter().sum()
    }

    fn wait_for(&self, prefix: &str, value: f64) {
        let began = Instant::now();
        while self.metric(prefix) < value {
            assert!(
                began.elapsed() < Duration::from_secs(5),
                "{prefix} is {} and not {value}",
                self.metric(prefix)
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// GENEVE with AWS's three options around an IPv4 packet.
fn geneve(inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x08, 0x00, 0x08, 0x00, 0, 0, 0, 0];
    bytes.extend([
        0x01, 0x08, 0x01, 0x02, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
    ]);
    bytes.extend([0x01, 0x08, 0x02, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0x01, 0x08, 0x03, 0x01, 0x11, 0x22, 0x33, 0x44]);
    bytes.extend(inner);
    bytes
}

fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend((20 + payload.len() as u16).to_be_bytes());
    bytes.extend([0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
    bytes.extend(src);
    bytes.extend(dst);
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let checksum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A UDP packet without checksum.
fn udp(src_port: u16, dst_port: u16, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(src_port.to_be_bytes());
    segment.extend(dst_port.to_be_bytes());
    segment.extend((8 + data.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    geneve(&ipv4(17, [10, 0, 0, 1], [192, 0, 2, 9], &segment))
}

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

/// One TCP connection, both ends of which are this test.
struct Connection<'b> {
    bench: &'b Bench,
    client: SocketAddr,
    server: SocketAddr,
    /// Next sequence numbers of the client and of the server.
    next: [u32; 2],
}

const SYN: u16 = 0x002;
const RST: u16 = 0x004;
const PSH: u16 = 0x008;
const ACK: u16 = 0x010;

impl<'b> Connection<'b> {
    /// The handshake, which travels end to end.
    fn open(bench: &'b Bench, client_port: u16) -> Self {
        let mut connection = Self {
            bench,
            client: SocketAddr::from(([10, 0, 0, 1], client_port)),
            server: SocketAddr::from(([192, 0, 2, 9], 80)),
            next: [1000, 5000],
        };
        for (from_client, flags) in [(true, SYN), (false, SYN | ACK), (true, ACK)] {
            connection.send(from_client, flags, b"");
            let (to_server, segment) = connection.receive();
            assert_eq!((to_server, segment.flags), (from_client, flags));
        }
        connection
    }

    fn send(&mut self, from_client: bool, flags: u16, data: &[u8]) {
        let (src, dst) = if from_client {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        let (own, other) = if from_client { (0, 1) } else { (1, 0) };
        let mut repr = wire::tcp::Repr {
            src_port: src.port(),
            dst_port: dst.port(),
            seq: wire::tcp::Seq(self.next[own]),
            ack: wire::tcp::Seq(if flags & ACK == 0 {
                0
            } else {
                self.next[other]
            }),
            flags: wire::tcp::Flags(flags),
            window: 60_000,
            urgent: 0,
            options: wire::tcp::Options::default(),
        };
        if flags & SYN != 0 {
            repr.options.mss = Some(1460);
            self.next[own] += 1;
        }
        self.next[own] += data.len() as u32;
        let mut segment = vec![0; repr.header_len()];
        repr.emit(&mut segment);
        segment.extend(data);
        wire::tcp::fill_checksum(&mut segment, src.ip(), dst.ip());
        let octets = |address: SocketAddr| match address.ip() {
            std::net::IpAddr::V4(v4) => v4.octets(),
            std::net::IpAddr::V6(_) => unreachable!("this test speaks IPv4"),
        };
        self.bench
            .send(&geneve(&ipv4(6, octets(src), octets(dst), &segment)));
    }

    /// The next packet from the appliance, and whether it goes to the server.
    fn receive(&self) -> (bool, Seen) {
        let mut buffer = vec![0; 65_536];
        let (len, _) = self.bench.back.recv_from(&mut buffer).expect("no packet");
        let packet = wire::ip::Packet::parse(&buffer[40..len]).unwrap();
        let segment = wire::tcp::Segment::parse(packet.payload()).unwrap();
        assert!(
            segment.verify_checksum(packet.src(), packet.dst()),
            "gwlb.md A9"
        );
        let seen = Seen {
            flags: segment.flags().0,
            data: segment.payload().to_vec(),
        };
        let to_server = packet.dst() == self.server.ip();
        let ends = (
            SocketAddr::new(packet.src(), segment.src_port()),
            SocketAddr::new(packet.dst(), segment.dst_port()),
        );
        let expected = if to_server {
            (self.client, self.server)
        } else {
            (self.server, self.client)
        };
        assert_eq!(
            ends, expected,
            "gwlb.md B9: no other addresses than the flow's own"
        );
        (to_server, seen)
    }

    /// Packets until one for that side holds `text`.
    fn receive_text(&self, for_server: bool, text: &str) -> String {
        let mut all = String::new();
        while !all.contains(text) {
            let (to_server, seen) = self.receive();
            if to_server == for_server {
                all.push_str(std::str::from_utf8(&seen.data).unwrap());
            }
        }
        all
    }
}

struct Seen {
    flags: u16,
    data: Vec<u8>,
}

const INTERCEPT: &str = "[[interceptor]]\nname = 'tidy'\nuse = 'edit-headers'\n\
    request = [{ set = 'X-Seen', value = 'yes' }]\n[[rule]]\naction = 'intercept'\ninterceptors = ['tidy']\n";

#[test]
fn gwlb_d03_an_intercepted_flow_is_rewritten_survives_the_drain_and_is_reset_at_its_end() {
    let refuse = "[[rule]]\naction = 'reset'\nhttp-host = 'bad.example'\n";
    let bench = Bench::new(
        12,
        &INTERCEPT.replace("[[rule]]", &format!("{refuse}[[rule]]")),
    );
    let mut connection = Connection::open(&bench, 40_000);
    connection.send(true, PSH | ACK, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let request = connection.receive_text(true, "\r\n\r\n");
    assert!(
        request.starts_with("GET / HTTP/1.1\r\nHost: a\r\n"),
        "{request}"
    );
    assert!(request.contains("X-Seen: yes\r\n"), "{request}");
    assert_eq!(bench.metric("flowdog_shard_flows_intercepted{"), 1.0);

    // The server sees a longer request than the client sent.
    connection.next[0] = 1001 + request.len() as u32;
    bench.running.begin_drain();
    connection.send(
        false,
        PSH | ACK,
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    );
    let response = connection.receive_text(false, "ok");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(
        bench.metric("flowdog_interceptor_calls_total{interceptor=\"tidy\",stage=\"request\"}"),
        1.0
    );

    // A connection that begins meanwhile is not intercepted: its bytes travel unread.
    let mut late = Connection::open(&bench, 40_001);
    late.send(true, PSH | ACK, b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(
        late.receive_text(true, "\r\n\r\n"),
        "GET /late HTTP/1.1\r\nHost: a\r\n\r\n"
    );
    assert_eq!(
        bench.metric("flowdog_flows_passed_total{reason=\"draining\"}"),
        1.0
    );
    // What a rule refuses is refused all the same.
    let mut refused = Connection::open(&bench, 40_002);
    refused.send(
        true,
        PSH | ACK,
        b"GET / HTTP/1.1\r\nHost: bad.example\r\n\r\n",
    );
    let mut told = [false; 2];
    while told != [true; 2] {
        let (to_server, seen) = refused.receive();
        assert!(seen.data.is_empty(), "not a byte passes");
        told[usize::from(to_server)] |= seen.flags & RST != 0;
    }

    bench.running.reset_all();
    let mut reset = [false; 2];
    while reset != [true; 2] {
        let (to_server, seen) = connection.receive();
        reset[usize::from(to_server)] |= seen.flags & RST != 0;
    }
    let began = Instant::now();
    while bench.metric("flowdog_shard_flows_intercepted{") > 0.0 {
        assert!(began.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(bench.metric("flowdog_flow_panics_total"), 0.0);
}

#[test]
fn a_server_that_speaks_first_is_heard_though_a_rule_intercepts_everything() {
    let bench = Bench::new(13, INTERCEPT);
    let mut connection = Connection::open(&bench, 40_000);
    connection.send(false, PSH | ACK, b"SSH-2.0-server\r\n");
    assert_eq!(connection.receive_text(false, "\n"), "SSH-2.0-server\r\n");
    connection.send(true, PSH | ACK, b"SSH-2.0-client\r\n");
    assert_eq!(connection.receive_text(true, "\n"), "SSH-2.0-client\r\n");
    assert_eq!(bench.metric("flowdog_shard_flows_intercepted{"), 0.0);
}

/// An acceptor that answers each question after a pause, and counts them.
fn acceptor(answer: &'static str, pause: Duration) -> (String, Arc<AtomicU64>) {
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
fn asking(url: &str, rest: &str, rule: &str) -> String {
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

/// Lines of a file, once there are so many of them.
fn lines_of(path: &Path, count: usize) -> Vec<String> {
    let began = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count && text.ends_with('\n') {
            return lines;
        }
        assert!(began.elapsed() < Duration::from_secs(8), "only {text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_flow_has_a_record_that_says_who_decided_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.json");
    let (url, _) = acceptor(
        r#"{"action": "deny", "reason": "list\n7", "context": {"team": "blue"}}"#,
        Duration::ZERO,
    );
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\noutput = '{}'\n{}[[rule]]\nname = 'rest'\naction = 'pass'\n",
        path.display(),
        asking(&url, "", "name = 'gate rule'"),
    );
    let bench = Bench::new(47, &rest);
    let passed = udp(40_000, 54, &[1; 100]);
    for _ in 0..3 {
        bench.send(&passed);
        bench.expect(&passed);
    }
    bench.send(&udp(40_000, 53, &[1; 10]));
    let records: Vec<serde_json::Value> = lines_of(&path, 2)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of = |port: u16| {
        records
            .iter()
            .find(|one| one["serverPort"] == port)
            .unwrap()
    };
    let passed = of(54);
    assert_eq!(passed["verdict"], "pass");
    assert_eq!(passed["rule"], "rest");
    assert_eq!(passed["clientAddress"], "10.0.0.1");
    assert_eq!(passed["endpoint"], "vpce-00123456789abcdef");
    assert_eq!(
        (
            passed["clientPackets"].clone(),
            passed["clientBytes"].clone()
        ),
        (3.into(), 384.into())
    );
    assert_eq!(passed["closed"], "idle");
    let refused = of(53);
    assert_eq!(refused["verdict"], "reset");
    assert_eq!(
        (&refused["rule"], &refused["acceptor"]),
        (&"gate rule".into(), &"gate".into())
    );
    assert_eq!(refused["reason"], "list 7", "threat_66: one line");
    assert_eq!(refused["context"]["team"], "blue");
    assert_eq!(bench.metric("flowdog_flow_records_total"), 2.0);
    assert_eq!(bench.metric("flowdog_flow_records_lost_total"), 0.0);
}

#[test]
fn the_text_form_has_the_fields_of_vpc_flow_logs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("flows.log");
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\nformat = 'text'\noutput = '{}'\n[[rule]]\naction = 'drop'\nport = 53\n",
        path.display()
    );
    let bench = Bench::new(48, &rest);
    bench.send(&udp(40_000, 53, &[1; 10]));
    let passed = udp(40_000, 54, &[1; 100]);
    bench.send(&passed);
    bench.expect(&passed);
    for line in lines_of(&path, 2) {
        let fields: Vec<&str> = line.split(' ').collect();
        assert_eq!(fields.len(), 14, "{line}");
        assert_eq!(
            fields[..6],
            [
                "2",
                "-",
                "vpce-00123456789abcdef",
                "10.0.0.1",
                "192.0.2.9",
                "40000"
            ]
        );
        let (port, action) = (fields[6], fields[12]);
        assert_eq!(
            action,
            if port == "53" { "REJECT" } else { "ACCEPT" },
            "{line}"
        );
        let (start, end): (u64, u64) = (fields[10].parse().unwrap(), fields[11].parse().unwrap());
        assert!(start <= end && start > 1_700_000_000);
    }
}

#[test]
fn gwlb_b10_a_flow_log_that_nobody_reads_costs_records_and_not_packets() {
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // A reader that never reads: the writer fills the pipe and then waits for ever.
    let _reader = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&pipe)
        .unwrap();
    let rest = format!(
        "[flows]\nother-idle = '1s'\n[flow-log]\nqueue = 10\noutput = '{}'\n",
        pipe.display()
    );
    let bench = std::mem::ManuallyDrop::new(Bench::new(49, &rest));
    for port in 0..1500 {
        let datagram = udp(10_000 + port, 54, &[1; 100]);
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    bench.wait_for("flowdog_flow_records_lost_total", 1.0);
    let datagram = udp(9, 54, b"still here");
    bench.send(&datagram);
    bench.expect(&datagram);
}

/// Keeps what it is given, for tests, and takes its time if told to.
#[derive(Debug, Default)]
struct Keeps {
    records: Mutex<Vec<sdk::Record>>,
    flushed: AtomicU64,
    never: bool,
}

#[flowdog::sdk::async_trait]
impl sdk::Sink for Keeps {
    async fn write(&self, batch: &[sdk::Record]) -> Result<(), sdk::SinkError> {
        if self.never {
            std::future::pending::<()>().await;
        }
        self.records.lock().unwrap().extend_from_slice(batch);
        Ok(())
    }

    async fn flush(&self) -> Result<(), sdk::SinkError> {
        self.flushed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn a_sink_gets_records_of_flows_that_live_and_of_those_that_outlive_the_appliance() {
    let sink = Arc::new(Keeps::default());
    let stuck = Arc::new(Keeps {
        never: true,
        ..Keeps::default()
    });
    let rest = "[flow-log]\ninterval = '1s'\nqueue = 2\n[[rule]]\nname = 'all'\naction = 'pass'\n";
    let bench = Bench::start(62, rest, |builder| {
        builder
            .sink(Arc::clone(&sink) as _)
            .sink(Arc::clone(&stuck) as _)
    });
    let datagram = udp(40_000, 54, &[1; 100]);
    for _ in 0..2 {
        bench.send(&datagram);
        bench.expect(&datagram);
    }
    let began = Instant::now();
    while sink.records.lock().unwrap().len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(8));
        std::thread::sleep(Duration::from_millis(20));
    }
    {
        let records = sink.records.lock().unwrap();
        let first = &records[0];
        assert_eq!(first.kind, "flow-interval");
        assert_eq!(first.fields["clientPackets"], 2);
        assert_eq!(first.fields["rule"], "all");
        assert!(!first.fields.contains_key("closed"));
        assert!(records[1].fields["end"].as_f64() > first.fields["end"].as_f64());
    }
    // The sink that takes nothing has room for no more, and is counted; the other gets everything.
    bench.wait_for("flowdog_flow_records_lost_total", 1.0);
    let before = Instant::now();
    bench.running.stop();
    assert!(
        before.elapsed() < Duration::from_secs(9),
        "a stuck sink holds nobody for long"
    );
    let records = sink.records.lock().unwrap();
    let last = records.last().unwrap();
    assert_eq!(
        (last.kind, &last.fields["closed"]),
        ("flow", &"stopped".into())
    );
    assert_eq!(sink.flushed.load(Ordering::Relaxed), 1);
}
