//! Requests whose sender has signed them: what an edit would make the server refuse.

use crate::{Headers, Request};

/// What the signature of a request covers, as far as the request says.
///
/// Known are AWS Signature Version 4 and 4A (`Authorization: AWS4-…`, `x-amz-content-sha256`) and HTTP
/// Message Signatures (RFC 9421) over a Content-Digest (RFC 9530).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// Whether the body is covered, or framed in signed chunks (`STREAMING-…`): the server refuses
    /// any other body.
    pub covers_body: bool,
    /// The signed fields, in lower case; the server refuses a request in which one was changed.
    pub fields: Vec<String>,
}

impl Signature {
    /// Whether a change of the field called `name` breaks the signature. Names compare without case.
    #[must_use]
    pub fn covers_field(&self, name: &str) -> bool {
        self.fields
            .iter()
            .any(|field| field.eq_ignore_ascii_case(name))
    }
}

impl Request {
    /// What the request's signature covers; `None` when no signature was found.
    #[must_use]
    pub fn signature(&self) -> Option<Signature> {
        aws(&self.headers, self.query()).or_else(|| message_signature(&self.headers))
    }
}

fn aws(headers: &Headers, query: Option<&str>) -> Option<Signature> {
    let payload = headers.get_str("x-amz-content-sha256").map(str::trim);
    // `STREAMING-UNSIGNED-PAYLOAD-TRAILER` signs no chunk, but the body is framed in chunks of
    // its own all the same (aws-chunked), and ends with a checksum of itself.
    let by_payload = payload.map(|payload| payload != "UNSIGNED-PAYLOAD");
    let authorization = headers
        .get_all("authorization")
        .filter_map(|value| value.to_str().ok())
        .find(|value| value.starts_with("AWS4-"));
    if let Some(authorization) = authorization {
        let list = authorization
            .split([',', ' '])
            .find_map(|part| part.trim().strip_prefix("SignedHeaders="));
        return Some(Signature {
            // Without the field, as with every service but S3, the body's hash is signed.
            covers_body: by_payload.unwrap_or(true),
            fields: names(list.unwrap_or_default(), &[";"]),
        });
    }
    let parameter = |name: &str| {
        query?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    };
    if parameter("X-Amz-Signature").is_some() {
        let list = parameter("X-Amz-SignedHeaders").unwrap_or_default();
        return Some(Signature {
            // A presigned URL promises nothing about the body unless it says so.
            covers_body: by_payload.unwrap_or(false),
            fields: names(list, &[";", "%3B", "%3b"]),
        });
    }
    by_payload.map(|covers_body| Signature {
        covers_body,
        fields: Vec::new(),
    })
}

fn names(list: &str, separators: &[&str]) -> Vec<String> {
    let mut parts = vec![list];
    for separator in separators {
        parts = parts
            .into_iter()
            .flat_map(|part| part.split(separator))
            .collect();
    }
    parts
        .into_iter()
        .filter(|name| !name.is_empty())
        .map(str::to_ascii_lowercase)
        .collect()
}

/// RFC 9421 §4.1: `sig1=("@method" "content-digest");created=…`.
fn message_signature(headers: &Headers) -> Option<Signature> {
    headers.get("signature")?;
    let input = headers.get_str("signature-input")?;
    let fields: Vec<String> = input
        .split('(')
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .flat_map(|list| list.split('"').skip(1).step_by(2))
        .filter(|name| !name.starts_with('@'))
        .map(str::to_ascii_lowercase)
        .collect();
    Some(Signature {
        covers_body: fields
            .iter()
            .any(|name| name == "content-digest" || name == "digest"),
        fields,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method};

    use super::*;
    use crate::Target;

    fn signature(target: &str, fields: &[(&str, &'static str)]) -> Option<Signature> {
        let target = Target::parse(&Method::PUT, target.as_bytes()).unwrap();
        let mut request = Request::new(Method::PUT, target);
        for (name, value) in fields {
            request
                .headers
                .append(name.parse().unwrap(), HeaderValue::from_static(value));
        }
        request.signature()
    }

    const AUTHORIZATION: (&str, &str) = (
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=AKID/20260101/us-east-1/s3/aws4_request, \
         SignedHeaders=host;x-amz-date, Signature=00ff",
    );

    #[test]
    fn threat_69_bodies_covered_by_signature_version_4_are_known() {
        for (payload, covers) in [
            ("UNSIGNED-PAYLOAD", false),
            ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", true),
            ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", true),
            (
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                true,
            ),
        ] {
            let found = signature("/", &[AUTHORIZATION, ("x-amz-content-sha256", payload)]);
            let found = found.unwrap();
            assert_eq!(found.covers_body, covers, "{payload}");
            assert!(found.covers_field("X-Amz-Date") && !found.covers_field("accept"));
            let alone = signature("/", &[("X-Amz-Content-SHA256", payload)]).unwrap();
            assert_eq!(alone.covers_body, covers, "{payload}");
        }
        assert!(signature("/", &[AUTHORIZATION]).unwrap().covers_body);
    }

    #[test]
    fn presigned_addresses_promise_nothing_about_the_body() {
        let found = signature(
            "/k?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-SignedHeaders=host%3Bx-a&X-Amz-Signature=00",
            &[],
        );
        let found = found.unwrap();
        assert!(!found.covers_body && found.covers_field("x-a"));
    }

    #[test]
    fn message_signatures_cover_the_body_by_its_digest() {
        let sign = |input| {
            signature(
                "/",
                &[("Signature", "s=:AA==:"), ("Signature-Input", input)],
            )
            .unwrap()
        };
        let with = sign("s=(\"@method\" \"content-digest\" \"X-A\");created=1");
        assert!(with.covers_body && with.covers_field("x-a"));
        assert!(!sign("s=(\"@method\" \"date\");created=1").covers_body);
    }

    #[test]
    fn ordinary_requests_are_not_signed() {
        assert_eq!(signature("/?a=b", &[("Authorization", "Bearer x")]), None);
    }
}
