//! Writing heads and bodies: framing is worked out from the body, never taken over blindly.

use std::future::poll_fn;
use std::io;
use std::io::Write as _;
use std::task::{Poll, ready};

use bytes::{BufMut, BytesMut};
use http::{Method, StatusCode, Version};
use sdk::{Body, BodyError, FieldName, Frame, HeaderValue, Headers, Request, Response};

use super::decode::{Framing, check_trailers};
use crate::error::ProxyError;
use crate::stream::{HIGH_WATER, Outbound};

const CONNECTION: FieldName = FieldName::from_static("Connection");
const CONTENT_LENGTH: FieldName = FieldName::from_static("Content-Length");
const TRANSFER_ENCODING: FieldName = FieldName::from_static("Transfer-Encoding");

/// Decides how the body of `request` is framed and makes its fields say so.
pub(crate) fn frame_request(request: &mut Request) -> Result<Framing, ProxyError> {
    let headers = &mut request.headers;
    match (&request.body, request.body.known_length()) {
        (Body::Empty, _) => {
            // A request that had no framing fields keeps none.
            let was_framed =
                headers.remove("transfer-encoding") > 0 || headers.contains("content-length");
            if was_framed {
                set_length(headers, 0);
            }
            Ok(Framing::None)
        }
        (_, Some(length)) => {
            headers.remove("transfer-encoding");
            set_length(headers, length);
            Ok(Framing::Length(length))
        }
        (_, None) if request.version == Version::HTTP_11 => {
            set_chunked(headers);
            Ok(Framing::Chunked)
        }
        (_, None) => Err(ProxyError::Body {
            reason: "an HTTP/1.0 request cannot carry a body of unknown length".to_owned(),
        }),
    }
}

/// Decides how the body of `response` is framed and makes its fields say so.
///
/// `to` and `version` are the method and version of the request; `from_origin` is how the origin
/// framed the response, where it came from there.
pub(crate) fn frame_response(
    response: &mut Response,
    to: &Method,
    version: Version,
    from_origin: Option<Framing>,
) -> Framing {
    let headers = &mut response.headers;
    let status = response.status;
    if status.is_informational()
        || status == StatusCode::NO_CONTENT
        || (to == Method::CONNECT && status.is_success())
    {
        headers.remove("transfer-encoding");
        if headers
            .get_str("content-length")
            .is_some_and(|length| length != "0")
        {
            headers.remove("content-length");
        }
        return Framing::None;
    }
    if to == Method::HEAD || status == StatusCode::NOT_MODIFIED {
        // The fields describe the content that a GET would have brought (RFC 9110 §8.6).
        if let Body::Full(data) = &response.body {
            headers.remove("transfer-encoding");
            set_length(headers, data.len() as u64);
        }
        return Framing::None;
    }
    if let Some(length) = response.body.known_length() {
        headers.remove("transfer-encoding");
        set_length(headers, length);
        return if length == 0 {
            Framing::None
        } else {
            Framing::Length(length)
        };
    }
    let can_chunk = version == Version::HTTP_11 && response.version == Version::HTTP_11;
    if can_chunk && from_origin != Some(Framing::ToEnd) {
        set_chunked(headers);
        return Framing::Chunked;
    }
    headers.remove("content-length");
    if headers.remove("transfer-encoding") > 0 {
        headers.set(CONNECTION, HeaderValue::from_static("close"));
    }
    Framing::ToEnd
}

fn set_length(headers: &mut Headers, length: u64) {
    let mut fields = headers.get_all("content-length");
    let is_right = fields
        .next()
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok())
        == Some(length)
        && fields.next().is_none();
    drop(fields);
    if !is_right {
        // The client's own spelling of the name stays when there is one.
        let name = spelling(headers, CONTENT_LENGTH);
        headers.set(name, HeaderValue::from(length));
    }
}

fn set_chunked(headers: &mut Headers) {
    headers.remove("content-length");
    let mut fields = headers.get_all("transfer-encoding");
    let is_right = fields
        .next()
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
        && fields.next().is_none();
    drop(fields);
    if !is_right {
        let name = spelling(headers, TRANSFER_ENCODING);
        headers.set(name, HeaderValue::from_static("chunked"));
    }
}

fn spelling(headers: &Headers, name: FieldName) -> FieldName {
    headers
        .iter()
        .find(|field| field.name == name)
        .map_or(name, |field| field.name.clone())
}

