//! The line that somebody is typing, as far as it can be told from the keys.
//!
//! What the keys do is decided by the program that reads them. The keys of readline and of the
//! terminal's own line editing are followed; history, completion and yanked text cannot be seen.

use regex::Regex;

/// Longest line that is kept, in characters; the rest of a longer one is not looked at.
const MAX_LINE: usize = 4096;
/// Longest escape sequence.
const MAX_ESCAPE: usize = 32;

/// To the end of the line, and everything before the cursor away.
const KILL: &[u8] = b"\x05\x15";
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// What a rule wants of a line.
#[derive(Clone, Debug)]
pub(crate) enum LineAction {
    /// This in its place.
    Replace(String),
    /// What matches is replaced.
    Edit(String),
    /// The session ends.
    End,
}

/// A rule about lines.
#[derive(Clone, Debug)]
pub(crate) struct LineRule {
    pub(crate) name: String,
    pub(crate) find: Regex,
    pub(crate) action: LineAction,
}

/// What becomes of the keys of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The keys to send on instead; `None`: as they are.
    pub(crate) keys: Option<Vec<u8>>,
    /// The session is to end.
    pub(crate) ends: bool,
    /// The rules that were applied.
    pub(crate) rules: Vec<String>,
}

/// A line with its cursor.
#[derive(Debug, Default)]
pub(crate) struct TypedLine {
    line: Vec<u8>,
    cursor: usize,
    escape: Option<Vec<u8>>,
    in_paste: bool,
}

impl TypedLine {
    /// Follows the keys and applies the rules to each line that ends.
    pub(crate) fn judge(&mut self, keys: &[u8], rules: &[LineRule]) -> Judged {
        let mut judged = Judged::default();
        let mut sent = Vec::with_capacity(keys.len());
        // The keys of the line that have not been sent yet, and the escape sequences among them.
        let (mut pending, mut escapes) = (Vec::new(), Vec::new());
        for &key in keys {
            let was_escape = self.escape.is_some() || key == 0x1b;
            let Some(line) = self.press(key) else {
                pending.push(key);
                if was_escape {
                    escapes.push(key);
                }
                continue;
            };
            match rules.iter().find(|rule| rule.find.is_match(&line)) {
                None => sent.append(&mut pending),
                Some(rule) => {
                    judged.rules.push(rule.name.clone());
                    let instead = match &rule.action {
                        LineAction::Replace(text) => text.clone(),
                        LineAction::Edit(with) => {
                            rule.find.replace_all(&line, with.as_str()).into_owned()
                        }
                        LineAction::End => {
                            judged.ends = true;
                            return judged;
                        }
                    };
                    // Inside a pasted text keys are only text.
                    let (close, open) = if self.in_paste {
                        (PASTE_ENDS, PASTE_BEGINS)
                    } else {
                        (&b""[..], &b""[..])
                    };
                    pending.clear();
                    sent.append(&mut escapes);
                    for part in [close, KILL, instead.as_bytes(), b"\r", open] {
                        sent.extend_from_slice(part);
                    }
                    escapes.clear();
                    continue;
                }
            }
            escapes.clear();
            sent.push(key);
        }
        if !judged.rules.is_empty() {
            sent.append(&mut pending);
            judged.keys = Some(sent);
        }
        judged
    }

