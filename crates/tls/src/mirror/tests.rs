use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair, SanType};

use super::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;
const ALWAYS: (i64, i64) = (0, i64::MAX);
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn wanted(server_name: &str) -> Wanted<'_> {
    Wanted {
        server_name: Some(server_name),
        address: ADDRESS,
    }
}

fn certificate(edit: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.not_before = date(NOW - 10 * DAY).unwrap();
    params.not_after = date(NOW + 80 * DAY).unwrap();
    edit(&mut params);
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn validity(mirror: &Mirror, authority: (i64, i64)) -> Result<(i64, i64), MintError> {
    let params = mirror.params(
        NOW,
        MAX_LIFETIME * 2,
        authority,
        KeyType::EcdsaP256,
        [1; 16],
    )?;
    Ok((
        params.not_before.unix_timestamp(),
        params.not_after.unix_timestamp(),
    ))
}

#[test]
fn names_addresses_and_the_common_name_are_repeated() {
    let leaf = certificate(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "www.example.com");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Example Ltd");
        params.subject_alt_names = vec![
            dns("www.example.com"),
            dns("*.example.net"),
            SanType::IpAddress(ADDRESS),
            SanType::URI("urn:x".try_into().unwrap()),
        ];
    });
    let mirror = Mirror::of(&leaf, wanted("www.example.com")).unwrap();
    assert_eq!(mirror.common_name.as_deref(), Some("www.example.com"));
    let expected = [
        Name::Dns("www.example.com".into()),
        Name::Dns("*.example.net".into()),
        Name::Ip(ADDRESS),
    ];
    assert_eq!(mirror.names, expected);
}

#[test]
fn threat_41_a_name_that_was_asked_for_is_not_added_when_the_server_lacks_it() {
    let leaf = certificate(|params| params.subject_alt_names = vec![dns("other.example")]);
    let mirror = Mirror::of(&leaf, wanted("asked.example")).unwrap();
    assert_eq!(mirror.names, [Name::Dns("other.example".into())]);
}

#[test]
fn threat_49_ten_thousand_names_are_capped_and_the_one_asked_for_survives() {
    let leaf = certificate(|params| {
        params.subject_alt_names = (0..10_000)
            .map(|number| dns(&format!("host-{number}.example")))
            .collect();
    });
    assert!(leaf.len() > 150_000);
    let mirror = Mirror::of(&leaf, wanted("host-9999.example")).unwrap();
    assert_eq!(mirror.names.len(), MAX_NAMES);
    assert_eq!(
        mirror.names.first(),
        Some(&Name::Dns("host-9999.example".into()))
    );
    assert_eq!(
        mirror.names.get(1),
        Some(&Name::Dns("host-0.example".into()))
    );
}

#[test]
fn threat_49_names_that_could_be_read_in_two_ways_are_left_out() {
    let odd = [
        "",
        "a\0b.example",
        "*",
        "a.*.example",
        "x y.example",
        "b..example",
        &"l".repeat(64),
        "-\u{7f}",
    ];
    let leaf = certificate(|params| {
        params.subject_alt_names = odd
            .iter()
            .copied()
            .chain(["good.example"])
            .map(dns)
            .collect();
        params
            .distinguished_name
            .push(DnType::CommonName, "line\nbreak");
    });
    let mirror = Mirror::of(&leaf, wanted("good.example")).unwrap();
    assert_eq!(mirror.names, [Name::Dns("good.example".into())]);
    assert_eq!(mirror.common_name, None);
}

#[test]
fn threat_50_a_leaf_lives_inside_the_servers_and_the_authoritys_validity_and_199_days() {
    let leaf = certificate(|_| {});
    let mirror = Mirror::of(&leaf, wanted("x.example")).unwrap();
    assert_eq!(
        validity(&mirror, ALWAYS).unwrap(),
        (NOW - BACKDATE, NOW + 80 * DAY)
    );
    assert_eq!(
        validity(&mirror, (NOW - 5, NOW + DAY)).unwrap(),
        (NOW - 5, NOW + DAY)
    );

    let forever = certificate(|params| {
        params.not_before = date(0).unwrap();
        params.not_after = rcgen::date_time_ymd(9999, 12, 31);
    });
    let mirror = Mirror::of(&forever, wanted("x.example")).unwrap();
    let (from, to) = validity(&mirror, ALWAYS).unwrap();
    assert_eq!(to + 1 - from, 199 * DAY);

    let fresh = certificate(|params| params.not_before = date(NOW - 7).unwrap());
    let mirror = Mirror::of(&fresh, wanted("x.example")).unwrap();
    assert_eq!(validity(&mirror, ALWAYS).unwrap().0, NOW - 7);
}

#[test]
fn a_server_certificate_out_of_its_time_is_not_mirrored() {
    let mirror = Mirror::of(&certificate(|_| {}), wanted("x.example")).unwrap();
    for (not_before, not_after) in [
        (NOW - 2 * DAY, NOW - 1),
        (NOW + 1, NOW + DAY),
        (i64::MIN, i64::MIN),
    ] {
        let mirror = Mirror {
            not_before,
            not_after,
            ..mirror.clone()
        };
        assert!(matches!(
            validity(&mirror, ALWAYS),
            Err(MintError::NotValidNow)
        ));
    }
}

#[test]
fn rubbish_is_no_certificate() {
    assert!(matches!(
        Mirror::of(b"", wanted("x")),
        Err(MintError::UnreadableLeaf)
    ));
    assert!(matches!(
        Mirror::of(b"\x30\x03\x02\x01\x01", wanted("x")),
        Err(MintError::UnreadableLeaf)
    ));
}

proptest! {
    #[test]
    fn threat_49_a_damaged_certificate_never_causes_a_panic(
        flips in proptest::collection::vec((0usize..700, any::<u8>()), 1..6),
    ) {
        use std::sync::LazyLock;
        static LEAF: LazyLock<Vec<u8>> = LazyLock::new(|| certificate(|params| {
            params.subject_alt_names = vec![dns("a.example"), SanType::IpAddress(ADDRESS)];
            params.distinguished_name.push(DnType::CommonName, "a.example");
        }));
        let mut leaf = LEAF.clone();
        for (at, value) in flips {
            let at = at % leaf.len();
            leaf[at] = value;
        }
        if let Ok(mirror) = Mirror::of(&leaf, wanted("a.example")) {
            let _ = mirror.params(NOW, MAX_LIFETIME, ALWAYS, KeyType::EcdsaP256, [1; 16]);
        }
    }
}
