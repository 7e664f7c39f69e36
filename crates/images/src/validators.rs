//! What caches and clients remember an image by.
//!
//! A turned image is not what the server's validators stand for: a client that has the image as the
//! server wrote it would be told to keep it, and parts of the two would be put together. A turned
//! image therefore gets an entity tag of its own, made from the server's, and no Last-Modified. When
//! a client asks with such a tag, the server is asked with its own.

use sdk::{FieldName, HeaderValue, Headers};

const ETAG: FieldName = FieldName::from_static("ETag");
const ACCEPT_RANGES: FieldName = FieldName::from_static("Accept-Ranges");

/// Makes and reads entity tags: `W/"<label>-S-<the server's>"`, with `W` where the server's is weak.
#[derive(Debug)]
pub(crate) struct Tags {
    /// Tells results of these settings from those of others.
    label: String,
}

/// What became of the conditions of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The server is asked whether the image that a client has turned has changed.
    pub(crate) by_own_tag: bool,
}

impl Tags {
    pub(crate) fn new(blur: f32) -> Self {
        Self {
            label: format!("upsidedown-{:x}", blur.to_bits()),
        }
    }

    /// The tag of a turned image, from the server's.
    fn wrap(&self, tag: &str) -> Option<HeaderValue> {
        let (kind, opaque) = match tag.strip_prefix("W/") {
            Some(opaque) => ('W', opaque),
            None => ('S', tag),
        };
        let inner = opaque.strip_prefix('"')?.strip_suffix('"')?;
        HeaderValue::try_from(format!("W/\"{}-{kind}-{inner}\"", self.label)).ok()
    }

    /// The server's tag, from that of a turned image; `None` for any other tag.
    fn unwrap(&self, tag: &str) -> Option<String> {
        let opaque = tag.strip_prefix("W/").unwrap_or(tag);
        let rest = opaque
            .strip_prefix('"')?
            .strip_suffix('"')?
            .strip_prefix(self.label.as_str())?;
        if let Some(inner) = rest.strip_prefix("-S-") {
            Some(format!("\"{inner}\""))
        } else {
            let inner = rest.strip_prefix("-W-")?;
            Some(format!("W/\"{inner}\""))
        }
    }

    /// Corrects the conditions of a request. `is_image` says that its answer will be an image, for
    /// all that is known. `may_change` says whether a field may be touched.
    pub(crate) fn correct_request(
        &self,
        headers: &mut Headers,
        is_image: bool,
        may_change: impl Fn(&str) -> bool,
    ) -> Asked {
        let mut asked = Asked::default();
        for name in ["if-none-match", "if-match"] {
            let Some(value) = headers.get_str(name).map(str::to_owned) else {
                continue;
            };
            if !may_change(name) {
                continue;
            }
            let known: Vec<String> = tags(&value).filter_map(|tag| self.unwrap(tag)).collect();
            if !known.is_empty() {
                asked.by_own_tag |= name == "if-none-match";
                replace(headers, name, &known.join(", "));
            } else if is_image && name == "if-none-match" {
                // The client has the image as the server wrote it.
                headers.remove(name);
            }
        }
        let own_range = headers
            .get_str("if-range")
            .is_some_and(|tag| self.unwrap(tag).is_some());
        if (is_image || own_range) && may_change("range") && may_change("if-range") {
            headers.remove("range");
            headers.remove("if-range");
        }
        if is_image && may_change("if-modified-since") {
            headers.remove("if-modified-since");
        }
        asked
    }

    /// Corrects the fields of an answer that has, or stands for, a turned image.
    pub(crate) fn correct_response(&self, headers: &mut Headers, server_tag: Option<&str>) {
        match server_tag.and_then(|tag| self.wrap(tag)) {
            Some(own) => headers.set_value(&ETAG, own),
            None => {
                headers.remove("etag");
            }
        }
        headers.remove("last-modified");
        if headers.contains("accept-ranges") {
            headers.set_value(&ACCEPT_RANGES, HeaderValue::from_static("none"));
        }
    }
}

