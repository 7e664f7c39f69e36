//! Reads the OCSP answer that a server staples to its certificate (RFC 6960).

use aws_lc_rs::digest;
use rustls_pki_types::{SignatureVerificationAlgorithm, UnixTime};
use time::{Date, Month, PrimitiveDateTime, Time};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::seconds;

/// What an answer says about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    Revoked,
    /// Nothing that counts: out of date, about another certificate, or not signed by whoever may.
    Nothing(&'static str),
}

/// Who issued the certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Issuer<'a> {
    /// Its name, as a whole DER SEQUENCE.
    pub(crate) name: &'a [u8],
    /// Its SubjectPublicKeyInfo, without the outer SEQUENCE.
    pub(crate) spki: &'a [u8],
}

/// A clock may be wrong by so much, in seconds.
const SKEW: i64 = 300;
/// An answer without `nextUpdate` counts for so long, in seconds.
const LONGEST: i64 = 7 * 24 * 3600;

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
/// `id-pkix-ocsp-basic`, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// 1.3.14.3.2.26.
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// 2.16.840.1.101.3.4.2.1.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

/// What `response` says about the certificate with this serial number, at `now`.
pub(crate) fn judge(
    response: &[u8],
    serial: &[u8],
    issuer: Issuer<'_>,
    now: UnixTime,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Answer {
    parse(response, serial, issuer, seconds(now), algorithms)
        .unwrap_or(Answer::Nothing("it cannot be read"))
}

fn parse(
    response: &[u8],
    serial: &[u8],
    issuer: Issuer<'_>,
    now: i64,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> Option<Answer> {
    let mut outer = Der(Der(response).take(SEQUENCE)?);
    if outer.take(ENUMERATED)? != [0] {
        return Some(Answer::Nothing("the responder had none to give"));
    }
    let mut bytes = Der(Der(outer.take(0xa0)?).take(SEQUENCE)?);
    if bytes.take(OID)? != BASIC {
        return Some(Answer::Nothing("it is of an unknown kind"));
    }
    let mut basic = Der(Der(bytes.take(OCTET_STRING)?).take(SEQUENCE)?);
    let (_, tbs, tbs_whole) = basic.element()?;
    let algorithm = basic.take(SEQUENCE)?;
    let signature = bits(basic.take(BIT_STRING)?)?;
    let signed = Signed {
        message: tbs_whole,
        algorithm,
        signature,
    };
    let by_issuer = signed.is_by(issuer.spki, algorithms);
    if !by_issuer && !delegated(&mut basic, &signed, issuer, now, algorithms) {
        return Some(Answer::Nothing("nobody who may has signed it"));
    }
    // Version, responder, date; then the answers.
    let mut data = Der(tbs);
    data.optional(0xa0);
    let (_responder, ..) = data.element()?;
    data.take(GENERALIZED_TIME)?;
    let mut answers = Der(data.take(SEQUENCE)?);
    while !answers.0.is_empty() {
        let mut single = Der(answers.take(SEQUENCE)?);
        if !is_about(single.take(SEQUENCE)?, serial, issuer)? {
            continue;
        }
        let (status, ..) = single.element()?;
        let this_update = seconds_of(single.take(GENERALIZED_TIME)?)?;
        let next_update = match single.optional(0xa0) {
            Some(next) => seconds_of(Der(next).take(GENERALIZED_TIME)?)?,
            None => this_update.saturating_add(LONGEST),
        };
        return Some(match status {
            _ if this_update > now + SKEW => Answer::Nothing("it is from the future"),
            // What was revoked stays revoked.
            0xa1 => Answer::Revoked,
            _ if next_update < now - SKEW => Answer::Nothing("it is out of date"),
            0x80 => Answer::Good,
            _ => Answer::Nothing("the responder does not know the certificate"),
        });
    }
    Some(Answer::Nothing("it is about other certificates"))
}

struct Signed<'a> {
    message: &'a [u8],
    /// The AlgorithmIdentifier, without the outer SEQUENCE.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

impl Signed<'_> {
    fn is_by(&self, spki: &[u8], algorithms: &[&dyn SignatureVerificationAlgorithm]) -> bool {
        let mut spki = Der(spki);
        let (Some(key_algorithm), Some(key)) =
            (spki.take(SEQUENCE), spki.take(BIT_STRING).and_then(bits))
        else {
            return false;
        };
        algorithms
            .iter()
            .filter(|one| {
                one.public_key_alg_id().as_ref() == key_algorithm
                    && one.signature_alg_id().as_ref() == self.algorithm
            })
            .any(|one| {
                one.verify_signature(key, self.message, self.signature)
                    .is_ok()
            })
    }
}

/// Whether a responder signed that the issuer appointed (RFC 6960 §4.2.2.2).
fn delegated(
    basic: &mut Der<'_>,
    signed: &Signed<'_>,
    issuer: Issuer<'_>,
    now: i64,
    algorithms: &[&dyn SignatureVerificationAlgorithm],
) -> bool {
    let certificates = basic
        .optional(0xa0)
        .and_then(|list| Der(list).take(SEQUENCE));
    let mut certificates = Der(certificates.unwrap_or_default());
    // A responder sends its own certificate, and rarely another.
    for _ in 0..4 {
        let Some((SEQUENCE, content, whole)) = certificates.element() else {
            return false;
        };
        let Ok((_, certificate)) = X509Certificate::from_der(whole) else {
            continue;
        };
        let may_sign = certificate
            .extended_key_usage()
            .ok()
            .flatten()
            .is_some_and(|usage| usage.value.ocsp_signing);
        let validity = certificate.validity();
        let is_valid = validity.not_before.timestamp() <= now + SKEW
            && validity.not_after.timestamp() >= now - SKEW;
        let mut parts = Der(content);
        let appointed = (|| {
            let (_, _, message) = parts.element()?;
            let appointment = Signed {
                message,
                algorithm: parts.take(SEQUENCE)?,
                signature: bits(parts.take(BIT_STRING)?)?,
            };
            Some(appointment.is_by(issuer.spki, algorithms))
        })();
        let mut key = Der(certificate.public_key().raw);
        let is_signer = key
            .take(SEQUENCE)
            .is_some_and(|spki| signed.is_by(spki, algorithms));
        if may_sign
            && is_valid
            && certificate.issuer().as_raw() == issuer.name
            && appointed == Some(true)
            && is_signer
        {
            return true;
        }
    }
    false
}

/// Whether a CertID names the certificate.
fn is_about(id: &[u8], serial: &[u8], issuer: Issuer<'_>) -> Option<bool> {
    let mut id = Der(id);
    let algorithm = match Der(id.take(SEQUENCE)?).take(OID)? {
        SHA1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        SHA256 => &digest::SHA256,
        _ => return Some(false),
    };
    let (name, key) = (id.take(OCTET_STRING)?, id.take(OCTET_STRING)?);
    let number = id.take(INTEGER)?;
    let mut spki = Der(issuer.spki);
    spki.take(SEQUENCE)?;
    let issuer_key = bits(spki.take(BIT_STRING)?)?;
    Some(
        number == serial
            && digest::digest(algorithm, issuer.name).as_ref() == name
            && digest::digest(algorithm, issuer_key).as_ref() == key,
    )
}

/// The content of a BIT STRING of whole bytes.
fn bits(content: &[u8]) -> Option<&[u8]> {
    match content {
        [0, bytes @ ..] => Some(bytes),
        _ => None,
    }
}

/// `YYYYMMDDHHMMSSZ` (RFC 6960 §4.2.2.1, RFC 5280 §4.1.2.5.2), in seconds since 1970.
fn seconds_of(text: &[u8]) -> Option<i64> {
    let [digits @ .., b'Z'] = text else {
        return None;
    };
    let number = |from: usize, to: usize| {
        let text = std::str::from_utf8(digits.get(from..to)?).ok()?;
        text.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| text.parse::<u16>().ok())?
    };
    let byte = |at| u8::try_from(number(at, at + 2)?).ok();
    if digits.len() != 14 {
        return None;
    }
    let month = Month::try_from(byte(4)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, byte(6)?).ok()?;
    let time = Time::from_hms(byte(8)?, byte(10)?, byte(12)?).ok()?;
    Some(
        PrimitiveDateTime::new(date, time)
            .assume_utc()
            .unix_timestamp(),
    )
}

/// Reads DER elements one after another.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Der<'a>(pub(crate) &'a [u8]);

impl<'a> Der<'a> {
    /// Tag, content, and the whole of the next element.
    fn element(&mut self) -> Option<(u8, &'a [u8], &'a [u8])> {
        let whole = self.0;
        let (&[tag, first], rest) = whole.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x83 => {
                let (long, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let length = long
                    .iter()
                    .fold(0, |length, byte| length << 8 | usize::from(*byte));
                (length, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let size = whole.len() - rest.len();
        self.0 = rest;
        Some((tag, content, whole.get(..size)?))
    }

    /// The content of the next element, which must have this tag.
    pub(crate) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content, _) = self.element()?;
        (found == tag).then_some(content)
    }

    /// The same for one that may be absent.
    fn optional(&mut self, tag: u8) -> Option<&'a [u8]> {
        (self.0.first() == Some(&tag)).then(|| self.take(tag))?
    }
}

#[cfg(test)]
mod tests;
