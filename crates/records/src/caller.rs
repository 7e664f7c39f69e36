//! Who calls AWS: what a signature says about its maker, without knowing any secret.
//!
//! Known are Signature Version 4 and 4A in the `Authorization` field and in presigned addresses.

use core::cell::RefCell;
use std::sync::Arc;

use sdk::{Exchange, RequestHead};

/// What a signature says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Caller {
    /// The access key id: 16 to 128 letters and digits. No secret.
    pub key_id: String,
    /// The account that the key belongs to, 12 digits; `None` if the key does not say.
    pub account: Option<String>,
    /// The day of the signature, as `20260102`.
    pub date: String,
    /// The region; with Signature Version 4A the set of regions, as `*` or `us-east-1,us-west-*`.
    pub region: String,
    /// The service, as `s3`.
    pub service: String,
}

/// The parts of a credential's scope, where they stand.
#[derive(Clone, Copy)]
struct Scope<'a> {
    key_id: &'a str,
    date: &'a str,
    region: &'a str,
    service: &'a str,
}

impl Scope<'_> {
    fn is_of(&self, caller: &Caller) -> bool {
        self.key_id == caller.key_id
            && self.date == caller.date
            && self.region == caller.region
            && self.service == caller.service
    }
}

impl From<Scope<'_>> for Caller {
    fn from(scope: Scope<'_>) -> Self {
        Self {
            account: account_of(scope.key_id),
            key_id: scope.key_id.to_owned(),
            date: scope.date.to_owned(),
            region: scope.region.to_owned(),
            service: scope.service.to_owned(),
        }
    }
}

/// What [`Caller::of_exchange`] has found out.
struct Known(Option<Arc<Caller>>);

impl Caller {
    /// Who has signed the request of an exchange, as its client sent it. Several want to know, and it
    /// is looked for once.
    pub fn of_exchange(exchange: &mut Exchange) -> Option<Arc<Self>> {
        if let Some(Known(caller)) = exchange.extensions.get() {
            return caller.clone();
        }
        let request = &exchange.request;
        let caller = match in_fields(request) {
            Some(scope) => Some(Self::shared(scope)),
            None => request.query().and_then(Self::of_query).map(Arc::new),
        };
        exchange.extensions.insert(Known(caller.clone()));
        caller
    }

    /// One and the same caller makes many requests. The one that a thread met last is kept: what an exchange
    /// keeps is freed by other threads, and memory that comes back from them is far from the processor.
    fn shared(scope: Scope<'_>) -> Arc<Self> {
        thread_local! {
            static LAST: RefCell<Option<Arc<Caller>>> = const { RefCell::new(None) };
        }
        LAST.with_borrow_mut(|last| match last {
            Some(last) if scope.is_of(last) => Arc::clone(last),
            _ => Arc::clone(last.insert(Arc::new(scope.into()))),
        })
    }

    /// Who has signed a request; `None` if nobody has, or nobody who can be read.
    #[must_use]
    pub fn of(request: &RequestHead) -> Option<Self> {
        let scope = in_fields(request).map(Self::from);
        scope.or_else(|| Self::of_query(request.query()?))
    }

    /// Of an `Authorization` field. `regions` is what `X-Amz-Region-Set` says, for Version 4A, whose
    /// scope has no region.
    #[must_use]
    pub fn of_authorization(value: &str, regions: Option<&str>) -> Option<Self> {
        in_authorization(value, regions).map(Self::from)
    }

    /// Of the query of a presigned address.
    #[must_use]
    pub fn of_query(query: &str) -> Option<Self> {
        let parameter = |name: &str| {
            query.split('&').find_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                key.eq_ignore_ascii_case(name).then(|| decoded(value))?
            })
        };
        let algorithm = parameter("X-Amz-Algorithm")?;
        let regions = parameter("X-Amz-Region-Set");
        let with_regions = match algorithm.as_str() {
            "AWS4-HMAC-SHA256" => None,
            "AWS4-ECDSA-P256-SHA256" => Some(regions.as_deref().unwrap_or("*")),
            _ => return None,
        };
        scope(&parameter("X-Amz-Credential")?, with_regions).map(Self::from)
    }
}