    /// Takes a key; gives the line that it ends.
    fn press(&mut self, key: u8) -> Option<String> {
        if let Some(escape) = &mut self.escape {
            escape.push(key);
            self.go_on_escape();
            return None;
        }
        match key {
            0x1b => self.escape = Some(vec![key]),
            b'\r' | b'\n' => {
                self.cursor = 0;
                let line = core::mem::take(&mut self.line);
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            // ^C and ^U: everything away. Before the cursor only, by readline; but a shell without
            // it takes all.
            0x03 => self.clear(),
            0x15 => {
                self.line.drain(..self.cursor);
                self.cursor = 0;
            }
            0x01 => self.cursor = 0,
            0x05 => self.cursor = self.line.len(),
            0x02 => self.left(),
            0x06 => self.right(),
            0x0b => self.line.truncate(self.cursor),
            0x04 => self.delete(),
            0x08 | 0x7f => {
                if self.cursor > 0 {
                    self.left();
                    self.delete();
                }
            }
            0x17 => {
                let is_blank = |line: &[u8], at: usize| line.get(at).is_some_and(|b| *b == b' ');
                let end = self.cursor;
                while self.cursor > 0 && is_blank(&self.line, self.cursor - 1) {
                    self.cursor -= 1;
                }
                while self.cursor > 0 && !is_blank(&self.line, self.cursor - 1) {
                    self.cursor -= 1;
                }
                self.line.drain(self.cursor..end);
            }
            b'\t' => self.insert(b' '),
            0..0x20 => {}
            _ => self.insert(key),
        }
        None
    }

    fn go_on_escape(&mut self) {
        let Some(escape) = &self.escape else { return };
        let is_over = match escape.as_slice() {
            [_, b'[' | b'O'] => false,
            [_, b'[', .., last] => (0x40..=0x7e).contains(last),
            _ => true,
        };
        if !is_over && escape.len() < MAX_ESCAPE {
            return;
        }
        match self.escape.take().unwrap_or_default().as_slice() {
            b"\x1b[C" | b"\x1bOC" => self.right(),
            b"\x1b[D" | b"\x1bOD" => self.left(),
            b"\x1b[H" | b"\x1bOH" | b"\x1b[1~" => self.cursor = 0,
            b"\x1b[F" | b"\x1bOF" | b"\x1b[4~" => self.cursor = self.line.len(),
            b"\x1b[3~" => self.delete(),
            PASTE_BEGINS => self.in_paste = true,
            PASTE_ENDS => self.in_paste = false,
            _ => {}
        }
    }

    fn insert(&mut self, key: u8) {
        if self.line.len() < MAX_LINE {
            self.line.insert(self.cursor.min(self.line.len()), key);
            self.cursor += 1;
        }
    }

    fn clear(&mut self) {
        self.line.clear();
        self.cursor = 0;
    }

    fn is_inside_character(&self) -> bool {
        self.line
            .get(self.cursor)
            .is_some_and(|byte| byte & 0xc0 == 0x80)
    }

    fn left(&mut self) {
        self.cursor = self.cursor.saturating_sub(1);
        while self.cursor > 0 && self.is_inside_character() {
            self.cursor -= 1;
        }
    }

    fn right(&mut self) {
        self.cursor = (self.cursor + 1).min(self.line.len());
        while self.is_inside_character() {
            self.cursor += 1;
        }
    }

    /// The character at the cursor.
    fn delete(&mut self) {
        if self.cursor < self.line.len() {
            self.line.remove(self.cursor);
            while self.is_inside_character() {
                self.line.remove(self.cursor);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(action: LineAction) -> Vec<LineRule> {
        let find = Regex::new(r"\brm\s+-rf\b").unwrap();
        let name = "no-rm".to_owned();
        vec![LineRule { name, find, action }]
    }

    fn lines(keys: &str) -> Vec<String> {
        let mut typed = TypedLine::default();
        keys.bytes().filter_map(|key| typed.press(key)).collect()
    }

    #[test]
    fn a_line_is_what_the_keys_leave_of_it() {
        for (keys, expected) in [
            ("ls -l\r", "ls -l"),
            ("lx\x7fs\r", "ls"),
            ("nonsense\x15ls\r", "ls"),
            ("sleep 9\x03ls\r", "ls"),
            ("m -rf /\x01r\r", "rm -rf /"),
            ("r -rf\x1b[D\x1b[D\x1b[D\x1bODm\x05 /\r", "rm -rf /"),
            ("rm -xx\x17-rf\r", "rm -rf"),
            ("rm -xx\x02\x02\x0b\x05rf\r", "rm -rf"),
            ("h\u{e9}\u{1f600}x\x7f\x7f\x7f\x7fa\n", "a"),
            ("\x1b[200~rm -rf\x1b[201~\r", "rm -rf"),
            ("a\x1b[3~\x1b[H\x1b[3~b\r", "b"),
            ("rm\t-rf\r", "rm -rf"),
        ] {
            assert_eq!(lines(keys), [expected], "{keys:?}");
        }
        let long = "x".repeat(10_000);
        assert_eq!(lines(&format!("{long}\rls\r"))[1], "ls");
    }

    #[test]
    fn a_line_that_is_not_wanted_is_replaced_key_by_key_or_at_once() {
        let rules = rules(LineAction::Replace("# no".into()));
        let mut typed = TypedLine::default();
        for key in "rm -rf /".bytes() {
            assert_eq!(typed.judge(&[key], &rules), Judged::default());
        }
        let judged = typed.judge(b"\r", &rules);
        assert_eq!(judged.keys.as_deref(), Some(&b"\x05\x15# no\r"[..]));
        assert_eq!(judged.rules, ["no-rm"]);
        assert_eq!(typed.judge(b"ls\r", &rules), Judged::default());
        let judged = typed.judge(b"ls\rrm  -rf x\rpwd\rha", &rules);
        assert_eq!(
            judged.keys.as_deref(),
            Some(&b"ls\r\x05\x15# no\rpwd\rha"[..])
        );
        // Inside a paste keys would be text: the paste is closed first.
        let judged = typed.judge(b"\x03\x1b[200~rm -rf /\rls\x1b[201~\r", &rules);
        let expected = b"\x1b[200~\x1b[201~\x05\x15# no\r\x1b[200~ls\x1b[201~\r";
        assert_eq!(judged.keys.as_deref(), Some(&expected[..]));
    }

    #[test]
    fn a_line_can_be_edited_or_end_the_session() {
        let edit = rules(LineAction::Edit("rm -i".into()));
        let judged = TypedLine::default().judge(b"sudo rm -rf /\r", &edit);
        assert_eq!(judged.keys.as_deref(), Some(&b"\x05\x15sudo rm -i /\r"[..]));
        let judged = TypedLine::default().judge(b"rm -rf /\r", &rules(LineAction::End));
        assert!(judged.ends && judged.keys.is_none());
    }
}
