//! WebSocket (RFC 6455): the origins' echo, and the frames that the tour's client needs.

use std::io;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Opcodes (RFC 6455 §11.8).
pub mod opcode {
    /// Goes on with a fragmented message.
    pub const CONTINUATION: u8 = 0;
    /// A text message.
    pub const TEXT: u8 = 1;
    /// A binary message.
    pub const BINARY: u8 = 2;
    /// The closing handshake.
    pub const CLOSE: u8 = 8;
    /// Asks for a pong.
    pub const PING: u8 = 9;
    /// Answers a ping.
    pub const PONG: u8 = 10;
}

/// The longest payload of a control frame (RFC 6455 §5.5).
const MAX_CONTROL: u64 = 125;

/// The value of `Sec-WebSocket-Accept` that answers a key (RFC 6455 §4.2.2).
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(sha1.finalize())
}

/// A frame's header (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether the frame ends its message.
    pub fin: bool,
    /// The reserved bits, which extensions use.
    pub reserved: u8,
    /// What the frame is.
    pub opcode: u8,
    /// The masking key, which clients must use.
    pub mask: Option<[u8; 4]>,
    /// The payload's length in bytes.
    pub len: u64,
}

impl FrameHeader {
    /// Reads a header; `None` if the stream ends before it.
    ///
    /// # Errors
    /// The stream's; also when it ends within the header.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Self>> {
        let mut start = [0; 2];
        if stream.read(start.get_mut(..1).unwrap_or_default()).await? == 0 {
            return Ok(None);
        }
        stream
            .read_exact(start.get_mut(1..).unwrap_or_default())
            .await?;
        let [first, second] = start;
        let len = match second & 0x7f {
            126 => u64::from(stream.read_u16().await?),
            127 => stream.read_u64().await?,
            len => u64::from(len),
        };
        let mask = if second & 0x80 == 0 {
            None
        } else {
            let mut mask = [0; 4];
            stream.read_exact(&mut mask).await?;
            Some(mask)
        };
        Ok(Some(Self {
            fin: first & 0x80 != 0,
            reserved: first >> 4 & 7,
            opcode: first & 0x0f,
            mask,
            len,
        }))
    }

    /// The header's bytes, with the shortest form of the length.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        let mut bytes =
            vec![u8::from(self.fin) << 7 | (self.reserved & 7) << 4 | self.opcode & 0x0f];
        match (u8::try_from(self.len), u16::try_from(self.len)) {
            (Ok(len @ ..126), _) => bytes.push(mask_bit | len),
            (_, Ok(len)) => {
                bytes.push(mask_bit | 126);
                bytes.extend(len.to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 127);
                bytes.extend(self.len.to_be_bytes());
            }
        }
        bytes.extend(self.mask.iter().flatten());
        bytes
    }

    /// Masks or unmasks bytes of the payload that start `offset` bytes into it (RFC 6455 §5.3).
    pub fn apply_mask(&self, offset: u64, payload: &mut [u8]) {
        let Some(mask) = self.mask else { return };
        let key = mask.iter().cycle().skip((offset % 4) as usize);
        for (byte, key) in payload.iter_mut().zip(key) {
            *byte ^= key;
        }
    }

    fn is_control(&self) -> bool {
        self.opcode & 8 != 0
    }
}

/// The answer to a client's opening handshake; `None` if the request is none.
pub(super) fn accept<B>(request: &Request<B>) -> Option<Response<Bytes>> {
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let is_handshake = request.method() == Method::GET
        && has_token(headers, UPGRADE, "websocket")
        && has_token(headers, CONNECTION, "upgrade")
        && headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
    if !is_handshake {
        return None;
    }
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(
        SEC_WEBSOCKET_ACCEPT,
        HeaderValue::from_str(&accept_key(key)).ok()?,
    );
    // The first subprotocol offered is spoken as well as any other.
    let offered = headers
        .get(SEC_WEBSOCKET_PROTOCOL)
        .and_then(|offered| offered.to_str().ok());
    if let Some(first) = offered.and_then(|offered| offered.split(',').next()) {
        answer.insert(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_str(first.trim()).ok()?,
        );
    }
    Some(response)
}

