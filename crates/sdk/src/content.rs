//! Content as its author wrote it: decoded for reading, encoded again after a change, and never
//! larger than the reader is ready for.
//!
//! A few kilobytes of gzip can stand for gigabytes. Two caps stop that: one on the size and one on
//! the ratio of decoded to encoded bytes. Over a cap, or with a coding that is not known here, the
//! body stays as it came, so that the message can pass unmodified.

use bytes::Bytes;
use http::HeaderValue;

use crate::coding::{Coding, decode, encode};
use crate::{Body, BodyError, FieldName, Headers, InterceptError, Request, Response};

const CONTENT_ENCODING: FieldName = FieldName::from_static("Content-Encoding");
const CONTENT_LENGTH: FieldName = FieldName::from_static("Content-Length");
const ETAG: FieldName = FieldName::from_static("ETag");

/// What a reader is ready to hold. The defaults suit texts and API answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentLimits {
    /// Bytes as sent. Default: 1 MiB.
    pub encoded: usize,
    /// Bytes after decoding. Default: 4 MiB.
    pub decoded: usize,
    /// Decoded bytes per encoded byte, looked at once more than 64 KiB were decoded. Default: 100;
    /// machine-written XML and JSON reach 30, gzip can reach 1,032.
    pub ratio: usize,
}

impl Default for ContentLimits {
    fn default() -> Self {
        Self {
            encoded: 1 << 20,
            decoded: 4 << 20,
            ratio: 100,
        }
    }
}

/// How many codings may lie on top of one another. RFC 9110 §8.4 sets no limit, practice has one.
const MAX_CODINGS: usize = 2;

/// Content after decoding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The bytes.
    pub data: Bytes,
    /// How they had been encoded; `Identity` when several codings lay on top of one another.
    pub coding: Coding,
}

impl Content {
    /// The content as text, when it is UTF-8.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        core::str::from_utf8(&self.data).ok()
    }
}

/// Why content cannot be read. The body is intact in every case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// The body ended with an error, which whoever reads it next will see too.
    #[error(transparent)]
    Body(BodyError),
    /// The bytes are not what Content-Encoding says: wrong, cut short, or with something behind.
    #[error("the content is not valid {0:?}")]
    Malformed(Coding),
    /// The message holds a part of the content only (Content-Range).
    #[error("the message holds only a part of the content")]
    Partial,
    /// Over [`ContentLimits`].
    #[error("the content is over the limit of {what}")]
    TooLarge {
        /// Which limit.
        what: &'static str,
    },
    /// A coding this crate does not know, or too many of them.
    #[error("content coding {0:?} is not known")]
    UnknownCoding(String),
}

impl ContentError {
    /// Whether the message can pass unmodified: everything but a broken body.
    #[must_use]
    pub fn is_harmless(&self) -> bool {
        !matches!(self, Self::Body(_))
    }
}

impl From<ContentError> for InterceptError {
    fn from(error: ContentError) -> Self {
        let what = "the content could not be read";
        if error.is_harmless() {
            Self::harmless(what)
        } else {
            Self::new(what)
        }
        .caused_by(error)
    }
}

impl Request {
    /// The content, decoded. The body is kept as it is.
    ///
    /// # Errors
    /// [`ContentError`]; the body is intact.
    pub async fn content(&mut self, limits: &ContentLimits) -> Result<Content, ContentError> {
        read(&self.headers, &mut self.body, limits).await
    }

    /// Replaces the content, encodes it, and corrects the fields that speak about it.
    ///
    /// A request signed with AWS Signature Version 4 as a rule covers its body: changing that
    /// makes the server refuse the request.
    pub fn set_content(&mut self, data: impl Into<Bytes>, coding: Coding) {
        replace(&mut self.headers, &mut self.body, data.into(), coding);
    }

