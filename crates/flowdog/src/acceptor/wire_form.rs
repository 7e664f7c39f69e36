//! What an acceptor outside this process is told about a flow, and the forms of its answer.

use std::time::Duration;

use sdk::{AcceptError, Decision, EndJson, FlowInfo, Protocol, Verdict};
use serde::Serialize;
use serde_json::{Map, Value};

/// Largest answer that is read, in bytes.
pub(crate) const MAX_ANSWER: usize = 64 * 1024;
/// Most entries of a context.
const MOST_CONTEXT: usize = 64;
/// Longest key, value or reason that is kept, in characters.
const LONGEST_TEXT: usize = 1024;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Question<'a> {
    geneve_options: GeneveOptions,
    network_protocol: &'static str,
    transport_protocol: &'static str,
    source: EndJson<'a>,
    destination: EndJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    application: Option<Seen<'a>>,
}

/// What the first bytes say. Only in questions that are asked after them.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Seen<'a> {
    protocol: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_host: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ja4: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct GeneveOptions {
    vpc_endpoint_id: String,
    flow_cookie: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment_id: Option<String>,
}

/// The question about a flow.
pub(crate) fn question(flow: &FlowInfo) -> Vec<u8> {
    let has_ports = [Protocol(6), Protocol(17)].contains(&flow.protocol);
    let end = |address, host| {
        let end = EndJson::new(address, host);
        if has_ports { end } else { end.without_port() }
    };
    let question = Question {
        geneve_options: GeneveOptions {
            vpc_endpoint_id: flow.endpoint.to_string(),
            flow_cookie: flow.cookie.to_string(),
            attachment_id: (flow.attachment.0 != 0).then(|| flow.attachment.to_string()),
        },
        network_protocol: if flow.client.is_ipv6() {
            "IPv6"
        } else {
            "IPv4"
        },
        transport_protocol: match flow.protocol.0 {
            6 => "TCP",
            17 => "UDP",
            _ => "",
        },
        source: end(flow.client, flow.client_ec2.as_deref()),
        destination: end(flow.server, flow.server_ec2.as_deref()),
        application: flow.recognised.as_deref().map(|recognised| Seen {
            protocol: recognised.application,
            server_name: recognised.server_name.as_deref(),
            http_host: recognised.http_host.as_deref(),
            ja4: recognised.ja4.as_deref(),
        }),
    };
    // Strings and numbers only: there is nothing in it that could not be written.
    serde_json::to_vec(&question).unwrap_or_default()
}

/// Reads an answer: `{"Accept": bool}`, `{"isAuthorized": bool, ...}` or `{"action": ..., ...}`.
///
/// # Errors
/// When it is none of these.
pub(crate) fn answer(bytes: &[u8]) -> Result<Decision, AcceptError> {
    let odd = |what: &str| AcceptError(format!("the answer {what}"));
    if bytes.len() > MAX_ANSWER {
        return Err(odd("is too large"));
    }
    let value: Value = serde_json::from_slice(bytes).map_err(|_| odd("is not JSON"))?;
    let object = value
        .as_object()
        .ok_or_else(|| odd("is not a JSON object"))?;
    let mut decision = Decision {
        context: context(object)?,
        valid_for: ttl(object)?,
        reason: object.get("reason").and_then(Value::as_str).map(clean),
        same_for: same_for(object)?,
        ..Decision::default()
    };
    if let Some(action) = object.get("action") {
        let action = action
            .as_str()
            .ok_or_else(|| odd("has an action that is no word"))?;
        match action {
            "allow" | "accept" => decision.accept = Some(true),
            "deny" | "refuse" => decision.accept = Some(false),
            "pass" | "bypass" => decision.verdict = Some(Verdict::Pass),
            "drop" => decision.verdict = Some(Verdict::Drop),
            "reset" => decision.verdict = Some(Verdict::Reset),
            "inspect" | "intercept" => decision.verdict = Some(Verdict::Inspect),
            _ => return Err(odd("has an unknown action")),
        }
        return Ok(decision);
    }
    let accept = ["Accept", "accept", "isAuthorized", "isAllowed"]
        .iter()
        .find_map(|key| object.get(*key))
        .ok_or_else(|| odd("has neither \"Accept\" nor \"action\""))?;
    let accept = accept
        .as_bool()
        .ok_or_else(|| odd("accepts with something that is no boolean"))?;
    decision.accept = Some(accept);
    Ok(decision)
}

/// Flat: text, numbers and booleans. Anything else is a mistake that had better be told.
fn context(object: &Map<String, Value>) -> Result<Map<String, Value>, AcceptError> {
    let mut context = Map::new();
    let given = match object.get("context") {
        None | Some(Value::Null) => return Ok(context),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(AcceptError("the answer's context is no object".into())),
    };
    if given.len() > MOST_CONTEXT {
        return Err(AcceptError(format!(
            "the answer's context has more than {MOST_CONTEXT} entries"
        )));
    }
    for (key, value) in given {
        let value = match value {
            Value::String(text) => Value::String(clean(text)),
            Value::Bool(_) | Value::Number(_) => value.clone(),
            _ => {
                return Err(AcceptError(
                    "the answer's context has a value that is no text, number or boolean".into(),
                ));
            }
        };
        context.insert(clean(key), value);
    }
    Ok(context)
}

fn ttl(object: &Map<String, Value>) -> Result<Option<Duration>, AcceptError> {
    match object.get("ttl").or_else(|| object.get("ttlOverride")) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_f64()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(Some)
            .ok_or_else(|| AcceptError("the answer's ttl is no number of seconds".into())),
    }
}