fn replace(headers: &mut Headers, name: &str, value: &str) {
    let found = headers
        .iter()
        .find(|field| field.name.as_str().eq_ignore_ascii_case(name))
        .map(|field| field.name.clone());
    if let (Some(name), Ok(value)) = (found, HeaderValue::try_from(value)) {
        headers.set_value(&name, value);
    }
}

/// The entity tags of a list (RFC 9110 §8.8.3); a tag may hold commas. Ends where the list is wrong.
fn tags(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = list;
    core::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let start = if rest.starts_with("W/") { 2 } else { 0 };
        rest.get(start..)?.strip_prefix('"')?;
        let end = start + 1 + rest.get(start + 1..)?.find('"')? + 1;
        let (tag, after) = rest.split_at(end);
        rest = after;
        Some(tag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(
                FieldName::from_static(name),
                HeaderValue::try_from(*value).unwrap(),
            );
        }
        headers
    }

    fn print(headers: &Headers) -> String {
        let line = |field: &sdk::Field| {
            format!(
                "{}: {};",
                field.name.as_str(),
                field.value.to_str().unwrap()
            )
        };
        headers.iter().map(line).collect()
    }

    #[test]
    fn tags_go_there_and_back_strong_and_weak() {
        let own = Tags::new(2.0);
        for tag in ["\"a\"", "W/\"a,b\"", "\"\"", "\"a-S-b\""] {
            let wrapped = own.wrap(tag).unwrap();
            let wrapped = wrapped.to_str().unwrap();
            assert!(wrapped.starts_with("W/\"upsidedown-"), "{wrapped}");
            assert_eq!(own.unwrap(wrapped).as_deref(), Some(tag));
            assert_eq!(Tags::new(3.0).unwrap(wrapped), None, "other settings");
        }
        for broken in ["", "\"", "a", "W/", "W/\"", "\"upsidedown-40000000-S-"] {
            assert_eq!(
                (own.wrap(broken), own.unwrap(broken)),
                (None, None),
                "{broken}"
            );
        }
    }

    #[test]
    fn lists_of_tags_are_read_as_far_as_they_are_right() {
        let all = |list| tags(list).collect::<Vec<_>>();
        assert_eq!(
            all("\"a\", W/\"b,c\" ,\"\""),
            ["\"a\"", "W/\"b,c\"", "\"\""]
        );
        assert_eq!(all("\"a\", b, \"c\""), ["\"a\""]);
        for none in ["", "*", "\"", "W/", "W/\"a", ",,"] {
            assert!(all(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn a_client_with_the_servers_image_gets_a_new_one() {
        let mut asks = headers(&[
            ("If-None-Match", "\"a\""),
            ("If-Modified-Since", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Range", "bytes=0-1"),
            ("If-Range", "\"a\""),
            ("Accept", "image/*"),
        ]);
        let asked = Tags::new(1.0).correct_request(&mut asks, true, |_| true);
        assert_eq!(
            (print(&asks).as_str(), asked.by_own_tag),
            ("Accept: image/*;", false)
        );
    }

    #[test]
    fn a_client_with_a_turned_image_is_asked_for_by_the_servers_tag() {
        let own = Tags::new(1.0);
        let tag = own.wrap("\"a\"").unwrap();
        let mut asks = headers(&[("If-None-Match", tag.to_str().unwrap())]);
        assert!(own.correct_request(&mut asks, false, |_| true).by_own_tag);
        assert_eq!(print(&asks), "If-None-Match: \"a\";");
        let mut ranged = headers(&[("Range", "bytes=0-1"), ("If-Range", tag.to_str().unwrap())]);
        own.correct_request(&mut ranged, false, |_| true);
        assert!(ranged.is_empty());
    }

    #[test]
    fn other_requests_and_signed_fields_stay() {
        let own = Tags::new(1.0);
        let fields = [("If-None-Match", "\"a\""), ("Range", "bytes=0-1")];
        let mut other = headers(&fields);
        own.correct_request(&mut other, false, |_| true);
        assert_eq!(print(&other), print(&headers(&fields)));
        let mut signed = headers(&fields);
        own.correct_request(&mut signed, true, |_| false);
        assert_eq!(print(&signed), print(&headers(&fields)));
    }
}
