//! Reading and writing the form in which a connection is exported.

use core::fmt;

use wire::tcp::Seq;

use crate::time::Instant;

/// Why bytes are not a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportError {
    /// They do not begin as an export does.
    NotAnExport,
    /// A version that this engine does not read.
    UnknownVersion(u16),
    /// They end too early.
    Truncated,
    /// There are more than belong to it.
    TrailingBytes,
    /// A part contradicts itself or another.
    Contradiction(&'static str),
    /// A part is larger than the settings allow.
    TooLarge(&'static str),
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnExport => f.write_str("these bytes are not an exported TCP connection"),
            Self::UnknownVersion(version) => {
                write!(f, "exported TCP connection of unknown version {version}")
            }
            Self::Truncated => f.write_str("exported TCP connection ends too early"),
            Self::TrailingBytes => f.write_str("exported TCP connection is followed by more bytes"),
            Self::Contradiction(part) => {
                write!(f, "exported TCP connection contradicts itself: {part}")
            }
            Self::TooLarge(part) => write!(
                f,
                "exported TCP connection exceeds the limits in force: {part}"
            ),
        }
    }
}

impl core::error::Error for ImportError {}

/// Answers an error unless `holds`.
pub(crate) fn require(holds: bool, part: &'static str) -> Result<(), ImportError> {
    if holds {
        Ok(())
    } else {
        Err(ImportError::Contradiction(part))
    }
}

/// Appends fields, big endian; times as ages, because the reader's clock has another origin.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
    now: Instant,
}

impl Writer {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            bytes: Vec::new(),
            now,
        }
    }
    pub(crate) fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
    pub(crate) fn flag(&mut self, value: bool) {
        self.u8(value.into());
    }
    pub(crate) fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_be_bytes());
    }
    pub(crate) fn seq(&mut self, value: Seq) {
        self.u32(value.0);
    }
    pub(crate) fn age(&mut self, at: Instant) {
        self.u64(self.now.since(at).as_micros() as u64);
    }
    /// Length and bytes.
    pub(crate) fn block(&mut self, length: usize, fill: impl FnOnce(&mut [u8])) {
        self.u32(length as u32);
        let start = self.bytes.len();
        self.bytes.resize(start + length, 0);
        if let Some(space) = self.bytes.get_mut(start..) {
            fill(space);
        }
    }
}

/// Takes fields in the same order.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    now: Instant,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8], now: Instant) -> Self {
        Self { bytes, now }
    }
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], ImportError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(count)
            .ok_or(ImportError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ImportError> {
        let (taken, rest) = self
            .bytes
            .split_first_chunk()
            .ok_or(ImportError::Truncated)?;
        self.bytes = rest;
        Ok(*taken)
    }
    pub(crate) fn left(&self) -> usize {
        self.bytes.len()
    }
    pub(crate) fn u8(&mut self) -> Result<u8, ImportError> {
        Ok(u8::from_be_bytes(self.array()?))
    }
    pub(crate) fn flag(&mut self) -> Result<bool, ImportError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(ImportError::Contradiction("a flag is neither 0 nor 1")),
        }
    }
    pub(crate) fn u16(&mut self) -> Result<u16, ImportError> {
        Ok(u16::from_be_bytes(self.array()?))
    }
    pub(crate) fn u32(&mut self) -> Result<u32, ImportError> {
        Ok(u32::from_be_bytes(self.array()?))
    }
    pub(crate) fn u64(&mut self) -> Result<u64, ImportError> {
        Ok(u64::from_be_bytes(self.array()?))
    }
    pub(crate) fn seq(&mut self) -> Result<Seq, ImportError> {
        Ok(Seq(self.u32()?))
    }
    /// When it was on this clock; the origin, if that is later.
    pub(crate) fn age(&mut self) -> Result<Instant, ImportError> {
        Ok(Instant(self.now.0.saturating_sub(self.u64()?)))
    }
    pub(crate) fn block(&mut self) -> Result<&'a [u8], ImportError> {
        let length = self.u32()?;
        self.take(length as usize)
    }
}
