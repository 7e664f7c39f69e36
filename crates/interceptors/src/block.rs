//! `block`: refuses exchanges with an answer of the operator's, or without any.

use std::sync::Arc;

use sdk::{
    Body, ConfigFault, ConfigTable, Exchange, FieldName, Filter, HeaderValue, InterceptError,
    Interceptor, InterceptorKind, Request, Response, StatusCode, Step, Subject, async_trait,
    from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "block",
    summary: "Answers requests by itself, or resets them, so that the server never sees them.",
    build: Block::build,
};

const CONTENT_TYPE: FieldName = FieldName::from_static("Content-Type");

/// The longest answer, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Answers in place of the server.
#[derive(Debug)]
pub struct Block {
    when: Option<Filter>,
    /// `None`: give the exchange up.
    status: Option<StatusCode>,
    content_type: HeaderValue,
    body: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which exchanges. Default: all.
    when: Option<Filter>,
    /// What to do: `answer` or `reset`. Default: answer.
    action: Action,
    /// The status of the answer. Default: 403.
    status: u16,
    /// The type of its content. Default: text/plain.
    content_type: String,
    /// Its content. Default: one line.
    body: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Action {
    #[default]
    Answer,
    Reset,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            when: None,
            action: Action::default(),
            status: 403,
            content_type: "text/plain; charset=utf-8".to_owned(),
            body: "blocked\n".to_owned(),
        }
    }
}

impl Block {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let Some(status) = StatusCode::from_u16(config.status)
            .ok()
            .filter(|status| (200..600).contains(&status.as_u16()))
        else {
            let fault = ConfigFault::new("status", format!("{} is no final status", config.status));
            return Err(fault.allowed("200 to 599"));
        };
        if config.body.len() > MAX_BODY {
            let fault =
                ConfigFault::new("body", format!("{} bytes are too many", config.body.len()));
            return Err(fault.allowed(format!("at most {MAX_BODY} bytes")));
        }
        let content_type = HeaderValue::try_from(config.content_type).map_err(|_| {
            ConfigFault::new("content-type", "holds a control character").allowed("a media type")
        })?;
        let needs_response = config.when.as_ref().is_some_and(Filter::needs_response);
        if config.action == Action::Reset && needs_response {
            let fault = ConfigFault::new("action", "a response cannot be undone by a reset");
            return Err(fault.allowed("\"answer\" where `when` looks at the response"));
        }
        Ok(Arc::new(Self {
            when: config.when,
            status: (config.action == Action::Answer).then_some(status),
            content_type,
            body: config.body,
        }))
    }

    fn answer(&self, status: StatusCode) -> Response {
        let mut response = Response::new(status);
        let has_content = ![StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
        if has_content {
            response
                .headers
                .append(CONTENT_TYPE, self.content_type.clone());
            response.body = Body::from(self.body.clone());
        }
        response
    }
}

#[async_trait(?Send)]
impl Interceptor for Block {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = match &self.when {
            None => true,
            Some(when) if when.needs_response() => false,
            Some(when) => when.matches(&Subject::request(request, exchange)),
        };
        if !is_meant {
            return Ok(Step::Continue);
        }
        exchange.note("blocked");
        Ok(match self.status {
            Some(status) => Step::Respond(self.answer(status)),
            None => Step::Abort,
        })
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        if let (Some(when), Some(status)) = (&self.when, self.status)
            && when.needs_response()
            && when.matches(&Subject::response(response, exchange))
        {
            // The server's content is dropped unread, and with it the connection's next use.
            let version = response.version;
            *response = self.answer(status);
            response.version = version;
            exchange.note("blocked");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(Block::build(&config.parse().unwrap()).unwrap())
    }

    #[tokio::test]
    async fn what_is_meant_is_answered_and_the_rest_passes() {
        let mut play = play(
            r#"when = 'path like "/admin*"'
               status = 404
               body = "no such page""#,
        );
        let blocked = play.request("GET /admin/users HTTP/1.1\nHost: h\n\n").await;
        assert_eq!(
            blocked.to_client(),
            "HTTP/1.1 404 Not Found\nContent-Type: text/plain; charset=utf-8\n\nno such page"
        );
        let request = "GET /public HTTP/1.1\nHost: h\n\n";
        assert_eq!(play.request(request).await.to_server(), request);
    }

    #[tokio::test]
    async fn a_response_may_be_what_is_blocked() {
        let mut play =
            play(r#"when = 'response-header "content-type" like "application/x-msdownload*"'"#);
        play.request("GET / HTTP/1.1\nHost: h\n\n").await;
        let answer = play
            .response("HTTP/1.1 200 OK\nContent-Type: application/x-msdownload\n\nMZ")
            .await;
        assert_eq!(
            answer,
            "HTTP/1.1 403 Forbidden\nContent-Type: text/plain; charset=utf-8\n\nblocked\n"
        );
        play.request("GET / HTTP/1.1\nHost: h\n\n").await;
        let answer = play.response("HTTP/1.1 200 OK\n\nfine").await;
        assert_eq!(answer, "HTTP/1.1 200 OK\n\nfine");
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            (
                "status = 101",
                "status: 101 is no final status; allowed: 200 to 599",
            ),
            ("status = 700", "status: 700 is no final status"),
            (
                "action = \"drop\"",
                "action: unknown variant \"drop\"; allowed: ",
            ),
            ("when = \"hots\"", "when: \"hots\" is nothing to look at"),
            (
                "action = \"reset\"\nwhen = \"status == 200\"",
                "action: a response cannot be undone",
            ),
            (
                "content-type = \"a\\nb\"",
                "content-type: holds a control character",
            ),
        ] {
            let fault = Block::build(&config.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.starts_with(expected), "{config}: {fault}");
        }
    }
}
