//! `firehose`: a line of JSON for each exchange, to Amazon Data Firehose or a file.

mod finished;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use async_trait::async_trait;
use sdk::{
    ConfigFault, ConfigTable, Exchange, Filter, InterceptError, Interceptor, InterceptorKind,
    Outlet, Request, Response, Step, Subject, from_table,
};
use serde::Deserialize;

use self::finished::Finished;
use crate::caller::Caller;
use crate::lines::{Lines, Place};
use crate::pump::Pump;
use crate::queue::Limits;
use crate::redaction::{Redaction, RedactionConfig};
#[cfg(feature = "aws")]
use crate::stream::DeliveryStream;

/// `firehose`, for the list of kinds.
pub(crate) const KIND: InterceptorKind = InterceptorKind {
    name: "firehose",
    summary: "Writes a line of JSON for each exchange, to Amazon Data Firehose or a file.",
    build: Firehose::build,
};

/// The largest record that Firehose takes: 1,000 KiB before base64.
pub(crate) const LONGEST_RECORD: usize = 1000 * 1024;

/// Most records of one call.
pub(crate) const BATCH: usize = 500;
/// Most bytes of records in one call. Firehose allows 4 MiB for the whole request, in which records stand
/// in base64; a request over the limit would be refused each time, with all that is in it.
pub(crate) const BATCH_BYTES: usize = 3_000_000;
/// Most lines that a file or a port gets at once. Few, so that their memory is in the processor's cache still when
/// it is used again.
const LINES: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Keys {
    #[serde(default)]
    when: Option<Filter>,
    #[serde(default)]
    stream: Option<String>,
    #[serde(default)]
    output: Option<String>,
    #[serde(default)]
    region: Option<String>,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    show_fields: Vec<String>,
    #[serde(default)]
    show_parameters: Vec<String>,
    #[serde(default = "default_queue")]
    queue: usize,
    #[serde(default = "default_queue_memory")]
    queue_memory: sdk::ByteSize,
}

fn default_queue() -> usize {
    65_536
}

fn default_queue_memory() -> sdk::ByteSize {
    sdk::ByteSize(64 << 20)
}

/// Writes exchanges as lines.
#[derive(Debug)]
pub struct Firehose {
    when: Option<Filter>,
    redaction: Arc<Redaction>,
    pump: Arc<Pump<String>>,
}

/// What is known of an exchange so far; handed on when it is over, however it ended.
struct Draft {
    /// Who writes it: several may stand in a chain.
    whose: usize,
    /// When the request came.
    since: Instant,
    /// `None` if it is not to be written.
    exchange: Option<(Finished, Arc<Pump<String>>)>,
}

impl Firehose {
    fn build(table: &ConfigTable) -> Result<Arc<dyn Interceptor>, ConfigFault> {
        let keys: Keys = from_table(table)?;
        if !(1..=10_000_000).contains(&keys.queue) {
            return Err(ConfigFault::new("queue", "out of range").allowed("1 to 10,000,000"));
        }
        let redaction = RedactionConfig {
            show_fields: keys.show_fields.clone(),
            show_parameters: keys.show_parameters.clone(),
        };
        let limits = Limits {
            items: keys.queue,
            bytes: keys.queue_memory.0,
            batch: BATCH,
            batch_bytes: BATCH_BYTES,
            ..Limits::default()
        };
        let pump = match (&keys.stream, &keys.output) {
            (Some(stream), None) => delivery_stream(&keys, stream, limits)?,
            (None, Some(output)) => {
                let place = Place::parse(output).ok_or_else(|| {
                    ConfigFault::new("output", "is no place for lines")
                        .allowed("\"stdout\", \"tcp://host:port\" or a path")
                })?;
                let limits = Limits {
                    batch: LINES,
                    ..limits
                };
                Pump::new("firehose", limits, Lines::new(place))
            }
            _ => {
                return Err(ConfigFault::new("stream", "missing key")
                    .allowed("the name of a delivery stream here, or a place in output"));
            }
        };
        Ok(Arc::new(Self {
            when: keys.when,
            redaction: Arc::new(Redaction::new(&redaction)),
            pump,
        }))
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.pump) as usize
    }

    fn is_meant(&self, subject: &Subject<'_>) -> bool {
        self.when.as_ref().is_none_or(|when| when.matches(subject))
    }
}