    /// Puts another body in place of the one there is, made of it, as a rule a stream that changes
    /// what passes; corrects the fields that speak about it. Its coding is as it was.
    pub fn map_body(&mut self, map: impl FnOnce(Body) -> Body) {
        map_body(&mut self.headers, &mut self.body, map);
    }
}

impl Response {
    /// The content, decoded. The body is kept as it is.
    ///
    /// # Errors
    /// [`ContentError`]; the body is intact.
    pub async fn content(&mut self, limits: &ContentLimits) -> Result<Content, ContentError> {
        read(&self.headers, &mut self.body, limits).await
    }

    /// Replaces the content, encodes it, and corrects the fields that speak about it. Trailers
    /// are dropped with the old body.
    pub fn set_content(&mut self, data: impl Into<Bytes>, coding: Coding) {
        replace(&mut self.headers, &mut self.body, data.into(), coding);
    }

    /// Puts another body in place of the one there is, made of it, as a rule a stream that changes
    /// what passes; corrects the fields that speak about it. Its coding is as it was.
    pub fn map_body(&mut self, map: impl FnOnce(Body) -> Body) {
        map_body(&mut self.headers, &mut self.body, map);
    }
}

async fn read(
    headers: &Headers,
    body: &mut Body,
    limits: &ContentLimits,
) -> Result<Content, ContentError> {
    if headers.contains("content-range") {
        return Err(ContentError::Partial);
    }
    let codings = codings(headers)?;
    let encoded = match body.buffer(limits.encoded).await {
        Ok(buffered) => buffered.data,
        Err(BodyError::TooLarge { .. }) => {
            return Err(ContentError::TooLarge {
                what: "encoded bytes",
            });
        }
        Err(error) => return Err(ContentError::Body(error)),
    };
    if encoded.len() > limits.decoded {
        return Err(ContentError::TooLarge {
            what: "decoded bytes",
        });
    }
    let coding = match codings[..] {
        [] => Coding::Identity,
        [only] => only,
        _ => Coding::Identity,
    };
    let mut data = encoded;
    // The coding applied last is listed last.
    for coding in codings
        .iter()
        .rev()
        .filter(|_| !data.is_empty())
        .copied()
        .collect::<Vec<_>>()
    {
        data = decode(&data, coding, limits)?.into();
    }
    Ok(Content { data, coding })
}

fn codings(headers: &Headers) -> Result<Vec<Coding>, ContentError> {
    if headers
        .get_all("content-encoding")
        .any(|value| value.to_str().is_err())
    {
        return Err(ContentError::UnknownCoding("(not ASCII)".to_owned()));
    }
    let mut codings = Vec::new();
    for name in headers.list("content-encoding") {
        match Coding::parse(name) {
            Some(Coding::Identity) => continue,
            Some(coding) => codings.push(coding),
            None => return Err(ContentError::UnknownCoding(name.chars().take(40).collect())),
        }
        if codings.len() > MAX_CODINGS {
            return Err(ContentError::UnknownCoding(
                "more than two codings".to_owned(),
            ));
        }
    }
    Ok(codings)
}

