//! A stream of numbered messages in its order, each once, and its text.

use core::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A stream that begins below this number is new; one that begins above was joined on its way.
const FRESH: i64 = 32;
/// Messages that wait for one before them, and their bytes.
const MAX_WAITING: usize = 64;
const MAX_WAITING_BYTES: usize = 256 << 10;
/// How long they wait for it.
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next one.
    Next,
    /// It, or one later than it, has been here.
    Again,
    /// One before it is missing.
    Ahead,
}

/// Puts messages into the order of their numbers.
#[derive(Debug, Default)]
pub(crate) struct Stream<T> {
    /// Wider than the numbers, so that there is one after the last.
    next: Option<i128>,
    waiting: BTreeMap<i64, (T, usize)>,
    bytes: usize,
    since: Option<Instant>,
    /// Messages that never came.
    pub(crate) missing: u64,
}

impl<T> Stream<T> {
    /// Where the message with this number stands; the first one decides where the stream begins.
    pub(crate) fn place(&mut self, number: i64) -> Place {
        let first = if (0..FRESH).contains(&number) {
            0
        } else {
            number
        };
        let next = *self.next.get_or_insert_with(|| first.into());
        match i128::from(number).cmp(&next) {
            Ordering::Equal => Place::Next,
            Ordering::Less => Place::Again,
            Ordering::Greater => Place::Ahead,
        }
    }

    /// Whether the stream began before its first message that was seen.
    pub(crate) fn was_joined(&self, number: i64) -> bool {
        self.next.is_none() && !(0..FRESH).contains(&number)
    }

    /// Says that the next message has been dealt with.
    pub(crate) fn advance(&mut self) {
        self.next = self.next.map(|next| next + 1);
    }

    /// Goes on at this number, whatever is missing.
    pub(crate) fn resume_at(&mut self, number: i64) {
        self.next = Some(number.into());
    }

    /// Takes a message of `size` bytes; messages whose turn it is come out with [`pop`](Self::pop).
    pub(crate) fn push(&mut self, number: i64, message: T, size: usize, now: Instant) -> Place {
        let place = self.place(number);
        if place == Place::Again || self.waiting.contains_key(&number) {
            return Place::Again;
        }
        self.waiting.insert(number, (message, size));
        self.bytes += size;
        if place == Place::Ahead {
            let since = *self.since.get_or_insert(now);
            let is_over = self.waiting.len() > MAX_WAITING
                || self.bytes > MAX_WAITING_BYTES
                || now.saturating_duration_since(since) > MAX_WAIT;
            if is_over {
                self.skip();
            }
        }
        place
    }

    /// The next message, if it is here.
    pub(crate) fn pop(&mut self) -> Option<T> {
        let (message, size) = self.waiting.remove(&i64::try_from(self.next?).ok()?)?;
        self.bytes -= size;
        self.advance();
        self.since = None;
        Some(message)
    }

    /// Gives up what is missing before the first message that waits.
    pub(crate) fn skip(&mut self) {
        if let (Some(next), Some((&first, _))) = (self.next, self.waiting.first_key_value()) {
            let missing = i128::from(first).abs_diff(next);
            self.missing = self
                .missing
                .saturating_add(u64::try_from(missing).unwrap_or(u64::MAX));
            self.next = Some(first.into());
        }
    }
}

/// Text whose characters may be split between messages. What is no UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Utf8 {
    rest: Vec<u8>,
}

impl Utf8 {
    /// The text up to the last whole character.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> String {
        let mut all = core::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut chunks = all.utf8_chunks().peekable();
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            if chunks.peek().is_none() && is_beginning(invalid) {
                self.rest = invalid.to_vec();
            } else {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        text
    }
}

/// Whether more bytes could make these a character.
fn is_beginning(bytes: &[u8]) -> bool {
    core::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: &[i64]) -> (Vec<i64>, u64) {
        let (mut stream, now, mut out) = (Stream::default(), Instant::now(), Vec::new());
        for &number in numbers {
            stream.push(number, number, 1, now);
            out.extend(core::iter::from_fn(|| stream.pop()));
        }
        (out, stream.missing)
    }

    #[test]
    fn threat_74_messages_come_in_order_and_once() {
        assert_eq!(run(&[0, 1, 2]).0, [0, 1, 2]);
        assert_eq!(run(&[0, 0, 1, 0, 1, 2]).0, [0, 1, 2]);
        assert_eq!(run(&[2, 1, 1, 0, 2, 3]).0, [0, 1, 2, 3]);
        assert_eq!(run(&[500, 501, 499]).0, [500, 501]);
        assert_eq!(run(&[-5, i64::MAX, i64::MIN]).0, [-5]);
        assert_eq!(run(&[i64::MAX, i64::MAX]).0, [i64::MAX]);
    }

    #[test]
    fn what_never_comes_is_given_up_after_a_number_of_messages_bytes_or_time() {
        let numbers: Vec<_> = (0..3).chain(4..80).collect();
        let (out, missing) = run(&numbers);
        assert_eq!((out, missing), (numbers, 1));
        let (mut stream, now) = (Stream::default(), Instant::now());
        stream.push(1, "late", 1, now);
        assert_eq!(stream.pop(), None);
        stream.push(2, "later", 1, now + Duration::from_secs(11));
        assert_eq!((stream.pop(), stream.pop()), (Some("late"), Some("later")));
        let (mut stream, now) = (Stream::default(), Instant::now());
        stream.push(1, "large", MAX_WAITING_BYTES + 1, now);
        assert_eq!(stream.pop(), Some("large"));
    }

    #[test]
    fn characters_split_between_messages_are_whole_again() {
        let text = "héllo \u{1f600} wörld";
        for size in 1..6 {
            let mut utf8 = Utf8::default();
            let pieces: String = text
                .as_bytes()
                .chunks(size)
                .map(|p| utf8.decode(p))
                .collect();
            assert_eq!(pieces, text);
        }
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.decode(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(utf8.decode(b"c"), "\u{fffd}c");
        assert_eq!(utf8.decode(b"\xf0\x9f\x98"), "");
        assert_eq!(utf8.decode(b"\x80!"), "\u{1f600}!");
    }
}
