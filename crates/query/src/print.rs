//! Answers as people and programs read them.
//!
//! What is in a cell may have been chosen by a peer: nothing of it moves a cursor.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::str::FromStr;

use rusqlite::types::ValueRef;
use serde_json::Value;

/// Rows by which the widths of a table's columns are chosen.
const SAMPLE: usize = 200;
/// Widest column, in characters; longer cells push what is behind them aside.
const WIDEST: usize = 60;

/// How an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a line of names; null is empty, and an empty text is `""`.
    Csv,
    /// One array of objects.
    Json,
    /// An object for each line.
    Jsonl,
    /// Columns for people.
    #[default]
    Table,
}

impl FromStr for Format {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "csv" => Ok(Self::Csv),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::Jsonl),
            "table" => Ok(Self::Table),
            _ => Err("allowed: csv, json, jsonl, table"),
        }
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// To a terminal: control characters are spelled out in every format.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
}

/// Writes an answer, row by row.
pub struct Printer<'a> {
    out: &'a mut dyn Write,
    format: Format,
    style: Style,
    names: Vec<String>,
    /// The first rows of a table, until its widths are known.
    sample: Option<Vec<Vec<Text>>>,
    widths: Vec<(usize, bool)>,
    rows: u64,
}

impl core::fmt::Debug for Printer<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Printer")
            .field("format", &self.format)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

/// A cell of a table, and whether it is a number.
type Text = (String, bool);

impl<'a> Printer<'a> {
    /// Writes to `out`, which should be buffered.
    #[must_use]
    pub fn new(out: &'a mut dyn Write, format: Format, style: Style) -> Self {
        Self {
            out,
            format,
            style,
            names: Vec::new(),
            sample: None,
            widths: Vec::new(),
            rows: 0,
        }
    }

    /// The names of the columns.
    pub(crate) fn begin(&mut self, names: Vec<String>) -> io::Result<()> {
        self.names = names;
        match self.format {
            Format::Csv => {
                let names: Vec<_> = self.names.iter().map(|name| Some(name.as_str())).collect();
                csv(self.out, &names, self.style.terminal)
            }
            Format::Json => self.out.write_all(b"["),
            Format::Jsonl => Ok(()),
            Format::Table => {
                self.sample = Some(Vec::new());
                Ok(())
            }
        }
    }

    /// A row.
    pub(crate) fn row(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        self.rows += 1;
        match self.format {
            Format::Csv => {
                let texts: Vec<_> = values.iter().map(|value| text(*value)).collect();
                let texts: Vec<_> = texts.iter().map(|text| text.as_deref()).collect();
                csv(self.out, &texts, self.style.terminal)
            }
            Format::Json => {
                let separator: &[u8] = if self.rows == 1 { b"\n" } else { b",\n" };
                self.out.write_all(separator)?;
                self.object(values)
            }
            Format::Jsonl => {
                self.object(values)?;
                self.out.write_all(b"\n")
            }
            Format::Table => {
                let row = values.iter().map(|value| {
                    let is_number = matches!(value, ValueRef::Integer(_) | ValueRef::Real(_));
                    let text = text(*value).unwrap_or_default();
                    (spelled(&text).into_owned(), is_number)
                });
                let row: Vec<Text> = row.collect();
                match &mut self.sample {
                    Some(sample) => {
                        sample.push(row);
                        if sample.len() == SAMPLE {
                            self.print_sample()?;
                        }
                        Ok(())
                    }
                    None => self.line(&row),
                }
            }
        }
    }

    /// The end: all has been written.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        match self.format {
            Format::Json => self
                .out
                .write_all(if self.rows == 0 { b"]\n" } else { b"\n]\n" })?,
            Format::Table => self.print_sample()?,
            Format::Csv | Format::Jsonl => {}
        }
        self.out.flush()
    }

    fn object(&mut self, values: &[ValueRef<'_>]) -> io::Result<()> {
        let mut line = "{".to_owned();
        for (at, (name, value)) in self.names.iter().zip(values).enumerate() {
            if at > 0 {
                line.push(',');
            }
            let value = match *value {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(number) => number.into(),
                // What JSON has no number for is null.
                ValueRef::Real(number) => number.into(),
                value => text(value).unwrap_or_default().into(),
            };
            let _ = write!(line, "{}:{value}", Value::from(name.as_str()));
        }
        line.push('}');
        self.out.write_all(controls_as_json(&line).as_bytes())
    }

    fn print_sample(&mut self) -> io::Result<()> {
        let Some(sample) = self.sample.take() else {
            return Ok(());
        };
        let names: Vec<Text> = self
            .names
            .iter()
            .map(|name| (spelled(name).into_owned(), false))
            .collect();
        for (at, (name, _)) in names.iter().enumerate() {
            let cells = || sample.iter().filter_map(|row| row.get(at));
            let width = cells().map(|(text, _)| text.chars().count());
            let width = width.chain([name.chars().count()]).max().unwrap_or(0);
            let mut filled = cells().filter(|(text, _)| !text.is_empty()).peekable();
            let is_number = filled.peek().is_some() && filled.all(|(_, is_number)| *is_number);
            self.widths.push((width.min(WIDEST), is_number));
        }
        let (bold, plain) = if self.style.colour {
            ("\x1b[1m", "\x1b[0m")
        } else {
            ("", "")
        };
        let head = self.line_of(&names);
        writeln!(self.out, "{bold}{head}{plain}")?;
        let rule = self
            .widths
            .iter()
            .map(|(width, _)| ("-".repeat(*width), false));
        let rule: Vec<Text> = rule.collect();
        self.line(&rule)?;
        sample.iter().try_for_each(|row| self.line(row))
    }

    fn line(&mut self, cells: &[Text]) -> io::Result<()> {
        writeln!(self.out, "{}", self.line_of(cells))
    }

    fn line_of(&self, cells: &[Text]) -> String {
        let mut line = String::new();
        for ((text, _), (width, is_number)) in cells.iter().zip(&self.widths) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            let _ = match is_number {
                true => write!(line, "{text:>width$}"),
                false => write!(line, "{text:<width$}"),
            };
        }
        line.trim_end().to_owned()
    }
}

