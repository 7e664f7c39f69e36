//! A filter's text in words, numbers, addresses and signs.

use std::net::Ipv6Addr;

use super::{FilterError, MAX_TEXT};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Word(&'a str),
    Number(u32),
    /// One to four decimal parts of an IPv4 address with a dot between; at least two of them.
    Dotted(&'a str),
    Ipv6(Ipv6Addr),
    /// What stands behind one of [`NAMING`], as it is written.
    Text(&'a str),
    Sign(&'static str),
}

pub(super) struct Placed<'a> {
    pub(super) position: usize,
    pub(super) token: Token<'a>,
}

/// flowdog's own words: what follows them is a name, whatever characters it has.
pub(super) const NAMING: [&str; 4] = ["endpoint", "instance", "sni", "tag"];

/// Longer ones first.
const SIGNS: [&str; 25] = [
    "&&", "||", "<<", ">>", ">=", "<=", "==", "!=", "(", ")", "[", "]", ":", "/", "+", "-", "*",
    "%", "&", "|", "^", "<", ">", "=", "!",
];

pub(super) fn tokens(text: &str) -> Result<Vec<Placed<'_>>, FilterError> {
    if text.len() > MAX_TEXT {
        return Err(FilterError {
            position: MAX_TEXT,
            message: format!("the filter is longer than {MAX_TEXT} bytes"),
        });
    }
    let mut found = Vec::new();
    let mut position = 0;
    while let Some(rest) = text.get(position..).filter(|rest| !rest.is_empty()) {
        let blank = rest.len() - rest.trim_start().len();
        if blank > 0 {
            position += blank;
            continue;
        }
        let names = matches!(
            found.last(),
            Some(Placed { token: Token::Word(word), .. }) if NAMING.contains(word)
        );
        let read = if names { name(rest) } else { token(rest) };
        let (token, len) = read.ok_or_else(|| FilterError {
            position,
            message: format!(
                "`{}` has no meaning here",
                rest.chars().next().unwrap_or_default().escape_default()
            ),
        })?;
        found.push(Placed { position, token });
        position += len;
    }
    Ok(found)
}

/// Up to a blank or a parenthesis, or anything between quotation marks.
fn name(rest: &str) -> Option<(Token<'_>, usize)> {
    if let Some(quoted) = rest.strip_prefix('"') {
        let len = quoted.find('"')?;
        return Some((Token::Text(quoted.get(..len)?), len + 2));
    }
    let len = rest
        .find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '"'))
        .unwrap_or(rest.len());
    let text = rest.get(..len).filter(|text| !text.is_empty())?;
    Some((Token::Text(text), len))
}

fn token(rest: &str) -> Option<(Token<'_>, usize)> {
    let run = |wanted: fn(char) -> bool| rest.find(|c| !wanted(c)).unwrap_or(rest.len());
    let first = rest.chars().next()?;
    if first.is_ascii_hexdigit() || first == ':' {
        // "[0:4]" is no address: only what reads as a whole one is taken for it.
        let len = run(|c| c.is_ascii_hexdigit() || c == ':' || c == '.');
        let text = rest.get(..len)?;
        if let Ok(address) = text.parse() {
            return Some((Token::Ipv6(address), len));
        }
    }
    if first.is_ascii_digit() {
        let len = run(|c| c.is_ascii_digit() || c == '.');
        let text = rest.get(..len)?;
        if text.contains('.') {
            return Some((Token::Dotted(text), len));
        }
        let len = run(|c| c.is_ascii_alphanumeric());
        return Some((Token::Number(number(rest.get(..len)?)?), len));
    }
    // A backslash keeps a keyword from being one, as in `ip proto \tcp`.
    let escape = usize::from(first == '\\');
    let word = rest.get(escape..)?;
    if word.starts_with(|c: char| c.is_ascii_alphabetic()) {
        let len = word
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')))
            .unwrap_or(word.len());
        return Some((Token::Word(word.get(..len)?), len + escape));
    }
    let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign))?;
    Some((Token::Sign(sign), sign.len()))
}

/// Decimal, hexadecimal with 0x, or octal with 0, as in C.
fn number(text: &str) -> Option<u32> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u32::from_str_radix(digits, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(digits) if !digits.is_empty() => u32::from_str_radix(digits, 8).ok(),
        _ => text.parse().ok(),
    }
}
