//! What stood on a terminal, line by line, as plain text.
//!
//! A terminal of one line: what is erased, overwritten or moved within a line is followed, everything
//! else that a terminal can be told is left out, and so are programs that take the whole screen.

/// Longest line, in characters; longer ones are broken.
const MAX_LINE: usize = 2000;
/// Parameters of a control sequence that are kept.
const MAX_PARAMETERS: usize = 64;

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// An escape that takes one more character.
    EscapeOne,
    Control(String),
    /// A string up to BEL or ST; whether an escape has come that may end it.
    String(bool),
}

/// Makes text out of what a program wrote to a terminal.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    state: State,
    line: Vec<char>,
    cursor: usize,
    on_full_screen: bool,
}

impl Transcript {
    /// The lines that are complete after this output.
    pub(crate) fn feed(&mut self, output: &str) -> String {
        let mut text = String::new();
        for character in output.chars() {
            self.put(character, &mut text);
        }
        text
    }

    /// The rest.
    pub(crate) fn finish(&mut self) -> String {
        let mut text = String::new();
        if !self.line.is_empty() {
            self.end_line(&mut text);
        }
        text
    }

    fn put(&mut self, character: char, text: &mut String) {
        match (core::mem::take(&mut self.state), character) {
            (State::String(_), '\u{7}' | '\u{9c}') | (State::String(true), '\\') => {}
            (State::String(_), _) => self.state = State::String(character == '\u{1b}'),
            (_, '\u{1b}') => self.state = State::Escape,
            (State::Escape, '[') => self.state = State::Control(String::new()),
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => self.state = State::String(false),
            (State::Escape, '(' | ')' | '*' | '+' | '#' | ' ') => self.state = State::EscapeOne,
            (State::Escape | State::EscapeOne, _) => {}
            (State::Control(parameters), '@'..='~') => self.control(&parameters, character, text),
            (State::Control(mut parameters), _) => {
                if parameters.len() < MAX_PARAMETERS {
                    parameters.push(character);
                }
                self.state = State::Control(parameters);
            }
            (State::Text, _) if self.on_full_screen => {}
            (State::Text, '\n') => self.end_line(text),
            (State::Text, '\r') => self.cursor = 0,
            (State::Text, '\u{8}') => self.cursor = self.cursor.saturating_sub(1),
            (State::Text, '\t') => {
                self.write(' ', text);
                while !self.cursor.is_multiple_of(8) {
                    self.write(' ', text);
                }
            }
            (State::Text, _) if is_invisible(character) => {}
            (State::Text, _) => self.write(character, text),
        }
    }

    fn write(&mut self, character: char, text: &mut String) {
        if self.cursor >= MAX_LINE {
            self.end_line(text);
        }
        if self.line.len() <= self.cursor {
            self.line.resize(self.cursor + 1, ' ');
        }
        if let Some(place) = self.line.get_mut(self.cursor) {
            *place = character;
        }
        self.cursor += 1;
    }

    fn end_line(&mut self, text: &mut String) {
        let line: String = self.line.drain(..).collect();
        text.push_str(line.trim_end());
        text.push('\n');
        self.cursor = 0;
    }

    fn control(&mut self, parameters: &str, last: char, text: &mut String) {
        if parameters.starts_with('?') {
            let is_screen = matches!(parameters, "?1049" | "?1047" | "?47");
            if is_screen && matches!(last, 'h' | 'l') {
                self.on_full_screen = last == 'h';
                if self.on_full_screen {
                    text.push_str("[a program takes the whole screen]\n");
                }
            }
            return;
        }
        let number: usize = parameters.parse().unwrap_or(0);
        let count = number.clamp(1, MAX_LINE);
        let end = self.line.len();
        match last {
            'C' => self.cursor = (self.cursor + count).min(MAX_LINE),
            'D' => self.cursor = self.cursor.saturating_sub(count),
            'G' => self.cursor = count - 1,
            'K' => match number {
                0 => self.line.truncate(self.cursor),
                1 => {
                    let erased = self.line.iter_mut().take(self.cursor + 1);
                    erased.for_each(|place| *place = ' ');
                }
                _ => self.line.clear(),
            },
            'P' if self.cursor < end => {
                self.line.drain(self.cursor..(self.cursor + count).min(end));
            }
            '@' if self.cursor < end => {
                let blanks = core::iter::repeat_n(' ', count);
                self.line.splice(self.cursor..self.cursor, blanks);
                self.line.truncate(MAX_LINE);
            }
            // The screen is erased or the cursor put elsewhere: what stood here is a line.
            'J' | 'H' if !self.line.is_empty() => self.end_line(text),
            _ => {}
        }
    }
}

/// Controls, and what turns or hides text without being seen.
fn is_invisible(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(output: &str) -> String {
        let mut transcript = Transcript::default();
        // One character at a time must be the same as all at once.
        let mut pieces = String::new();
        for character in output.chars() {
            pieces.push_str(&transcript.feed(character.encode_utf8(&mut [0; 4])));
        }
        pieces.push_str(&transcript.finish());
        let mut transcript = Transcript::default();
        let whole = transcript.feed(output) + &transcript.finish();
        assert_eq!(pieces, whole);
        whole
    }

    #[test]
    fn a_transcript_is_what_stood_there() {
        for (output, expected) in [
            ("$ ls\r\na  b\r\n$ ", "$ ls\na  b\n$\n"),
            ("\u{1b}[01;32muser\u{1b}[0m$ ls\r\n", "user$ ls\n"),
            ("\u{1b}]0;title\u{7}$ \u{1b}]2;x\u{1b}\\ls\n", "$ ls\n"),
            ("$ lx\u{8}\u{1b}[Ks\r\n", "$ ls\n"),
            ("$ lx\u{8} \u{8}s\r\n", "$ ls\n"),
            ("10%\r100%\r\n", "100%\n"),
            ("abc\u{1b}[2D\u{1b}[1@X\r\n", "aXbc\n"),
            ("abcdef\u{1b}[5G\u{1b}[4D\u{1b}[2P\n", "cdef\n"),
            ("a\tb\n", "a       b\n"),
            (
                "$ vi\r\n\u{1b}[?1049hscreen\r\n\u{1b}[?1049l$ \n",
                "$ vi\n[a program takes the whole screen]\n$\n",
            ),
            ("old\u{1b}[H\u{1b}[2Jnew\n", "old\nnew\n"),
            ("\u{1b}(Bx\u{1b}=y\n", "xy\n"),
        ] {
            assert_eq!(text(output), expected, "{output:?}");
        }
    }

    #[test]
    fn threat_66_a_transcript_holds_nothing_that_a_terminal_obeys() {
        let evil = "\u{0}\u{7}\u{1b}[31mred\u{9b}31m\u{202e}evil\u{2028}\u{1b}[6n\u{1b}Pq\u{1b}\\\u{85}end\u{1b}";
        let plain = text(evil);
        assert_eq!(plain, "red31mevilend\n");
        let lines = text(&"x".repeat(MAX_LINE * 3));
        assert_eq!(lines.lines().count(), 3);
        text("\u{1b}[999999999C\u{1b}[99999@\u{1b}[2000Gy\u{1b}[5000P\u{1b}[999999999Dx\n");
        text(&format!("\u{1b}[{}m", "1;".repeat(5000)));
    }
}
