//! Packets for tests.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use wire::geneve;
use wire::gwlb::VpcEndpointId;

/// Between which ports, and with which flags.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) source: u16,
    pub(crate) destination: u16,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
}

/// 10.1.0.5:50000 to 192.0.2.1, in GENEVE.
pub(crate) fn datagram(endpoint: u64, port: u16, payload: &[u8]) -> Vec<u8> {
    let tcp = Tcp {
        source: 50_000,
        destination: port,
        syn: false,
        ack: true,
    };
    wrapped(endpoint, &segment(tcp, payload))
}

/// The client 10.1.0.5 has ports above 1024, the server 192.0.2.1 has those below.
pub(crate) fn segment(tcp: Tcp, payload: &[u8]) -> Vec<u8> {
    let (client, server) = ([10, 1, 0, 5], [192, 0, 2, 1]);
    let (source, destination) = if tcp.source > 1024 {
        (client, server)
    } else {
        (server, client)
    };
    let mut builder =
        PacketBuilder::ipv4(source, destination, 64).tcp(tcp.source, tcp.destination, 1, 1000);
    if tcp.syn {
        builder = builder.syn();
    }
    if tcp.ack {
        builder = builder.ack(1);
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes, payload).unwrap();
    bytes
}

pub(crate) fn wrapped(endpoint: u64, inner: &[u8]) -> Vec<u8> {
    let header = geneve::Repr {
        endpoint: VpcEndpointId(endpoint),
        ..geneve::Repr::default()
    };
    let mut bytes = vec![0; header.header_len()];
    header.emit(&mut bytes);
    bytes.extend(inner);
    bytes
}

/// The beginning of a ClientHello with that random.
pub(crate) fn client_hello(random: u8) -> Vec<u8> {
    let mut hello = vec![22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3];
    hello.extend([random; 32]);
    hello.extend([0; 20]);
    hello
}

pub(crate) const GWLB: std::net::SocketAddrV4 =
    std::net::SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 9), 40_000);
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
