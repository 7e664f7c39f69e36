//! The way back: what a function gave becomes a request or a response.
//!
//! What a function did not touch stays byte for byte, with its case and place.

use base64::Engine as _;
use sdk::{
    Authority, Body, Coding, FieldName, HeaderValue, Headers, Method, PathAndQuery, Reason,
    Request, Response, StatusCode, Target,
};

use crate::engine::{BodyOut, Item, Member, Members, QueryOut, RequestOut, ResponseOut, Values};
use crate::event::{Named, Names, SeenRequest, SeenResponse, set_cookie, text_of};
use crate::fault::Fault;
use crate::origin::OriginRules;
use crate::program::Entry;
use crate::rules::{Profile, is_framing};

/// Longest path and query together, in bytes, as in CloudFront.
const MAX_TARGET: usize = 8192;
/// Most bytes of fields in one message: more than servers and clients accept.
const MAX_FIELDS: usize = 64 * 1024;
/// Longest body that a function may write, in bytes.
pub(crate) const MAX_BODY: usize = 1 << 20;

const HOST: FieldName = FieldName::from_static("Host");
const COOKIE: FieldName = FieldName::from_static("Cookie");
const SET_COOKIE: FieldName = FieldName::from_static("Set-Cookie");

type Result<T = ()> = core::result::Result<T, Fault>;

fn invalid<T>(what: String) -> Result<T> {
    Err(Fault::Invalid(crate::engine::clean(&what)))
}

/// The values that hold, when they are others than before: the writing rules of CloudFront's event
/// structure. `multiValue` counts when it was changed, `value` otherwise, for the first.
fn changed(before: Option<&Named>, after: &Values) -> Option<Vec<Item>> {
    let same = |a: &Item, b: &Item| {
        a.value == b.value
            && a.attributes.as_deref().unwrap_or_default()
                == b.attributes.as_deref().unwrap_or_default()
    };
    let Some(before) = before else {
        return Some(
            after
                .multi
                .clone()
                .unwrap_or_else(|| vec![after.first.clone()]),
        );
    };
    let was_multi = before.values.len() > 1;
    match &after.multi {
        Some(multi)
            if !was_multi
                || multi.len() != before.values.len()
                || multi.iter().zip(&before.values).any(|(a, b)| !same(a, b)) =>
        {
            Some(multi.clone())
        }
        // The whole member was replaced by one with a single value.
        None if was_multi => Some(vec![after.first.clone()]),
        _ => {
            let first = before.values.first()?;
            if same(&after.first, first) {
                return None;
            }
            let mut values = before.values.clone();
            if let Some(first) = values.first_mut() {
                first.clone_from(&after.first);
            }
            Some(values)
        }
    }
}

/// What a member of a result is about: its name, what there was, and the values that hold when they are
/// others than before.
fn resolved<'a>(
    before: &'a Names,
    member: &'a Member,
) -> Option<(&'a str, Option<&'a Named>, Option<Vec<Item>>)> {
    match member {
        Member::Kept(at) => {
            let named = before.get(*at)?;
            Some((&named.name, Some(named), None))
        }
        Member::Said(name, values) => {
            let old = before.iter().find(|named| named.name == *name);
            Some((name, old, changed(old, values)))
        }
    }
}

/// What there was and is not there any more.
fn deleted<'a>(before: &'a Names, after: &Members) -> impl Iterator<Item = &'a Named> {
    let is_there = |(at, named): &(usize, &Named)| {
        after.iter().any(|member| match member {
            Member::Kept(kept) => kept == at,
            Member::Said(name, _) => *name == named.name,
        })
    };
    let mut gone = before.iter().enumerate().collect::<Vec<_>>();
    // All of them are there most of the time, in their order.
    gone.retain(|one| after.get(one.0) != Some(&Member::Kept(one.0)) && !is_there(one));
    gone.into_iter().map(|(_, named)| named)
}

/// `x-frame-options` as CloudFront writes it: `X-Frame-Options`.
fn spelled(name: &str) -> String {
    let mut up = true;
    name.chars()
        .map(|c| {
            let out = if up { c.to_ascii_uppercase() } else { c };
            up = c == '-';
            out
        })
        .collect()
}

struct Fields<'a> {
    entry: Entry,
    profile: Profile,
    before: &'a Names,
    /// Cookies have a place of their own.
    cookies: &'static str,
    /// The response is the function's own: nobody framed it before.
    is_new: bool,
}

