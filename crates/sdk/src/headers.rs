//! Header and trailer fields: an ordered list that keeps each name as it was written.
//!
//! HTTP/1 clients and servers can be told apart by the case and order of their fields, and some
//! only work with the spelling they know. [`Headers`] therefore keeps both, and compares names
//! without regard to case (RFC 9110 §5.1).

use core::fmt;
use core::hash::{Hash, Hasher};
use std::borrow::{Borrow, Cow};
use std::sync::Arc;

use http::HeaderValue;

/// The name of a field: an RFC 9110 §5.6.2 token whose case is kept.
///
/// Two names are equal when they differ only in case. Cloning never copies the text.
///
/// ```
/// use flowdog_sdk::FieldName;
/// const HELLO: FieldName = FieldName::from_static("X-Hello");
/// assert_eq!(HELLO, *"x-hello");
/// assert_eq!(HELLO.as_str(), "X-Hello");
/// ```
#[derive(Clone)]
pub struct FieldName(Text);

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

/// Why a field name was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// A name has at least one character.
    #[error("a field name must not be empty")]
    Empty,
    /// A byte outside `tchar` of RFC 9110 §5.6.2.
    #[error(
        "byte 0x{0:02x} may not be part of a field name; letters, digits and !#$%&'*+-.^_`|~ may"
    )]
    BadByte(u8),
    /// More than [`FieldName::MAX_LEN`] bytes.
    #[error("a field name may have at most {} bytes", FieldName::MAX_LEN)]
    TooLong,
}

impl FieldName {
    /// The longest name accepted, in bytes. No registered name comes near; the limit keeps a
    /// hostile peer from making one field as large as a whole header block.
    pub const MAX_LEN: usize = 1024;

    /// A name known when the program is written.
    ///
    /// # Panics
    /// When `name` is not a token. In a `const` that is a compile error.
    #[must_use]
    pub const fn from_static(name: &'static str) -> Self {
        assert!(
            check(name.as_bytes()).is_ok(),
            "not a field name: RFC 9110 allows letters, digits and !#$%&'*+-.^_`|~"
        );
        Self(Text::Static(name))
    }

    /// Checks and copies a name as it came off the wire.
    ///
    /// # Errors
    /// [`InvalidName`] says which rule of RFC 9110 §5.6.2 was broken.
    pub fn parse(name: &[u8]) -> Result<Self, InvalidName> {
        if let Some(known) = names::find(name) {
            return Ok(Self(Text::Static(known)));
        }
        check(name)?;
        // A token is ASCII, so this cannot fail after the check.
        let text = core::str::from_utf8(name).map_err(|_| InvalidName::Empty)?;
        Ok(Self(Text::Shared(Arc::from(text))))
    }

    /// The name as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }
}

const fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

const fn check(name: &[u8]) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > FieldName::MAX_LEN {
        return Err(InvalidName::TooLong);
    }
    // `for` over an iterator is not possible in a const fn.
    let mut at = 0;
    while at < name.len() {
        if !is_tchar(name[at]) {
            return Err(InvalidName::BadByte(name[at]));
        }
        at += 1;
    }
    Ok(())
}

impl TryFrom<&str> for FieldName {
    type Error = InvalidName;
    fn try_from(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name.as_bytes())
    }
}

impl core::str::FromStr for FieldName {
    type Err = InvalidName;
    fn from_str(name: &str) -> Result<Self, InvalidName> {
        Self::parse(name.as_bytes())
    }
}

/// [`http::HeaderName`] is always lower case, as HTTP/2 wants it.
impl From<&http::HeaderName> for FieldName {
    fn from(name: &http::HeaderName) -> Self {
        let name = name.as_str();
        Self(match names::find(name.as_bytes()) {
            Some(known) => Text::Static(known),
            None => Text::Shared(Arc::from(name)),
        })
    }
}

impl AsRef<str> for FieldName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for FieldName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

impl PartialEq for FieldName {
    fn eq(&self, other: &Self) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

impl Eq for FieldName {}

impl PartialEq<str> for FieldName {
    fn eq(&self, other: &str) -> bool {
        self.as_str().eq_ignore_ascii_case(other)
    }
}

impl PartialEq<&str> for FieldName {
    fn eq(&self, other: &&str) -> bool {
        self.as_str().eq_ignore_ascii_case(other)
    }
}

impl Hash for FieldName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for byte in self.as_str().bytes() {
            state.write_u8(byte.to_ascii_lowercase());
        }
        state.write_u8(0xff);
    }
}

