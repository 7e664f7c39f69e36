//! `account-id-emf`: which AWS accounts are called from the VPC, as metrics.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use sdk::{
    ConfigFault, ConfigTable, Exchange, Filter, InterceptError, Interceptor, InterceptorKind,
    Outlet, Request, Step, Subject, from_table,
};
use serde::Deserialize;

use crate::caller::Caller;
use crate::emf::{self, Call};
use crate::lines::{self, Lines};
#[cfg(feature = "aws")]
use crate::logs::{self, Event, LogStream};
use crate::pump::{Deliver, Pump};
use crate::queue::{Limits, Report};

/// `account-id-emf`, for the list of kinds.
pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "account-id-emf",
    summary: "Counts the AWS accounts that are called, in CloudWatch's embedded metric format.",
    build: AccountIdEmf::build,
};

/// Memory that a call takes, about.
const CALL_BYTES: usize = 400;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    #[serde(default)]
    when: Option<Filter>,
    #[serde(default = "default_output")]
    output: String,
    #[serde(default)]
    log_group: Option<String>,
    #[serde(default)]
    log_stream: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default = "default_accounts")]
    max_accounts: usize,
    #[serde(default = "default_queue")]
    queue: usize,
}

fn default_output() -> String {
    "stdout".to_owned()
}

fn default_namespace() -> String {
    "flowdog".to_owned()
}

fn default_accounts() -> usize {
    100
}

fn default_queue() -> usize {
    65_536
}

/// Counts calls of AWS by account.
#[derive(Debug)]
pub struct AccountIdEmf {
    when: Option<Filter>,
    pump: Arc<Pump<Call>>,
    accounts: Mutex<Accounts>,
}

/// The accounts that have a dimension value of their own.
#[derive(Debug)]
struct Accounts {
    seen: BTreeSet<String>,
    most: usize,
}

/// Whether an account has a value of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Since now.
    First,
    /// For a while; or the key names no account.
    Known,
    /// There was none left.
    Other,
}

impl Accounts {
    fn place(&mut self, account: Option<&str>) -> Place {
        match account {
            None => Place::Known,
            Some(account) if self.seen.contains(account) => Place::Known,
            Some(_) if self.seen.len() >= self.most => Place::Other,
            Some(account) => {
                self.seen.insert(account.to_owned());
                Place::First
            }
        }
    }
}

impl AccountIdEmf {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let keys: Keys = from_table(table)?;
        if !emf::is_namespace(&keys.namespace) {
            return Err(
                ConfigFault::new("namespace", "CloudWatch takes no such namespace")
                    .allowed("1 to 255 letters, digits and .-_/#: and no AWS/ in front"),
            );
        }
        if keys.when.as_ref().is_some_and(Filter::needs_response) {
            return Err(ConfigFault::new(
                "when",
                "looks at the response, which comes later",
            ));
        }
        if !(1..=10_000).contains(&keys.max_accounts) {
            return Err(ConfigFault::new("max-accounts", "out of range").allowed("1 to 10,000"));
        }
        if !(1..=10_000_000).contains(&keys.queue) {
            return Err(ConfigFault::new("queue", "out of range").allowed("1 to 10,000,000"));
        }
        let limits = Limits {
            items: keys.queue,
            bytes: keys.queue.saturating_mul(CALL_BYTES),
            batch: 2000,
            batch_bytes: usize::MAX,
            ..Limits::default()
        };
        let receiver = Receiver {
            namespace: keys.namespace.clone(),
            way: way(&keys)?,
        };
        Ok(Arc::new(Self {
            when: keys.when,
            pump: Pump::new("account-id-emf", limits, receiver),
            accounts: Mutex::new(Accounts {
                seen: BTreeSet::new(),
                most: keys.max_accounts,
            }),
        }))
    }
}

