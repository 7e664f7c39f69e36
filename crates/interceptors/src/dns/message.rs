//! A DNS message (RFC 1035 §4) as it lies in its packet: where things are, without a copy.
//!
//! Only what decisions need is read, and nothing is refused that a server might still understand:
//! reserved bits, unknown classes and types, odd counts in sections that are not looked at. A
//! stricter reader here would let a client say one thing to us and another to its server.

use core::fmt::Write as _;
use core::ops::Range;

/// Records read in one message; answers of real servers have a few dozen at most.
const MAX_RECORDS: usize = 512;
/// Compression pointers followed in one name (RFC 1035 §4.1.4 sets no limit).
const MAX_POINTERS: usize = 32;
/// RFC 1035 §2.3.4.
const MAX_NAME: usize = 255;
const HEADER: usize = 12;

/// Numbers of types (IANA, "Resource Record (RR) TYPEs").
pub(super) mod kind {
    pub(in super::super) const A: u16 = 1;
    pub(in super::super) const NS: u16 = 2;
    pub(in super::super) const CNAME: u16 = 5;
    pub(in super::super) const PTR: u16 = 12;
    pub(in super::super) const MX: u16 = 15;
    pub(in super::super) const AAAA: u16 = 28;
    pub(in super::super) const SRV: u16 = 33;
    pub(in super::super) const OPT: u16 = 41;
    pub(in super::super) const SVCB: u16 = 64;
    pub(in super::super) const HTTPS: u16 = 65;
}

/// Types with the names that people write.
const KINDS: [(&str, u16); 22] = [
    ("A", kind::A),
    ("AAAA", kind::AAAA),
    ("ANY", 255),
    ("AXFR", 252),
    ("CAA", 257),
    ("CNAME", kind::CNAME),
    ("DNSKEY", 48),
    ("DS", 43),
    ("HINFO", 13),
    ("HTTPS", kind::HTTPS),
    ("IXFR", 251),
    ("MX", kind::MX),
    ("NAPTR", 35),
    ("NS", kind::NS),
    ("NSEC", 47),
    ("PTR", kind::PTR),
    ("RRSIG", 46),
    ("SOA", 6),
    ("SRV", kind::SRV),
    ("SVCB", kind::SVCB),
    ("TLSA", 52),
    ("TXT", 16),
];

/// The number of a type by its name, or as `TYPE123` (RFC 3597 §5).
pub(super) fn kind_of(text: &str) -> Option<u16> {
    let text = text.to_ascii_uppercase();
    let known = KINDS.iter().find(|(name, _)| *name == text);
    known
        .map(|(_, kind)| *kind)
        .or_else(|| text.strip_prefix("TYPE")?.parse().ok())
}

/// The name of a type.
pub(super) fn kind_name(kind: u16) -> String {
    let known = KINDS.iter().find(|(_, number)| *number == kind);
    known.map_or_else(|| format!("TYPE{kind}"), |(name, _)| (*name).to_owned())
}

/// Response codes (RFC 6895 §2.3), the number being the place.
const RCODES: [&str; 11] = [
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE",
];

/// The number of a response code by its name.
pub(super) fn rcode_of(name: &str) -> Option<u16> {
    let at = RCODES.iter().position(|known| *known == name)?;
    u16::try_from(at).ok()
}

/// The name of a response code.
pub(super) fn rcode_name(code: u16) -> String {
    let known = RCODES.get(usize::from(code));
    known.map_or_else(|| format!("RCODE{code}"), |name| (*name).to_owned())
}

/// A message whose parts have been found.
#[derive(Debug)]
pub(super) struct Message<'a> {
    bytes: &'a [u8],
    /// The first question, which is the only one in practice (RFC 9619).
    pub(super) question: Option<Question>,
    pub(super) questions: u16,
    /// The records of all sections but the question, in order.
    pub(super) records: Vec<Found>,
    /// How many of them are answers.
    pub(super) answers: usize,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// As [`Message::name`] writes it.
    pub(super) name: String,
    pub(super) kind: u16,
    /// Where it lies.
    pub(super) range: Range<usize>,
}

/// A resource record that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) kind: u16,
    /// Where its type lies: class, time to live and length follow.
    pub(super) fixed_at: usize,
    /// Where its data lies.
    pub(super) data: Range<usize>,
}

