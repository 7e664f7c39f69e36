//! The steering program in the kernel against the same computation here.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::*;
use crate::socket::{PacketSocket, Wish};

/// Base header and the three options of AWS, with a cookie.
fn header(family: u16, cookie: u32) -> Vec<u8> {
    let mut bytes = vec![0x08, 0x00];
    bytes.extend(family.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend([0x01, 0x08, 0x01, 0x02, 0, 0, 0, 0, 0, 0, 0, 7]);
    bytes.extend([0x01, 0x08, 0x02, 0x02, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0x01, 0x08, 0x03, 0x01]);
    bytes.extend(cookie.to_be_bytes());
    bytes
}

fn v4(src: [u8; 4], dst: [u8; 4], protocol: u8, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
    let mut bytes = header(0x0800, 1);
    bytes.extend([0x45, 0, 0, 28, 0, 0]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(src);
    bytes.extend(dst);
    bytes.extend(ports[0].to_be_bytes());
    bytes.extend(ports[1].to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

fn v6(src: u8, dst: u8) -> Vec<u8> {
    let mut bytes = header(0x86dd, 1);
    bytes.extend([0x60, 0, 0, 0, 0, 0, 59, 64]);
    for last in [src, dst] {
        bytes.extend([
            0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, last,
        ]);
    }
    bytes
}

fn samples() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for n in 0..40_u8 {
        samples.push(v4(
            [10, 0, 0, n],
            [10, 0, 1, 1],
            6,
            0x4000,
            [40_000 + u16::from(n) * 7, 443],
        ));
        samples.push(v4(
            [10, 0, 0, n],
            [10, 0, 1, 1],
            17,
            0,
            [53, 1024 + u16::from(n)],
        ));
        samples.push(v4([10, 0, 0, n], [10, 0, 1, 1], 1, 0, [0x0800, 9]));
        samples.push(v4([10, 0, 0, n], [10, 0, 1, 1], 6, 0x2000, [40_000, 443]));
        samples.push(v6(n, 200));
    }
    samples
}

#[test]
fn gwlb_b05_both_directions_of_a_flow_have_one_owner_whatever_the_cookie() {
    for n in 0..200_u8 {
        let (a, b) = ([10, 0, 0, n], [192, 0, 2, n ^ 7]);
        let there = v4(a, b, 6, 0x4000, [30_000 + u16::from(n), 443]);
        let mut back = v4(b, a, 6, 0x4000, [443, 30_000 + u16::from(n)]);
        back[36..40].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
        assert_eq!(owner(&there, 4), owner(&back, 4));
        assert_eq!(owner(&v6(n, 9), 4), owner(&v6(9, n), 4));
    }
}

#[test]
fn further_options_change_no_owner() {
    for sample in samples() {
        let mut longer = sample.clone();
        longer[0] += 1;
        longer.splice(8..8, [0x01, 0x99, 0x05, 0x00]);
        assert_eq!(owner(&longer, 4), owner(&sample, 4));
        // IPv4 with an option: four bytes of no-operation.
        if sample[2] == 0x08 {
            let mut with_option = sample.clone();
            with_option[40] = 0x46;
            with_option.splice(60..60, [1, 1, 1, 1]);
            assert_eq!(owner(&with_option, 4), owner(&sample, 4));
        }
    }
}

#[test]
fn flows_spread_over_the_shards() {
    let mut counts = [0; 4];
    for n in 0..1000_u16 {
        counts[owner(
            &v4([10, 0, 0, 1], [10, 0, 1, 1], 6, 0x4000, [20_000 + n, 443]),
            4,
        )] += 1;
    }
    assert!(counts.iter().all(|count| *count > 150), "{counts:?}");
}

#[test]
fn what_is_not_understood_belongs_to_the_first_shard() {
    for sample in samples() {
        for cut in [0, 1, 39, 41, 47] {
            assert_eq!(owner(&sample[..cut], 4), 0);
        }
        let mut other = sample.clone();
        other[2] = 0x99;
        assert_eq!(owner(&other, 4), 0);
    }
}

#[test]
fn the_kernel_steers_every_datagram_to_its_owner() {
    const SHARDS: usize = 3;
    let mut wish = Wish {
        listen: SocketAddrV4::new(Ipv4Addr::new(127, 8, 1, 1), 0),
        receive_buffer: 1 << 20,
        send_buffer: 1 << 16,
        shared: true,
    };
    let first = PacketSocket::open(&wish).unwrap();
    wish.listen = first.listen();
    let mut sockets = vec![first];
    for _ in 1..SHARDS {
        sockets.push(PacketSocket::open(&wish).unwrap());
    }
    attach(&sockets[0], SHARDS).unwrap();

    let sender = UdpSocket::bind("127.8.1.2:0").unwrap();
    let mut ring = crate::socket::ring();
    for sample in samples() {
        for datagram in [&sample[..], &sample[..45], &sample[..3]] {
            sender.send_to(datagram, wish.listen).unwrap();
            let expected = owner(datagram, SHARDS);
            let mut got = None;
            for _ in 0..100 {
                got = sockets
                    .iter()
                    .position(|socket| ring.receive(socket.as_fd()).is_ok_and(|n| n == 1));
                if got.is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(got, Some(expected), "{}", datagram.escape_ascii());
            let received = ring.received(0).unwrap();
            assert_eq!(
                &ring.bytes()[received.start..received.start + received.len],
                datagram
            );
        }
    }
}
