//! What a chain promises, as transcripts.

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, StatusCode};

use crate::testing::{Playbook, Seen, flow};
use crate::{
    BodyError, Chain, Direction, Exchange, FieldName, InterceptError, Interceptor, Link, Message,
    MessageStep, OnError, Payload, Request, Response, Step,
};

const SEEN: FieldName = FieldName::from_static("Seen-By");

/// Signs what it sees, and does what it is told.
#[derive(Debug, Default)]
struct Marker {
    name: &'static str,
    on_request: Act,
    on_response: Act,
    on_message: Option<MessageStep>,
}

#[derive(Clone, Copy, Debug, Default)]
enum Act {
    #[default]
    Continue,
    Respond,
    Abort,
    Error,
    Fatal,
    Harmless,
    Panic,
}

impl Act {
    fn run(self, exchange: &mut Exchange) -> Result<Step, InterceptError> {
        exchange.note("acted");
        match self {
            Self::Continue => Ok(Step::Continue),
            Self::Respond => Ok(Step::Respond(Response::text(StatusCode::FORBIDDEN, "no"))),
            Self::Abort => Ok(Step::Abort),
            Self::Error => Err(BodyError::TimedOut.into()),
            Self::Fatal => Err(InterceptError::fail("fatal")),
            Self::Harmless => Err(InterceptError::harmless("harmless")),
            Self::Panic => panic!("a bug"),
        }
    }
}

#[async_trait(?Send)]
impl Interceptor for Marker {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        request
            .headers
            .append(SEEN, HeaderValue::from_static(self.name));
        self.on_request.run(exchange)
    }
    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        response
            .headers
            .append(SEEN, HeaderValue::from_static(self.name));
        self.on_response.run(exchange).map(|_| ())
    }
    async fn on_message(
        &self,
        message: &mut Message,
        _: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        message.payload = Payload::Text(format!(
            "{}{}",
            String::from_utf8_lossy(message.payload.as_bytes()),
            self.name
        ));
        Ok(self.on_message.clone().unwrap_or(MessageStep::Forward))
    }
    fn wants_messages(&self) -> bool {
        self.on_message.is_some()
    }
}

fn chain(markers: impl IntoIterator<Item = (Marker, OnError)>) -> Chain {
    Chain::new(
        markers
            .into_iter()
            .map(|(marker, on_error)| Link::new(marker.name, Arc::new(marker), on_error))
            .collect(),
    )
}

fn marker(name: &'static str) -> (Marker, OnError) {
    (
        Marker {
            name,
            ..Marker::default()
        },
        OnError::Fail,
    )
}

const GET: &str = "GET / HTTP/1.1\n\n";
const OK: &str = "HTTP/1.1 200 OK\n\n";

#[tokio::test]
async fn requests_go_first_to_last_and_responses_last_to_first() {
    let mut play = Playbook::with_chain(chain([marker("a"), marker("b"), marker("c")]));
    let request = play.request(GET).await.to_server();
    assert_eq!(
        request,
        "GET / HTTP/1.1\nSeen-By: a\nSeen-By: b\nSeen-By: c\n\n"
    );
    assert_eq!(
        play.response(OK).await,
        "HTTP/1.1 200 OK\nSeen-By: c\nSeen-By: b\nSeen-By: a\n\n"
    );
}

#[tokio::test]
async fn an_answer_goes_back_through_those_that_let_the_request_pass() {
    let b = (
        Marker {
            name: "b",
            on_request: Act::Respond,
            ..Marker::default()
        },
        OnError::Fail,
    );
    let mut play = Playbook::with_chain(chain([marker("a"), b, marker("c")]));
    let answer = play.request(GET).await.to_client();
    assert_eq!(
        answer,
        "HTTP/1.1 403 Forbidden\nContent-Type: text/plain; charset=utf-8\nSeen-By: a\n\nno"
    );
}

#[tokio::test]
async fn an_abort_stops_the_chain() {
    let a = (
        Marker {
            name: "a",
            on_request: Act::Abort,
            ..Marker::default()
        },
        OnError::Fail,
    );
    let mut play = Playbook::with_chain(chain([a, marker("b")]));
    assert_eq!(play.request(GET).await, Seen::Reset);
    assert_eq!((play.stats().aborted, play.stats().requests), (1, 1));
}

#[tokio::test]
async fn the_policy_decides_what_an_error_or_panic_means() {
    use OnError::{Continue, Fail};
    for (act, on_error, goes_on) in [
        (Act::Error, Continue, true),
        (Act::Error, Fail, false),
        (Act::Panic, Continue, true),
        (Act::Panic, Fail, false),
        (Act::Fatal, Continue, false),
        (Act::Fatal, Fail, false),
        (Act::Harmless, Continue, true),
        (Act::Harmless, Fail, true),
    ] {
        let bad = Marker {
            name: "bad",
            on_request: act,
            ..Marker::default()
        };
        let mut play = Playbook::with_chain(chain([(bad, on_error), marker("next")]));
        let seen = play.request(GET).await;
        assert_eq!(
            matches!(seen, Seen::ToServer(_)),
            goes_on,
            "{act:?} {on_error:?}: {seen:?}"
        );
        assert_eq!(
            matches!(&seen, Seen::Failed(f) if &*f.interceptor == "bad"),
            !goes_on,
            "{act:?} {on_error:?}"
        );

        let bad = Marker {
            name: "bad",
            on_response: act,
            ..Marker::default()
        };
        let mut play = Playbook::with_chain(chain([marker("first"), (bad, on_error)]));
        let _ = play.request(GET).await.to_server();
        let answer = play.answer(crate::testing::response(OK)).await;
        assert_eq!(answer.is_ok(), goes_on, "{act:?} {on_error:?}: {answer:?}");
    }
}