fn has_token(headers: &HeaderMap, name: http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|part| part.trim().eq_ignore_ascii_case(token))
}

/// Sends every message back frame by frame, so that fragments stay as they were cut; answers pings and
/// the closing handshake. What breaks the protocol gets status 1002.
pub(super) async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    let mut in_message = false;
    while let Some(header) = FrameHeader::read(&mut stream).await? {
        let fits_message = match header.opcode {
            opcode::CONTINUATION => in_message,
            opcode::TEXT | opcode::BINARY => !in_message,
            opcode::CLOSE | opcode::PING | opcode::PONG => header.fin && header.len <= MAX_CONTROL,
            _ => false,
        };
        if !fits_message || header.reserved != 0 || header.mask.is_none() {
            return close(&mut stream, &1002u16.to_be_bytes()).await;
        }
        if !header.is_control() {
            in_message = !header.fin;
        }
        match header.opcode {
            opcode::CLOSE => {
                let mut payload = vec![0; header.len as usize];
                stream.read_exact(&mut payload).await?;
                header.apply_mask(0, &mut payload);
                return close(&mut stream, &payload).await;
            }
            opcode::PING => copy_frame(&mut stream, &header, Some(opcode::PONG)).await?,
            opcode::PONG => copy_frame(&mut stream, &header, None).await?,
            data => copy_frame(&mut stream, &header, Some(data)).await?,
        }
    }
    stream.shutdown().await
}

/// Reads a payload and sends it back under another opcode, or drops it, in pieces of bounded size.
async fn copy_frame<S>(stream: &mut S, header: &FrameHeader, opcode: Option<u8>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if let Some(opcode) = opcode {
        let answer = FrameHeader {
            opcode,
            mask: None,
            ..*header
        };
        stream.write_all(&answer.to_bytes()).await?;
    }
    let mut buffer = vec![0; header.len.min(16 * 1024) as usize];
    let mut done = 0;
    while done < header.len {
        let want = (header.len - done).min(buffer.len() as u64) as usize;
        let piece = buffer.get_mut(..want).unwrap_or_default();
        stream.read_exact(piece).await?;
        header.apply_mask(done, piece);
        if opcode.is_some() {
            stream.write_all(piece).await?;
        }
        done += want as u64;
    }
    stream.flush().await
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    payload: &[u8],
) -> io::Result<()> {
    let header = FrameHeader {
        fin: true,
        reserved: 0,
        opcode: opcode::CLOSE,
        mask: None,
        len: payload.len() as u64,
    };
    stream.write_all(&header.to_bytes()).await?;
    stream.write_all(payload).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_rfc_6455_section_1_3_is_answered_as_there() {
        assert_eq!(
            accept_key("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
    }

    #[tokio::test]
    async fn headers_are_read_as_they_were_written_at_every_length_form() {
        for len in [0, 1, 125, 126, 65_535, 65_536, u64::MAX >> 1] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let header = FrameHeader {
                    fin: len % 2 == 0,
                    reserved: 4,
                    opcode: opcode::BINARY,
                    mask,
                    len,
                };
                let bytes = header.to_bytes();
                let read = FrameHeader::read(&mut bytes.as_slice()).await.unwrap();
                assert_eq!(read, Some(header));
            }
        }
        assert_eq!(FrameHeader::read(&mut [].as_slice()).await.unwrap(), None);
        assert!(FrameHeader::read(&mut [0x81].as_slice()).await.is_err());
    }

    #[test]
    fn masking_in_pieces_equals_masking_at_once() {
        let header = FrameHeader {
            fin: true,
            reserved: 0,
            opcode: 1,
            mask: Some([9, 8, 7, 6]),
            len: 10,
        };
        let mut whole = *b"0123456789";
        let mut pieces = whole;
        header.apply_mask(0, &mut whole);
        let (a, b) = pieces.split_at_mut(3);
        header.apply_mask(0, a);
        header.apply_mask(3, b);
        assert_eq!(whole, pieces);
        assert_ne!(&whole, b"0123456789");
    }
}
