//! What the fuzz targets in `fuzz/` run, and what the replay of their committed corpora runs in
//! the ordinary tests.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use crate::hello::{self, Parsed, Transport};
use crate::leaf_key::KeyType;
use crate::mirror::{MAX_LIFETIME, MAX_NAMES, Mirror, WHOLE, Wanted};
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
