//! An application that sends a known stream and checks the one it receives.

/// What one side does with its connection.
#[derive(Clone, Debug)]
pub(crate) struct App {
    /// Which of the two streams it sends: 0 or 1.
    pub(crate) stream: u8,
    pub(crate) to_send: u64,
    pub(crate) expects: u64,
    /// Largest write and read; small ones exercise small segments.
    pub(crate) chunk: usize,
    /// Microseconds between two reads; 0 reads all the time.
    pub(crate) read_pause: u64,
    /// Closes its direction as soon as everything is written; otherwise when the other side has.
    pub(crate) closes_first: bool,
    pub(crate) written: u64,
    pub(crate) received: u64,
    pub(crate) closed: bool,
    pub(crate) saw_end: bool,
    /// When the last expected byte was read.
    pub(crate) complete_at: Option<u64>,
    /// Whether bytes are made and compared; measurements save the time.
    pub(crate) checks: bool,
    next_read: u64,
}

impl App {
    pub(crate) fn new(stream: u8, to_send: u64, expects: u64) -> Self {
        Self {
            stream,
            to_send,
            expects,
            chunk: 1 << 16,
            read_pause: 0,
            closes_first: true,
            written: 0,
            received: 0,
            closed: false,
            saw_end: false,
            complete_at: None,
            checks: true,
            next_read: 0,
        }
    }

    /// Fills the next bytes to write; answers how many.
    pub(crate) fn produce(&self, buffer: &mut [u8]) -> usize {
        let count = (self.to_send - self.written).min(buffer.len().min(self.chunk) as u64) as usize;
        let made = if self.checks { count } else { 0 };
        for (index, byte) in buffer[..made].iter_mut().enumerate() {
            *byte = pattern(self.stream, self.written + index as u64);
        }
        count
    }

    /// Checks received bytes.
    pub(crate) fn consume(&mut self, bytes: &[u8], now: u64) {
        let other = 1 - self.stream;
        let compared = if self.checks { bytes.len() } else { 0 };
        for (index, &byte) in bytes[..compared].iter().enumerate() {
            let at = self.received + index as u64;
            assert_eq!(
                byte,
                pattern(other, at),
                "stream {other} differs at byte {at}"
            );
        }
        self.received += bytes.len() as u64;
        assert!(self.received <= self.expects, "stream {other} is too long");
        if self.received == self.expects && self.complete_at.is_none() {
            self.complete_at = Some(now);
        }
    }

    /// Whether it reads at `now`, and until when it waits otherwise.
    pub(crate) fn may_read(&mut self, now: u64) -> bool {
        if self.read_pause == 0 {
            return true;
        }
        if now < self.next_read {
            return false;
        }
        self.next_read = now + self.read_pause;
        true
    }

    /// When it wants to read again although nothing happened.
    pub(crate) fn wake_at(&self, readable: bool) -> Option<u64> {
        (self.read_pause > 0 && readable).then_some(self.next_read)
    }

    pub(crate) fn wants_close(&self) -> bool {
        !self.closed && self.written == self.to_send && (self.closes_first || self.saw_end)
    }

    pub(crate) fn has_everything(&self) -> bool {
        self.received == self.expects && self.written == self.to_send
    }
}

/// The byte of a stream at an offset: every offset below 2^24 differs from its surroundings.
pub(crate) fn pattern(stream: u8, at: u64) -> u8 {
    let mixed = (at as u32).wrapping_mul(0x9e37_79b1) ^ (u32::from(stream) << 20);
    (mixed >> 24) as u8 ^ (mixed >> 12) as u8
}
