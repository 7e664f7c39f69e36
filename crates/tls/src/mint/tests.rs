use std::collections::HashSet;
use std::net::Ipv4Addr;

use futures_util::future::join_all;
use rcgen::{CertificateParams, KeyPair};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::UnixTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn server_leaf(names: &[&str]) -> CertificateDer<'static> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let params = CertificateParams::new(names).unwrap();
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .into()
}

fn mint(config: MintConfig) -> Mint {
    Mint::new(
        Arc::new(Issuing::direct(Arc::new(
            Authority::generate("test root").unwrap(),
        ))),
        config,
        Arc::new(DefaultTimeProvider),
    )
}

fn public_key(leaf: &Arc<CertifiedKey>) -> Vec<u8> {
    let (_, certificate) = X509Certificate::from_der(&leaf.cert[0]).unwrap();
    certificate.public_key().subject_public_key.data.to_vec()
}

async fn leaf(mint: &Mint, server_leaf: &CertificateDer<'_>, name: &str) -> Arc<CertifiedKey> {
    mint.leaf_for(server_leaf, Some(name), ADDRESS, KeyType::EcdsaP256)
        .await
        .unwrap()
}

#[tokio::test]
async fn threat_32_one_leaf_is_minted_for_many_requests_at_once() {
    let mint = mint(MintConfig::default());
    let server = server_leaf(&["a.example"]);
    // RSA: making its key takes long enough for all requests to be there.
    let requests =
        (0..100).map(|_| mint.leaf_for(&server, Some("a.example"), ADDRESS, KeyType::Rsa2048));
    let leaves = join_all(requests).await;
    assert_eq!(mint.minted(), 1);
    let first = leaves[0].as_ref().unwrap();
    assert!(
        leaves
            .iter()
            .all(|leaf| Arc::ptr_eq(leaf.as_ref().unwrap(), first))
    );
    let again = mint
        .leaf_for(&server, Some("a.example"), ADDRESS, KeyType::Rsa2048)
        .await
        .unwrap();
    assert!(Arc::ptr_eq(&again, first));
}

#[tokio::test]
async fn threat_32_a_flood_of_random_names_below_one_wildcard_mints_one_leaf() {
    let mint = mint(MintConfig::default());
    let server = server_leaf(&["*.example.com"]);
    for number in 0..50 {
        leaf(&mint, &server, &format!("random-{number}.example.com")).await;
    }
    assert_eq!(mint.minted(), 1);
}

#[tokio::test(start_paused = true)]
async fn threat_32_a_flood_of_different_servers_is_paced_and_known_ones_are_served_at_once() {
    let mint = mint(MintConfig {
        per_second: 10,
        ..MintConfig::default()
    });
    let known = server_leaf(&["known.example"]);
    leaf(&mint, &known, "known.example").await;
    let servers: Vec<_> = (0..40)
        .map(|number| server_leaf(&[&format!("{number}.example")]))
        .collect();
    let start = tokio::time::Instant::now();
    let flood = async {
        let requests = servers
            .iter()
            .map(|server| mint.leaf_for(server, None, ADDRESS, KeyType::EcdsaP256));
        join_all(requests).await
    };
    let beside = async {
        // Nine of the burst of ten are made, the rest waits.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!((mint.minted(), mint.queued()), (10, 31));
        leaf(&mint, &known, "known.example").await;
        start.elapsed()
    };
    let (leaves, known_took) = tokio::join!(flood, beside);
    assert!(leaves.iter().all(Result::is_ok));
    assert_eq!(known_took.as_millis(), 50, "a known leaf waits for nobody");
    // 41 leaves at 10 a second, the first 10 of them at once.
    let took = start.elapsed().as_millis();
    assert!((3_050..=3_200).contains(&took), "{took}");
}

#[tokio::test]
async fn threat_32_what_does_not_fit_into_the_queue_is_refused_at_once() {
    let mint = mint(MintConfig {
        concurrent: 1,
        waiting: 2,
        ..MintConfig::default()
    });
    let servers: Vec<_> = (0..10)
        .map(|number| server_leaf(&[&format!("{number}.example")]))
        .collect();
    let requests = servers
        .iter()
        .map(|server| mint.leaf_for(server, None, ADDRESS, KeyType::Rsa2048));
    let results = join_all(requests).await;
    let refused = results
        .iter()
        .filter(|result| matches!(result, Err(MintError::Overloaded)))
        .count();
    assert_eq!((refused, mint.minted()), (7, 3));
    assert_eq!((mint.overloaded(), mint.queued()), (7, 0));
    // The places are given back.
    mint.leaf_for(&servers[9], None, ADDRESS, KeyType::Rsa2048)
        .await
        .unwrap();
}

#[tokio::test]
async fn threat_32_the_cache_keeps_within_its_limit() {
    let mint = mint(MintConfig {
        cache_entries: 3,
        ..MintConfig::default()
    });
    for number in 0..20 {
        let name = format!("{number}.example");
        leaf(&mint, &server_leaf(&[&name]), &name).await;
    }
    mint.cache.run_pending_tasks().await;
    assert!(mint.cached() <= 3, "{}", mint.cached());
}

