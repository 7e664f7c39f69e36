//! Requests and responses as interceptors see them.

use http::{HeaderValue, Method, StatusCode, Version};

use crate::target::split_port;
use crate::{Body, FieldName, Headers, Target};

const CONTENT_TYPE: FieldName = FieldName::from_static("Content-Type");

/// A request on its way from the client to the server.
///
/// All parts may be changed, with two limits: the version is the one both legs speak and is not
/// translated, and the request still goes to the server the client connected to.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// What is asked for.
    pub target: Target,
    /// The HTTP version of the connection. A change has no effect.
    pub version: Version,
    /// The fields, without HTTP/2's pseudo-fields: those are in `method` and `target`.
    pub headers: Headers,
    /// The content.
    pub body: Body,
}

impl Request {
    /// A request without fields and content, HTTP/1.1.
    #[must_use]
    pub fn new(method: Method, target: Target) -> Self {
        Self {
            method,
            target,
            version: Version::HTTP_11,
            headers: Headers::new(),
            body: Body::Empty,
        }
    }

    /// The host the request is for, without port: from the target if it names one (RFC 9112
    /// §3.2.2 prefers it), else from the Host field.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        host(&self.target, &self.headers)
    }

    /// As [`Target::path`].
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// As [`Target::query`].
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }
}

pub(crate) fn host<'a>(target: &'a Target, headers: &'a Headers) -> Option<&'a str> {
    match target.authority() {
        Some(authority) => Some(authority.host()),
        None => Some(split_port(headers.get_str("host")?.trim_matches([' ', '\t'])).0),
    }
    .filter(|host| !host.is_empty())
}

/// The head of a request, kept for the stages that come after it: what the client sent, before
/// any interceptor changed it.
#[derive(Clone, Debug)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// What was asked for.
    pub target: Target,
    /// The HTTP version of the connection.
    pub version: Version,
    /// The fields.
    pub headers: Headers,
}

impl RequestHead {
    /// The head of `request`, copied.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        Self {
            method: request.method.clone(),
            target: request.target.clone(),
            version: request.version,
            headers: request.headers.clone(),
        }
    }

    /// As [`Request::host`].
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        host(&self.target, &self.headers)
    }

    /// As [`Request::path`].
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// As [`Request::query`].
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }
}

/// The reason phrase of an HTTP/1 status line (RFC 9112 §4). HTTP/2 has none.
///
/// Like a field value it cannot hold CR, LF or NUL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason(HeaderValue);

impl Reason {
    /// What most answers say.
    pub const OK: Self = Self(HeaderValue::from_static("OK"));

    /// Checks and copies a phrase. May be empty.
    ///
    /// # Errors
    /// When it holds control characters other than tab.
    pub fn parse(bytes: &[u8]) -> Result<Self, http::header::InvalidHeaderValue> {
        HeaderValue::from_bytes(bytes).map(Self)
    }

    /// The phrase as it was written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// A response on its way from the server to the client.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The phrase the server wrote, if any. With `None` HTTP/1 gets the usual phrase of the code.
    pub reason: Option<Reason>,
    /// The HTTP version of the connection. A change has no effect.
    pub version: Version,
    /// The fields, without HTTP/2's pseudo-field: that is `status`.
    pub headers: Headers,
    /// The content.
    pub body: Body,
}

impl Response {
    /// A response without fields and content.
    #[must_use]
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            reason: None,
            version: Version::HTTP_11,
            headers: Headers::new(),
            body: Body::Empty,
        }
    }

    /// A short plain-text answer, for [`Step::Respond`](crate::Step::Respond).
    #[must_use]
    pub fn text(status: StatusCode, text: impl Into<String>) -> Self {
        let mut response = Self::new(status);
        response.headers.set(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        response.body = text.into().into();
        response
    }

    /// The same response with one more field.
    #[must_use]
    pub fn with_header(mut self, name: FieldName, value: HeaderValue) -> Self {
        self.headers.append(name, value);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, host: Option<&'static str>) -> Request {
        let mut request = Request::new(
            Method::GET,
            Target::parse(&Method::GET, target.as_bytes()).unwrap(),
        );
        if let Some(host) = host {
            request.headers.append(
                FieldName::from_static("HOST"),
                HeaderValue::from_static(host),
            );
        }
        request
    }

    #[test]
    fn host_comes_from_the_target_before_the_field() {
        assert_eq!(request("http://a:1/", Some("b")).host(), Some("a"));
        assert_eq!(request("/", Some("b:8080")).host(), Some("b"));
        assert_eq!(request("/", Some("[::1]:80")).host(), Some("[::1]"));
        assert_eq!(request("/", Some("[::1]")).host(), Some("[::1]"));
        assert_eq!(request("/", Some(":80")).host(), None);
        assert_eq!(request("/", None).host(), None);
    }

    #[test]
    fn path_and_query_are_not_decoded() {
        let request = request("/a%20b?c=%41", None);
        assert_eq!((request.path(), request.query()), ("/a%20b", Some("c=%41")));
        let head = RequestHead::of(&request);
        assert_eq!(
            (head.path(), head.query(), head.host()),
            ("/a%20b", Some("c=%41"), None)
        );
    }

    #[test]
    fn reasons_cannot_end_the_status_line() {
        assert!(Reason::parse(b"OK\r\nX: y").is_err());
        assert_eq!(
            Reason::parse(b"Ni\xe7ht gefunden").unwrap().as_bytes(),
            b"Ni\xe7ht gefunden"
        );
        assert!(Reason::parse(b"").is_ok());
    }
}
