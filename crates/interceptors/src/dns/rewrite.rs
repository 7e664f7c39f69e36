//! New answers, and answers changed in place.

use core::net::IpAddr;
use core::ops::Range;
use std::collections::BTreeMap;

use super::ask::DnsEdit;
use super::message::{Found, Message, flag, kind, read_u16, skip_name};

/// What our OPT record says that we take (RFC 9715 §3.1: avoids fragments).
const UDP_SIZE: u16 = 1232;
/// Codes of Extended DNS Errors (RFC 8914 §4.1, §4.5, §4.16).
const OTHER: u16 = 0;
const FORGED: u16 = 4;
const BLOCKED: u16 = 15;
/// The code of that option (RFC 8914 §2).
const EXTENDED_ERROR: u16 = 15;
/// The parameter with the keys of Encrypted ClientHello (RFC 9848 §3).
const ECH: u16 = 5;
/// The parameter that lists those which a client must understand (RFC 9460 §8).
const MANDATORY: u16 = 0;
/// For private use (RFC 9460 §14.3.2): nobody reads it.
const PADDING: u16 = 65280;

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// Only a code.
    Code(u16),
    /// These addresses, as far as they are of the type asked for.
    Addresses(Vec<IpAddr>, u32),
}

/// SERVFAIL (RFC 1035 §4.1.1): nobody meant to block.
pub(super) const SERVFAIL: u16 = 2;
/// NXDOMAIN.
pub(super) const NXDOMAIN: u16 = 3;
/// REFUSED.
pub(super) const REFUSED: u16 = 5;

/// An answer to a query with one question.
pub(super) fn reply(query: &Message<'_>, reply: &Reply) -> Option<Vec<u8>> {
    let question = query.question.as_ref()?;
    let kept = query.flags() & (0x7800 | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
    let (code, addresses, ttl) = match reply {
        Reply::Code(code) => (*code, &[][..], 0),
        Reply::Addresses(addresses, ttl) => (0, addresses.as_slice(), *ttl),
    };
    let addresses: Vec<_> = addresses
        .iter()
        .filter(|address| {
            question.kind
                == if address.is_ipv4() {
                    kind::A
                } else {
                    kind::AAAA
                }
        })
        .collect();
    let mut out = Vec::with_capacity(128);
    let mut put = |value: u16| out.extend_from_slice(&value.to_be_bytes());
    put(query.id());
    put(flag::RESPONSE | kept | flag::RECURSION_AVAILABLE | code & 0xf);
    put(1);
    put(u16::try_from(addresses.len()).ok()?);
    put(0);
    put(u16::from(query.opt().is_some()));
    out.extend_from_slice(query.bytes().get(question.range.clone())?);
    for address in addresses {
        // The name of the question, at byte 12.
        out.extend_from_slice(&[0xc0, 12]);
        out.extend_from_slice(&question.kind.to_be_bytes());
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&ttl.to_be_bytes());
        match address {
            IpAddr::V4(address) => {
                out.extend_from_slice(&[0, 4]);
                out.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out.extend_from_slice(&[0, 16]);
                out.extend_from_slice(&address.octets());
            }
        }
    }
    // RFC 6891 §6.1.1: a query with OPT is answered with OPT.
    if query.opt().is_some() {
        let reason = match reply {
            Reply::Code(SERVFAIL) => OTHER,
            Reply::Code(_) => BLOCKED,
            Reply::Addresses(..) => FORGED,
        };
        out.push(0);
        for value in [kind::OPT, UDP_SIZE, 0, 0, 6, EXTENDED_ERROR, 2, reason] {
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
    Some(out)
}

/// An answer with some of its records changed, each keeping its length; `None` if a change does not
/// fit its record.
pub(super) fn edit(answer: &Message<'_>, edits: &[DnsEdit]) -> Option<Vec<u8>> {
    let mut out = answer.bytes().to_vec();
    let records = answer.records.get(..answer.answers)?;
    for edit in edits {
        let found = records.get(edit.record)?;
        if let Some(ttl) = edit.ttl {
            let at = found.fixed_at + 4;
            out.get_mut(at..at + 4)?.copy_from_slice(&ttl.to_be_bytes());
        }
        let data = out.get_mut(found.data.clone())?;
        match edit.address {
            None => {}
            Some(IpAddr::V4(to)) if found.kind == kind::A && data.len() == 4 => {
                data.copy_from_slice(&to.octets());
            }
            Some(IpAddr::V6(to)) if found.kind == kind::AAAA && data.len() == 16 => {
                data.copy_from_slice(&to.octets());
            }
            Some(_) => return None,
        }
    }
    // Nobody has verified what stands there now (RFC 4035 §3.2.3).
    let flags = answer.flags() & !flag::AUTHENTIC;
    out.get_mut(2..4)?.copy_from_slice(&flags.to_be_bytes());
    Some(out)
}

/// What is to be changed in answers. All of it keeps every length, so that neither compression
/// pointers nor the size of a datagram change.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits {
    /// Addresses, and what is to stand in their place; both of one family.
    pub(super) addresses: BTreeMap<IpAddr, IpAddr>,
    /// The longest time to live.
    pub(super) max_ttl: Option<u32>,
    /// Whether the keys of Encrypted ClientHello go.
    pub(super) strip_ech: bool,
}

/// What was changed in an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) addresses: bool,
    pub(super) ttl: bool,
    pub(super) ech: bool,
}

