//! `edit-headers`: sets, adds, removes and renames header fields, as listed in the config.

use std::sync::Arc;

use sdk::{
    ConfigFault, ConfigTable, Exchange, FieldName, Filter, HeaderValue, Headers, InterceptError,
    Interceptor, InterceptorKind, Request, Response, Step, Subject, async_trait, from_table,
};
use serde::Deserialize;

pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "edit-headers",
    summary: "Sets, adds, removes and renames header fields of requests and responses.",
    build: EditHeaders::build,
};

/// Fields that say how long a message is, what the connection does next or which host is meant.
/// The proxy answers for them; an edit could split one message into two.
const PROTECTED: [&str; 10] = [
    "Connection",
    "Content-Length",
    "Host",
    "HTTP2-Settings",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// The most operations for one direction.
const MAX_EDITS: usize = 1000;

/// The most bytes all additions to one message may have; servers accept 8 to 64 KiB of fields.
const MAX_ADDED: usize = 64 << 10;

/// Edits the fields of requests and responses, in the order of the config.
#[derive(Debug)]
pub struct EditHeaders {
    when: Option<Filter>,
    request: Vec<Edit>,
    response: Vec<Edit>,
}

#[derive(Debug)]
enum Edit {
    Add { name: FieldName, value: HeaderValue },
    Remove { name: FieldName },
    Rename { from: FieldName, to: FieldName },
    Set { name: FieldName, value: HeaderValue },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[derive(Default)]
struct Config {
    /// Which exchanges. Default: all.
    when: Option<Filter>,
    /// What to do with requests, in this order. Default: nothing.
    request: Vec<EditConfig>,
    /// What to do with responses, in this order. Default: nothing.
    response: Vec<EditConfig>,
}

/// One operation: exactly one of `set`, `add`, `remove` and `rename`, with what belongs to it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EditConfig {
    /// Replace the first field of this name, remove the others; add it when there is none.
    set: Option<String>,
    /// Add a field of this name at the end, whatever is there.
    add: Option<String>,
    /// Remove all fields of this name.
    remove: Option<String>,
    /// Give all fields of this name the name `to`, which may differ in case only.
    rename: Option<String>,
    /// The value for `set` and `add`.
    value: Option<String>,
    /// The new name for `rename`.
    to: Option<String>,
}

impl EditHeaders {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let config: Config = from_table(table)?;
        let needs_response = config.when.as_ref().is_some_and(Filter::needs_response);
        if needs_response && !config.request.is_empty() {
            let fault = ConfigFault::new("when", "looks at the response, which comes too late");
            return Err(fault.allowed("conditions on the request, where requests are edited"));
        }
        Ok(Arc::new(Self {
            when: config.when,
            request: edits("request", config.request)?,
            response: edits("response", config.response)?,
        }))
    }
}

fn edits(direction: &str, configs: Vec<EditConfig>) -> Result<Vec<Edit>, ConfigFault> {
    if configs.len() > MAX_EDITS {
        let fault = ConfigFault::new(
            direction,
            format!("{} operations are too many", configs.len()),
        );
        return Err(fault.allowed(format!("at most {MAX_EDITS}")));
    }
    let edits = configs
        .into_iter()
        .enumerate()
        .map(|(at, config)| edit(&format!("{direction}[{at}]"), config))
        .collect::<Result<Vec<_>, _>>()?;
    let added: usize = edits
        .iter()
        .map(|edit| match edit {
            Edit::Add { name, value } | Edit::Set { name, value } => {
                name.as_str().len() + value.len() + 4
            }
            Edit::Remove { .. } | Edit::Rename { .. } => 0,
        })
        .sum();
    if added > MAX_ADDED {
        let fault = ConfigFault::new(
            direction,
            format!("the additions have {added} bytes, more than servers accept"),
        );
        return Err(fault.allowed(format!("at most {MAX_ADDED} bytes")));
    }
    Ok(edits)
}

