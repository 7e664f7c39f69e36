//! Batches over loopback: what the kernel does with GRO, GSO and source ports.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use dataplane::Outer;

use super::reply::ReplySockets;
use super::send::{Piece, Sender};
use super::*;
use crate::config::ReplyMode;

fn open(last: u8) -> PacketSocket {
    let wish = Wish {
        listen: SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, last), 0),
        receive_buffer: 4 << 20,
        send_buffer: 4 << 20,
        shared: false,
    };
    PacketSocket::open(&wish).unwrap()
}

/// Everything that arrives until `count` datagrams are there: sender, our address, bytes.
fn receive(
    socket: &PacketSocket,
    ring: &mut Ring,
    count: usize,
) -> (Vec<(SocketAddrV4, Ipv4Addr, Vec<u8>)>, usize) {
    let mut datagrams = Vec::new();
    let mut messages = 0;
    let began = Instant::now();
    while datagrams.len() < count && began.elapsed() < Duration::from_secs(5) {
        let Ok(got) = ring.receive(socket.as_fd()) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        messages += got;
        for index in 0..got {
            let message = ring.received(index).unwrap();
            let bytes = &ring.bytes()[message.start..message.start + message.len];
            for datagram in bytes.chunks(message.segment.max(1)) {
                datagrams.push((message.from, message.local, datagram.to_vec()));
            }
        }
    }
    (datagrams, messages)
}

fn sender(mode: ReplyMode, port: u16) -> Sender {
    Sender::new(ReplySockets::new(mode, 16, 1 << 20).unwrap(), port)
}

#[test]
fn gwlb_a05_a_reply_leaves_from_the_port_of_the_load_balancer_to_our_own_port() {
    let appliance = open(1);
    let port = appliance.listen().port();
    // The load balancer sends from one socket and receives on another: same address, port 6081.
    let out = UdpSocket::bind("127.8.0.2:0").unwrap();
    let back = UdpSocket::bind(("127.8.0.2", port)).unwrap();
    back.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    out.send_to(b"ping", appliance.listen()).unwrap();

    let mut ring = ring();
    let (got, _) = receive(&appliance, &mut ring, 1);
    let (from, local, bytes) = got[0].clone();
    assert_eq!(
        local,
        Ipv4Addr::new(127, 8, 0, 1),
        "from the packet information"
    );
    assert_eq!(bytes, b"ping");

    let mut sender = sender(ReplyMode::Bound, port);
    let outer = Outer { gwlb: from, local };
    sender.send(&appliance, ring.bytes(), &[Piece { range: 0..4, outer }]);
    let mut reply = [0; 16];
    let (len, reply_from) = back.recv_from(&mut reply).unwrap();
    assert_eq!(&reply[..len], b"ping");
    assert_eq!(
        reply_from.to_string(),
        format!("127.8.0.1:{}", out.local_addr().unwrap().port())
    );
    assert_eq!(sender.counters().datagrams, 1);
}

#[test]
fn a_load_balancer_that_sends_from_our_own_port_is_answered_by_the_main_socket() {
    let appliance = open(3);
    let port = appliance.listen().port();
    let both = UdpSocket::bind(("127.8.0.4", port)).unwrap();
    both.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    both.send_to(b"ping", appliance.listen()).unwrap();
    let mut ring = ring();
    let (got, _) = receive(&appliance, &mut ring, 1);
    let outer = Outer {
        gwlb: got[0].0,
        local: got[0].1,
    };
    let mut sender = sender(ReplyMode::Bound, port);
    sender.send(&appliance, ring.bytes(), &[Piece { range: 0..4, outer }]);
    let mut reply = [0; 16];
    let (len, from) = both.recv_from(&mut reply).unwrap();
    assert_eq!(
        (&reply[..len], from.to_string()),
        (&b"ping"[..], appliance.listen().to_string())
    );
    assert_eq!(sender.reply_counters().1, 0, "no reply socket was needed");
}