impl Changes {
    pub(super) fn any(self) -> bool {
        self.addresses || self.ttl || self.ech
    }
}

impl Edits {
    pub(super) fn is_empty(&self) -> bool {
        self.addresses.is_empty() && self.max_ttl.is_none() && !self.strip_ech
    }

    /// Changes a copy of an answer; `None` if nothing is to be changed.
    pub(super) fn apply(&self, answer: &Message<'_>) -> Option<(Vec<u8>, Changes)> {
        if self.is_empty() {
            return None;
        }
        let mut out = answer.bytes().to_vec();
        let mut changes = Changes::default();
        for found in &answer.records {
            match found.kind {
                kind::OPT => continue,
                kind::A | kind::AAAA => {
                    changes.addresses |= self.replace_address(found, &mut out);
                }
                kind::SVCB | kind::HTTPS if self.strip_ech => {
                    changes.ech |= strip_ech(&mut out, &found.data).unwrap_or(false);
                }
                _ => {}
            }
            let at = found.fixed_at + 4;
            if let (Some(most), Some(slot)) = (self.max_ttl, out.get_mut(at..at + 4))
                && answer.ttl(found) > most
            {
                slot.copy_from_slice(&most.to_be_bytes());
                changes.ttl = true;
            }
        }
        if changes.addresses || changes.ech {
            // Nobody has verified what stands there now (RFC 4035 §3.2.3).
            let flags = answer.flags() & !flag::AUTHENTIC;
            out.get_mut(2..4)?.copy_from_slice(&flags.to_be_bytes());
        }
        changes.any().then_some((out, changes))
    }

    fn replace_address(&self, found: &Found, out: &mut [u8]) -> bool {
        let Some(data) = out.get_mut(found.data.clone()) else {
            return false;
        };
        let address = match (<[u8; 4]>::try_from(&*data), <[u8; 16]>::try_from(&*data)) {
            (Ok(v4), _) if found.kind == kind::A => IpAddr::from(v4),
            (_, Ok(v6)) if found.kind == kind::AAAA => IpAddr::from(v6),
            _ => return false,
        };
        match self.addresses.get(&address) {
            Some(IpAddr::V4(to)) if data.len() == 4 => data.copy_from_slice(&to.octets()),
            Some(IpAddr::V6(to)) if data.len() == 16 => data.copy_from_slice(&to.octets()),
            _ => return false,
        }
        true
    }
}

/// Takes the keys out of the data of an SVCB or HTTPS record (RFC 9460 §2.2). Padding in a
/// parameter that nobody reads takes their room. `None` for data that is no such record.
fn strip_ech(out: &mut [u8], range: &Range<usize>) -> Option<bool> {
    let data = out.get(range.clone())?;
    let start = skip_name(data, 2).ok()?;
    let mut kept = data.get(..start)?.to_vec();
    let mut rest = data.get(start..)?;
    let (mut removed, mut last) = (0, 0);
    while !rest.is_empty() {
        let (key, length) = (read_u16(rest, 0)?, usize::from(read_u16(rest, 2)?));
        let whole = rest.get(..4 + length)?;
        rest = rest.get(4 + length..)?;
        last = key;
        match key {
            ECH => removed += whole.len(),
            MANDATORY => {
                let keys: Vec<u8> = whole
                    .get(4..)?
                    .chunks(2)
                    .filter(|key| *key != ECH.to_be_bytes())
                    .flatten()
                    .copied()
                    .collect();
                // An empty list is not allowed (RFC 9460 §8).
                if keys.is_empty() {
                    removed += whole.len();
                } else {
                    removed += length - keys.len();
                    kept.extend_from_slice(&MANDATORY.to_be_bytes());
                    kept.extend_from_slice(&u16::try_from(keys.len()).ok()?.to_be_bytes());
                    kept.extend_from_slice(&keys);
                }
            }
            _ => kept.extend_from_slice(whole),
        }
    }
    if removed < 4 {
        return Some(false);
    }
    // Keys ascend (RFC 9460 §2.2): the padding comes last.
    let key = PADDING.max(last.checked_add(1)?);
    kept.extend_from_slice(&key.to_be_bytes());
    kept.extend_from_slice(&u16::try_from(removed - 4).ok()?.to_be_bytes());
    kept.resize(data.len(), 0);
    out.get_mut(range.clone())?.copy_from_slice(&kept);
    Some(true)
}
