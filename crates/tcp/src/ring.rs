//! A byte ring that grows on demand and can be given back when it is empty.
//!
//! Both queues of a connection use it: the send queue keeps its bytes from SND.UNA on, the receive
//! queue from the first unread byte on, including bytes behind holes.

/// Smallest allocation: one ordinary segment fits.
const SMALLEST: usize = 2048;

/// Bytes addressed by their distance from a moving start.
///
/// Invariant: `extent <= bytes.len()`, and the length of `bytes` is zero or a power of two.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    bytes: Box<[u8]>,
    head: u32,
    extent: u32,
}

impl Ring {
    /// Stores `data` at `offset`, growing if needed. The caller bounds `offset + data.len()`.
    pub(crate) fn write_at(&mut self, offset: u32, data: &[u8]) {
        self.write_all_at(offset, &[data], data.len());
    }

    /// Stores `parts`, of `length` bytes together, one behind the other from `offset` on. The caller
    /// bounds the end.
    pub(crate) fn write_all_at(&mut self, offset: u32, parts: &[&[u8]], length: usize) {
        let end = offset as usize + length;
        if end > self.bytes.len() {
            self.grow(end);
        }
        let mut at = self.position(offset);
        for part in parts {
            let until_wrap = part.len().min(self.bytes.len() - at);
            let (first, second) = part.split_at(until_wrap);
            self.bytes[at..at + first.len()].copy_from_slice(first);
            self.bytes[..second.len()].copy_from_slice(second);
            at = (at + part.len()) & (self.bytes.len() - 1);
        }
        self.extent = self.extent.max(end as u32);
    }

    /// Up to `length` stored bytes from `offset` on, in two parts where they wrap around.
    pub(crate) fn parts(&self, offset: u32, length: usize) -> [&[u8]; 2] {
        let available = (self.extent as usize).saturating_sub(offset as usize);
        let length = length.min(available);
        if length == 0 {
            return [&[]; 2];
        }
        let at = self.position(offset);
        let until_wrap = length.min(self.bytes.len() - at);
        [
            &self.bytes[at..at + until_wrap],
            &self.bytes[..length - until_wrap],
        ]
    }

    /// Copies bytes from `offset` on; what lies beyond the stored bytes is left alone.
    pub(crate) fn copy_at(&self, offset: u32, out: &mut [u8]) {
        let [first, second] = self.parts(offset, out.len());
        out[..first.len()].copy_from_slice(first);
        out[first.len()..first.len() + second.len()].copy_from_slice(second);
    }

    /// Forgets the first `count` bytes.
    pub(crate) fn advance(&mut self, count: u32) {
        if count >= self.extent {
            self.extent = 0;
            self.head = 0;
        } else {
            self.extent -= count;
            self.head = self.position(count) as u32;
        }
    }

    /// Gives the memory back if nothing is stored.
    pub(crate) fn release_if_empty(&mut self) {
        if self.extent == 0 {
            *self = Self::default();
        }
    }

    /// Bytes allocated.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len()
    }

    fn position(&self, offset: u32) -> usize {
        (self.head as usize + offset as usize) & (self.bytes.len() - 1)
    }

    #[cold]
    fn grow(&mut self, needed: usize) {
        let mut larger = vec![0; needed.max(SMALLEST).next_power_of_two()].into_boxed_slice();
        self.copy_at(0, &mut larger);
        self.bytes = larger;
        self.head = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_wrapping_and_growing() {
        let mut ring = Ring::default();
        let data: Vec<u8> = (0..10_000u32).map(|i| (i * 7) as u8).collect();
        let (mut start, mut end) = (0usize, 0usize);
        for (write, forget) in [
            (1500, 1000),
            (1400, 1700),
            (2000, 100),
            (2100, 2000),
            (3000, 5200),
        ] {
            ring.write_at((end - start) as u32, &data[end..end + write]);
            end += write;
            let mut out = vec![0; end - start];
            ring.copy_at(0, &mut out);
            assert_eq!(out, data[start..end]);
            ring.advance(forget as u32);
            start += forget;
        }
        assert_eq!(start, end);
        assert!(ring.capacity() > 0);
        ring.release_if_empty();
        assert_eq!(ring.capacity(), 0);
    }
}
