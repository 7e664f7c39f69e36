//! Sizes in a config, with their unit in the value.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// A number of bytes, written with its unit: `512B`, `64KiB`, `4MiB`, `1GiB`, or in powers of a
/// thousand `64kB`, `4MB`, `1GB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub usize);

impl ByteSize {
    /// This many mebibytes.
    #[must_use]
    pub const fn mib(count: usize) -> Self {
        Self(count.saturating_mul(1 << 20))
    }

    /// This many kibibytes.
    #[must_use]
    pub const fn kib(count: usize) -> Self {
        Self(count.saturating_mul(1 << 10))
    }

    /// The number of bytes.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        self.0
    }
}

/// What units there are, the longer names first so that `KiB` is not read as `B`.
const UNITS: [(&str, usize); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

/// A text that is not a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a size, expected a whole number and a unit: 512B, 64KiB, 4MiB, 1GiB, 64kB, 4MB or 1GB"
)]
pub struct InvalidSize(String);

impl FromStr for ByteSize {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let invalid = || InvalidSize(text.to_owned());
        let text = text.trim();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .ok_or_else(invalid)?;
        let number = number.trim_end_matches(' ');
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(invalid());
        }
        let number: usize = number.parse().map_err(|_| invalid())?;
        number.checked_mul(unit).map(Self).ok_or_else(invalid)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let largest = UNITS
            .iter()
            .take(3)
            .rev()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = largest.copied().unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size with its unit, such as \"64KiB\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in [
            ("512B", 512, "512B"),
            ("64KiB", 65_536, "64KiB"),
            ("4 MiB", 4 << 20, "4MiB"),
            ("1GiB", 1 << 30, "1GiB"),
            ("64kB", 64_000, "64000B"),
            ("2048B", 2048, "2KiB"),
            (" 16MiB ", 16 << 20, "16MiB"),
            ("0B", 0, "0B"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!(
                (size.0, size.to_string().as_str()),
                (bytes, printed),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in [
            "",
            "B",
            "64",
            "KiB",
            "-1B",
            "1.5MiB",
            "+1B",
            "1TB",
            "99999999999999GiB",
            "1 0B",
            "1kib",
        ] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }
}
