//! Thrift's compact protocol, as much of it as structures of Parquet have.
//!
//! Reads into a tree whose size is bounded by the bytes and by a limit besides, whatever lengths the bytes
//! claim.

/// Structures in structures; Parquet's own are six deep.
const MAX_DEPTH: usize = 16;

/// Bytes that are no structure of Parquet, or one that is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// It goes on beyond the bytes.
    #[error("it is cut")]
    Cut,
    /// A type that the protocol or Parquet does not have.
    #[error("it has an unknown type")]
    Unknown,
    /// More than is read.
    #[error("it has too many parts")]
    Large,
}

/// A value. What a text or a floating-point number is does not matter here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    List(Vec<Self>),
    Opaque,
    Struct(Vec<(i16, Self)>),
}

impl Value {
    /// The field of a structure.
    pub(super) fn field(&self, id: i16) -> Option<&Self> {
        match self {
            Self::Struct(fields) => {
                let mut fields = fields.iter();
                fields.find(|(at, _)| *at == id).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    /// The number in the field of a structure.
    pub(super) fn int(&self, id: i16) -> Option<i64> {
        match self.field(id)? {
            Self::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The elements of a list in the field of a structure.
    pub(super) fn list(&self, id: i16) -> Option<&[Self]> {
        match self.field(id)? {
            Self::List(list) => Some(list),
            _ => None,
        }
    }
}

/// Reads a structure of at most so many values; returns what is behind it as well.
pub(super) fn structure(bytes: &[u8], most: usize) -> Result<(Value, &[u8]), Malformed> {
    let mut input = Input {
        rest: bytes,
        left: most,
    };
    let value = input.structure(0)?;
    Ok((value, input.rest))
}

struct Input<'a> {
    rest: &'a [u8],
    /// Values that may still come.
    left: usize,
}

impl Input<'_> {
    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(Malformed::Cut)?;
        self.rest = rest;
        Ok(byte)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Malformed> {
        let bytes = usize::try_from(bytes).map_err(|_| Malformed::Cut)?;
        self.rest = self.rest.get(bytes..).ok_or(Malformed::Cut)?;
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed::Unknown)
    }

    fn int(&mut self) -> Result<i64, Malformed> {
        let number = self.varint()?;
        Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
    }

    fn structure(&mut self, depth: usize) -> Result<Value, Malformed> {
        let mut fields = Vec::new();
        let mut id = 0_i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Ok(Value::Struct(fields));
            }
            id = match head >> 4 {
                0 => i16::try_from(self.int()?).map_err(|_| Malformed::Unknown)?,
                step => id.checked_add(i16::from(step)).ok_or(Malformed::Unknown)?,
            };
            let value = match head & 0x0f {
                1 => Value::Bool(true),
                2 => Value::Bool(false),
                kind => self.value(kind, depth)?,
            };
            self.count()?;
            fields.push((id, value));
        }
    }

    fn count(&mut self) -> Result<(), Malformed> {
        self.left = self.left.checked_sub(1).ok_or(Malformed::Large)?;
        Ok(())
    }

    fn value(&mut self, kind: u8, depth: usize) -> Result<Value, Malformed> {
        if depth > MAX_DEPTH {
            return Err(Malformed::Large);
        }
        Ok(match kind {
            1 | 2 => Value::Bool(self.byte()? == 1),
            3 => Value::Int(self.byte()?.cast_signed().into()),
            4..=6 => Value::Int(self.int()?),
            7 => {
                self.skip(8)?;
                Value::Opaque
            }
            8 => {
                let length = self.varint()?;
                self.skip(length)?;
                Value::Opaque
            }
            9 | 10 => self.list(depth)?,
            12 => self.structure(depth + 1)?,
            _ => return Err(Malformed::Unknown),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Value, Malformed> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            length => length.into(),
        };
        // Each element has a byte at least, so that this many can come.
        let length = usize::try_from(length).map_err(|_| Malformed::Cut)?;
        if length > self.rest.len() {
            return Err(Malformed::Cut);
        }
        if length > self.left {
            return Err(Malformed::Large);
        }
        let mut list = Vec::new();
        for _ in 0..length {
            self.count()?;
            list.push(self.value(head & 0x0f, depth + 1)?);
        }
        Ok(Value::List(list))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_read() {
        // 1: i32 -3, 3: true, 4: list of two i64, 5: { 1: "ab" }, 20: byte 7
        let bytes = [
            0x15, 0x05, 0x21, 0x19, 0x26, 0x02, 0x04, 0x1c, 0x18, 0x02, b'a', b'b', 0x00, 0x03,
            0x28, 0x07, 0x00, 0xff,
        ];
        let (value, rest) = structure(&bytes, 100).unwrap();
        assert_eq!(value.int(1), Some(-3));
        assert_eq!(value.field(3), Some(&Value::Bool(true)));
        assert_eq!(value.list(4).unwrap(), [Value::Int(1), Value::Int(2)]);
        assert_eq!(value.field(5).unwrap().field(1), Some(&Value::Opaque));
        assert_eq!(value.int(20), Some(7));
        assert_eq!((value.int(2), rest), (None, &[0xff][..]));
        for at in 0..bytes.len() - 1 {
            assert_eq!(structure(&bytes[..at], 100), Err(Malformed::Cut), "{at}");
        }
        assert_eq!(structure(&bytes, 5), Err(Malformed::Large));
    }

    #[test]
    fn claims_beyond_the_bytes_are_refused() {
        // A list of 2^31 structures; a text of 2^63 bytes; structures without end.
        let list = [0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07, 0x00];
        assert_eq!(structure(&list, 100), Err(Malformed::Cut));
        let text = [0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(structure(&text, 100), Err(Malformed::Cut));
        assert_eq!(structure(&[0x1c; 1000], 10_000), Err(Malformed::Large));
        assert_eq!(structure(&[0x15; 100], 10), Err(Malformed::Large));
        assert_eq!(structure(&[0x1b, 0x00], 10), Err(Malformed::Unknown));
    }
}