#[test]
fn a_batch_sent_with_gso_arrives_with_gro_byte_for_byte_and_in_order() {
    let (a, b) = (open(5), open(6));
    assert!(b.granted().gro);
    // The reply of `a` goes to its own port on the other side: give that side the same port.
    let wish = Wish {
        listen: SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, 7), a.listen().port()),
        receive_buffer: 4 << 20,
        send_buffer: 1 << 16,
        shared: false,
    };
    let peer = PacketSocket::open(&wish).unwrap();
    let sizes: Vec<usize> = (0..100)
        .map(|n| if n % 10 == 9 { 700 } else { 1400 })
        .collect();
    let mut memory = Vec::new();
    let mut pieces = Vec::new();
    let outer = Outer {
        gwlb: SocketAddrV4::new(*peer.listen().ip(), 45_678),
        local: *a.listen().ip(),
    };
    for (number, size) in sizes.iter().enumerate() {
        let start = memory.len();
        memory.extend((0..*size).map(|at| (at * 31 + number) as u8));
        pieces.push(Piece {
            range: start..memory.len(),
            outer,
        });
    }
    let mut sender = sender(ReplyMode::Bound, a.listen().port());
    sender.send(&a, &memory, &pieces);
    let counters = sender.counters();
    assert_eq!(counters.datagrams, 100);
    assert_eq!(counters.bytes, memory.len() as u64);
    assert!(counters.calls <= 5, "{counters:?}");

    let mut ring = ring();
    let (got, messages) = receive(&peer, &mut ring, 100);
    assert_eq!(got.len(), 100);
    assert!(messages < 100, "GRO put none together");
    for ((from, _, bytes), piece) in got.iter().zip(&pieces) {
        assert_eq!(*from, SocketAddrV4::new(*a.listen().ip(), 45_678));
        assert_eq!(bytes, &memory[piece.range.clone()]);
    }
}

#[test]
fn a_port_that_cannot_be_had_is_counted_and_stops_nobody_else() {
    let appliance = open(8);
    let port = appliance.listen().port();
    let back = UdpSocket::bind(("127.8.0.9", port)).unwrap();
    back.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let gwlb = |port| SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, 9), port);
    let bad = Outer {
        gwlb: gwlb(40_001),
        local: Ipv4Addr::new(198, 51, 100, 7),
    };
    let good = Outer {
        gwlb: gwlb(40_002),
        local: *appliance.listen().ip(),
    };
    let mut sender = sender(ReplyMode::Bound, port);
    sender.send(
        &appliance,
        b"badgood",
        &[
            Piece {
                range: 0..3,
                outer: bad,
            },
            Piece {
                range: 3..7,
                outer: good,
            },
        ],
    );
    let mut reply = [0; 16];
    let (len, _) = back.recv_from(&mut reply).unwrap();
    assert_eq!(&reply[..len], b"good");
    assert_eq!(sender.counters().no_port, 1);
}

#[test]
fn replies_that_nobody_takes_are_harmless() {
    // ICMP port unreachable comes back for each; the kernel may report it at the next send.
    let appliance = open(10);
    let outer = Outer {
        gwlb: SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, 11), 40_003),
        local: *appliance.listen().ip(),
    };
    let mut sender = sender(ReplyMode::Bound, appliance.listen().port());
    for _ in 0..50 {
        sender.send(&appliance, b"x", &[Piece { range: 0..1, outer }]);
    }
    let counters = sender.counters();
    assert_eq!(counters.datagrams + counters.refused, 50, "{counters:?}");
    assert_eq!(counters.refused, 0, "{counters:?}");
}

#[test]
fn a_full_receive_buffer_is_counted_by_the_kernel() {
    let wish = Wish {
        listen: SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, 12), 0),
        receive_buffer: 4096,
        send_buffer: 4096,
        shared: false,
    };
    let socket = PacketSocket::open(&wish).unwrap();
    let sender = UdpSocket::bind("127.8.0.13:0").unwrap();
    for _ in 0..200 {
        sender.send_to(&[0; 1000], socket.listen()).unwrap();
    }
    assert!(socket.receive_drops().unwrap() > 0);
}

#[test]
fn raw_replies_carry_the_same_addresses_and_ports() {
    // Needs CAP_NET_RAW; where the process lacks it, asking for a raw socket must say so.
    let appliance = open(14);
    let port = appliance.listen().port();
    let Ok(replies) = ReplySockets::new(ReplyMode::Raw, 1, 1 << 16) else {
        assert!(
            !nix::unistd::geteuid().is_root(),
            "root may have a raw socket"
        );
        return;
    };
    let back = UdpSocket::bind(("127.8.0.15", port)).unwrap();
    back.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let outer = Outer {
        gwlb: SocketAddrV4::new(Ipv4Addr::new(127, 8, 0, 15), 40_004),
        local: *appliance.listen().ip(),
    };
    let mut sender = Sender::new(replies, port);
    sender.send(&appliance, b"raw", &[Piece { range: 0..3, outer }]);
    let mut reply = [0; 16];
    let (len, from) = back.recv_from(&mut reply).unwrap();
    assert_eq!(
        (&reply[..len], from.to_string()),
        (&b"raw"[..], "127.8.0.14:40004".to_owned())
    );
}
