//! Request and response heads: strict parsing, and what a head says about framing and persistence.
//!
//! Whatever two recipients might read in two ways is refused; RFC 9112 allows each refusal made
//! here. What passes is written again from its parts, never copied.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use sdk::{
    Field, FieldName, HeaderValue, Headers, InvalidTarget, Reason, Request, Response, Target,
};

use super::decode::Framing;
use super::scan::Block;
use crate::authority::check_host;
use crate::error::Fault;
use crate::limits::Limits;

/// A request head and what it says about its connection. The request's body is empty.
#[derive(Debug)]
pub(crate) struct RequestHead {
    pub(crate) request: Request,
    pub(crate) framing: Framing,
    /// Whether the client is ready for another exchange on this connection (RFC 9112 §9.3).
    pub(crate) persistent: bool,
    /// Whether the client waits for a 100 before it sends its body (RFC 9110 §10.1.1).
    pub(crate) expects_continue: bool,
}

/// A response head and what it says about its connection. The response's body is empty.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) response: Response,
    pub(crate) framing: Framing,
    /// Whether the server is ready for another exchange on this connection (RFC 9112 §9.3).
    pub(crate) persistent: bool,
}

/// Fields whose slots are on the stack; most heads have fewer.
const STACK_FIELDS: usize = 64;

/// Gives `parse` uninitialised slots for `count` fields.
fn with_slots<'b, T>(
    count: usize,
    parse: impl FnOnce(&mut [MaybeUninit<httparse::Header<'b>>]) -> T,
) -> T {
    if count <= STACK_FIELDS {
        parse(&mut [const { MaybeUninit::uninit() }; STACK_FIELDS])
    } else {
        let mut slots = Vec::new();
        slots.resize_with(count, MaybeUninit::uninit);
        parse(&mut slots)
    }
}

/// Takes the fields over without copying their values.
fn collect(block: &Bytes, parsed: &[httparse::Header<'_>]) -> Result<Headers, Fault> {
    // Room for what interceptors may add.
    let mut fields = Vec::with_capacity(parsed.len() + 4);
    for field in parsed {
        let name = FieldName::parse(field.name.as_bytes()).map_err(|_| Fault::FieldName)?;
        // An empty value need not lie inside the block.
        let value = if field.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(block.slice_ref(field.value))
                .map_err(|_| Fault::FieldValue)?
        };
        fields.push(Field { name, value });
    }
    Ok(fields.into_iter().collect())
}

/// Parses a trailer section that ends with an empty line.
pub(crate) fn parse_trailers(
    section: &Bytes,
    lines: usize,
    limits: &Limits,
) -> Result<Headers, Fault> {
    if lines > limits.header_count {
        return Err(Fault::TooManyFields);
    }
    let mut slots = vec![httparse::EMPTY_HEADER; lines];
    match httparse::parse_headers(section, &mut slots) {
        Ok(httparse::Status::Complete((_, fields))) => collect(section, fields),
        Ok(httparse::Status::Partial) => Err(Fault::Trailer),
        Err(error) => Err(field_fault(error, Fault::Trailer)),
    }
}

/// The fault for a parser error; `line` is the fault of the first line.
fn field_fault(error: httparse::Error, line: Fault) -> Fault {
    match error {
        httparse::Error::HeaderName => Fault::FieldName,
        httparse::Error::HeaderValue => Fault::FieldValue,
        httparse::Error::TooManyHeaders => Fault::TooManyFields,
        httparse::Error::Version => Fault::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => line,
    }
}

/// Parses a complete request head.
pub(crate) fn parse_request(
    head: &Bytes,
    block: Block,
    limits: &Limits,
) -> Result<RequestHead, Fault> {
    let count = block.lines.saturating_sub(1);
    if count > limits.header_count {
        return Err(Fault::TooManyFields);
    }
    let (method, target, version, headers) = with_slots(count, |slots| {
        let mut parsed = httparse::Request::new(&mut []);
        match parsed.parse_with_uninit_headers(head, slots) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::RequestLine),
            Err(error) => return Err(field_fault(error, Fault::RequestLine)),
        }
        let (Some(method), Some(target), Some(minor)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(Fault::RequestLine);
        };
        if target.len() > limits.target_bytes {
            return Err(Fault::TargetTooLong);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Fault::RequestLine)?;
        let target = Target::parse(&method, target.as_bytes()).map_err(|error| match error {
            InvalidTarget::BadByte(_)
            | InvalidTarget::Empty
            | InvalidTarget::Form
            | InvalidTarget::UserInfo => Fault::Target,
        })?;
        Ok((
            method,
            target,
            version(minor),
            collect(head, parsed.headers)?,
        ))
    })?;

    let connection = Connection::read(&headers, version)?;
    let framing = request_framing(&method, version, &headers)?;
    check_host(&target, &headers, version)?;
    let expects_continue = expects_continue(&headers)? && version == Version::HTTP_11;
    Ok(RequestHead {
        framing,
        persistent: connection.persistent,
        expects_continue,
        request: Request {
            method,
            target,
            version,
            headers,
            body: sdk::Body::Empty,
        },
    })
}

