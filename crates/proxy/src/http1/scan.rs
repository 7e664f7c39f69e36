//! Finding the end of a head or of a trailer section, and refusing every line end but CRLF.
//!
//! Recipients disagree about bare CR, bare LF and folded lines, and disagreement about where a
//! message ends is what request smuggling lives on. RFC 9112 §2.2 and §5.2 allow to be strict.

use crate::error::Fault;

/// A search through bytes that arrive in pieces; nothing is looked at twice.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    /// Bytes that need not be looked at again.
    seen: usize,
    /// Where the current line begins.
    line_start: usize,
    /// Complete lines so far, the empty one not counted.
    lines: usize,
}

/// Where a block of lines ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    /// Bytes up to and with the empty line.
    pub(crate) len: usize,
    /// Lines before the empty one.
    pub(crate) lines: usize,
}

impl Scan {
    /// Looks at what has come since the last call; `bytes` is everything from the first byte on.
    ///
    /// `fields_only` says that the first line is a field already, as in a trailer section.
    pub(crate) fn advance(
        &mut self,
        bytes: &[u8],
        limit: usize,
        fields_only: bool,
    ) -> Result<Option<Block>, Fault> {
        loop {
            let line = bytes.get(self.line_start..).unwrap_or_default();
            if matches!(line, [b' ' | b'\t', ..]) && (fields_only || self.lines > 0) {
                return Err(Fault::ObsoleteFold);
            }
            let rest = bytes.get(self.seen..).unwrap_or_default();
            let Some(ordinary) = memchr::memchr2(b'\r', b'\n', rest) else {
                self.seen = bytes.len();
                return self.within(limit).map(|()| None);
            };
            self.seen += ordinary;
            self.within(limit)?;
            match rest.get(ordinary..).unwrap_or_default() {
                [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => {
                    let is_empty = self.line_start == self.seen;
                    self.seen += 2;
                    if is_empty {
                        return Ok(Some(Block {
                            len: self.seen,
                            lines: self.lines,
                        }));
                    }
                    self.lines += 1;
                    self.line_start = self.seen;
                }
                [b'\r', ..] => return Err(Fault::BareCarriageReturn),
                _ => return Err(Fault::BareLineFeed),
            }
        }
    }

    fn within(&self, limit: usize) -> Result<(), Fault> {
        if self.seen > limit {
            return Err(Fault::HeadTooLarge);
        }
        Ok(())
    }

    /// Whether the first line is still incomplete, and its length so far.
    pub(crate) fn first_line_so_far(&self) -> Option<usize> {
        (self.lines == 0).then_some(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<Block>, Fault> {
        Scan::default().advance(bytes, 1000, false)
    }

    #[test]
    fn block_ends_at_the_empty_line() {
        let block = scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\nrest")
            .unwrap()
            .unwrap();
        assert_eq!((block.len, block.lines), (24, 2));
        assert_eq!(scan(b"GET / HTTP/1.1\r\nA: b\r\n\r"), Ok(None));
    }

    #[test]
    fn threat_06_bare_line_ends_are_refused() {
        assert_eq!(scan(b"GET / HTTP/1.1\nA: b\n\n"), Err(Fault::BareLineFeed));
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\n\r\n"),
            Err(Fault::BareLineFeed)
        );
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n"),
            Err(Fault::BareCarriageReturn)
        );
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\r\n\r\r\n"),
            Err(Fault::BareCarriageReturn)
        );
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\r\n\rX"),
            Err(Fault::BareCarriageReturn)
        );
    }

    #[test]
    fn threat_08_folded_lines_are_refused() {
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n"),
            Err(Fault::ObsoleteFold)
        );
        assert_eq!(
            scan(b"GET / HTTP/1.1\r\n\tA: b\r\n\r\n"),
            Err(Fault::ObsoleteFold)
        );
    }

    #[test]
    fn any_split_finds_the_same_end() {
        let whole = b"GET / HTTP/1.1\r\nHost: a\r\nB: c\r\n\r\nbody";
        let expected = scan(whole);
        for cut in 0..whole.len() {
            let mut scan = Scan::default();
            let first = scan.advance(&whole[..cut], 1000, false);
            let found = match first {
                Ok(None) => scan.advance(whole, 1000, false),
                other => other,
            };
            assert_eq!(found, expected, "cut at {cut}");
        }
    }
}
