//! `map-remote`: asks the same server for something else: another host of it, another path.
//!
//! The server is the one that the client has connected to. flowdog opens no connections of its own,
//! so that it can never be made to reach what the client itself could not.

use std::sync::Arc;

use regex::{Regex, RegexBuilder};
use sdk::{
    ConfigFault, ConfigTable, Exchange, FieldName, Filter, HeaderValue, InterceptError,
    Interceptor, InterceptorKind, PathAndQuery, Request, Step, Subject, Target, async_trait,
    from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "map-remote",
    summary: "Asks the same server for another host or path.",
    build: MapRemote::build,
};

const HOST: FieldName = FieldName::from_static("Host");

/// Most memory for a compiled regular expression, in bytes.
const MAX_REGEX: usize = 1 << 20;

/// Rewrites the target of requests.
#[derive(Debug)]
pub struct MapRemote {
    when: Option<Filter>,
    host: Option<sdk::Authority>,
    path: Option<(Regex, String)>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
struct Config {
    /// Which requests. Default: all.
    when: Option<Filter>,
    /// The host to ask for, with a port if it is not the usual one. Default: the same.
    host: Option<String>,
    /// A regular expression for path and query. Default: all of both stay.
    path: Option<String>,
    /// What comes in place of its first match; `$1` or `${name}` is a group.
    to: Option<String>,
}

impl MapRemote {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        if config.when.as_ref().is_some_and(Filter::needs_response) {
            let fault = ConfigFault::new("when", "looks at the response, which comes too late");
            return Err(fault.allowed("conditions on the request"));
        }
        let host = config
            .host
            .map(|host| {
                sdk::Authority::parse(host.as_bytes()).map_err(|error| {
                    ConfigFault::new("host", format!("{host:?}: {error}"))
                        .allowed("a name or address, and a port after a colon")
                })
            })
            .transpose()?;
        let path = match (config.path, config.to) {
            (Some(path), Some(to)) => {
                let regex = RegexBuilder::new(&path).size_limit(MAX_REGEX).build();
                let regex = regex.map_err(|error| {
                    ConfigFault::new("path", error.to_string()).allowed("a regular expression")
                })?;
                Some((regex, to))
            }
            (None, None) => None,
            (Some(_), None) => return Err(ConfigFault::new("to", "missing key").allowed("a text")),
            (None, Some(_)) => {
                return Err(ConfigFault::new("path", "missing key").allowed("a regular expression"));
            }
        };
        if host.is_none() && path.is_none() {
            return Err(ConfigFault {
                key: None,
                message: "there is nothing to change".to_owned(),
                allowed: Some("host = NAME, or path = REGEX with to = TEXT".to_owned()),
            });
        }
        Ok(Arc::new(Self {
            when: config.when,
            host,
            path,
        }))
    }
}

#[async_trait(?Send)]
impl Interceptor for MapRemote {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        let Some(old) = request.target.path_and_query().filter(|_| is_meant) else {
            return Ok(Step::Continue);
        };
        if request.signature().is_some() {
            exchange.warn("request-signed");
            return Ok(Step::Continue);
        }
        let mut path = old.clone();
        if let Some((regex, to)) = &self.path {
            let new = regex.replace(old.as_str(), to.as_str());
            // A text that is no path would change where the request ends.
            path = PathAndQuery::parse(new.as_bytes())
                .map_err(|error| InterceptError::new("the new path is no path").caused_by(error))?;
        }
        let host = self.host.clone();
        request.target = match (&request.target, host) {
            (
                Target::Absolute {
                    scheme, authority, ..
                },
                host,
            ) => Target::Absolute {
                scheme: scheme.clone(),
                authority: host.unwrap_or_else(|| authority.clone()),
                path,
            },
            (_, _) => Target::Origin(path),
        };
        if let Some(host) = &self.host
            && request.headers.contains("host")
        {
            let value = HeaderValue::try_from(host.as_str())
                .map_err(|error| InterceptError::new("the host is no value").caused_by(error))?;
            request.headers.set_value(&HOST, value);
        }
        exchange.note("mapped");
        Ok(Step::Continue)
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(MapRemote::build(&config.parse().unwrap()).unwrap())
    }

    #[tokio::test]
    async fn host_and_path_become_others() {
        let mut play = play(
            r#"when = 'host == "old.example"'
               host = "new.example:8443"
               path = '^/v1/([a-z]+)'
               to = '/v2/$1'"#,
        );
        let request = "GET /v1/users?id=1 HTTP/1.1\nhost: old.example\nA: b\n\n";
        assert_eq!(
            play.request(request).await.to_server(),
            "GET /v2/users?id=1 HTTP/1.1\nhost: new.example:8443\nA: b\n\n"
        );
        let other = "GET /v1/users HTTP/1.1\nHost: other.example\n\n";
        assert_eq!(play.request(other).await.to_server(), other);
    }

    #[tokio::test]
    async fn threat_69_signed_requests_are_left_alone() {
        let mut play = play("path = \"a\"\nto = \"b\"");
        let request = "GET /a HTTP/1.1\nHost: h\nX-Amz-Content-Sha256: UNSIGNED-PAYLOAD\n\n";
        assert_eq!(play.request(request).await.to_server(), request);
    }

    #[tokio::test]
    async fn a_text_that_is_no_path_fails_the_exchange() {
        let mut play = play("path = \"^/a\"\nto = \"/ HTTP/1.1\\r\\nX: y\"");
        let seen = play.request("GET /a HTTP/1.1\nHost: h\n\n").await;
        assert!(format!("{seen:?}").contains("Fail"), "{seen:?}");
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            ("", "there is nothing to change; allowed: host = NAME"),
            ("host = \"a b\"", "host: \"a b\": "),
            ("path = \"(\"\nto = \"\"", "path: regex parse error"),
            ("path = \"a\"", "to: missing key"),
            ("to = \"a\"", "path: missing key"),
        ] {
            let fault = MapRemote::build(&config.parse().unwrap())
                .unwrap_err()
                .to_string();
            assert!(fault.starts_with(expected), "{config}: {fault}");
        }
    }
}
