//! UDP (RFC 768).

use core::net::IpAddr;

use crate::checksum::Sum;
use crate::ip::{Family, Protocol};

/// The length of a UDP header in bytes.
pub const HEADER_LEN: usize = 8;

/// Why bytes are not a UDP datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Fewer bytes than the header or its length field says.
    Truncated,
    /// The length field is below 8.
    BadLength,
}

impl Malformed {
    /// Every variant, for registering counters.
    pub const ALL: [Self; 2] = [Self::Truncated, Self::BadLength];

    /// A label for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Truncated => "udp_truncated",
            Self::BadLength => "udp_bad_length",
        }
    }
}

/// A checked view of a UDP datagram.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The datagram as long as its length field says.
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Checks the lengths of an IP packet's payload. Bytes behind the length field's end are cut off.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(Malformed::Truncated)?;
        let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if len < HEADER_LEN {
            return Err(Malformed::BadLength);
        }
        let bytes = bytes.get(..len).ok_or(Malformed::Truncated)?;
        let payload = bytes.get(HEADER_LEN..).ok_or(Malformed::BadLength)?;
        Ok(Self {
            bytes,
            header,
            payload,
        })
    }

    /// The source port.
    pub fn src_port(&self) -> u16 {
        u16::from_be_bytes([self.header[0], self.header[1]])
    }

    /// The destination port.
    pub fn dst_port(&self) -> u16 {
        u16::from_be_bytes([self.header[2], self.header[3]])
    }

    /// The checksum field; 0 says that the sender made none.
    pub fn checksum(&self) -> u16 {
        u16::from_be_bytes([self.header[6], self.header[7]])
    }

    /// The payload.
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Whether the checksum is right for these addresses. None at all is right in IPv4 only
    /// (RFC 8200 §8.1).
    pub fn verify_checksum(&self, src: IpAddr, dst: IpAddr) -> bool {
        if self.checksum() == 0 {
            return Family::of(src) == Family::V4;
        }
        Sum::pseudo_header(src, dst, Protocol::UDP, self.bytes.len())
            .add_bytes(self.bytes)
            .folded()
            == 0xffff
    }

    /// The meaning of the header.
    pub fn repr(&self) -> Repr {
        Repr {
            src_port: self.src_port(),
            dst_port: self.dst_port(),
        }
    }
}

/// The meaning of a UDP header; the payload travels beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repr {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

impl Repr {
    /// How many bytes the header takes.
    pub const fn header_len(&self) -> usize {
        HEADER_LEN
    }

    /// Writes the header for a datagram that fills `datagram` whole, its payload already in place,
    /// checksum included.
    ///
    /// A buffer shorter than [`HEADER_LEN`] is a bug of the caller; nothing is written then.
    pub fn emit(&self, datagram: &mut [u8], src: IpAddr, dst: IpAddr) {
        debug_assert!(
            datagram.len() >= HEADER_LEN,
            "buffer shorter than the UDP header"
        );
        let len = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
        let Some(header) = datagram.first_chunk_mut::<HEADER_LEN>() else {
            return;
        };
        let [s0, s1] = self.src_port.to_be_bytes();
        let [d0, d1] = self.dst_port.to_be_bytes();
        let [l0, l1] = len.to_be_bytes();
        *header = [s0, s1, d0, d1, l0, l1, 0, 0];
        fill_checksum(datagram, src, dst);
    }
}

/// Sets the checksum of a whole datagram: header and payload.
pub fn fill_checksum(datagram: &mut [u8], src: IpAddr, dst: IpAddr) {
    if let Some([c0, c1]) = datagram.get_mut(6..8) {
        (*c0, *c1) = (0, 0);
    }
    let sum = Sum::pseudo_header(src, dst, Protocol::UDP, datagram.len()).add_bytes(datagram);
    // RFC 768: a checksum that computes to zero is sent as all ones, since zero means none.
    let checksum = match sum.checksum() {
        0 => 0xffff,
        checksum => checksum,
    };
    if let Some(field) = datagram.get_mut(6..8) {
        field.copy_from_slice(&checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
