//! Messages of the `h2` crate into those of the sdk and back, with the checks of RFC 9113 §8 that the
//! library leaves to its user.
//!
//! The library itself refuses connection-specific fields, upper-case names, doubled or misplaced
//! pseudo-fields, and content that differs from Content-Length.

use http::header::{self, HeaderMap};
use http::{Method, Uri, Version};
use sdk::{
    Authority, Body, FieldName, FlowInfo, HeaderValue, Headers, PathAndQuery, Request, Response,
    Scheme, Target,
};

use crate::authority::same_authority;
use crate::error::Fault;

/// Fields that belong to an HTTP/1 connection (RFC 9113 §8.2.2).
const CONNECTION_SPECIFIC: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Reads a request head; its body is empty.
pub(super) fn request(parts: &http::request::Parts) -> Result<Request, Fault> {
    if !are_values_clean(&parts.headers) {
        return Err(Fault::FieldValue);
    }
    let target = target(&parts.method, &parts.uri)?;
    check_host(&target, &parts.headers)?;
    Ok(Request {
        method: parts.method.clone(),
        target,
        version: Version::HTTP_2,
        headers: Headers::from(&parts.headers),
        body: Body::Empty,
    })
}

/// Reads a response head; its body is empty.
pub(super) fn response(parts: &http::response::Parts) -> Result<Response, Fault> {
    if !are_values_clean(&parts.headers) {
        return Err(Fault::FieldValue);
    }
    Ok(Response {
        status: parts.status,
        reason: None,
        version: Version::HTTP_2,
        headers: Headers::from(&parts.headers),
        body: Body::Empty,
    })
}

/// Whether no value begins or ends with white space (RFC 9113 §8.2.1).
pub(super) fn are_values_clean(fields: &HeaderMap) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    fields
        .values()
        .all(|value| !is_space(value.as_bytes().first()) && !is_space(value.as_bytes().last()))
}

/// The announced length of a body.
pub(super) fn content_length(fields: &HeaderMap) -> Option<u64> {
    fields
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn target(method: &Method, uri: &Uri) -> Result<Target, Fault> {
    let authority = uri
        .authority()
        .map(|authority| Authority::parse(authority.as_str().as_bytes()))
        .transpose()
        .map_err(|_| Fault::Target)?;
    let path = uri
        .path_and_query()
        .map(|path| PathAndQuery::parse(path.as_str().as_bytes()))
        .transpose()
        .map_err(|_| Fault::Target)?;
    match (authority, uri.scheme_str(), path) {
        (Some(authority), Some(scheme), Some(path)) => Ok(Target::Absolute {
            scheme: Scheme::parse(scheme.as_bytes()).map_err(|_| Fault::Target)?,
            authority,
            path,
        }),
        (Some(authority), None, None) if method == Method::CONNECT => {
            Ok(Target::Authority(authority))
        }
        (None, _, Some(path)) if path.as_str() == "*" && method == Method::OPTIONS => {
            Ok(Target::Asterisk)
        }
        (None, _, Some(path)) => Ok(Target::Origin(path)),
        _ => Err(Fault::Target),
    }
}

/// RFC 9113 §8.3.1: a Host field that names another entity than `:authority` makes a request malformed.
fn check_host(target: &Target, fields: &HeaderMap) -> Result<(), Fault> {
    let mut hosts = fields.get_all(header::HOST).iter();
    let first = hosts.next();
    if hosts.next().is_some() {
        return Err(Fault::Host);
    }
    match (target, first) {
        (Target::Absolute { .. } | Target::Authority(_), None) => Ok(()),
        (Target::Asterisk | Target::Origin(_), None) => Err(Fault::Host),
        (target, Some(host)) => {
            let host = Authority::parse(host.as_bytes()).map_err(|_| Fault::Host)?;
            let scheme = match target {
                Target::Absolute { scheme, .. } => scheme.as_str(),
                Target::Asterisk | Target::Authority(_) | Target::Origin(_) => "https",
            };
            match target.authority() {
                Some(authority) if !same_authority(&host, authority, scheme) => Err(Fault::Host),
                _ => Ok(()),
            }
        }
    }
}

/// Makes the head that goes to the server.
pub(super) fn to_request(
    request: &mut Request,
    flow: &FlowInfo,
) -> Result<http::Request<()>, Fault> {
    set_length(&mut request.headers, &request.body);
    let host = request.headers.get_str("host").map(str::to_owned);
    let scheme = if flow.tls.is_some() { "https" } else { "http" };
    let uri = match &request.target {
        Target::Absolute {
            scheme,
            authority,
            path,
        } => Uri::builder()
            .scheme(scheme.as_str())
            .authority(authority.as_str())
            .path_and_query(path.as_str())
            .build(),
        Target::Authority(authority) => Uri::builder().authority(authority.as_str()).build(),
        // A client may name the host in Host alone (RFC 9113 §8.3.1).
        Target::Asterisk => Uri::builder()
            .scheme(scheme)
            .authority(host.unwrap_or_default())
            .path_and_query("*")
            .build(),
        Target::Origin(path) => Uri::builder()
            .scheme(scheme)
            .authority(host.unwrap_or_default())
            .path_and_query(path.as_str())
            .build(),
    }
    .map_err(|_| Fault::Target)?;
    let mut built = http::Request::new(());
    *built.method_mut() = request.method.clone();
    *built.uri_mut() = uri;
    *built.version_mut() = Version::HTTP_2;
    *built.headers_mut() = to_map(&request.headers);
    Ok(built)
}

/// Makes the head that goes to the client; says whether it is all there is.
pub(super) fn to_response(response: &mut Response, to: &Method) -> (http::Response<()>, bool) {
    let has_no_body = to == Method::HEAD
        || response.status == http::StatusCode::NO_CONTENT
        || response.status == http::StatusCode::NOT_MODIFIED;
    if !has_no_body || matches!(response.body, Body::Full(_)) {
        set_length(&mut response.headers, &response.body);
    }
    if has_no_body {
        response.body = Body::Empty;
    }
    let mut built = http::Response::new(());
    *built.status_mut() = response.status;
    *built.version_mut() = Version::HTTP_2;
    *built.headers_mut() = to_map(&response.headers);
    (built, response.body.is_empty())
}

/// Fields for the library: lower case, and without those that HTTP/2 forbids.
pub(super) fn to_map(headers: &Headers) -> HeaderMap {
    let mut map = headers.to_map();
    for name in CONNECTION_SPECIFIC {
        map.remove(name);
    }
    if map.get(header::TE).is_some_and(|value| value != "trailers") {
        map.remove(header::TE);
    }
    map
}

/// Makes Content-Length say what the body is, where it says anything.
fn set_length(headers: &mut Headers, body: &Body) {
    const NAME: FieldName = FieldName::from_static("content-length");
    match body.known_length() {
        Some(length) if headers.contains("content-length") || matches!(body, Body::Full(_)) => {
            let text = length.to_string();
            let is_right = headers.get_str("content-length") == Some(&text)
                && headers.get_all("content-length").count() == 1;
            if !is_right {
                headers.set(NAME, HeaderValue::from(length));
            }
        }
        Some(_) => {}
        None => {
            headers.remove("content-length");
        }
    }
}
