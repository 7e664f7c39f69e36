//! The control pipes between Wireshark's toolbar and this program.
//!
//! A message is `T`, three bytes of length in network order, the control's number, a command, and a
//! payload; the length counts what follows it (Wireshark's developer's guide, "Extcap: toolbar
//! controls").

use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest payload; Wireshark's own bound.
const MAX_PAYLOAD: usize = 65_535;

/// Both sides' commands that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Wireshark is ready for messages.
    Initialized,
    /// A control's value.
    Set,
    /// Text for the status bar.
    Statusbar,
    /// Something that the other does not say to us, or that is new.
    Other(u8),
}

impl Command {
    fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Initialized,
            1 => Self::Set,
            6 => Self::Statusbar,
            other => Self::Other(other),
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Initialized => 0,
            Self::Set => 1,
            Self::Statusbar => 6,
            Self::Other(other) => other,
        }
    }
}

/// A message of either side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The control's number; messages about the whole program have 0.
    pub control: u8,
    /// What is to be done.
    pub command: Command,
    /// The value, or the text.
    pub payload: Vec<u8>,
}

/// What cannot be a message.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The pipe failed, or ended within a message.
    #[error("the control pipe failed: {0}")]
    Io(#[from] std::io::Error),
    /// What was read is no message.
    #[error("the control pipe carries something else than messages")]
    NoMessage,
}

impl Message {
    /// Reads one. None at the end of the pipe.
    ///
    /// # Errors
    /// See [`ControlError`]; the pipe cannot be read on.
    pub async fn read(pipe: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, ControlError> {
        let mut header = [0; 6];
        let Some((first, rest)) = header.split_first_mut() else {
            return Err(ControlError::NoMessage);
        };
        if pipe.read(std::slice::from_mut(first)).await? == 0 {
            return Ok(None);
        }
        pipe.read_exact(rest).await?;
        let [b'T', high, middle, low, control, command] = header else {
            return Err(ControlError::NoMessage);
        };
        let len = u32::from_be_bytes([0, high, middle, low]) as usize;
        // Control number and command are counted.
        let Some(len) = len.checked_sub(2).filter(|len| *len <= MAX_PAYLOAD) else {
            return Err(ControlError::NoMessage);
        };
        let mut payload = vec![0; len];
        pipe.read_exact(&mut payload).await?;
        Ok(Some(Self {
            control,
            command: Command::from_byte(command),
            payload,
        }))
    }

    /// As it goes into the pipe; a payload that is too long is cut.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let payload = self
            .payload
            .get(..self.payload.len().min(MAX_PAYLOAD))
            .unwrap_or_default();
        let len = u32::try_from(payload.len() + 2).unwrap_or(2);
        let [_, high, middle, low] = len.to_be_bytes();
        let mut bytes = vec![b'T', high, middle, low, self.control, self.command.byte()];
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_is_read_as_it_was_written() {
        for payload in [vec![], b"tcp port 443".to_vec(), vec![7; MAX_PAYLOAD]] {
            let message = Message {
                control: 3,
                command: Command::Set,
                payload,
            };
            let bytes = message.bytes();
            let mut pipe = &bytes[..];
            assert_eq!(Message::read(&mut pipe).await.unwrap(), Some(message));
            assert_eq!(Message::read(&mut pipe).await.unwrap(), None);
        }
    }

    #[tokio::test]
    async fn lengths_and_beginnings_that_no_message_has_are_refused() {
        for bytes in [
            &b"X\0\0\x02\0\0"[..],
            b"T\0\0\x01\0\0",
            b"T\0\0\0\0\0",
            b"T\xff\xff\xff\0\0",
            b"T\x01\0\x02\0\0",
            b"T\0\0\x05\0\x01ab",
            b"T\0",
        ] {
            let mut pipe = bytes;
            assert!(Message::read(&mut pipe).await.is_err(), "{bytes:?}");
        }
    }
}
