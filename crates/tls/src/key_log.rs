//! Secrets of both legs in a file, in the format that Wireshark reads.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::KeyLog;
use zeroize::Zeroize;

use crate::intercept::KeyLogs;

/// Writes the secrets of both legs to one file, each under a comment that names its leg.
///
/// The file is opened with the first secret, for appending, and only its owner can read it; one
/// that others can read already is not written to.
#[must_use]
pub fn key_log_file(path: PathBuf) -> KeyLogs {
    let target = Arc::new(Target {
        path,
        file: OnceLock::new(),
    });
    let leg = |name| {
        Arc::new(Leg {
            name,
            target: Arc::clone(&target),
        })
    };
    KeyLogs {
        client_leg: leg("client leg"),
        server_leg: leg("server leg"),
    }
}

struct Target {
    path: PathBuf,
    file: OnceLock<Option<Mutex<File>>>,
}

struct Leg {
    name: &'static str,
    target: Arc<Target>,
}

impl fmt::Debug for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leg")
            .field("name", &self.name)
            .field("path", &self.target.path)
            .finish()
    }
}

impl KeyLog for Leg {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let file = self.target.file.get_or_init(|| {
            open(&self.target.path).map_or_else(
                |error| {
                    tracing::error!(path = %self.target.path.display(), %error, "no secrets are written");
                    None
                },
                |file| Some(Mutex::new(file)),
            )
        });
        let Some(file) = file else { return };
        // One write, so that the comment stays with its line whoever else writes.
        let mut line = key_log_line(label, client_random, secret);
        let mut text = format!("# {}\n{line}", self.name);
        line.zeroize();
        let written = file
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .write_all(text.as_bytes());
        text.zeroize();
        if let Err(error) = written {
            tracing::warn!(%error, "a secret could not be written to the key log");
        }
    }
}

fn open(path: &std::path::Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "others can read it: chmod 600 it, or remove it",
        ));
    }
    Ok(file)
}

/// One line of the NSS key log format, with its end. It is as secret as what it is made of.
#[must_use]
pub fn key_log_line(label: &str, client_random: &[u8], secret: &[u8]) -> String {
    // Of its full length from the start: growing would leave copies behind.
    let length = label.len() + 2 * (client_random.len() + secret.len()) + 3;
    let mut text = String::with_capacity(length);
    text.push_str(label);
    text.push(' ');
    hex(&mut text, client_random);
    text.push(' ');
    hex(&mut text, secret);
    text.push('\n');
    text
}

/// Tells two listeners.
#[derive(Debug)]
struct Both(Arc<dyn KeyLog>, Arc<dyn KeyLog>);

impl KeyLog for Both {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        self.0.log(label, client_random, secret);
        self.1.log(label, client_random, secret);
    }

    fn will_log(&self, label: &str) -> bool {
        self.0.will_log(label) || self.1.will_log(label)
    }
}

/// One listener, or one more beside it.
pub(crate) fn with(log: &Arc<dyn KeyLog>, more: Option<&Arc<dyn KeyLog>>) -> Arc<dyn KeyLog> {
    match more {
        Some(more) => Arc::new(Both(Arc::clone(log), Arc::clone(more))),
        None => Arc::clone(log),
    }
}

fn hex(text: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(
                DIGITS.get(usize::from(digit)).copied().unwrap_or(b'0'),
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_labelled_by_leg_and_the_file_is_its_owners() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.log");
        let logs = key_log_file(path.clone());
        assert!(!path.exists(), "nothing is made before there is a secret");
        logs.client_leg.log("CLIENT_RANDOM", &[0xab; 2], &[1, 0xff]);
        logs.server_leg.log("CLIENT_RANDOM", &[0xcd; 2], &[2]);
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "# client leg\nCLIENT_RANDOM abab 01ff\n# server leg\nCLIENT_RANDOM cdcd 02\n"
        );
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_gets_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.log");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        key_log_file(path.clone())
            .client_leg
            .log("CLIENT_RANDOM", &[1], &[2]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }
}