/// `None` is null.
fn text(value: ValueRef<'_>) -> Option<Cow<'_, str>> {
    Some(match value {
        ValueRef::Null => return None,
        ValueRef::Integer(number) => number.to_string().into(),
        ValueRef::Real(number) => number.to_string().into(),
        ValueRef::Text(text) => String::from_utf8_lossy(text),
        ValueRef::Blob(bytes) => {
            let mut text = String::new();
            for byte in bytes {
                let _ = write!(text, "{byte:02x}");
            }
            text.into()
        }
    })
}

/// Whether a character does something else than to be seen: controls, and what turns the direction.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn spelled(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_control(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.into()
}

/// JSON lets controls above ASCII stand as they are; some terminals obey them.
fn controls_as_json(json: &str) -> Cow<'_, str> {
    if !json.contains(is_control) {
        return json.into();
    }
    let mut out = String::with_capacity(json.len() + 8);
    for c in json.chars() {
        if is_control(c) {
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out.into()
}

fn csv(out: &mut dyn Write, cells: &[Option<&str>], is_terminal: bool) -> io::Result<()> {
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            line.push(',');
        }
        let Some(cell) = cell else { continue };
        let cell = if is_terminal {
            spelled(cell)
        } else {
            Cow::Borrowed(*cell)
        };
        if cell.is_empty() || cell.contains([',', '"', '\n', '\r']) {
            let _ = write!(line, "\"{}\"", cell.replace('"', "\"\""));
        } else {
            line.push_str(&cell);
        }
    }
    line.push('\n');
    out.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: Format, style: Style, rows: &[&[ValueRef<'_>]]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, format, style);
        printer
            .begin(vec!["name".to_owned(), "n".to_owned()])
            .unwrap();
        for row in rows {
            printer.row(row).unwrap();
        }
        printer.end().unwrap();
        String::from_utf8(out).unwrap()
    }

    const ROWS: &[&[ValueRef<'_>]] = &[
        &[ValueRef::Text(b"a,\"b\""), ValueRef::Integer(7)],
        &[ValueRef::Null, ValueRef::Real(12.5)],
        &[ValueRef::Text(b""), ValueRef::Null],
    ];

    #[test]
    fn each_format_has_every_row() {
        let plain = Style::default();
        assert_eq!(
            printed(Format::Csv, plain, ROWS),
            "name,n\n\"a,\"\"b\"\"\",7\n,12.5\n\"\",\n"
        );
        assert_eq!(
            printed(Format::Jsonl, plain, ROWS),
            "{\"name\":\"a,\\\"b\\\"\",\"n\":7}\n{\"name\":null,\"n\":12.5}\n{\"name\":\"\",\"n\":null}\n"
        );
        let json: Value = serde_json::from_str(&printed(Format::Json, plain, ROWS)).unwrap();
        assert_eq!(json.as_array().map(Vec::len), Some(3));
        assert_eq!(printed(Format::Json, plain, &[]), "[]\n");
        assert_eq!(
            printed(Format::Table, plain, ROWS),
            "name      n\n-----  ----\na,\"b\"     7\n       12.5\n\n"
        );
        let coloured = Style {
            colour: true,
            ..plain
        };
        assert!(printed(Format::Table, coloured, &[]).starts_with("\u{1b}[1mname  n\u{1b}[0m\n"));
    }

    #[test]
    fn a_long_table_keeps_the_widths_of_its_beginning() {
        let rows = vec![&[ValueRef::Text(b"abcdef"), ValueRef::Integer(1)][..]; SAMPLE + 3];
        let text = printed(Format::Table, Style::default(), &rows);
        assert_eq!(text.lines().count(), SAMPLE + 5);
        assert!(
            text.lines().skip(2).all(|line| line == "abcdef  1"),
            "{text}"
        );
    }

    #[test]
    fn threat_66_no_cell_moves_the_cursor() {
        let hostile = "\u{1b}[2J\u{9b}31m\r\n\u{202e}x\u{7f}".as_bytes();
        let terminal = Style {
            terminal: true,
            colour: false,
        };
        for format in [Format::Csv, Format::Json, Format::Jsonl, Format::Table] {
            let row: &[ValueRef<'_>] = &[ValueRef::Text(hostile), ValueRef::Integer(1)];
            let text = printed(format, terminal, &[row]);
            let left = text.chars().find(|c| is_control(*c) && *c != '\n');
            assert_eq!(left, None, "{format:?}: {text:?}");
            if format == Format::Jsonl {
                let back: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(back["name"].as_str().map(str::as_bytes), Some(hostile));
            }
        }
    }
}
