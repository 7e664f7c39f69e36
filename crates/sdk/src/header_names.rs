//! The spellings of field names that most messages are made of: they need not be copied.

/// The program's own copy of `name`, if it is a common spelling: the usual one, or all lower case.
pub(super) fn find(name: &[u8]) -> Option<&'static str> {
    let (first, last) = (name.first()?, name.last()?);
    KNOWN
        .get(name.len())?
        .iter()
        .find(|known| {
            let known = known.as_bytes();
            // Most that differ, differ here.
            known.first() == Some(first) && known.last() == Some(last) && known == name
        })
        .copied()
}

/// By length: registered names that clients and servers use, and those of AWS and gRPC.
const KNOWN: [&[&str]; 33] = [
    &[],
    &[],
    &["TE", "te"],
    &[
        "Age", "age", "DNT", "dnt", "NEL", "nel", "P3P", "p3p", "Via", "via",
    ],
    &[
        "Date", "date", "ETag", "etag", "From", "from", "Host", "host", "Link", "link", "Vary",
        "vary",
    ],
    &["Allow", "allow", "Range", "range"],
    &[
        "Accept", "accept", "Cookie", "cookie", "Expect", "expect", "Origin", "origin", "Pragma",
        "pragma", "Server", "server",
    ],
    &[
        "Alt-Svc", "alt-svc", "Expires", "expires", "Referer", "referer", "Trailer", "trailer",
        "Upgrade", "upgrade", "X-Cache", "x-cache",
    ],
    &[
        "If-Match", "if-match", "If-Range", "if-range", "Location", "location", "Priority",
        "priority",
    ],
    &[
        "Accept-CH",
        "accept-ch",
        "Forwarded",
        "forwarded",
        "Report-To",
        "report-to",
        "Sec-CH-UA",
        "sec-ch-ua",
        "X-Api-Key",
        "x-api-key",
        "X-Real-IP",
        "x-real-ip",
    ],
    &[
        "Connection",
        "connection",
        "Keep-Alive",
        "keep-alive",
        "Set-Cookie",
        "set-cookie",
        "User-Agent",
        "user-agent",
        "X-Amz-Date",
        "x-amz-date",
        "X-Amz-Id-2",
        "x-amz-id-2",
    ],
    &["Retry-After", "retry-after", "grpc-status"],
    &[
        "Content-Type",
        "content-type",
        "Max-Forwards",
        "max-forwards",
        "X-Amz-Target",
        "x-amz-target",
        "X-Powered-By",
        "x-powered-by",
        "X-Request-Id",
        "x-request-id",
        "grpc-message",
        "grpc-timeout",
    ],
    &[
        "Accept-Ranges",
        "accept-ranges",
        "Authorization",
        "authorization",
        "Cache-Control",
        "cache-control",
        "Content-Range",
        "content-range",
        "If-None-Match",
        "if-none-match",
        "Last-Modified",
        "last-modified",
        "Server-Timing",
        "server-timing",
        "grpc-encoding",
    ],
    &[
        "Accept-Charset",
        "accept-charset",
        "Content-Length",
        "content-length",
        "Sec-Fetch-Dest",
        "sec-fetch-dest",
        "Sec-Fetch-Mode",
        "sec-fetch-mode",
        "Sec-Fetch-Site",
        "sec-fetch-site",
        "Sec-Fetch-User",
        "sec-fetch-user",
    ],
    &[
        "Accept-Encoding",
        "accept-encoding",
        "Accept-Language",
        "accept-language",
        "Referrer-Policy",
        "referrer-policy",
        "X-Amzn-Trace-Id",
        "x-amzn-trace-id",
        "X-Forwarded-For",
        "x-forwarded-for",
        "X-Frame-Options",
        "x-frame-options",
    ],
    &[
        "Content-Encoding",
        "content-encoding",
        "Content-Language",
        "content-language",
        "Content-Location",
        "content-location",
        "Proxy-Connection",
        "proxy-connection",
        "Sec-CH-UA-Mobile",
        "sec-ch-ua-mobile",
        "WWW-Authenticate",
        "www-authenticate",
        "X-Amz-Request-Id",
        "x-amz-request-id",
        "X-Amzn-RequestId",
        "x-amzn-requestid",
        "X-Forwarded-Host",
        "x-forwarded-host",
        "X-Forwarded-Port",
        "x-forwarded-port",
        "X-Requested-With",
        "x-requested-with",
        "X-XSS-Protection",
        "x-xss-protection",
    ],
    &[
        "If-Modified-Since",
        "if-modified-since",
        "Sec-WebSocket-Key",
        "sec-websocket-key",
        "Transfer-Encoding",
        "transfer-encoding",
        "X-Forwarded-Proto",
        "x-forwarded-proto",
    ],
    &[
        "Permissions-Policy",
        "permissions-policy",
        "Sec-CH-UA-Platform",
        "sec-ch-ua-platform",
    ],
    &[
        "Content-Disposition",
        "content-disposition",
        "If-Unmodified-Since",
        "if-unmodified-since",
        "Proxy-Authorization",
        "proxy-authorization",
        "Timing-Allow-Origin",
        "timing-allow-origin",
    ],
    &[
        "Sec-WebSocket-Accept",
        "sec-websocket-accept",
        "X-Amz-Content-Sha256",
        "x-amz-content-sha256",
        "X-Amz-Security-Token",
        "x-amz-security-token",
        "grpc-accept-encoding",
    ],
    &["Sec-WebSocket-Version", "sec-websocket-version"],
    &[
        "Access-Control-Max-Age",
        "access-control-max-age",
        "Sec-WebSocket-Protocol",
        "sec-websocket-protocol",
        "X-Content-Type-Options",
        "x-content-type-options",
    ],
    &["Content-Security-Policy", "content-security-policy"],
    &["Sec-WebSocket-Extensions", "sec-websocket-extensions"],
    &[
        "Strict-Transport-Security",
        "strict-transport-security",
        "Upgrade-Insecure-Requests",
        "upgrade-insecure-requests",
    ],
    &[],
    &["Access-Control-Allow-Origin", "access-control-allow-origin"],
    &[
        "Access-Control-Allow-Headers",
        "access-control-allow-headers",
        "Access-Control-Allow-Methods",
        "access-control-allow-methods",
    ],
    &[
        "Access-Control-Expose-Headers",
        "access-control-expose-headers",
        "Access-Control-Request-Method",
        "access-control-request-method",
    ],
    &[
        "Access-Control-Request-Headers",
        "access-control-request-headers",
    ],
    &[],
    &[
        "Access-Control-Allow-Credentials",
        "access-control-allow-credentials",
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_stand_where_their_length_says_and_are_tokens() {
        for (len, names) in KNOWN.iter().enumerate() {
            for name in *names {
                assert_eq!(name.len(), len, "{name}");
                assert_eq!(super::super::check(name.as_bytes()), Ok(()), "{name}");
                assert_eq!(find(name.as_bytes()), Some(*name));
            }
        }
        assert_eq!(find(b"Host"), Some("Host"));
        assert_eq!(find(b"HOST"), None);
        assert_eq!(find(b""), None);
        assert_eq!(find(&[b'a'; 500]), None);
    }
}
