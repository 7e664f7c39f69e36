//! Changing segments where they lie: what a forwarded SYN or SYN-ACK must not carry past us.
//!
//! Checksums are updated by increments (RFC 1624), so that a segment that arrived with a wrong one
//! leaves with a wrong one: an edit never makes corrupt bytes look sound.

use super::segment::{HEADER_LEN, Segment, kind};
use crate::checksum::Sum;
use crate::ip;

const CHECKSUM: usize = 16;

/// Overwrites with NOPs every option for which `unwanted(kind, data)` holds; answers how many.
/// `segment` starts with the TCP header; bytes that are no segment stay as they are.
pub fn nop_out(segment: &mut [u8], mut unwanted: impl FnMut(u8, &[u8]) -> bool) -> usize {
    let mut count = 0;
    let mut at = HEADER_LEN;
    while let Some((kind, offset, len)) = next_option(segment, at) {
        at = offset + len;
        let data = segment.get(offset + 2..at).unwrap_or_default();
        if unwanted(kind, data) {
            count += 1;
            for i in offset..at {
                replace(segment, i, kind::NOP);
            }
        }
    }
    count
}

/// Lowers the MSS option to at most `mss`; answers the value it had if it was lowered.
/// A segment without the option stays without: its sender means 536 or 1220 (RFC 9293 §3.7.1).
pub fn clamp_mss(segment: &mut [u8], mss: u16) -> Option<u16> {
    let mut at = HEADER_LEN;
    while let Some((kind, offset, len)) = next_option(segment, at) {
        at = offset + len;
        let (kind::MSS, Some(&[hi, lo])) = (kind, segment.get(offset + 2..at)?.as_array::<2>())
        else {
            continue;
        };
        let old = u16::from_be_bytes([hi, lo]);
        if old <= mss {
            return None;
        }
        let [hi, lo] = mss.to_be_bytes();
        replace(segment, offset + 2, hi);
        replace(segment, offset + 3, lo);
        return Some(old);
    }
    None
}

/// Clears the AE bit, which makes an accurate ECN handshake (RFC 9768 §3.1) a classic one; answers
/// whether it was set.
pub fn clear_accurate_ecn(segment: &mut [u8]) -> bool {
    let Ok(_) = Segment::parse(segment) else {
        return false;
    };
    match segment.get(12) {
        Some(byte) if byte & 0x01 != 0 => {
            let cleared = byte & !0x01;
            replace(segment, 12, cleared);
            true
        }
        _ => false,
    }
}

/// What [`cut_payload`] left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The packet's new length in bytes; the buffer behind it is of no meaning.
    pub packet_len: usize,
    /// How many payload bytes are gone.
    pub removed: usize,
}

/// Cuts the payload, and padding behind it, off a whole IP packet that carries a TCP segment, and puts
/// IP length, IP header checksum and TCP checksum right. `None` if it is no such packet; fragments are
/// left alone.
pub fn cut_payload(packet: &mut [u8]) -> Option<Cut> {
    let view = ip::Packet::parse(packet).ok()?;
    if view.protocol() != ip::Protocol::TCP || view.fragment() != ip::Fragment::Whole {
        return None;
    }
    let (family, segment_at, old_len) =
        (view.version(), view.payload_offset(), view.payload().len());
    let segment = Segment::parse(view.payload()).ok()?;
    let (header_len, removed) = (segment.header_len(), segment.payload().len());
    let packet_len = segment_at + header_len;
    if removed == 0 {
        return Some(Cut {
            packet_len,
            removed,
        });
    }
    // The pseudo header holds the segment's length; header and payload both start at even offsets.
    let checksum = Sum::from_checksum(segment.checksum())
        .remove_bytes(segment.payload())
        .remove_u16(u16::try_from(old_len).ok()?)
        .add_u16(u16::try_from(header_len).ok()?)
        .checksum();
    put_u16(packet, segment_at + CHECKSUM, checksum);
    match family {
        ip::Family::V4 => {
            let old_header = Sum::from_checksum(u16_at(packet, 10)?);
            let old_total = u16_at(packet, 2)?;
            let new_total = u16::try_from(packet_len).ok()?;
            put_u16(packet, 2, new_total);
            let checksum = old_header
                .remove_u16(old_total)
                .add_u16(new_total)
                .checksum();
            put_u16(packet, 10, checksum);
        }
        ip::Family::V6 => {
            put_u16(
                packet,
                4,
                u16::try_from(packet_len - ip::V6_HEADER_LEN).ok()?,
            );
        }
    }
    Some(Cut {
        packet_len,
        removed,
    })
}

/// The next option at or behind `at`: its kind, where it starts, and its length with kind and length
/// byte. `None` at the end of the options, or where one is malformed.
fn next_option(segment: &[u8], mut at: usize) -> Option<(u8, usize, usize)> {
    let header_len = Segment::parse(segment).ok()?.header_len();
    loop {
        let options = segment.get(at..header_len)?;
        match options {
            [] | [kind::END, ..] => return None,
            [kind::NOP, ..] => at += 1,
            [kind, len, ..] => {
                let len = usize::from(*len);
                return (2..=options.len())
                    .contains(&len)
                    .then_some((*kind, at, len));
            }
            [_] => return None,
        }
    }
}

/// Changes one byte of a segment and its checksum with it.
fn replace(segment: &mut [u8], at: usize, new: u8) {
    let Some(checksum) = u16_at(segment, CHECKSUM) else {
        return;
    };
    let Some(byte) = segment.get_mut(at) else {
        return;
    };
    // A byte at an odd offset is the lower half of its word.
    let shift = if at.is_multiple_of(2) { 8 } else { 0 };
    let sum = Sum::from_checksum(checksum)
        .remove_u16(u16::from(*byte) << shift)
        .add_u16(u16::from(new) << shift);
    *byte = new;
    put_u16(segment, CHECKSUM, sum.checksum());
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u16::from_be_bytes(*word))
}

fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(word) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *word = value.to_be_bytes();
    }
}
