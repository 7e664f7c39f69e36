//! The Internet checksum (RFC 1071), over whole packets and by increments (RFC 1624).

use core::net::IpAddr;

use crate::ip::Protocol;

/// A running ones' complement sum.
///
/// Feed it in pieces of even length; only the last piece may be odd, since a byte's weight depends on
/// its position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// The sum of the pseudo header of TCP, UDP and ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1).
    ///
    /// `length` counts the bytes of the upper-layer header and its payload.
    pub fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: Protocol, length: usize) -> Self {
        let sum = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                Self::new().add_u32(src.to_bits()).add_u32(dst.to_bits())
            }
            (src, dst) => Self::new()
                .add_bytes(&v6_octets(src))
                .add_bytes(&v6_octets(dst)),
        };
        // Both layouts hold the length and the protocol in aligned fields with zeros around them.
        sum.add_u32(u32::try_from(length).unwrap_or(u32::MAX))
            .add_u16(u16::from(protocol.0))
    }

    /// Adds one 16-bit word.
    #[must_use]
    pub const fn add_u16(self, word: u16) -> Self {
        Self(self.0 + word as u64)
    }

    /// Adds one 32-bit word.
    #[must_use]
    pub const fn add_u32(self, word: u32) -> Self {
        Self(self.0 + (word >> 16) as u64 + (word & 0xffff) as u64)
    }

    /// Adds bytes; an odd last byte counts as the high half of a word (RFC 1071 §4.1).
    #[must_use]
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // The ones' complement sum is the same in either byte order up to a final swap (RFC 1071
        // §1.2 B), so wide native words will do. Each lane gains less than 2^33 a round, which a
        // u64 holds for more rounds than any slice in memory has.
        let (blocks, tail) = bytes.as_chunks::<32>();
        let mut lanes = [0u64; 4];
        for block in blocks {
            let (words, _) = block.as_chunks::<8>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                let word = u64::from_ne_bytes(*word);
                *lane += (word & 0xffff_ffff) + (word >> 32);
            }
        }
        let mut native = fold64(lanes.iter().map(|lane| fold64(*lane)).sum());
        let (words, tail) = tail.as_chunks::<4>();
        for word in words {
            native += u64::from(u32::from_ne_bytes(*word));
        }
        let (words, tail) = tail.as_chunks::<2>();
        for word in words {
            native += u64::from(u16::from_ne_bytes(*word));
        }
        if let Some(last) = tail.first() {
            native += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(self.0 + u64::from(u16::from_be(fold(native))))
    }

    /// Takes away one 16-bit word that was added before (RFC 1624 §3).
    #[must_use]
    pub const fn remove_u16(self, word: u16) -> Self {
        self.add_u16(!word)
    }

    /// Takes away bytes that were added before, under the same rule of even pieces.
    #[must_use]
    pub fn remove_bytes(self, bytes: &[u8]) -> Self {
        self.remove_u16(Self::new().add_bytes(bytes).folded())
    }

    /// The sum as 16 bits. Over data that contains its valid checksum this is `0xffff`.
    pub fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The checksum to put into a header: the complement of the sum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The sum that a checksum stands for, to continue from when a few words change (RFC 1624 §3).
    pub const fn from_checksum(checksum: u16) -> Self {
        Self(!checksum as u64)
    }
}

/// The checksum after one 16-bit word of the covered data changed (RFC 1624 §3, equation 3).
pub fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::from_checksum(checksum)
        .remove_u16(old)
        .add_u16(new)
        .checksum()
}

/// Folds 64 bits of sum into 33 bits or fewer, keeping its value modulo 2^16 - 1.
const fn fold64(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

const fn fold(sum: u64) -> u16 {
    let sum = fold64(fold64(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// An address as IPv6 sees it; only mixed families, which no packet has, map an IPv4 address.
fn v6_octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 as printed: one 16-bit word at a time.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_section_3_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add_bytes(&bytes).folded(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_section_4_updates_to_zero() {
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn all_ones_do_not_overflow_over_a_jumbo_packet() {
        let bytes = vec![0xff; 65_535];
        assert_eq!(Sum::new().add_bytes(&bytes).folded(), slow(&bytes));
    }

    proptest! {
        #[test]
        fn wide_words_sum_as_narrow_ones(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Sum::new().add_bytes(&bytes).folded(), slow(&bytes));
        }

        #[test]
        fn pieces_of_even_length_sum_as_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cut in 0usize..200,
        ) {
            let cut = (cut * 2).min(bytes.len() & !1);
            let (a, b) = bytes.split_at(cut);
            prop_assert_eq!(
                Sum::new().add_bytes(a).add_bytes(b).folded(),
                Sum::new().add_bytes(&bytes).folded()
            );
        }

        #[test]
        fn an_update_leaves_what_a_full_sum_would(
            mut bytes in prop::collection::vec(any::<u8>(), 2..200),
            at in 0usize..100,
            new in any::<u16>(),
        ) {
            let at = (at * 2).min((bytes.len() - 2) & !1);
            let before = Sum::new().add_bytes(&bytes).checksum();
            let old = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            bytes[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let full = Sum::new().add_bytes(&bytes).folded();
            let updated = !update(before, old, new);
            // Plus and minus zero are the same number.
            prop_assert_eq!(full % 0xffff, updated % 0xffff);
        }
    }
}