/// Appends a request head.
pub(crate) fn write_request_head(out: &mut BytesMut, request: &Request) {
    out.reserve(256);
    out.put_slice(request.method.as_str().as_bytes());
    out.put_u8(b' ');
    // Writing to a growing buffer cannot fail.
    let _ = write!(out.writer(), "{}", request.target);
    out.put_u8(b' ');
    out.put_slice(version_text(request.version));
    out.put_slice(b"\r\n");
    write_fields(out, &request.headers);
}

/// Appends a response head.
pub(crate) fn write_response_head(out: &mut BytesMut, response: &Response) {
    out.reserve(256);
    out.put_slice(version_text(response.version));
    out.put_u8(b' ');
    out.put_slice(response.status.as_str().as_bytes());
    out.put_u8(b' ');
    match &response.reason {
        Some(reason) => out.put_slice(reason.as_bytes()),
        None => out.put_slice(response.status.canonical_reason().unwrap_or("").as_bytes()),
    }
    out.put_slice(b"\r\n");
    write_fields(out, &response.headers);
}

fn version_text(version: Version) -> &'static [u8] {
    if version == Version::HTTP_10 {
        b"HTTP/1.0"
    } else {
        b"HTTP/1.1"
    }
}

fn write_fields(out: &mut BytesMut, headers: &Headers) {
    for field in headers {
        out.put_slice(field.name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(field.value.as_bytes());
        out.put_slice(b"\r\n");
    }
    out.put_slice(b"\r\n");
}

/// Why a body could not be sent to its end.
#[derive(Debug)]
pub(crate) enum SendError {
    /// The body's own source failed.
    Body(BodyError),
    /// The stream that it was written to failed.
    Io(io::Error),
    /// It has more or less bytes than it announced, or trailers that may not be sent.
    Length,
}

/// Writes everything that is gathered, and `body`, and flushes.
///
/// What is at hand is gathered into as few writes as possible; as soon as the body has to be waited
/// for, everything is flushed, so that nothing is ever held back.
/// The body is asked for more only while less than [`HIGH_WATER`] bytes wait in `out`.
pub(crate) async fn send_body(
    body: &mut Body,
    framing: Framing,
    out: &mut Outbound,
) -> Result<(), SendError> {
    let mut missing = match framing {
        Framing::Length(length) => Some(length),
        Framing::None => Some(0),
        Framing::Chunked | Framing::ToEnd => None,
    };
    let mut ended = framing == Framing::None;
    poll_fn(|cx| {
        while !ended {
            ready!(out.poll_below(cx, HIGH_WATER)).map_err(SendError::Io)?;
            match body.poll_next(cx) {
                Poll::Pending => {
                    ready!(out.poll_flush(cx)).map_err(SendError::Io)?;
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error))) => {
                    // What came before the failure still counts, as far as it is taken at once.
                    let _ = out.poll_flush(cx);
                    return Poll::Ready(Err(SendError::Body(error)));
                }
                Poll::Ready(Some(Ok(Frame::Data(data)))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(Frame::Data(data)))) => {
                    if let Some(missing) = &mut missing {
                        let Some(less) = missing.checked_sub(data.len() as u64) else {
                            return Poll::Ready(Err(SendError::Length));
                        };
                        *missing = less;
                        out.push(data);
                    } else if framing == Framing::Chunked {
                        let _ = write!(out.gather().writer(), "{:X}\r\n", data.len());
                        out.push(data);
                        out.gather().put_slice(b"\r\n");
                    } else {
                        out.push(data);
                    }
                }
                Poll::Ready(Some(Ok(Frame::Trailers(trailers)))) => {
                    ended = true;
                    if framing == Framing::Chunked {
                        check_trailers(&trailers).map_err(|_| SendError::Length)?;
                        out.gather().put_slice(b"0\r\n");
                        write_fields(out.gather(), &trailers);
                    }
                }
                Poll::Ready(None) => {
                    ended = true;
                    if framing == Framing::Chunked {
                        out.gather().put_slice(b"0\r\n\r\n");
                    }
                }
            }
        }
        if missing.is_some_and(|missing| missing > 0) {
            return Poll::Ready(Err(SendError::Length));
        }
        out.poll_flush(cx).map_err(SendError::Io)
    })
    .await
}
