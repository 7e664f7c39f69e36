//! A function tried on an event from a file, as with the test button of CloudFront's console.

use std::time::{Duration, SystemTime};

use sdk::{FieldName, HeaderValue, Headers, Method, Request, Response, StatusCode, Target};
use serde_json::Value;

use crate::apply;
use crate::engine::{Call, Event, Reply};
use crate::event::{Names, SeenRequest, SeenResponse};
use crate::fault::Fault;
use crate::function::Function;
use crate::origin::OriginRules;
use crate::program::Entry;
use crate::rules::Profile;

/// What came of a trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What the function gave, as JSON.
    pub result: Option<String>,
    /// Why the exchange would fail.
    pub fault: Option<Fault>,
    /// What the function logged.
    pub log: Vec<String>,
    /// Processor time it took.
    pub cpu: Duration,
}

/// Why there was no trial: the event is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the event {0}")]
pub struct BadEvent(String);

impl Function {
    /// Calls the function with an event and judges the result as on real traffic.
    ///
    /// # Errors
    /// When `event` is no event.
    pub fn try_on(
        &self,
        event: &str,
        profile: Profile,
        now: SystemTime,
    ) -> Result<Trial, BadEvent> {
        let bad = |what: String| BadEvent(what);
        let value: Value =
            serde_json::from_str(event).map_err(|error| bad(format!("is not JSON: {error}")))?;
        let kind = value.pointer("/context/eventType").and_then(Value::as_str);
        let entry = kind.and_then(Entry::from_event_type).ok_or_else(|| {
            let known: Vec<&str> = Entry::ALL.into_iter().map(Entry::event_type).collect();
            bad(format!(
                "has no known context.eventType; known are: {}",
                known.join(", ")
            ))
        })?;
        let seen = SeenRequest::from_json(&value);
        let call = Call {
            entry,
            event: Event::Text {
                event: event.to_owned(),
                raw_query: seen.raw_query.clone(),
                edge: "{}".into(),
            },
            now,
            is_trial: true,
        };
        // The first call on a thread pays for the realm, which is no part of what is asked.
        let done = self.call_and_wait(call);
        let origins = OriginRules {
            allowed: self.0.settings.origins.clone(),
        };
        let judged = match done.reply {
            Err(fault) => Err(fault),
            Ok(Reply::Request(out)) => {
                let mut request = request_of(&seen)?;
                apply::request(&mut request, &seen, &out, profile, &origins)
            }
            Ok(Reply::Response(out)) if entry == Entry::ViewerRequest => {
                apply::new_response(&out, profile).map(drop)
            }
            Ok(Reply::Response(out)) => {
                let seen = SeenResponse::from_json(&value);
                let mut response =
                    Response::new(StatusCode::from_u16(seen.status).unwrap_or(StatusCode::OK));
                response.headers = headers_of(&seen.headers())?;
                apply::response(&mut response, &seen, &out, profile, &Method::GET)
            }
            Ok(Reply::Json(_) | Reply::Nothing) => Ok(()),
        };
        Ok(Trial {
            result: done.json,
            fault: judged.err(),
            log: done.log,
            cpu: done.cpu,
        })
    }
}

fn request_of(seen: &SeenRequest) -> Result<Request, BadEvent> {
    let odd = |what: &str| BadEvent(format!("has a {what} that cannot be sent"));
    let method: Method = seen.method.parse().map_err(|_| odd("request.method"))?;
    let mut text = seen.uri.clone();
    if let Some(query) = &seen.raw_query {
        text.push('?');
        text.push_str(query);
    }
    let target =
        Target::parse(&method, text.as_bytes()).map_err(|_| odd("request.uri or querystring"))?;
    let mut request = Request::new(method, target);
    request.headers = headers_of(&seen.headers())?;
    Ok(request)
}

fn headers_of(names: &Names) -> Result<Headers, BadEvent> {
    let mut headers = Headers::new();
    for named in names {
        for item in &named.values {
            let odd = || {
                BadEvent(format!(
                    "has a header {:.40} that cannot be sent",
                    named.name
                ))
            };
            let name = FieldName::parse(named.name.as_bytes()).map_err(|_| odd())?;
            let value = HeaderValue::try_from(&item.value).map_err(|_| odd())?;
            headers.append(name, value);
        }
    }
    Ok(headers)
}
