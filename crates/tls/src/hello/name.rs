//! The server name a client asks for (RFC 6066 §3), brought to one spelling.

use std::net::IpAddr;

use super::{HelloFault, Reader};

/// RFC 1035 §2.3.4 in presentation form: 255 octets on the wire are 253 characters.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
const NAME_TYPE_HOST: u8 = 0;

/// Why a server name is not used as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NameFault {
    /// No `host_name` entry, or an empty one.
    #[error("the server name is empty")]
    Empty,
    /// An IP address in text, which RFC 6066 §3 forbids.
    #[error("the server name is an IP address")]
    IpLiteral,
    /// Longer than 253 characters, or a label longer than 63.
    #[error("the server name is too long")]
    TooLong,
    /// A byte that is no letter, digit, hyphen, underscore or dot: NUL, wildcard, blank, raw UTF-8.
    #[error("the server name has a character that host names do not have")]
    BadCharacter,
    /// An empty label, or one that begins or ends with a hyphen.
    #[error("the server name has a malformed label")]
    BadLabel,
    /// More than one `host_name` (RFC 6066 §3: MUST NOT).
    #[error("more than one server name")]
    Several,
}

impl NameFault {
    /// The label used in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::IpLiteral => "ip_literal",
            Self::TooLong => "too_long",
            Self::BadCharacter => "bad_character",
            Self::BadLabel => "bad_label",
            Self::Several => "several",
        }
    }
}

/// Reads the extension's data. The outer error is for the hello as a whole, the inner one for
/// the name alone.
pub(super) fn read(mut data: Reader<'_>) -> Result<Result<String, NameFault>, HelloFault> {
    let mut list = data.only(Reader::vector16)?;
    let mut found: Option<&[u8]> = None;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector16()?;
        if kind != NAME_TYPE_HOST {
            continue;
        }
        if found.is_some() {
            return Ok(Err(NameFault::Several));
        }
        found = Some(name.0);
    }
    Ok(normalise(found.unwrap_or_default()))
}

fn normalise(name: &[u8]) -> Result<String, NameFault> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err(NameFault::Empty);
    }
    if name.len() > MAX_NAME {
        return Err(NameFault::TooLong);
    }
    // A colon only occurs in IPv6 literals, and a client that sends one means an address.
    if let Ok(text) = std::str::from_utf8(name)
        && text
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
            .is_ok()
    {
        return Err(NameFault::IpLiteral);
    }
    for label in name.split(|&byte| byte == b'.') {
        // Underscores are no host name characters, yet names with them are served.
        if !label
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        {
            return Err(NameFault::BadCharacter);
        }
        if label.len() > MAX_LABEL {
            return Err(NameFault::TooLong);
        }
        if label.is_empty() || label.starts_with(b"-") || label.ends_with(b"-") {
            return Err(NameFault::BadLabel);
        }
    }
    String::from_utf8(name.to_ascii_lowercase()).map_err(|_non_ascii| NameFault::BadCharacter)
}
