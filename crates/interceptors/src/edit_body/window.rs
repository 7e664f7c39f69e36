//! Editing while a body passes: an expression whose matches have a bounded length sees the body through
//! a window, and only what may still become part of a match is held back.
//!
//! A match that begins at some place depends on the bytes from there on for as long as a match can be,
//! and on a character before and after. Whatever begins further from the end than that is settled. When
//! the sender pauses, a lazy automaton tells for each place near the end whether a match that begins
//! there can still come about; what lies before the first such place leaves at once, so that an event
//! stream is not held up.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::{Anchored, Input};
use regex_syntax::hir::Look;
use sdk::{Body, BodyError, Frame, Headers, Stream};

use super::Edit;

/// The longest match that is looked for in passing, in bytes; walking the end of the window takes its
/// square.
const MAX_MATCH: usize = 256;
/// Bytes of a character, which is what an expression may look at before and after a match.
const LOOK: usize = 4;
/// Bytes that leave at a time, or little more.
const OUTPUT: usize = 64 << 10;
/// Bytes that the automaton's cache may take, per body.
const CACHE: usize = 256 << 10;

/// What is needed to edit in passing.
#[derive(Debug)]
pub(super) struct Passing {
    /// The longest match.
    longest: usize,
    automaton: DFA,
}

impl Passing {
    /// `None` for an expression that needs the whole body: one whose matches have no bound, that matches
    /// nothing at all, or that asks for the body's beginning or end.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        let parsed = regex_syntax::ParserBuilder::new()
            .utf8(false)
            .build()
            .parse(pattern)
            .ok()?;
        let properties = parsed.properties();
        let longest = properties.maximum_len().filter(|max| *max <= MAX_MATCH)?;
        let looks = properties.look_set();
        if properties.minimum_len()? == 0
            || looks.contains(Look::Start)
            || looks.contains(Look::End)
        {
            return None;
        }
        let config = DFA::config()
            // Gives up at the first byte that is not ASCII, which counts as a match to come.
            .unicode_word_boundary(true)
            .cache_capacity(CACHE)
            .skip_cache_capacity_check(true);
        let automaton = DFA::builder()
            .configure(config)
            .syntax(regex_automata::util::syntax::Config::new().utf8(false))
            .thompson(regex_automata::nfa::thompson::Config::new().utf8(false))
            .build(pattern)
            .ok()?;
        Some(Self { longest, automaton })
    }
}

/// The part of a body that is being looked at.
#[derive(Debug)]
struct Window {
    edit: Arc<Edit>,
    /// Bytes that have left already but may be looked back at, then those that have not.
    buffer: Vec<u8>,
    /// Where those begin.
    at: usize,
    cache: Option<Cache>,
}

/// What becomes of a place near the end.
enum Place {
    /// A match may still come about.
    Open,
    /// No match begins here.
    Nothing,
    /// A match begins here, whatever follows.
    Match,
}

impl Window {
    /// Replaces what is settled and appends what leaves to `out`, up to [`OUTPUT`] and a replacement.
    fn settle(&mut self, is_last: bool, out: &mut Vec<u8>) {
        let Some(passing) = &self.edit.passing else {
            return;
        };
        let reserve = if is_last { 0 } else { passing.longest + LOOK };
        let Some(settled) = self.buffer.len().checked_sub(reserve) else {
            return;
        };
        while self.at < settled && out.len() < OUTPUT {
            let edit = Arc::clone(&self.edit);
            let found = edit.find.find_at(&self.buffer, self.at);
            let found = found.filter(|found| found.start() < settled);
            // What no match touches leaves in pieces.
            let start = found.map_or(settled, |found| found.start());
            let piece = start.min(self.at.saturating_add(OUTPUT));
            if piece < start || found.is_none() {
                self.leave(piece, out);
                continue;
            }
            self.replace(start, out);
        }
        self.forget();
    }

    /// Lets everything leave that cannot become part of a match.
    fn release(&mut self, out: &mut Vec<u8>) {
        while self.at < self.buffer.len() && out.len() < OUTPUT {
            match self.look(self.at) {
                Place::Open => break,
                Place::Nothing => self.leave(self.at + 1, out),
                Place::Match => self.replace(self.at, out),
            }
        }
        self.forget();
    }

