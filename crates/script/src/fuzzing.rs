//! What the fuzz targets in `fuzz/` run on the value boundary; the ordinary tests run the same
//! functions on the committed corpora and on random bytes.
#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "panicking is how a fuzz target reports a bug"
)]

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sdk::testing::flow;
use sdk::{FieldName, HeaderValue, Method, Request, Response, StatusCode, Target};
use serde_json::Value;

use crate::apply;
use crate::engine::{Call, Event, Limits, Realm, Reply};
use crate::event::{Place, SeenRequest, SeenResponse, Shown, What};
use crate::origin::OriginRules;
use crate::program::{HANDLER, Program};
use crate::rules::Profile;

/// Gives back what it is told to, or what it was given with that written over it.
const SOURCE: &str = "\
import cf from 'cloudfront';
function handler(event) {
    const { merge, reply } = cf.edgeLocation;
    if (!merge) return reply === undefined ? event.request : reply;
    const given = event.response || event.request;
    const isObject = (value) => value !== null && typeof value === 'object';
    if (!isObject(reply)) return given;
    for (const key of Object.keys(reply)) {
        const said = reply[key];
        if (said === null) delete given[key];
        else if (isObject(said) && isObject(given[key])) {
            for (const name of Object.keys(said)) {
                if (said[name] === null) delete given[key][name];
                else given[key][name] = said[name];
            }
        } else given[key] = said;
    }
    return given;
}";

fn realm() -> Realm {
    let mut program = Program::new("fuzz.js", SOURCE).expect("a source");
    program.handlers = vec![HANDLER.to_owned()];
    let limits = Limits {
        cpu: Duration::from_secs(1),
        memory: 16 << 20,
        ..Limits::default()
    };
    Realm::new(Arc::new(program), limits, Arc::default()).expect("a realm")
}

thread_local! {
    static REALM: RefCell<Realm> = RefCell::new(realm());
}

fn call(call: &Call) -> Result<Reply, crate::Fault> {
    REALM.with_borrow_mut(|realm| {
        let done = realm.call(call, Arc::default(), None);
        if done.reply.as_ref().is_err_and(crate::Fault::spoils_realm) {
            *realm = self::realm();
        }
        done.reply
    })
}

fn call_shown(shown: &Arc<Shown>) -> Result<Reply, crate::Fault> {
    call(&Call::about(Arc::clone(shown), SystemTime::UNIX_EPOCH))
}

/// The same call with an event in JSON, of which nothing is known to be untouched.
fn call_text(shown: &Arc<Shown>) -> Result<Reply, crate::Fault> {
    let event = event_of(shown)?;
    let raw_query = shown.request.raw_query.clone();
    call(&Call {
        event: Event::Text {
            event,
            raw_query,
            edge: Arc::clone(&shown.edge),
        },
        ..Call::about(Arc::clone(shown), SystemTime::UNIX_EPOCH)
    })
}

fn event_of(shown: &Arc<Shown>) -> Result<String, crate::Fault> {
    REALM.with_borrow(|realm| realm.event(shown))
}

fn shown(request: &Request, what: What, profile: Profile, edge: &str) -> Arc<Shown> {
    Arc::new(Shown {
        place: Place {
            domain: "d".into(),
            id: "E".into(),
            request_id: "R".into(),
            flow: Arc::new(flow()),
        },
        edge: edge.into(),
        request: Arc::new(SeenRequest::of(request, profile)),
        what,
    })
}

