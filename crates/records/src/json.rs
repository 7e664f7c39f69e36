//! JSON written member after member, into a buffer that is there already.
//!
//! A busy appliance makes a record of every exchange, and a record is mostly text. Here that text goes
//! through the `json-escape-simd` crate, which looks at many bytes at once for what must be escaped;
//! `serde_json` looks at each, and wants a value of everything first.

use core::cell::Cell;
use core::fmt::Display;
use std::io::Write as _;

use serde::Serialize;

/// Bytes of a thread's buffer that are kept for the next text.
const KEPT: usize = 64 << 10;

/// A text that `write` makes. It is made in a buffer of the thread, which is in the processor's cache from
/// the last one, and copied at once to memory of its own, which another thread had before and is not.
pub fn made(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    thread_local! {
        static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    }
    let mut buffer = BUFFER.take();
    buffer.clear();
    write(&mut buffer);
    let text = buffer.as_slice().to_vec();
    if buffer.capacity() <= KEPT {
        BUFFER.set(buffer);
    }
    text
}

/// Members as [`Object::members`] takes them, to be kept.
pub fn members(members: impl FnOnce(&mut Object<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    members(&mut Object {
        out: &mut out,
        is_first: true,
    });
    out.shrink_to_fit();
    out
}

/// An object (RFC 8259 §4) that is being written. Names of members have no character that JSON escapes, and may come
/// more than once: they are ours, or names of header fields (RFC 9110 §5.6.2).
#[derive(Debug)]
pub struct Object<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

impl Object<'_> {
    /// Adds an object to `out`; `members` writes what is in it.
    pub fn write(out: &mut Vec<u8>, members: impl FnOnce(&mut Object<'_>)) {
        out.push(b'{');
        let mut object = Object {
            out,
            is_first: true,
        };
        members(&mut object);
        object.out.push(b'}');
    }

    /// A member that is text. While it is written the buffer has room for six times its bytes, which is what
    /// escapes come to at most (RFC 8259 §7).
    pub fn text(&mut self, name: &str, text: &str) {
        json_escape_simd::escape_into(text, self.member(name));
    }

    /// A member that is text in which JSON escapes nothing: words of ours, and names of methods and header
    /// fields, which are tokens (RFC 9110 §5.6.2).
    pub fn token(&mut self, name: &str, token: &str) {
        debug_assert!(
            !token
                .bytes()
                .any(|byte| byte < b' ' || matches!(byte, b'"' | b'\\')),
            "{token:?} is no token"
        );
        let out = self.member(name);
        out.push(b'"');
        out.extend_from_slice(token.as_bytes());
        out.push(b'"');
    }

    /// A member that is text, as it is displayed. For what cannot contain a character that JSON escapes:
    /// identifiers of ours, addresses, times.
    pub fn displayed(&mut self, name: &str, value: impl Display) {
        // Memory takes what is written to it.
        let _ = write!(self.member(name), "\"{value}\"");
    }

    /// A member that is bytes, in base64 (RFC 4648 §4).
    pub fn base64(&mut self, name: &str, bytes: &[u8]) {
        let out = self.member(name);
        out.push(b'"');
        base64_simd::STANDARD.encode_append(bytes, out);
        out.push(b'"');
    }

    /// Members that are written already.
    pub fn members(&mut self, members: &[u8]) {
        if !members.is_empty() {
            self.separate();
            self.out.extend_from_slice(members);
        }
    }

    /// A member of any kind: numbers, and what is seldom there. `null` if it cannot be written in JSON.
    pub fn value(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        let out = self.member(name);
        let before = out.len();
        if serde_json::to_writer(&mut *out, value).is_err() {
            out.truncate(before);
            out.extend_from_slice(b"null");
        }
    }

    /// A member that is an object.
    pub fn object(&mut self, name: &str, members: impl FnOnce(&mut Object<'_>)) {
        Object::write(self.member(name), members);
    }

    /// A member that is a list of objects.
    pub fn list(&mut self, name: &str, items: impl FnOnce(&mut List<'_>)) {
        let out = self.member(name);
        out.push(b'[');
        let mut list = List {
            out,
            is_first: true,
        };
        items(&mut list);
        list.out.push(b']');
    }

    fn separate(&mut self) {
        if !core::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
    }

    fn member(&mut self, name: &str) -> &mut Vec<u8> {
        self.out.reserve(name.len() + 4);
        self.separate();
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        self.out
    }
}

/// A list of objects that is being written.
#[derive(Debug)]
pub struct List<'o> {
    out: &'o mut Vec<u8>,
    is_first: bool,
}

impl List<'_> {
    /// One more object.
    pub fn object(&mut self, members: impl FnOnce(&mut Object<'_>)) {
        if !core::mem::take(&mut self.is_first) {
            self.out.push(b',');
        }
        Object::write(self.out, members);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let mut out = Vec::new();
        Object::write(&mut out, |object| {
            object.token("a", "b");
            object.object("c", |_| {});
            object.list("d", |list| {
                list.object(|_| {});
                list.object(|object| object.value("e", &1.5));
            });
            object.displayed("f", 7);
            object.list("g", |_| {});
            let no_json = BTreeMap::from([((1, 2), 3)]);
            object.value("h", &no_json);
            object.members(&members(|_| {}));
            object.members(&members(|object| {
                object.base64("i", b"");
                object.base64("j", b"fooba");
            }));
        });
        let text = core::str::from_utf8(&out).unwrap();
        assert_eq!(
            text,
            r#"{"a":"b","c":{},"d":[{},{"e":1.5}],"f":"7","g":[],"h":null,"i":"","j":"Zm9vYmE="}"#
        );
    }

    #[test]
    fn a_text_has_no_more_memory_than_it_needs_and_nothing_of_the_last_one() {
        for length in [10, KEPT * 2, 3] {
            let text = made(|out| {
                out.reserve(length * 2);
                out.resize(length, b'x');
            });
            assert_eq!((text.len(), text.capacity()), (length, length));
        }
    }

    #[test]
    fn threat_66_no_text_leaves_its_string() {
        // Every character that might mean something, at every place of what is looked at together.
        for length in 0..70 {
            for character in (0..=0x20u8)
                .map(char::from)
                .chain("\"\\/\u{7f}\u{85}\u{2028}\u{10ffff}".chars())
            {
                let text: String = [
                    "x".repeat(length),
                    character.to_string(),
                    "y".repeat(70 - length),
                ]
                .concat();
                let mut out = Vec::new();
                Object::write(&mut out, |object| object.text("a", &text));
                assert!(!out.iter().any(|byte| *byte < b' '), "{text:?}");
                let back: Value = serde_json::from_slice(&out).unwrap();
                assert_eq!(back, json!({ "a": text }));
            }
        }
    }
}
