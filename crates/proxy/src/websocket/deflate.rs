//! permessage-deflate (RFC 7692): what was agreed on, and messages in and out of it.
//!
//! An interceptor sees messages as they were before compression. What it lets pass is compressed again
//! if its sender had compressed it, each message by itself: that fits whatever was agreed on, and an
//! idle connection holds no compressor. A decompressor has to remember what came before, and exists
//! from the first compressed message on.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use sdk::Headers;

use crate::error::Fault;

/// The extension's name.
pub(super) const NAME: &str = "permessage-deflate";

/// What every compressed message ends with, and leaves out (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];

/// Messages shorter than this are not worth compressing.
const LEAST: usize = 32;

/// What client and server have agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// Base-two logarithm of the window that whoever speaks as the client may use.
    pub(super) client_bits: u8,
    /// The same for the server.
    pub(super) server_bits: u8,
}

impl Agreed {
    /// Reads the server's answer, whose names have been compared with the offer.
    ///
    /// # Errors
    /// More than one extension, or parameters that RFC 7692 §7.1 does not know.
    pub(super) fn of(response: &Headers) -> Result<Option<Self>, Fault> {
        let mut chosen = response.list("sec-websocket-extensions");
        let Some(first) = chosen.next() else {
            return Ok(None);
        };
        if chosen.next().is_some() {
            return Err(Fault::Upgrade);
        }
        let mut parts = first.split(';').map(str::trim);
        if !parts
            .next()
            .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
        {
            return Err(Fault::Upgrade);
        }
        let mut agreed = Self {
            client_bits: 15,
            server_bits: 15,
        };
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
                None => (part, None),
            };
            let bits = value
                .and_then(|value| value.parse::<u8>().ok())
                .filter(|bits| (8..=15).contains(bits));
            match (name, value, bits) {
                ("server_no_context_takeover" | "client_no_context_takeover", None, _) => {}
                ("client_max_window_bits", Some(_), Some(bits)) => agreed.client_bits = bits,
                ("server_max_window_bits", Some(_), Some(bits)) => agreed.server_bits = bits,
                _ => return Err(Fault::Upgrade),
            }
        }
        Ok(Some(agreed))
    }
}

/// Takes one side's messages out of compression.
#[derive(Debug, Default)]
pub(super) struct Inflater {
    // A window of 32 KiB holds for every smaller one that may have been agreed on.
    decompress: Option<Box<Decompress>>,
}

impl Inflater {
    /// The message before compression.
    ///
    /// # Errors
    /// It is not valid, or longer than `limit`.
    pub(super) fn inflate(&mut self, compressed: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
        let decompress = self
            .decompress
            .get_or_insert_with(|| Box::new(Decompress::new(false)));
        let mut message = Vec::new();
        for mut input in [compressed, &TAIL] {
            loop {
                if message.len() == message.capacity() {
                    if message.len() > limit {
                        return Err(Fault::WebSocketMessageTooLarge);
                    }
                    // Grows by what there is, so that a short input cannot ask for much.
                    message.reserve(message.len().max(4096));
                }
                let (taken, given) = (decompress.total_in(), decompress.total_out());
                let status = decompress
                    .decompress_vec(input, &mut message, FlushDecompress::Sync)
                    .map_err(|_| Fault::WebSocketFrame)?;
                let step = usize::try_from(decompress.total_in() - taken).unwrap_or(input.len());
                let made = decompress.total_out() - given;
                input = input.get(step..).unwrap_or_default();
                if status == Status::StreamEnd {
                    // RFC 7692 §7.2.3.4: a sender may end its stream with a message.
                    decompress.reset(false);
                }
                let is_full = message.len() == message.capacity();
                if input.is_empty() && !is_full {
                    break;
                }
                if step == 0 && made == 0 && !is_full && status != Status::StreamEnd {
                    return Err(Fault::WebSocketFrame);
                }
            }
        }
        if message.len() > limit {
            return Err(Fault::WebSocketMessageTooLarge);
        }
        Ok(message)
    }
}