/// The text of a message must say the same to whoever reads it next.
fn check_fields(headers: &sdk::Headers) {
    for field in headers {
        let value = field.value.as_bytes();
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
}

fn template() -> Request {
    let mut request = Request::new(
        Method::GET,
        Target::parse(&Method::GET, b"/p?a=1&b").expect("a target"),
    );
    for (name, value) in [
        ("Host", "a.example"),
        ("X-A", "1"),
        ("x-a", "2"),
        ("X-B", "3"),
        ("Cookie", "c=1; d=2"),
    ] {
        request.headers.append(
            FieldName::parse(name.as_bytes()).expect("a name"),
            HeaderValue::from_static(value),
        );
    }
    request
}

fn template_response() -> Response {
    let mut response = Response::new(StatusCode::OK);
    for (name, value) in [
        ("Server", "s"),
        ("Set-Cookie", "a=1; Secure"),
        ("Set-Cookie", "b=2"),
    ] {
        response.headers.append(
            FieldName::parse(name.as_bytes()).expect("a name"),
            HeaderValue::from_static(value),
        );
    }
    response
}

/// What became of a request: itself, and whether it was changed, or an answer in its place.
fn apply_request(shown: &Shown, reply: Reply, profile: Profile) -> Option<Request> {
    match reply {
        Reply::Request(out) => {
            let mut request = template();
            let origins = OriginRules::default();
            let applied = apply::request(&mut request, &shown.request, &out, profile, &origins);
            check_fields(&request.headers);
            assert_eq!(request.headers.get_all("host").count(), 1);
            assert_eq!(request.method, Method::GET);
            let text = request.target.to_string();
            assert!(text.starts_with('/') && !text.bytes().any(|byte| byte <= b' '));
            if applied.is_err() {
                assert_eq!(request.headers, template().headers);
            }
            applied.is_ok().then_some(request)
        }
        Reply::Response(out) => {
            if let Ok(response) = apply::new_response(&out, profile) {
                check_fields(&response.headers);
                assert!(!response.headers.contains("transfer-encoding"));
            }
            None
        }
        Reply::Json(_) | Reply::Nothing => unreachable!("not of a request"),
    }
}

fn apply_response(shown: &Shown, reply: Reply, profile: Profile) -> Option<Response> {
    let Reply::Response(out) = reply else {
        return None;
    };
    let mut response = template_response();
    let seen = shown.response().expect("of a response");
    // Refused or not, what is left is a message.
    let applied = apply::response(&mut response, seen, &out, profile, &Method::GET);
    check_fields(&response.headers);
    assert!((200..600).contains(&response.status.as_u16()));
    applied.is_ok().then_some(response)
}

/// What a function returned, as JSON: it becomes a message or is refused. Written over what the function
/// was given, it comes to the same whether what is untouched is known or compared.
pub fn script_reply(bytes: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    for profile in [Profile::Appliance, Profile::Strict] {
        for merge in [false, true] {
            let edge = serde_json::json!({ "reply": reply, "merge": merge }).to_string();
            let asked = shown(&template(), What::Request, profile, &edge);
            let [known, compared] = [call_shown(&asked), call_text(&asked)].map(|reply| {
                reply
                    .ok()
                    .and_then(|reply| apply_request(&asked, reply, profile))
                    .map(|request| (request.headers, request.target))
            });
            assert_eq!(known, compared, "{edge}");

            let response = SeenResponse::of(&template_response(), profile);
            let asked = shown(&template(), What::Response(response), profile, &edge);
            let [known, compared] = [call_shown(&asked), call_text(&asked)].map(|reply| {
                reply
                    .ok()
                    .and_then(|reply| apply_response(&asked, reply, profile))
                    .map(|response| (response.status, response.reason, response.headers))
            });
            assert_eq!(known, compared, "{edge}");
        }
    }
}

/// Fields as a peer sent them, one a line: the event holds them, and a function that changes nothing
/// changes nothing.
pub fn script_event(bytes: &[u8]) {
    let mut request = Request::new(
        Method::GET,
        Target::parse(&Method::GET, b"/").expect("a target"),
    );
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            let mut target = b"/?".to_vec();
            target.extend_from_slice(line);
            if let Ok(target) = Target::parse(&Method::GET, &target) {
                request.target = target;
            }
            continue;
        };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        if let (Ok(name), Ok(value)) = (FieldName::parse(name), HeaderValue::from_bytes(value)) {
            request.headers.append(name, value);
        }
    }
    for profile in [Profile::Appliance, Profile::Strict] {
        let asked = shown(&request, What::Request, profile, "{}");
        let seen = &asked.request;
        if let Ok(event) = event_of(&asked) {
            let value: Value = serde_json::from_str(&event).expect("an event is JSON");
            let headers = value.pointer("/request/headers").and_then(Value::as_object);
            assert_eq!(
                headers.map(serde_json::Map::len),
                Some(seen.headers().len())
            );
        }
        let (headers, target) = (request.headers.clone(), request.target.clone());
        for reply in [call_shown(&asked), call_text(&asked)] {
            match reply {
                Ok(Reply::Request(out)) => {
                    let origins = OriginRules::default();
                    let applied = apply::request(&mut request, seen, &out, profile, &origins);
                    assert_eq!(applied, Ok(()));
                    assert_eq!((&request.headers, &request.target), (&headers, &target));
                }
                // More than a result may hold.
                Err(crate::Fault::Invalid(what)) => {
                    assert!(what.contains("more than") || what.contains("longer"))
                }
                other => assert!(
                    matches!(other, Err(crate::Fault::OutOfMemory(_))),
                    "{other:?}"
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn committed_corpora_and_random_bytes_break_nothing() {
        let corpora = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        let targets: [(&str, fn(&[u8])); 2] = [
            ("script_event", script_event),
            ("script_reply", script_reply),
        ];
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for (name, target) in targets {
            let mut replayed = 0;
            for entry in std::fs::read_dir(corpora.join(name)).unwrap() {
                let seed = std::fs::read(entry.unwrap().path()).unwrap();
                target(&seed);
                // Each seed with bytes changed here and there.
                for _ in 0..50 {
                    let mut changed = seed.clone();
                    for _ in 0..3 {
                        state ^= state << 13;
                        state ^= state >> 7;
                        state ^= state << 17;
                        let at = usize::try_from(state >> 8).unwrap() % changed.len().max(1);
                        if let Some(byte) = changed.get_mut(at) {
                            *byte = state.to_le_bytes()[0];
                        }
                    }
                    target(&changed);
                }
                replayed += 1;
            }
            assert!(
                replayed >= 4,
                "the corpus of {name} has only {replayed} seeds"
            );
        }
    }
}
