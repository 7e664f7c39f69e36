//! A name server for the lab's names (RFC 1035), as small as a strict one can be.
//!
//! Every name under `lab.name` exists, and so do `sts.amazonaws.com` and `sts.REGION.amazonaws.com`.
//! A name's addresses follow from the name alone and lie in the networks of
//! [`crate::addresses::server_networks`]. Names whose first label is `v4only` or `v6only` have addresses
//! of that family only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The port of DNS.
pub const PORT: u16 = 53;

/// The longest answer: the longest question with two address records fits the 512 bytes that every
/// client takes (RFC 1035 §4.2.1).
const MAX_MESSAGE: usize = 512;
const HEADER_LEN: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;
/// How long answers may be kept, in seconds.
const TTL: u32 = 60;

/// Response codes (RFC 1035 §4.1.1).
const NO_ERROR: u8 = 0;
const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// A name's addresses; `None` if there is no such name.
#[must_use]
pub fn addresses(name: &str) -> Option<Vec<IpAddr>> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let in_lab = name == "lab.name" || name.ends_with(".lab.name");
    let is_sts = name.strip_prefix("sts.").is_some_and(|rest| {
        rest == "amazonaws.com"
            || rest
                .strip_suffix(".amazonaws.com")
                .is_some_and(|region| !region.is_empty() && !region.contains('.'))
    });
    if !in_lab && !is_sts {
        return None;
    }
    let hash = fnv1a(name.as_bytes());
    let [h0, h1, h2, h3, ..] = hash.to_le_bytes();
    // 198.18.0.0/24 is left to the lab's own servers, first and last addresses to nobody.
    let third = if h0 % 2 == 0 { h1.max(1) } else { h1 };
    let v4 = Ipv4Addr::new(
        198,
        18 + h0 % 2,
        third,
        1 + (u16::from_le_bytes([h2, h3]) % 254) as u8,
    );
    let network = u128::from(0xfd00_c612_0000_f10du64) << 64;
    let v6 = Ipv6Addr::from_bits(network | u128::from(hash));
    Some(match name.split('.').next() {
        Some("v4only") => vec![v4.into()],
        Some("v6only") => vec![v6.into()],
        _ => vec![v4.into(), v6.into()],
    })
}

/// Answers a query; `None` for what is no query at all.
#[must_use]
pub fn answer(query: &[u8]) -> Option<Vec<u8>> {
    let header: &[u8; HEADER_LEN] = query.first_chunk()?;
    // An answer must never be answered: two servers would do so for ever.
    if header[2] & 0x80 != 0 {
        return None;
    }
    let opcode = header[2] >> 3 & 0x0f;
    if opcode != 0 {
        return Some(reply(header, NOT_IMPLEMENTED, &[], &[]));
    }
    let questions = u16::from_be_bytes([header[4], header[5]]);
    let Some(question) = query
        .get(HEADER_LEN..)
        .filter(|_| questions == 1)
        .and_then(Question::parse)
    else {
        return Some(reply(header, FORMAT_ERROR, &[], &[]));
    };
    let Some(addresses) = addresses(&question.name).filter(|_| question.class == CLASS_IN) else {
        return Some(reply(header, NAME_ERROR, question.bytes, &[]));
    };
    let asked: Vec<IpAddr> = addresses
        .into_iter()
        .filter(|addr| match question.kind {
            TYPE_A => addr.is_ipv4(),
            TYPE_AAAA => addr.is_ipv6(),
            kind => kind == TYPE_ANY,
        })
        .collect();
    Some(reply(header, NO_ERROR, question.bytes, &asked))
}

/// A query for a name's addresses of one family, for clients without a resolver.
#[must_use]
pub fn query(id: u16, name: &str, v6: bool) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    // Recursion desired; one question.
    message.extend([0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let len = label.len().min(63);
        message.push(len as u8);
        message.extend(label.as_bytes().iter().take(len));
    }
    message.push(0);
    message.extend(if v6 { TYPE_AAAA } else { TYPE_A }.to_be_bytes());
    message.extend(CLASS_IN.to_be_bytes());
    message
}

