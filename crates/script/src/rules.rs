//! Which header fields a function sees and may change.

use crate::program::Entry;

/// How much like CloudFront.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Only the fields that frame a message are protected, the host can be changed, and responses
    /// with an error status are shown, too.
    #[default]
    Appliance,
    /// CloudFront's lists of fields that are hidden or read-only, and no viewer-response for
    /// status 400 and above.
    Strict,
}

/// Fields that frame a message or belong to one connection (RFC 9110 §7.6.1, RFC 9112 §6).
const FRAMING: [&str; 9] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// CloudFront's disallowed headers ("Restrictions on edge functions").
const HIDDEN: [&str; 26] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "trailer",
    "upgrade",
    "x-accel-buffering",
    "x-accel-charset",
    "x-accel-limit-rate",
    "x-accel-redirect",
    "x-amzn-auth",
    "x-amzn-cf-billing",
    "x-amzn-cf-id",
    "x-amzn-cf-xff",
    "x-amzn-errortype",
    "x-amzn-fle-profile",
    "x-amzn-header-count",
    "x-amzn-header-order",
    "x-amzn-lambda-integration-tag",
    "x-amzn-requestid",
    "x-cache",
    "x-forwarded-proto",
    "x-real-ip",
    "http2-settings",
];
const HIDDEN_BEGINNINGS: [&str; 2] = ["x-amz-cf-", "x-edge-"];

/// CloudFront's read-only headers.
const READ_ONLY_REQUEST: [&str; 4] = ["content-length", "host", "transfer-encoding", "via"];
const READ_ONLY_RESPONSE: [&str; 2] = ["via", "warning"];

/// Whether a field, in lower case, frames a message.
pub(crate) fn is_framing(name: &str) -> bool {
    FRAMING.contains(&name)
}

impl Profile {
    /// Whether functions do not see a field, in lower case, and may not add it.
    pub(crate) fn hides(self, name: &str) -> bool {
        self == Self::Strict
            && (HIDDEN.contains(&name)
                || HIDDEN_BEGINNINGS
                    .iter()
                    .any(|beginning| name.starts_with(beginning)))
    }

    /// Whether functions may not change a field that they see.
    pub(crate) fn protects(self, name: &str, entry: Entry) -> bool {
        is_framing(name)
            || self == Self::Strict
                && match entry {
                    Entry::ViewerRequest => READ_ONLY_REQUEST.contains(&name),
                    _ => READ_ONLY_RESPONSE.contains(&name),
                }
    }

    /// Whether a response with this status is shown.
    pub(crate) fn shows_status(self, status: u16) -> bool {
        self == Self::Appliance || status < 400
    }
}
