//! Patterns for the names of hosts.

use core::fmt;
use core::str::FromStr;

use crate::filter::is_like;

/// A pattern for host names: labels, with `*` for any run of characters.
///
/// `*` crosses dots, so `*.example.com` matches `a.b.example.com`; it does not match
/// `example.com` itself. Case and a trailing dot make no difference (RFC 4343).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameGlob {
    pattern: String,
}

/// A text is no [`NameGlob`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a host name has letters, digits, hyphens, underscores and dots; * stands for any of them")]
pub struct InvalidNameGlob;

impl NameGlob {
    /// The pattern in lower case, without a trailing dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether `name` is one of the names meant.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name);
        is_like(self.pattern.as_bytes(), name.as_bytes(), true)
    }
}

impl FromStr for NameGlob {
    type Err = InvalidNameGlob;

    fn from_str(text: &str) -> Result<Self, InvalidNameGlob> {
        let fits = !text.is_empty()
            && text.len() <= 253
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'*'));
        if !fits {
            return Err(InvalidNameGlob);
        }
        let pattern = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        Ok(Self { pattern })
    }
}

impl fmt::Display for NameGlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pattern)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_crosses_labels_and_ignores_case_and_the_root_dot() {
        let glob: NameGlob = "*.Example.com".parse().unwrap();
        for name in ["a.example.com", "a.b.EXAMPLE.com.", "-.example.com"] {
            assert!(glob.matches(name), "{name}");
        }
        for name in ["example.com", "aexample.com", "a.example.com.evil.org", ""] {
            assert!(!glob.matches(name), "{name}");
        }
        let glob: NameGlob = "sts*.amazonaws.com".parse().unwrap();
        assert!(glob.matches("sts.eu-west-1.amazonaws.com"));
        assert!(glob.matches("sts.amazonaws.com"));
        assert!("*".parse::<NameGlob>().unwrap().matches(""));
        for text in ["", "a b", "ex\u{e4}mple.com", "a/b"] {
            assert!(text.parse::<NameGlob>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_takes_no_exponential_time() {
        let glob: NameGlob = "*a*a*a*a*a*a*a*a*a*a*b".parse().unwrap();
        assert!(!glob.matches(&"a".repeat(253)));
    }
}
