//! The frame header of RFC 6455 §5.2, masking, and the rules for sequences of frames.

use bytes::{BufMut, BytesMut};

use crate::error::Fault;

/// What a frame is (RFC 6455 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opcode {
    /// More of the message that is under way.
    Continuation,
    /// The beginning of a message of text.
    Text,
    /// The beginning of a message of bytes.
    Binary,
    /// The last frame of a side.
    Close,
    /// To be answered with a pong.
    Ping,
    /// The answer to a ping.
    Pong,
}

impl Opcode {
    fn parse(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }

    /// Whether frames of this kind may stand between the frames of a message (RFC 6455 §5.5).
    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A parsed frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    /// Whether this is the last frame of its message.
    pub(super) is_final: bool,
    /// The three reserved bits, in the lowest bits; extensions give them a meaning.
    pub(super) reserved: u8,
    /// What the frame is.
    pub(super) opcode: Opcode,
    /// The masking key; clients mask, servers do not.
    pub(super) mask: Option<[u8; 4]>,
    /// Bytes of payload.
    pub(super) length: u64,
    /// Bytes of this header.
    pub(super) header_len: usize,
}

impl FrameHeader {
    /// Parses the header at the front of `bytes`; `None` when it is not complete.
    ///
    /// # Errors
    /// What RFC 6455 §5.2 and §5.5 forbid whoever sends it: unknown opcodes, control frames that are
    /// long or fragmented, and lengths that are not in their shortest form.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let [first, second, rest @ ..] = bytes else {
            return Ok(None);
        };
        let opcode = Opcode::parse(first & 0x0f).ok_or(Fault::WebSocketFrame)?;
        let is_final = first & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!is_final || short > 125) {
            return Err(Fault::WebSocketFrame);
        }
        let (length, length_len) = match short {
            126 => match rest.first_chunk::<2>() {
                None => return Ok(None),
                Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 2),
            },
            127 => match rest.first_chunk::<8>() {
                None => return Ok(None),
                Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            },
            short => (u64::from(short), 0),
        };
        let least = match length_len {
            2 => 126,
            8 => 1 << 16,
            _ => 0,
        };
        if length < least || length >> 63 != 0 {
            return Err(Fault::WebSocketFrame);
        }
        let (mask, mask_len) = if second & 0x80 == 0 {
            (None, 0)
        } else {
            let after = rest.get(length_len..).unwrap_or_default();
            match after.first_chunk::<4>() {
                None => return Ok(None),
                Some(key) => (Some(*key), 4),
            }
        };
        Ok(Some(Self {
            is_final,
            reserved: first >> 4 & 7,
            opcode,
            mask,
            length,
            header_len: 2 + length_len + mask_len,
        }))
    }

    /// Appends the header in its shortest form.
    pub(super) fn emit(&self, out: &mut BytesMut) {
        let final_bit = if self.is_final { 0x80 } else { 0 };
        out.put_u8(final_bit | self.reserved << 4 | self.opcode.bits());
        let mask_bit = if self.mask.is_some() { 0x80 } else { 0 };
        match (u8::try_from(self.length), u16::try_from(self.length)) {
            (Ok(length @ 0..=125), _) => out.put_u8(mask_bit | length),
            (_, Ok(length)) => {
                out.put_u8(mask_bit | 126);
                out.put_u16(length);
            }
            _ => {
                out.put_u8(mask_bit | 127);
                out.put_u64(self.length);
            }
        }
        if let Some(key) = self.mask {
            out.put_slice(&key);
        }
    }
}

/// Masks or unmasks payload (RFC 6455 §5.3); `offset` is the position of its first byte in the frame.
pub(super) fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: u64) {
    let start = (offset % 4) as usize;
    let mut rotated = key;
    rotated.rotate_left(start);
    let word = u64::from_ne_bytes([
        rotated[0], rotated[1], rotated[2], rotated[3], rotated[0], rotated[1], rotated[2],
        rotated[3],
    ]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for chunk in words {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(rotated.iter().cycle()) {
        *byte ^= key;
    }
}

/// What the frames of one side may be, in their order (RFC 6455 §5.1, §5.4, §5.5.1).
#[derive(Debug)]
pub(super) struct Sequence {
    /// Whether this side masks: the client's does.
    masks: bool,
    /// Whether an extension may use the reserved bits.
    allows_reserved: bool,
    /// Whether a message is under way.
    in_message: bool,
    /// Whether a Close was seen.
    is_closed: bool,
}

impl Sequence {
    pub(super) fn new(from_client: bool, allows_reserved: bool) -> Self {
        Self {
            masks: from_client,
            allows_reserved,
            in_message: false,
            is_closed: false,
        }
    }

    /// Checks a header against everything before it.
    pub(super) fn admit(&mut self, header: &FrameHeader) -> Result<(), Fault> {
        let fits = match header.opcode {
            Opcode::Continuation => self.in_message,
            Opcode::Text | Opcode::Binary => !self.in_message,
            Opcode::Close | Opcode::Ping | Opcode::Pong => true,
        };
        if !fits
            || self.is_closed
            || header.mask.is_some() != self.masks
            || (header.reserved != 0 && !self.allows_reserved)
        {
            return Err(Fault::WebSocketFrame);
        }
        if !header.opcode.is_control() {
            self.in_message = !header.is_final;
        }
        self.is_closed = header.opcode == Opcode::Close;
        Ok(())
    }
}
