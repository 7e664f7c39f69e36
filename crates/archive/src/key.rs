//! The names of objects: a template of the operator's, filled with what peers may have chosen.

use core::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Where an object goes, relative to the folder or the prefix.
///
/// Whatever a peer chose (the host) is reduced to letters, digits, `-`, `_` and `.`, and never begins
/// with a dot, so that it cannot lead out of the folder or hide a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Date,
    Endpoint,
    Hour,
    Host,
    Id,
    Time,
}

const FIELDS: [(&str, Field); 6] = [
    ("date", Field::Date),
    ("endpoint", Field::Endpoint),
    ("hour", Field::Hour),
    ("host", Field::Host),
    ("id", Field::Id),
    ("time", Field::Time),
];

/// The longest host in a name; S3 allows 1,024 bytes for all of it, file systems 255 for a part.
const MAX_NAME: usize = 120;
/// The longest template.
const MAX_TEMPLATE: usize = 256;

/// What a template cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidTemplate {
    /// A field that does not exist.
    #[error("there is no {{{0}}}")]
    UnknownField(String),
    /// Objects would replace one another.
    #[error("it lacks {{id}}, so that objects would replace one another")]
    NoId,
    /// Not the name of an object.
    #[error("it is no relative path of letters, digits, -, _, =, . and /")]
    BadText,
}

/// What fills a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts<'a> {
    /// When the object's first entry began.
    pub(crate) at: SystemTime,
    /// The host of its entries.
    pub(crate) host: &'a str,
    /// The endpoint they came through.
    pub(crate) endpoint: &'a str,
    /// What no other object has.
    pub(crate) id: &'a str,
}

impl Template {
    /// Reads a template such as `{date}/{endpoint}/{time}-{id}`.
    ///
    /// # Errors
    /// [`InvalidTemplate`] says why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, InvalidTemplate> {
        let mut parts = Vec::new();
        let mut rest = text;
        if text.len() > MAX_TEMPLATE {
            return Err(InvalidTemplate::BadText);
        }
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) = after.split_once('}').ok_or(InvalidTemplate::BadText)?;
            let field = FIELDS.iter().find(|(known, _)| *known == name);
            let (_, field) = field
                .ok_or_else(|| InvalidTemplate::UnknownField(name.chars().take(40).collect()))?;
            parts.push(Part::Text(before.to_owned()));
            parts.push(Part::Field(*field));
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        let has_good_text = parts.iter().all(|part| match part {
            Part::Text(text) => text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_=./".contains(&b)),
            Part::Field(_) => true,
        });
        let has_good_segments = text
            .split('/')
            .all(|segment| !segment.is_empty() && !segment.starts_with('.'));
        if !has_good_text || !has_good_segments {
            return Err(InvalidTemplate::BadText);
        }
        if !parts.contains(&Part::Field(Field::Id)) {
            return Err(InvalidTemplate::NoId);
        }
        Ok(Self { parts })
    }

    /// Whether entries of different hosts go to different objects.
    #[must_use]
    pub(crate) fn is_by_host(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Host))
    }

    /// Whether entries of different endpoints go to different objects.
    #[must_use]
    pub(crate) fn is_by_endpoint(&self) -> bool {
        self.parts.contains(&Part::Field(Field::Endpoint))
    }

    /// The name of an object, without what its form adds at the end.
    #[must_use]
    pub(crate) fn fill(&self, facts: &Facts<'_>) -> String {
        let stamp = Stamp::of(facts.at);
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(Field::Date) => out.push_str(&stamp.date),
                Part::Field(Field::Hour) => out.push_str(&stamp.hour),
                Part::Field(Field::Time) => out.push_str(&stamp.time),
                Part::Field(Field::Endpoint) => out.push_str(&plain(facts.endpoint)),
                Part::Field(Field::Host) => out.push_str(&plain(facts.host)),
                Part::Field(Field::Id) => out.push_str(&plain(facts.id)),
            }
        }
        out
    }
}

/// A moment in UTC, in the pieces that names are made of.
pub(crate) struct Stamp {
    /// `2026-11-28`
    pub(crate) date: String,
    /// `13`
    hour: String,
    /// `20261128T130512Z`
    pub(crate) time: String,
}

impl Stamp {
    pub(crate) fn of(at: SystemTime) -> Self {
        // The longest time that can be written: year 9999.
        let latest = UNIX_EPOCH + core::time::Duration::from_secs(253_402_300_799);
        let at = at.clamp(UNIX_EPOCH, latest);
        let text = humantime::format_rfc3339_seconds(at).to_string();
        let (date, clock) = text.split_once('T').unwrap_or((&text, ""));
        let hour = clock.split(':').next().unwrap_or_default();
        let time = text.chars().filter(|c| !matches!(c, '-' | ':')).collect();
        Self {
            date: date.to_owned(),
            hour: hour.to_owned(),
            time,
        }
    }
}

/// Text from outside as a part of a name.
#[must_use]
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes().take(MAX_NAME) {
        let byte = byte.to_ascii_lowercase();
        let is_plain = byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let is_inner_dot = byte == b'.' && !out.is_empty() && !out.ends_with('.');
        if is_plain || is_inner_dot {
            out.push(char::from(byte));
        } else {
            out.push('_');
        }
    }
    if out.is_empty() {
        let _ = out.write_str("none");
    }
    out
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    fn fill(template: &str, host: &str) -> String {
        Template::parse(template).unwrap().fill(&Facts {
            at: UNIX_EPOCH + Duration::from_secs(1_795_871_112),
            host,
            endpoint: "vpce-0123456789abcdef0",
            id: "ab12-7",
        })
    }

    #[test]
    fn templates_are_filled() {
        assert_eq!(
            fill(
                "har/{date}/{hour}/{endpoint}/{host}/{time}-{id}",
                "Example.COM"
            ),
            "har/2026-11-28/13/vpce-0123456789abcdef0/example.com/20261128T130512Z-ab12-7"
        );
        assert_eq!(fill("date={date}/{id}", ""), "date=2026-11-28/ab12-7");
    }

    #[test]
    fn templates_that_lead_elsewhere_are_refused() {
        use InvalidTemplate::{BadText, NoId, UnknownField};
        for (text, fault) in [
            ("{date}", NoId),
            ("", BadText),
            ("/{id}", BadText),
            ("../{id}", BadText),
            ("a//{id}", BadText),
            ("{id}/", BadText),
            ("a b/{id}", BadText),
            ("{id", BadText),
            ("id}{id}", BadText),
            ("{id}{port}", UnknownField("port".to_owned())),
        ] {
            assert_eq!(Template::parse(text), Err(fault), "{text}");
        }
    }

    #[test]
    fn threat_66_hosts_cannot_lead_out_of_the_folder() {
        for (host, name) in [
            ("../../etc/passwd", "_._.__etc_passwd"),
            ("..", "_."),
            (".hidden", "_hidden"),
            ("a..b", "a._b"),
            ("a\n\u{1b}[2J\0b", "a___2j_b"),
            ("[::1]", "___1_"),
            ("caf\u{e9}.example", "caf__.example"),
            ("%2e%2e%2f", "_2e_2e_2f"),
            ("", "none"),
        ] {
            assert_eq!(plain(host), name, "{host:?}");
            let key = fill("{host}/{id}", host);
            assert_eq!(key.split('/').count(), 2, "{key}");
        }
        assert_eq!(plain(&"a".repeat(5000)).len(), MAX_NAME);
    }
}
