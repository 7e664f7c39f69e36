//! `edit-body`: replaces text in the bodies of requests and responses, and in WebSocket messages.

mod window;

use std::borrow::Cow;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};
use sdk::{
    ByteSize, Bytes, ConfigFault, ConfigTable, Content, ContentError, ContentLimits, Exchange,
    Filter, Headers, InterceptError, Interceptor, InterceptorKind, Message, MessageStep, Payload,
    Request, Response, Step, Subject, async_trait, from_table,
};
use serde::Deserialize;

use self::window::Passing;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "edit-body",
    summary: "Replaces text in the bodies of requests and responses and in WebSocket messages.",
    build: EditBody::build,
};

/// Most memory for a compiled regular expression, in bytes.
const MAX_REGEX: usize = 4 << 20;
/// The most operations for one direction.
const MAX_EDITS: usize = 100;

/// Edits bodies as text, in the order of the config.
#[derive(Debug)]
pub struct EditBody {
    when: Option<Filter>,
    request: Vec<Arc<Edit>>,
    response: Vec<Arc<Edit>>,
    message: Vec<Arc<Edit>>,
    types: Vec<String>,
    limits: ContentLimits,
    over_limit: OverLimit,
    force_signed: bool,
}

#[derive(Debug)]
struct Edit {
    find: Regex,
    replace: Vec<u8>,
    is_literal: bool,
    /// What it takes to edit a body as it passes, if that can be done.
    passing: Option<Passing>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which exchanges. Default: all.
    when: Option<Filter>,
    /// What to do with request bodies, in this order. Default: nothing.
    request: Vec<EditConfig>,
    /// What to do with response bodies, in this order. Default: nothing.
    response: Vec<EditConfig>,
    /// What to do with WebSocket messages of both directions, in this order. Default: nothing.
    message: Vec<EditConfig>,
    /// Types of content that are text; `*` stands for any characters.
    types: Vec<String>,
    /// Bodies with more bytes than this, encoded or decoded, are not edited. Default: 4MiB.
    max_body: ByteSize,
    /// What becomes of a message with a body over a limit: `pass` or `fail`. Default: pass.
    over_limit: OverLimit,
    /// Whether to edit requests whose signature covers the body, too. Default: false.
    force_signed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OverLimit {
    Fail,
    #[default]
    Pass,
}

/// One operation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct EditConfig {
    /// What to look for: a regular expression, or a text if `literal`.
    find: String,
    /// What to put in its place; `$1` or `${name}` is a group, unless `literal`.
    replace: String,
    /// Whether `find` and `replace` are meant as they stand. Default: false.
    #[serde(default)]
    literal: bool,
}

impl Default for Config {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json*",
            "application/*+json*",
            "application/xml*",
            "application/*+xml*",
            "application/javascript*",
            "application/x-www-form-urlencoded*",
        ];
        Self {
            when: None,
            request: Vec::new(),
            response: Vec::new(),
            message: Vec::new(),
            types: types.map(str::to_owned).to_vec(),
            max_body: ByteSize(4 << 20),
            over_limit: OverLimit::Pass,
            force_signed: false,
        }
    }
}

