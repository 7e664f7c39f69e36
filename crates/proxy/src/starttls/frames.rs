//! The protocols with binary messages: LDAP, PostgreSQL, MySQL.

use super::{Refusal, Step};
use crate::error::Side;

/// Whether a client's first bytes are an LDAP message (RFC 4511 §4.1.1): a SEQUENCE that begins with an
/// INTEGER. `None` while there are too few.
pub(super) fn is_ldap(bytes: &[u8]) -> Option<bool> {
    let (tag, rest) = bytes.split_first()?;
    if *tag != SEQUENCE {
        return Some(false);
    }
    let (length, rest) = rest.split_first()?;
    let more = match length {
        0..=0x7f => 0,
        0x81..=0x84 => usize::from(length & 0x7f),
        _ => return Some(false),
    };
    rest.get(more).map(|tag| *tag == INTEGER)
}

/// Whether a client's first bytes ask a PostgreSQL server for TLS, or for GSSAPI first. `None` while
/// there are too few.
pub(super) fn is_postgres(bytes: &[u8]) -> Option<bool> {
    if let Some(first) = bytes.first_chunk::<8>() {
        return Some([SSL_REQUEST, GSS_REQUEST].contains(first));
    }
    let may_be = SSL_REQUEST.starts_with(bytes) || GSS_REQUEST.starts_with(bytes);
    if may_be { None } else { Some(false) }
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const ENUMERATED: u8 = 0x0a;
/// `[APPLICATION 23]`, constructed (RFC 4511 §4.12).
const EXTENDED_REQUEST: u8 = 0x77;
/// `[APPLICATION 24]`, constructed.
const EXTENDED_RESPONSE: u8 = 0x78;
/// `requestName`, `[0]`.
const REQUEST_NAME: u8 = 0x80;
/// RFC 4511 §4.14.1.
const START_TLS: &[u8] = b"1.3.6.1.4.1.1466.20037";

/// How much of a message is kept to look at: a StartTLS request has 31 bytes, and of its answer the
/// first dozen decides.
const MAX_HEAD: usize = 64;

/// One direction of LDAP: finds where messages end and keeps their beginnings.
#[derive(Debug, Default)]
struct Ber {
    head: Vec<u8>,
    /// Bytes of the message that are still to come, once its length is known.
    left: Option<usize>,
}

enum Message<'m> {
    Part,
    /// The content of the message, as far as it was kept.
    Whole(&'m [u8]),
    NotLdap,
}

impl Ber {
    fn push(&mut self, byte: u8) -> Message<'_> {
        if self.left == Some(0) {
            *self = Self::default();
        }
        if let Some(left) = &mut self.left {
            *left -= 1;
            if self.head.len() < MAX_HEAD {
                self.head.push(byte);
            }
            return if *left == 0 {
                Message::Whole(&self.head)
            } else {
                Message::Part
            };
        }
        self.head.push(byte);
        let length = match self.head.as_slice() {
            [SEQUENCE] | [SEQUENCE, 0x81..=0x84] => return Message::Part,
            [SEQUENCE, short @ 0..=0x7f] => usize::from(*short),
            [SEQUENCE, count @ 0x81..=0x84, long @ ..] => {
                if long.len() < usize::from(count & 0x7f) {
                    return Message::Part;
                }
                long.iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return Message::NotLdap,
        };
        if length == 0 {
            return Message::NotLdap;
        }
        self.head.clear();
        self.left = Some(length);
        Message::Part
    }
}

/// Splits a BER element with a short length off the front: tag and content.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = bytes.split_first_chunk()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        // Servers like to write the length of an answer in a longer form.
        0x81..=0x84 => {
            let (long, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = long
                .iter()
                .fold(0, |length, byte| length << 8 | usize::from(*byte));
            (length, rest)
        }
        _ => return None,
    };
    // Only the beginning may be there.
    let (content, rest) = rest.split_at(length.min(rest.len()));
    Some((tag, content, rest))
}

/// LDAP (RFC 4511).
#[derive(Debug, Default)]
pub(super) struct Ldap {
    client: Ber,
    server: Ber,
    /// The message id of the request for TLS.
    asked: Option<Vec<u8>>,
}

