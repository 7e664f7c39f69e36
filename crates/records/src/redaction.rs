//! Secrets stay out of records: what is replaced in field values and addresses, and how an operator
//! lifts that by name.

use std::borrow::Cow;

use sdk::Field;
use serde::Deserialize;
use serde_json::Value;

/// What stands in place of a secret.
pub const REDACTED: &str = "(redacted)";

/// Header fields whose values are secrets, in lower case.
const FIELDS: &[&str] = &[
    "authorization",
    "cookie",
    "proxy-authorization",
    "set-cookie",
    "x-amz-security-token",
    "x-api-key",
    "x-auth-token",
    "x-aws-ec2-metadata-token",
    "x-csrf-token",
    "x-vault-token",
];

/// Header fields that hold addresses.
const ADDRESSES: &[&str] = &["content-location", "location", "referer"];

/// Parameters of addresses and forms, and members of JSON objects, that are secrets, in lower case and
/// without `-` and `_`.
const PARAMETERS: &[&str] = &[
    "accesstoken",
    "apikey",
    "clientsecret",
    "idtoken",
    "password",
    "refreshtoken",
    "secret",
    "secretaccesskey",
    "sessiontoken",
    "sig",
    "signature",
    "token",
    "tokenvalue",
    "xamzsecuritytoken",
    "xamzsignature",
    "xgoogsignature",
];

/// Characters of the longest of them.
const LONGEST_PARAMETER: usize = {
    let (mut longest, mut at) = (0, 0);
    while at < PARAMETERS.len() {
        if PARAMETERS[at].len() > longest {
            longest = PARAMETERS[at].len();
        }
        at += 1;
    }
    longest
};

/// The keys of an interceptor that say which secrets are shown all the same.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RedactionConfig {
    /// Header fields that are shown as they are.
    #[serde(default)]
    pub show_fields: Vec<String>,
    /// Parameters of addresses, and members of JSON objects, that are shown as they are.
    #[serde(default)]
    pub show_parameters: Vec<String>,
}

/// Replaces secrets. Everything that is kept of an exchange goes through it.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    shown_fields: Vec<String>,
    shown_parameters: Vec<String>,
}

impl Redaction {
    /// As configured.
    #[must_use]
    pub fn new(config: &RedactionConfig) -> Self {
        Self {
            shown_fields: config
                .show_fields
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect(),
            shown_parameters: config
                .show_parameters
                .iter()
                .map(|name| plain(name).collect())
                .collect(),
        }
    }

