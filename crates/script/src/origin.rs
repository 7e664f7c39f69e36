//! `cf.updateRequestOrigin`, as far as an appliance can follow it.
//!
//! flowdog opens no connection of its own: a request goes to the server that the client has
//! connected to, whatever a function says. What can be chosen is the name that the server is asked
//! for, a prefix of the path, and fields. Names that could only be meant for something inside
//! (an address, a link-local or metadata name) are refused all the same: a server that is a proxy
//! would go there.

use std::net::IpAddr;

use sdk::{Authority, FieldName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What a function asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OriginUpdate {
    pub(crate) host: Option<String>,
    pub(crate) path_prefix: String,
    pub(crate) headers: Vec<(FieldName, HeaderValue)>,
}

/// Which names a function may ask for.
#[derive(Clone, Debug, Default)]
pub(crate) struct OriginRules {
    /// Names, where `*.` stands for one label or more in front; empty: any public name.
    pub(crate) allowed: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    domain_name: Option<String>,
    origin_path: Option<String>,
    #[serde(default)]
    custom_headers: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Settings of connections that flowdog does not open: accepted, and without effect.
const WITHOUT_EFFECT: [&str; 4] = [
    "connectionAttempts",
    "timeouts",
    "originShield",
    "hostHeader",
];

/// Ends of names that stand for something inside a network.
const INSIDE: [&str; 8] = [
    "localhost",
    "local",
    "internal",
    "localdomain",
    "home.arpa",
    "intranet",
    "lan",
    "instance-data",
];

impl OriginRules {
    /// Reads what was given to `updateRequestOrigin`.
    pub(crate) fn read(&self, text: &str) -> Result<OriginUpdate, String> {
        let asked: Asked =
            serde_json::from_str(text).map_err(|error| format!("updateRequestOrigin: {error}"))?;
        let refuse = |what: String| Err(format!("updateRequestOrigin: {what}"));
        for (key, value) in &asked.rest {
            let off = value.get("enabled") == Some(&Value::Bool(false));
            match key.as_str() {
                key if WITHOUT_EFFECT.contains(&key) => {}
                "originAccessControlConfig" if off => {}
                "customOriginConfig" => {}
                "originAccessControlConfig" => {
                    return refuse(
                        "requests are not signed here; allowed: enabled: false".to_owned(),
                    );
                }
                other => return refuse(format!("there is no setting {other:.40}")),
            }
        }
        let host = asked.domain_name.map(|name| self.host(&name)).transpose()?;
        let path_prefix = asked.origin_path.unwrap_or_default();
        let odd = |c: char| c.is_control() || matches!(c, ' ' | '?' | '#');
        if !path_prefix.is_empty()
            && (!path_prefix.starts_with('/')
                || path_prefix.ends_with('/')
                || path_prefix.contains(odd))
        {
            return refuse("originPath begins with / and does not end with it".to_owned());
        }
        let mut headers = Vec::new();
        for (name, value) in asked.custom_headers {
            let field = FieldName::parse(name.as_bytes()).ok().filter(|_| {
                !crate::rules::is_framing(&name.to_ascii_lowercase())
                    && !name.eq_ignore_ascii_case("host")
            });
            let value = value
                .as_str()
                .and_then(|value| HeaderValue::try_from(value).ok());
            let (Some(field), Some(value)) = (field, value) else {
                return refuse(format!(
                    "the custom header {name:.40} is not allowed, or its value is not"
                ));
            };
            headers.push((field, value));
        }
        Ok(OriginUpdate {
            host,
            path_prefix,
            headers,
        })
    }

    /// A host that may be asked for.
    pub(crate) fn host(&self, name: &str) -> Result<String, String> {
        let refuse = |why: &str| Err(format!("the host \"{name:.80}\" is refused: {why}"));
        let Ok(authority) = Authority::parse(name.as_bytes()) else {
            return refuse("it is no name");
        };
        let host = authority.host().trim_end_matches('.').to_ascii_lowercase();
        if self.allowed.iter().any(|pattern| matches(pattern, &host)) {
            return Ok(name.to_owned());
        }
        if !self.allowed.is_empty() {
            return refuse("it is not one of `origins`");
        }
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        // 0x7f000001, 2130706433 and 127.1 are addresses for many programs.
        let last = host.rsplit('.').next().unwrap_or_default();
        let number = last.starts_with("0x")
            || (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()));
        if bare.parse::<IpAddr>().is_ok() || host.starts_with('[') || number {
            return refuse("it is an address; list it in `origins` if it is meant");
        }
        if !host.contains('.')
            || INSIDE
                .iter()
                .any(|end| host == *end || host.ends_with(&format!(".{end}")))
        {
            return refuse(
                "it names something inside a network; list it in `origins` if it is meant",
            );
        }
        Ok(name.to_owned())
    }
}

fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(end) => host
            .strip_suffix(&end.to_ascii_lowercase())
            .is_some_and(|front| front.len() > 1 && front.ends_with('.')),
        None => pattern.eq_ignore_ascii_case(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_64_names_of_the_inside_are_refused_unless_they_are_listed() {
        let open = OriginRules::default();
        for bad in [
            "169.254.169.254",
            "127.0.0.1",
            "[::1]",
            "[fd00:ec2::254]",
            "10.0.0.1",
            "8.8.8.8",
            "2130706433",
            "0x7f000001",
            "127.1",
            "0177.0.0.1",
            "localhost",
            "localhost.",
            "a.localhost",
            "metadata.google.internal",
            "instance-data",
            "ip-10-0-0-1.eu-west-1.compute.internal",
            "printer.local",
            "intranet",
            "",
            "a b.example",
            "user@example.com",
            "example.com/..",
            "example.com\r\nX: y",
            "127.0.0.1:8080",
            "localhost:80",
        ] {
            assert!(open.host(bad).is_err(), "{bad}");
        }
        for good in ["example.com", "www.example.com:8443", "a.b.c.example"] {
            assert_eq!(open.host(good).as_deref(), Ok(good));
        }
        let listed = OriginRules {
            allowed: vec!["*.example.com".into(), "10.0.0.1".into()],
        };
        for good in ["a.example.com", "A.B.Example.com", "10.0.0.1:80"] {
            assert!(listed.host(good).is_ok(), "{good}");
        }
        for bad in [
            "example.com",
            "badexample.com",
            "example.org",
            "169.254.169.254",
        ] {
            assert!(listed.host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused_and_what_has_no_effect_is_not() {
        let rules = OriginRules::default();
        let update = rules
            .read(r#"{"domainName":"a.example.com","originPath":"/v2","customHeaders":{"x-a":"b"},"connectionAttempts":1,
                "timeouts":{"readTimeout":30},"originAccessControlConfig":{"enabled":false},"customOriginConfig":{"port":443}}"#)
            .unwrap();
        assert_eq!(update.host.as_deref(), Some("a.example.com"));
        assert_eq!(update.path_prefix, "/v2");
        assert_eq!(update.headers.len(), 1);
        for bad in [
            r#"{"originAccessControlConfig":{"enabled":true}}"#,
            r#"{"originPath":"v2"}"#,
            r#"{"originPath":"/v2/"}"#,
            r#"{"originPath":"/a b"}"#,
            r#"{"originPath":"/a?b"}"#,
            r#"{"customHeaders":{"content-length":"1"}}"#,
            r#"{"customHeaders":{"Host":"a"}}"#,
            r#"{"customHeaders":{"a":"b\r\nc: d"}}"#,
            r#"{"customHeaders":{"a b":"c"}}"#,
            r#"{"customHeaders":{"a":1}}"#,
            r#"{"region":"x"}"#,
            "[]",
            "null",
        ] {
            assert!(rules.read(bad).is_err(), "{bad}");
        }
    }
}
