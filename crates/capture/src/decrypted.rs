//! Cleartext of intercepted connections as TCP that never was on a wire, for tools that read packets
//! and cannot decrypt: intrusion detection, and whatever reads pcap.
//!
//! What one leg of a connection said comes in as bytes, and goes to readers as whole packets between
//! the real addresses: a handshake, segments in order with their acknowledgments, an end; sequence
//! numbers and checksums are right. Bytes are as they were inside TLS, so HTTP/1 is HTTP/1, and HTTP/2
//! is HTTP/2 with prior knowledge (RFC 9113 §3.3), which such tools know too.
//!
//! A connection that was inside TLS is shown at the port where its protocol is expected in clear: 443
//! becomes 80. Everything else keeps its port.

use std::net::SocketAddr;
use std::sync::Arc;

use wire::gwlb::VpcEndpointId;
use wire::ip::{self, Protocol};
use wire::tcp::{self, Flags, Seq};

use crate::hub::{Direction, Hub, Side, now};
use crate::watch;

/// Most payload of one packet: it fits an Ethernet frame with either IP version.
const SEGMENT: usize = 1440;
/// Most that waits for the client's first words.
const EARLY: usize = 16 * 1024;
/// First sequence numbers. Nobody on a network sees them.
const FIRST: [u32; 2] = [1000, 2000];

/// A packet that was made up.
#[derive(Debug)]
pub struct MadeUp {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The leg whose words it carries.
    pub side: Side,
    /// Whether the appliance heard them or said them.
    pub direction: Direction,
    /// The VPC endpoint of the flow.
    pub endpoint: VpcEndpointId,
    /// The flow; the same number as of its real packets.
    pub flow: u64,
    /// From the IP header on.
    pub bytes: Box<[u8]>,
}

/// One leg of an intercepted connection.
#[derive(Debug)]
pub struct Conversation {
    hub: Arc<Hub>,
    side: Side,
    endpoint: VpcEndpointId,
    flow: u64,
    /// The client and the server, as they are shown.
    ends: [SocketAddr; 2],
    /// The next sequence number of each.
    next: [u32; 2],
    /// Which of them has ended.
    ended: [bool; 2],
    begun: bool,
    /// What the server said before the client said anything: flowdog's HTTP/2 does not wait. Readers
    /// tell a protocol by its first words, so the client's come first.
    early: Vec<u8>,
}

impl Conversation {
    /// One between these two that begins now. `tls` says that it is inside TLS.
    #[must_use]
    pub fn new(
        hub: Arc<Hub>,
        side: Side,
        endpoint: VpcEndpointId,
        ends: [SocketAddr; 2],
        tls: bool,
    ) -> Self {
        let [client, server] = ends;
        let mut shown = server;
        if tls && server.port() == 443 {
            shown.set_port(80);
        }
        Self {
            hub,
            side,
            endpoint,
            flow: watch::flow_id(endpoint, 6, client, server),
            ends: [client, shown],
            next: FIRST,
            ended: [false; 2],
            begun: false,
            early: Vec::new(),
        }
    }

    /// One of the two said these bytes.
    pub fn said(&mut self, by_client: bool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let time = now();
        if !self.begun && !by_client && self.early.len() + bytes.len() <= EARLY {
            self.early.extend_from_slice(bytes);
            return;
        }
        self.begin(time);
        if by_client {
            self.say(time, true, bytes);
            self.say_early(time);
        } else {
            self.say_early(time);
            self.say(time, false, bytes);
        }
    }

    fn say_early(&mut self, time: u64) {
        let early = std::mem::take(&mut self.early);
        self.say(time, false, &early);
    }

    fn say(&mut self, time: u64, by_client: bool, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        for part in bytes.chunks(SEGMENT) {
            self.show(time, by_client, Flags::PSH, part);
        }
        self.show(time, !by_client, Flags(0), &[]);
    }

    /// One of the two says no more.
    pub fn finished(&mut self, by_client: bool) {
        let (own, other) = places(by_client);
        let time = now();
        if !self.early.is_empty() {
            self.begin(time);
            self.say_early(time);
        }
        if self.begun && !self.ended[own] {
            self.show(time, by_client, Flags::FIN, &[]);
            self.ended[own] = true;
            if self.ended[other] {
                self.show(time, !by_client, Flags(0), &[]);
            }
        }
    }

    fn begin(&mut self, time: u64) {
        if !self.begun {
            self.begun = true;
            self.show(time, true, Flags::SYN, &[]);
            self.show(time, false, Flags::SYN, &[]);
            self.show(time, true, Flags(0), &[]);
        }
    }

    fn show(&mut self, time: u64, by_client: bool, flags: Flags, payload: &[u8]) {
        let (own, other) = places(by_client);
        let (source, destination) = (self.ends[own], self.ends[other]);
        // Only the first packet acknowledges nothing.
        let first = by_client && flags == Flags::SYN;
        let segment = tcp::Repr {
            src_port: source.port(),
            dst_port: destination.port(),
            seq: Seq(self.next[own]),
            ack: Seq(if first { 0 } else { self.next[other] }),
            flags: Flags(flags.0 | if first { 0 } else { Flags::ACK.0 }),
            window: u16::MAX,
            ..tcp::Repr::default()
        };
        let counted = u32::from(flags == Flags::SYN || flags == Flags::FIN);
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        self.next[own] = self.next[own].wrapping_add(len).wrapping_add(counted);
        let heard = by_client == (self.side == Side::Client);
        self.hub.made_up(MadeUp {
            time,
            side: self.side,
            direction: if heard {
                Direction::Received
            } else {
                Direction::Sent
            },
            endpoint: self.endpoint,
            flow: self.flow,
            bytes: packet(source, destination, &segment, payload),
        });
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.finished(true);
        self.finished(false);
    }
}