    /// The value of a header field, as it may be kept. Of `Authorization` the scheme is kept, and with
    /// AWS's signatures the credential's id and scope; of cookies, their names and attributes.
    #[must_use]
    pub fn field<'v>(&self, name: &str, value: &'v str) -> Cow<'v, str> {
        // Every field of every exchange comes by here.
        if is_among(ADDRESSES, name).is_some() {
            return self.address(value);
        }
        let Some(secret) = is_among(FIELDS, name) else {
            return Cow::Borrowed(value);
        };
        if self.shown_fields.iter().any(|shown| shown == secret) {
            return Cow::Borrowed(value);
        }
        let hidden = match secret {
            "authorization" | "proxy-authorization" => authorization(value),
            "cookie" => {
                let mut kept = String::with_capacity(value.len() + REDACTED.len());
                for (at, pair) in value.split(';').enumerate() {
                    kept.push_str(if at == 0 { "" } else { "; " });
                    push_nameless(&mut kept, pair);
                }
                kept
            }
            "set-cookie" => {
                let (pair, attributes) = value.split_at(value.find(';').unwrap_or(value.len()));
                let mut kept = String::with_capacity(value.len() + REDACTED.len());
                push_nameless(&mut kept, pair);
                kept.push_str(attributes);
                kept
            }
            _ => return Cow::Borrowed(REDACTED),
        };
        Cow::Owned(hidden)
    }

    /// The text of a field, as it may be kept.
    #[must_use]
    pub fn text<'f>(&self, field: &'f Field) -> Cow<'f, str> {
        let name = field.name.as_str();
        match field.text() {
            Cow::Borrowed(text) => self.field(name, text),
            Cow::Owned(text) => Cow::Owned(self.field(name, &text).into_owned()),
        }
    }

    /// An address, absolute or only path and query, as it may be kept: the values of secret parameters
    /// and what stands before an `@` in the authority are replaced.
    #[must_use]
    pub fn address<'v>(&self, address: &'v str) -> Cow<'v, str> {
        // Every address of every exchange comes by here, and most have nothing to be replaced.
        let address = match memchr::memchr(b'@', address.as_bytes()) {
            Some(_) => without_user(address),
            None => Cow::Borrowed(address),
        };
        let query = memchr::memchr(b'?', address.as_bytes());
        let parts = query.and_then(|at| Some((address.get(..at)?, address.get(at + 1..)?)));
        let Some((path, rest)) = parts else {
            return address;
        };
        let (query, fragment) = match rest.split_once('#') {
            Some((query, fragment)) => (query, Some(fragment)),
            None => (rest, None),
        };
        match self.form(query) {
            Cow::Borrowed(_) => address,
            Cow::Owned(query) => {
                let mut whole = format!("{path}?{query}");
                if let Some(fragment) = fragment {
                    whole.push('#');
                    whole.push_str(fragment);
                }
                Cow::Owned(whole)
            }
        }
    }

    /// A query, or a form in a body (`application/x-www-form-urlencoded`).
    #[must_use]
    pub fn form<'v>(&self, form: &'v str) -> Cow<'v, str> {
        let is_secret = |pair: &str| {
            pair.split_once('=')
                .is_some_and(|(name, value)| !value.is_empty() && self.is_secret_name(name))
        };
        if !form.split('&').any(is_secret) {
            return Cow::Borrowed(form);
        }
        let pairs: Vec<Cow<'_, str>> = form
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, _)) if is_secret(pair) => Cow::Owned(format!("{name}={REDACTED}")),
                _ => Cow::Borrowed(pair),
            })
            .collect();
        Cow::Owned(pairs.join("&"))
    }

    /// Replaces secret members, at any depth that a parser lets through.
    pub fn json(&self, value: &mut Value) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    if self.is_secret_name(name) && !member.is_null() {
                        *member = REDACTED.into();
                    } else {
                        self.json(member);
                    }
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.json(item);
                }
            }
            _ => {}
        }
    }

    /// Whether a parameter or member of this name is a secret that is not shown. Case, `-`, `_` and
    /// percent-encoding of the name make no difference.
    #[must_use]
    pub fn is_secret_name(&self, name: &str) -> bool {
        // One character more than the longest has, to tell it from what begins like it.
        let mut start = ['\0'; LONGEST_PARAMETER + 1];
        let mut length = 0;
        for (to, from) in start.iter_mut().zip(plain(name)) {
            *to = from;
            length += 1;
        }
        let start = start.get(..length).unwrap_or_default();
        let is_listed =
            |listed: &&str| listed.len() == length && listed.chars().eq(start.iter().copied());
        PARAMETERS.iter().any(is_listed)
            && !self
                .shown_parameters
                .iter()
                .any(|shown| plain(name).eq(shown.chars()))
    }
}