/// Parses a complete response head.
pub(crate) fn parse_response(
    head: &Bytes,
    block: Block,
    to: &Method,
    limits: &Limits,
) -> Result<ResponseHead, Fault> {
    let count = block.lines.saturating_sub(1);
    if count > limits.header_count {
        return Err(Fault::TooManyFields);
    }
    let (status, version, headers) = with_slots(count, |slots| {
        let mut parsed = httparse::Response::new(&mut []);
        let parser = httparse::ParserConfig::default();
        match parser.parse_response_with_uninit_headers(&mut parsed, head, slots) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::StatusLine),
            Err(error) => return Err(field_fault(error, Fault::StatusLine)),
        }
        let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
            return Err(Fault::StatusLine);
        };
        let status = StatusCode::from_u16(code).map_err(|_| Fault::StatusLine)?;
        Ok((status, version(minor), collect(head, parsed.headers)?))
    })?;

    let connection = Connection::read(&headers, version)?;
    let framing = response_framing(to, status, version, &headers)?;
    Ok(ResponseHead {
        framing,
        persistent: connection.persistent && framing != Framing::ToEnd,
        response: Response {
            status,
            reason: Some(reason(head)?),
            version,
            headers,
            body: sdk::Body::Empty,
        },
    })
}

fn version(minor: u8) -> Version {
    if minor == 0 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

/// The reason phrase as it was written, with bytes that the parser would leave out.
fn reason(head: &[u8]) -> Result<Reason, Fault> {
    // RFC 9112 §4: `HTTP/1.1 200 phrase`, the parser has checked the first twelve bytes.
    let line_len = head.iter().position(|&byte| byte == b'\r').unwrap_or(0);
    let phrase = head.get(12..line_len).unwrap_or_default();
    let phrase = phrase.strip_prefix(b" ").unwrap_or(phrase);
    if phrase == b"OK" {
        return Ok(Reason::OK);
    }
    Reason::parse(phrase).map_err(|_| Fault::StatusLine)
}

/// What the Connection field says (RFC 9110 §7.6.1).
struct Connection {
    persistent: bool,
}

impl Connection {
    fn read(headers: &Headers, version: Version) -> Result<Self, Fault> {
        let mut close = false;
        let mut keep_alive = false;
        for value in headers.get_all("connection") {
            for option in value.as_bytes().split(|&byte| byte == b',') {
                let option = option.trim_ascii();
                close |= option.eq_ignore_ascii_case(b"close");
                keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                // A recipient that takes listed fields away would read another message than one
                // that does not.
                const NEEDED: [&[u8]; 3] = [b"content-length", b"host", b"transfer-encoding"];
                if NEEDED.iter().any(|name| option.eq_ignore_ascii_case(name)) {
                    return Err(Fault::ConnectionOption);
                }
            }
        }
        let persistent = if version == Version::HTTP_11 {
            !close
        } else {
            keep_alive && !close
        };
        Ok(Self { persistent })
    }
}

/// Whether a Connection field lists `close`.
pub(crate) fn says_close(headers: &Headers) -> bool {
    headers
        .list("connection")
        .any(|option| option.eq_ignore_ascii_case("close"))
}

fn request_framing(method: &Method, version: Version, headers: &Headers) -> Result<Framing, Fault> {
    let length = content_length(headers)?;
    let chunked = transfer_encoding(headers, version)?;
    match (length, chunked) {
        (Some(_), true) => Err(Fault::BothFramings),
        // RFC 9110 §9.3.6: a CONNECT request has no content.
        (Some(_), false) if method == Method::CONNECT => Err(Fault::ContentLength),
        (None, true) if method == Method::CONNECT => Err(Fault::TransferEncoding),
        (Some(length), false) => Ok(Framing::Length(length)),
        (None, true) => Ok(Framing::Chunked),
        (None, false) => Ok(Framing::None),
    }
}

/// RFC 9112 §6.3, in its order.
fn response_framing(
    to: &Method,
    status: StatusCode,
    version: Version,
    headers: &Headers,
) -> Result<Framing, Fault> {
    let length = content_length(headers)?;
    let chunked = transfer_encoding(headers, version)?;
    if length.is_some() && chunked {
        return Err(Fault::BothFramings);
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6 and RFC 9112 §6.1 forbid both fields here; a zero says nothing new.
        return match (length, chunked) {
            (_, true) => Err(Fault::TransferEncoding),
            (Some(1..), _) => Err(Fault::ContentLength),
            _ => Ok(Framing::None),
        };
    }
    if to == Method::HEAD
        || status == StatusCode::NOT_MODIFIED
        || (to == Method::CONNECT && status.is_success())
    {
        return Ok(Framing::None);
    }
    Ok(match (length, chunked) {
        (_, true) => Framing::Chunked,
        (Some(length), _) => Framing::Length(length),
        _ => Framing::ToEnd,
    })
}

/// The one plain decimal Content-Length, if there is one.
pub(crate) fn content_length(headers: &Headers) -> Result<Option<u64>, Fault> {
    let mut values = headers.get_all("content-length");
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    let plain = digits.iter().all(u8::is_ascii_digit)
        && matches!(digits, [b'0'] | [b'1'..=b'9', ..])
        && digits.len() <= 19;
    if values.next().is_some() || !plain {
        return Err(Fault::ContentLength);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Fault::ContentLength)?;
    text.parse().map(Some).map_err(|_| Fault::ContentLength)
}

/// Whether there is a Transfer-Encoding, which then is a single `chunked`.
fn transfer_encoding(headers: &Headers, version: Version) -> Result<bool, Fault> {
    let mut values = headers.get_all("transfer-encoding");
    let Some(value) = values.next() else {
        return Ok(false);
    };
    // RFC 9112 §6.1: a message of HTTP/1.0 with Transfer-Encoding has faulty framing.
    if values.next().is_some()
        || !value.as_bytes().eq_ignore_ascii_case(b"chunked")
        || version != Version::HTTP_11
    {
        return Err(Fault::TransferEncoding);
    }
    Ok(true)
}

fn expects_continue(headers: &Headers) -> Result<bool, Fault> {
    let mut values = headers.get_all("expect");
    let Some(value) = values.next() else {
        return Ok(false);
    };
    if values.next().is_some() || !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        return Err(Fault::Expect);
    }
    Ok(true)
}