impl EditBody {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let needs_response = config.when.as_ref().is_some_and(Filter::needs_response);
        if needs_response && !(config.request.is_empty() && config.message.is_empty()) {
            let fault = ConfigFault::new("when", "looks at the response, which is not at hand");
            return Err(
                fault.allowed("conditions on the request, where requests or messages are edited")
            );
        }
        if config.max_body.0 == 0 || config.max_body.0 > 256 << 20 {
            let fault =
                ConfigFault::new("max-body", format!("{} is out of range", config.max_body));
            return Err(fault.allowed("1B to 256MiB"));
        }
        Ok(Arc::new(Self {
            when: config.when,
            request: edits("request", config.request)?,
            response: edits("response", config.response)?,
            message: edits("message", config.message)?,
            types: config
                .types
                .iter()
                .map(|t| t.to_ascii_lowercase())
                .collect(),
            limits: ContentLimits {
                encoded: config.max_body.0,
                decoded: config.max_body.0,
                ..ContentLimits::default()
            },
            over_limit: config.over_limit,
            force_signed: config.force_signed,
        }))
    }

    /// What the body becomes; `None` when nothing changes.
    fn edited(
        &self,
        edits: &[Arc<Edit>],
        read: Result<Content, ContentError>,
        exchange: &mut Exchange,
    ) -> Result<Option<(Bytes, Content)>, InterceptError> {
        let content = match read {
            Ok(content) => content,
            Err(error) => {
                exchange.note(match error {
                    ContentError::TooLarge { .. } => "body-too-large",
                    ContentError::UnknownCoding(_) => "coding-unknown",
                    ContentError::Partial => "body-partial",
                    _ => "body-broken",
                });
                let passes = self.over_limit == OverLimit::Pass && error.is_harmless();
                return if passes {
                    Ok(None)
                } else {
                    Err(InterceptError::fail("the body cannot be edited").caused_by(error))
                };
            }
        };
        match self.apply(edits, &content.data, exchange)? {
            Some(new) => Ok(Some((new.into(), content))),
            None => Ok(None),
        }
    }

    /// Whether a body can be edited as it passes.
    fn passes(edits: &[Arc<Edit>], headers: &Headers) -> bool {
        !headers.contains("content-range")
            && !headers.contains("content-encoding")
            && edits.iter().all(|edit| edit.passing.is_some())
    }

    /// The edited bytes; `None` when nothing changes.
    fn apply(
        &self,
        edits: &[Arc<Edit>],
        bytes: &[u8],
        exchange: &mut Exchange,
    ) -> Result<Option<Vec<u8>>, InterceptError> {
        let mut data = Cow::Borrowed(bytes);
        for edit in edits {
            let new = if edit.is_literal {
                edit.find
                    .replace_all(&data, regex::bytes::NoExpand(&edit.replace))
            } else {
                edit.find.replace_all(&data, &edit.replace[..])
            };
            if let Cow::Owned(new) = new {
                // A short match with a long replacement can make much of little.
                if new.len() > self.limits.decoded.saturating_mul(4) {
                    exchange.note("result-too-large");
                    return Err(InterceptError::new("the edited body is too large"));
                }
                data = Cow::Owned(new);
            }
        }
        match data {
            Cow::Owned(new) if new[..] != *bytes => {
                exchange.note("edited");
                Ok(Some(new))
            }
            _ => Ok(None),
        }
    }

    fn is_text(&self, headers: &Headers) -> bool {
        let kind = headers.get_str("content-type").unwrap_or_default();
        let kind = kind.to_ascii_lowercase();
        self.types.iter().any(|pattern| {
            // Few and short patterns from the config: no need for anything clever.
            let mut rest = kind.as_str();
            let mut parts = pattern.split('*').peekable();
            let Some(after) = parts.next().and_then(|first| rest.strip_prefix(first)) else {
                return false;
            };
            rest = after;
            while let Some(part) = parts.next() {
                if parts.peek().is_none() {
                    return rest.ends_with(part);
                }
                match rest.find(part) {
                    Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                    None => return false,
                }
            }
            rest.is_empty()
        })
    }
}

fn edits(direction: &str, configs: Vec<EditConfig>) -> Result<Vec<Arc<Edit>>, ConfigFault> {
    if configs.len() > MAX_EDITS {
        let what = format!("{} operations are too many", configs.len());
        return Err(ConfigFault::new(direction, what).allowed(format!("at most {MAX_EDITS}")));
    }
    let edit = |(at, config): (usize, EditConfig)| {
        let key = format!("{direction}[{at}].find");
        if config.find.is_empty() {
            return Err(ConfigFault::new(key, "is empty").allowed("what to look for"));
        }
        let pattern = if config.literal {
            regex::escape(&config.find)
        } else {
            config.find
        };
        let find = RegexBuilder::new(&pattern)
            .size_limit(MAX_REGEX)
            .dfa_size_limit(MAX_REGEX)
            .build()
            .map_err(|error| {
                ConfigFault::new(key, error.to_string()).allowed("a regular expression")
            })?;
        Ok(Arc::new(Edit {
            passing: Passing::of(&pattern),
            find,
            replace: config.replace.into_bytes(),
            is_literal: config.literal,
        }))
    };
    configs.into_iter().enumerate().map(edit).collect()
}

