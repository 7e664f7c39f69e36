//! The mail protocols: lines both ways.

use std::collections::VecDeque;

use super::{Refusal, Step};
use crate::error::Side;

/// Longest line that is looked at; a longer one ends the watch. RFC 5321 §4.5.3.1.4 and RFC 9051 §2.2.1
/// have clients send far less before TLS.
const MAX_LINE: usize = 1000;

/// Most commands whose answers are waited for.
const MAX_PENDING: usize = 64;

/// Gathers a line.
#[derive(Debug, Default)]
struct Line(Vec<u8>);

enum Gathered<'l> {
    /// Not yet.
    Part,
    /// Without its end.
    Whole(&'l [u8]),
    TooLong,
}

impl Line {
    /// The line that this byte completes. A bare LF ends a line too: some servers take it for an end,
    /// and one that does not answers fewer lines than are waited for, so that nothing is let through.
    fn push(&mut self, byte: u8) -> Gathered<'_> {
        // A line that was given out is over with the next byte.
        if self.0.last() == Some(&b'\n') {
            self.0.clear();
        }
        self.0.push(byte);
        match self.0.as_slice() {
            [line @ .., b'\r', b'\n'] | [line @ .., b'\n'] => Gathered::Whole(line),
            long if long.len() > MAX_LINE => Gathered::TooLong,
            _ => Gathered::Part,
        }
    }
}

/// The first word in capitals, as far as it is a word.
fn verb(line: &[u8]) -> Vec<u8> {
    let end = line.iter().position(|byte| *byte == b' ');
    line.get(..end.unwrap_or(line.len()))
        .unwrap_or_default()
        .to_ascii_uppercase()
}

/// SMTP (RFC 5321) and LMTP (RFC 2033).
#[derive(Debug)]
pub(super) struct Smtp {
    client: Line,
    server: Line,
    /// Replies that are still to come; the greeting is one.
    pending: usize,
    asked: bool,
}

impl Default for Smtp {
    fn default() -> Self {
        Self {
            client: Line::default(),
            server: Line::default(),
            pending: 1,
            asked: false,
        }
    }
}

impl Smtp {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match from {
            Side::Client if self.asked => Step::Refuse(Refusal::ClientAhead),
            Side::Client => match self.client.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                Gathered::Whole(line) => {
                    self.asked = match verb(line).as_slice() {
                        b"STARTTLS" => true,
                        b"EHLO" | b"HELO" | b"LHLO" | b"NOOP" | b"RSET" | b"HELP" | b"QUIT" => {
                            false
                        }
                        // Mail or a password in clear: whose lines are commands is no longer certain.
                        _ => return Step::Clear,
                    };
                    self.pending += 1;
                    if self.pending > MAX_PENDING {
                        Step::Clear
                    } else {
                        Step::Forward
                    }
                }
            },
            Side::Server => match self.server.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                // RFC 5321 §4.2.1: all lines of a reply but the last have a hyphen after the code.
                Gathered::Whole([_, _, _, b'-', ..]) => Step::Forward,
                Gathered::Whole(line) => {
                    let agrees = line.starts_with(b"220");
                    self.pending = self.pending.saturating_sub(1);
                    if !self.asked || self.pending > 0 {
                        return Step::Forward;
                    }
                    self.asked = false;
                    if agrees { Step::Tls } else { Step::Forward }
                }
            },
        }
    }
}

/// IMAP4rev1 and rev2 (RFC 3501, RFC 9051).
#[derive(Debug, Default)]
pub(super) struct Imap {
    client: Line,
    server: Line,
    /// The tag of the request for TLS.
    asked: Option<Vec<u8>>,
}

impl Imap {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match (from, &self.asked) {
            (Side::Client, Some(_)) => Step::Refuse(Refusal::ClientAhead),
            (Side::Client, None) => match self.client.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                // A literal follows (RFC 9051 §4.3): bytes that are no lines.
                Gathered::Whole([.., b'}']) => Step::Clear,
                Gathered::Whole(line) => {
                    let tag = line.split(|byte| *byte == b' ').next().unwrap_or_default();
                    let command = line.get(tag.len() + 1..).unwrap_or_default();
                    match verb(command).as_slice() {
                        b"STARTTLS" => self.asked = Some(tag.to_vec()),
                        b"CAPABILITY" | b"NOOP" | b"ID" | b"LOGOUT" => {}
                        _ => return Step::Clear,
                    }
                    Step::Forward
                }
            },
            (Side::Server, asked) => match self.server.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                // RFC 9051 §7.1.4: authenticated already, so TLS is no longer possible.
                Gathered::Whole([b'*', b' ', b'P', b'R', b'E', ..]) => Step::Clear,
                Gathered::Whole(line) => {
                    let answer = asked.as_ref().and_then(|tag| {
                        let rest = line.strip_prefix(tag.as_slice())?;
                        rest.strip_prefix(b" ")
                    });
                    let Some(answer) = answer else {
                        return Step::Forward;
                    };
                    let agrees = verb(answer) == b"OK";
                    self.asked = None;
                    if agrees { Step::Tls } else { Step::Forward }
                }
            },
        }
    }
}

/// POP3 (RFC 1939) with STLS (RFC 2595 §4).
#[derive(Debug)]
pub(super) struct Pop3 {
    client: Line,
    server: Line,
    /// For each answer that is still to come, whether it may have many lines.
    pending: VecDeque<bool>,
    /// Within an answer of many lines.
    in_list: bool,
    asked: bool,
}

impl Default for Pop3 {
    fn default() -> Self {
        Self {
            client: Line::default(),
            server: Line::default(),
            pending: VecDeque::from([false]),
            in_list: false,
            asked: false,
        }
    }
}

impl Pop3 {
    pub(super) fn step(&mut self, from: Side, byte: u8) -> Step {
        match from {
            Side::Client if self.asked => Step::Refuse(Refusal::ClientAhead),
            Side::Client => match self.client.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                Gathered::Whole(line) => {
                    let has_list = match verb(line).as_slice() {
                        b"CAPA" => true,
                        b"STLS" => {
                            self.asked = true;
                            false
                        }
                        b"NOOP" | b"QUIT" => false,
                        _ => return Step::Clear,
                    };
                    self.pending.push_back(has_list);
                    if self.pending.len() > MAX_PENDING {
                        Step::Clear
                    } else {
                        Step::Forward
                    }
                }
            },
            Side::Server => match self.server.push(byte) {
                Gathered::Part => Step::Forward,
                Gathered::TooLong => Step::Clear,
                Gathered::Whole(line) => {
                    let agrees = line.starts_with(b"+OK");
                    if self.in_list {
                        self.in_list = line != b".";
                        return Step::Forward;
                    }
                    self.in_list = self.pending.pop_front().unwrap_or(false) && agrees;
                    if !self.asked || !self.pending.is_empty() {
                        return Step::Forward;
                    }
                    self.asked = false;
                    if agrees { Step::Tls } else { Step::Forward }
                }
            },
        }
    }
}