fn same_for(object: &Map<String, Value>) -> Result<Option<Vec<String>>, AcceptError> {
    match object.get("cacheKey") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_array()
            .and_then(|fields| {
                fields
                    .iter()
                    .map(|field| field.as_str().map(str::to_owned))
                    .collect::<Option<Vec<_>>>()
            })
            .map(Some)
            .ok_or_else(|| AcceptError("the answer's cacheKey is no list of words".into())),
    }
}

/// Text from outside goes to logs and records: no control characters, and not too much of it.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(LONGEST_TEXT)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tests::flow;
    use super::*;

    #[test]
    fn the_question_has_the_shape_that_functions_were_written_for() {
        let mut one = flow("10.0.0.5:1234", "192.0.2.1:443");
        let text = String::from_utf8(question(&one)).unwrap();
        assert_eq!(
            text,
            r#"{"GeneveOptions":{"VpcEndpointId":"vpce-00000000000000001","FlowCookie":"0000002a"},"NetworkProtocol":"IPv4","TransportProtocol":"TCP","Source":{"IpAddress":"10.0.0.5","Port":1234},"Destination":{"IpAddress":"192.0.2.1","Port":443}}"#
        );
        one.recognised = Some(
            sdk::Recognised {
                application: "tls",
                server_name: Some("a.example".into()),
                ..sdk::Recognised::default()
            }
            .into(),
        );
        let value: Value = serde_json::from_slice(&question(&one)).unwrap();
        assert_eq!(
            value["Application"],
            serde_json::json!({"Protocol": "tls", "ServerName": "a.example"})
        );
        one.attachment = sdk::AttachmentId(0xab);
        one.protocol = Protocol(58);
        one.client = "[2001:db8::1]:0".parse().unwrap();
        one.server = "[2001:db8::2]:0".parse().unwrap();
        let host = sdk::Ec2Host {
            instance_id: Some("i-1".into()),
            interface_id: Some("eni-1".into()),
            account_id: "123456789012".into(),
            vpc_id: "vpc-1".into(),
            subnet_id: "subnet-1".into(),
            security_groups: vec!["sg-1".into()],
            tags: [("Name".into(), "web".into())].into(),
        };
        one.client_ec2 = Some(host.into());
        let value: Value = serde_json::from_slice(&question(&one)).unwrap();
        assert_eq!(value["GeneveOptions"]["AttachmentId"], "00000000000000ab");
        assert_eq!(value["NetworkProtocol"], "IPv6");
        assert_eq!(value["TransportProtocol"], "");
        assert_eq!(
            value["Source"]["EC2"],
            serde_json::json!({"InstanceId": "i-1", "AccountId": "123456789012", "VpcId": "vpc-1",
                "SubnetId": "subnet-1", "Tags": {"Name": "web"}})
        );
        assert!(value["Source"].get("Port").is_none());
        assert!(value["Destination"].get("EC2").is_none());
    }

    #[test]
    fn answers_of_every_form_are_read() {
        for (text, accept, verdict) in [
            (r#"{"Accept": true}"#, Some(true), None),
            (r#"{"Accept": false, "Other": [1]}"#, Some(false), None),
            (
                r#"{"isAuthorized": true, "context": {"a": 1}}"#,
                Some(true),
                None,
            ),
            (r#"{"isAllowed": false}"#, Some(false), None),
            (r#"{"action": "deny"}"#, Some(false), None),
            (r#"{"action": "bypass"}"#, None, Some(Verdict::Pass)),
            (r#"{"action": "intercept"}"#, None, Some(Verdict::Inspect)),
        ] {
            let decision = answer(text.as_bytes()).unwrap();
            assert_eq!(
                (decision.accept, decision.verdict),
                (accept, verdict),
                "{text}"
            );
        }
        let rich = r#"{"action":"allow","context":{"team":"blue"},"ttl":1.5,"reason":"list\n7","cacheKey":["source"]}"#;
        let rich = answer(rich.as_bytes()).unwrap();
        assert_eq!(rich.context["team"], "blue");
        assert_eq!(rich.valid_for, Some(Duration::from_millis(1500)));
        assert_eq!(
            rich.reason.as_deref(),
            Some("list 7"),
            "threat_66: no control characters"
        );
        assert_eq!(rich.same_for, Some(vec!["source".to_owned()]));
    }

    #[test]
    fn threat_63_odd_answers_are_errors_and_never_an_acceptance() {
        let large = format!(
            r#"{{"Accept": true, "context": {{"a": "{}"}}}}"#,
            "x".repeat(MAX_ANSWER)
        );
        let many: Map<String, Value> = (0..100).map(|n| (n.to_string(), n.into())).collect();
        let many = serde_json::json!({"Accept": true, "context": many}).to_string();
        for text in [
            "",
            "null",
            "true",
            "[]",
            "\"yes\"",
            "{}",
            "{\"Accept\": \"true\"}",
            "{\"Accept\": 1}",
            "{\"Accept\": null}",
            "{\"Accept\": true",
            "{\"action\": \"allow all\"}",
            "{\"action\": null}",
            "{\"Accept\": true, \"ttl\": \"long\"}",
            "{\"Accept\": true, \"ttl\": -1}",
            "{\"Accept\": true, \"context\": []}",
            "{\"Accept\": true, \"context\": {\"a\": {}}}",
            "{\"Accept\": true, \"cacheKey\": \"source\"}",
            "\u{0}\u{1}",
            large.as_str(),
            many.as_str(),
        ] {
            assert!(answer(text.as_bytes()).is_err(), "{text:.60}");
        }
        let deep = "[".repeat(50_000);
        assert!(answer(deep.as_bytes()).is_err());
    }
}
