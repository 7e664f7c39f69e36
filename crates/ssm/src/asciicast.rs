//! Recordings in the form of asciicast, version 2: a line of JSON for the session, and one for each
//! thing that happened in it.

use std::time::Duration;

use serde_json::{Value, json};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// Something was typed.
    Input,
    /// A remark of ours.
    Marker,
    /// Something was written.
    Output,
    /// The window has another size: `80x24`.
    Resize,
}

impl What {
    const fn code(self) -> &'static str {
        match self {
            Self::Input => "i",
            Self::Marker => "m",
            Self::Output => "o",
            Self::Resize => "r",
        }
    }
}

/// The first line. `about` stands in a member of ours, which players leave alone.
pub(crate) fn header(
    (columns, rows): (u32, u32),
    timestamp: u64,
    title: &str,
    about: &Value,
) -> String {
    let mut line = json!({
        "version": 2,
        "width": columns,
        "height": rows,
        "timestamp": timestamp,
        "title": title,
        "flowdog": about,
    })
    .to_string();
    line.push('\n');
    line
}

/// A line for what happened `after` the beginning. Nothing in it is obeyed by a terminal: JSON has no
/// control character unescaped, and those of the upper half are escaped here too.
pub(crate) fn event(after: Duration, what: What, text: &str) -> String {
    let mut line = format!(
        "[{}.{:06}, \"{}\", ",
        after.as_secs(),
        after.subsec_micros(),
        what.code()
    );
    for character in Value::from(text).to_string().chars() {
        if matches!(character, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') {
            line.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            line.push(character);
        }
    }
    line.push_str("]\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_66_an_event_is_one_line_of_json_without_controls() {
        let evil = "a\"]\n[0, \"o\", \"\u{1b}[31m\u{0}\u{7f}\u{9b}5n\u{2028}\u{1f600}";
        let line = event(Duration::from_micros(1_500_007), What::Output, evil);
        assert!(line.starts_with("[1.500007, \"o\", "));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(!line.trim_end().chars().any(char::is_control), "{line:?}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back[2], evil);
    }

    #[test]
    fn a_header_says_what_players_need_and_more() {
        let about = json!({"session": "s\n"});
        let line = header((80, 24), 1_700_000_000, "s on i-1", &about);
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!((&back["version"], &back["width"]), (&2.into(), &80.into()));
        assert_eq!(back["flowdog"], about);
        assert_eq!(line.matches('\n').count(), 1);
    }
}
