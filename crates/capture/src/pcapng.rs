//! Writes pcapng (draft-ietf-opsawg-pcapng), with the secrets that make TLS readable in the file
//! itself.
//!
//! Everything is little-endian and in nanoseconds. The writer only appends bytes to a buffer that its
//! caller owns; a file, a pipe to Wireshark and a test use it alike.

/// Link type of packets that begin with their IP header (LINKTYPE_RAW).
pub const LINKTYPE_RAW: u16 = 101;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const DECRYPTION_SECRETS: u32 = 10;
/// "TLSK": NSS key log lines.
const TLS_KEY_LOG: u32 = 0x544c_534b;

const OPT_COMMENT: u16 = 1;

/// Who wrote the file.
#[derive(Clone, Debug, Default)]
pub struct Section {
    /// `shb_hardware`, as "x86_64".
    pub hardware: String,
    /// `shb_os`.
    pub os: String,
    /// `shb_userappl`.
    pub application: String,
    /// A comment about the whole file.
    pub comment: String,
}

/// One of the places that packets were taken at.
#[derive(Clone, Debug, Default)]
pub struct Interface {
    /// `if_name`, short.
    pub name: String,
    /// `if_description`, for people.
    pub description: String,
    /// `if_filter`: the capture filter, empty if there was none.
    pub filter: String,
    /// Bytes kept of each packet; 0 for all.
    pub snap_length: u32,
}

/// Which way a packet went, in `epb_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the appliance.
    Inbound,
    /// From the appliance.
    Outbound,
}

/// A packet and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Number of the interface, in the order in which they were described.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// Length before the snap length.
    pub length: u32,
    /// From the IP header on.
    pub data: &'a [u8],
    /// Which way it went.
    pub way: Way,
    /// A comment, or nothing.
    pub comment: &'a str,
}

/// Counts of one interface.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// When the capture began, in nanoseconds since 1970.
    pub start: u64,
    /// When these counts were taken.
    pub end: u64,
    /// Packets seen (`isb_ifrecv`).
    pub received: u64,
    /// Packets lost before they could be written (`isb_ifdrop`).
    pub dropped: u64,
}

/// Begins a file.
pub fn section_header(out: &mut Vec<u8>, section: &Section) {
    block(out, SECTION_HEADER, |body| {
        body.extend(0x1a2b_3c4d_u32.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes()); // the section's length is not known
        text(body, OPT_COMMENT, &section.comment);
        text(body, 2, &section.hardware);
        text(body, 3, &section.os);
        text(body, 4, &section.application);
        end_of_options(body);
    });
}

/// Describes an interface; packets name it by the number of descriptions before it.
pub fn interface_description(out: &mut Vec<u8>, interface: &Interface) {
    block(out, INTERFACE_DESCRIPTION, |body| {
        body.extend(LINKTYPE_RAW.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(interface.snap_length.to_le_bytes());
        text(body, 2, &interface.name);
        text(body, 3, &interface.description);
        option(body, 9, &[9]); // if_tsresol: nanoseconds
        if !interface.filter.is_empty() {
            // The first byte says that a string of libpcap's language follows.
            let mut value = vec![0];
            value.extend(clipped(&interface.filter).as_bytes());
            option(body, 11, &value);
        }
        end_of_options(body);
    });
}

/// Secrets for the packets that follow: lines of the NSS key log format.
pub fn decryption_secrets(out: &mut Vec<u8>, lines: &str) {
    block(out, DECRYPTION_SECRETS, |body| {
        body.extend(TLS_KEY_LOG.to_le_bytes());
        body.extend(length(lines.len()).to_le_bytes());
        body.extend(lines.as_bytes());
        pad(body);
    });
}

/// A packet.
pub fn enhanced_packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, ENHANCED_PACKET, |body| {
        body.extend(packet.interface.to_le_bytes());
        body.extend(time(packet.time));
        body.extend(length(packet.data.len()).to_le_bytes());
        body.extend(packet.length.to_le_bytes());
        body.extend(packet.data);
        pad(body);
        text(body, OPT_COMMENT, packet.comment);
        let way: u32 = match packet.way {
            Way::Inbound => 1,
            Way::Outbound => 2,
        };
        option(body, 2, &way.to_le_bytes());
        end_of_options(body);
    });
}