fn places(by_client: bool) -> (usize, usize) {
    if by_client { (0, 1) } else { (1, 0) }
}

fn packet(
    source: SocketAddr,
    destination: SocketAddr,
    segment: &tcp::Repr,
    payload: &[u8],
) -> Box<[u8]> {
    let header = ip::Repr {
        src: source.ip(),
        dst: destination.ip(),
        protocol: Protocol(6),
        hop_limit: 64,
        traffic_class: 0,
        dont_fragment: true,
        ident: 0,
        payload_len: segment.header_len() + payload.len(),
    };
    let mut bytes = vec![0; header.header_len() + segment.header_len()];
    header.emit(&mut bytes);
    if let Some(rest) = bytes.get_mut(header.header_len()..) {
        segment.emit(rest);
    }
    bytes.extend_from_slice(payload);
    if let Some(rest) = bytes.get_mut(header.header_len()..) {
        tcp::fill_checksum(rest, header.src, header.dst);
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use wire::ip::Packet;
    use wire::tcp::Segment;

    use super::*;
    use crate::hub::{Limits, Seen, Subject, Wish};

    fn heard(client: &str, server: &str, tls: bool) -> (Conversation, crate::hub::Subscription) {
        let hub = Arc::new(Hub::new(Limits::default(), false));
        let wish = Wish {
            subject: Subject::Decrypted {
                client: true,
                server: false,
            },
            ..Wish::default()
        };
        let subscription = hub.attach(wish).unwrap();
        let ends = [client.parse().unwrap(), server.parse().unwrap()];
        let conversation = Conversation::new(hub, Side::Client, VpcEndpointId(7), ends, tls);
        (conversation, subscription)
    }

    async fn packets(mut subscription: crate::hub::Subscription) -> Vec<MadeUp> {
        let mut packets = Vec::new();
        for _ in 0..subscription.counts().seen {
            match subscription.next().await {
                Some(Seen::MadeUp(packet)) => packets.push(packet),
                other => panic!("{other:?}"),
            }
        }
        packets
    }

    #[tokio::test]
    async fn a_conversation_is_tcp_without_a_fault() {
        for (client, server) in [
            ("10.1.0.5:50000", "192.0.2.1:443"),
            ("[fd00::5]:50000", "[2001:db8::1]:443"),
        ] {
            let (mut conversation, subscription) = heard(client, server, true);
            conversation.said(true, b"GET / HTTP/1.1\r\n\r\n");
            conversation.said(false, &[b'x'; 4000]);
            conversation.finished(false);
            drop(conversation);
            let packets = packets(subscription).await;
            let mut next = [0_u32; 2];
            let mut said = [0; 2];
            for made_up in &packets {
                let packet = Packet::parse(&made_up.bytes).unwrap();
                assert!(made_up.bytes.len() <= 1500);
                let segment = Segment::parse(packet.payload()).unwrap();
                assert!(segment.verify_checksum(packet.src(), packet.dst()));
                let by_client = segment.src_port() == 50_000;
                let (own, other) = places(by_client);
                assert_eq!(made_up.direction == Direction::Received, by_client);
                let port = if by_client {
                    segment.dst_port()
                } else {
                    segment.src_port()
                };
                assert_eq!(port, 80);
                let syn = segment.flags().contains(Flags::SYN);
                if !syn {
                    assert_eq!(segment.seq().0, next[own]);
                }
                if segment.flags().contains(Flags::ACK) {
                    assert_eq!(segment.ack().0, next[other]);
                }
                next[own] = segment.seq().0.wrapping_add(segment.sequence_len());
                said[own] += segment.payload().len();
            }
            assert_eq!(said, [18, 4000]);
            let fins = packets.iter().filter(|made_up| {
                let packet = Packet::parse(&made_up.bytes).unwrap();
                let segment = Segment::parse(packet.payload()).unwrap();
                segment.flags().contains(Flags::FIN)
            });
            assert_eq!(fins.count(), 2);
        }
    }

    #[tokio::test]
    async fn the_client_speaks_first_unless_it_never_speaks() {
        for speaks in [true, false] {
            let (mut conversation, subscription) = heard("10.1.0.5:50000", "192.0.2.1:443", true);
            conversation.said(false, b"settings");
            if speaks {
                conversation.said(true, b"preface");
            }
            drop(conversation);
            let mut words = Vec::new();
            for made_up in packets(subscription).await {
                let packet = Packet::parse(&made_up.bytes).unwrap();
                let segment = Segment::parse(packet.payload()).unwrap();
                if !segment.payload().is_empty() {
                    words.push(String::from_utf8(segment.payload().to_vec()).unwrap());
                }
            }
            let expected: &[&str] = if speaks {
                &["preface", "settings"]
            } else {
                &["settings"]
            };
            assert_eq!(words, expected);
        }
    }

    #[tokio::test]
    async fn nothing_said_makes_no_packet_and_other_ports_stay() {
        let (conversation, subscription) = heard("10.1.0.5:50000", "192.0.2.1:443", true);
        drop(conversation);
        assert_eq!(subscription.counts().seen, 0);
        let (mut conversation, subscription) = heard("10.1.0.5:50000", "192.0.2.1:8443", true);
        conversation.said(true, b"x");
        let packets = packets(subscription).await;
        let packet = Packet::parse(&packets[0].bytes).unwrap();
        let segment = Segment::parse(packet.payload()).unwrap();
        assert_eq!(segment.dst_port(), 8443);
    }
}
