//! A flow as a record: the fields of its JSON object, and the same as lines of VPC flow logs.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dataplane::{FlowEnd, FlowSummary, Unseen};
use sdk::{Record, TlsInfo};
use serde_json::{Map, Value, json};

use super::{FlowRecord, Stage};
use crate::opening::Note;

fn end_word(end: FlowEnd) -> &'static str {
    match end {
        FlowEnd::Finished => "finished",
        FlowEnd::Reset => "reset",
        FlowEnd::Idle => "idle",
        FlowEnd::TimedOut => "timed-out",
        FlowEnd::Replaced => "replaced",
        FlowEnd::Evicted => "evicted",
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // Milliseconds: more would not be true.
    Duration::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).as_secs_f64()
}

/// The record of a flow; keys without a value are left out.
pub(super) fn record(flow: FlowRecord) -> Record {
    let verdict = verdict(&flow.summary, &flow.note);
    let FlowRecord {
        start,
        stage,
        summary,
        note,
    } = flow;
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| {
        if !value.is_null() {
            fields.insert(key.to_owned(), value);
        }
    };
    let has_ports = matches!(summary.key.protocol.0, 6 | 17);
    let end = start + summary.duration;
    put("start", seconds(start).into());
    put("end", seconds(end).into());
    put("endpoint", summary.key.endpoint.to_string().into());
    put("protocol", summary.key.protocol.0.into());
    put("clientAddress", summary.client.ip().to_string().into());
    put("serverAddress", summary.server.ip().to_string().into());
    if has_ports {
        put("clientPort", summary.client.port().into());
        put("serverPort", summary.server.port().into());
    }
    put("clientPackets", summary.packets[0].into());
    put("clientBytes", summary.bytes[0].into());
    put("serverPackets", summary.packets[1].into());
    put("serverBytes", summary.bytes[1].into());
    let rtt = note.round_trips.map(|rtt| {
        let millis = |rtt: Duration| rtt.as_micros() as f64 / 1000.0;
        json!(rtt.map(millis))
    });
    let [client_rtt, server_rtt] = rtt;
    put("clientHandshakeMs", client_rtt);
    put("serverHandshakeMs", server_rtt);
    let kind = match stage {
        Stage::Lives => "flow-interval",
        Stage::Ended => {
            if summary.intercepted {
                put("clientRetransmits", summary.retransmits[0].into());
                put("serverRetransmits", summary.retransmits[1].into());
            }
            put("closed", end_word(summary.end).into());
            "flow"
        }
        Stage::Stopped => {
            put("closed", "stopped".into());
            "flow"
        }
    };
    put("verdict", verdict.into());
    put("rule", json!(note.rule.as_deref()));
    put("acceptor", json!(note.acceptor));
    put("reason", json!(note.reason.as_deref()));
    put("application", json!(note.application));
    put("serverName", json!(note.server_name));
    put("httpHost", json!(note.http_host));
    put("ja4", json!(note.ja4));
    put("tls", note.tls.as_deref().map_or(Value::Null, tls));
    put("error", json!(note.error));
    let [client, server] = note.ec2;
    put("clientEc2", json!(client.as_deref()));
    put("serverEc2", json!(server.as_deref()));
    if !note.context.is_empty() {
        put("context", Value::Object(note.context));
    }
    Record {
        kind,
        at: end,
        fields,
    }
}

/// What both handshakes agreed on; suites by their code points in the TLS registry.
fn tls(info: &TlsInfo) -> Value {
    let version = |version: u16| match version {
        0x0303 => "1.2".to_owned(),
        0x0304 => "1.3".to_owned(),
        other => format!("0x{other:04x}"),
    };
    let alpn = info.alpn.as_deref().map(String::from_utf8_lossy);
    json!({
        "clientVersion": version(info.client_version),
        "serverVersion": version(info.server_version),
        "clientCipherSuite": format!("0x{:04x}", info.client_cipher_suite),
        "serverCipherSuite": format!("0x{:04x}", info.server_cipher_suite),
        "alpn": alpn,
    })
}

