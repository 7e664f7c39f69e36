//! The interceptor: says hello to the server in a header field of every request.

use std::sync::Arc;

use sdk::{
    ConfigFault, ConfigTable, Exchange, FieldName, HeaderValue, InterceptError, Interceptor,
    InterceptorKind, Request, Step, async_trait, from_table,
};
use serde::Deserialize;

/// What `use = "hello-header"` in the config stands for.
pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "hello-header",
    summary: "Says hello to the server in a header field.",
    build: Hello::build,
};

const HELLO: FieldName = FieldName::from_static("X-Hello");

/// Sets `X-Hello` on every request.
#[derive(Debug)]
pub(crate) struct Hello {
    greeting: HeaderValue,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// What to say. Default: "hello".
    greeting: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            greeting: "hello".to_owned(),
        }
    }
}

impl Hello {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let greeting = HeaderValue::from_str(&config.greeting).map_err(|_| {
            ConfigFault::new("greeting", "does not fit into a header field")
                .allowed("visible ASCII")
        })?;
        Ok(Arc::new(Self { greeting }))
    }
}

#[async_trait(?Send)]
impl Interceptor for Hello {
    async fn on_request(
        &self,
        request: &mut Request,
        _: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        request.headers.set(HELLO, self.greeting.clone());
        Ok(Step::Continue)
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    #[tokio::test]
    async fn requests_say_hello_and_responses_are_left_alone() {
        let table = toml::toml! { greeting = "good morning" };
        let mut play = Playbook::from_arc(Hello::build(&table).unwrap());
        let request = play
            .request("GET / HTTP/1.1\nHost: a\nx-hello: mine\n\n")
            .await
            .to_server();
        assert_eq!(
            request,
            "GET / HTTP/1.1\nHost: a\nX-Hello: good morning\n\n"
        );
        assert_eq!(
            play.response("HTTP/1.1 200 OK\n\nhi").await,
            "HTTP/1.1 200 OK\n\nhi"
        );
    }

    #[test]
    fn a_greeting_that_would_break_the_line_is_refused() {
        let table = toml::toml! { greeting = "good\nmorning" };
        let fault = Hello::build(&table).unwrap_err().to_string();
        assert_eq!(
            fault,
            "greeting: does not fit into a header field; allowed: visible ASCII"
        );
    }
}
