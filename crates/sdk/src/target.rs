//! What a request asks for: the request target of RFC 9112 §3.2, kept byte for byte.

use core::fmt;

use http::Method;

/// A request target.
///
/// HTTP/1 requests to an origin bear [`Target::Origin`]; every HTTP/2 request that names a scheme
/// and an authority arrives as [`Target::Absolute`], its pseudo-fields being the parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `http://host:port/path?query`, as sent to proxies, and every HTTP/2 request but CONNECT.
    Absolute {
        /// `http` or `https` as a rule, as the client wrote it.
        scheme: Scheme,
        /// `host` or `host:port`.
        authority: Authority,
        /// Path and query.
        path: PathAndQuery,
    },
    /// `*`, only with OPTIONS.
    Asterisk,
    /// `host:port`, only with CONNECT.
    Authority(Authority),
    /// `/path?query`.
    Origin(PathAndQuery),
}

/// Why a request target, or a part of one, was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// A control character, a space, a fragment mark, or bytes that are not UTF-8.
    #[error("byte 0x{0:02x} may not be part of a request target")]
    BadByte(u8),
    /// No bytes where some are needed.
    #[error("empty request target or part of one")]
    Empty,
    /// The shape does not fit the method, or is none of the four of RFC 9112 §3.2.
    #[error(
        "not a request target: /path, http://host/path, host:port with CONNECT or * with OPTIONS"
    )]
    Form,
    /// `user@host`: RFC 9110 §4.2.4 has recipients treat it as an error.
    #[error("a request target must not carry user information")]
    UserInfo,
}

fn check_bytes(bytes: &[u8], also: &[u8]) -> Result<(), InvalidTarget> {
    if bytes.is_empty() {
        return Err(InvalidTarget::Empty);
    }
    // Bytes from 0x80 on are let through when they are UTF-8: clients do send them unescaped.
    match bytes
        .iter()
        .find(|&&b| b <= b' ' || b == 0x7f || b == b'#' || also.contains(&b))
    {
        Some(&bad) => Err(InvalidTarget::BadByte(bad)),
        None => Ok(()),
    }
}

fn text(bytes: &[u8]) -> Result<Box<str>, InvalidTarget> {
    match core::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(error) => Err(InvalidTarget::BadByte(
            bytes.get(error.valid_up_to()).copied().unwrap_or(0),
        )),
    }
}

/// A path with an optional query; begins with `/`, or is `*` (OPTIONS on HTTP/2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathAndQuery(Box<str>);

impl PathAndQuery {
    /// Checks and copies `/path?query`.
    ///
    /// # Errors
    /// [`InvalidTarget`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidTarget> {
        check_bytes(bytes, b"")?;
        if bytes.first() != Some(&b'/') && bytes != b"*" {
            return Err(InvalidTarget::Form);
        }
        Ok(Self(text(bytes)?))
    }

    /// Path and query as they were written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path, without the query. Not decoded.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.split_once('?').map_or(&*self.0, |(path, _)| path)
    }

    /// What follows the first `?`. Not decoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.0.split_once('?').map(|(_, query)| query)
    }
}

/// `host` or `host:port`; IPv6 addresses in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority(Box<str>);

impl Authority {
    /// Checks and copies `host:port`.
    ///
    /// # Errors
    /// [`InvalidTarget`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidTarget> {
        check_bytes(bytes, b"/?\\\"<>")?;
        if bytes.contains(&b'@') {
            return Err(InvalidTarget::UserInfo);
        }
        let text = text(bytes)?;
        let (host, port) = split_port(&text);
        let host_ok = !host.is_empty()
            && (!host.contains([':', '[', ']'])
                || host
                    .strip_prefix('[')
                    .and_then(|h| h.strip_suffix(']'))
                    .is_some_and(|h| {
                        !h.is_empty()
                            && h.bytes()
                                .all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.')
                    }));
        if !host_ok
            || port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit()) || port.len() > 5)
        {
            return Err(InvalidTarget::Form);
        }
        Ok(Self(text))
    }

    /// The authority as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host alone, with the brackets of an IPv6 address.
    #[must_use]
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// The port, when one is written and is a port number.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        split_port(&self.0).1?.parse().ok()
    }
}

/// `host:port` into host and what follows the colon; knows IPv6 brackets.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// The scheme of an absolute target, as it was written; compares without case.
#[derive(Clone, Debug, Eq)]
pub struct Scheme(Box<str>);

impl Scheme {
    /// Checks and copies a scheme (RFC 3986 §3.1).
    ///
    /// # Errors
    /// [`InvalidTarget`] says what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidTarget> {
        let first = bytes.first().ok_or(InvalidTarget::Empty)?;
        let bad = |b: &u8| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        if !first.is_ascii_alphabetic() || bytes.iter().any(bad) {
            return Err(InvalidTarget::Form);
        }
        Ok(Self(text(bytes)?))
    }

    /// The scheme as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Scheme {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

