//! What the fuzz targets in `fuzz/` run, and what the replay of their committed corpora runs in
//! the ordinary tests.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use rustls::crypto::aws_lc_rs;
use rustls_pki_types::{
    AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm, UnixTime, alg_id,
};

use crate::hello::{self, Parsed, Transport};
use crate::leaf_key::KeyType;
use crate::mirror::{MAX_LIFETIME, MAX_NAMES, Mirror, WHOLE, Wanted};
use crate::ocsp::{self, Answer, Issuer};
use crate::offer::Offer;
use crate::quic::{self, Initial};

/// A client's first bytes.
pub fn client_hello(bytes: &[u8]) {
    let whole = hello::parse(bytes);
    // A verdict on a prefix is final; steps keep large inputs quick.
    let step = bytes.len() / 16 + 1;
    for length in (0..bytes.len()).step_by(step) {
        let early = hello::parse(bytes.get(..length).unwrap_or_default());
        assert!(early == Parsed::NeedMore || early == whole);
    }
    let Parsed::Hello(hello) = whole else {
        return;
    };
    assert!(hello.server_name.is_none() || hello.server_name_fault.is_none());
    assert_eq!(hello.ja4(Transport::Tcp).len(), 36);
    for version in [hello::TLS12, hello::TLS13] {
        black_box(KeyType::for_client(&hello, version));
    }
    if let Ok(offer) = Offer::of(&hello) {
        for version in &offer.versions {
            assert!(hello.offers_version(version.version.into()));
        }
        for suite in &offer.provider.cipher_suites {
            assert!(hello.cipher_suites.contains(&suite.suite().into()));
        }
    }
}

/// A UDP client's first datagrams: each begins with two bytes that say how long it is.
pub fn quic_initial(bytes: &[u8]) {
    let mut datagrams = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (datagram, next) =
            after.split_at(usize::from(u16::from_be_bytes(*length)).min(after.len()));
        datagrams.push(datagram);
        rest = next;
    }
    let whole = quic::parse(datagrams.iter().copied());
    for count in 0..datagrams.len() {
        let early = quic::parse(datagrams.iter().copied().take(count));
        assert!(early == Initial::NeedMore || early == whole);
    }
    if let Initial::Hello(hello) = whole {
        assert_eq!(hello.ja4(Transport::Quic).len(), 36);
    }
}

/// What a server staples to its certificate. Each input is judged as it is, and once more with every
/// signature taken for right, so that a fuzzer gets behind it.
pub fn ocsp_answer(bytes: &[u8]) {
    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let issuer = Issuer {
        name: OCSP_ISSUER,
        spki: &[P256_ALGORITHM, &[0x03, 0x42, 0x00, 0x04], &P256_GENERATOR].concat(),
    };
    let judge = |algorithms| ocsp::judge(bytes, &[0x11, 0x22], issuer, NOW, algorithms);
    let real = judge(
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .all,
    );
    let behind = judge(&[&Gullible]);
    assert!(real == behind || matches!(real, Answer::Nothing(_)));
}

/// `CN=a`, the issuer in the seeds.
const OCSP_ISSUER: &[u8] = &[
    0x30, 0x0c, 0x31, 0x0a, 0x30, 0x08, 0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x01, 0x61,
];
/// AlgorithmIdentifier of P-256 (RFC 5480 §2.1.1).
const P256_ALGORITHM: &[u8] = &[
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48,
    0xce, 0x3d, 0x03, 0x01, 0x07,
];
/// The point G of P-256 (FIPS 186-4 D.1.2.3), so the private key is 1: whoever makes seeds can sign.
const P256_GENERATOR: [u8; 64] = [
    0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
    0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
    0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// ECDSA on P-256 with SHA-256 that believes every signature.
#[derive(Debug)]
struct Gullible;

impl SignatureVerificationAlgorithm for Gullible {
    fn verify_signature(&self, _: &[u8], _: &[u8], _: &[u8]) -> Result<(), InvalidSignature> {
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_P256
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ECDSA_SHA256
    }
}

/// A server's certificate, on its way into a minted one.
pub fn server_certificate(bytes: &[u8]) {
    const NOW: i64 = 1_800_000_000;
    let wanted = Wanted {
        server_name: Some("a.example"),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let Ok(mirror) = Mirror::of(bytes, wanted) else {
        return;
    };
    assert!(bytes.len() <= WHOLE || mirror.names.len() <= MAX_NAMES);
    let authority = (0, i64::MAX);
    if let Ok(params) = mirror.params(NOW, MAX_LIFETIME, authority, KeyType::EcdsaP256, [1; 16]) {
        let (from, to) = (
            params.not_before.unix_timestamp(),
            params.not_after.unix_timestamp(),
        );
        assert!(from >= mirror.not_before && to <= mirror.not_after && from <= NOW && NOW <= to);
        assert_eq!(params.subject_alt_names.len(), mirror.names.len());
    }
}
