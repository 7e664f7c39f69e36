use rcgen::{KeyPair, PublicKeyData, SigningKey};
use rustls::crypto::aws_lc_rs;

use super::*;
use crate::ocsp::Answer::{Good, Nothing, Revoked};

const NOW: u64 = 1_800_000_000;
const SERIAL: &[u8] = &[0x11, 0x22];

fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(content);
    out
}

fn at(seconds: i64) -> Vec<u8> {
    let moment = time::OffsetDateTime::from_unix_timestamp(NOW as i64 + seconds).unwrap();
    let text = format!(
        "{:04}{:02}{:02}{:02}{:02}{:02}Z",
        moment.year(),
        u8::from(moment.month()),
        moment.day(),
        moment.hour(),
        moment.minute(),
        moment.second()
    );
    der(GENERALIZED_TIME, &[text.as_bytes()])
}

struct World {
    key: KeyPair,
    name: Vec<u8>,
    spki: Vec<u8>,
}

impl World {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let spki = Der(&key.subject_public_key_info())
            .take(SEQUENCE)
            .unwrap()
            .to_vec();
        Self {
            key,
            name: der(SEQUENCE, &[b"anything"]),
            spki,
        }
    }

    fn response(
        &self,
        signer: &KeyPair,
        serial: &[u8],
        status: &[u8],
        this: i64,
        next: Option<i64>,
    ) -> Vec<u8> {
        let mut spki = Der(&self.spki);
        spki.take(SEQUENCE).unwrap();
        let key = bits(spki.take(BIT_STRING).unwrap()).unwrap();
        let sha1 = |bytes| digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
        let id = der(
            SEQUENCE,
            &[
                &der(SEQUENCE, &[&der(OID, &[SHA1]), &der(5, &[])]),
                &der(OCTET_STRING, &[sha1(&self.name).as_ref()]),
                &der(OCTET_STRING, &[sha1(key).as_ref()]),
                &der(INTEGER, &[serial]),
            ],
        );
        let next = next.map(|next| der(0xa0, &[&at(next)])).unwrap_or_default();
        let single = der(SEQUENCE, &[&id, status, &at(this), &next]);
        let responder = der(0xa2, &[&der(OCTET_STRING, &[&[7; 20]])]);
        let tbs = der(
            SEQUENCE,
            &[&responder, &at(this), &der(SEQUENCE, &[&single])],
        );
        let signature = signer.sign(&tbs).unwrap();
        // ecdsa-with-SHA256, 1.2.840.10045.4.3.2.
        let algorithm = der(
            SEQUENCE,
            &[&der(OID, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2]])],
        );
        let basic = der(
            SEQUENCE,
            &[&tbs, &algorithm, &der(BIT_STRING, &[&[0], &signature])],
        );
        let bytes = der(
            SEQUENCE,
            &[&der(OID, &[BASIC]), &der(OCTET_STRING, &[&basic])],
        );
        der(
            SEQUENCE,
            &[&der(ENUMERATED, &[&[0]]), &der(0xa0, &[&bytes])],
        )
    }

    fn judge(&self, response: &[u8]) -> Answer {
        let issuer = Issuer {
            name: &self.name,
            spki: &self.spki,
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW));
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        judge(response, SERIAL, issuer, now, algorithms.all)
    }
}

fn good() -> Vec<u8> {
    der(0x80, &[])
}

fn revoked() -> Vec<u8> {
    der(0xa1, &[&at(-5000)])
}

#[test]
fn answers_count_if_they_are_signed_in_time_and_about_the_certificate() {
    let world = World::new();
    let stranger = KeyPair::generate().unwrap();
    let day = 24 * 3600;
    let cases = [
        (
            "good",
            world.response(&world.key, SERIAL, &good(), -day, Some(day)),
            Good,
        ),
        (
            "revoked",
            world.response(&world.key, SERIAL, &revoked(), -day, Some(day)),
            Revoked,
        ),
        (
            "revoked long ago",
            world.response(&world.key, SERIAL, &revoked(), -90 * day, Some(-80 * day)),
            Revoked,
        ),
        (
            "no end",
            world.response(&world.key, SERIAL, &good(), -day, None),
            Good,
        ),
    ];
    for (what, response, expected) in cases {
        assert_eq!(world.judge(&response), expected, "{what}");
        for length in 0..response.len() {
            assert!(
                matches!(world.judge(&response[..length]), Nothing(_)),
                "{what} {length}"
            );
        }
        for at in 0..response.len() {
            let mut bent = response.clone();
            bent[at] ^= 0x01;
            let answer = world.judge(&bent);
            assert!(
                answer == expected || matches!(answer, Nothing(_)),
                "{what}: byte {at}"
            );
        }
    }
    for (what, response) in [
        (
            "out of date",
            world.response(&world.key, SERIAL, &good(), -9 * day, Some(-day)),
        ),
        (
            "too old without an end",
            world.response(&world.key, SERIAL, &good(), -9 * day, None),
        ),
        (
            "from the future",
            world.response(&world.key, SERIAL, &good(), day, Some(2 * day)),
        ),
        (
            "of a stranger",
            world.response(&stranger, SERIAL, &revoked(), -day, Some(day)),
        ),
        (
            "about another",
            world.response(&world.key, &[0x33], &revoked(), -day, Some(day)),
        ),
        (
            "unknown",
            world.response(&world.key, SERIAL, &der(0x82, &[]), -day, Some(day)),
        ),
        ("try later", der(SEQUENCE, &[&der(ENUMERATED, &[&[3]])])),
        ("empty", Vec::new()),
    ] {
        let answer = world.judge(&response);
        assert!(matches!(answer, Nothing(_)), "{what}: {answer:?}");
    }
}
