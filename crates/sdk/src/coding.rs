//! Content codings (RFC 9110 §8.4.1): undone within caps, and done again.

use std::io::{self, BufRead, Read, Write};

use flate2::Compression;

use crate::{ContentError, ContentLimits};

/// A content coding (RFC 9110 §8.4.1) that can be undone and done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// Brotli (RFC 7932).
    Brotli,
    /// Zlib (RFC 1950), and the bare deflate (RFC 1951) that some servers send under this name.
    Deflate,
    /// Gzip (RFC 1952), of one or several members.
    Gzip,
    /// No coding.
    #[default]
    Identity,
    /// Zstandard (RFC 8878), of one or several frames.
    Zstd,
}

impl Coding {
    /// The coding of this name, compared without case; `None` when it is not known.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "br" => Self::Brotli,
            "deflate" => Self::Deflate,
            "gzip" | "x-gzip" => Self::Gzip,
            "identity" => Self::Identity,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    /// The name in Content-Encoding.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Deflate => "deflate",
            Self::Gzip => "gzip",
            Self::Identity => "identity",
            Self::Zstd => "zstd",
        }
    }
}

/// Below this many decoded bytes the ratio does not matter: a short text of blanks is no attack.
const RATIO_FROM: usize = 64 << 10;

/// The largest window of Zstandard that is given memory. RFC 8878 §3.1.1.1.2 recommends 8 MB as what
/// every decoder should have, and as what none must exceed for HTTP (RFC 9659 §3).
const MAX_ZSTD_WINDOW: u64 = 8 << 20;

/// The magic number of a Zstandard frame (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Undoes a coding.
pub(crate) fn decode(
    encoded: &[u8],
    coding: Coding,
    limits: &ContentLimits,
) -> Result<Vec<u8>, ContentError> {
    match coding {
        Coding::Identity => Ok(encoded.to_vec()),
        Coding::Brotli => {
            let mut rest = encoded;
            let mut decoder = brotli::Decompressor::new(&mut rest, 4096);
            let data = read_capped(&mut decoder, encoded.len(), coding, limits)?;
            // What was read ahead and is no part of the stream is an error of the next read.
            let after = decoder.read(&mut [0]);
            drop(decoder);
            if rest.is_empty() && matches!(after, Ok(0)) {
                Ok(data)
            } else {
                Err(ContentError::Malformed(coding))
            }
        }
        Coding::Gzip => {
            let mut decoder = flate2::bufread::MultiGzDecoder::new(encoded);
            let data = read_capped(&mut decoder, encoded.len(), coding, limits)?;
            all_consumed(decoder.into_inner(), coding)?;
            Ok(data)
        }
        Coding::Deflate if is_zlib(encoded) => {
            let mut decoder = flate2::bufread::ZlibDecoder::new(encoded);
            let data = read_capped(&mut decoder, encoded.len(), coding, limits)?;
            all_consumed(decoder.into_inner(), coding)?;
            Ok(data)
        }
        Coding::Deflate => {
            let mut decoder = flate2::bufread::DeflateDecoder::new(encoded);
            let data = read_capped(&mut decoder, encoded.len(), coding, limits)?;
            all_consumed(decoder.into_inner(), coding)?;
            Ok(data)
        }
        Coding::Zstd => decode_zstd(encoded, limits),
    }
}

/// One frame after the other, since each may be followed by another (RFC 8878 §3).
fn decode_zstd(encoded: &[u8], limits: &ContentLimits) -> Result<Vec<u8>, ContentError> {
    let malformed = || ContentError::Malformed(Coding::Zstd);
    let mut frames = Frames {
        rest: encoded,
        frame: None,
        window_too_large: false,
    };
    match read_capped(&mut frames, encoded.len(), Coding::Zstd, limits) {
        Err(ContentError::Malformed(_)) if frames.window_too_large => Err(ContentError::TooLarge {
            what: "decoder window",
        }),
        Ok(data) if frames.rest.is_empty() => Ok(data),
        Ok(_) => Err(malformed()),
        Err(error) => Err(error),
    }
}

type ZstdFrame<'a> = ruzstd::decoding::StreamingDecoder<&'a [u8], ruzstd::decoding::FrameDecoder>;

/// The content of all frames of a Zstandard stream.
struct Frames<'a> {
    rest: &'a [u8],
    frame: Option<ZstdFrame<'a>>,
    window_too_large: bool,
}

impl Read for Frames<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            if let Some(frame) = &mut self.frame {
                let read = frame.read(out)?;
                if read > 0 {
                    return Ok(read);
                }
                if let Some(frame) = self.frame.take() {
                    self.rest = frame.into_inner();
                }
            }
            if self.rest.is_empty() {
                return Ok(0);
            }
            if let Some(after) = after_skippable(self.rest) {
                self.rest = after;
                continue;
            }
            if zstd_window(self.rest).ok_or_else(invalid)? > MAX_ZSTD_WINDOW {
                self.window_too_large = true;
                return Err(invalid());
            }
            let frame = ZstdFrame::new(self.rest).map_err(|_| invalid())?;
            self.frame = Some(frame);
        }
    }
}

/// What follows a skippable frame (RFC 8878 §3.1.2), if there is one at the front.
fn after_skippable(bytes: &[u8]) -> Option<&[u8]> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*magic) & 0xffff_fff0 != 0x184d_2a50 {
        return None;
    }
    let (size, rest) = rest.split_first_chunk::<4>()?;
    rest.get(usize::try_from(u32::from_le_bytes(*size)).ok()?..)
}

