//! Who asks, and where.

use std::fmt;
use std::time::SystemTime;

/// Keys to sign requests with. `Debug` shows the access key id only, and part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `AKIA…` or `ASIA…`.
    pub access_key_id: String,
    /// Never printed.
    pub secret_access_key: String,
    /// For temporary credentials. Never printed.
    pub session_token: Option<String>,
    /// When temporary credentials end.
    pub expires: Option<SystemTime>,
    /// Where they were found, for the log.
    pub source: &'static str,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.access_key_id.chars().take(8).collect();
        f.debug_struct("Credentials")
            .field("access_key_id", &format_args!("{shown}…"))
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

/// A region's name, as `eu-central-1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region(String);

impl Region {
    /// A name that can stand in a host name; `None` for anything else.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let right = !name.is_empty()
            && name.len() <= 32
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        right.then(|| Self(name.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The domain of the region's endpoints: China has one of its own.
    #[must_use]
    pub fn domain(&self) -> &'static str {
        if self.0.starts_with("cn-") {
            "amazonaws.com.cn"
        } else {
            "amazonaws.com"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_in_debug_output() {
        let credentials = Credentials {
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret_access_key: "planted-secret".to_owned(),
            session_token: Some("planted-token".to_owned()),
            expires: None,
            source: "environment",
        };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKIAIOSF…"), "{shown}");
        assert!(!shown.contains("planted"), "{shown}");
    }

    #[test]
    fn a_region_cannot_lead_to_another_host() {
        assert!(Region::new("eu-central-1").is_some());
        for bad in ["", "EU", "evil.example/", "a@b", "x y"] {
            assert_eq!(Region::new(bad), None, "{bad:?}");
        }
        assert_eq!(
            Region::new("cn-north-1").unwrap().domain(),
            "amazonaws.com.cn"
        );
    }
}
