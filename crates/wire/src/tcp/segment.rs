//! A checked view of a TCP segment.

use core::net::IpAddr;

use super::{Flags, Options, Repr, SackBlock, Seq, Timestamps};
use crate::checksum::Sum;
use crate::ip::Protocol;

/// The length of a TCP header without options, in bytes.
pub const HEADER_LEN: usize = 20;
/// The longest TCP header: the data offset is 4 bits of 4-byte words.
pub const MAX_HEADER_LEN: usize = 60;

/// Option kinds (IANA "TCP Option Kind Numbers").
pub mod kind {
    /// End of option list (RFC 9293).
    pub const END: u8 = 0;
    /// No operation (RFC 9293).
    pub const NOP: u8 = 1;
    /// Maximum segment size (RFC 9293).
    pub const MSS: u8 = 2;
    /// Window scale (RFC 7323).
    pub const WINDOW_SCALE: u8 = 3;
    /// SACK permitted (RFC 2018).
    pub const SACK_PERMITTED: u8 = 4;
    /// SACK blocks (RFC 2018).
    pub const SACK: u8 = 5;
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: u8 = 8;
    /// MD5 signature (RFC 2385).
    pub const MD5: u8 = 19;
    /// TCP authentication option (RFC 5925).
    pub const AO: u8 = 29;
    /// Multipath TCP (RFC 8684).
    pub const MPTCP: u8 = 30;
    /// Fast open cookie (RFC 7413).
    pub const FAST_OPEN: u8 = 34;
    /// Encryption negotiation (RFC 8547).
    pub const ENO: u8 = 69;
    /// Accurate ECN, order 0 (RFC 9768).
    pub const ACCURATE_ECN_0: u8 = 172;
    /// Accurate ECN, order 1 (RFC 9768).
    pub const ACCURATE_ECN_1: u8 = 174;
    /// Experiment 1 (RFC 4727, RFC 6994).
    pub const EXPERIMENT_1: u8 = 253;
    /// Experiment 2 (RFC 4727, RFC 6994); with the id 0xf989 the first form of fast open.
    pub const EXPERIMENT_2: u8 = 254;
}

/// Why bytes are not a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Fewer bytes than the header says.
    Truncated,
    /// The data offset is below 5 words.
    BadHeaderLength,
}

impl Malformed {
    /// Every variant, for registering counters.
    pub const ALL: [Self; 2] = [Self::Truncated, Self::BadHeaderLength];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "tcp_truncated",
            Self::BadHeaderLength => "tcp_bad_header_length",
        }
    }
}