/// The addresses in an answer of this server to [`query`]; `None` if it is none, or the name does not
/// exist.
#[must_use]
pub fn parse_answer(id: u16, message: &[u8]) -> Option<Vec<IpAddr>> {
    let header: &[u8; HEADER_LEN] = message.first_chunk()?;
    if header[..2] != id.to_be_bytes() || header[2] & 0x80 == 0 || header[3] & 0x0f != NO_ERROR {
        return None;
    }
    let question = Question::parse(message.get(HEADER_LEN..)?)?;
    let mut rest = message.get(HEADER_LEN + question.bytes.len()..)?;
    let mut found = Vec::new();
    for _ in 0..u16::from_be_bytes([header[6], header[7]]).min(16) {
        // A pointer to the question's name, type, class, TTL and data length.
        let (fixed, after) = rest.split_first_chunk::<12>()?;
        let (data, after) =
            after.split_at_checked(usize::from(u16::from_be_bytes([fixed[10], fixed[11]])))?;
        match u16::from_be_bytes([fixed[2], fixed[3]]) {
            TYPE_A => found.push(IpAddr::from(<[u8; 4]>::try_from(data).ok()?)),
            TYPE_AAAA => found.push(IpAddr::from(<[u8; 16]>::try_from(data).ok()?)),
            _ => {}
        }
        rest = after;
    }
    Some(found)
}

struct Question<'q> {
    /// Name, type and class as they stand in the message.
    bytes: &'q [u8],
    name: String,
    kind: u16,
    class: u16,
}

impl<'q> Question<'q> {
    /// Reads the one question; a question's name is never compressed.
    fn parse(bytes: &'q [u8]) -> Option<Self> {
        let mut name = String::new();
        let mut rest = bytes;
        loop {
            let (&len, after) = rest.split_first()?;
            if len > 63 {
                return None;
            }
            let (label, after) = after.split_at_checked(usize::from(len))?;
            rest = after;
            if len == 0 {
                break;
            }
            if !name.is_empty() {
                name.push('.');
            }
            // A dot inside a label would read as two labels.
            if label.contains(&b'.') {
                return None;
            }
            name.push_str(std::str::from_utf8(label).ok()?);
            if name.len() > 253 {
                return None;
            }
        }
        let ([t0, t1, c0, c1], rest) = rest.split_first_chunk::<4>()?;
        Some(Self {
            bytes: bytes.get(..bytes.len() - rest.len())?,
            name,
            kind: u16::from_be_bytes([*t0, *t1]),
            class: u16::from_be_bytes([*c0, *c1]),
        })
    }
}

fn reply(header: &[u8; HEADER_LEN], code: u8, question: &[u8], addresses: &[IpAddr]) -> Vec<u8> {
    let mut message = Vec::with_capacity(MAX_MESSAGE);
    message.extend([header[0], header[1]]);
    // An answer, authoritative, recursion desired as asked; recursion available, since stub resolvers
    // look for it.
    message.extend([0x84 | header[2] & 0x79, 0x80 | code]);
    message.extend([
        0,
        u8::from(!question.is_empty()),
        0,
        addresses.len() as u8,
        0,
        0,
        0,
        0,
    ]);
    message.extend(question);
    for addr in addresses {
        // RFC 1035 §4.1.4: the name is that of the question, 12 bytes into the message.
        message.extend([0xc0, HEADER_LEN as u8]);
        let (kind, data) = match addr {
            IpAddr::V4(v4) => (TYPE_A, v4.octets().to_vec()),
            IpAddr::V6(v6) => (TYPE_AAAA, v6.octets().to_vec()),
        };
        message.extend(kind.to_be_bytes());
        message.extend(CLASS_IN.to_be_bytes());
        message.extend(TTL.to_be_bytes());
        message.extend((data.len() as u16).to_be_bytes());
        message.extend(data);
    }
    message
}