macro_rules! display_as_written {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
display_as_written!(PathAndQuery, Authority, Scheme);

impl Target {
    /// Reads the request target of an HTTP/1 request line. Which form is allowed depends on the
    /// method (RFC 9112 §3.2).
    ///
    /// # Errors
    /// [`InvalidTarget`] says what is wrong.
    pub fn parse(method: &Method, bytes: &[u8]) -> Result<Self, InvalidTarget> {
        if method == Method::CONNECT {
            return Ok(Self::Authority(Authority::parse(bytes)?));
        }
        match bytes {
            [] => Err(InvalidTarget::Empty),
            b"*" if method == Method::OPTIONS => Ok(Self::Asterisk),
            [b'/', ..] => Ok(Self::Origin(PathAndQuery::parse(bytes)?)),
            _ => {
                check_bytes(bytes, b"")?;
                let colon = bytes
                    .windows(3)
                    .position(|w| w == b"://")
                    .ok_or(InvalidTarget::Form)?;
                let (scheme, rest) = bytes.split_at(colon);
                let rest = rest.get(3..).unwrap_or_default();
                let path_at = rest
                    .iter()
                    .position(|b| matches!(b, b'/' | b'?'))
                    .unwrap_or(rest.len());
                let (authority, path) = rest.split_at(path_at);
                let path = match path {
                    // RFC 9110 §4.2.3: an empty path means "/".
                    [] => PathAndQuery("/".into()),
                    [b'?', ..] => PathAndQuery(format!("/{}", text(path)?).into()),
                    _ => PathAndQuery::parse(path)?,
                };
                Ok(Self::Absolute {
                    scheme: Scheme::parse(scheme)?,
                    authority: Authority::parse(authority)?,
                    path,
                })
            }
        }
    }

    /// Path and query; none with CONNECT and `*`.
    #[must_use]
    pub fn path_and_query(&self) -> Option<&PathAndQuery> {
        match self {
            Self::Absolute { path, .. } | Self::Origin(path) => Some(path),
            Self::Asterisk | Self::Authority(_) => None,
        }
    }

    /// The path without the query, not decoded. Empty with CONNECT and `OPTIONS *`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.path_and_query().map_or("", PathAndQuery::path)
    }

    /// What follows the first `?`, not decoded.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.path_and_query()?.query()
    }

    /// The authority, when the target names one.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        match self {
            Self::Absolute { authority, .. } | Self::Authority(authority) => Some(authority),
            Self::Asterisk | Self::Origin(_) => None,
        }
    }
}

/// As an HTTP/1 request line writes it.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute {
                scheme,
                authority,
                path,
            } => write!(f, "{scheme}://{authority}{path}"),
            Self::Asterisk => f.write_str("*"),
            Self::Authority(authority) => write!(f, "{authority}"),
            Self::Origin(path) => write!(f, "{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(target: &str) -> Result<Target, InvalidTarget> {
        Target::parse(&Method::GET, target.as_bytes())
    }

    #[test]
    fn targets_are_written_back_as_they_came() {
        for same in [
            "/",
            "/a?b=c?d",
            "/%41//../x",
            "http://h:8080/p?q",
            "HTTP://h/",
            "http://[::1]:80/",
            "/caf\u{e9}",
        ] {
            assert_eq!(get(same).unwrap().to_string(), same);
        }
        assert_eq!(get("http://h").unwrap().to_string(), "http://h/");
        assert_eq!(get("http://h?q").unwrap().to_string(), "http://h/?q");
        assert_eq!(
            Target::parse(&Method::OPTIONS, b"*").unwrap(),
            Target::Asterisk
        );
        assert_eq!(
            Target::parse(&Method::CONNECT, b"h:443")
                .unwrap()
                .to_string(),
            "h:443"
        );
    }

    #[test]
    fn threat_10_bad_targets_are_refused() {
        use InvalidTarget::{BadByte, Empty, Form, UserInfo};
        for (target, fault) in [
            ("", Empty),
            ("*", Form),
            ("h:443", Form),
            ("a", Form),
            ("/a b", BadByte(b' ')),
            ("/a\r", BadByte(b'\r')),
            ("/a\0", BadByte(0)),
            ("/a#b", BadByte(b'#')),
            ("http:///p", Empty),
            ("://h/", Empty),
            ("http://u@h/", UserInfo),
            ("http://h:8a/", Form),
            ("http://h:123456/", Form),
            ("http://[::1/", Form),
            ("http://[]/", Form),
            ("http://a:b:1/", Form),
        ] {
            assert_eq!(get(target), Err(fault), "{target:?}");
        }
        assert_eq!(Target::parse(&Method::GET, b"/\xff"), Err(BadByte(0xff)));
        assert_eq!(Target::parse(&Method::CONNECT, b"/x"), Err(BadByte(b'/')));
    }

    #[test]
    fn parts_are_found() {
        let target = get("https://[2001:db8::1]:8443/a/b?x=1").unwrap();
        let authority = target.authority().unwrap();
        assert_eq!(
            (authority.host(), authority.port()),
            ("[2001:db8::1]", Some(8443))
        );
        let path = target.path_and_query().unwrap();
        assert_eq!((path.path(), path.query()), ("/a/b", Some("x=1")));
        assert_eq!(Authority::parse(b"h:").unwrap().port(), None);
    }
}