/// One field: a name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name, case kept.
    pub name: FieldName,
    /// The value. An [`HeaderValue`] cannot hold CR, LF or NUL.
    pub value: HeaderValue,
}

impl Field {
    /// The value as text, in which U+FFFD stands for what is not UTF-8.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        let value = self.value.as_bytes();
        // Text is read in strides; looking for what is not text goes byte by byte.
        core::str::from_utf8(value).map_or_else(|_| String::from_utf8_lossy(value), Cow::Borrowed)
    }
}

/// The fields of a message, in the order in which they are sent.
///
/// The same name may appear several times. Look-ups are linear, which is faster than hashing for
/// the few dozen fields a message has. Clones share the fields until one of them changes.
#[derive(Clone, Default)]
pub struct Headers {
    /// `None` when there has never been a field.
    fields: Option<Arc<Vec<Field>>>,
}

impl Headers {
    /// No fields.
    #[must_use]
    pub const fn new() -> Self {
        Self { fields: None }
    }

    /// No fields, with room for `fields` of them.
    #[must_use]
    pub fn with_capacity(fields: usize) -> Self {
        Self {
            fields: Some(Arc::new(Vec::with_capacity(fields))),
        }
    }

    /// Puts `value` where the first field called `name` stands, spelled as given here, and takes
    /// the others of that name away; adds the field at the end when there was none.
    pub fn set(&mut self, name: FieldName, value: HeaderValue) {
        let Some(first) = self.position(name.as_str()) else {
            self.append(name, value);
            return;
        };
        let fields = self.change();
        let mut at = 0;
        fields.retain(|field| {
            let keep = at <= first || field.name != name;
            at += 1;
            keep
        });
        if let Some(slot) = fields.get_mut(first) {
            *slot = Field { name, value };
        }
    }

    /// As [`Headers::set`], but a field that is there keeps its spelling.
    pub fn set_value(&mut self, name: &FieldName, value: HeaderValue) {
        let spelling = self
            .position(name.as_str())
            .and_then(|at| self.fields().get(at))
            .map(|field| field.name.clone());
        self.set(spelling.unwrap_or_else(|| name.clone()), value);
    }

    /// Adds a field at the end, whether or not the name is there already.
    pub fn append(&mut self, name: FieldName, value: HeaderValue) {
        self.change().push(Field { name, value });
    }

    /// Takes every field called `name` away. Says how many there were.
    pub fn remove(&mut self, name: impl AsRef<str>) -> usize {
        let name = name.as_ref();
        if self.position(name).is_none() {
            return 0;
        }
        let fields = self.change();
        let before = fields.len();
        fields.retain(|field| field.name != *name);
        before - fields.len()
    }

    /// Spells every field called `from` as `to`, keeping place and value; `to` may differ from
    /// `from` only in case. Fields that bore the new name before stay. Says how many were renamed.
    ///
    /// On HTTP/2 names travel in lower case (RFC 9113 §8.2.1), so there the case of `to` is lost.
    pub fn rename(&mut self, from: impl AsRef<str>, to: &FieldName) -> usize {
        let mut renamed = 0;
        if self.position(from.as_ref()).is_none() {
            return 0;
        }
        for field in self.change() {
            if field.name == *from.as_ref() {
                field.name = to.clone();
                renamed += 1;
            }
        }
        renamed
    }

    /// Keeps the fields for which `keep` answers true.
    pub fn retain(&mut self, mut keep: impl FnMut(&FieldName, &HeaderValue) -> bool) {
        self.change()
            .retain(|field| keep(&field.name, &field.value));
    }

    /// Takes every field away.
    pub fn clear(&mut self) {
        self.fields = None;
    }

    /// The value of the first field called `name`.
    #[must_use]
    pub fn get(&self, name: impl AsRef<str>) -> Option<&HeaderValue> {
        let name = name.as_ref();
        self.fields()
            .iter()
            .find(|field| field.name == *name)
            .map(|field| &field.value)
    }

    /// The value of the first field called `name`, when it is visible ASCII.
    #[must_use]
    pub fn get_str(&self, name: impl AsRef<str>) -> Option<&str> {
        self.get(name)?.to_str().ok()
    }

