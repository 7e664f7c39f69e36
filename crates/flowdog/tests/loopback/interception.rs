//! Flows that are taken over.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::bench::{Bench, geneve, ipv4};

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
