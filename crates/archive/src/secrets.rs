//! Secrets in texts: the values of members and elements whose names say that they are secrets.
//!
//! A text is searched as it is, without a parser: it may be cut, or not what its type says. JSON
//! members (`"SecretAccessKey": "…"`) and XML elements (`<SessionToken>…</SessionToken>`) are found.

use std::borrow::Cow;

use records::{REDACTED, Redaction};

/// The longest name that is looked up.
const MAX_NAME: usize = 64;
/// The longest tag; without a limit, a text of tags that never end would be read once for each.
const MAX_TAG: usize = 1024;

/// The text without the secrets that can be told by a name.
pub(crate) fn scrub<'a>(text: &'a str, redaction: &Redaction) -> Cow<'a, str> {
    let bytes = text.as_bytes();
    let (mut out, mut kept, mut at) = (String::new(), 0, 0);
    while let Some(next) = bytes
        .get(at..)
        .and_then(|rest| memchr::memchr2(b'"', b'<', rest))
    {
        at += next;
        let found = if bytes.get(at) == Some(&b'<') {
            element(bytes, at, redaction)
        } else {
            member(bytes, at, redaction)
        };
        match found {
            Some((from, to)) => {
                out.push_str(text.get(kept..from).unwrap_or_default());
                out.push_str(REDACTED);
                (kept, at) = (to, to);
            }
            None => at += 1,
        }
    }
    if kept == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    Cow::Owned(out)
}

/// The name that ends at the first `end`, and where that is.
fn name(bytes: &[u8], from: usize, end: impl Fn(u8) -> bool) -> Option<(&str, usize)> {
    let rest = bytes.get(from..)?;
    let length = rest.iter().take(MAX_NAME + 1).position(|b| end(*b))?;
    let name = core::str::from_utf8(rest.get(..length)?).ok()?;
    Some((name, from + length))
}

/// Where the secret value of the member is whose name begins with the quote at `at`.
fn member(bytes: &[u8], at: usize, redaction: &Redaction) -> Option<(usize, usize)> {
    // In a text within a text quotes are escaped, however often.
    let (name, end) = name(bytes, at + 1, |b| b == b'"' || b == b'\\')?;
    if name.is_empty() || !redaction.is_secret_name(name) {
        return None;
    }
    let mut next = end;
    while bytes.get(next) == Some(&b'\\') {
        next += 1;
    }
    let escapes = next - end;
    next += usize::from(bytes.get(next) == Some(&b'"'));
    let skip = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
            at += 1;
        }
        at
    };
    next = skip(next);
    if bytes.get(next) != Some(&b':') {
        return None;
    }
    next = skip(next + 1);
    let quote = next + escapes;
    if bytes.get(quote) == Some(&b'"') {
        let from = quote + 1;
        let to = string_end(bytes, from, escapes);
        return (to > from).then_some((from, to));
    }
    // A number or a word; lists and objects have names of their own.
    let length = bytes
        .get(next..)?
        .iter()
        .position(|b| matches!(b, b',' | b'}' | b']' | b'{' | b'['))
        .unwrap_or(bytes.len() - next);
    let value = bytes.get(next..next + length)?.trim_ascii();
    let is_value = !value.is_empty() && value != b"null";
    is_value.then_some((next, next + value.len()))
}

/// Where a string ends whose quotes have so many backslashes before them; the end of the text, if it
/// is cut.
fn string_end(bytes: &[u8], from: usize, escapes: usize) -> usize {
    let mut backslashes = 0;
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\\' => backslashes += 1,
            b'"' if backslashes == escapes => return at - escapes,
            _ => backslashes = 0,
        }
    }
    bytes.len()
}

/// Where the secret content of the element is that begins at `at`.
fn element(bytes: &[u8], at: usize, redaction: &Redaction) -> Option<(usize, usize)> {
    let (name, end) = name(bytes, at + 1, |b| b == b'>' || b.is_ascii_whitespace())?;
    // A prefix says only whose name it is.
    let local = name.rsplit(':').next().unwrap_or(name);
    if local.is_empty() || !redaction.is_secret_name(local) {
        return None;
    }
    let tag = bytes
        .get(end..)?
        .iter()
        .take(MAX_TAG)
        .position(|b| *b == b'>')?;
    let from = end + tag + 1;
    let rest = bytes.get(from..)?;
    let length = rest.iter().position(|b| *b == b'<').unwrap_or(rest.len());
    (length > 0).then_some((from, from + length))
}

#[cfg(test)]
mod tests {
    use records::RedactionConfig;

    use super::*;

    #[test]
    fn threat_67_secrets_in_texts_are_replaced_whole_or_cut() {
        let redaction = Redaction::default();
        for (text, kept) in [
            (
                r#"{"SecretAccessKey" : "a\"b", "Region":"x"}"#,
                r#"{"SecretAccessKey" : "(redacted)", "Region":"x"}"#,
            ),
            (r#"{"token":"never end"#, r#"{"token":"(redacted)"#),
            (r#"{"token":12,"a":1}"#, r#"{"token":(redacted),"a":1}"#),
            (
                r#"{"token":null,"password":""}"#,
                r#"{"token":null,"password":""}"#,
            ),
            (
                r#"{"token":{"password":"x"}}"#,
                r#"{"token":{"password":"(redacted)"}}"#,
            ),
            (
                r#"{"Message":"{\"token\":\"abc\",\"a\":\"b\"}"}"#,
                r#"{"Message":"{\"token\":\"(redacted)\",\"a\":\"b\"}"}"#,
            ),
            (
                "<a:SecretAccessKey>x/y</a:SecretAccessKey><Region>r</Region>",
                "<a:SecretAccessKey>(redacted)</a:SecretAccessKey><Region>r</Region>",
            ),
            ("<SessionToken x='1'>cut", "<SessionToken x='1'>(redacted)"),
            ("a \"token\" is <b>", "a \"token\" is <b>"),
            ("\"", "\""),
            ("\"token\"", "\"token\""),
            ("\"token\":", "\"token\":"),
            (
                "\u{e9}\"token\": \"\u{e9}\"",
                "\u{e9}\"token\": \"(redacted)\"",
            ),
        ] {
            assert_eq!(scrub(text, &redaction), kept, "{text}");
        }
    }

    #[test]
    fn what_the_operator_wants_shown_is_shown() {
        let config = RedactionConfig {
            show_parameters: vec!["token".to_owned()],
            ..RedactionConfig::default()
        };
        let text = r#"{"token":"x","password":"y"}"#;
        let shown = scrub(text, &Redaction::new(&config)).into_owned();
        assert_eq!(shown, r#"{"token":"x","password":"(redacted)"}"#);
    }
}