    /// The values of all fields called `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a HeaderValue> {
        self.fields()
            .iter()
            .filter(move |field| field.name == *name)
            .map(|field| &field.value)
    }

    /// Whether a field called `name` is there.
    #[must_use]
    pub fn contains(&self, name: impl AsRef<str>) -> bool {
        self.position(name.as_ref()).is_some()
    }

    /// The members of a comma-separated list (RFC 9110 §5.6.1), over all fields called `name`,
    /// trimmed, empty ones left out. Values that are not visible ASCII are skipped.
    pub fn list<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.get_all(name)
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|member| member.trim_matches([' ', '\t']))
            .filter(|member| !member.is_empty())
    }

    /// Every field, in order.
    pub fn iter(&self) -> core::slice::Iter<'_, Field> {
        self.fields().iter()
    }

    /// How many fields there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields().len()
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields().is_empty()
    }

    /// The bytes all names and values take, plus the 32 per field that RFC 9113 §6.5.2 adds for
    /// what a receiver needs to keep them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.fields()
            .iter()
            .map(|field| field.name.as_str().len() + field.value.len() + 32)
            .sum()
    }

    fn position(&self, name: &str) -> Option<usize> {
        self.fields().iter().position(|field| field.name == *name)
    }

    fn fields(&self) -> &[Field] {
        self.fields.as_deref().map_or(&[], Vec::as_slice)
    }

    /// The fields of this clone alone.
    fn change(&mut self) -> &mut Vec<Field> {
        Arc::make_mut(self.fields.get_or_insert_default())
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.fields() == other.fields()
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|field| (&field.name, &field.value)))
            .finish()
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = &'a Field;
    type IntoIter = core::slice::Iter<'a, Field>;
    fn into_iter(self) -> Self::IntoIter {
        self.fields().iter()
    }
}

impl IntoIterator for Headers {
    type Item = Field;
    type IntoIter = std::vec::IntoIter<Field>;
    fn into_iter(self) -> Self::IntoIter {
        self.fields
            .map(Arc::unwrap_or_clone)
            .unwrap_or_default()
            .into_iter()
    }
}

impl Extend<Field> for Headers {
    fn extend<I: IntoIterator<Item = Field>>(&mut self, fields: I) {
        self.change().extend(fields);
    }
}

impl FromIterator<Field> for Headers {
    fn from_iter<I: IntoIterator<Item = Field>>(fields: I) -> Self {
        Self {
            fields: Some(Arc::new(fields.into_iter().collect())),
        }
    }
}

/// From the map type of the `http` crate: lower-case names, grouped by name.
impl<M: Borrow<http::HeaderMap>> From<M> for Headers {
    fn from(map: M) -> Self {
        map.borrow()
            .iter()
            .map(|(name, value)| Field {
                name: name.into(),
                value: value.clone(),
            })
            .collect()
    }
}

impl Headers {
    /// Into the map type of the `http` crate, as HTTP/2 libraries take it: names in lower case,
    /// the order among different names lost.
    #[must_use]
    pub fn to_map(&self) -> http::HeaderMap {
        let mut map = http::HeaderMap::with_capacity(self.len());
        for field in self {
            // Every token is a valid `HeaderName`, so nothing is skipped here.
            if let Ok(name) = http::HeaderName::from_bytes(field.name.as_str().as_bytes()) {
                map.append(name, field.value.clone());
            }
        }
        map
    }
}

