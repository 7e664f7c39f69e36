//! `[tls.ca]`: whose signature clients believe, and where its key lives.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::fault::Collector;
use super::section::Section;

/// `[tls.ca]`: the authority whose root the clients trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ca {
    /// `certificate`: PEM file.
    pub certificate: PathBuf,
    /// Where the private key of `certificate` is.
    pub key: CaKey,
    /// `intermediate-life`: validity of the certificate that signs leaves. 7 days; what is in memory
    /// is worth stealing for so long.
    pub intermediate_life: Duration,
    /// `when-away`: what happens while there is no intermediate. `refuse`.
    pub when_away: WhenAway,
}

/// The private key of an authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaKey {
    /// `key`: a PEM file.
    File(PathBuf),
    /// `kms-key`: an asymmetric key in AWS KMS.
    Kms {
        /// Key id, ARN, or alias.
        key: String,
        /// `kms-region`; otherwise that of the ARN, the environment, or the instance.
        region: Option<String>,
        /// `kms-endpoint`; otherwise the region's own.
        endpoint: Option<String>,
    },
    /// `pkcs11`: a key in a PKCS#11 token, by its URI (RFC 7512).
    Pkcs11(String),
}

/// What happens to TLS while the authority's key is away and there is no valid intermediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAway {
    /// TLS flows that a rule intercepts are passed unread.
    Bypass,
    /// flowdog does not start; once running, TLS flows that a rule intercepts are refused.
    Refuse,
}

impl Ca {
    /// The environment variable that names the certificate's file where the file has no `[tls.ca]`.
    pub const CERTIFICATE_VARIABLE: &str = "FLOWDOG_CA_CERTIFICATE";
    /// The environment variable that names the key's file where the file has no `[tls.ca]`.
    pub const KEY_VARIABLE: &str = "FLOWDOG_CA_KEY";

    /// An authority with everything but its files at the defaults.
    #[must_use]
    pub fn new(certificate: PathBuf, key: CaKey) -> Self {
        Self {
            certificate,
            key,
            intermediate_life: tls::IssuingConfig::default().lifetime,
            when_away: WhenAway::Refuse,
        }
    }

    /// The authority that the environment names, if it names both files: where a secret is mounted is
    /// often known to the one who starts the process only.
    fn from_environment() -> Option<Self> {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Some(Self::new(
            path(Self::CERTIFICATE_VARIABLE)?.into(),
            CaKey::File(path(Self::KEY_VARIABLE)?.into()),
        ))
    }
}