#[cfg(feature = "aws")]
fn delivery_stream(
    keys: &Keys,
    stream: &str,
    limits: Limits,
) -> Result<Arc<Pump<String>>, ConfigFault> {
    use aws::{Environment, JsonService, JsonSettings, Region};

    let is_name = (1..=64).contains(&stream.len())
        && stream
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    if !is_name {
        return Err(
            ConfigFault::new("stream", "is no name of a delivery stream")
                .allowed("1 to 64 letters, digits, _ . and -"),
        );
    }
    let region = match &keys.region {
        None => None,
        Some(region) => Some(Region::new(region).ok_or_else(|| {
            ConfigFault::new("region", "is no region").allowed("such as eu-west-1")
        })?),
    };
    let service = JsonService::new(JsonSettings {
        service: "firehose",
        target: "Firehose_20150804",
        region,
        endpoint: keys.endpoint.clone(),
        environment: Environment::of_process(),
    })
    .map_err(|error| ConfigFault::new("endpoint", error.to_string()))?;
    Ok(Pump::new(
        "firehose",
        limits,
        DeliveryStream::new(service, stream.to_owned()),
    ))
}

#[cfg(not(feature = "aws"))]
fn delivery_stream(keys: &Keys, _: &str, _: Limits) -> Result<Arc<Pump<String>>, ConfigFault> {
    let _ = (&keys.region, &keys.endpoint);
    Err(ConfigFault::new(
        "stream",
        "this flowdog was built without its AWS feature",
    ))
}

#[async_trait(?Send)]
impl Interceptor for Firehose {
    async fn on_request(
        &self,
        request: &mut Request,
        exchange: &mut Exchange,
    ) -> Result<Step, InterceptError> {
        let needs_response = self.when.as_ref().is_some_and(Filter::needs_response);
        if !needs_response && !self.is_meant(&Subject::request(request, exchange)) {
            return Ok(Step::Continue);
        }
        let so_far = Finished {
            redaction: Arc::clone(&self.redaction),
            at: SystemTime::now(),
            flow: Arc::clone(&exchange.flow),
            caller: Caller::of_exchange(exchange),
            request: exchange.request.clone(),
            response: None,
        };
        exchange.extensions.push(Draft {
            whose: self.id(),
            since: Instant::now(),
            exchange: Some((so_far, Arc::clone(&self.pump))),
        });
        Ok(Step::Continue)
    }

    async fn on_response(
        &self,
        response: &mut Response,
        exchange: &mut Exchange,
    ) -> Result<(), InterceptError> {
        let is_meant = self.is_meant(&Subject::response(response, exchange));
        let mut drafts = exchange.extensions.get_mut::<Vec<Draft>>().into_iter();
        let mine = drafts.find_map(|all| all.iter_mut().find(|draft| draft.whose == self.id()));
        let Some(draft) = mine else {
            return Ok(());
        };
        if !is_meant {
            draft.exchange = None;
        } else if let Some((exchange, _)) = &mut draft.exchange {
            let reason = response
                .reason
                .as_ref()
                .map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
            exchange.response = Some((response.status.as_u16(), reason, response.headers.clone()));
        }
        Ok(())
    }

