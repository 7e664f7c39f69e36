//! Things on or beside the path that change segments or add some of their own.

use std::net::IpAddr;

use rand::Rng;
use rand::rngs::SmallRng;

use flowdog_tcp::{Flags, Repr};
use wire::tcp;

use super::{IP_HEADER, LEFT, RIGHT};

/// Which option a middlebox takes out after the handshake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Strip {
    Sack,
    Timestamps,
}

/// The segment without an option.
pub(crate) fn strip(packet: &[u8], strip: Strip) -> Vec<u8> {
    change(packet, |repr| match strip {
        Strip::Sack => repr.options.sack = Default::default(),
        Strip::Timestamps => repr.options.timestamps = None,
    })
}

/// What somebody who knows the ports and guesses the numbers sends: a RST, a SYN or an
/// acknowledgment. The guesses lie in the window, but never on the one number that counts.
pub(crate) fn forge(packet: &[u8], rng: &mut SmallRng) -> Vec<u8> {
    let header = IP_HEADER + usize::from(packet[IP_HEADER + 12] >> 4) * 4;
    change(&packet[..header], |repr| {
        repr.seq += rng.random_range(40_000..64_000u32);
        match rng.random_range(0..4) {
            0 => repr.flags = Flags::RST,
            1 => repr.flags = Flags::RST.with(Flags::ACK),
            2 => repr.flags = Flags::SYN,
            _ => {
                repr.flags = Flags::ACK;
                repr.ack += rng.random_range(100_000_000..2_000_000_000u32);
            }
        }
    })
}

fn change(packet: &[u8], change: impl FnOnce(&mut Repr)) -> Vec<u8> {
    let is_from_left = packet[12..16] == [10, 0, 0, 1];
    let (from, to): (IpAddr, IpAddr) = if is_from_left {
        (LEFT, RIGHT)
    } else {
        (RIGHT, LEFT)
    };
    let Ok(segment) = tcp::Segment::parse(&packet[IP_HEADER..]) else {
        return packet.to_vec();
    };
    let mut repr = segment.repr();
    change(&mut repr);
    let payload = segment.payload();
    let mut changed = packet[..IP_HEADER].to_vec();
    changed.resize(IP_HEADER + repr.header_len() + payload.len(), 0);
    let bytes = &mut changed[IP_HEADER..];
    repr.emit(bytes);
    bytes[repr.header_len()..].copy_from_slice(payload);
    tcp::fill_checksum(bytes, from, to);
    changed
}
