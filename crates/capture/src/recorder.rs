//! What the service shows, as a pcapng file.

use std::collections::HashSet;

use wire::gwlb::VpcEndpointId;

use crate::apart;
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
    /// The server's side is shown under addresses of its own.
    apart: bool,
}

/// What a file says about itself.
#[derive(Clone, Debug, Default)]
pub struct About {
    /// The sides, an interface for each.
    pub sides: Vec<proto::Side>,
    /// The name of the appliance, or nothing.
    pub appliance: String,
    /// The capture filter.
    pub filter: String,
    /// Bytes kept of each packet; 0 for all.
    pub snap_length: u32,
    /// Packets as they are, even where a file has both sides: readers may take the two for one
    /// connection then.
    pub exact: bool,
}

impl Recorder {
    /// Begins a file.
    #[must_use]
    pub fn begin(out: &mut Vec<u8>, about: &About) -> Self {
        let About {
            sides,
            appliance,
            filter,
            snap_length,
            exact,
        } = about;
        let has = |side| sides.contains(&side);
        let apart = !exact
            && (has(proto::Side::Client) && has(proto::Side::Server)
                || has(proto::Side::DecryptedClient) && has(proto::Side::DecryptedServer));
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
            let (name, description) = words(*side);
            let shown_apart = apart && is_server_side(*side);
            let more = if shown_apart { apart::DESCRIPTION } else { "" };
            pcapng::interface_description(
                out,
                &Interface {
                    name: name.to_owned(),
                    description: format!("{description}{more}"),
                    filter: filter.to_owned(),
                    snap_length: snap_length_of(*snap_length, shown_apart),
                },
            );
        }
        Self {
            sides: sides.clone(),
            apart,
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
                let (leg, _) = words(secret.side());
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
        let sent = packet.direction() == proto::Direction::Sent;
        let shown = (self.apart && is_server_side(side))
            .then(|| apart::server_side(&packet.data, sent))
            .flatten();
        let (data, grown) = match &shown {
            Some((data, grown)) => (data, *grown),
            None => (&packet.data, 0),
        };
        pcapng::enhanced_packet(
            out,
            &pcapng::Packet {
                interface: u32::try_from(interface).unwrap_or(u32::MAX),
                time: packet.time,
                length: packet.length.saturating_add(grown),
                data,
                way: if sent { Way::Outbound } else { Way::Inbound },
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

/// A side's name and description.
fn words(side: proto::Side) -> (&'static str, &'static str) {
    match side {
        proto::Side::Client | proto::Side::Unspecified => (
            "client side",
            "between clients and flowdog, before rewriting",
        ),
        proto::Side::Server => (
            "server side",
            "between flowdog and servers, after rewriting",
        ),
        proto::Side::Outer => ("outer", "GENEVE, as the load balancer exchanges it"),
        proto::Side::DecryptedClient => (
            "decrypted",
            "what intercepted clients and flowdog said in clear, as TCP made up for it",
        ),
        proto::Side::DecryptedServer => (
            "decrypted, server side",
            "what flowdog and servers said in clear, as TCP made up for it",
        ),
    }
}

fn is_server_side(side: proto::Side) -> bool {
    matches!(side, proto::Side::Server | proto::Side::DecryptedServer)
}

/// No packet of an interface may be longer than it says.
fn snap_length_of(snap_length: u32, apart: bool) -> u32 {
    match snap_length {
        0 => 0,
        length if apart => length.saturating_add(28),
        length => length,
    }
}
