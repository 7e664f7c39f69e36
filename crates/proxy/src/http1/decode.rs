//! Taking a message body off the wire: by length, chunked, or to the end of the connection.

use bytes::{Buf, Bytes, BytesMut};
use sdk::Headers;

use super::head;
use super::scan::Scan;
use crate::error::Fault;
use crate::limits::Limits;

/// How a message says where its body ends (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// Content-Length, in bytes.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
    /// The body of a response ends with the connection.
    ToEnd,
}

/// Where in a body the decoder stands.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// The body is complete.
    Done,
    /// So many bytes are missing.
    Length(u64),
    /// A chunked body.
    Chunked(Chunked),
    /// Everything until the connection ends.
    ToEnd,
}

/// Where in a chunked body the decoder stands (RFC 9112 §7.1).
#[derive(Debug)]
pub(crate) struct Chunked {
    state: ChunkState,
    /// Bytes of chunk extensions so far, over the whole body.
    extension_bytes: usize,
}

#[derive(Debug)]
enum ChunkState {
    /// A chunk-size line comes next.
    Size,
    /// So many bytes of the chunk are missing.
    Data(u64),
    /// The CRLF after the data comes next.
    DataEnd,
    /// The trailer section and its empty line come next.
    Trailers(Scan),
}

/// What the decoder found in the buffer.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// Content.
    Data(Bytes),
    /// The body is complete.
    End,
    /// The bytes in the buffer end before the next piece does.
    NeedMore,
    /// The trailers; the body is complete after them.
    Trailers(Headers),
}

/// Longest chunk-size line, in bytes: 16 digits, a short extension and CRLF.
const MAX_SIZE_LINE: usize = 1024;

/// Most bytes of chunk extensions in one body; they mean nothing to anybody and are dropped. 16 KiB.
const MAX_EXTENSIONS: usize = 16 * 1024;

impl Decoder {
    pub(crate) fn new(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Done,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunked {
                state: ChunkState::Size,
                extension_bytes: 0,
            }),
            Framing::ToEnd => Self::ToEnd,
        }
    }

    /// Whether nothing of the body is missing.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes the next piece of the body off the front of `buffer`.
    pub(crate) fn decode(
        &mut self,
        buffer: &mut BytesMut,
        limits: &Limits,
    ) -> Result<Decoded, Fault> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::Length(_) | Self::ToEnd if buffer.is_empty() => Ok(Decoded::NeedMore),
            Self::Length(missing) => {
                let data = take(buffer, *missing);
                *missing -= data.len() as u64;
                if *missing == 0 {
                    *self = Self::Done;
                }
                Ok(Decoded::Data(data))
            }
            Self::ToEnd => Ok(Decoded::Data(buffer.split().freeze())),
            Self::Chunked(chunked) => {
                let decoded = chunked.decode(buffer, limits)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    *self = Self::Done;
                }
                Ok(decoded)
            }
        }
    }

    /// The peer has ended the connection: says whether the body may end so.
    pub(crate) fn end_of_stream(&mut self, is_unclean: bool) -> Result<(), Fault> {
        match self {
            Self::Done => Ok(()),
            // RFC 9112 §9.8: without the closure alert of TLS nobody knows whether this is all.
            Self::ToEnd if !is_unclean => {
                *self = Self::Done;
                Ok(())
            }
            Self::ToEnd | Self::Length(_) | Self::Chunked(_) => Err(Fault::BodyTruncated),
        }
    }
}

/// Takes at most `missing` bytes.
fn take(buffer: &mut BytesMut, missing: u64) -> Bytes {
    let len = usize::try_from(missing).map_or(buffer.len(), |missing| missing.min(buffer.len()));
    buffer.split_to(len).freeze()
}