#[tokio::test]
async fn threat_48_a_leafs_key_is_its_own_and_never_the_authoritys() {
    let mint = mint(MintConfig::default());
    let mut keys = HashSet::new();
    keys.insert(mint.authority().public_key().to_vec());
    for number in 0..5 {
        let name = format!("{number}.example");
        assert!(keys.insert(public_key(
            &leaf(&mint, &server_leaf(&[&name]), &name).await
        )));
    }
    let rsa = mint
        .leaf_for(
            &server_leaf(&["r.example"]),
            None,
            ADDRESS,
            KeyType::Rsa2048,
        )
        .await
        .unwrap();
    assert!(keys.insert(public_key(&rsa)));
}

#[tokio::test]
async fn threat_48_leaves_are_signed_by_an_intermediate_of_days_that_may_sign_nothing_else() {
    let root = Arc::new(Authority::generate("test root").unwrap());
    let issuing = Issuing::intermediate(root, crate::IssuingConfig::default()).unwrap();
    issuing.renew(UnixTime::now()).unwrap();
    let mint = Mint::new(
        Arc::new(issuing),
        MintConfig::default(),
        Arc::new(DefaultTimeProvider),
    );
    let made = leaf(&mint, &server_leaf(&["a.example"]), "a.example").await;
    let [leaf, intermediate] = made.cert.as_slice() else {
        panic!("a leaf and an intermediate: {}", made.cert.len());
    };
    let (_, leaf) = X509Certificate::from_der(leaf).unwrap();
    let (_, intermediate) = X509Certificate::from_der(intermediate).unwrap();
    leaf.verify_signature(Some(intermediate.public_key()))
        .unwrap();
    assert!(!leaf.is_ca() && intermediate.is_ca());
    assert!(!leaf.key_usage().unwrap().unwrap().value.key_cert_sign());
    let limits = intermediate.basic_constraints().unwrap().unwrap().value;
    assert_eq!(limits.path_len_constraint, Some(0), "no CA below it");
    let purposes = intermediate.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && !purposes.client_auth && !purposes.code_signing);
    let life = intermediate.validity().not_after.timestamp()
        - intermediate.validity().not_before.timestamp();
    assert!(life <= 8 * 24 * 3600, "{life}");
    assert_ne!(
        intermediate.public_key().subject_public_key.data,
        mint.authority().public_key(),
        "the root's key signs no leaf"
    );
}

#[tokio::test]
async fn threat_50_a_promise_of_stapling_is_not_repeated() {
    // RFC 7633: a client would refuse a leaf with it, for which nobody can staple anything.
    const TLS_FEATURE: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 1, 24];
    let mut params = CertificateParams::new(["a.example".to_owned()]).unwrap();
    // SEQUENCE { INTEGER status_request }
    let status_request = vec![0x30, 3, 2, 1, 5];
    params
        .custom_extensions
        .push(rcgen::CustomExtension::from_oid_content(
            TLS_FEATURE,
            status_request,
        ));
    let server: CertificateDer<'static> = params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .into();
    let has_it = |der: &CertificateDer<'_>| {
        let (_, certificate) = X509Certificate::from_der(der).unwrap();
        certificate
            .extensions()
            .iter()
            .any(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.24")
    };
    assert!(has_it(&server));
    let made = leaf(&mint(MintConfig::default()), &server, "a.example").await;
    assert!(!has_it(&made.cert[0]));
}

#[tokio::test]
async fn serials_are_positive_random_and_short_enough() {
    let mint = mint(MintConfig::default());
    let mut serials = HashSet::new();
    for number in 0..20 {
        let name = format!("{number}.example");
        let leaf = leaf(&mint, &server_leaf(&[&name]), &name).await;
        let (_, certificate) = X509Certificate::from_der(&leaf.cert[0]).unwrap();
        let serial = certificate.raw_serial().to_vec();
        assert!(serial.len() == 16 && serial[0] & 0x80 == 0, "{serial:?}");
        assert!(serials.insert(serial));
    }
}

#[tokio::test]
async fn a_root_is_not_sent_along() {
    let mint = mint(MintConfig::default());
    assert_eq!(
        leaf(&mint, &server_leaf(&["a.example"]), "a.example")
            .await
            .cert
            .len(),
        1
    );
}

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::Relaxed),
        )))
    }
}

#[tokio::test]
async fn a_cached_leaf_that_is_about_to_expire_is_made_anew() {
    let clock = Arc::new(Clock(AtomicU64::new(UnixTime::now().as_secs())));
    let config = MintConfig {
        leaf_lifetime: Duration::from_secs(24 * 3600),
        ..MintConfig::default()
    };
    let mint = Mint::new(
        Arc::new(Issuing::direct(Arc::new(
            Authority::generate("test root").unwrap(),
        ))),
        config,
        clock.clone(),
    );
    let server = server_leaf(&["a.example"]);
    leaf(&mint, &server, "a.example").await;
    clock.0.fetch_add(20 * 3600, Ordering::Relaxed);
    leaf(&mint, &server, "a.example").await;
    assert_eq!(mint.minted(), 1);
    clock.0.fetch_add(3 * 3600, Ordering::Relaxed);
    leaf(&mint, &server, "a.example").await;
    assert_eq!(mint.minted(), 2);
}

#[tokio::test]
async fn an_unreadable_server_certificate_is_an_error_and_is_not_cached() {
    let mint = mint(MintConfig::default());
    let rubbish = CertificateDer::from(vec![1, 2, 3]);
    let result = mint
        .leaf_for(&rubbish, None, ADDRESS, KeyType::EcdsaP256)
        .await;
    assert!(matches!(result, Err(MintError::UnreadableLeaf)));
    mint.cache.run_pending_tasks().await;
    assert_eq!(mint.cached(), 0);
}