/// The bytes are no DNS message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'a> Message<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let count = |at| read_u16(bytes, at).ok_or(Malformed);
        let questions = count(4)?;
        let (answers, others) = (
            usize::from(count(6)?),
            usize::from(count(8)?) + usize::from(count(10)?),
        );
        if answers + others > MAX_RECORDS {
            return Err(Malformed);
        }
        let mut at = HEADER;
        let mut question = None;
        for _ in 0..questions {
            let start = at;
            let name_end = skip_name(bytes, at)?;
            let kind = count(name_end)?;
            count(name_end + 2)?;
            at = name_end + 4;
            if question.is_none() {
                question = Some(Question {
                    name: name_at(bytes, start)?.0,
                    kind,
                    range: start..at,
                });
            }
        }
        let mut records = Vec::with_capacity(answers + others);
        for _ in 0..answers + others {
            let fixed_at = skip_name(bytes, at)?;
            let kind = count(fixed_at)?;
            let start = fixed_at + 10;
            let data = start..start + usize::from(count(fixed_at + 8)?);
            at = data.end;
            bytes.get(data.clone()).ok_or(Malformed)?;
            records.push(Found {
                kind,
                fixed_at,
                data,
            });
        }
        Ok(Self {
            bytes,
            question,
            questions,
            records,
            answers,
        })
    }

    pub(super) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(super) fn id(&self) -> u16 {
        read_u16(self.bytes, 0).unwrap_or_default()
    }

    /// The second pair of bytes: flags, opcode and response code.
    pub(super) fn flags(&self) -> u16 {
        read_u16(self.bytes, 2).unwrap_or_default()
    }

    pub(super) fn is_response(&self) -> bool {
        self.flags() & flag::RESPONSE != 0
    }

    pub(super) fn is_truncated(&self) -> bool {
        self.flags() & flag::TRUNCATED != 0
    }

    /// 0 for a query; others ask for notifications, updates and the like.
    pub(super) fn opcode(&self) -> u16 {
        self.flags() >> 11 & 0xf
    }

    /// The response code, with the eight upper bits of the OPT record (RFC 6891 §6.1.3).
    pub(super) fn rcode(&self) -> u16 {
        let upper = self
            .opt()
            .and_then(|found| self.bytes.get(found.fixed_at + 4).copied());
        self.flags() & 0xf | u16::from(upper.unwrap_or_default()) << 4
    }

    /// The OPT record of EDNS (RFC 6891).
    pub(super) fn opt(&self) -> Option<&Found> {
        self.records.iter().find(|found| found.kind == kind::OPT)
    }

    /// The time to live of a record.
    pub(super) fn ttl(&self, found: &Found) -> u32 {
        let at = found.fixed_at + 4;
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }

    /// The data of a record.
    pub(super) fn data(&self, found: &Found) -> &'a [u8] {
        self.bytes.get(found.data.clone()).unwrap_or_default()
    }

    /// The name at a place, as text: without a last dot, and with what is no letter, digit, hyphen
    /// or underscore as `\DDD` (RFC 4343 §2.1).
    pub(super) fn name(&self, at: usize) -> Option<String> {
        name_at(self.bytes, at).ok().map(|(name, _)| name)
    }
}

/// Bits of the second pair of bytes (RFC 1035 §4.1.1, RFC 4035 §3.2).
pub(super) mod flag {
    pub(in super::super) const RESPONSE: u16 = 0x8000;
    pub(in super::super) const TRUNCATED: u16 = 0x0200;
    pub(in super::super) const RECURSION_DESIRED: u16 = 0x0100;
    pub(in super::super) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(in super::super) const AUTHENTIC: u16 = 0x0020;
    pub(in super::super) const CHECKING_DISABLED: u16 = 0x0010;
}

pub(super) fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*pair))
}

/// Where the name at a place ends, without following where it points to.
pub(super) fn skip_name(bytes: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        let length = *bytes.get(at).ok_or(Malformed)?;
        match length {
            0 => return Ok(at + 1),
            0xc0.. => return bytes.get(at + 1).map(|_| at + 2).ok_or(Malformed),
            1..=63 => at += 1 + usize::from(length),
            // RFC 6891 §5: the other label types are gone.
            64..=0xbf => return Err(Malformed),
        }
    }
}

/// The name at a place as text, and where it ends there.
fn name_at(bytes: &[u8], at: usize) -> Result<(String, usize), Malformed> {
    let end = skip_name(bytes, at)?;
    let (mut text, mut at, mut length, mut pointers) = (String::new(), at, 1, 0);
    loop {
        let first = *bytes.get(at).ok_or(Malformed)?;
        match first {
            0 => break,
            0xc0.. => {
                let target = usize::from(read_u16(bytes, at).ok_or(Malformed)? & 0x3fff);
                pointers += 1;
                if pointers > MAX_POINTERS {
                    return Err(Malformed);
                }
                at = target;
            }
            1..=63 => {
                let start = at + 1;
                at = start + usize::from(first);
                let label = bytes.get(start..at).ok_or(Malformed)?;
                length += 1 + label.len();
                if length > MAX_NAME {
                    return Err(Malformed);
                }
                if !text.is_empty() {
                    text.push('.');
                }
                push_label(&mut text, label);
            }
            64..=0xbf => return Err(Malformed),
        }
    }
    Ok((text, end))
}

fn push_label(text: &mut String, label: &[u8]) {
    for byte in label {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(char::from(*byte)),
            // A String takes everything.
            _ => {
                let _ = write!(text, "\\{byte:03}");
            }
        }
    }
}
