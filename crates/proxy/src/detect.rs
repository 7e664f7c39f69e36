//! The one place that decides what a byte stream is from the client's first bytes.
//!
//! The decision needs few bytes and never waits for more than [`MAX_SNIFF`]:
//! what is not recognised by then is opaque and is relayed untouched.

/// What the first bytes of a client say about its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    /// An HTTP/1.0 or HTTP/1.1 request line (RFC 9112 §3).
    Http1,
    /// The HTTP/2 connection preface in clear (RFC 9113 §3.3 and §3.4).
    Http2PriorKnowledge,
    /// All bytes so far fit at least one protocol, and more are needed to tell.
    NeedMore,
    /// None of the others; the stream is to be relayed as it is.
    Opaque,
    /// A TLS record that carries a ClientHello (RFC 8446 §5.1, §4.1.2).
    Tls,
}

/// Bytes after which [`sniff`] never answers [`Sniff::NeedMore`].
///
/// A request line longer than this without its version is not taken for HTTP: the longest method
/// in the IANA registry has 17 letters, and the first character of the target decides.
pub const MAX_SNIFF: usize = 64;

/// The HTTP/2 connection preface of the client (RFC 9113 §3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a server says that speaks before its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerFirst {
    /// The SETTINGS of HTTP/2, which a server may send before it has the client's preface
    /// (RFC 9113 §3.4): the client's bytes decide.
    Http2Settings,
    /// Too few bytes to tell.
    NeedMore,
    /// Anything else: the stream is to be relayed as it is.
    Opaque,
}

/// Says what a server speaks that did not wait for its client.
pub fn sniff_server(bytes: &[u8]) -> ServerFirst {
    // RFC 9113 §4.1 and §6.5: length, a multiple of 6 and below 256; type 4; no flags; stream 0.
    const FRAME: [fn(u8) -> bool; 9] = [
        |length| length == 0,
        |length| length == 0,
        |length| length % 6 == 0,
        |frame_type| frame_type == 4,
        |flags| flags == 0,
        |stream| stream == 0,
        |stream| stream == 0,
        |stream| stream == 0,
        |stream| stream == 0,
    ];
    if !bytes.iter().zip(FRAME).all(|(&byte, fits)| fits(byte)) {
        return ServerFirst::Opaque;
    }
    if bytes.len() < FRAME.len() {
        return ServerFirst::NeedMore;
    }
    ServerFirst::Http2Settings
}

/// Longest method that is taken for HTTP; IANA's longest is `UPDATEREDIRECTREF`, 17 letters.
const MAX_METHOD: usize = 24;

/// Says what the client speaks, given everything it has sent so far.
///
/// HTTP/1 is recognised by its request line: a method of upper-case letters, one space, and a target
/// that begins as one of the four forms of RFC 9112 §3.2.
/// The HTTP codec judges the rest and refuses what is wrong with it.
/// A first line that names HTTP at its end is HTTP too, however wrong it is before: some servers would
/// take it for a request, so it must not pass unread.
/// Other protocols that begin with a word and a space (`SSH-2.0-`, `EHLO name`, `USER name`) differ
/// in the character after the space, in the case of the word, or in its punctuation.
pub fn sniff(bytes: &[u8]) -> Sniff {
    if bytes.is_empty() {
        return Sniff::NeedMore;
    }
    match sniff_tls(bytes).or_else(|| sniff_http2(bytes)) {
        Some(answer) => answer,
        None => match sniff_http1(bytes) {
            Sniff::Opaque if names_http(bytes) => Sniff::Http1,
            answer => answer,
        },
    }
}