/// Reads `[tls.ca]`.
pub(super) fn read(section: &mut Section<'_>, faults: &mut Collector<'_>) -> Option<Ca> {
    /// Long enough that a weekend without the key's owner is no outage, short enough to be worth it.
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let certificate = section.path("certificate", faults);
    let file = section.path("key", faults);
    let kms = section.parsed(
        "kms-key",
        "a key id, key ARN, or alias as \"alias/flowdog-ca\"",
        faults,
        |text| (!text.is_empty() && text.len() <= 2048).then(|| text.to_owned()),
    );
    let pkcs11 = section.parsed(
        "pkcs11",
        "a URI as \"pkcs11:token=ca;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so\"",
        faults,
        |text| (text.starts_with("pkcs11:") && text.len() <= 4096).then(|| text.to_owned()),
    );
    let region = section.parsed(
        "kms-region",
        "the name of a region, as \"eu-central-1\"",
        faults,
        |text| is_region(text).then(|| text.to_owned()),
    );
    let endpoint = section.parsed(
        "kms-endpoint",
        "a URL, as \"https://vpce-….kms.eu-central-1.vpce.amazonaws.com\"",
        faults,
        |text| {
            let uri: http::Uri = text.parse().ok()?;
            let right = matches!(uri.scheme_str(), Some("http" | "https"));
            (right && uri.host().is_some()).then(|| text.to_owned())
        },
    );
    let intermediate_life = section.duration("intermediate-life", DAY / 24, 90 * DAY, faults);
    let when_away = section.word(
        "when-away",
        &[("bypass", WhenAway::Bypass), ("refuse", WhenAway::Refuse)],
        faults,
    );
    if !section.is_present() {
        return Ca::from_environment();
    }
    let named = ["key", "kms-key", "pkcs11"].map(|key| section.peek(key).map(|entry| (key, entry)));
    let mut named = named.into_iter().flatten();
    let has_key = match (named.next(), named.next()) {
        (Some((first, _)), Some((_, entry))) => {
            faults.add(
                entry.offset,
                entry.key,
                format!("stands beside `{first}`"),
                Some("one of `key`, `kms-key` and `pkcs11`"),
            );
            return None;
        }
        (first, _) => first.is_some(),
    };
    if let (None, Some(entry)) = (
        section.peek("kms-key"),
        section
            .peek("kms-region")
            .or_else(|| section.peek("kms-endpoint")),
    ) {
        faults.add(
            entry.offset,
            entry.key,
            "says where a key is that is not named",
            Some("`kms-key`"),
        );
        return None;
    }
    let missing = match (section.peek("certificate").is_some(), has_key) {
        (true, true) => None,
        (true, false) => Some((
            "key",
            "is missing",
            "the PEM file with the private key, or `kms-key`, or `pkcs11`",
        )),
        (false, true) => Some((
            "certificate",
            "is missing",
            "the PEM file with the certificate",
        )),
        (false, false) => Some((
            "certificate",
            "the table is empty",
            "`certificate` with `key`, `kms-key` or `pkcs11`, or no [tls.ca] at all",
        )),
    };
    if let Some((key, what, allowed)) = missing {
        faults.add(section.offset(), section.name_of(key), what, Some(allowed));
        return None;
    }
    let key = match (file, kms, pkcs11) {
        (Some(file), _, _) => CaKey::File(file),
        (None, Some(key), _) => CaKey::Kms {
            key,
            region,
            endpoint,
        },
        (None, None, Some(uri)) => CaKey::Pkcs11(uri),
        (None, None, None) => return None,
    };
    let made = Ca::new(certificate?, key);
    Some(Ca {
        intermediate_life: intermediate_life.unwrap_or(made.intermediate_life),
        when_away: when_away.unwrap_or(made.when_away),
        ..made
    })
}

/// Reads `[tls.learn]`. Whatever was learned before is forgotten: a new configuration is a new start.
pub(super) fn read_learn(
    section: &mut Section<'_>,
    faults: &mut Collector<'_>,
) -> Option<Arc<tls::Learned>> {
    const MINUTE: Duration = Duration::from_secs(60);
    let default = tls::LearnConfig::default();
    let bypass = section.word("bypass", &[("on", true), ("off", false)], faults);
    let time = section.duration("time", MINUTE, 7 * 24 * 60 * MINUTE, faults);
    let sources = section.number("sources", 0, 10_000, faults);
    if sources == Some(1) {
        faults.add(
            section.offset_of("sources"),
            section.name_of("sources"),
            "would let each client decide for all others",
            Some("0 (never), or 2 and more"),
        );
    }
    bypass.unwrap_or(true).then(|| {
        Arc::new(tls::Learned::new(tls::LearnConfig {
            time: time.unwrap_or(default.time),
            sources: sources.map_or(default.sources, |n| n as usize),
            ..default
        }))
    })
}

/// Reads `[tls.revocation]`.
pub(super) fn read_revocation(
    section: &mut Section<'_>,
    faults: &mut Collector<'_>,
) -> tls::Revocation {
    let default = tls::Revocation::default();
    let folder = faults.folder();
    let lists = section.optional_list("lists", "paths of PEM or DER files", faults, |v| {
        v.as_str()
            .filter(|path| !path.is_empty())
            .map(|path| folder.join(path))
    });
    let unlisted = section.word("unlisted", &[("accept", false), ("refuse", true)], faults);
    let stapled = section.word("stapled", &[("check", true), ("ignore", false)], faults);
    tls::Revocation {
        lists: lists.unwrap_or(default.lists),
        require_lists: unlisted.unwrap_or(default.require_lists),
        stapled: stapled.unwrap_or(default.stapled),
    }
}

/// What can stand in the host name of an endpoint.
fn is_region(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 32
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}
