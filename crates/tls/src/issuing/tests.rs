use std::sync::atomic::AtomicBool;

use rcgen::KeyPair;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;
use crate::signer::{LocalSigner, SignError, Signer};

/// A key that is far away, counted, and sometimes not to be reached.
#[derive(Debug)]
struct Remote {
    key: LocalSigner,
    away: AtomicBool,
    signatures: AtomicU64,
}

impl Remote {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            key: LocalSigner::new(KeyPair::generate().unwrap()),
            away: AtomicBool::new(false),
            signatures: AtomicU64::new(0),
        })
    }
}

impl Signer for Remote {
    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.key.algorithm()
    }

    fn public_key(&self) -> &[u8] {
        self.key.public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(SignError("throttled".to_owned()));
        }
        self.signatures.fetch_add(1, Ordering::Relaxed);
        self.key.sign(message)
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn is_remote(&self) -> bool {
        true
    }
}

const DAY: u64 = 24 * 3600;

fn later(days: f64) -> UnixTime {
    let seconds = (days * DAY as f64) as u64;
    UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs() + seconds))
}

fn issuing(remote: &Arc<Remote>) -> Issuing {
    let signer: Arc<dyn Signer> = Arc::<Remote>::clone(remote);
    let root = Authority::self_signed("Far Root", signer).unwrap();
    Issuing::intermediate(Arc::new(root), IssuingConfig::default()).unwrap()
}

#[test]
fn an_intermediate_is_a_ca_of_seven_days_that_can_sign_leaves_only() {
    let remote = Remote::new();
    let issuing = issuing(&remote);
    assert!(issuing.current(later(0.0)).is_none());
    assert!(issuing.is_due(later(0.0)));
    issuing.renew(later(0.0)).unwrap();
    let current = issuing.current(later(0.0)).unwrap();
    let (_, certificate) = X509Certificate::from_der(current.certificate().unwrap()).unwrap();
    let constraints = certificate.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical);
    assert!(constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    assert!(!current.may_have_intermediates());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth && !usage.any);
    let left = certificate.validity().not_after.timestamp() - seconds(later(0.0));
    assert!(
        (7 * DAY as i64 - 5..=7 * DAY as i64).contains(&left),
        "{left}"
    );
    assert_eq!(current.chain_to_send().count(), 1, "the root is not sent");
    assert_ne!(current.public_key(), issuing.root().public_key());
}

#[test]
fn threat_33_renewal_is_early_and_a_key_that_is_away_stops_nothing() {
    let remote = Remote::new();
    let issuing = issuing(&remote);
    issuing.renew(later(0.0)).unwrap();
    let first = issuing.current(later(0.0)).unwrap();
    assert!(!issuing.is_due(later(3.4)));
    assert!(issuing.is_due(later(4.7)), "two thirds of seven days");

    remote.away.store(true, Ordering::Relaxed);
    issuing.renew(later(4.7)).unwrap_err();
    assert!(!issuing.is_due(later(4.7)), "the first retry waits");
    let again = UnixTime::since_unix_epoch(Duration::from_secs(later(4.7).as_secs() + 6));
    assert!(issuing.is_due(again), "but not for long");
    for _ in 0..20 {
        issuing.renew(later(5.0)).unwrap_err();
    }
    let at_most = UnixTime::since_unix_epoch(Duration::from_secs(later(5.0).as_secs() + 601));
    assert!(
        issuing.is_due(at_most),
        "the pause between retries is bounded"
    );
    let still = issuing.current(later(6.9)).unwrap();
    assert_eq!(still.certificate(), first.certificate());
    assert!(issuing.current(later(7.1)).is_none(), "an end is an end");

    remote.away.store(false, Ordering::Relaxed);
    issuing.renew(later(7.1)).unwrap();
    let second = issuing.current(later(7.1)).unwrap();
    assert_ne!(second.certificate(), first.certificate());
    assert_ne!(second.public_key(), first.public_key());
    assert_eq!((issuing.renewals(), issuing.failures()), (2, 21));
}

#[test]
fn appliances_of_a_fleet_renew_at_different_moments() {
    let remote = Remote::new();
    let dues: std::collections::BTreeSet<i64> = (0..8)
        .map(|_| {
            let issuing = issuing(&remote);
            issuing.renew(later(0.0)).unwrap();
            issuing.read().due / 60
        })
        .collect();
    assert!(dues.len() > 4, "{dues:?}");
}

#[test]
fn a_reload_with_the_same_root_needs_no_signature() {
    let remote = Remote::new();
    let before = issuing(&remote);
    before.renew(later(0.0)).unwrap();
    let signatures = remote.signatures.load(Ordering::Relaxed);
    let same = Issuing::intermediate(Arc::clone(before.root()), IssuingConfig::default()).unwrap();
    same.adopt(&before);
    assert!(same.current(later(0.0)).is_some());
    assert_eq!(remote.signatures.load(Ordering::Relaxed), signatures);
    let other = issuing(&remote);
    other.adopt(&before);
    assert!(
        other.current(later(0.0)).is_none(),
        "another root, another intermediate"
    );
}

#[test]
fn a_signer_with_another_key_than_the_certificate_says_is_found_out_at_once() {
    #[derive(Debug)]
    struct Liar(LocalSigner, LocalSigner);
    impl Signer for Liar {
        fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
            self.0.algorithm()
        }
        fn public_key(&self) -> &[u8] {
            self.0.public_key()
        }
        fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
            self.1.sign(message)
        }
        fn is_slow(&self) -> bool {
            true
        }
    }
    let key = || LocalSigner::new(KeyPair::generate().unwrap());
    let error = Authority::self_signed("Liar", Arc::new(Liar(key(), key()))).unwrap_err();
    assert!(
        matches!(error, AuthorityError::WrongSignature { .. }),
        "{error}"
    );
}

#[test]
fn a_root_that_forbids_intermediates_is_refused_for_them() {
    let remote = Remote::new();
    let issuing = issuing(&remote);
    issuing.renew(later(0.0)).unwrap();
    let bottom = issuing.current(later(0.0)).unwrap();
    let refused = Issuing::intermediate(Arc::clone(&bottom), IssuingConfig::default());
    assert!(matches!(
        refused,
        Err(AuthorityError::NoIntermediates { .. })
    ));
    assert!(
        bottom
            .intermediate(Duration::from_secs(60), later(0.0))
            .is_err()
    );
}
