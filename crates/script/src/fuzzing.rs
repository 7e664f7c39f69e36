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
use crate::engine::{Call, Limits, Realm, Reply};
use crate::event::{self, Place, SeenRequest, SeenResponse};
use crate::origin::OriginRules;
use crate::program::{Entry, HANDLER, Program};
use crate::rules::Profile;

/// Gives back what the event brings.
const SOURCE: &str =
    "function handler(event) { return event.reply === undefined ? event.request : event.reply; }";

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

fn call(entry: Entry, event: String) -> Result<Reply, crate::Fault> {
    let call = Call::new(entry, event, SystemTime::UNIX_EPOCH);
    REALM.with_borrow_mut(|realm| {
        let done = realm.call(&call, Arc::default(), None);
        if done.reply.as_ref().is_err_and(crate::Fault::spoils_realm) {
            *realm = self::realm();
        }
        done.reply
    })
}

/// The text of a message must say the same to whoever reads it next.
fn check_fields(headers: &sdk::Headers) {
    for field in headers {
        let value = field.value.as_bytes();
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
}

/// What a function returned, as JSON: it becomes a message or is refused.
pub fn script_reply(bytes: &[u8]) {
    let Ok(reply) = serde_json::from_slice::<Value>(bytes) else {
        return;
    };
    let template = || {
        let mut request = Request::new(
            Method::GET,
            Target::parse(&Method::GET, b"/p?a=1&b").expect("a target"),
        );
        for (name, value) in [
            ("Host", "a.example"),
            ("X-A", "1"),
            ("x-a", "2"),
            ("Cookie", "c=1; d=2"),
        ] {
            request.headers.append(
                FieldName::parse(name.as_bytes()).expect("a name"),
                HeaderValue::from_static(value),
            );
        }
        request
    };
    for profile in [Profile::Appliance, Profile::Strict] {
        let (mut request, origins) = (template(), OriginRules::default());
        let seen = SeenRequest::of(&request, profile);
        let event = |reply: &Value| serde_json::json!({ "reply": reply }).to_string();
        match call(Entry::ViewerRequest, event(&reply)) {
            Ok(Reply::Request(out)) => {
                let applied = apply::request(&mut request, &seen, &out, profile, &origins);
                check_fields(&request.headers);
                assert_eq!(request.headers.get_all("host").count(), 1);
                assert_eq!(request.method, Method::GET);
                let text = request.target.to_string();
                assert!(text.starts_with('/') && !text.bytes().any(|byte| byte <= b' '));
                if applied.is_err() {
                    assert_eq!(request.headers, template().headers);
                }
            }
            Ok(Reply::Response(out)) => {
                if let Ok(response) = apply::new_response(&out, profile) {
                    check_fields(&response.headers);
                    assert!(!response.headers.contains("transfer-encoding"));
                }
            }
            Ok(Reply::Json(_) | Reply::Nothing) => unreachable!("not of a request"),
            Err(_) => {}
        }
        if let Ok(Reply::Response(out)) = call(Entry::ViewerResponse, event(&reply)) {
            let mut response = Response::new(StatusCode::OK);
            let seen = SeenResponse::of(&response, profile);
            // Refused or not, what is left is a message.
            let _ = apply::response(&mut response, &seen, &out, profile, &Method::GET);
            check_fields(&response.headers);
            assert!((200..600).contains(&response.status.as_u16()));
        }
    }
}

/// Fields as a peer sent them, one a line: the event is JSON that holds them, and a function that
/// changes nothing changes nothing.
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
    let place = Place {
        domain: "d".into(),
        id: "E".into(),
        request_id: "R".into(),
        flow: Arc::new(flow()),
    };
    for profile in [Profile::Appliance, Profile::Strict] {
        let seen = SeenRequest::of(&request, profile);
        let event = event::request_event(&seen, &place);
        let value: Value = serde_json::from_str(&event).expect("an event is JSON");
        let headers = value.pointer("/request/headers").and_then(Value::as_object);
        assert_eq!(headers.map(serde_json::Map::len), Some(seen.headers.len()));
        let (headers, target) = (request.headers.clone(), request.target.clone());
        match call(Entry::ViewerRequest, event) {
            Ok(Reply::Request(out)) => {
                let applied =
                    apply::request(&mut request, &seen, &out, profile, &OriginRules::default());
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
