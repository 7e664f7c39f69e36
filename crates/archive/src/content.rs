//! Content as an archive shows it: decoded where that is possible, as text where it is text.

use std::borrow::Cow;

use futures_util::FutureExt as _;
use records::Redaction;
use sdk::{Body, Bytes, ContentLimits, Headers, Response, StatusCode};

use crate::entry::{Captured, Cut};
use crate::secrets::scrub;

/// Decoded bytes of one body that are looked at.
const MAX_DECODED: usize = 8 << 20;
/// Decoded bytes of one body that are shown.
const MAX_SHOWN: usize = 1 << 20;

/// What there is to show.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    /// The content, or what is kept of it; empty text if there is nothing.
    pub(crate) content: Content<'a>,
    /// Bytes of the decoded content; of what was sent if it could not be decoded.
    pub(crate) size: u64,
    /// The coding that could not be undone, so that `content` has it still.
    pub(crate) content_encoding: Option<&'a str>,
    /// Why `content` is not everything.
    pub(crate) truncated: Option<&'static str>,
}

/// Content, as it can be shown in JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// Text without the secrets that can be told.
    Text(Cow<'a, str>),
    /// No text.
    Bytes(Cow<'a, [u8]>),
}

impl Content<'_> {
    fn into_owned(self) -> Content<'static> {
        match self {
            Self::Text(text) => Content::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Content::Bytes(Cow::Owned(bytes.into_owned())),
        }
    }
}

/// Shows the content of a message with these fields.
pub(crate) fn show<'a>(
    headers: &'a Headers,
    body: &'a Captured,
    redaction: &Redaction,
) -> Shown<'a> {
    let coding = headers
        .get_str("content-encoding")
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"));
    let mut shown = Shown {
        content: Content::Text(Cow::Borrowed("")),
        size: body.size,
        content_encoding: None,
        truncated: body.cut.map(Cut::as_str),
    };
    if body.data.is_empty() {
        return shown;
    }
    let Some(coding) = coding else {
        shown.content = shown.part(&body.data, headers, redaction);
        return shown;
    };
    let decoded = body.cut.is_none().then(|| decode(headers, body)).flatten();
    match decoded {
        Some(data) => {
            shown.size = data.len() as u64;
            shown.content = shown.part(&data, headers, redaction).into_owned();
        }
        None => {
            shown.content_encoding = Some(coding);
            shown.content = Content::Bytes(Cow::Borrowed(&body.data));
        }
    }
    shown
}

impl Shown<'_> {
    /// As much of decoded content as is shown. UTF-8 without NUL is text; a cut may go through a character.
    fn part<'d>(
        &mut self,
        data: &'d [u8],
        headers: &Headers,
        redaction: &Redaction,
    ) -> Content<'d> {
        let part = data.get(..MAX_SHOWN).unwrap_or(data);
        if part.len() < data.len() {
            self.truncated = Some(Cut::Long.as_str());
        }
        let text = match core::str::from_utf8(part) {
            Ok(text) => Some(text),
            Err(error) if self.truncated.is_some() && error.error_len().is_none() => part
                .get(..error.valid_up_to())
                .and_then(|valid| core::str::from_utf8(valid).ok()),
            Err(_) => None,
        };
        match text.filter(|text| !text.contains('\0')) {
            Some(text) => Content::Text(redacted(headers, text, redaction)),
            None => Content::Bytes(Cow::Borrowed(part)),
        }
    }
}

fn redacted<'t>(headers: &Headers, text: &'t str, redaction: &Redaction) -> Cow<'t, str> {
    let kind = headers.get_str("content-type").unwrap_or_default();
    if kind
        .trim_start()
        .starts_with("application/x-www-form-urlencoded")
    {
        redaction.form(text)
    } else {
        scrub(text, redaction)
    }
}

fn decode(headers: &Headers, body: &Captured) -> Option<Bytes> {
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

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use sdk::{FieldName, HeaderValue};

    use super::*;

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

    fn show_it<'a>(headers: &'a Headers, body: &'a Captured) -> Shown<'a> {
        show(headers, body, &Redaction::default())
    }

    fn text(text: &str) -> Content<'_> {
        Content::Text(Cow::Borrowed(text))
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn text_is_text_and_bytes_are_bytes() {
        let headers = headers(None);
        for data in ["caf\u{e9}", ""] {
            let body = body(data.as_bytes(), None);
            let shown = show_it(&headers, &body);
            assert_eq!((shown.content, shown.size), (text(data), body.size));
        }
        for data in [b"\xff\0\x01".as_slice(), b"a\0"] {
            let body = body(data, None);
            let bytes = Content::Bytes(Cow::Borrowed(data));
            assert_eq!(show_it(&headers, &body).content, bytes);
        }
    }

    #[test]
    fn codings_are_undone_if_the_body_is_whole() {
        let headers = headers(Some("gzip"));
        let packed = gzip(b"hello, hello, hello");
        let whole = body(&packed, None);
        let shown = show_it(&headers, &whole);
        assert_eq!(shown.content, text("hello, hello, hello"));
        assert_eq!((shown.size, shown.content_encoding), (19, None));
        for (data, cut) in [
            (packed.get(..20).unwrap(), Some(Cut::Long)),
            (b"no gzip at all".as_slice(), None),
        ] {
            let body = body(data, cut);
            let shown = show_it(&headers, &body);
            assert_eq!(shown.content, Content::Bytes(Cow::Borrowed(data)));
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
        let packed = body(&gzip(&long), None);
        let shown = show_it(&headers, &packed);
        let part = core::str::from_utf8(&long[..MAX_SHOWN]).unwrap();
        assert_eq!(shown.content, text(part));
        assert_eq!(
            (shown.size, shown.truncated),
            (long.len() as u64, Some("long"))
        );
    }

    #[test]
    fn a_cut_through_a_character_leaves_text() {
        let headers = headers(None);
        let body = body(b"caf\xc3", Some(Cut::Long));
        let shown = show_it(&headers, &body);
        assert_eq!(
            (shown.content, shown.truncated),
            (text("caf"), Some("long"))
        );
    }
}