fn way(keys: &Keys) -> Result<Way, ConfigFault> {
    if keys.output != "cloudwatch-logs" {
        for (key, value) in [
            ("log-group", &keys.log_group),
            ("log-stream", &keys.log_stream),
            ("region", &keys.region),
            ("endpoint", &keys.endpoint),
        ] {
            if value.is_some() {
                return Err(ConfigFault::new(
                    key,
                    "is for output = \"cloudwatch-logs\" only",
                ));
            }
        }
        let place = lines::Place::parse(&keys.output).ok_or_else(|| {
            ConfigFault::new("output", "is no place for lines").allowed(
                "\"stdout\", \"cloudwatch-logs\", \"tcp://host:port\", \"udp://host:port\" or a path",
            )
        })?;
        return Ok(Way::Lines(Lines::new(place)));
    }
    log_stream(keys)
}

#[cfg(feature = "aws")]
fn log_stream(keys: &Keys) -> Result<Way, ConfigFault> {
    use aws::{Environment, JsonService, JsonSettings, Region};

    let group = keys.log_group.clone().ok_or_else(|| {
        ConfigFault::new("log-group", "missing key").allowed("the name of a log group")
    })?;
    let region = match &keys.region {
        None => None,
        Some(region) => Some(Region::new(region).ok_or_else(|| {
            ConfigFault::new("region", "is no region").allowed("such as eu-west-1")
        })?),
    };
    let service = JsonService::new(JsonSettings {
        service: "logs",
        target: "Logs_20140328",
        region,
        endpoint: keys.endpoint.clone(),
        environment: Environment::of_process(),
    })
    .map_err(|error| ConfigFault::new("endpoint", error.to_string()))?;
    let stream = keys.log_stream.clone().unwrap_or_else(host_name);
    Ok(Way::Logs(Box::new(LogStream::new(service, group, stream))))
}

#[cfg(not(feature = "aws"))]
fn log_stream(_: &Keys) -> Result<Way, ConfigFault> {
    Err(ConfigFault::new(
        "output",
        "this flowdog was built without its AWS feature",
    ))
}

/// Each appliance has a stream of its own: their events would otherwise be out of order.
#[cfg(feature = "aws")]
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "flowdog".to_owned())
}

enum Way {
    Lines(Lines),
    #[cfg(feature = "aws")]
    Logs(Box<LogStream>),
}

struct Receiver {
    namespace: String,
    way: Way,
}

#[async_trait]
impl Deliver<Call> for Receiver {
    async fn deliver(&mut self, batch: Vec<Call>) -> Report<Call> {
        let lines = emf::lines(&batch, &self.namespace);
        let failed = match &mut self.way {
            Way::Lines(way) => {
                let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
                way.write(&lines).await.err().map(|error| error.to_string())
            }
            #[cfg(feature = "aws")]
            Way::Logs(stream) => put(stream, lines).await,
        };
        match failed {
            None => Report::written(batch.len()),
            Some(error) => Report::failed(batch, error),
        }
    }
}

/// Puts all lines, in as many calls as they need. Lines are few, one for each caller and service, so
/// what was put before a failure is put again with the rest.
#[cfg(feature = "aws")]
async fn put(stream: &mut LogStream, lines: Vec<(SystemTime, String)>) -> Option<String> {
    let most = logs::limits(Limits::default()).batch_bytes;
    let (mut events, mut bytes) = (Vec::new(), 0);
    for (at, line) in lines {
        if bytes + line.len() + logs::EVENT_OVERHEAD > most {
            let report = stream.put(std::mem::take(&mut events)).await;
            bytes = 0;
            if !report.failed.is_empty() {
                return report.error;
            }
        }
        bytes += line.len() + logs::EVENT_OVERHEAD;
        events.push(Event { at, line });
    }
    let report = stream.put(events).await;
    report.error.filter(|_| !report.failed.is_empty())
}