/// A checked view of a TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    bytes: &'a [u8],
    fixed: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Checks the lengths of an IP packet's payload.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let fixed: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let header_len = usize::from(fixed[12] >> 4) * 4;
        if header_len < HEADER_LEN {
            return Err(Malformed::BadHeaderLength);
        }
        let (header, payload) = bytes
            .split_at_checked(header_len)
            .ok_or(Malformed::Truncated)?;
        let options = header.get(HEADER_LEN..).ok_or(Malformed::BadHeaderLength)?;
        Ok(Self {
            bytes,
            fixed,
            options,
            payload,
        })
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[0], self.fixed[1]])
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.fixed[2], self.fixed[3]])
    }

    /// The sequence number of the first payload byte, or of SYN.
    pub fn seq(&self) -> Seq {
        Seq(u32::from_be_bytes([
            self.fixed[4],
            self.fixed[5],
            self.fixed[6],
            self.fixed[7],
        ]))
    }

    /// The acknowledgment number; significant only with [`Flags::ACK`].
    pub fn ack(&self) -> Seq {
        Seq(u32::from_be_bytes([
            self.fixed[8],
            self.fixed[9],
            self.fixed[10],
            self.fixed[11],
        ]))
    }

    /// The control bits.
    pub fn flags(&self) -> Flags {
        Flags(u16::from_be_bytes([self.fixed[12], self.fixed[13]]) & 0x01ff)
    }

    /// The window field as on the wire, unscaled.
    pub fn window(&self) -> u16 {
        u16::from_be_bytes([self.fixed[14], self.fixed[15]])
    }

    /// The checksum field.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.fixed[16], self.fixed[17]])
    }

    /// The urgent pointer.
    pub fn urgent(&self) -> u16 {
        u16::from_be_bytes([self.fixed[18], self.fixed[19]])
    }

    /// The length of the header with its options, in bytes.
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// How much sequence space the segment takes: payload, SYN and FIN (RFC 9293 §3.4).
    pub fn sequence_len(&self) -> u32 {
        let flags = self.flags();
        let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        u32::try_from(self.payload.len())
            .unwrap_or(u32::MAX)
            .saturating_add(control)
    }

    /// The options as (kind, data), known or not; padding is left out. Ends early where an option's
    /// length is impossible (RFC 9293 §3.1 lets the rest be ignored).
    pub fn options(&self) -> OptionIter<'a> {
        OptionIter {
            rest: self.options,
            malformed: false,
        }
    }

    /// Whether the checksum is right for these addresses.
    pub fn verify_checksum(&self, src: IpAddr, dst: IpAddr) -> bool {
        Sum::pseudo_header(src, dst, Protocol::TCP, self.bytes.len())
            .add_bytes(self.bytes)
            .folded()
            == 0xffff
    }

    /// The meaning of the header. Options with a wrong length are left out; SYN options count only on
    /// a SYN.
    pub fn repr(&self) -> Repr {
        let flags = self.flags();
        Repr {
            src_port: self.src_port(),
            dst_port: self.dst_port(),
            seq: self.seq(),
            ack: self.ack(),
            flags,
            window: self.window(),
            urgent: self.urgent(),
            options: self.known_options(flags.contains(Flags::SYN)),
        }
    }

    fn known_options(&self, syn: bool) -> Options {
        let mut known = Options::default();
        // The only option of most data segments, in the shape that every stack sends it (RFC 7323
        // appendix A).
        if let [kind::NOP, kind::NOP, kind::TIMESTAMPS, 10, data @ ..] = self.options
            && let Ok(data) = <&[u8; 8]>::try_from(data)
        {
            known.timestamps = Some(timestamps(data));
            return known;
        }
        for (kind, data) in self.options() {
            match (kind, data) {
                (kind::MSS, [hi, lo]) if syn => known.mss = Some(u16::from_be_bytes([*hi, *lo])),
                (kind::WINDOW_SCALE, [shift]) if syn => known.window_scale = Some(*shift),
                (kind::SACK_PERMITTED, []) if syn => known.sack_permitted = true,
                (kind::TIMESTAMPS, data) => {
                    if let Ok(data) = data.try_into() {
                        known.timestamps = Some(timestamps(data));
                    }
                }
                (kind::SACK, data) => {
                    let (blocks, []) = data.as_chunks::<8>() else {
                        continue;
                    };
                    for (slot, [l0, l1, l2, l3, r0, r1, r2, r3]) in
                        known.sack.iter_mut().zip(blocks)
                    {
                        *slot = Some(SackBlock {
                            left: Seq(u32::from_be_bytes([*l0, *l1, *l2, *l3])),
                            right: Seq(u32::from_be_bytes([*r0, *r1, *r2, *r3])),
                        });
                    }
                }
                _ => {}
            }
        }
        known
    }
}

fn timestamps([v0, v1, v2, v3, e0, e1, e2, e3]: &[u8; 8]) -> Timestamps {
    Timestamps {
        tsval: u32::from_be_bytes([*v0, *v1, *v2, *v3]),
        tsecr: u32::from_be_bytes([*e0, *e1, *e2, *e3]),
    }
}

/// Walks options; see [`Segment::options`].
#[derive(Clone, Debug)]
pub struct OptionIter<'a> {
    rest: &'a [u8],
    malformed: bool,
}

impl OptionIter<'_> {
    /// Whether the walk ended at an option whose length is impossible.
    pub fn is_malformed(&self) -> bool {
        self.malformed
    }
}

impl<'a> Iterator for OptionIter<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (kind, rest) = match self.rest.split_first() {
                None | Some((&kind::END, _)) => {
                    self.rest = &[];
                    return None;
                }
                Some((&kind::NOP, rest)) => {
                    self.rest = rest;
                    continue;
                }
                Some((kind, rest)) => (*kind, rest),
            };
            let split = rest.split_first().and_then(|(len, rest)| {
                // The length counts kind and length too.
                rest.split_at_checked(usize::from(*len).checked_sub(2)?)
            });
            let Some((data, rest)) = split else {
                self.malformed = true;
                self.rest = &[];
                return None;
            };
            self.rest = rest;
            return Some((kind, data));
        }
    }
}