#[async_trait(?Send)]
impl Interceptor for EditBody {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = !self.request.is_empty()
            && !request.body.is_empty()
            && self.is_text(&request.headers)
            && self
                .when
                .as_ref()
                .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        if !is_meant {
            return Ok(Step::Continue);
        }
        let is_covered = request
            .signature()
            .is_some_and(|signature| signature.covers_body);
        if is_covered && !self.force_signed {
            exchange.warn("request-signed");
            return Ok(Step::Continue);
        }
        // A request of a known length keeps one: not every server takes one without.
        if request.body.known_length().is_none() && Self::passes(&self.request, &request.headers) {
            exchange.note("edited-in-passing");
            request.map_body(|body| self.request.iter().fold(body, window::edited));
            return Ok(Step::Continue);
        }
        let read = request.content(&self.limits).await;
        if let Some((data, content)) = self.edited(&self.request, read, exchange)? {
            request.set_content(data, content.coding);
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let is_meant = !self.response.is_empty()
            && !response.body.is_empty()
            && self.is_text(&response.headers)
            && self
                .when
                .as_ref()
                .is_none_or(|when| when.matches(&Subject::response(response, exchange)));
        if !is_meant {
            return Ok(());
        }
        let fits = |length: u64| length <= self.limits.encoded as u64;
        if !response.body.known_length().is_some_and(fits)
            && Self::passes(&self.response, &response.headers)
        {
            exchange.note("edited-in-passing");
            response.map_body(|body| self.response.iter().fold(body, window::edited));
            return Ok(());
        }
        let read = response.content(&self.limits).await;
        if let Some((data, content)) = self.edited(&self.response, read, exchange)? {
            response.set_content(data, content.coding);
        }
        Ok(())
    }

