//! Why a call gave no result.

use std::time::Duration;

use sdk::StatusCode;

/// Why a call of a function gave no result that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It gave something that is no request, response or answer, or changed what it may not.
    #[error("invalid result: {0}")]
    Invalid(String),
    /// It threw.
    #[error("{0}")]
    Thrown(String),
    /// It took more processor time than it may.
    #[error("it took more than {} ms of processor time", .0.as_secs_f64() * 1e3)]
    TooSlow(Duration),
    /// It took more memory than it may.
    #[error("it took more than {0} bytes of memory")]
    OutOfMemory(usize),
    /// Its promise waits for something that never comes.
    #[error("its promise never settles")]
    NeverSettles,
    /// It did not come back and cannot be interrupted; its thread was given up.
    #[error("it did not come back within {} ms, and its thread was given up", .0.as_millis())]
    Stuck(Duration),
    /// Too many calls wait, or too many threads were given up.
    #[error("too many calls wait for a thread")]
    Overloaded,
    /// The function has no handler for this event.
    #[error("it has no handler for this event")]
    NoHandler,
}

impl Fault {
    /// The status with which CloudFront answers: 502 for a result that is not valid, 503 for a
    /// function that failed.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid(_) => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The word in metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "script-invalid-result",
            Self::Thrown(_) => "script-error",
            Self::TooSlow(_) => "script-too-slow",
            Self::OutOfMemory(_) => "script-out-of-memory",
            Self::NeverSettles => "script-never-settles",
            Self::Stuck(_) => "script-stuck",
            Self::Overloaded => "script-overloaded",
            Self::NoHandler => "script-no-handler",
        }
    }

    /// Whether the realm may hold something of the call: unfinished jobs, half a heap.
    pub(crate) fn spoils_realm(&self) -> bool {
        !matches!(self, Self::Invalid(_) | Self::NoHandler | Self::Overloaded)
    }
}