fn edit(path: &str, config: EditConfig) -> Result<Edit, ConfigFault> {
    let key = |name: &str| format!("{path}.{name}");
    let EditConfig {
        set,
        add,
        remove,
        rename,
        value,
        to,
    } = config;
    let unwanted = |key_name: &str, is_there: bool, with: &str| {
        if !is_there {
            return Ok(());
        }
        Err(ConfigFault::new(
            key(key_name),
            format!("\"{key_name}\" does not go with \"{with}\""),
        ))
    };
    match (set, add, remove, rename) {
        (Some(name), None, None, None) => {
            unwanted("to", to.is_some(), "set")?;
            Ok(Edit::Set {
                name: editable(&key("set"), &name)?,
                value: field_value(&key("value"), value)?,
            })
        }
        (None, Some(name), None, None) => {
            unwanted("to", to.is_some(), "add")?;
            Ok(Edit::Add {
                name: editable(&key("add"), &name)?,
                value: field_value(&key("value"), value)?,
            })
        }
        (None, None, Some(name), None) => {
            unwanted("to", to.is_some(), "remove")?;
            unwanted("value", value.is_some(), "remove")?;
            Ok(Edit::Remove {
                name: editable(&key("remove"), &name)?,
            })
        }
        (None, None, None, Some(from)) => {
            unwanted("value", value.is_some(), "rename")?;
            let Some(to) = to else {
                return Err(ConfigFault::new(key("to"), "missing key").allowed("the new name"));
            };
            let (from, to) = (
                field_name(&key("rename"), &from)?,
                field_name(&key("to"), &to)?,
            );
            // Another case of the same name changes no meaning.
            if from != to {
                protect(&key("rename"), &from)?;
                protect(&key("to"), &to)?;
            }
            Ok(Edit::Rename { from, to })
        }
        _ => {
            let fault = ConfigFault::new(
                path,
                "an operation has exactly one of set, add, remove, rename",
            );
            Err(fault.allowed("{ set = NAME, value = V }, { add = NAME, value = V }, { remove = NAME } or { rename = NAME, to = NAME }"))
        }
    }
}

fn field_name(key: &str, name: &str) -> Result<FieldName, ConfigFault> {
    name.parse().map_err(|error: sdk::InvalidName| {
        ConfigFault::new(key, format!("{name:?}: {error}"))
            .allowed("a field name such as X-Request-Id")
    })
}

fn editable(key: &str, name: &str) -> Result<FieldName, ConfigFault> {
    let name = field_name(key, name)?;
    protect(key, &name)?;
    Ok(name)
}

fn protect(key: &str, name: &FieldName) -> Result<(), ConfigFault> {
    if !PROTECTED.iter().any(|protected| name == protected) {
        return Ok(());
    }
    let fault = ConfigFault::new(
        key,
        format!("{name} belongs to the framing and routing of the message"),
    );
    Err(fault.allowed(format!(
        "any field but {}; changing the case of any name",
        PROTECTED.join(", ")
    )))
}

fn field_value(key: &str, value: Option<String>) -> Result<HeaderValue, ConfigFault> {
    let allowed = "text without control characters and without blanks at its ends";
    let Some(value) = value else {
        return Err(ConfigFault::new(key, "missing key").allowed(allowed));
    };
    // RFC 9110 §5.5: blanks around a value are not part of it.
    if value.trim_matches([' ', '\t']) != value {
        return Err(
            ConfigFault::new(key, "the value begins or ends with a blank").allowed(allowed),
        );
    }
    HeaderValue::from_bytes(value.as_bytes()).map_err(|_| {
        ConfigFault::new(key, format!("{value:?} holds a control character")).allowed(allowed)
    })
}

fn apply(edits: &[Edit], headers: &mut Headers) {
    for edit in edits {
        match edit {
            Edit::Add { name, value } => headers.append(name.clone(), value.clone()),
            Edit::Remove { name } => {
                headers.remove(name);
            }
            Edit::Rename { from, to } => {
                headers.rename(from, to);
            }
            Edit::Set { name, value } => headers.set(name.clone(), value.clone()),
        }
    }
}