    fn look(&mut self, start: usize) -> Place {
        let Some(passing) = &self.edit.passing else {
            return Place::Open;
        };
        let automaton = &passing.automaton;
        let cache = self.cache.get_or_insert_with(|| automaton.create_cache());
        let input = Input::new(&self.buffer)
            .anchored(Anchored::Yes)
            .range(start..);
        let Ok(mut state) = automaton.start_state_forward(cache, &input) else {
            return Place::Open;
        };
        let mut matched = false;
        for byte in self.buffer.iter().skip(start) {
            state = match automaton.next_state(cache, state, *byte) {
                Ok(state) => state,
                Err(_) => return Place::Open,
            };
            if state.is_match() {
                matched = true;
            } else if state.is_dead() {
                return if matched {
                    Place::Match
                } else {
                    Place::Nothing
                };
            } else if state.is_quit() {
                return Place::Open;
            }
        }
        Place::Open
    }

    fn leave(&mut self, to: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(self.buffer.get(self.at..to).unwrap_or_default());
        self.at = to;
    }

    /// Replaces the match that begins at `start`.
    fn replace(&mut self, start: usize, out: &mut Vec<u8>) {
        let edit = Arc::clone(&self.edit);
        let found = edit.find.captures_at(&self.buffer, start);
        let whole = found.as_ref().and_then(|groups| groups.get(0));
        let (Some(groups), Some(whole)) = (&found, whole) else {
            // The automaton and the expression are the same: there is one.
            return self.leave(start + 1, out);
        };
        out.extend_from_slice(self.buffer.get(self.at..whole.start()).unwrap_or_default());
        if edit.is_literal {
            out.extend_from_slice(&edit.replace);
        } else {
            groups.expand(&edit.replace, out);
        }
        self.at = whole.end();
    }

    /// Drops what is behind and no longer looked back at.
    fn forget(&mut self) {
        let behind = self.at.saturating_sub(LOOK);
        // Moving the rest to the front each time would take the square of it.
        if behind >= OUTPUT || behind * 2 > self.buffer.len() {
            self.buffer.drain(..behind);
            self.at -= behind;
        }
    }
}

/// A body that is edited as it passes.
#[derive(Debug)]
struct Edited {
    body: Body,
    window: Window,
    has_ended: bool,
    trailers: Option<Headers>,
}

/// Edits a body as it passes.
pub(super) fn edited(body: Body, edit: &Arc<Edit>) -> Body {
    let window = Window {
        edit: Arc::clone(edit),
        buffer: Vec::new(),
        at: 0,
        cache: None,
    };
    Body::stream(
        None,
        Edited {
            body,
            window,
            has_ended: false,
            trailers: None,
        },
    )
}

