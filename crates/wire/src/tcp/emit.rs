//! Writing TCP headers.

use core::net::IpAddr;

use super::segment::{HEADER_LEN, MAX_HEADER_LEN, kind};
use super::{Flags, Options, Repr, Seq};
use crate::checksum::Sum;
use crate::ip::Protocol;

const MAX_OPTIONS_LEN: usize = MAX_HEADER_LEN - HEADER_LEN;

impl Repr {
    /// How many bytes header and options take; a multiple of 4, at most 60.
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Writes header and options to the start of `buf`, in the order in which Linux writes them, with
    /// a zero checksum: [`fill_checksum`] sets it once the payload is in place.
    ///
    /// A buffer shorter than [`Self::header_len`] is a bug of the caller; nothing is written then.
    pub fn emit(&self, buf: &mut [u8]) {
        let options = EncodedOptions::of(&self.options);
        debug_assert!(
            buf.len() >= HEADER_LEN + options.len,
            "buffer shorter than the TCP header"
        );
        let Some((fixed, rest)) = buf.split_first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        let Some((space, _)) = rest.split_at_mut_checked(options.len) else {
            return;
        };
        let [sp0, sp1] = self.src_port.to_be_bytes();
        let [dp0, dp1] = self.dst_port.to_be_bytes();
        let [s0, s1, s2, s3] = self.seq.0.to_be_bytes();
        let [a0, a1, a2, a3] = self.ack.0.to_be_bytes();
        let words = ((HEADER_LEN + options.len) / 4) as u16;
        let [f0, f1] = (words << 12 | self.flags.0 & 0x01ff).to_be_bytes();
        let [w0, w1] = self.window.to_be_bytes();
        let [u0, u1] = self.urgent.to_be_bytes();
        *fixed = [
            sp0, sp1, dp0, dp1, s0, s1, s2, s3, a0, a1, a2, a3, f0, f1, w0, w1, 0, 0, u0, u1,
        ];
        for (byte, option) in space.iter_mut().zip(options.bytes) {
            *byte = option;
        }
    }
}

/// Sets the checksum of a whole segment: header, options and payload.
pub fn fill_checksum(segment: &mut [u8], src: IpAddr, dst: IpAddr) {
    if let Some([c0, c1]) = segment.get_mut(16..18) {
        (*c0, *c1) = (0, 0);
    }
    let checksum = Sum::pseudo_header(src, dst, Protocol::TCP, segment.len())
        .add_bytes(segment)
        .checksum()
        .to_be_bytes();
    if let Some(field) = segment.get_mut(16..18) {
        field.copy_from_slice(&checksum);
    }
}

/// Segments that differ in nothing but sequence number, flags and payload, with equally much payload
/// each: their header is written and summed once.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    header: [u8; MAX_HEADER_LEN],
    header_len: usize,
    /// Of the pseudo header and the header without what differs.
    sum: Sum,
}

impl Series {
    /// Segments with the header `repr` and `payload_len` bytes behind it.
    pub fn new(repr: &Repr, src: IpAddr, dst: IpAddr, payload_len: usize) -> Self {
        let header_len = repr.header_len();
        let mut header = [0; MAX_HEADER_LEN];
        let blank = Repr {
            seq: Seq(0),
            flags: Flags(0),
            ..*repr
        };
        blank.emit(&mut header);
        let sum = Sum::pseudo_header(src, dst, Protocol::TCP, header_len + payload_len);
        Self {
            header,
            header_len,
            sum: sum.add_bytes(header.get(..header_len).unwrap_or_default()),
        }
    }

    /// How many bytes header and options take.
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Writes one's header to the start of `segment`, whose payload is in place behind it, with its
    /// checksum.
    ///
    /// A buffer shorter than the header is a bug of the caller; nothing is written then.
    pub fn emit(&self, seq: Seq, flags: Flags, segment: &mut [u8]) {
        debug_assert!(
            segment.len() >= self.header_len,
            "buffer shorter than the TCP header"
        );
        let Some((header, payload)) = segment.split_at_mut_checked(self.header_len) else {
            return;
        };
        let flags = flags.0 & 0x01ff;
        let sum = self.sum.add_u32(seq.0).add_u16(flags).add_bytes(payload);
        header.copy_from_slice(self.header.get(..self.header_len).unwrap_or_default());
        if let Some(fixed) = header.first_chunk_mut::<HEADER_LEN>() {
            [fixed[4], fixed[5], fixed[6], fixed[7]] = seq.0.to_be_bytes();
            let [high, low] = flags.to_be_bytes();
            fixed[12] |= high;
            fixed[13] |= low;
            [fixed[16], fixed[17]] = sum.checksum().to_be_bytes();
        }
    }
}

impl Options {
    /// How many bytes the options take, padding included; a multiple of 4, at most 40.
    pub fn len(&self) -> usize {
        let without_sack = self.len_without_sack();
        match self.sack_blocks_that_fit() {
            0 => without_sack,
            blocks => without_sack + 4 + blocks * 8,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn len_without_sack(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let timestamps = if self.timestamps.is_some() { 12 } else { 0 };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        // SACK permitted takes the place of the two NOPs before the timestamps.
        let permitted = if self.sack_permitted && self.timestamps.is_none() {
            4
        } else {
            0
        };
        mss + timestamps + scale + permitted
    }

    fn sack_blocks_that_fit(&self) -> usize {
        let space = MAX_OPTIONS_LEN.saturating_sub(self.len_without_sack() + 4) / 8;
        self.sack.iter().flatten().count().min(space)
    }
}

struct EncodedOptions {
    bytes: [u8; MAX_OPTIONS_LEN],
    len: usize,
}

impl EncodedOptions {
    fn of(options: &Options) -> Self {
        let mut encoded = Self {
            bytes: [0; MAX_OPTIONS_LEN],
            len: 0,
        };
        if let Some(mss) = options.mss {
            let [hi, lo] = mss.to_be_bytes();
            encoded.put(&[kind::MSS, 4, hi, lo]);
        }
        let before = if options.sack_permitted {
            [kind::SACK_PERMITTED, 2]
        } else {
            [kind::NOP, kind::NOP]
        };
        if let Some(timestamps) = options.timestamps {
            encoded.put(&before);
            encoded.put(&[kind::TIMESTAMPS, 10]);
            encoded.put(&timestamps.tsval.to_be_bytes());
            encoded.put(&timestamps.tsecr.to_be_bytes());
        } else if options.sack_permitted {
            encoded.put(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        if let Some(shift) = options.window_scale {
            encoded.put(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        let blocks = options.sack_blocks_that_fit();
        if blocks > 0 {
            let len = 2 + blocks as u8 * 8;
            encoded.put(&[kind::NOP, kind::NOP, kind::SACK, len]);
            for block in options.sack.iter().flatten().take(blocks) {
                encoded.put(&block.left.0.to_be_bytes());
                encoded.put(&block.right.0.to_be_bytes());
            }
        }
        encoded
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if let Some(space) = self.bytes.get_mut(self.len..end) {
            space.copy_from_slice(bytes);
            self.len = end;
        }
    }
}