/// A message compressed by itself; `None` when that is not worth it, or not possible with a window of
/// 2^`bits`.
pub(super) fn deflate(message: &[u8], bits: u8) -> Option<Vec<u8>> {
    // zlib cannot keep to a window of 2^8.
    if message.len() < LEAST || !(9..=15).contains(&bits) {
        return None;
    }
    let mut compress = Compress::new_with_window_bits(Compression::fast(), false, bits);
    let mut compressed = Vec::with_capacity(message.len() / 2 + 64);
    let mut input = message;
    loop {
        let taken = compress.total_in();
        compress
            .compress_vec(input, &mut compressed, FlushCompress::Sync)
            .ok()?;
        let step = usize::try_from(compress.total_in() - taken).unwrap_or(input.len());
        input = input.get(step..).unwrap_or_default();
        if input.is_empty() && compressed.len() < compressed.capacity() {
            break;
        }
        if compressed.len() >= message.len() {
            return None;
        }
        compressed.reserve(compressed.len());
    }
    let len = compressed.strip_suffix(&TAIL)?.len();
    compressed.truncate(len);
    (len < message.len()).then_some(compressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed(answer: &'static str) -> Result<Option<Agreed>, Fault> {
        let mut headers = Headers::new();
        headers.append(
            sdk::FieldName::from_static("Sec-WebSocket-Extensions"),
            sdk::HeaderValue::from_static(answer),
        );
        Agreed::of(&headers)
    }

    #[test]
    fn answers_of_the_rfc_are_read_and_others_refused() {
        let whole = agreed("permessage-deflate").unwrap().unwrap();
        assert_eq!((whole.client_bits, whole.server_bits), (15, 15));
        let some = agreed(
            "permessage-deflate; server_no_context_takeover; client_max_window_bits=\"10\"; server_max_window_bits=9",
        );
        let some = some.unwrap().unwrap();
        assert_eq!((some.client_bits, some.server_bits), (10, 9));
        for answer in [
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; x",
            "permessage-deflate, permessage-deflate",
            "other",
        ] {
            assert_eq!(agreed(answer), Err(Fault::Upgrade), "{answer}");
        }
    }

    #[test]
    fn examples_of_the_rfc_are_inflated() {
        // RFC 7692 §7.2.3.1, .2 (context taken over), .3 (no compression), .4 (final block), .5.
        let mut inflater = Inflater::default();
        for bytes in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0xf2, 0x00, 0x11, 0x00, 0x00],
            &[
                0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00,
            ],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(
                inflater.inflate(bytes, 100).unwrap(),
                b"Hello",
                "{bytes:x?}"
            );
        }
        assert_eq!(inflater.inflate(&[0x00], 100).unwrap(), b"");
    }

    #[test]
    fn what_is_deflated_is_inflated_with_every_window() {
        let text = b"lorem ipsum dolor sit amet ".repeat(5000);
        for bits in 9..=15 {
            let mut inflater = Inflater::default();
            for len in [40, 4095, 4096, 4097, text.len()] {
                let compressed = deflate(&text[..len], bits).unwrap();
                assert!(compressed.len() < len);
                assert_eq!(inflater.inflate(&compressed, len).unwrap(), &text[..len]);
            }
        }
        assert_eq!(deflate(&text, 8), None);
        assert_eq!(deflate(b"short", 15), None);
    }

    #[test]
    fn threat_52_a_deflate_bomb_meets_the_limit_of_messages() {
        let bomb = deflate(&vec![0; 32 << 20], 15).unwrap();
        assert!(bomb.len() < 1 << 20);
        let inflated = Inflater::default().inflate(&bomb, 1 << 20);
        assert_eq!(inflated, Err(Fault::WebSocketMessageTooLarge));
    }

    #[test]
    fn threat_52_invalid_compression_is_refused() {
        for bytes in [&[0xff, 0xff, 0xff][..], &[0x07], b"plain text"] {
            let inflated = Inflater::default().inflate(bytes, 1000);
            assert_eq!(inflated, Err(Fault::WebSocketFrame), "{bytes:x?}");
        }
    }
}