    async fn on_message(
        &self,
        message: &mut Message,
        exchange: &mut Exchange,
    ) -> Result<MessageStep, InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::asked(exchange)));
        if is_meant
            && let Some(new) = self.apply(&self.message, message.payload.as_bytes(), exchange)?
        {
            message.payload = match &message.payload {
                Payload::Binary(_) => Payload::Binary(new.into()),
                // An expression on bytes can cut a character in two.
                Payload::Text(_) => Payload::Text(String::from_utf8(new).map_err(|error| {
                    InterceptError::new("the edited text is not UTF-8").caused_by(error)
                })?),
            };
        }
        Ok(MessageStep::Forward)
    }

    fn wants_messages(&self) -> bool {
        !self.message.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(EditBody::build(&config.parse().unwrap()).unwrap())
    }

    const CONFIG: &str = r#"
        request = [{ find = '"password": *"[^"]*"', replace = '"password":"x"' }]
        response = [
            { find = '\bcolou?r (\w+)', replace = 'paint $1' },
            { find = '$9.99', replace = '$1', literal = true },
        ]
    "#;

    #[tokio::test]
    async fn groups_literals_and_order() {
        let mut play = play(CONFIG);
        let request = "POST / HTTP/1.1\nHost: h\nContent-Type: application/json\n\n{\"password\": \"secret\"}";
        assert_eq!(
            play.request(request).await.to_server(),
            "POST / HTTP/1.1\nHost: h\nContent-Type: application/json\nContent-Length: 16\n\n{\"password\":\"x\"}"
        );
        let answer = play
            .response("HTTP/1.1 200 OK\nContent-Type: text/html\n\ncolor red, colour blue: $9.99")
            .await;
        assert!(
            answer.ends_with("\n\npaint red, paint blue: $1"),
            "{answer}"
        );
    }

    #[tokio::test]
    async fn messages_of_both_directions_are_edited() {
        let mut play = play("message = [{ find = 'cat', replace = 'dog' }]");
        play.request("GET /ws HTTP/1.1\nHost: h\n\n").await;
        for direction in [sdk::Direction::ToServer, sdk::Direction::ToClient] {
            for (payload, expected) in [
                (
                    Payload::Text("a cat".to_owned()),
                    Payload::Text("a dog".to_owned()),
                ),
                (
                    Payload::Binary("\u{0}cat".into()),
                    Payload::Binary("\u{0}dog".into()),
                ),
            ] {
                let seen = play.message(Message { direction, payload }).await;
                assert_eq!(seen.unwrap().payload, expected);
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_text_and_what_does_not_match_keeps_every_byte() {
        let mut play = play(CONFIG);
        play.request("GET / HTTP/1.1\nHost: h\n\n").await;
        let image = "HTTP/1.1 200 OK\nContent-Type: image/png\nContent-Length: 9\n\ncolor red";
        assert_eq!(play.response(image).await, image);
        play.request("GET / HTTP/1.1\nHost: h\n\n").await;
        let plain = "HTTP/1.1 200 OK\nContent-Type: text/plain\nETag: \"a\"\n\nnothing here";
        assert_eq!(play.response(plain).await, plain);
    }

    #[tokio::test]
    async fn threat_69_bodies_under_a_signature_are_left_alone_unless_forced() {
        let request = "PUT / HTTP/1.1\nHost: h\nContent-Type: text/plain\nX-Amz-Content-Sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD\n\na";
        let edit = "request = [{ find = 'a', replace = 'b' }]";
        let mut careful = play(edit);
        assert_eq!(careful.request(request).await.to_server(), request);
        let mut forced = play(&format!("force-signed = true\n{edit}"));
        assert!(forced.request(request).await.to_server().ends_with("\n\nb"));
    }

    #[tokio::test]
    async fn threat_29_over_a_limit_the_policy_decides() {
        let answer = "HTTP/1.1 200 OK\nContent-Type: text/plain\n\naaaaaaaaaaaaaaaaaaaa";
        let config = "max-body = \"10B\"\nresponse = [{ find = 'a+', replace = 'b' }]";
        let mut passing = play(config);
        passing.request("GET / HTTP/1.1\nHost: h\n\n").await;
        assert_eq!(passing.response(answer).await, answer);
        let mut failing = play(&format!("over-limit = \"fail\"\n{config}"));
        failing.request("GET / HTTP/1.1\nHost: h\n\n").await;
        let mut response = Response::new(sdk::StatusCode::OK);
        response.headers.append(
            sdk::FieldName::from_static("Content-Type"),
            sdk::HeaderValue::from_static("text/plain"),
        );
        response.body = "a".repeat(20).into();
        assert!(failing.answer(response).await.is_err());
    }

    #[tokio::test]
    async fn a_body_of_any_size_is_edited_as_it_passes_where_matches_have_a_bound() {
        let edits = "[{ find = 'a', replace = 'b' }, { find = 'bb', replace = 'c' }]";
        let mut play = play(&format!(
            "max-body = \"10B\"\nrequest = {edits}\nresponse = {edits}"
        ));
        let head = "Content-Type: text/plain\nDigest: x\nETag: \"t\"";
        let request = format!(
            "POST / HTTP/1.1\nHost: h\n{head}\nContent-Length: 12\n\n{}",
            "a".repeat(12)
        );
        assert_eq!(
            play.request(&request).await.to_server(),
            request,
            "has a length, and keeps it"
        );
        let answer = format!(
            "HTTP/1.1 200 OK\n{head}\nContent-Length: 21\n\n{}",
            "a".repeat(21)
        );
        let passed = play.response(&answer).await;
        let expected = format!(
            "HTTP/1.1 200 OK\nContent-Type: text/plain\nETag: W/\"t\"\n\n{}b",
            "c".repeat(10)
        );
        assert_eq!(passed, expected);
        assert_eq!(play.stats().notes.get("edited-in-passing"), Some(&1));
        assert_eq!(play.stats().notes.get("body-too-large"), Some(&1));

        let mut streamed =
            sdk::testing::request("POST / HTTP/1.1\nHost: h\nContent-Type: text/plain\n\n");
        streamed.body = sdk::Body::from("a".repeat(25));
        streamed.map_body(|body| window::edited(body, &edits_of("z")[0]));
        let sent = play.send(streamed).await.to_server();
        assert!(
            sent.ends_with(&format!("\n\n{}b", "c".repeat(12))),
            "{sent}"
        );

        // A part, and a body in a coding, are not.
        for field in ["Content-Range: bytes 0-20/99", "Content-Encoding: compress"] {
            play.request("GET / HTTP/1.1\nHost: h\n\n").await;
            let answer = format!(
                "HTTP/1.1 200 OK\nContent-Type: text/plain\n{field}\n\n{}",
                "a".repeat(21)
            );
            assert_eq!(play.response(&answer).await, answer);
        }
    }

    fn edits_of(find: &str) -> Vec<Arc<Edit>> {
        let config = EditConfig {
            find: find.to_owned(),
            replace: String::new(),
            literal: true,
        };
        edits("request", vec![config]).unwrap()
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            (
                "request = [{ find = '(', replace = '' }]",
                "request[0].find: regex parse error",
            ),
            (
                "response = [{ find = '', replace = '' }]",
                "response[0].find: is empty",
            ),
            (
                "response = [{ find = 'a' }]",
                "response[0].replace: missing key",
            ),
            (
                "max-body = \"0B\"",
                "max-body: 0B is out of range; allowed: 1B to 256MiB",
            ),
            (
                "when = 'status == 200'\nrequest = [{ find = 'a', replace = '' }]",
                "when: looks at the response",
            ),
        ] {
            let fault = EditBody::build(&config.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.starts_with(expected), "{config}: {fault}");
        }
    }
}