    fn outlets(&self) -> Vec<Arc<dyn Outlet>> {
        vec![Arc::clone(&self.pump) as Arc<dyn Outlet>]
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let Some((exchange, pump)) = self.exchange.take() else {
            return;
        };
        // What is not taken is counted.
        match exchange.line(self.since.elapsed()) {
            Some(line) => {
                let bytes = line.len();
                pump.push(line, bytes);
            }
            None => pump.drop_one(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sdk::testing::Playbook;
    use serde_json::Value;

    use super::*;

    async fn records(keys: &str, exchanges: &[(&str, &str)]) -> (Vec<Value>, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let mut table: toml::Table = keys.parse().unwrap();
        table.insert("output".into(), path.to_str().unwrap().into());
        let interceptor = Firehose::build(&table).unwrap();
        let outlets = interceptor.outlets();
        let mut play = Playbook::from_arc(interceptor);
        for (request, response) in exchanges {
            let _ = play.request(request).await.to_server();
            if !response.is_empty() {
                play.response(response).await;
            }
        }
        drop(play);
        assert!(outlets[0].finish(Duration::from_secs(60)));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let records = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (records, text)
    }

    const REQUEST: &str = "GET /a?b=c&X-Amz-Signature=planted HTTP/1.1\nhost: www.example.co.uk\nuser-agent: x\n\
        Cookie: id=planted\nAuthorization: AWS4-HMAC-SHA256 Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=planted\n\
        X-Amz-Security-Token: planted\n\n";
    const RESPONSE: &str =
        "HTTP/1.1 200 Fine\nSet-Cookie: id=planted; Path=/\nX-A: 1\nX-A: 2\nContent-Length: 0\n\n";

    #[tokio::test]
    async fn an_exchange_is_a_line_with_the_fields_of_the_first_flowdog() {
        let (records, _) = records("", &[(REQUEST, RESPONSE)]).await;
        let record = &records[0];
        assert_eq!(record["Method"], "GET");
        assert_eq!(record["Host"], "www.example.co.uk");
        assert_eq!(record["ETldPlusOne"], "example.co.uk");
        assert_eq!(record["StatusCode"], 200);
        assert_eq!(record["StatusMessage"], "Fine");
        assert_eq!(record["RequestHeaders"]["User-Agent"], "x");
        assert_eq!(record["ResponseHeaders"]["X-A"], "1");
        let authorization = &record["AWS"]["AuthorizationHeader"];
        assert_eq!(authorization["AccountId"], "029608264753");
        assert_eq!(authorization["Service"], "s3");
        assert!(
            record["Geneve"]["VpcEndpointId"]
                .as_str()
                .unwrap()
                .starts_with("vpce-")
        );
        assert!(record["Client"]["IpAddress"].is_string() && record["Server"]["Port"].is_u64());
        assert!(record["Time"].as_str().unwrap().ends_with('Z'));
    }

    #[tokio::test]
    async fn threat_67_no_secret_is_in_a_line_unless_an_operator_wants_it() {
        let (_, text) = records("", &[(REQUEST, RESPONSE)]).await;
        assert!(!text.contains("planted"), "{text}");
        let (records, _) = records(r#"show-fields = ["Cookie"]"#, &[(REQUEST, RESPONSE)]).await;
        assert_eq!(records[0]["RequestHeaders"]["Cookie"], "id=planted");
    }

    #[tokio::test]
    async fn threat_66_hostile_text_stays_within_its_line() {
        let request = "GET /\u{7f}%0a{ HTTP/1.1\nHost: a\nX: \u{1b}[2J\n\n";
        let request = request.replace('\u{7f}', "").replace('\u{1b}', "\t\u{80}");
        let (records, text) = records("", &[(&request, "")]).await;
        assert_eq!((records.len(), text.lines().count()), (1, 1));
        assert_eq!(records[0]["StatusCode"], Value::Null);
    }

    #[tokio::test]
    async fn only_exchanges_that_are_meant_are_written() {
        let other = "HTTP/1.1 404 No\nContent-Length: 0\n\n";
        let exchanges = [(REQUEST, RESPONSE), (REQUEST, other)];
        let (records, _) = records(r#"when = "status == 404""#, &exchanges).await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0]["StatusCode"], 404);
    }

    #[tokio::test]
    async fn a_line_that_firehose_would_not_take_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("lines");
        let table = format!("output = '{}'", output.display()).parse().unwrap();
        let interceptor = Firehose::build(&table).unwrap();
        let outlets = interceptor.outlets();
        let mut play = Playbook::from_arc(interceptor);
        for length in [1, LONGEST_RECORD] {
            let request = format!("GET / HTTP/1.1\nHost: a\nX: {}\n\n", "x".repeat(length));
            let _ = play.request(&request).await.to_server();
        }
        drop(play);
        assert!(outlets[0].finish(Duration::from_secs(60)));
        let stats = outlets[0].stats();
        assert_eq!((stats.taken, stats.written, stats.dropped), (2, 1, 1));
    }

    #[test]
    fn keys_that_cannot_be_are_refused() {
        for (keys, key) in [
            ("", "stream"),
            ("stream = 'a'\noutput = 'b'", "stream"),
            ("output = 'ftp://a'", "output"),
            ("output = 'a'\nqueue = 0", "queue"),
        ] {
            let fault = Firehose::build(&keys.parse().unwrap()).unwrap_err();
            assert_eq!(fault.key.as_deref(), Some(key), "{fault}");
        }
    }
}
