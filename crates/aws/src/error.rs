//! What can go wrong between here and AWS.

use std::fmt;

/// An operation that gave no answer that can be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {fault}")]
pub struct AwsError {
    /// The operation, as `kms:Sign`.
    pub what: String,
    /// What went wrong with it.
    pub fault: Fault,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The endpoint cannot be reached, or went silent.
    Away(String),
    /// The service says to come back later, or has a fault of its own.
    Busy(String),
    /// What came back is none of the service's answers.
    Garbled(String),
    /// There are no credentials, or no region.
    NotConfigured(String),
    /// The service understood and said no.
    Refused(String),
}

impl Fault {
    /// Whether the same request may succeed a moment later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Away(_) | Self::Busy(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Away(what) => write!(f, "cannot be reached: {what}"),
            Self::Busy(what) => write!(f, "busy: {what}"),
            Self::Garbled(what) => write!(f, "unexpected answer: {what}"),
            Self::NotConfigured(what) => write!(f, "not configured: {what}"),
            Self::Refused(what) => write!(f, "refused: {what}"),
        }
    }
}

/// Text from outside as it may stand in a log: one line, printable, short.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}