impl Ldap {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match from {
            Side::Client if self.asked.is_some() => Step::Refuse(Refusal::ClientAhead),
            Side::Client => match self.client.push(byte) {
                Message::Part => Step::Forward,
                Message::NotLdap => Step::Clear,
                Message::Whole(message) => {
                    if let Some((INTEGER, id, operation)) = element(message)
                        && let Some((EXTENDED_REQUEST, request, _)) = element(operation)
                        && let Some((REQUEST_NAME, START_TLS, _)) = element(request)
                    {
                        self.asked = Some(id.to_vec());
                    }
                    Step::Forward
                }
            },
            Side::Server => match self.server.push(byte) {
                Message::Part => Step::Forward,
                Message::NotLdap => Step::Clear,
                Message::Whole(message) => {
                    let Some((INTEGER, id, operation)) = element(message) else {
                        return Step::Clear;
                    };
                    if self.asked.as_deref() != Some(id) {
                        return Step::Forward;
                    }
                    self.asked = None;
                    let agrees = element(operation)
                        .filter(|(tag, ..)| *tag == EXTENDED_RESPONSE)
                        .and_then(|(_, response, _)| element(response))
                        .is_some_and(|(tag, code, _)| tag == ENUMERATED && code == [0]);
                    if agrees { Step::Tls } else { Step::Forward }
                }
            },
        }
    }
}

/// Length 8, code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
/// Length 8, code 80877104.
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x30];

/// PostgreSQL before its start-up message.
#[derive(Debug, Default)]
pub(super) struct Postgres {
    client: Vec<u8>,
    /// A request was sent, and its answer has not come.
    asked: Option<[u8; 8]>,
}

impl Postgres {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match (from, self.asked) {
            (Side::Client, Some(_)) => Step::Refuse(Refusal::ClientAhead),
            (Side::Client, None) => {
                self.client.push(byte);
                match is_postgres(&self.client) {
                    None => Step::Forward,
                    Some(false) => Step::Clear,
                    Some(true) => {
                        self.asked = self.client.first_chunk().copied();
                        self.client.clear();
                        Step::Forward
                    }
                }
            }
            (Side::Server, Some(request)) => {
                self.asked = None;
                match byte {
                    b'S' if request == SSL_REQUEST => Step::Tls,
                    b'N' => Step::Forward,
                    // An error message, or GSSAPI encryption.
                    _ => Step::Clear,
                }
            }
            (Side::Server, None) => Step::Clear,
        }
    }
}

/// Most of a MySQL greeting; it has some 100 bytes.
const MAX_GREETING: usize = 512;
/// `CLIENT_SSL` in the capability flags.
const CLIENT_SSL: u16 = 0x0800;
/// The payload of an SSLRequest: flags, packet size, character set, 23 bytes of filler.
const SSL_REQUEST_LEN: u8 = 32;
const HEADER: usize = 4;

/// MySQL before its log-in.
#[derive(Debug, Default)]
pub(super) struct MySql {
    server: Vec<u8>,
    client: Vec<u8>,
    /// The greeting was whole, and offers TLS.
    is_greeted: bool,
}

impl MySql {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match from {
            // A server has nothing to say between its greeting and the client's answer.
            Side::Server if self.is_greeted => Step::Clear,
            Side::Server => {
                self.server.push(byte);
                let Some(length) = packet_length(&self.server) else {
                    return Step::Forward;
                };
                if length > MAX_GREETING {
                    return Step::Clear;
                }
                if self.server.len() < HEADER + length {
                    return Step::Forward;
                }
                self.is_greeted = true;
                if greeting_offers_tls(self.server.get(HEADER..).unwrap_or_default()) {
                    Step::Forward
                } else {
                    Step::Clear
                }
            }
            Side::Client => {
                self.client.push(byte);
                match self.client.as_slice() {
                    // Whoever answers before the greeting is whole does not speak MySQL.
                    _ if !self.is_greeted => Step::Clear,
                    [] | [_] | [_, _] | [_, _, _] => Step::Forward,
                    [SSL_REQUEST_LEN, 0, 0, 1, ssl @ ..] => match ssl {
                        [low, high, ..] if u16::from_le_bytes([*low, *high]) & CLIENT_SSL == 0 => {
                            Step::Clear
                        }
                        _ if ssl.len() < usize::from(SSL_REQUEST_LEN) => Step::Forward,
                        _ => Step::Tls,
                    },
                    _ => Step::Clear,
                }
            }
        }
    }
}

/// The length that a packet's header announces.
fn packet_length(packet: &[u8]) -> Option<usize> {
    let [low, middle, high, _sequence, ..] = packet else {
        return None;
    };
    Some(usize::from(*low) | usize::from(*middle) << 8 | usize::from(*high) << 16)
}

/// Protocol::HandshakeV10: version, server version up to NUL, thread id (4), salt (8), filler (1), the
/// lower half of the capability flags (2).
fn greeting_offers_tls(payload: &[u8]) -> bool {
    let Some((10, rest)) = payload.split_first() else {
        return false;
    };
    let Some(end) = rest.iter().position(|byte| *byte == 0) else {
        return false;
    };
    match rest.get(end + 1 + 4 + 8 + 1..) {
        Some([low, high, ..]) => u16::from_le_bytes([*low, *high]) & CLIENT_SSL != 0,
        _ => false,
    }
}
