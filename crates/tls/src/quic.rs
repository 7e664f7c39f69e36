//! Reads a `ClientHello` out of the first datagrams of a QUIC client, without answering it.
//!
//! Initial packets are encrypted with keys that follow from the connection id that the client
//! chose (RFC 9001 §5.2, RFC 9369 §3.3), so whoever sees the first one can read them. Like
//! [`crate::hello`] this is a pure function of what was received so far; it never panics, and what
//! it looks at and keeps is bounded.

use core::ops::Range;

use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::{DirectionalKeys, Version};

use crate::hello::{self, ClientHello, MAX_BYTES, Parsed};

/// Datagrams looked at; a hello with post-quantum key shares takes two.
pub const MAX_DATAGRAMS: usize = 8;
/// Pieces of the hello kept: browsers cut it into a dozen or two, in random order.
const MAX_PIECES: usize = 256;
/// RFC 9000 §14.1: what a client's first datagrams are padded to.
const MIN_DATAGRAM: usize = 1200;
/// RFC 9000 §17.2.
const MAX_CONNECTION_ID: usize = 20;
const VERSION_1: u32 = 1;
/// RFC 9369 §3.1.
const VERSION_2: u32 = 0x6b33_43cf;

/// What a UDP client's first datagrams are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Initial {
    /// The first datagram is not the beginning of a QUIC connection.
    NotQuic,
    /// It is QUIC, and there is more of the hello to come.
    NeedMore,
    /// It is QUIC, of a version that is not known here or with a hello that cannot be read.
    Unreadable,
    /// A complete hello.
    Hello(ClientHello),
}

/// Looks at the UDP payloads that a client has sent so far, oldest first.
///
/// A verdict other than [`Initial::NeedMore`] stays the same with every further datagram.
#[must_use]
pub fn parse<'a>(datagrams: impl IntoIterator<Item = &'a [u8]>) -> Initial {
    let mut datagrams = datagrams.into_iter();
    let Some(first) = datagrams.next() else {
        return Initial::NeedMore;
    };
    let Some(packet) = LongHeader::parse(first) else {
        return Initial::NotQuic;
    };
    let version = match packet.version {
        VERSION_1 => Version::V1,
        VERSION_2 => Version::V2,
        // An unknown version, or one that is only meant to be refused (RFC 9000 §6.3).
        _ if first.len() >= MIN_DATAGRAM && packet.version != 0 => return Initial::Unreadable,
        _ => return Initial::NotQuic,
    };
    if !packet.is_initial() {
        return Initial::NotQuic;
    }
    let connection_id = first.get(packet.connection_id.clone()).unwrap_or_default();
    let Some(keys) = client_keys(connection_id, version) else {
        return Initial::Unreadable;
    };
    let mut hello = Pieces::default();
    for (count, datagram) in core::iter::once(first).chain(datagrams).enumerate() {
        if count == MAX_DATAGRAMS || read_datagram(datagram, &keys, &mut hello).is_err() {
            return Initial::Unreadable;
        }
        match hello::parse_message(&hello.joined()) {
            Parsed::Hello(hello) => return Initial::Hello(hello),
            Parsed::NeedMore => {}
            Parsed::NotTls | Parsed::Malformed(_) => return Initial::Unreadable,
        }
    }
    Initial::NeedMore
}

fn client_keys(connection_id: &[u8], version: Version) -> Option<DirectionalKeys> {
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?.quic_suite()?;
    Some(suite.keys(connection_id, Side::Server, version).remote)
}

/// Something that a server would end the connection for.
struct Broken;

/// Reads the Initial packets of a datagram. What is not one, or cannot be decrypted, is skipped as
/// servers do (RFC 9000 §12.2).
fn read_datagram(
    datagram: &[u8],
    keys: &DirectionalKeys,
    hello: &mut Pieces,
) -> Result<(), Broken> {
    let mut rest = datagram;
    while let Some(header) = LongHeader::parse(rest) {
        let Some(body) = header.body(rest) else {
            return Ok(());
        };
        let (packet, after) = rest.split_at(body.end.min(rest.len()));
        if header.is_initial()
            && let Some(payload) = decrypt(packet, body.start, keys)
        {
            read_frames(&payload, hello)?;
        }
        rest = after;
    }
    Ok(())
}

/// The part of a long header that all versions share (RFC 8999 §5.1), and its first byte.
#[derive(Debug)]
struct LongHeader {
    first: u8,
    version: u32,
    /// Where the destination connection id lies.
    connection_id: Range<usize>,
    /// Where the part begins that differs by version and type.
    rest_at: usize,
}

impl LongHeader {
    fn parse(packet: &[u8]) -> Option<Self> {
        let (&first, after) = packet.split_first()?;
        let version = u32::from_be_bytes(*after.first_chunk()?);
        // RFC 9000 §17.2: the form bit, and the bit that is fixed so that other protocols can be
        // told apart.
        if first & 0xc0 != 0xc0 {
            return None;
        }
        let mut at = 5;
        let connection_id = take_id(packet, &mut at)?;
        take_id(packet, &mut at)?;
        Some(Self {
            first,
            version,
            connection_id,
            rest_at: at,
        })
    }

    fn is_initial(&self) -> bool {
        // RFC 9000 §17.2.2, RFC 9369 §3.2.
        let kind = self.first >> 4 & 3;
        match self.version {
            VERSION_1 => kind == 0,
            VERSION_2 => kind == 1,
            _ => false,
        }
    }