/// Takes the body and is gone with it.
#[derive(Debug)]
struct Thief(Act);

#[async_trait(?Send)]
impl Interceptor for Thief {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let _gone = request.body.take();
        self.0.run(exchange)
    }
    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let _gone = response.body.take();
        self.0.run(exchange).map(|_| ())
    }
}

#[tokio::test]
async fn a_body_lost_in_a_failure_fails_the_exchange_under_every_policy() {
    for act in [Act::Error, Act::Panic, Act::Harmless] {
        let links = vec![Link::new("thief", Arc::new(Thief(act)), OnError::Continue)];
        let mut play = Playbook::with_chain(Chain::new(links));
        let seen = play.request("POST / HTTP/1.1\n\nbody").await;
        assert!(matches!(seen, Seen::Failed(_)), "{act:?}: {seen:?}");
        // Without a body there is nothing to lose.
        assert_eq!(play.request(GET).await.to_server(), GET);
        let answer = play
            .answer(crate::testing::response("HTTP/1.1 200 OK\n\nbody"))
            .await;
        assert!(answer.is_err(), "{act:?}: {answer:?}");
        assert_eq!(play.response(OK).await, OK);
    }
    // Taking it away on purpose is allowed.
    let mut play = Playbook::new(Thief(Act::Continue));
    assert_eq!(
        play.request("POST / HTTP/1.1\n\nbody").await.to_server(),
        "POST / HTTP/1.1\n\n"
    );
}

#[tokio::test]
async fn threat_73_a_panic_is_counted_and_the_next_exchange_is_served() {
    let bad = Marker {
        name: "bad",
        on_response: Act::Panic,
        ..Marker::default()
    };
    let mut play = Playbook::with_chain(chain([(bad, OnError::Fail)]));
    for round in 1..=2 {
        let _ = play.request(GET).await.to_server();
        let failure = play.answer(crate::testing::response(OK)).await.unwrap_err();
        assert_eq!(failure.reason, "panic: a bug");
        assert_eq!(
            (
                play.stats().panics,
                play.stats().errors,
                play.stats().responses
            ),
            (round, 0, round)
        );
    }
}

#[tokio::test]
async fn failures_name_their_causes_and_notes_are_counted() {
    let bad = Marker {
        name: "bad",
        on_request: Act::Error,
        ..Marker::default()
    };
    let mut play = Playbook::with_chain(chain([(bad, OnError::Fail)]));
    let Seen::Failed(failure) = play.request(GET).await else {
        panic!("it went on")
    };
    assert_eq!(
        failure.reason,
        "the body could not be read: the body stalled for too long"
    );
    assert_eq!(play.stats().errors, 1);
    assert_eq!(play.stats().notes.get("acted"), Some(&1));
}

#[tokio::test]
async fn messages_meet_only_those_that_want_them_in_the_order_of_their_direction() {
    let wants = |name| {
        (
            Marker {
                name,
                on_message: Some(MessageStep::Forward),
                ..Marker::default()
            },
            OnError::Fail,
        )
    };
    let mut play = Playbook::with_chain(chain([wants("a"), marker("x"), wants("b")]));
    let _ = play.request(GET).await.to_server();
    for (direction, text) in [(Direction::ToServer, "-ab"), (Direction::ToClient, "-ba")] {
        let message = Message {
            direction,
            payload: Payload::Text("-".into()),
        };
        let expected = Message {
            direction,
            payload: Payload::Text(text.into()),
        };
        assert_eq!(play.message(message).await, Some(expected));
    }
    assert!(!chain([marker("x")]).wants_messages());
}

#[tokio::test]
async fn a_dropped_message_and_a_close_end_the_round() {
    for step in [MessageStep::Drop, MessageStep::Close(1008)] {
        let first = Marker {
            name: "a",
            on_message: Some(step.clone()),
            ..Marker::default()
        };
        let second = Marker {
            name: "b",
            on_message: Some(MessageStep::Forward),
            ..Marker::default()
        };
        let chain = chain([(first, OnError::Fail), (second, OnError::Fail)]);
        let request = crate::testing::request(GET);
        let mut exchange = Exchange::new(Arc::new(flow()), &request);
        let mut message = Message {
            direction: Direction::ToServer,
            payload: Payload::Text(String::new()),
        };
        assert_eq!(
            chain.on_message(&mut message, &mut exchange).await,
            Ok(step)
        );
        assert_eq!(message.payload, Payload::Text("a".into()));
    }
}

#[tokio::test]
async fn chains_that_share_a_link_share_its_counters() {
    let link = Link::new("shared", Arc::new(Marker::default()), OnError::Fail);
    let mut one = Playbook::with_chain(Chain::new(vec![link.clone()]));
    let mut two = Playbook::with_chain(Chain::new(vec![link.clone()]));
    let _ = (one.request(GET).await, two.request(GET).await);
    assert_eq!(link.stats().requests, 2);
}