/// What became of the flow.
pub(crate) fn verdict(summary: &FlowSummary, note: &Note) -> &'static str {
    match (note.verdict, summary.refused) {
        ("drop", _) => "drop",
        ("reset", _) => "reset",
        (_, Some(Unseen::Drop)) => "drop",
        (_, Some(Unseen::Reset)) => "reset",
        // Perhaps one that was taken over to ask about it.
        ("pass", _) => "pass",
        _ if summary.intercepted => "intercept",
        // Never taken over, so it was passed.
        _ => "pass",
    }
}

/// A record as one JSON object. Control characters in any value are escaped, so a record is a line.
pub(super) fn json_line(record: &Record, out: &mut String) {
    let mut fields = Map::new();
    fields.insert("type".to_owned(), record.kind.into());
    fields.extend(record.fields.clone());
    out.push_str(&Value::Object(fields).to_string());
    out.push('\n');
}

/// The default fields of VPC flow logs, version 2: one line for each direction that had packets.
/// The endpoint stands for the interface; the account is the one of the direction's source, and `-`
/// where it is not known. Records that are no flow's have no such lines.
pub(super) fn text_lines(record: &Record, out: &mut String) {
    if !record.kind.starts_with("flow") {
        return;
    }
    let field = |key: &str| record.fields.get(key);
    let number = |key: &str| field(key).and_then(Value::as_u64).unwrap_or(0);
    let text = |key: &str| field(key).and_then(Value::as_str).unwrap_or("-");
    let whole = |key: &str| field(key).and_then(Value::as_f64).unwrap_or(0.0).floor();
    let action = match text("verdict") {
        "drop" | "reset" => "REJECT",
        _ => "ACCEPT",
    };
    for (from, to) in [("client", "server"), ("server", "client")] {
        let of = |end: &str, what: &str| format!("{end}{what}");
        let packets = number(&of(from, "Packets"));
        if packets == 0 {
            continue;
        }
        let account = field(&of(from, "Ec2"))
            .and_then(|host| host.get("accountId")?.as_str())
            .filter(|account| account.bytes().all(|b| b.is_ascii_digit()) && !account.is_empty());
        out.push_str(&format!(
            "2 {} {} {} {} {} {} {} {packets} {} {} {} {action} OK\n",
            account.unwrap_or("-"),
            text("endpoint"),
            text(&of(from, "Address")),
            text(&of(to, "Address")),
            number(&of(from, "Port")),
            number(&of(to, "Port")),
            number("protocol"),
            number(&of(from, "Bytes")),
            // Whole seconds, as there.
            whole("start"),
            whole("end"),
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(fields: Value) -> Record {
        Record {
            kind: "flow",
            at: UNIX_EPOCH,
            fields: fields.as_object().unwrap().clone(),
        }
    }

    #[test]
    fn threat_66_no_value_ends_its_line_or_makes_a_field_of_its_own() {
        let evil = "a\"\n{\"type\":\"flow\"}\u{1b}[31m\r\u{2028}";
        let record = record_of(
            json!({"serverName": evil, "rule": evil, "context": {evil: evil},
            "endpoint": "vpce-1", "clientPackets": 1, "clientAddress": "10.0.0.1", "serverAddress": "10.0.0.2",
            "clientEc2": {"accountId": "1 2\n"}}),
        );
        let mut line = String::new();
        json_line(&record, &mut line);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!line.trim_end().contains(char::is_control), "{line:?}");
        let back: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(back["serverName"], evil);
        assert_eq!(back["type"], "flow");
        let mut text = String::new();
        text_lines(&record, &mut text);
        assert_eq!(
            text,
            "2 - vpce-1 10.0.0.1 10.0.0.2 0 0 0 1 0 0 0 ACCEPT OK\n"
        );
    }
}
