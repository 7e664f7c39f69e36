//! What must hold for any bytes that are read as a message of HTTP/1.

use bytes::{Bytes, BytesMut};
use http::Method;

use super::decode::{Decoded, Decoder, Framing};
use super::encode;
use super::head::{self, RequestHead, ResponseHead};
use super::scan::{Block, Scan};
use crate::error::Fault;
use crate::limits::Limits;

/// A head that passes is written so that it reads the same, and its body does not depend on how it
/// is cut.
pub(crate) fn request(bytes: &[u8]) {
    let Some((head, block)) = split_head(bytes) else {
        return;
    };
    let limits = Limits::default();
    let Ok(first) = head::parse_request(&head, block, &limits) else {
        return;
    };
    let mut written = BytesMut::new();
    encode::write_request_head(&mut written, &first.request);
    let (head, block) = complete(written);
    let again = head::parse_request(&head, block, &limits);
    assert!(again.is_ok_and(|again| same_request(&first, &again)));
    body(
        bytes.get(block.len..).unwrap_or_default(),
        first.framing,
        &limits,
    );
}

/// As [`request`], for a response to GET.
pub(crate) fn response(bytes: &[u8]) {
    let Some((head, block)) = split_head(bytes) else {
        return;
    };
    let limits = Limits::default();
    let Ok(first) = head::parse_response(&head, block, &Method::GET, &limits) else {
        return;
    };
    let mut written = BytesMut::new();
    encode::write_response_head(&mut written, &first.response);
    let (head, block) = complete(written);
    let again = head::parse_response(&head, block, &Method::GET, &limits);
    assert!(again.is_ok_and(|again| same_response(&first, &again)));
    body(
        bytes.get(block.len..).unwrap_or_default(),
        first.framing,
        &limits,
    );
}

fn same_request(one: &RequestHead, other: &RequestHead) -> bool {
    one.request.method == other.request.method
        && one.request.target == other.request.target
        && one.request.version == other.request.version
        && one.request.headers == other.request.headers
        && one.framing == other.framing
        && one.persistent == other.persistent
        && one.expects_continue == other.expects_continue
}

fn same_response(one: &ResponseHead, other: &ResponseHead) -> bool {
    one.response.status == other.response.status
        && one.response.reason == other.response.reason
        && one.response.version == other.response.version
        && one.response.headers == other.response.headers
        && one.framing == other.framing
        && one.persistent == other.persistent
}

/// Finds the head; the end does not depend on how the bytes are cut.
fn split_head(bytes: &[u8]) -> Option<(Bytes, Block)> {
    let limit = Limits::default().head_bytes;
    let found = Scan::default().advance(bytes, limit, false);
    let mut piecewise = Scan::default();
    let step = bytes.len() / 16 + 1;
    let mut early = Ok(None);
    for length in (0..bytes.len()).step_by(step).chain([bytes.len()]) {
        early = piecewise.advance(bytes.get(..length).unwrap_or_default(), limit, false);
        if early != Ok(None) {
            break;
        }
    }
    assert_eq!(early, found);
    let block = found.ok().flatten()?;
    Some((Bytes::copy_from_slice(bytes.get(..block.len)?), block))
}

/// A head that was just written is one that the scan accepts.
fn complete(written: BytesMut) -> (Bytes, Block) {
    let found = Scan::default().advance(&written, usize::MAX, false);
    let block = found.ok().flatten();
    assert!(block.is_some_and(|block| block.len == written.len()));
    (
        written.freeze(),
        block.unwrap_or(Block { len: 0, lines: 0 }),
    )
}

fn body(bytes: &[u8], framing: Framing, limits: &Limits) {
    let whole = decode(bytes, bytes.len().max(1), framing, limits);
    let step = bytes.len() / 16 + 1;
    assert_eq!(decode(bytes, step, framing, limits), whole);
    if framing == Framing::Chunked {
        assert!(whole.0.len() < bytes.len().max(1));
    }
}

/// Decodes a body given in pieces of `step` bytes: the content, and how it ended.
fn decode(
    bytes: &[u8],
    step: usize,
    framing: Framing,
    limits: &Limits,
) -> (Vec<u8>, Result<bool, Fault>) {
    let mut decoder = Decoder::new(framing);
    let mut buffer = BytesMut::new();
    let mut content = Vec::new();
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buffer, limits) {
                Ok(Decoded::Data(data)) => content.extend_from_slice(&data),
                Ok(Decoded::NeedMore) => break,
                Ok(Decoded::End | Decoded::Trailers(_)) => return (content, Ok(true)),
                Err(fault) => return (content, Err(fault)),
            }
        }
    }
    (content, Ok(false))
}