/// FNV-1a with 64 bits (RFC 9923), and a final mix since short names differ in low bits only.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 32;
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addresses::server_networks;

    #[test]
    fn names_of_the_lab_have_an_address_of_each_family_in_its_networks() {
        for n in 0..2000 {
            for name in [
                format!("host{n}.lab.name"),
                format!("sts.region-{n}.amazonaws.com"),
            ] {
                let found = addresses(&name).unwrap();
                assert!(
                    matches!(found.as_slice(), [IpAddr::V4(_), IpAddr::V6(_)]),
                    "{name}"
                );
                for addr in found {
                    assert!(
                        server_networks()
                            .iter()
                            .any(|network| network.contains(&addr)),
                        "{addr}"
                    );
                    assert!(
                        !addr.to_string().starts_with("198.18.0."),
                        "{addr} is a server's own"
                    );
                }
            }
        }
        assert_eq!(addresses("Any.Lab.Name."), addresses("any.lab.name"));
    }

    #[test]
    fn other_names_do_not_exist() {
        for name in [
            "example.com",
            "name",
            "lab.name.com",
            "badlab.name",
            "amazonaws.com",
            "sts.a.b.amazonaws.com",
        ] {
            assert_eq!(addresses(name), None, "{name}");
            let answer = answer(&query(7, name, false)).unwrap();
            assert_eq!(answer[3] & 0x0f, NAME_ERROR);
            assert_eq!(parse_answer(7, &answer), None);
        }
    }

    #[test]
    fn a_query_is_answered_with_the_family_asked_for() {
        let [v4, v6] = addresses("any.lab.name").unwrap()[..] else {
            panic!("two addresses")
        };
        let ask = |v6| parse_answer(9, &answer(&query(9, "any.lab.name", v6)).unwrap()).unwrap();
        assert_eq!(ask(false), [v4]);
        assert_eq!(ask(true), [v6]);
        let no_v6 = answer(&query(9, "v4only.lab.name", true)).unwrap();
        assert_eq!(
            parse_answer(9, &no_v6),
            Some(vec![]),
            "the name exists without such a record"
        );
    }

    #[test]
    fn queries_that_are_none_get_an_error_or_silence() {
        let good = query(1, "any.lab.name", false);
        let edit = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            answer(&bytes)
        };
        assert_eq!(answer(&good[..11]), None);
        assert_eq!(edit(2, 0x81), None, "an answer is not answered");
        assert_eq!(edit(2, 0x10).unwrap()[3] & 0x0f, NOT_IMPLEMENTED);
        assert_eq!(edit(5, 2).unwrap()[3] & 0x0f, FORMAT_ERROR);
        assert_eq!(
            edit(12, 0xc0).unwrap()[3] & 0x0f,
            FORMAT_ERROR,
            "no compression in a question"
        );
        assert_eq!(
            answer(&good[..good.len() - 1]).unwrap()[3] & 0x0f,
            FORMAT_ERROR
        );
    }

    #[test]
    fn long_names_and_noise_stay_within_bounds() {
        let long = vec!["a".repeat(63); 5].join(".");
        assert_eq!(
            answer(&query(1, &long, false)).unwrap()[3] & 0x0f,
            FORMAT_ERROR
        );
        let longest = format!(
            "{}.{}.{}.{}.lab.name",
            "a".repeat(63),
            "b".repeat(63),
            "c".repeat(63),
            "d".repeat(52)
        );
        assert_eq!(longest.len(), 253);
        assert!(answer(&query(1, &longest, false)).unwrap().len() <= MAX_MESSAGE);
        let mut noise = vec![0; 600];
        for seed in 0..2000 {
            crate::origins::pattern::fill(seed, 0, &mut noise);
            noise[2] &= 0x07;
            noise[4..6].copy_from_slice(&[0, 1]);
            let _ = answer(&noise[..(seed % 600) as usize]);
            let _ = parse_answer(0, &noise);
        }
    }
}