fn in_fields(request: &RequestHead) -> Option<Scope<'_>> {
    let regions = request.headers.get_str("x-amz-region-set");
    request
        .headers
        .get_all("authorization")
        // Read in strides; a field value's own look at its text goes byte by byte.
        .filter_map(|value| core::str::from_utf8(value.as_bytes()).ok())
        .find_map(|value| in_authorization(value, regions))
}

fn in_authorization<'a>(value: &'a str, regions: Option<&'a str>) -> Option<Scope<'a>> {
    let (algorithm, rest) = value.trim_start().split_once([' ', '\t'])?;
    // `AWS4-HMAC-SHA256-PAYLOAD` and the like sign chunks, not requests.
    let with_regions = match algorithm {
        "AWS4-HMAC-SHA256" => None,
        "AWS4-ECDSA-P256-SHA256" => Some(regions.unwrap_or("*")),
        _ => return None,
    };
    // Clients write `, ` or `,`, in any order.
    let credential = rest
        .split([',', ' '])
        .find_map(|part| part.trim().strip_prefix("Credential="))?;
    scope(credential, with_regions)
}

/// `AKID/20260102/eu-west-1/s3/aws4_request`, or without the region.
fn scope<'a>(scope: &'a str, regions: Option<&'a str>) -> Option<Scope<'a>> {
    let mut parts = scope.split('/');
    let (key_id, date) = (parts.next()?, parts.next()?);
    let region = match regions {
        Some(regions) => regions.trim(),
        None => parts.next()?,
    };
    let service = parts.next()?;
    let is_end = parts.next() == Some("aws4_request") && parts.next().is_none();
    let is_word = |text: &str, extra: &[u8]| {
        (1..=128).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || extra.contains(&byte))
    };
    let is_right = is_end
        && (16..=128).contains(&key_id.len())
        && is_word(key_id, b"_")
        && date.len() == 8
        && date.bytes().all(|byte| byte.is_ascii_digit())
        && is_word(region, if regions.is_some() { b"*, " } else { b"" })
        && is_word(service, b"_.");
    is_right.then_some(Scope {
        key_id,
        date,
        region,
        service,
    })
}

/// The account in an access key id.
///
/// Keys made since 2019 hold the account's number: behind the four letters of the kind, 40 bits of it
/// as base32 (RFC 4648), shifted by one bit. Older keys hold nothing of the kind; their fifth letter is
/// below `Q`, where the first of the 40 bits would have to be.
#[must_use]
pub fn account_of(key_id: &str) -> Option<String> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (kind, rest) = key_id.split_at_checked(4)?;
    // Other kinds, as AROA and AIDA, are names of roles and users, and sign nothing.
    if !matches!(kind, "AKIA" | "ASIA") || rest.len() != 16 {
        return None;
    }
    let mut bits = 0_u128;
    for (at, letter) in rest.bytes().enumerate() {
        let value = ALPHABET.iter().position(|known| *known == letter)?;
        if at == 0 && value < 16 {
            return None;
        }
        bits = bits << 5 | value as u128;
    }
    // The first six of ten bytes.
    let first = (bits >> 32) as u64;
    let account = (first & 0x7fff_ffff_ff80) >> 7;
    (account <= 999_999_999_999).then(|| format!("{account:012}"))
}

/// Percent-decoded text; `None` if it is no text.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        out.push((digit()? * 16 + digit()?) as u8);
    }
    String::from_utf8(out).ok()
}