impl Chunked {
    fn decode(&mut self, buffer: &mut BytesMut, limits: &Limits) -> Result<Decoded, Fault> {
        loop {
            match &mut self.state {
                ChunkState::Size => {
                    let Some((size, line_len, extension_len)) = parse_size_line(buffer)? else {
                        return Ok(Decoded::NeedMore);
                    };
                    self.extension_bytes += extension_len;
                    if self.extension_bytes > MAX_EXTENSIONS {
                        return Err(Fault::ChunkExtension);
                    }
                    buffer.advance(line_len);
                    self.state = match size {
                        0 => ChunkState::Trailers(Scan::default()),
                        size => ChunkState::Data(size),
                    };
                }
                ChunkState::Data(missing) => {
                    if buffer.is_empty() {
                        return Ok(Decoded::NeedMore);
                    }
                    let data = take(buffer, *missing);
                    *missing -= data.len() as u64;
                    if *missing == 0 {
                        self.state = ChunkState::DataEnd;
                    }
                    return Ok(Decoded::Data(data));
                }
                ChunkState::DataEnd => match &buffer[..] {
                    [] | [b'\r'] => return Ok(Decoded::NeedMore),
                    [b'\r', b'\n', ..] => {
                        buffer.advance(2);
                        self.state = ChunkState::Size;
                    }
                    _ => return Err(Fault::ChunkEnd),
                },
                ChunkState::Trailers(scan) => {
                    let found =
                        scan.advance(buffer, limits.trailer_bytes, true)
                            .map_err(|fault| match fault {
                                Fault::HeadTooLarge => Fault::Trailer,
                                other => other,
                            })?;
                    let Some(block) = found else {
                        return Ok(Decoded::NeedMore);
                    };
                    let section = buffer.split_to(block.len).freeze();
                    if block.lines == 0 {
                        return Ok(Decoded::End);
                    }
                    let trailers = head::parse_trailers(&section, block.lines, limits)?;
                    check_trailers(&trailers)?;
                    return Ok(Decoded::Trailers(trailers));
                }
            }
        }
    }
}

/// Reads a chunk-size line: the size, the length of the line, and that of its extension.
fn parse_size_line(bytes: &[u8]) -> Result<Option<(u64, usize, usize)>, Fault> {
    let digits = bytes
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    if digits > 16 || (digits == 0 && !bytes.is_empty()) {
        return Err(Fault::ChunkSize);
    }
    let (number, rest) = bytes.split_at(digits);
    let extension_len = match rest {
        [] => return Ok(None),
        [b'\r', ..] => 0,
        // RFC 9112 §7.1.1 tells recipients to ignore extensions that they do not know.
        [b';', ..] => match extension_len(rest)? {
            Some(len) => len,
            None => return Ok(None),
        },
        [b'\n', ..] => return Err(Fault::BareLineFeed),
        _ => return Err(Fault::ChunkSize),
    };
    match rest.get(extension_len..).unwrap_or_default() {
        [] | [b'\r'] => return Ok(None),
        [b'\r', b'\n', ..] => {}
        _ => return Err(Fault::BareCarriageReturn),
    }
    let mut size = 0u64;
    for digit in number {
        let value = (*digit as char).to_digit(16).ok_or(Fault::ChunkSize)?;
        size = size << 4 | u64::from(value);
    }
    Ok(Some((size, digits + extension_len + 2, extension_len)))
}

/// The length of an extension, up to its CR.
fn extension_len(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    for (len, byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => return Ok(Some(len)),
            b'\n' => return Err(Fault::BareLineFeed),
            b'\t' | b' '..=b'~' | 0x80.. if len < MAX_SIZE_LINE => {}
            _ => return Err(Fault::ChunkExtension),
        }
    }
    Ok(None)
}