fn replace(headers: &mut Headers, body: &mut Body, data: Bytes, coding: Coding) {
    let data = match encode(&data, coding) {
        Some(encoded) => {
            headers.set_value(&CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
            encoded.into()
        }
        None => {
            headers.remove(CONTENT_ENCODING);
            data
        }
    };
    headers.set_value(&CONTENT_LENGTH, HeaderValue::from(data.len()));
    for gone in ["transfer-encoding", "trailer"] {
        headers.remove(gone);
    }
    disown(headers);
    *body = data.into();
}

fn map_body(headers: &mut Headers, body: &mut Body, map: impl FnOnce(Body) -> Body) {
    *body = map(body.take());
    match body.known_length() {
        Some(length) if headers.contains("content-length") => {
            headers.set_value(&CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(_) => {}
        None => {
            headers.remove(CONTENT_LENGTH);
        }
    }
    disown(headers);
}

/// Removes announcements that came with the old bytes and would be false of the new ones.
fn disown(headers: &mut Headers) {
    for gone in ["content-md5", "digest", "content-digest", "repr-digest"] {
        headers.remove(gone);
    }
    weaken_etag(headers);
}

/// RFC 9110 §8.8.1: a strong validator promises byte for byte the same content.
fn weaken_etag(headers: &mut Headers) {
    let weak = match headers.get_str("etag") {
        Some(tag) if tag.starts_with('"') => HeaderValue::try_from(format!("W/{tag}")).ok(),
        _ => None,
    };
    if let Some(weak) = weak {
        headers.set_value(&ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use http::StatusCode;

    use super::*;

    fn response(encoding: Option<&'static str>, body: impl Into<Body>) -> Response {
        let mut response = Response::new(StatusCode::OK);
        if let Some(encoding) = encoding {
            response.headers.append(
                "content-ENCODING".parse().unwrap(),
                HeaderValue::from_static(encoding),
            );
        }
        response.body = body.into();
        response
    }

    async fn content(response: &mut Response) -> Result<Content, ContentError> {
        response.content(&ContentLimits::default()).await
    }

    async fn body_of(mut response: Response) -> Bytes {
        response.body.buffer(usize::MAX).await.unwrap().data
    }

    #[tokio::test]
    async fn each_coding_is_read_and_written_back() {
        for (coding, name) in [
            (Coding::Gzip, "gzip"),
            (Coding::Gzip, "X-GZIP"),
            (Coding::Deflate, "deflate"),
            (Coding::Brotli, "br"),
            (Coding::Zstd, "zstd"),
        ] {
            let mut response = response(Some(name), encode(b"hello hello hello", coding).unwrap());
            let before = content(&mut response).await.unwrap();
            assert_eq!(
                (before.text(), before.coding),
                (Some("hello hello hello"), coding)
            );

            response.set_content("something else", before.coding);
            assert_eq!(
                content(&mut response).await.unwrap().text(),
                Some("something else")
            );
            let length = response
                .headers
                .get_str("content-length")
                .unwrap()
                .parse::<usize>()
                .unwrap();
            assert_eq!(
                response.headers.iter().next().unwrap().name.as_str(),
                "content-ENCODING"
            );
            assert_eq!(body_of(response).await.len(), length);
        }
    }

    #[tokio::test]
    async fn bare_deflate_several_gzip_members_and_two_codings_are_read() {
        let mut bare = flate2::write::DeflateEncoder::new(Vec::new(), Compression::fast());
        bare.write_all(b"bare").unwrap();
        assert_eq!(
            content(&mut response(Some("deflate"), bare.finish().unwrap()))
                .await
                .unwrap()
                .text(),
            Some("bare")
        );

        let mut members = encode(b"one ", Coding::Gzip).unwrap();
        members.extend(encode(b"two", Coding::Gzip).unwrap());
        assert_eq!(
            content(&mut response(Some("gzip"), members))
                .await
                .unwrap()
                .text(),
            Some("one two")
        );

        let twice = encode(&encode(b"twice", Coding::Deflate).unwrap(), Coding::Gzip).unwrap();
        let read = content(&mut response(Some("deflate, gzip"), twice))
            .await
            .unwrap();
        assert_eq!(
            (read.text(), read.coding),
            (Some("twice"), Coding::Identity)
        );
    }

    #[tokio::test]
    async fn threat_29_bombs_are_refused_and_the_body_is_intact() {
        let bomb = encode(&vec![0; 64 << 20], Coding::Gzip).unwrap();
        let twice = encode(&bomb, Coding::Gzip).unwrap();
        let wide = ContentLimits {
            encoded: 1 << 20,
            decoded: usize::MAX,
            ratio: 100,
        };
        for (encoding, bytes, limits, what) in [
            ("gzip", &bomb, ContentLimits::default(), "decoded bytes"),
            ("gzip", &bomb, wide, "decoded bytes per encoded byte"),
            (
                "gzip",
                &bomb,
                ContentLimits {
                    ratio: usize::MAX,
                    ..ContentLimits::default()
                },
                "decoded bytes",
            ),
            (
                "gzip",
                &bomb,
                ContentLimits {
                    encoded: 1000,
                    ..wide
                },
                "encoded bytes",
            ),
            (
                "gzip, gzip",
                &twice,
                ContentLimits {
                    ratio: 2000,
                    ..ContentLimits::default()
                },
                "decoded bytes",
            ),
        ] {
            let mut response = response(Some(encoding), bytes.clone());
            let read = response
                .content(&limits)
                .await
                .map(|content| content.data.len());
            assert!(
                matches!(read, Err(ContentError::TooLarge { what: w }) if w == what),
                "{encoding} {what}: {read:?}"
            );
            assert!(read.unwrap_err().is_harmless());
            assert_eq!(body_of(response).await, *bytes);
        }
    }

    #[tokio::test]
    async fn threat_29_broken_codings_are_refused_and_the_body_is_intact() {
        let whole = encode(b"hello hello", Coding::Gzip).unwrap();
        let cut = whole[..whole.len() - 1].to_vec();
        let mut trailed = whole.clone();
        trailed.extend(b"garbage");
        let mut zlib = encode(b"hello", Coding::Deflate).unwrap();
        zlib.push(0);
        for (encoding, bytes) in [
            ("gzip", cut),
            ("gzip", trailed),
            ("deflate", zlib),
            ("gzip", b"plain".to_vec()),
        ] {
            let mut response = response(Some(encoding), bytes.clone());
            assert!(
                matches!(
                    content(&mut response).await,
                    Err(ContentError::Malformed(_))
                ),
                "{encoding} {bytes:?}"
            );
            assert_eq!(body_of(response).await, bytes);
        }
    }

    #[tokio::test]
    async fn unknown_codings_parts_and_empty_bodies() {
        for encoding in ["compress", "gzip, x-new", "gzip, gzip, gzip"] {
            let read = content(&mut response(Some(encoding), "x")).await;
            assert!(
                matches!(read, Err(ContentError::UnknownCoding(_))),
                "{encoding}: {read:?}"
            );
        }
        let mut part = response(None, "x").with_header(
            "Content-Range".parse().unwrap(),
            "bytes 0-0/9".parse().unwrap(),
        );
        assert_eq!(content(&mut part).await, Err(ContentError::Partial));
        // The answer to HEAD names a coding and has no bytes.
        assert_eq!(
            content(&mut response(Some("gzip"), "")).await.unwrap().data,
            ""
        );
        assert_eq!(
            content(&mut response(Some("identity"), "x"))
                .await
                .unwrap()
                .coding,
            Coding::Identity
        );
    }

    #[tokio::test]
    async fn fields_that_spoke_about_the_old_content_are_corrected() {
        let mut response = response(None, "old");
        for (name, value) in [
            ("content-length", "3"),
            ("ETag", "\"a\""),
            ("Digest", "x"),
            ("Transfer-Encoding", "chunked"),
        ] {
            response
                .headers
                .append(name.parse().unwrap(), HeaderValue::from_static(value));
        }
        response.set_content("newer", Coding::Identity);
        let fields: Vec<_> = response
            .headers
            .iter()
            .map(|f| (f.name.as_str(), f.value.to_str().unwrap()))
            .collect();
        assert_eq!(fields, [("content-length", "5"), ("ETag", "W/\"a\"")]);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_not_harmless() {
        let broken = futures_util::stream::iter([Err(BodyError::Incomplete)]);
        let error = content(&mut response(None, Body::stream(None, broken)))
            .await
            .unwrap_err();
        assert_eq!(error, ContentError::Body(BodyError::Incomplete));
        assert!(!error.is_harmless());
    }
}
