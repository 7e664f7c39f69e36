//! Entries as the bytes of one object.

use std::io::{self, Write};

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use serde::Deserialize;

/// How objects are made smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Compression {
    /// RFC 1952.
    #[default]
    Gzip,
    /// As they are.
    None,
    /// RFC 8878.
    Zstd,
}

impl Compression {
    /// What the name of an object ends with.
    #[must_use]
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::None => "",
            Self::Zstd => ".zst",
        }
    }
}

/// Bytes that wait before an encoder is made for them: what is small needs none until it ends.
const FEW: usize = 64 << 10;
/// What an encoder of gzip holds besides what it has written: its window, tables and pending output.
const ENCODER: usize = 330_000;

/// Takes bytes and makes them fewer as they come.
#[derive(Debug)]
pub(crate) enum Packer {
    Gzip(Vec<u8>, Option<Box<GzEncoder<Vec<u8>>>>),
    None(Vec<u8>),
    /// The encoder wants all at once.
    Zstd(Vec<u8>),
}

impl Packer {
    pub(crate) fn new(compression: Compression) -> Self {
        match compression {
            Compression::Gzip => Self::Gzip(Vec::new(), None),
            Compression::None => Self::None(Vec::new()),
            Compression::Zstd => Self::Zstd(Vec::new()),
        }
    }

    /// The memory it takes, more or less.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Self::Gzip(few, None) => few.capacity(),
            Self::Gzip(_, Some(encoder)) => ENCODER + encoder.get_ref().capacity(),
            Self::None(all) | Self::Zstd(all) => all.capacity(),
        }
    }

    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(few, encoder) => {
                let mut encoder = encoder.unwrap_or_else(gzip);
                encoder.write_all(&few)?;
                encoder.finish()
            }
            Self::None(bytes) => Ok(bytes),
            Self::Zstd(bytes) => Ok(ruzstd::encoding::compress_to_vec(
                bytes.as_slice(),
                ruzstd::encoding::CompressionLevel::Fastest,
            )),
        }
    }
}

fn gzip() -> Box<GzEncoder<Vec<u8>>> {
    Box::new(GzEncoder::new(Vec::new(), Level::fast()))
}

impl Write for Packer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Gzip(_, Some(encoder)) => encoder.write(bytes),
            Self::Gzip(few, encoder) => {
                if few.len() + bytes.len() > FEW {
                    let encoder = encoder.insert(gzip());
                    encoder.write_all(few)?;
                    *few = Vec::new();
                    return encoder.write(bytes);
                }
                few.write(bytes)
            }
            Self::None(all) | Self::Zstd(all) => all.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_packed_can_be_unpacked() {
        let text: Vec<u8> = (0..40_000u32)
            .flat_map(|n| format!("{n},").into_bytes())
            .collect();
        for compression in [Compression::Gzip, Compression::None, Compression::Zstd] {
            let mut packer = Packer::new(compression);
            for piece in text.chunks(1000) {
                packer.write_all(piece).unwrap();
                assert!(packer.memory() > 0);
            }
            let packed = packer.finish().unwrap();
            let mut back = Vec::new();
            match compression {
                Compression::None => back = packed.clone(),
                Compression::Gzip => {
                    let mut decoder = flate2::read::GzDecoder::new(packed.as_slice());
                    decoder.read_to_end(&mut back).unwrap();
                }
                Compression::Zstd => {
                    let decoder = ruzstd::decoding::StreamingDecoder::new(packed.as_slice());
                    decoder.unwrap().read_to_end(&mut back).unwrap();
                }
            }
            assert!(back == text, "{compression:?}");
        }
    }
}
