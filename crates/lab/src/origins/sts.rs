//! A stand-in for the AWS Security Token Service: it knows who calls, and it is always Alice.

use bytes::Bytes;
use http::{Response, StatusCode};

/// The user id that `GetCallerIdentity` answers with.
pub const USER_ID: &str = "AIDACKCEVSQ6C2EXAMPLE";

/// Whether a host name is one of the service's.
#[must_use]
pub fn is_sts_host(host: &str) -> bool {
    let host = host.split(':').next().unwrap_or(host).to_ascii_lowercase();
    host.starts_with("sts.") && (host.ends_with(".amazonaws.com") || host.ends_with(".lab.name"))
}

/// Answers a request of the query protocol; `parameters` is its query string or its form body.
pub(super) fn answer(parameters: &str) -> Response<Bytes> {
    let action = parameters
        .split('&')
        .find_map(|pair| pair.strip_prefix("Action="))
        .unwrap_or_default();
    let (status, body) = match action {
        "GetCallerIdentity" => (
            StatusCode::OK,
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
                 <GetCallerIdentityResult>\n    \
                 <Arn>arn:aws:iam::123456789012:user/Alice</Arn>\n    \
                 <UserId>{USER_ID}</UserId>\n    \
                 <Account>123456789012</Account>\n  \
                 </GetCallerIdentityResult>\n  \
                 <ResponseMetadata>\n    \
                 <RequestId>01234567-89ab-cdef-0123-456789abcdef</RequestId>\n  \
                 </ResponseMetadata>\n\
                 </GetCallerIdentityResponse>\n"
            ),
        ),
        _ => (
            StatusCode::BAD_REQUEST,
            "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\n  \
             <Error>\n    <Type>Sender</Type>\n    <Code>InvalidAction</Code>\n    \
             <Message>Could not find the operation</Message>\n  </Error>\n\
             </ErrorResponse>\n"
                .to_owned(),
        ),
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("text/xml"),
    );
    response
}