impl Stream for Edited {
    type Item = Result<Frame, BodyError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let mut out = Vec::new();
        loop {
            this.window.settle(this.has_ended, &mut out);
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::Data(out.into()))));
            }
            if this.has_ended {
                let trailers = this.trailers.take();
                return Poll::Ready(trailers.map(|fields| Ok(Frame::Trailers(fields))));
            }
            match this.body.poll_next(cx) {
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    this.window.buffer.extend_from_slice(&data);
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    this.trailers = Some(trailers);
                    this.has_ended = true;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => this.has_ended = true,
                Poll::Pending => {
                    this.window.release(&mut out);
                    if out.is_empty() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Ok(Frame::Data(out.into()))));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use core::future::poll_fn;
    use std::collections::VecDeque;

    use super::super::{EditConfig, edits};
    use super::*;

    /// Gives its pieces one at a time, with a pause after each.
    struct Pausing {
        pieces: VecDeque<Vec<u8>>,
        paused: bool,
    }

    impl Stream for Pausing {
        type Item = Result<Frame, BodyError>;

        fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            if !core::mem::replace(&mut self.paused, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.paused = false;
            let piece = self.pieces.pop_front();
            Poll::Ready(piece.map(|piece| Ok(Frame::Data(piece.into()))))
        }
    }

    fn edit(find: &str, replace: &str) -> Arc<Edit> {
        let config = EditConfig {
            find: find.to_owned(),
            replace: replace.to_owned(),
            literal: false,
        };
        edits("response", vec![config]).unwrap().remove(0)
    }

    async fn pass(edit: &Arc<Edit>, text: &[u8], size: usize) -> Vec<u8> {
        let pieces = text.chunks(size).map(<[u8]>::to_vec).collect();
        let source = Pausing {
            pieces,
            paused: false,
        };
        let mut body = edited(Body::stream(None, source), edit);
        let mut all = Vec::new();
        while let Some(frame) = body.next().await {
            let Ok(Frame::Data(data)) = frame else {
                panic!("{frame:?}")
            };
            assert!(data.len() < 2 * OUTPUT, "{}", data.len());
            all.extend_from_slice(&data);
        }
        all
    }

    #[tokio::test]
    async fn in_pieces_of_any_size_the_result_is_that_of_the_whole() {
        let texts: [&[u8]; 6] = [
            b"a cat, a category, concatenate; cat",
            b"aaaaaaaaaaaaaa",
            "\u{e9}cat cat\u{e9} \u{1f600}cat c\u{e4}t".as_bytes(),
            b"line\ncat\r\ncat\n\ncat",
            b"\xff\xfecat\xff cat\x00cat",
            b"",
        ];
        for (find, replace) in [
            ("cat", "dog"),
            (r"\bcat\b", "<$0>"),
            (r"(?-u:\b)cat(?-u:\B)", "x"),
            ("a{1,3}", "b"),
            ("a{1,3}?", "b"),
            ("aa|a", "[$0]"),
            ("a|aa", "[$0]"),
            ("cat|category|con", "{$0}"),
            (r"(?m)^cat$", "line"),
            (r"(?i)(c)(\w)(t)", "$3$2$1"),
            (r"[^\n]{1,5}\n", "L"),
            (r"\bc\w{1,20}e\b", "W"),
        ] {
            let edit = edit(find, replace);
            assert!(edit.passing.is_some(), "{find}");
            for text in texts {
                let whole = edit.find.replace_all(text, &edit.replace[..]);
                for size in [1, 2, 3, 7, 100] {
                    let passed = pass(&edit, text, size).await;
                    assert_eq!(
                        String::from_utf8_lossy(&passed),
                        String::from_utf8_lossy(&whole),
                        "{find} in pieces of {size}"
                    );
                }
            }
        }
    }

    #[tokio::test]
    async fn random_expressions_on_random_texts_in_random_pieces() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut pick = move |most: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state >> 11).unwrap() % most
        };
        let parts = [
            "a",
            "b",
            "ab",
            "[ab]",
            "[^a]",
            r"\w",
            r"\b",
            r"\B",
            "(a|ab)",
            "(?:ba|b|a)",
            "\u{e9}",
            ".",
            "a{1,3}",
            "b{2,4}?",
            "(?:ab){1,2}",
            r"(?m:^)",
            r"(?m:$)",
            r"\s",
        ];
        let letters = ["a", "b", "ab", " ", "\n", "\u{e9}", "ba"];
        let mut tried = 0;
        while tried < 1_500 {
            let mut find = String::new();
            for _ in 0..=pick(4) {
                find.push_str(parts[pick(parts.len())]);
                if pick(5) == 0 {
                    find.push('|');
                }
            }
            let Some(edit) = Some(edit(&find, "<$0>")).filter(|edit| edit.passing.is_some()) else {
                continue;
            };
            tried += 1;
            let text: String = (0..pick(40))
                .map(|_| letters[pick(letters.len())])
                .collect();
            let whole = edit.find.replace_all(text.as_bytes(), &edit.replace[..]);
            let size = 1 + pick(9);
            let passed = pass(&edit, text.as_bytes(), size).await;
            assert_eq!(
                String::from_utf8_lossy(&passed),
                String::from_utf8_lossy(&whole),
                "{find:?} on {text:?} in pieces of {size}"
            );
        }
    }

    #[tokio::test]
    async fn long_bodies_and_long_replacements_leave_in_pieces() {
        let text = b"a cat and more. ".repeat(50_000);
        for replace in ["", "dog", &"long ".repeat(1000)] {
            let edit = edit("cat", replace);
            let short = if replace.len() > 1000 {
                2_000
            } else {
                text.len()
            };
            let text = &text[..short];
            let whole = edit.find.replace_all(text, &edit.replace[..]);
            assert!(pass(&edit, text, 300_000).await == *whole);
            assert!(pass(&edit, text, 1_400).await == *whole);
        }
    }

    #[tokio::test]
    async fn nothing_is_held_back_that_cannot_become_a_match() {
        let edit = edit("secret-[0-9]{4}", "x");
        let mut source = VecDeque::from([
            b"data: one\n\n".to_vec(),
            b"data: sec".to_vec(),
            b"ret-12".to_vec(),
            b"34\n\n".to_vec(),
        ]);
        let pieces = core::mem::take(&mut source);
        let source = Pausing {
            pieces,
            paused: false,
        };
        let mut body = edited(Body::stream(None, source), &edit);
        let mut seen = Vec::new();
        while let Some(Ok(Frame::Data(data))) = poll_fn(|cx| body.poll_next(cx)).await {
            seen.push(String::from_utf8_lossy(&data).into_owned());
        }
        assert_eq!(seen, ["data: one\n\n", "data: ", "x\n\n"]);
    }

    #[test]
    fn expressions_that_need_the_whole_body_are_told() {
        for find in [
            "a*",
            "a+",
            "^a",
            "a$",
            r"\Aa",
            "(?s)<!--.*?-->",
            "a?",
            "a{300}",
        ] {
            assert!(edit(find, "").passing.is_none(), "{find}");
        }
    }
}
