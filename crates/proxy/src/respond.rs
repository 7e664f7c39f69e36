//! The only place where answers are made that neither the server nor an interceptor wrote.
//!
//! They are few, name their reason in `x-flowdog-error`, and never repeat anything that a peer sent.

use http::StatusCode;
use sdk::{FieldName, HeaderValue, Response};

use crate::error::{Fault, Side};

/// The field that names the reason of an answer of flowdog's own.
pub const ERROR_FIELD: FieldName = FieldName::from_static("x-flowdog-error");

const CONNECTION: FieldName = FieldName::from_static("Connection");

/// Why flowdog answers by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// An interceptor failed and its policy is to fail closed.
    InterceptorFailed(StatusCode),
    /// A peer sent something that is refused.
    Refused(Side, Fault),
}

impl Reason {
    /// The status of the answer (RFC 9110 §15).
    pub fn status(self) -> StatusCode {
        match self {
            Self::InterceptorFailed(status) => status,
            Self::Refused(Side::Server, _) => StatusCode::BAD_GATEWAY,
            Self::Refused(Side::Client, fault) => match fault {
                Fault::HeadTooLarge | Fault::TooManyFields => {
                    StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
                }
                Fault::SlowBody | Fault::SlowHead => StatusCode::REQUEST_TIMEOUT,
                Fault::TargetTooLong => StatusCode::URI_TOO_LONG,
                _ => StatusCode::BAD_REQUEST,
            },
        }
    }

    /// The word in `x-flowdog-error`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InterceptorFailed(_) => "interceptor-failed",
            Self::Refused(_, fault) => fault.as_str(),
        }
    }
}

/// Makes the answer.
pub fn answer(reason: Reason) -> Response {
    let mut response = Response::text(reason.status(), format!("flowdog: {}\n", reason.as_str()));
    response
        .headers
        .append(ERROR_FIELD, HeaderValue::from_static(reason.as_str()));
    response
}

/// Makes the answer for HTTP/1, after which the connection is closed.
pub fn answer_and_close(reason: Reason) -> Response {
    answer(reason).with_header(CONNECTION, HeaderValue::from_static("close"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threat_28_sizes_have_their_own_statuses() {
        let status = |fault| Reason::Refused(Side::Client, fault).status().as_u16();
        assert_eq!(status(Fault::HeadTooLarge), 431);
        assert_eq!(status(Fault::TooManyFields), 431);
        assert_eq!(status(Fault::TargetTooLong), 414);
        assert_eq!(status(Fault::SlowHead), 408);
        assert_eq!(status(Fault::SlowBody), 408);
        assert_eq!(status(Fault::BothFramings), 400);
        let server = Reason::Refused(Side::Server, Fault::HeadTooLarge);
        assert_eq!(server.status().as_u16(), 502);
    }
}
