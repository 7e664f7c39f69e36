//! What the service shows, as a pcapng file.

use std::collections::HashSet;

use wire::gwlb::VpcEndpointId;

use crate::pcapng::{self, Interface, Section, Statistics, Way};
use crate::proto::{self, WatchResponse, watch_response::Item};

/// Flows of which it is remembered that their first packet had its comment.
const COMMENTED: usize = 65_536;

/// Writes one capture. The bytes go to a buffer that the caller empties.
#[derive(Debug)]
pub struct Recorder {
    sides: Vec<proto::Side>,
    start: u64,
    last: u64,
    received: Vec<u64>,
    dropped: u64,
    commented: HashSet<(u64, i32)>,
}

impl Recorder {
    /// Begins a file with an interface for each of `sides`.
    #[must_use]
    pub fn begin(
        out: &mut Vec<u8>,
        sides: &[proto::Side],
        appliance: &str,
        filter: &str,
        snap_length: u32,
    ) -> Self {
        pcapng::section_header(
            out,
            &Section {
                hardware: std::env::consts::ARCH.to_owned(),
                os: std::env::consts::OS.to_owned(),
                application: concat!("flowdog ", env!("CARGO_PKG_VERSION")).to_owned(),
                comment: if appliance.is_empty() {
                    String::new()
                } else {
                    format!("taken at {appliance}")
                },
            },
        );
        for side in sides {
            let (name, description) = match side {
                proto::Side::Client | proto::Side::Unspecified => (
                    "client side",
                    "between clients and flowdog, before rewriting",
                ),
                proto::Side::Server => (
                    "server side",
                    "between flowdog and servers, after rewriting",
                ),
                proto::Side::Outer => ("outer", "GENEVE, as the load balancer exchanges it"),
            };
            pcapng::interface_description(
                out,
                &Interface {
                    name: name.to_owned(),
                    description: description.to_owned(),
                    filter: filter.to_owned(),
                    snap_length,
                },
            );
        }
        Self {
            sides: sides.to_vec(),
            start: 0,
            last: 0,
            received: vec![0; sides.len()],
            dropped: 0,
            commented: HashSet::new(),
        }
    }

    /// Writes one answer of the service.
    pub fn write(&mut self, out: &mut Vec<u8>, answer: &WatchResponse) {
        match &answer.item {
            Some(Item::Packet(packet)) => self.packet(out, packet),
            Some(Item::Secret(secret)) => {
                let leg = match secret.side() {
                    proto::Side::Server => "server side",
                    _ => "client side",
                };
                let text = format!("# {leg}, flow {:016x}\n{}\n", secret.flow, secret.line);
                pcapng::decryption_secrets(out, &text);
            }
            Some(Item::Statistics(statistics)) => self.dropped = statistics.dropped,
            None => {}
        }
    }

    fn packet(&mut self, out: &mut Vec<u8>, packet: &proto::Packet) {
        let side = packet.side();
        let Some(interface) = self.sides.iter().position(|known| *known == side) else {
            return;
        };
        if let Some(count) = self.received.get_mut(interface) {
            *count += 1;
        }
        if self.start == 0 {
            self.start = packet.time;
        }
        self.last = self.last.max(packet.time);
        if self.commented.len() >= COMMENTED {
            self.commented.clear();
        }
        let comment = if self.commented.insert((packet.flow, packet.side)) {
            format!(
                "flow {:016x} of {}",
                packet.flow,
                VpcEndpointId(packet.endpoint)
            )
        } else {
            String::new()
        };
        pcapng::enhanced_packet(
            out,
            &pcapng::Packet {
                interface: u32::try_from(interface).unwrap_or(u32::MAX),
                time: packet.time,
                length: packet.length,
                data: &packet.data,
                way: match packet.direction() {
                    proto::Direction::Sent => Way::Outbound,
                    _ => Way::Inbound,
                },
                comment: &comment,
            },
        );
    }

    /// Ends the file with the counts of its interfaces.
    pub fn end(&self, out: &mut Vec<u8>) {
        for (interface, received) in self.received.iter().enumerate() {
            pcapng::interface_statistics(
                out,
                u32::try_from(interface).unwrap_or(u32::MAX),
                &Statistics {
                    start: self.start,
                    end: self.last,
                    received: *received,
                    dropped: self.dropped,
                },
            );
        }
    }
}
