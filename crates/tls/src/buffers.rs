//! The buffers behind [`TlsStream`](crate::TlsStream): some for a thread, borrowed for the time of a call.

use std::cell::RefCell;

/// Room of a borrowed buffer: two of the longest records, so that a whole one always fits behind a part.
/// 34 KiB.
const RECEIVE_BYTES: usize = 2 * 17 * 1024;
/// The longest handshake message that the library takes is 64 KiB; its records are a little longer.
const MOST_BYTES: usize = 4 * RECEIVE_BYTES;
/// One of the longest records, and something small that goes before it.
const SEND_BYTES: usize = 17 * 1024;
/// Buffers that a thread keeps: one for each leg of the flow that it works on, and one more.
const SPARE: usize = 3;

/// How far content stands from where an allocation begins, when it is long and about to be encrypted.
///
/// The TLS library copies it behind a record's header in an allocation of its own. Both begin at a page
/// with most allocators, and then the copy goes a few bytes beyond where it came from, in terms of pages.
/// AMD's processors since Zen 3 do `rep movsb`, with which the C library copies what is long, at a
/// twentieth of its speed in that case (measured on one: 2.7 instead of 55 GB/s with a distance of 1 to
/// 15 bytes modulo 4,096; glibc's bug 30994).
pub(crate) const CONTENT_OFFSET: usize = 64;

thread_local! {
    static RECEIVING: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static SENDING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static GATHERING: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn borrow() -> Box<[u8]> {
    let spare = RECEIVING.with_borrow_mut(Vec::pop);
    spare.unwrap_or_else(|| vec![0; RECEIVE_BYTES].into())
}

fn give_back(buffer: Box<[u8]>) {
    if buffer.len() == RECEIVE_BYTES {
        RECEIVING.with_borrow_mut(|spare| {
            if spare.len() < SPARE {
                spare.push(buffer);
            }
        });
    }
}

/// Room for records to be written.
pub(crate) fn with_outgoing<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    SENDING.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            if buffer.len() != SEND_BYTES {
                buffer.resize(SEND_BYTES, 0);
                buffer.shrink_to(SEND_BYTES);
            }
            work(&mut buffer)
        }
        // A leg inside a leg.
        Err(_) => work(&mut vec![0; SEND_BYTES]),
    })
}

/// Room in which pieces are put together, behind [`CONTENT_OFFSET`] bytes.
pub(crate) fn with_gathered<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    GATHERING.with(|buffer| match buffer.try_borrow_mut() {
        Ok(mut buffer) => {
            buffer.resize(CONTENT_OFFSET, 0);
            buffer.truncate(CONTENT_OFFSET);
            work(&mut buffer)
        }
        Err(_) => work(&mut vec![0; CONTENT_OFFSET]),
    })
}

/// Records that have come and are not taken in.
#[derive(Default)]
pub(crate) struct Incoming {
    /// Of the thread's while it is worked on, of the length of what is in it otherwise.
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Incoming {
    /// What has come, to be decrypted in place.
    pub(crate) fn filled(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes the first bytes off.
    pub(crate) fn discard(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Room for more; none when there is more already than any message takes.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self.bytes.len() < RECEIVE_BYTES {
            self.move_to(borrow());
        } else if self.end == self.bytes.len() {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            } else if self.bytes.len() < MOST_BYTES {
                self.move_to(vec![0; self.bytes.len() * 2].into());
            }
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes of the room are filled.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Nothing more comes for now: what is left is kept in a buffer of its length.
    pub(crate) fn rest(&mut self) {
        if self.bytes.len() != self.end - self.start {
            let left = Box::from(&*self.filled());
            give_back(std::mem::replace(&mut self.bytes, left));
            (self.start, self.end) = (0, self.bytes.len());
        }
    }

    fn move_to(&mut self, mut bytes: Box<[u8]>) {
        let count = self.end - self.start;
        if let Some(room) = bytes.get_mut(..count) {
            room.copy_from_slice(self.filled());
        }
        give_back(std::mem::replace(&mut self.bytes, bytes));
        (self.start, self.end) = (0, count);
    }
}

impl From<Vec<u8>> for Incoming {
    fn from(bytes: Vec<u8>) -> Self {
        let bytes = bytes.into_boxed_slice();
        let end = bytes.len();
        Self {
            bytes,
            start: 0,
            end,
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(incoming: &mut Incoming, bytes: &[u8]) {
        incoming.room()[..bytes.len()].copy_from_slice(bytes);
        incoming.fill(bytes.len());
    }

    #[test]
    fn what_is_left_keeps_its_place_and_nothing_more() {
        let mut incoming = Incoming::default();
        assert!(incoming.filled().is_empty());
        put(&mut incoming, b"abcdef");
        incoming.discard(2);
        incoming.rest();
        assert_eq!(incoming.bytes.len(), 4);
        assert_eq!(incoming.filled(), b"cdef");
        put(&mut incoming, b"gh");
        assert_eq!(incoming.filled(), b"cdefgh");
        incoming.discard(6);
        incoming.rest();
        assert!(incoming.is_empty());
        assert_eq!(incoming.bytes.len(), 0);
    }

    #[test]
    fn a_buffer_grows_for_one_long_message_and_not_for_ever() {
        let mut incoming = Incoming::default();
        put(&mut incoming, b"x");
        loop {
            let room = incoming.room().len();
            if room == 0 {
                break;
            }
            incoming.fill(room);
        }
        assert_eq!(incoming.filled().len(), MOST_BYTES);
        assert_eq!(incoming.filled()[0], b'x');
        incoming.discard(1);
        assert_eq!(incoming.room().len(), 1);
    }
}
