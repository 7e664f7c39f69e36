//! The address of a request, as archives write it.

use core::fmt::Write as _;

use sdk::{FlowInfo, RequestHead, Target};

/// The absolute URL, with everything that may not stand in one percent-encoded.
pub(crate) fn of(head: &RequestHead, flow: &FlowInfo) -> String {
    let default_scheme = if flow.tls.is_some() { "https" } else { "http" };
    let scheme = match &head.target {
        Target::Absolute { scheme, .. } => scheme.as_str(),
        _ => default_scheme,
    };
    let host = || {
        let host = head.headers.get_str("host")?;
        Some(host.trim_matches([' ', '\t'])).filter(|host| !host.is_empty())
    };
    let path = head.target.path_and_query();
    let path = path.map_or("/", sdk::PathAndQuery::as_str);
    let mut url = String::with_capacity(path.len() + 64);
    url.push_str(scheme);
    url.make_ascii_lowercase();
    url.push_str("://");
    match head.target.authority() {
        Some(authority) => encode(&mut url, authority.as_str()),
        None => match host() {
            Some(host) => encode(&mut url, host),
            None => encode(&mut url, &flow.server.to_string()),
        },
    }
    encode(&mut url, path);
    url
}

/// The ASCII characters that may stand in an address.
const IS_ALLOWED: [bool; 128] = {
    let mut is_allowed = [false; 128];
    let mut at = 0;
    while at < is_allowed.len() {
        is_allowed[at] = (at as u8).is_ascii_alphanumeric();
        at += 1;
    }
    let others = b"-._~:/?[]@!$&'()*+,;=%";
    let mut at = 0;
    while at < others.len() {
        is_allowed[others[at] as usize] = true;
        at += 1;
    }
    is_allowed
};

/// What RFC 3986 §2 does not allow is percent-encoded; what is encoded already stays.
fn encode(out: &mut String, text: &str) {
    let mut rest = text;
    while let Some(at) = rest
        .bytes()
        .position(|byte| !IS_ALLOWED.get(usize::from(byte)).is_some_and(|is| *is))
    {
        let (clean, after) = rest.split_at(at);
        out.push_str(clean);
        let length = after.chars().next().map_or(0, char::len_utf8);
        let (character, after) = after.split_at(length);
        for byte in character.bytes() {
            let _ = write!(out, "%{byte:02X}");
        }
        rest = after;
    }
    out.push_str(rest);
}

/// The pairs of a query, decoded.
pub(crate) fn query(url: &str) -> form_urlencoded::Parse<'_> {
    let (_, query) = url.split_once('?').unwrap_or_default();
    form_urlencoded::parse(query.as_bytes())
}

#[cfg(test)]
mod tests {
    use sdk::{HeaderValue, Method, Request};

    use super::*;

    fn url(target: &str, host: Option<&'static str>) -> String {
        let target = Target::parse(&Method::GET, target.as_bytes()).unwrap();
        let mut request = Request::new(Method::GET, target);
        if let Some(host) = host {
            let name = sdk::FieldName::from_static("Host");
            request.headers.append(name, HeaderValue::from_static(host));
        }
        of(&RequestHead::of(&request), &sdk::testing::flow())
    }

    #[test]
    fn addresses_are_whole() {
        assert_eq!(url("/a?b=c", Some("h:81")), "http://h:81/a?b=c");
        assert_eq!(url("HTTPS://h/p%20q", None), "https://h/p%20q");
        assert_eq!(url("/caf\u{e9}\"|", Some("h")), "http://h/caf%C3%A9%22%7C");
        let no_host = url("/", None);
        assert!(
            no_host.starts_with("http://") && no_host.len() > 10,
            "{no_host}"
        );
    }

    #[test]
    fn queries_are_taken_apart() {
        let pairs: Vec<_> = query("http://h/?a=1&b=%C3%A9+x&c&&d=%zz%4").collect();
        let right = [("a", "1"), ("b", "\u{e9} x"), ("c", ""), ("d", "%zz%4")];
        assert_eq!(
            pairs,
            right.map(|(name, value)| (name.into(), value.into()))
        );
    }
}