impl Fields<'_> {
    /// Writes the changes to `headers`. Gives the new host, if there is one.
    fn write(&self, headers: &mut Headers, after: &Members) -> Result<Option<String>> {
        let mut host = None;
        for named in deleted(self.before, after) {
            let name = named.name.as_str();
            if self.entry == Entry::ViewerRequest && name == "host" {
                return invalid("the host was deleted".to_owned());
            }
            if is_framing(name) {
                // A new object in place of the old one says nothing about framing.
                continue;
            }
            if self.profile.protects(name, self.entry) {
                return invalid(format!("{name} is read-only and was deleted"));
            }
            headers.remove(name);
        }
        for member in after {
            let Some((name, _, Some(values))) = resolved(self.before, member) else {
                continue;
            };
            if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
                return invalid(format!("the header name {name:.80} is not in lower case"));
            }
            if name == self.cookies {
                return invalid(format!("{name} belongs into cookies, not into headers"));
            }
            if self.profile.hides(name) {
                return invalid(format!("{name} is not allowed"));
            }
            if self.is_new && name == "content-length" {
                continue;
            }
            if self.profile.protects(name, self.entry) {
                return invalid(format!("{name} is read-only and was changed or added"));
            }
            let Ok(field) = FieldName::parse(spelled(name).as_bytes()) else {
                return invalid(format!("{name:.80} is no header name"));
            };
            let values = values
                .iter()
                .map(|item| value_of(name, &item.value))
                .collect::<Result<Vec<_>>>()?;
            if self.entry == Entry::ViewerRequest && name == "host" {
                let [only] = &values[..] else {
                    return invalid("there is one host".to_owned());
                };
                host = Some(text_of(only));
                continue;
            }
            let mut values = values.into_iter();
            match values.next() {
                Some(first) => headers.set_value(&field, first),
                None => {
                    headers.remove(name);
                }
            }
            for more in values {
                headers.append(field.clone(), more);
            }
        }
        let size: usize = headers
            .iter()
            .map(|field| field.name.as_str().len() + field.value.len() + 4)
            .sum();
        if size > MAX_FIELDS {
            return invalid(format!("{size} bytes of fields are more than {MAX_FIELDS}"));
        }
        Ok(host)
    }
}

fn value_of(name: &str, text: &str) -> Result<HeaderValue> {
    let odd = |c: char| c.is_ascii_control() && c != '\t';
    if let Some(bad) = text.chars().find(|c| odd(*c)) {
        return invalid(format!(
            "the value of {name} holds the character 0x{:02x}",
            u32::from(bad)
        ));
    }
    HeaderValue::from_bytes(text.trim_matches([' ', '\t']).as_bytes())
        .map_err(|_| Fault::Invalid(format!("the value of {name} is no header value")))
}

