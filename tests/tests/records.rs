//! `account-id-emf` and `firehose`, with moto as CloudWatch Logs, Data Firehose and S3.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use flowdog_tests::lab::{Lab, Outcome};
use flowdog_tests::moto;
use serde_json::Value;

/// A key of the new form, and the account in it.
const KEY: &str = "ASIAQNZGKIQY56JQ7WML";
const ACCOUNT: &str = "029608264753";

const SETUP: &str = r#"
import boto3, os
url = os.environ["URL"]
boto3.client("s3", endpoint_url=url).create_bucket(Bucket="web",
    CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
boto3.client("firehose", endpoint_url=url).create_delivery_stream(DeliveryStreamName="web",
    DeliveryStreamType="DirectPut", ExtendedS3DestinationConfiguration={
        "RoleARN": "arn:aws:iam::123456789012:role/r", "BucketARN": "arn:aws:s3:::web"})
"#;

/// Prints what has arrived, a kind and a JSON object a line.
const READ: &str = r#"
import boto3, os
url = os.environ["URL"]
s3 = boto3.client("s3", endpoint_url=url)
for page in s3.get_paginator("list_objects_v2").paginate(Bucket="web"):
    for found in page.get("Contents", []):
        for line in s3.get_object(Bucket="web", Key=found["Key"])["Body"].read().decode().splitlines():
            print("exchange", line)
logs = boto3.client("logs", endpoint_url=url)
try:
    for event in logs.filter_log_events(logGroupName="/flowdog/accounts")["events"]:
        print("emf", event["message"])
except logs.exceptions.ResourceNotFoundException:
    pass
"#;

fn lab() -> Result<Lab> {
    let config = format!(
        r#"
[[interceptor]]
name = "accounts"
use = "account-id-emf"
output = "cloudwatch-logs"
log-group = "/flowdog/accounts"
region = "eu-central-1"
endpoint = "{0}"
[[interceptor]]
name = "web"
use = "firehose"
stream = "web"
region = "eu-central-1"
endpoint = "{0}"
[[rule]]
action = "intercept"
interceptors = ["accounts", "web"]
"#,
        moto::ENDPOINT
    );
    Ok(moto::with_credentials(Lab::new()?.config(&config)?))
}

/// `call KEY PATH` sends a request that is signed, as far as anybody can tell from outside.
fn call() -> String {
    "call() { curl -fsS -o /dev/null -H 'X-Amz-Security-Token: planted-token' -H 'Cookie: a=planted-cookie' \
       -H \"Authorization: AWS4-HMAC-SHA256 Credential=$1/20260102/eu-west-1/sts/aws4_request, SignedHeaders=host, Signature=planted-signature\" \
       \"https://any.lab.name$2\"; }\n"
        .to_owned()
}

/// `settled N` waits until the outlets have written so many records together, for half a minute.
const SETTLED: &str = "written() { inside curl -sS http://127.0.0.1:8080/metrics | awk '/^flowdog_outlet_written_total/ { n += $2 } END { print n + 0 }'; }
settled() { for n in $(seq 300); do [ $(written) -ge $1 ] && return; sleep 0.1; done; echo not settled >&2; }
";

/// What arrived, by kind.
fn arrived(outcome: &Outcome) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut kinds: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in outcome.stdout.lines() {
        if let Some((kind @ ("exchange" | "emf"), json)) = line.split_once(' ') {
            let value = serde_json::from_str(json).with_context(|| line.to_owned())?;
            kinds.entry(kind.to_owned()).or_default().push(value);
        }
    }
    Ok(kinds)
}

#[test]
fn calls_and_exchanges_arrive_in_cloudwatch_logs_and_s3_and_hold_no_secret() -> Result<()> {
    let lab = lab()?;
    let steps = format!(
        "{}{SETTLED}
         call {KEY} '/echo?X-Amz-Signature=planted-parameter'; call {KEY} /echo; call AKIAIOSFODNN7EXAMPLE /status/200
         curl -sS -o /dev/null http://any.lab.name/status/418
         settled 7",
        call()
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, READ)?)?;
    let arrived = arrived(&outcome)?;
    let none = Vec::new();
    let exchanges = arrived.get("exchange").unwrap_or(&none);
    assert_eq!(exchanges.len(), 4, "{}\n{}", outcome.stdout, outcome.log);
    let about = |path: &str| {
        exchanges
            .iter()
            .find(|exchange| {
                exchange["URL"]
                    .as_str()
                    .is_some_and(|url| url.ends_with(path))
            })
            .with_context(|| format!("{path} in {exchanges:?}"))
    };
    let signed = about("/echo")?;
    assert_eq!(signed["URL"], "https://any.lab.name/echo");
    assert_eq!(signed["ETldPlusOne"], "lab.name");
    assert_eq!(signed["StatusCode"], 200);
    assert_eq!(signed["AWS"]["AuthorizationHeader"]["AccountId"], ACCOUNT);
    assert_eq!(signed["TLS"]["Version"], 0x0304);
    let clear = about("/status/418")?;
    assert_eq!(
        (&clear["StatusCode"], &clear["TLS"]),
        (&418.into(), &Value::Null)
    );

    let emf = arrived.get("emf").unwrap_or(&none);
    let requests = |account: &str| -> u64 {
        emf.iter()
            .filter(|line| line["AccountId"] == account)
            .filter_map(|line| line["Requests"].as_u64())
            .sum()
    };
    assert_eq!((requests(ACCOUNT), requests("unknown")), (2, 1), "{emf:?}");
    let new: Vec<_> = emf
        .iter()
        .filter(|line| line["Event"] == "NewAccount")
        .collect();
    assert_eq!(new.len(), 1);
    assert_eq!(new[0]["AccountId"], ACCOUNT);
    assert_eq!(
        outcome.metric("flowdog_interceptor_notes_total", "new-account"),
        1.0
    );
    // threat 67: nothing that was planted has left the appliance in a record or in its log.
    for text in [&outcome.stdout, &outcome.log] {
        assert!(!text.contains("planted"), "{text}");
    }
    Ok(())
}

#[test]
fn threat_34_while_aws_is_away_traffic_goes_on_and_nothing_is_lost_within_the_queue() -> Result<()>
{
    let lab = lab()?;
    let steps = format!(
        "{}{SETTLED}
         call {KEY} /status/200; settled 2
         touch away
         for n in $(seq 20); do call {KEY} /status/200 || echo failed; done
         sleep 2.5; rm away
         settled 42",
        call()
    );
    let outcome = lab.shell(&moto::script(&lab, SETUP, &steps, READ)?)?;
    assert!(!outcome.stdout.contains("failed"), "{}", outcome.stdout);
    let arrived = arrived(&outcome)?;
    let exchanges = arrived.get("exchange").map_or(0, Vec::len);
    let requests: u64 = arrived
        .get("emf")
        .into_iter()
        .flatten()
        .filter_map(|line| line["Requests"].as_u64())
        .sum();
    assert_eq!(
        (exchanges, requests),
        (21, 21),
        "{}\n{}",
        outcome.stdout,
        outcome.log
    );
    for name in ["accounts", "web"] {
        let metric = |what: &str| outcome.metric(&format!("flowdog_outlet_{what}"), name);
        assert_eq!(
            (metric("taken_total"), metric("written_total")),
            (21.0, 21.0),
            "{name}"
        );
        assert_eq!(
            (metric("dropped_total"), metric("failed_total")),
            (0.0, 0.0),
            "{name}"
        );
        assert!(metric("errors_total") > 0.0, "{name}");
    }
    Ok(())
}
