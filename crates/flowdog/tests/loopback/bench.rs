//! An appliance in this process, and packets for it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use flowdog::{Appliance, Config, Running};

/// An appliance, and a load balancer that talks to it from an address of its own.
pub(crate) struct Bench {
    pub(crate) running: Running,
    pub(crate) health: SocketAddr,
    pub(crate) appliance: SocketAddrV4,
    /// Where the load balancer sends from: a port that it chose.
    pub(crate) from: UdpSocket,
    /// Where it receives: the appliance's own port number.
    pub(crate) back: UdpSocket,
}

impl Bench {
    /// `net` keeps tests apart that run at the same time.
    pub(crate) fn new(net: u8, rest: &str) -> Self {
        Self::start(net, rest, |builder| builder)
    }

    pub(crate) fn start(
        net: u8,
        rest: &str,
        more: impl FnOnce(flowdog::Builder) -> flowdog::Builder,
    ) -> Self {
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

    pub(crate) fn send(&self, datagram: &[u8]) {
        self.from.send_to(datagram, self.appliance).unwrap();
    }

    pub(crate) fn expect(&self, datagram: &[u8]) {
        let mut buffer = vec![0; 65_536];
        let (len, from) = self.back.recv_from(&mut buffer).expect("no reply");
        assert_eq!(&buffer[..len], datagram, "not byte for byte");
        // gwlb.md A5: addresses swapped, ports kept.
        let port = self.from.local_addr().unwrap().port();
        assert_eq!(from, SocketAddr::from((*self.appliance.ip(), port)));
    }

    pub(crate) fn expect_silence(&self) {
        self.back
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        let got = self.back.recv_from(&mut [0; 2048]);
        self.back
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        assert!(got.is_err(), "a reply came: {got:?}");
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String, String) {
        self.http(&format!(
            "GET {path} HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Status, head and body of the answer.
    pub(crate) fn http(&self, request: &str) -> (u16, String, String) {
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
    pub(crate) fn metric(&self, prefix: &str) -> f64 {
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

    pub(crate) fn wait_for(&self, prefix: &str, value: f64) {
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
pub(crate) fn geneve(inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x08, 0x00, 0x08, 0x00, 0, 0, 0, 0];
    bytes.extend([
        0x01, 0x08, 0x01, 0x02, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef,
    ]);
    bytes.extend([0x01, 0x08, 0x02, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0x01, 0x08, 0x03, 0x01, 0x11, 0x22, 0x33, 0x44]);
    bytes.extend(inner);
    bytes
}

pub(crate) fn ipv4(protocol: u8, src: [u8; 4], dst: [u8; 4], payload: &[u8]) -> Vec<u8> {
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
pub(crate) fn udp(src_port: u16, dst_port: u16, data: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(src_port.to_be_bytes());
    segment.extend(dst_port.to_be_bytes());
    segment.extend((8 + data.len() as u16).to_be_bytes());
    segment.extend([0, 0]);
    segment.extend(data);
    geneve(&ipv4(17, [10, 0, 0, 1], [192, 0, 2, 9], &segment))
}