/// Counts of an interface, at the end of a capture or in its course.
pub fn interface_statistics(out: &mut Vec<u8>, interface: u32, statistics: &Statistics) {
    block(out, INTERFACE_STATISTICS, |body| {
        body.extend(interface.to_le_bytes());
        body.extend(time(statistics.end));
        option(body, 2, &time(statistics.start));
        option(body, 3, &time(statistics.end));
        option(body, 4, &statistics.received.to_le_bytes());
        option(body, 5, &statistics.dropped.to_le_bytes());
        end_of_options(body);
    });
}

/// A block between its two lengths.
fn block(out: &mut Vec<u8>, kind: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    let begin = out.len();
    out.extend(kind.to_le_bytes());
    out.extend([0; 4]);
    fill(out);
    let total = length(out.len() - begin + 4).to_le_bytes();
    out.extend(total);
    if let Some(place) = out.get_mut(begin + 4..begin + 8) {
        place.copy_from_slice(&total);
    }
}

/// The upper half of a time comes first.
fn time(nanoseconds: u64) -> [u8; 8] {
    nanoseconds.rotate_left(32).to_le_bytes()
}

fn text(body: &mut Vec<u8>, code: u16, value: &str) {
    if !value.is_empty() {
        option(body, code, clipped(value).as_bytes());
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_of_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// An option's length has 16 bits; nothing here comes near, whatever a peer calls itself.
fn clipped(value: &str) -> &str {
    let mut end = value.len().min(4096);
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    value.get(..end).unwrap_or_default()
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Blocks begin at multiples of four, and so does everything within.
fn pad(body: &mut Vec<u8>) {
    while !body.len().is_multiple_of(4) {
        body.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn threat_75_every_block_says_its_length_at_both_ends_and_is_padded() {
        for len in 0..9_usize {
            let mut out = Vec::new();
            let text = "x".repeat(len);
            section_header(
                &mut out,
                &Section {
                    comment: text.clone(),
                    os: text.clone(),
                    ..Section::default()
                },
            );
            interface_description(
                &mut out,
                &Interface {
                    name: text.clone(),
                    filter: text.clone(),
                    ..Interface::default()
                },
            );
            decryption_secrets(&mut out, &text);
            enhanced_packet(
                &mut out,
                &Packet {
                    interface: 0,
                    time: 0x0123_4567_89ab_cdef,
                    length: 99,
                    data: text.as_bytes(),
                    way: Way::Outbound,
                    comment: &text,
                },
            );
            interface_statistics(&mut out, 0, &Statistics::default());
            let mut kinds = Vec::new();
            let mut at = 0;
            while at < out.len() {
                kinds.push(word(&out, at));
                let total = word(&out, at + 4) as usize;
                assert_eq!(total % 4, 0);
                assert_eq!(word(&out, at + total - 4) as usize, total);
                if kinds.last() == Some(&ENHANCED_PACKET) {
                    assert_eq!(word(&out, at + 12), 0x0123_4567);
                    assert_eq!(word(&out, at + 16), 0x89ab_cdef);
                    assert_eq!(word(&out, at + 20) as usize, len);
                    assert_eq!(word(&out, at + 24), 99);
                }
                at += total;
            }
            assert_eq!(
                kinds,
                [
                    SECTION_HEADER,
                    INTERFACE_DESCRIPTION,
                    DECRYPTION_SECRETS,
                    ENHANCED_PACKET,
                    INTERFACE_STATISTICS
                ]
            );
        }
    }

    #[test]
    fn a_text_that_no_option_can_hold_is_cut_at_a_character() {
        let mut out = Vec::new();
        interface_description(
            &mut out,
            &Interface {
                name: "ä".repeat(100_000),
                ..Interface::default()
            },
        );
        assert!(out.len() < 8192);
    }
}
