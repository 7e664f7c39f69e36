//! Lines in CloudWatch's embedded metric format (EMF): a metric, its dimensions, and what else is known.
//!
//! Whoever reads such a line in CloudWatch Logs makes a metric of it. Each combination of dimension
//! values is a metric of its own and has a price, so the values here are few.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sdk::VpcEndpointId;
use serde_json::{Value, json};

use crate::caller::Caller;

/// The dimension's value for keys that name no account.
pub(crate) const UNKNOWN: &str = "unknown";
/// The same for accounts beyond the limit.
pub(crate) const OTHER: &str = "other";

/// One call that was seen.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) at: SystemTime,
    pub(crate) caller: Arc<Caller>,
    /// Its account is beyond the limit.
    pub(crate) is_other: bool,
    /// The first one of its account.
    pub(crate) is_first: bool,
    pub(crate) endpoint: VpcEndpointId,
    pub(crate) client: IpAddr,
}

impl Call {
    /// The dimension's value.
    fn account(&self) -> &str {
        if self.is_other {
            OTHER
        } else {
            self.caller.account.as_deref().unwrap_or(UNKNOWN)
        }
    }
}

/// The lines for a batch of calls, each with its time: one per caller and service with the number of
/// its calls, and one for each account that was not seen before.
pub(crate) fn lines(calls: &[Call], namespace: &str) -> Vec<(SystemTime, String)> {
    let mut counts: BTreeMap<(&Caller, &str), (u64, SystemTime)> = BTreeMap::new();
    for call in calls {
        let (count, last) = counts
            .entry((&*call.caller, call.account()))
            .or_insert((0, call.at));
        *count += 1;
        *last = (*last).max(call.at);
    }
    let firsts = calls.iter().filter(|call| call.is_first).map(|call| {
        let line = json!({
            "_aws": directive(call.at, namespace, &[], "NewAccounts"),
            "Event": "NewAccount",
            "AccountId": call.account(),
            "KeyId": call.caller.key_id,
            "Region": call.caller.region,
            "Service": call.caller.service,
            "VpcEndpointId": call.endpoint.to_string(),
            "Client": call.client,
            "NewAccounts": 1,
        });
        (call.at, text(&line))
    });
    let requests = counts.into_iter().map(|((caller, account), (count, at))| {
        let line = json!({
            "_aws": directive(at, namespace, &["AccountId"], "Requests"),
            "KeyId": caller.key_id,
            "Date": caller.date,
            "Region": caller.region,
            "Service": caller.service,
            "AccountId": account,
            "Requests": count,
        });
        (at, text(&line))
    });
    firsts.chain(requests).collect()
}

fn directive(at: SystemTime, namespace: &str, dimensions: &[&str], metric: &str) -> Value {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    json!({
        "Timestamp": u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
        "CloudWatchMetrics": [{
            "Namespace": namespace,
            "Dimensions": [dimensions],
            "Metrics": [{"Name": metric, "Unit": "Count"}],
        }],
    })
}

fn text(line: &Value) -> String {
    let mut text = line.to_string();
    text.push('\n');
    text
}

/// Whether CloudWatch takes it as a namespace: 1 to 255 of these characters.
pub(crate) fn is_namespace(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && !text.starts_with("AWS/")
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b" .-_/#:".contains(&byte))
        && !text.trim().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: &str, service: &str, account: &str, is_first: bool) -> Call {
        Call {
            at: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            caller: Arc::new(Caller {
                key_id: key.into(),
                account: (account != OTHER).then(|| account.into()),
                date: "20260102".into(),
                region: "eu-west-1".into(),
                service: service.into(),
            }),
            is_other: account == OTHER,
            is_first,
            endpoint: VpcEndpointId(0x0123_4567_89ab_cdef),
            client: [10, 0, 0, 1].into(),
        }
    }

    #[test]
    fn calls_of_one_caller_and_service_are_one_line_with_their_number() {
        let calls = [
            call("A", "s3", "1", true),
            call("A", "s3", "1", false),
            call("A", "sts", "1", false),
            call("B", "s3", OTHER, false),
        ];
        let lines: Vec<Value> = lines(&calls, "flowdog")
            .into_iter()
            .map(|(_, line)| {
                assert_eq!(line.matches('\n').count(), 1);
                serde_json::from_str(&line).unwrap()
            })
            .collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0]["Event"], "NewAccount");
        assert_eq!(
            lines[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"],
            json!([[]])
        );
        assert_eq!(
            lines[1],
            json!({
                "_aws": {
                    "Timestamp": 1_700_000_000_123_u64,
                    "CloudWatchMetrics": [{
                        "Namespace": "flowdog",
                        "Dimensions": [["AccountId"]],
                        "Metrics": [{"Name": "Requests", "Unit": "Count"}],
                    }],
                },
                "KeyId": "A", "Date": "20260102", "Region": "eu-west-1", "Service": "s3",
                "AccountId": "1", "Requests": 2,
            })
        );
        assert_eq!(lines[3]["AccountId"], OTHER);
    }

    #[test]
    fn namespaces_are_those_that_cloudwatch_takes() {
        assert!(is_namespace("flowdog") && is_namespace("a/b #1:c"));
        for wrong in ["", " ", "AWS/EC2", "a\n", "\u{e4}", "a;b"] {
            assert!(!is_namespace(wrong), "{wrong:?}");
        }
    }
}
