//! Content as an archive shows it: decoded where that is possible, as text where it is text.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt as _;
use records::Redaction;
use sdk::{Body, ContentLimits, Headers, Response, StatusCode};

use crate::entry::Captured;
use crate::secrets::scrub;

/// Decoded bytes of one body that are looked at.
const MAX_DECODED: usize = 8 << 20;
/// Decoded bytes of one body that are shown.
const MAX_SHOWN: usize = 1 << 20;

/// What there is to show.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    /// The content, or what is kept of it; none if there is nothing.
    pub(crate) text: Option<String>,
    /// Whether `text` is base64 of bytes.
    pub(crate) is_base64: bool,
    /// Bytes of the decoded content; of what was sent if it could not be decoded.
    pub(crate) size: u64,
    /// The coding that could not be undone, so that `text` has it still.
    pub(crate) content_encoding: Option<&'a str>,
    /// Why `text` is not everything.
    pub(crate) truncated: Option<&'static str>,
}

/// Shows the content of a message with these fields.
pub(crate) fn show<'a>(headers: &'a Headers, body: &Captured, redaction: &Redaction) -> Shown<'a> {
    let coding = headers
        .get_str("content-encoding")
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    let mut shown = Shown {
        text: None,
        is_base64: false,
        size: body.size,
        content_encoding: None,
        truncated: body.cut.map(crate::entry::Cut::as_str),
    };
    if body.data.is_empty() {
        return shown;
    }
    let decoded = match coding {
        None => Some(body.data.clone()),
        Some(_) if body.cut.is_some() => None,
        Some(_) => decode(headers, body),
    };
    match decoded {
        Some(data) => {
            if body.cut.is_none() {
                shown.size = data.len() as u64;
            }
            let part = data.get(..MAX_SHOWN).unwrap_or(&data);
            if part.len() < data.len() {
                shown.truncated = Some(crate::entry::Cut::Long.as_str());
            }
            let (text, is_base64) = text_or_base64(part, shown.truncated.is_some());
            let text = if is_base64 {
                text
            } else {
                redacted(headers, &text, redaction)
            };
            (shown.text, shown.is_base64) = (Some(text), is_base64);
        }
        None => {
            shown.content_encoding = coding;
            (shown.text, shown.is_base64) = (Some(STANDARD.encode(&body.data)), true);
        }
    }
    shown
}

fn redacted(headers: &Headers, text: &str, redaction: &Redaction) -> String {
    let kind = headers.get_str("content-type").unwrap_or_default();
    if kind
        .trim_start()
        .starts_with("application/x-www-form-urlencoded")
    {
        redaction.form(text).into_owned()
    } else {
        scrub(text, redaction).into_owned()
    }
}

fn decode(headers: &Headers, body: &Captured) -> Option<sdk::Bytes> {
    let mut message = Response::new(StatusCode::OK);
    for value in headers.get_all("content-encoding") {
        message.headers.append(
            sdk::FieldName::from_static("Content-Encoding"),
            value.clone(),
        );
    }
    message.body = Body::Full(body.data.clone());
    let limits = ContentLimits {
        encoded: body.data.len(),
        decoded: MAX_DECODED,
        ..ContentLimits::default()
    };
    // All of the body is here, so that the future has nothing to wait for.
    let content = message.content(&limits).now_or_never()?;
    content.ok().map(|content| content.data)
}

/// UTF-8 without control characters other than white space is text; a cut may go through a
/// character.
fn text_or_base64(data: &[u8], is_cut: bool) -> (String, bool) {
    let text = match core::str::from_utf8(data) {
        Ok(text) => Some(text),
        Err(error) if is_cut && error.error_len().is_none() => data
            .get(..error.valid_up_to())
            .and_then(|valid| core::str::from_utf8(valid).ok()),
        Err(_) => None,
    };
    match text.filter(|text| !text.contains('\0')) {
        Some(text) => (text.to_owned(), false),
        None => (STANDARD.encode(data), true),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use sdk::{FieldName, HeaderValue};

    use super::*;
    use crate::entry::Cut;

    fn headers(coding: Option<&'static str>) -> Headers {
        let mut headers = Headers::new();
        if let Some(coding) = coding {
            let name = FieldName::from_static("Content-Encoding");
            headers.append(name, HeaderValue::from_static(coding));
        }
        headers
    }

    fn body(data: &[u8], cut: Option<Cut>) -> Captured {
        Captured {
            data: data.to_vec().into(),
            size: data.len() as u64,
            cut,
            trailers: None,
        }
    }

    fn show_it<'a>(headers: &'a Headers, body: &Captured) -> Shown<'a> {
        show(headers, body, &Redaction::default())
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn text_is_text_and_bytes_are_base64() {
        let headers = headers(None);
        let shown = show_it(&headers, &body("caf\u{e9}".as_bytes(), None));
        assert_eq!(
            (shown.text.as_deref(), shown.is_base64),
            (Some("caf\u{e9}"), false)
        );
        let shown = show_it(&headers, &body(b"\xff\0\x01", None));
        assert_eq!(
            (shown.text.as_deref(), shown.is_base64),
            (Some("/wAB"), true)
        );
        let shown = show_it(&headers, &body(b"", None));
        assert_eq!((shown.text, shown.size), (None, 0));
    }

    #[test]
    fn codings_are_undone_if_the_body_is_whole() {
        let headers = headers(Some("gzip"));
        let packed = gzip(b"hello, hello, hello");
        let shown = show_it(&headers, &body(&packed, None));
        assert_eq!(shown.text.as_deref(), Some("hello, hello, hello"));
        assert_eq!((shown.size, shown.content_encoding), (19, None));
        for (data, cut) in [
            (packed.get(..20).unwrap(), Some(Cut::Long)),
            (b"no gzip at all".as_slice(), None),
        ] {
            let shown = show_it(&headers, &body(data, cut));
            assert!(shown.is_base64);
            assert_eq!(shown.content_encoding, Some("gzip"));
            assert_eq!(shown.truncated, cut.map(Cut::as_str));
        }
    }

    #[test]
    fn a_bomb_stays_packed_and_long_texts_are_cut() {
        let headers = headers(Some("gzip"));
        let bomb = gzip(&vec![b' '; MAX_DECODED + 1]);
        assert_eq!(
            show_it(&headers, &body(&bomb, None)).content_encoding,
            Some("gzip")
        );
        let long: Vec<u8> = (0..300_000u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        let shown = show_it(&headers, &body(&gzip(&long), None));
        assert_eq!(shown.text.map(|text| text.len()), Some(MAX_SHOWN));
        assert_eq!(
            (shown.size, shown.truncated),
            (long.len() as u64, Some("long"))
        );
    }

    #[test]
    fn a_cut_through_a_character_leaves_text() {
        let headers = headers(None);
        let shown = show_it(&headers, &body(b"caf\xc3", Some(Cut::Long)));
        assert_eq!(
            (shown.text.as_deref(), shown.truncated),
            (Some("caf"), Some("long"))
        );
    }
}