    /// Where packet number and payload lie; `None` for packets without a length, which are the last
    /// of their datagram.
    fn body(&self, packet: &[u8]) -> Option<Range<usize>> {
        // A Retry has no length; clients send none.
        let kind = self.first >> 4 & 3;
        let retry = if self.version == VERSION_2 { 0 } else { 3 };
        if kind == retry || !matches!(self.version, VERSION_1 | VERSION_2) {
            return None;
        }
        let mut at = self.rest_at;
        if self.is_initial() {
            let token = take_number(packet, &mut at)?;
            at = at.checked_add(token)?;
        }
        let length = take_number(packet, &mut at)?;
        let end = at.checked_add(length)?;
        (end <= packet.len()).then_some(at..end)
    }
}

fn take_id(packet: &[u8], at: &mut usize) -> Option<Range<usize>> {
    let length = usize::from(*packet.get(*at)?);
    let start = *at + 1;
    *at = start + length;
    (length <= MAX_CONNECTION_ID && *at <= packet.len()).then_some(start..start + length)
}

/// A variable-length integer (RFC 9000 §16).
fn take_number(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let first = *bytes.get(*at)?;
    let length = 1 << (first >> 6);
    let mut value = u64::from(first & 0x3f);
    for byte in bytes.get(*at + 1..*at + length)? {
        value = value << 8 | u64::from(*byte);
    }
    *at += length;
    usize::try_from(value).ok()
}

/// Takes header and packet protection off (RFC 9001 §5.3, §5.4); `None` for what was not encrypted
/// with these keys.
fn decrypt(packet: &[u8], number_at: usize, keys: &DirectionalKeys) -> Option<Vec<u8>> {
    // RFC 9001 §5.4.2: the sample lies where it would if the packet number had four bytes.
    let sample_at = number_at + 4;
    let sample = packet.get(sample_at..sample_at + keys.header.sample_len())?;
    let mut first = *packet.first()?;
    let mut number = *packet.get(number_at..)?.first_chunk::<4>()?;
    keys.header
        .decrypt_in_place(sample, &mut first, &mut number)
        .ok()?;
    let number_len = usize::from(first & 3) + 1;
    let number = number.get(..number_len)?;
    let mut header = packet.get(..number_at)?.to_vec();
    *header.first_mut()? = first;
    header.extend_from_slice(number);
    // The first packets of a connection: the number is not cut yet (RFC 9000 §17.1).
    let number = number
        .iter()
        .fold(0, |value: u64, byte| value << 8 | u64::from(*byte));
    let mut payload = packet.get(number_at + number_len..)?.to_vec();
    let length = keys
        .packet
        .decrypt_in_place(number, &header, &mut payload)
        .ok()?
        .len();
    payload.truncate(length);
    Some(payload)
}

/// Reads the frames that an Initial packet may have (RFC 9000 §17.2.2).
fn read_frames(payload: &[u8], hello: &mut Pieces) -> Result<(), Broken> {
    let mut at = 0;
    let number = |at: &mut usize| take_number(payload, at).ok_or(Broken);
    while at < payload.len() {
        match number(&mut at)? {
            // PADDING, PING
            0 | 1 => {}
            // ACK, with and without ECN counts
            kind @ (2 | 3) => {
                number(&mut at)?;
                number(&mut at)?;
                let ranges = number(&mut at)?;
                number(&mut at)?;
                for _ in 0..ranges.min(payload.len()) * 2 + if kind == 3 { 3 } else { 0 } {
                    number(&mut at)?;
                }
            }
            // CRYPTO
            6 => {
                let offset = number(&mut at)?;
                let length = number(&mut at)?;
                let end = at.checked_add(length).ok_or(Broken)?;
                hello.add(offset, payload.get(at..end).ok_or(Broken)?)?;
                at = end;
            }
            // CONNECTION_CLOSE and what may not be there
            _ => return Err(Broken),
        }
    }
    Ok(())
}

/// Pieces of the handshake stream, in any order.
#[derive(Debug, Default)]
struct Pieces(Vec<(usize, Vec<u8>)>);

impl Pieces {
    fn add(&mut self, offset: usize, data: &[u8]) -> Result<(), Broken> {
        let end = offset.checked_add(data.len()).ok_or(Broken)?;
        if end > MAX_BYTES || self.0.len() == MAX_PIECES {
            return Err(Broken);
        }
        // A repetition must be the same: what is judged has to be what the server reads.
        let conflicts = |(start, kept): &(usize, Vec<u8>)| {
            let from = offset.max(*start);
            let to = end.min(start + kept.len());
            from < to && data.get(from - offset..to - offset) != kept.get(from - start..to - start)
        };
        if self.0.iter().any(conflicts) {
            return Err(Broken);
        }
        self.0.push((offset, data.to_vec()));
        self.0.sort_by_key(|(start, _)| *start);
        Ok(())
    }

    /// What there is without a hole, from the beginning on.
    fn joined(&self) -> Vec<u8> {
        let mut whole = Vec::new();
        for (start, data) in &self.0 {
            let Some(known) = whole.len().checked_sub(*start) else {
                break;
            };
            whole.extend_from_slice(data.get(known..).unwrap_or_default());
        }
        whole
    }
}

#[cfg(test)]
mod tests;