#[async_trait(?Send)]
impl Interceptor for EditHeaders {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        if is_meant {
            apply(&self.request, &mut request.headers);
        }
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::response(response, exchange)));
        if is_meant {
            apply(&self.response, &mut response.headers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sdk::testing::Playbook;

    use super::*;

    fn play(config: &str) -> Playbook {
        Playbook::from_arc(EditHeaders::build(&config.parse().unwrap()).unwrap())
    }

    fn fault(config: &str) -> String {
        EditHeaders::build(&config.parse().unwrap())
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn operations_are_done_in_order_and_the_rest_keeps_its_place() {
        let mut play = play(
            r#"
            request = [
                { set = "X-A", value = "new" },
                { add = "X-B", value = "2" },
                { add = "X-B", value = "3" },
                { remove = "cookie" },
                { rename = "Referer", to = "X-Was-Referer" },
            ]
            response = [{ remove = "server" }, { set = "Via", value = "1.1 flowdog" }]
            "#,
        );
        let request = "GET / HTTP/1.1\nHost: h\nx-a: old\nCookie: c\nReferer: r\nX-B: 1\nx-a: older\ncookie: d\n\nbody";
        assert_eq!(
            play.request(request).await.to_server(),
            "GET / HTTP/1.1\nHost: h\nX-A: new\nX-Was-Referer: r\nX-B: 1\nX-B: 2\nX-B: 3\n\nbody"
        );
        assert_eq!(
            play.response("HTTP/1.1 200 OK\nServer: s\n\nx").await,
            "HTTP/1.1 200 OK\nVia: 1.1 flowdog\n\nx"
        );
    }

    #[tokio::test]
    async fn only_what_is_meant_is_edited() {
        let mut play = play(
            r#"when = 'path like "/a*"'
               request = [{ set = "X", value = "1" }]
               response = [{ set = "Y", value = "2" }]"#,
        );
        let meant = play.request("GET /abc HTTP/1.1\nHost: h\n\n").await;
        assert_eq!(meant.to_server(), "GET /abc HTTP/1.1\nHost: h\nX: 1\n\n");
        assert_eq!(
            play.response("HTTP/1.1 200 OK\n\n").await,
            "HTTP/1.1 200 OK\nY: 2\n\n"
        );
        let other = "GET /b HTTP/1.1\nHost: h\n\n";
        assert_eq!(play.request(other).await.to_server(), other);
        assert_eq!(
            play.response("HTTP/1.1 200 OK\n\n").await,
            "HTTP/1.1 200 OK\n\n"
        );
    }

    #[tokio::test]
    async fn a_rename_may_change_the_case_alone() {
        let mut play = play(
            r#"request = [{ rename = "User-Agent", to = "user-agent" }, { rename = "host", to = "HOST" }]"#,
        );
        let request = play
            .request("GET / HTTP/1.1\nHost: h\nUser-Agent: curl\nAccept: */*\n\n")
            .await;
        assert_eq!(
            request.to_server(),
            "GET / HTTP/1.1\nHOST: h\nuser-agent: curl\nAccept: */*\n\n"
        );
    }

    #[tokio::test]
    async fn additions_may_push_a_request_over_a_packet() {
        let value = "v".repeat(500);
        let edits: Vec<_> = (0..100)
            .map(|i| format!("{{ add = \"X-Pad-{i}\", value = \"{value}\" }}"))
            .collect();
        let mut play = play(&format!("request = [{}]", edits.join(",")));
        let request = play
            .request("GET / HTTP/1.1\nHost: h\n\n")
            .await
            .to_server();
        assert!(request.len() > 50_000, "{}", request.len());
        assert!(request.ends_with(&format!("X-Pad-99: {value}\n\n")));
    }

    #[tokio::test]
    async fn without_operations_nothing_changes() {
        let mut play = play("");
        let request = "GET / HTTP/1.1\nHost: h\n\n";
        assert_eq!(play.request(request).await.to_server(), request);
    }

    #[test]
    fn threat_62_framing_fields_are_refused_when_the_config_is_read() {
        for name in [
            "content-length",
            "Transfer-Encoding",
            "CONNECTION",
            "Host",
            "te",
            "Trailer",
            "Upgrade",
        ] {
            for (config, key) in [
                (
                    format!("request = [{{ set = \"{name}\", value = \"1\" }}]"),
                    "request[0].set",
                ),
                (
                    format!("response = [{{ add = \"{name}\", value = \"1\" }}]"),
                    "response[0].add",
                ),
                (
                    format!("request = [{{ remove = \"{name}\" }}]"),
                    "request[0].remove",
                ),
                (
                    format!("request = [{{ rename = \"{name}\", to = \"x\" }}]"),
                    "request[0].rename",
                ),
                (
                    format!("request = [{{ rename = \"x\", to = \"{name}\" }}]"),
                    "request[0].to",
                ),
            ] {
                let fault = fault(&config);
                assert!(
                    fault.starts_with(&format!("{key}: {name} belongs to the framing")),
                    "{fault}"
                );
                assert!(
                    fault.contains("; allowed: any field but Connection, Content-Length"),
                    "{fault}"
                );
            }
        }
    }

    #[test]
    fn threat_62_values_that_would_end_the_line_are_refused() {
        for value in ["a\\r\\nX: y", "a\\nb", "a\\u0000", "a\\u007f"] {
            let fault = fault(&format!(
                "request = [{{ set = \"X\", value = \"{value}\" }}]"
            ));
            assert!(
                fault.starts_with("request[0].value: ") && fault.contains("control character"),
                "{fault}"
            );
        }
    }

    #[test]
    fn faults_name_the_key_and_what_is_allowed() {
        for (config, expected) in [
            (
                r#"request = [{ set = "X" }]"#,
                "request[0].value: missing key; allowed: text without",
            ),
            (
                r#"request = [{ remove = "X" }, { rename = "X" }]"#,
                "request[1].to: missing key; allowed: the new name",
            ),
            (
                r#"request = [{ remove = "X", value = "1" }]"#,
                "request[0].value: \"value\" does not go with \"remove\"",
            ),
            (
                r#"request = [{ set = "X", value = "1", to = "Y" }]"#,
                "request[0].to: \"to\" does not go with \"set\"",
            ),
            (
                r#"request = [{ set = "X", add = "Y", value = "1" }]"#,
                "request[0]: an operation has exactly one of",
            ),
            (
                "request = [{}]",
                "request[0]: an operation has exactly one of",
            ),
            (
                r#"request = [{ remove = "a b" }]"#,
                "request[0].remove: \"a b\": byte 0x20 may not be part",
            ),
            (
                r#"request = [{ remove = "" }]"#,
                "request[0].remove: \"\": a field name must not be empty; allowed:",
            ),
            (
                r#"request = [{ delete = "X" }]"#,
                "request[0].delete: unknown key; allowed: set, add, remove, rename, value, to",
            ),
            (
                r#"request = [{ set = "X", value = " 1" }]"#,
                "request[0].value: the value begins or ends with a blank",
            ),
            (
                r#"request = [{ set = "X", value = 1 }]"#,
                "request[0].value: invalid type: integer \"1\"; allowed: a string",
            ),
        ] {
            let fault = fault(config);
            assert!(fault.starts_with(expected), "{config}\n  {fault}");
        }
        let many = format!(
            "request = [{}]",
            vec!["{ remove = \"X\" }"; MAX_EDITS + 1].join(",")
        );
        assert_eq!(
            fault(&many),
            "request: 1001 operations are too many; allowed: at most 1000"
        );
        let large = format!(
            "response = [{{ set = \"X\", value = \"{}\" }}]",
            "v".repeat(MAX_ADDED)
        );
        assert!(fault(&large).starts_with("response: the additions have 65541 bytes"));
    }
}