/// Refuses what RFC 9110 §6.5.1 forbids in trailers: fields that frame, route, modify or authorise.
/// A Content-Type, which it forbids too, does none of these and is found in practice.
pub(crate) fn check_trailers(trailers: &Headers) -> Result<(), Fault> {
    const FORBIDDEN: [&str; 13] = [
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-range",
        "cookie",
        "expect",
        "host",
        "proxy-authorization",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
    ];
    if trailers
        .iter()
        .any(|field| FORBIDDEN.iter().any(|name| field.name == **name))
    {
        return Err(Fault::Trailer);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_all(bytes: &[u8]) -> Result<(Vec<u8>, Option<Headers>, Vec<u8>), Fault> {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut buffer = BytesMut::from(bytes);
        let mut content = Vec::new();
        let mut trailers = None;
        loop {
            match decoder.decode(&mut buffer, &Limits::default())? {
                Decoded::Data(data) => content.extend_from_slice(&data),
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::End => return Ok((content, trailers, buffer.to_vec())),
                Decoded::NeedMore => return Err(Fault::BodyTruncated),
            }
        }
    }

    #[test]
    fn chunks_extensions_and_trailers_are_taken_apart() {
        let (content, trailers, rest) =
            decode_all(b"5\r\nhello\r\n6;a=b;c\r\n world\r\n000\r\nX-Sum: 1\r\n\r\nGET").unwrap();
        assert_eq!(content, b"hello world");
        assert_eq!(trailers.unwrap().get_str("x-sum"), Some("1"));
        assert_eq!(rest, b"GET");
    }

    #[test]
    fn threat_05_chunk_syntax_has_one_reading() {
        for (bytes, fault) in [
            (&b"\r\nhello\r\n0\r\n\r\n"[..], Fault::ChunkSize),
            (b"0x5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"+5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"-5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"5_0\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b" 5\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"5 \r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"5\t;a\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"5g\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"00000000000000005\r\nhello\r\n0\r\n\r\n", Fault::ChunkSize),
            (b"FFFFFFFFFFFFFFFF1\r\n", Fault::ChunkSize),
            (b"5\nhello\r\n0\r\n\r\n", Fault::BareLineFeed),
            (b"5;a\nhello\r\n0\r\n\r\n", Fault::BareLineFeed),
            (b"5;a\rb\r\nhello\r\n0\r\n\r\n", Fault::BareCarriageReturn),
            (b"5\rX\nhello\r\n0\r\n\r\n", Fault::BareCarriageReturn),
            (b"5;a\0b\r\nhello\r\n0\r\n\r\n", Fault::ChunkExtension),
            (b"5\r\nhello0\r\n\r\n", Fault::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", Fault::ChunkEnd),
            (b"5\r\nhello\rX0\r\n\r\n", Fault::ChunkEnd),
            (b"5\r\nhello!\r\n0\r\n\r\n", Fault::ChunkEnd),
            (b"0\r\n\rX\n", Fault::BareCarriageReturn),
            (b"0\r\n\n", Fault::BareLineFeed),
        ] {
            assert_eq!(
                decode_all(bytes).unwrap_err(),
                fault,
                "{}",
                bytes.escape_ascii()
            );
        }
    }

    #[test]
    fn threat_05_extensions_are_bounded() {
        let mut line = b"5;".to_vec();
        line.extend(std::iter::repeat_n(b'a', MAX_SIZE_LINE));
        line.extend_from_slice(b"\r\nhello\r\n0\r\n\r\n");
        assert_eq!(decode_all(&line).unwrap_err(), Fault::ChunkExtension);
        let mut many = Vec::new();
        for _ in 0..40 {
            many.extend_from_slice(b"1;");
            many.extend(std::iter::repeat_n(b'a', 500));
            many.extend_from_slice(b"\r\nx\r\n");
        }
        assert_eq!(decode_all(&many).unwrap_err(), Fault::ChunkExtension);
    }

    #[test]
    fn threat_16_trailers_must_not_frame_route_or_authorise() {
        for name in [
            "Content-Length",
            "Host",
            "Authorization",
            "transfer-encoding",
            "Set-Cookie",
        ] {
            let body = format!("0\r\n{name}: 1\r\n\r\n");
            assert_eq!(
                decode_all(body.as_bytes()).unwrap_err(),
                Fault::Trailer,
                "{name}"
            );
        }
        assert_eq!(
            decode_all(b"0\r\n folded: 1\r\n\r\n").unwrap_err(),
            Fault::ObsoleteFold
        );
        assert_eq!(
            decode_all(b"0\r\nbad name: 1\r\n\r\n").unwrap_err(),
            Fault::FieldName
        );
    }

    #[test]
    fn any_split_of_a_chunked_body_gives_the_same_content() {
        let whole = b"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\nT: v\r\n\r\n";
        for cut in 0..whole.len() {
            let mut decoder = Decoder::new(Framing::Chunked);
            let mut buffer = BytesMut::from(&whole[..cut]);
            let mut content = Vec::new();
            let mut fed = false;
            loop {
                match decoder.decode(&mut buffer, &Limits::default()).unwrap() {
                    Decoded::Data(data) => content.extend_from_slice(&data),
                    Decoded::NeedMore if !fed => {
                        buffer.extend_from_slice(&whole[cut..]);
                        fed = true;
                    }
                    Decoded::NeedMore => unreachable!("the whole body was given"),
                    Decoded::Trailers(_) => {}
                    Decoded::End => break,
                }
            }
            assert_eq!(content, b"abc0123456789", "cut at {cut}");
        }
    }
}