/// For the fuzz target: reads any text in both ways.
#[doc(hidden)]
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    for caller in [
        Caller::of_authorization(first, Some(second)),
        Caller::of_query(first),
    ]
    .into_iter()
    .flatten()
    {
        let texts = [
            &caller.key_id,
            &caller.date,
            &caller.region,
            &caller.service,
        ];
        assert!(texts.iter().all(|text| {
            !text.is_empty()
                && text.len() <= 128
                && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        }));
        assert!(caller.account.is_none_or(|account| account.len() == 12));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_from_keys_of_the_new_form_only() {
        for (key, account) in [
            ("ASIAQNZGKIQY56JQ7WML", Some("029608264753")),
            ("ASIAY34FZKBOKMUTVV7A", Some("609629065308")),
            ("AKIASP2TPHJSQH3FJXYZ", Some("171436882533")),
            ("AKIAIOSFODNN7EXAMPLE", None),
            ("AROAQNZGKIQY56JQ7WML", None),
            ("AKIAQNZGKIQY56JQ7WM", None),
            ("AKIAqnzgkiqy56jq7wml", None),
            ("AKIAQNZGKIQY56JQ7WM1", None),
            ("AKI\u{e4}QNZGKIQY56JQ7WM", None),
            ("", None),
        ] {
            assert_eq!(account_of(key).as_deref(), account, "{key}");
        }
    }

    const KEY: &str = "ASIAQNZGKIQY56JQ7WML";

    #[test]
    fn the_corpus_of_the_fuzz_target_is_read() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/aws_caller");
        let mut replayed = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let seed = std::fs::read(entry.unwrap().path()).unwrap();
            // Every beginning of a seed is an input, too.
            for end in 0..=seed.len() {
                fuzz(&seed[..end]);
            }
            replayed += 1;
        }
        assert!(replayed >= 7, "only {replayed} seeds");
    }

    #[test]
    fn signatures_in_fields_are_read_in_all_their_spellings() {
        let scope = format!("{KEY}/20260102/eu-west-1/s3/aws4_request");
        for value in [
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00"),
            format!("AWS4-HMAC-SHA256 Credential={scope},SignedHeaders=host,Signature=00"),
            format!("AWS4-HMAC-SHA256 Signature=00, SignedHeaders=host, Credential={scope}"),
        ] {
            let caller = Caller::of_authorization(&value, None).unwrap();
            let parts = [
                &caller.key_id,
                &caller.date,
                &caller.region,
                &caller.service,
            ];
            assert_eq!(parts, [KEY, "20260102", "eu-west-1", "s3"]);
            assert_eq!(caller.account.as_deref(), Some("029608264753"));
        }
        let many = format!(
            "AWS4-ECDSA-P256-SHA256 Credential={KEY}/20260102/s3/aws4_request, SignedHeaders=a, Signature=00"
        );
        let regions = |set| Caller::of_authorization(&many, set).unwrap().region;
        assert_eq!(regions(Some("us-east-1,eu-*")), "us-east-1,eu-*");
        assert_eq!(regions(None), "*");
    }

    #[test]
    fn presigned_addresses_are_read() {
        let query = format!(
            "a=b&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={KEY}%2F20260102%2Feu-west-1%2Fs3%2Faws4_request&X-Amz-Signature=00"
        );
        assert_eq!(Caller::of_query(&query).unwrap().service, "s3");
        assert_eq!(Caller::of_query("X-Amz-Credential=a"), None);
        assert_eq!(
            Caller::of_query("X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=%ff%2"),
            None
        );
    }

    #[test]
    fn threat_66_what_could_break_a_record_is_no_signature() {
        for scope in [
            "KEY/20260102/eu-west-1/s3",
            "short/20260102/eu-west-1/s3/aws4_request",
            "KEY/2026010/eu-west-1/s3/aws4_request",
            "KEY/20260102/eu west/s3/aws4_request",
            "KEY/20260102//s3/aws4_request",
            "KEY/20260102/eu-west-1/s\"3/aws4_request",
            "KEY/20260102/eu-west-1/s3/aws4_request/more",
            "KEY/20260102/\u{1b}[2J/s3/aws4_request",
        ] {
            let scope = scope.replace("KEY", KEY);
            let value = format!("AWS4-HMAC-SHA256 Credential={scope}, Signature=0");
            assert_eq!(Caller::of_authorization(&value, None), None, "{scope}");
        }
        let long = "A".repeat(200);
        let value = format!("AWS4-HMAC-SHA256 Credential={long}/20260102/a/b/aws4_request");
        assert_eq!(Caller::of_authorization(&value, None), None);
        assert_eq!(Caller::of_authorization("AWS4-HMAC-SHA256", None), None);
        assert_eq!(Caller::of_authorization("Basic abc", None), None);
    }
}