#[path = "header_names.rs"]
mod names;

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        fields
            .iter()
            .map(|(name, value)| Field {
                name: name.parse().unwrap(),
                value: value.parse().unwrap(),
            })
            .collect()
    }

    fn listed(headers: &Headers) -> Vec<String> {
        headers
            .iter()
            .map(|field| format!("{}: {}", field.name, field.value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn names_compare_without_case_and_keep_it() {
        let name: FieldName = "User-AGENT".parse().unwrap();
        assert_eq!(name, FieldName::from_static("user-agent"));
        assert_eq!(name.as_str(), "User-AGENT");
        let hash = |name: &FieldName| {
            let mut state = std::collections::hash_map::DefaultHasher::new();
            name.hash(&mut state);
            state.finish()
        };
        assert_eq!(hash(&name), hash(&FieldName::from_static("user-agent")));
    }

    #[test]
    fn threat_07_names_outside_the_token_rule_are_refused() {
        assert_eq!(FieldName::parse(b""), Err(InvalidName::Empty));
        for bad in [
            &b"a b"[..],
            b"a:",
            b"a\r",
            b"a\n",
            b"a\0",
            b"\tb",
            b"caf\xc3\xa9",
            b"\xa0x",
            b"a(b",
            b"a\x7f",
        ] {
            assert!(
                matches!(FieldName::parse(bad), Err(InvalidName::BadByte(_))),
                "{bad:?}"
            );
        }
        assert_eq!(
            FieldName::parse(&[b'a'; FieldName::MAX_LEN + 1]),
            Err(InvalidName::TooLong)
        );
        assert!(FieldName::parse(b"!#$%&'*+-.^_`|~09azAZ").is_ok());
    }

    #[test]
    fn threat_06_values_with_line_ends_or_nul_cannot_be_made() {
        for bad in ["a\r\nb", "a\nb", "a\rb", "a\0b"] {
            assert!(bad.parse::<HeaderValue>().is_err(), "{bad:?}");
            assert!(HeaderValue::from_bytes(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(HeaderValue::try_from(bad.to_owned()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_clone_is_a_copy_when_one_of_both_changes() {
        let first = headers(&[("A", "1"), ("B", "2")]);
        let mut second = first.clone();
        assert_eq!(second.remove("none"), 0);
        second.append(FieldName::from_static("C"), HeaderValue::from_static("3"));
        second.remove("a");
        assert_eq!(listed(&first), ["A: 1", "B: 2"]);
        assert_eq!(listed(&second), ["B: 2", "C: 3"]);
        assert_eq!(Headers::new(), Headers::with_capacity(3));
        let mut emptied = first.clone();
        emptied.clear();
        assert!(emptied.is_empty() && first.len() == 2);
    }

    #[test]
    fn set_replaces_the_first_in_place_and_drops_the_rest() {
        let mut h = headers(&[("A", "1"), ("b", "2"), ("a", "3"), ("C", "4"), ("A", "5")]);
        h.set(FieldName::from_static("a"), HeaderValue::from_static("new"));
        assert_eq!(listed(&h), ["a: new", "b: 2", "C: 4"]);
        h.set(FieldName::from_static("D"), HeaderValue::from_static("6"));
        h.set_value(&FieldName::from_static("c"), HeaderValue::from_static("7"));
        h.set_value(&FieldName::from_static("e"), HeaderValue::from_static("8"));
        assert_eq!(listed(&h), ["a: new", "b: 2", "C: 7", "D: 6", "e: 8"]);
    }

    #[test]
    fn append_remove_and_rename_keep_the_order_of_the_others() {
        let mut h = headers(&[("Host", "x"), ("User-Agent", "curl"), ("Accept", "*/*")]);
        h.append(
            FieldName::from_static("accept"),
            HeaderValue::from_static("text/html"),
        );
        assert_eq!(h.get_all("ACCEPT").count(), 2);
        assert_eq!(
            h.rename("user-agent", &FieldName::from_static("user-agent")),
            1
        );
        assert_eq!(h.rename("nothing", &FieldName::from_static("x")), 0);
        assert_eq!(h.remove("accept"), 2);
        assert_eq!(listed(&h), ["Host: x", "user-agent: curl"]);
        assert_eq!(h.get_str("USER-AGENT"), Some("curl"));
        assert!(!h.contains("accept"));
    }

    #[test]
    fn lists_are_split_over_fields_and_commas() {
        let h = headers(&[
            ("Accept-Encoding", "gzip, ,\tdeflate"),
            ("accept-encoding", "br"),
        ]);
        assert_eq!(
            h.list("accept-encoding").collect::<Vec<_>>(),
            ["gzip", "deflate", "br"]
        );
    }

    #[test]
    fn conversion_to_a_header_map_and_back_loses_only_case_and_grouping() {
        let h = headers(&[("Set-Cookie", "a=1"), ("X-B", "2"), ("set-cookie", "c=3")]);
        let back = Headers::from(h.to_map());
        assert_eq!(back.len(), 3);
        assert_eq!(
            back.get_all("set-cookie").collect::<Vec<_>>(),
            ["a=1", "c=3"]
        );
        assert_eq!(back.get_str("x-b"), Some("2"));
    }
}