/// The one of `names`, which are in lower case, that is `name` in any case.
fn is_among(names: &[&'static str], name: &str) -> Option<&'static str> {
    let found = names.iter().find(|known| known.eq_ignore_ascii_case(name));
    found.copied()
}

/// Lower case, decoded, without separators.
fn plain(name: &str) -> impl Iterator<Item = char> {
    let mut bytes = name.bytes();
    core::iter::from_fn(move || {
        loop {
            let mut byte = bytes.next()?;
            if byte == b'%' {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                if let (Some(high), Some(low)) = (digit(), digit()) {
                    byte = (high * 16 + low) as u8;
                }
            }
            if !matches!(byte, b'-' | b'_' | b'.') {
                return Some(char::from(byte.to_ascii_lowercase()));
            }
        }
    })
}

/// Adds a cookie without its value.
fn push_nameless(kept: &mut String, pair: &str) {
    match pair.split_once('=') {
        Some((name, _)) => push_hidden(kept, name.trim()),
        None if pair.trim().is_empty() => {}
        // A cookie without a name is a value.
        None => kept.push_str(REDACTED),
    }
}

fn push_hidden(kept: &mut String, name: &str) {
    for part in [name, "=", REDACTED] {
        kept.push_str(part);
    }
}

/// `AWS4-HMAC-SHA256 Credential=..., SignedHeaders=..., Signature=...`; `AWS AKID:signature`; `Basic ...`.
fn authorization(value: &str) -> String {
    let value = value.trim();
    let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
    if scheme.starts_with("AWS4-") {
        let mut kept = String::with_capacity(value.len() + REDACTED.len());
        kept.push_str(scheme);
        for (at, part) in rest.split(',').map(str::trim).enumerate() {
            kept.push_str(if at == 0 { " " } else { ", " });
            match part.split_once('=') {
                Some(("Credential" | "SignedHeaders", _)) => kept.push_str(part),
                Some((name, _)) => push_hidden(&mut kept, name),
                None => kept.push_str(REDACTED),
            }
        }
        return kept;
    }
    match rest.split_once(':') {
        Some((key, _)) if scheme == "AWS" => format!("AWS {key}:{REDACTED}"),
        _ if rest.is_empty() => REDACTED.to_owned(),
        _ => format!("{scheme} {REDACTED}"),
    }
}

/// `https://user:password@host/` without the user.
fn without_user(address: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return Cow::Borrowed(address);
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(end);
    match authority.rsplit_once('@') {
        Some((_, host)) => Cow::Owned(format!("{scheme}://{REDACTED}@{host}{after}")),
        None => Cow::Borrowed(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_67_secrets_in_fields_are_replaced_and_the_rest_is_kept() {
        let redaction = Redaction::default();
        for (name, value, kept) in [
            ("Authorization", "Basic dXNlcjpwYXNz", "Basic (redacted)"),
            ("authorization", "bearer abc.def", "bearer (redacted)"),
            ("Authorization", "opaque", "(redacted)"),
            (
                "Authorization",
                "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/s3/aws4_request,SignedHeaders=host;x-a, Signature=00ff",
                "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host;x-a, Signature=(redacted)",
            ),
            ("Authorization", "AWS AKIA:c2ln", "AWS AKIA:(redacted)"),
            (
                "Cookie",
                "a=1; b = 2;c",
                "a=(redacted); b=(redacted); (redacted)",
            ),
            (
                "Set-Cookie",
                "id=abc; Path=/; Secure",
                "id=(redacted); Path=/; Secure",
            ),
            ("Set-Cookie", "id=abc", "id=(redacted)"),
            ("X-Amz-Security-Token", "IQoJ", "(redacted)"),
            (
                "Referer",
                "https://h/?token=x&a=b",
                "https://h/?token=(redacted)&a=b",
            ),
            ("User-Agent", "curl", "curl"),
        ] {
            assert_eq!(redaction.field(name, value), kept, "{name}: {value}");
        }
    }

    #[test]
    fn threat_67_secrets_in_addresses_are_replaced() {
        let redaction = Redaction::default();
        for (address, kept) in [
            (
                "/k?X-Amz-Algorithm=A&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=00&X-Amz-Security-Token=t",
                "/k?X-Amz-Algorithm=A&X-Amz-Credential=AKIA%2F1&X-Amz-Signature=(redacted)&X-Amz-Security-Token=(redacted)",
            ),
            (
                "/k?x%2Damz%2dsignature=00#f",
                "/k?x%2Damz%2dsignature=(redacted)#f",
            ),
            (
                "/?access_token=1&ACCESS-TOKEN=2",
                "/?access_token=(redacted)&ACCESS-TOKEN=(redacted)",
            ),
            ("https://u:p@h:1/x@y", "https://(redacted)@h:1/x@y"),
            ("https://u:p@h", "https://(redacted)@h"),
            ("/a?b=c&token&signature=", "/a?b=c&token&signature="),
            ("/a", "/a"),
        ] {
            assert_eq!(redaction.address(address), kept, "{address}");
        }
    }

    #[test]
    fn threat_67_secrets_in_json_are_replaced() {
        let mut value = serde_json::json!({
            "TokenValue": "AAEA", "Cookie": null, "list": [{"secretAccessKey": "x", "b": 1}],
        });
        Redaction::default().json(&mut value);
        assert_eq!(
            value,
            serde_json::json!({
                "TokenValue": REDACTED, "Cookie": null, "list": [{"secretAccessKey": REDACTED, "b": 1}],
            })
        );
    }

    #[test]
    fn an_operator_lifts_it_by_name() {
        let redaction = Redaction::new(&RedactionConfig {
            show_fields: vec!["Cookie".into()],
            show_parameters: vec!["Session-Token".into()],
        });
        assert_eq!(redaction.field("cookie", "a=1"), "a=1");
        assert_eq!(redaction.field("set-cookie", "a=1"), "a=(redacted)");
        assert_eq!(
            redaction.address("/?session_token=1&token=2"),
            "/?session_token=1&token=(redacted)"
        );
    }
}