/// Cookies: `None` when they are as they were.
fn cookies_text(before: &Names, after: &Members) -> Result<Option<String>> {
    let mut text = String::new();
    let mut any_change = deleted(before, after).next().is_some();
    for member in after {
        let Some((name, old, new)) = resolved(before, member) else {
            continue;
        };
        // What came in may go out as it is.
        let is_new = new.is_some();
        any_change |= is_new;
        let is_bare = !is_new && old.is_some_and(|old| old.is_bare);
        let items = new
            .or_else(|| old.map(|old| old.values.clone()))
            .unwrap_or_default();
        let odd = |c: char| c.is_control() || c == ';';
        for item in items {
            let is_odd = name.is_empty()
                || name.contains(|c: char| odd(c) || c == '=' || c == ' ')
                || item.value.contains(odd);
            if is_new && is_odd {
                return invalid(format!(
                    "the cookie {name:.80} has a name or value that cannot be sent"
                ));
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(name);
            if !is_bare {
                text.push('=');
                text.push_str(&item.value);
            }
        }
    }
    Ok(any_change.then_some(text))
}

/// The query of names and values, nothing encoded.
pub(crate) fn query_text(names: &Names) -> String {
    let mut text = String::new();
    for named in names {
        for item in &named.values {
            if !text.is_empty() {
                text.push('&');
            }
            text.push_str(&named.name);
            if !named.is_bare {
                text.push('=');
                text.push_str(&item.value);
            }
        }
    }
    text
}

/// The new query: `None` when it is as it was, an empty one when there is none any more.
fn query_of(before: &SeenRequest, after: &QueryOut) -> Result<Option<String>> {
    let text = match after {
        QueryOut::Text(text) => {
            let text = text.strip_prefix('?').unwrap_or(text);
            (before.raw_query.as_deref().unwrap_or_default() != text).then(|| text.to_owned())
        }
        QueryOut::Members(members) => {
            let before = before.query();
            let mut names = Names::new();
            let mut any_change = deleted(&before, members).next().is_some();
            for member in members {
                let Some((name, old, new)) = resolved(&before, member) else {
                    continue;
                };
                match (new, old) {
                    (None, Some(old)) => names.push(old.clone()),
                    (new, _) => {
                        any_change = true;
                        names.push(Named {
                            name: name.to_owned(),
                            values: new.unwrap_or_default(),
                            is_bare: false,
                        });
                    }
                }
            }
            any_change.then(|| query_text(&names))
        }
    };
    if let Some(text) = &text
        && text.contains(|c: char| c.is_control() || c == ' ' || c == '#')
    {
        return invalid("the query holds a space, a control character or #".to_owned());
    }
    Ok(text)
}

/// Makes `request` what the function wants. On an error the request is as it was.
pub(crate) fn request(
    request: &mut Request,
    seen: &SeenRequest,
    out: &RequestOut,
    profile: Profile,
    origins: &OriginRules,
) -> Result {
    if out.method.as_ref().is_some_and(|now| *now != seen.method) {
        return invalid("the method is read-only and was changed".to_owned());
    }
    let mut headers = request.headers.clone();
    let mut host = None;
    if let Some(after) = &out.headers {
        let fields = Fields {
            entry: Entry::ViewerRequest,
            profile,
            before: &seen.headers(),
            cookies: "cookie",
            is_new: false,
        };
        host = fields.write(&mut headers, after)?;
    }
    if let Some(host) = &host {
        origins.host(host).map_err(Fault::Invalid)?;
    }
    let cookies = out.cookies.as_ref();
    let cookies = cookies.map(|after| cookies_text(&seen.cookies(), after));
    match cookies.transpose()?.flatten() {
        None => {}
        Some(text) if text.is_empty() => {
            headers.remove(COOKIE);
        }
        Some(text) => headers.set_value(&COOKIE, value_of("cookie", &text)?),
    }
    let mut uri = out.uri.clone().unwrap_or_else(|| seen.uri.clone());
    if let Some(origin) = &out.origin {
        host = origin.host.clone().or(host);
        uri.insert_str(0, &origin.path_prefix);
        for (name, value) in &origin.headers {
            headers.set_value(name, value.clone());
        }
    }
    let query = out.query.as_ref().map(|query| query_of(seen, query));
    let query = query.transpose()?.flatten();
    let path = path_of(request, seen, &uri, query)?;
    let authority = host
        .as_deref()
        .map(|host| Authority::parse(host.as_bytes()))
        .transpose()
        .map_err(|error| Fault::Invalid(format!("the host is none: {error}")))?;
    if let Some(path) = path.or_else(|| request.target.path_and_query().cloned()) {
        request.target = match &request.target {
            Target::Absolute {
                scheme,
                authority: old,
                ..
            } => Target::Absolute {
                scheme: scheme.clone(),
                authority: authority.clone().unwrap_or_else(|| old.clone()),
                path,
            },
            _ => Target::Origin(path),
        };
    }
    if let Some(host) = &host
        && (headers.contains(HOST) || request.target.authority().is_none())
    {
        headers.set_value(&HOST, value_of("host", host)?);
    }
    request.headers = headers;
    Ok(())
}

/// The new path and query, when either is another.
fn path_of(
    request: &Request,
    seen: &SeenRequest,
    uri: &str,
    query: Option<String>,
) -> Result<Option<PathAndQuery>> {
    if uri == seen.uri && query.is_none() {
        return Ok(None);
    }
    if request.target.path_and_query().is_none() {
        return invalid("this request has no path that could be changed".to_owned());
    }
    if !uri.starts_with('/') || uri.contains(['?', '#']) {
        return invalid("uri begins with / and holds neither ? nor #".to_owned());
    }
    let mut text = uri.to_owned();
    let query = query
        .or_else(|| seen.raw_query.clone())
        .filter(|query| !query.is_empty());
    if let Some(query) = query {
        text.push('?');
        text.push_str(&query);
    }
    if text.len() > MAX_TARGET {
        return invalid(format!(
            "path and query have {} bytes, more than {MAX_TARGET}",
            text.len()
        ));
    }
    match PathAndQuery::parse(text.as_bytes()) {
        Ok(path) => Ok(Some(path)),
        Err(error) => invalid(format!("uri: {error}")),
    }
}

fn status_of(out: &ResponseOut) -> Result<StatusCode> {
    match StatusCode::from_u16(out.status) {
        Ok(status) if (200..600).contains(&out.status) => Ok(status),
        _ => invalid(format!(
            "{} is no status of an answer; allowed: 200 to 599",
            out.status
        )),
    }
}

fn reason_of(out: &ResponseOut) -> Result<Option<Reason>> {
    match out
        .description
        .as_deref()
        .map(|text| Reason::parse(text.as_bytes()))
    {
        None => Ok(None),
        Some(Ok(reason)) => Ok(Some(reason)),
        Some(Err(_)) => invalid("statusDescription holds a control character".to_owned()),
    }
}

fn body_of(body: &BodyOut) -> Result<Vec<u8>> {
    let data = if body.is_base64 {
        match base64::engine::general_purpose::STANDARD.decode(&body.data) {
            Ok(data) => data,
            Err(_) => return invalid("the body is not base64".to_owned()),
        }
    } else {
        body.data.clone().into_bytes()
    };
    if data.len() > MAX_BODY {
        return invalid(format!(
            "the body has {} bytes, more than {MAX_BODY}",
            data.len()
        ));
    }
    Ok(data)
}

fn write_cookies(headers: &mut Headers, before: &Names, after: &Members) -> Result {
    let mut remove = |name: &str| {
        headers.retain(|field, value| {
            *field != *"set-cookie" || set_cookie(&text_of(value)).0 != name
        });
    };
    for named in deleted(before, after) {
        remove(&named.name);
    }
    for member in after {
        let Some((name, _, Some(items))) = resolved(before, member) else {
            continue;
        };
        headers.retain(|field, value| {
            *field != *"set-cookie" || set_cookie(&text_of(value)).0 != name
        });
        let odd = |c: char| c.is_control() || c == ';';
        for item in items {
            if name.is_empty()
                || name.contains(|c: char| odd(c) || c == '=' || c == ' ')
                || item.value.contains(odd)
            {
                return invalid(format!(
                    "the cookie {name:.80} has a name or value that cannot be set"
                ));
            }
            let mut text = format!("{name}={}", item.value);
            if let Some(attributes) = item.attributes.as_deref().filter(|text| !text.is_empty()) {
                text.push_str("; ");
                text.push_str(attributes);
            }
            headers.append(SET_COOKIE, value_of("set-cookie", &text)?);
        }
    }
    Ok(())
}

/// Statuses whose responses have no content (RFC 9110 §6.4.1).
fn has_no_content(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// A response that a function gave in place of the server's.
pub(crate) fn new_response(out: &ResponseOut, profile: Profile) -> Result<Response> {
    let status = status_of(out)?;
    let mut response = Response::new(status);
    response.reason = reason_of(out)?;
    let fields = Fields {
        entry: Entry::ViewerResponse,
        profile,
        before: &Names::new(),
        cookies: "set-cookie",
        is_new: true,
    };
    if let Some(after) = &out.headers {
        fields.write(&mut response.headers, after)?;
    }
    if let Some(after) = &out.cookies {
        write_cookies(&mut response.headers, &Names::new(), after)?;
    }
    if let Some(body) = out.body.as_ref().filter(|_| !has_no_content(status)) {
        // The coding that the function names is the one it has used.
        response.body = Body::from(body_of(body)?);
    }
    Ok(response)
}

/// Makes `response` what the function wants. On an error the response is as it was.
pub(crate) fn response(
    response: &mut Response,
    seen: &SeenResponse,
    out: &ResponseOut,
    profile: Profile,
    method: &Method,
) -> Result {
    let (status, body) = (status_of(out)?, out.body.as_ref().map(body_of).transpose()?);
    let reason = match &out.description {
        Some(text) if *text != seen.description => reason_of(out)?,
        Some(_) if out.status == seen.status => response.reason.clone(),
        // A phrase that belonged to another status says nothing.
        _ if out.status == seen.status => response.reason.clone(),
        _ => None,
    };
    let mut headers = response.headers.clone();
    if let Some(after) = &out.headers {
        let fields = Fields {
            entry: Entry::ViewerResponse,
            profile,
            before: &seen.headers(),
            cookies: "set-cookie",
            is_new: false,
        };
        fields.write(&mut headers, after)?;
    }
    if let Some(after) = &out.cookies {
        write_cookies(&mut headers, &seen.cookies(), after)?;
    }
    let coding_before = response.headers.get("content-encoding").cloned();
    response.headers = headers;
    (response.status, response.reason) = (status, reason);
    if let Some(body) = body.filter(|_| *method != Method::HEAD && !has_no_content(status)) {
        if response.headers.get("content-encoding").cloned() == coding_before {
            // It described the body that goes.
            response.set_content(body, Coding::Identity);
        } else {
            // The coding that the function names is the one it has used.
            let coding = response.headers.get("content-encoding").cloned();
            response.set_content(body, Coding::Identity);
            if let Some(coding) = coding {
                response
                    .headers
                    .set(FieldName::from_static("Content-Encoding"), coding);
            }
        }
    }
    Ok(())
}