/// Whether the first line that is not empty ends with `HTTP/1.` and a digit.
fn names_http(bytes: &[u8]) -> bool {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    let text = bytes.get(start..).unwrap_or_default();
    let end = text.windows(2).position(|two| two == b"\r\n");
    let line = text.get(..end.unwrap_or(0)).unwrap_or_default();
    matches!(
        line,
        [.., b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0'..=b'9']
    )
}

/// Recognises a handshake record with a ClientHello; `None` when it cannot be TLS.
fn sniff_tls(bytes: &[u8]) -> Option<Sniff> {
    // RFC 8446 §5.1: type 22 (handshake), legacy version 3.x, two bytes of length; then the
    // handshake type, 1 for ClientHello.
    const RECORD: [fn(u8) -> bool; 6] = [
        |byte| byte == 22,
        |byte| byte == 3,
        |byte| byte <= 4,
        |length_high| length_high <= 0x41,
        |_| true,
        |handshake_type| handshake_type == 1,
    ];
    if !bytes.iter().zip(RECORD).all(|(&byte, fits)| fits(byte)) {
        return None;
    }
    if bytes.len() < RECORD.len() {
        // A record may carry the hello's first byte alone, never nothing at all.
        return Some(Sniff::NeedMore);
    }
    Some(Sniff::Tls)
}

/// Recognises the HTTP/2 preface; `None` when it cannot be one.
fn sniff_http2(bytes: &[u8]) -> Option<Sniff> {
    if bytes.starts_with(HTTP2_PREFACE) {
        return Some(Sniff::Http2PriorKnowledge);
    }
    // `P` alone may also become POST or PUT, and `PRI ` a lower-case word of another protocol:
    // the preface is only claimed as far as it is exact.
    HTTP2_PREFACE.starts_with(bytes).then_some(Sniff::NeedMore)
}

/// Recognises the start of a request line.
fn sniff_http1(bytes: &[u8]) -> Sniff {
    // RFC 9112 §2.2: a server ignores an empty line before the request line.
    let line = match bytes {
        [b'\r'] => return Sniff::NeedMore,
        [b'\r', b'\n', rest @ ..] => rest,
        _ => bytes,
    };
    let method_len = line
        .iter()
        .position(|byte| !(byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')))
        .unwrap_or(line.len());
    if method_len > MAX_METHOD {
        return Sniff::Opaque;
    }
    let after = line.get(method_len..).unwrap_or_default();
    match after {
        [] if bytes.len() < MAX_SNIFF => Sniff::NeedMore,
        [] => Sniff::Opaque,
        _ if method_len < 3 => Sniff::Opaque,
        [b' '] => Sniff::NeedMore,
        [b' ', target @ ..] => sniff_target(line.get(..method_len).unwrap_or_default(), target),
        _ => Sniff::Opaque,
    }
}

/// Judges the first characters of the request target.
fn sniff_target(method: &[u8], target: &[u8]) -> Sniff {
    match target {
        [b'/', ..] => Sniff::Http1,
        [b'*'] => Sniff::NeedMore,
        [b'*', b' ', ..] => Sniff::Http1,
        _ if method == b"CONNECT" => Sniff::Http1,
        _ => sniff_absolute(target),
    }
}

/// Recognises the scheme of an absolute target, in any case.
fn sniff_absolute(target: &[u8]) -> Sniff {
    for scheme in [&b"http://"[..], b"https://"] {
        let seen = target.len().min(scheme.len());
        let (Some(begin), Some(want)) = (target.get(..seen), scheme.get(..seen)) else {
            continue;
        };
        if begin.eq_ignore_ascii_case(want) {
            return if seen == scheme.len() {
                Sniff::Http1
            } else {
                Sniff::NeedMore
            };
        }
    }
    Sniff::Opaque
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_lines_are_http1() {
        for line in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"POST /upload HTTP/1.0\r\n",
            b"OPTIONS * HTTP/1.1\r\n",
            b"CONNECT host.example:443 HTTP/1.1\r\n",
            b"GET http://a.example/ HTTP/1.1\r\n",
            b"GET HTTPS://a.example/ HTTP/1.1\r\n",
            b"VERSION-CONTROL /x HTTP/1.1\r\n",
            b"M-SEARCH * HTTP/1.1\r\n",
            b"\r\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(sniff(line), Sniff::Http1, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn threat_10_lines_that_only_claim_to_be_requests_are_http1_to_be_refused() {
        for line in [
            &b"GET host:443 HTTP/1.1\r\n"[..],
            b"GET relative HTTP/1.1\r\n",
            b"GET: / HTTP/1.1\r\n",
            b"GET\0X / HTTP/1.1\r\n",
            b"GET HTTP/1.1\r\n",
            b"GET\n/\nHTTP/1.1\r\n",
            b"get / HTTP/1.1\r\n",
            b"bla:rgh / HTTP/1.0\r\n",
            b"GET\xc3\x9f / HTTP/1.1\r\n",
            b"\r\n\r\nGET / HTTP/1.1\r\n",
        ] {
            assert_eq!(sniff(line), Sniff::Http1, "{}", line.escape_ascii());
        }
        for line in [
            &b"OPTIONS rtsp://a/ RTSP/1.0\r\n"[..],
            b"INVITE sip:a@b SIP/2.0\r\n",
            b"get HTTP/1.1 key\r\n",
            b"set HTTP/1.1",
        ] {
            assert_ne!(sniff(line), Sniff::Http1, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn client_hello_is_tls_and_other_records_are_not() {
        assert_eq!(sniff(&[22, 3, 1, 2, 0, 1, 0]), Sniff::Tls);
        assert_eq!(sniff(&[22, 3, 1, 2, 0]), Sniff::NeedMore);
        assert_eq!(sniff(&[23, 3, 3, 2, 0, 1]), Sniff::Opaque);
        assert_eq!(sniff(&[22, 3, 1, 2, 0, 2]), Sniff::Opaque);
    }

    #[test]
    fn preface_is_http2_and_post_is_not_mistaken_for_it() {
        assert_eq!(sniff(HTTP2_PREFACE), Sniff::Http2PriorKnowledge);
        assert_eq!(sniff(b"P"), Sniff::NeedMore);
        assert_eq!(sniff(b"PRI * HTTP/2.0\r\n"), Sniff::NeedMore);
        assert_eq!(sniff(b"PRI / HTTP/1.1\r\n"), Sniff::Http1);
        assert_eq!(sniff(b"PUT /"), Sniff::Http1);
    }

    #[test]
    fn other_protocols_are_opaque() {
        for bytes in [
            &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
            b"EHLO client.example\r\n",
            b"USER anonymous\r\n",
            b"{\"json\": true}\n",
            b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x04\x01\x00\x50",
        ] {
            assert_eq!(sniff(bytes), Sniff::Opaque, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn answer_for_a_prefix_is_need_more_or_the_final_one() {
        for whole in [
            &b"GET /index.html HTTP/1.1\r\n\r\n"[..],
            HTTP2_PREFACE,
            b"SSH-2.0-x\r\n",
            &[22, 3, 1, 2, 0, 1, 0, 1, 252],
            b"GET https://a/ HTTP/1.1\r\n",
        ] {
            let last = sniff(whole);
            for cut in 0..whole.len() {
                let answer = sniff(&whole[..cut]);
                assert!(answer == Sniff::NeedMore || answer == last, "{cut}");
            }
        }
    }

    #[test]
    fn settings_of_a_server_are_told_from_greetings() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        for cut in 0..9 {
            assert_eq!(sniff_server(&settings[..cut]), ServerFirst::NeedMore);
        }
        assert_eq!(sniff_server(&settings), ServerFirst::Http2Settings);
        for greeting in [
            &b"SSH-2.0-x\r\n"[..],
            b"220 mail\r\n",
            b"\0\0\x05\x04",
            b"\x4a\0\0\0\x0a",
        ] {
            assert_eq!(sniff_server(greeting), ServerFirst::Opaque);
        }
    }

    #[test]
    fn need_more_ends_at_the_bound() {
        assert_ne!(sniff(&[b'A'; MAX_SNIFF]), Sniff::NeedMore);
        for byte in 0..=255u8 {
            assert_ne!(sniff(&[byte; MAX_SNIFF]), Sniff::NeedMore);
        }
    }
}