/// How much memory a frame asks for (RFC 8878 §3.1.1.1), before any of it is given.
fn zstd_window(bytes: &[u8]) -> Option<u64> {
    let rest = bytes.strip_prefix(&ZSTD_MAGIC)?;
    let (descriptor, rest) = rest.split_first()?;
    let is_single_segment = descriptor & 0x20 != 0;
    if !is_single_segment {
        let window = rest.first()?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let field = rest.get(dictionary..)?;
    let little = |len: usize| {
        let bytes = field.get(..len)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0u64, |all, byte| all << 8 | u64::from(*byte)),
        )
    };
    match descriptor >> 6 {
        0 => little(1),
        1 => Some(little(2)? + 256),
        2 => little(4),
        _ => little(8),
    }
}

/// RFC 1950 §2.2: method 8 in the low half of the first byte, and both bytes a multiple of 31.
fn is_zlib(bytes: &[u8]) -> bool {
    match bytes {
        [cmf, flg, ..] => cmf & 0x0f == 8 && u16::from_be_bytes([*cmf, *flg]) % 31 == 0,
        _ => false,
    }
}

fn all_consumed(mut rest: impl BufRead, coding: Coding) -> Result<(), ContentError> {
    match rest.fill_buf() {
        Ok([]) => Ok(()),
        _ => Err(ContentError::Malformed(coding)),
    }
}

fn read_capped(
    decoder: &mut impl Read,
    encoded: usize,
    coding: Coding,
    limits: &ContentLimits,
) -> Result<Vec<u8>, ContentError> {
    let mut data = Vec::new();
    let mut piece = [0_u8; 8 << 10];
    loop {
        let read = match decoder.read(&mut piece) {
            Ok(0) => return Ok(data),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return Err(ContentError::Malformed(coding)),
        };
        data.extend_from_slice(piece.get(..read).unwrap_or_default());
        if data.len() > limits.decoded {
            return Err(ContentError::TooLarge {
                what: "decoded bytes",
            });
        }
        if data.len() > RATIO_FROM && data.len() / limits.ratio.max(1) > encoded {
            return Err(ContentError::TooLarge {
                what: "decoded bytes per encoded byte",
            });
        }
    }
}

/// `None` when the coder fails, which writing to memory gives it no cause for.
pub(crate) fn encode(data: &[u8], coding: Coding) -> Option<Vec<u8>> {
    match coding {
        Coding::Identity => None,
        Coding::Brotli => {
            // Quality 4 of 11: as fast as gzip, and smaller. Window 2^18: less memory for the reader.
            let mut encoder = brotli::CompressorWriter::new(Vec::new(), 4096, 4, 18);
            encoder.write_all(data).ok()?;
            Some(encoder.into_inner())
        }
        Coding::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).ok()
        }
        Coding::Deflate => {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(data).and_then(|()| encoder.finish()).ok()
        }
        Coding::Zstd => Some(ruzstd::encoding::compress_to_vec(
            data,
            ruzstd::encoding::CompressionLevel::Fastest,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Coding; 4] = [Coding::Brotli, Coding::Deflate, Coding::Gzip, Coding::Zstd];

    #[test]
    fn what_was_encoded_is_decoded() {
        let text = b"The quick brown fox jumps over the lazy dog. ".repeat(500);
        for coding in ALL {
            assert_eq!(Coding::parse(coding.as_str()), Some(coding));
            for data in [&b""[..], b"x", &text] {
                let encoded = encode(data, coding).unwrap();
                let decoded = decode(&encoded, coding, &ContentLimits::default());
                assert_eq!(decoded.as_deref(), Ok(data), "{coding:?}");
            }
            assert!(
                encode(&text, coding).unwrap().len() < text.len() / 10,
                "{coding:?}"
            );
        }
    }

    #[test]
    fn threat_29_cut_and_trailed_content_of_every_coding_is_refused() {
        for coding in ALL {
            let whole = encode(&b"hello hello hello ".repeat(100), coding).unwrap();
            let cut = &whole[..whole.len() - 2];
            let mut trailed = whole.clone();
            trailed.extend(b"garbage");
            for bytes in [cut, &trailed, b"plain text"] {
                let decoded = decode(bytes, coding, &ContentLimits::default());
                assert_eq!(decoded, Err(ContentError::Malformed(coding)), "{coding:?}");
            }
        }
    }

    #[test]
    fn threat_29_bombs_of_every_coding_meet_a_cap() {
        let bomb = vec![0; 32 << 20];
        for coding in ALL {
            let encoded = encode(&bomb, coding).unwrap();
            assert!(encoded.len() < 1 << 20, "{coding:?}");
            let decoded = decode(&encoded, coding, &ContentLimits::default());
            assert!(
                matches!(decoded, Err(ContentError::TooLarge { .. })),
                "{coding:?}"
            );
        }
    }

    #[test]
    fn threat_29_a_window_is_refused_before_it_gets_memory() {
        // A frame with a window of 64 MiB: exponent 16, mantissa 0.
        let mut frame = ZSTD_MAGIC.to_vec();
        frame.extend([0x00, 16 << 3, 0x01, 0x00, 0x00]);
        let window = ContentError::TooLarge {
            what: "decoder window",
        };
        assert_eq!(
            decode(&frame, Coding::Zstd, &ContentLimits::default()),
            Err(window)
        );
    }

    #[test]
    fn several_zstandard_frames_and_skippable_ones_are_read() {
        let mut stream = encode(b"one ", Coding::Zstd).unwrap();
        stream.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
        stream.extend(encode(b"two", Coding::Zstd).unwrap());
        let decoded = decode(&stream, Coding::Zstd, &ContentLimits::default());
        assert_eq!(decoded.unwrap(), b"one two");
    }
}