#[async_trait(?Send)]
impl Interceptor for AccountIdEmf {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let is_meant = self
            .when
            .as_ref()
            .is_none_or(|when| when.matches(&Subject::request(request, exchange)));
        if !is_meant {
            return Ok(Step::Continue);
        }
        let Some(caller) = Caller::of_exchange(exchange) else {
            return Ok(Step::Continue);
        };
        exchange.note("call");
        let place = self
            .accounts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .place(caller.account.as_deref());
        match place {
            Place::Known => {}
            Place::First => {
                exchange.note("new-account");
                tracing::info!(
                    account = caller.account,
                    service = caller.service,
                    "an AWS account is called for the first time"
                );
            }
            Place::Other => exchange.note("account-over-limit"),
        }
        let call = Call {
            at: SystemTime::now(),
            is_other: place == Place::Other,
            is_first: place == Place::First,
            endpoint: exchange.flow.endpoint,
            client: exchange.flow.client.ip(),
            caller,
        };
        // A full queue counts what it drops.
        self.pump.push(call, CALL_BYTES);
        Ok(Step::Continue)
    }

    fn outlets(&self) -> Vec<Arc<dyn Outlet>> {
        vec![Arc::clone(&self.pump) as Arc<dyn Outlet>]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sdk::testing::Playbook;
    use serde_json::Value;

    use super::*;
    use crate::emf::{OTHER, UNKNOWN};

    fn request(key: &str) -> String {
        format!(
            "POST / HTTP/1.1\nHost: sts.eu-west-1.amazonaws.com\nAuthorization: AWS4-HMAC-SHA256 \
             Credential={key}/20260102/eu-west-1/sts/aws4_request, SignedHeaders=host, Signature=planted\n\
             X-Amz-Security-Token: planted\n\n"
        )
    }

    async fn lines(keys: toml::Table, requests: &[String]) -> Vec<Value> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("emf");
        let mut table = keys;
        table.insert("output".into(), path.to_str().unwrap().into());
        let interceptor = AccountIdEmf::build(&table).unwrap();
        let outlets = interceptor.outlets();
        let mut play = Playbook::from_arc(interceptor);
        for request in requests {
            let _ = play.request(request).await.to_server();
        }
        assert!(outlets[0].finish(Duration::from_secs(60)));
        let stats = outlets[0].stats();
        assert_eq!(stats.taken, stats.written);
        let text = std::fs::read_to_string(path).unwrap_or_default();
        assert!(!text.contains("planted"), "{text}");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn calls_become_metrics_and_other_requests_nothing() {
        let requests = [
            request("ASIAQNZGKIQY56JQ7WML"),
            request("ASIAQNZGKIQY56JQ7WML"),
            request("AKIAIOSFODNN7EXAMPLE"),
            "GET / HTTP/1.1\nHost: a\n\n".to_owned(),
        ];
        let lines = lines(toml::Table::new(), &requests).await;
        let accounts: Vec<_> = lines
            .iter()
            .map(|line| {
                (
                    line["Event"].as_str(),
                    line["AccountId"].as_str().unwrap(),
                    &line["Requests"],
                )
            })
            .collect();
        assert_eq!(accounts.len(), 3, "{lines:?}");
        assert_eq!(
            accounts[0],
            (Some("NewAccount"), "029608264753", &Value::Null)
        );
        assert!(
            accounts.contains(&(None, "029608264753", &2.into())),
            "{lines:?}"
        );
        assert!(accounts.contains(&(None, UNKNOWN, &1.into())), "{lines:?}");
    }

    #[tokio::test]
    async fn threat_68_accounts_beyond_the_limit_share_one_value() {
        let requests: Vec<String> = [
            "ASIAQNZGKIQY56JQ7WML",
            "ASIAY34FZKBOKMUTVV7A",
            "AKIASP2TPHJSQH3FJXYZ",
        ]
        .iter()
        .map(|key| request(key))
        .collect();
        let lines = lines(toml::toml! { max-accounts = 1 }, &requests).await;
        let values: BTreeSet<_> = lines
            .iter()
            .map(|line| line["AccountId"].as_str().unwrap())
            .collect();
        assert_eq!(
            values.into_iter().collect::<Vec<_>>(),
            ["029608264753", OTHER]
        );
        let firsts = lines.iter().filter(|line| line["Event"] == "NewAccount");
        assert_eq!(firsts.count(), 1);
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        for (table, key) in [
            (toml::toml! { output = "ftp://a" }, "output"),
            (toml::toml! { namespace = "AWS/x" }, "namespace"),
            (toml::toml! { max-accounts = 0 }, "max-accounts"),
            (toml::toml! { log-group = "a" }, "log-group"),
            (
                toml::toml! { output = "cloudwatch-logs" },
                if cfg!(feature = "aws") {
                    "log-group"
                } else {
                    "output"
                },
            ),
        ] {
            let fault = AccountIdEmf::build(&table).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
        }
    }
}
