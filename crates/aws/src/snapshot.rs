//! Small tables read as a whole: an object in S3, a table in DynamoDB.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use serde_json::{Value, json};

use crate::client::{Answer, Client, ClientConfig, encoded, judge_xml, sign_object_request};
use crate::credentials::Region;
use crate::error::{AwsError, Fault};
use crate::session::{Known, Session, parse_endpoint};
use crate::sources::Environment;

/// Most pages of a scan: DynamoDB reads a megabyte for each (Scan, "Limits").
const MOST_PAGES: usize = 1000;

/// How to reach a table, and how large it may be.
#[derive(Debug, Clone)]
pub struct SnapshotSettings {
    /// The region; otherwise that of the environment, or the instance.
    pub region: Option<Region>,
    /// Another endpoint of the service than the region's own, as of a VPC endpoint.
    pub endpoint: Option<String>,
    /// Where credentials are looked for.
    pub environment: Environment,
    /// Most bytes that are read.
    pub most: usize,
}

/// The session and client of a source.
#[derive(Debug)]
struct Reader {
    session: Session,
    client: Client,
    endpoint: Option<String>,
    most: usize,
}

impl Reader {
    fn new(settings: SnapshotSettings, answer: usize) -> Result<Self, Fault> {
        if let Some(endpoint) = &settings.endpoint {
            parse_endpoint(endpoint)?;
        }
        let client = ClientConfig {
            attempts: 2,
            attempt: Duration::from_secs(5),
            answer,
            ..ClientConfig::default()
        };
        Ok(Self {
            session: Session::new(settings.region, None, settings.environment),
            client: Client::new(client)?,
            endpoint: settings.endpoint,
            most: settings.most,
        })
    }

    async fn known(&self, service: &str) -> Result<(Known, Uri), Fault> {
        let known = self.session.known(&self.client).await?;
        let configured = self.endpoint.as_deref();
        let endpoint = self.session.endpoint(service, configured, &known.region)?;
        Ok((known, endpoint))
    }

    /// Credentials that were refused are looked up anew the next time.
    async fn checked<T>(&self, what: &str, result: Result<T, Fault>) -> Result<T, AwsError> {
        if let Err(Fault::Refused(_)) = result {
            self.session.forget().await;
        }
        result.map_err(|fault| AwsError {
            what: what.to_owned(),
            fault,
        })
    }
}

/// An object in S3.
#[derive(Debug)]
pub struct ObjectSource {
    bucket: String,
    key: String,
    reader: Reader,
}

/// An object as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// What is in it.
    pub body: Bytes,
    /// What tells it from other versions.
    pub etag: Option<String>,
}

impl ObjectSource {
    /// An object to be read later; nothing is sent.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the TLS library refuses its configuration.
    pub fn new(
        bucket: impl Into<String>,
        key: impl Into<String>,
        settings: SnapshotSettings,
    ) -> Result<Self, AwsError> {
        // An error has a body too.
        let answer = settings.most.max(16 * 1024);
        let reader = Reader::new(settings, answer).map_err(|fault| AwsError {
            what: GET_OBJECT.to_owned(),
            fault,
        })?;
        Ok(Self {
            bucket: bucket.into(),
            key: key.into(),
            reader,
        })
    }

    /// Reads the object; `None` if it is still the version `known`.
    ///
    /// # Errors
    /// When S3 does not answer or refuses, or the object is too large.
    pub async fn read(&self, known: Option<&str>) -> Result<Option<ObjectVersion>, AwsError> {
        let result = self.get(known).await;
        self.reader.checked(GET_OBJECT, result).await
    }

    async fn get(&self, etag: Option<&str>) -> Result<Option<ObjectVersion>, Fault> {
        let (known, endpoint) = self.reader.known("s3").await?;
        let url = self.url(&endpoint)?;
        let make = || {
            let wrong = |error: http::Error| Fault::NotConfigured(error.to_string());
            let authority = url.authority().map_or("", |authority| authority.as_str());
            let mut request = Request::builder()
                .method(Method::GET)
                .uri(&url)
                .header(header::HOST, authority);
            if let Some(etag) = etag {
                request = request.header(header::IF_NONE_MATCH, etag);
            }
            let request = request.body(()).map_err(wrong)?;
            sign_object_request(request, (&known.credentials, &known.region))
        };
        let judge = |answer: &Answer| match answer.status {
            304 => Ok(None),
            200 => Ok(Some(ObjectVersion {
                body: answer.body.clone(),
                etag: answer.etag.clone(),
            })),
            _ => Err(judge_xml(answer)
                .err()
                .unwrap_or_else(|| Fault::Garbled(format!("status {}", answer.status)))),
        };
        let version = self.reader.client.repeat(GET_OBJECT, make, judge).await?;
        match version {
            Some(version) if version.body.len() > self.reader.most => Err(Fault::Refused(format!(
                "the object is larger than {} bytes",
                self.reader.most
            ))),
            version => Ok(version),
        }
    }

    /// The bucket is part of the name where it can be, as S3 wants it, and of the path where it
    /// cannot: a name with dots fits no certificate, and other endpoints may have no such names.
    fn url(&self, endpoint: &Uri) -> Result<Uri, Fault> {
        let key = self.key.split('/').map(encoded);
        let key = key.collect::<Vec<_>>().join("/");
        let authority = endpoint.authority().map_or("", |one| one.as_str());
        let scheme = endpoint.scheme_str().unwrap_or("https");
        let by_name = authority.starts_with("s3.") && !self.bucket.contains('.');
        let url = if by_name {
            format!("{scheme}://{}.{authority}/{key}", self.bucket)
        } else {
            let path = endpoint.path().trim_end_matches('/');
            format!(
                "{scheme}://{authority}{path}/{}/{key}",
                encoded(&self.bucket)
            )
        };
        url.parse()
            .map_err(|_| Fault::NotConfigured(format!("{url} is no URL")))
    }
}

const GET_OBJECT: &str = "s3:GetObject";
const SCAN: &str = "dynamodb:Scan";

/// A table in DynamoDB, two of whose attributes are keys and values.
#[derive(Debug)]
pub struct TableSource {
    table: String,
    key: String,
    value: String,
    reader: Reader,
}

impl TableSource {
    /// A table to be read later; nothing is sent.
    ///
    /// # Errors
    /// When the endpoint is no URL, or the TLS library refuses its configuration.
    pub fn new(
        table: impl Into<String>,
        (key, value): (impl Into<String>, impl Into<String>),
        settings: SnapshotSettings,
    ) -> Result<Self, AwsError> {
        // A page has a megabyte of items; as JSON they are longer, and escaped, longer still.
        let reader = Reader::new(settings, 8 << 20).map_err(|fault| AwsError {
            what: SCAN.to_owned(),
            fault,
        })?;
        Ok(Self {
            table: table.into(),
            key: key.into(),
            value: value.into(),
            reader,
        })
    }

    /// Reads all of it, page by page.
    ///
    /// # Errors
    /// When DynamoDB does not answer or refuses, or the table is too large or has items without a key
    /// or value that is text.
    pub async fn read(&self) -> Result<BTreeMap<String, String>, AwsError> {
        let result = self.scan().await;
        self.reader.checked(SCAN, result).await
    }

    async fn scan(&self) -> Result<BTreeMap<String, String>, Fault> {
        let (known, endpoint) = self.reader.known("dynamodb").await?;
        let (mut values, mut size) = (BTreeMap::new(), 0);
        let mut start = Value::Null;
        for _ in 0..MOST_PAGES {
            let mut body = json!({
                "TableName": self.table,
                "ConsistentRead": true,
                "ProjectionExpression": "#k, #v",
                // Names of attributes may be reserved words.
                "ExpressionAttributeNames": {"#k": self.key, "#v": self.value},
            });
            if let (Some(body), false) = (body.as_object_mut(), start.is_null()) {
                body.insert("ExclusiveStartKey".to_owned(), start.take());
            }
            let mut page = self
                .reader
                .client
                .json(
                    &endpoint,
                    "dynamodb",
                    "DynamoDB_20120810.Scan",
                    &body,
                    &known.credentials,
                    &known.region,
                )
                .await?;
            let items = page.get("Items").and_then(Value::as_array);
            for item in items.into_iter().flatten() {
                let (key, value) = (text(item, &self.key), text(item, &self.value));
                let (Some(key), Some(value)) = (key, value) else {
                    return Err(Fault::Garbled(format!(
                        "an item has no text in {} and {}",
                        self.key, self.value
                    )));
                };
                size += key.len() + value.len();
                if size > self.reader.most {
                    return Err(Fault::Refused(format!(
                        "the table is larger than {} bytes",
                        self.reader.most
                    )));
                }
                values.insert(key, value);
            }
            match page.get_mut("LastEvaluatedKey").map(Value::take) {
                None | Some(Value::Null) => return Ok(values),
                Some(next) => start = next,
            }
        }
        Err(Fault::Refused(format!(
            "the table has more than {MOST_PAGES} pages"
        )))
    }
}

/// An attribute as text: a string, number or truth value.
fn text(item: &Value, name: &str) -> Option<String> {
    let attribute = item.get(name)?;
    let string = |kind: &str| attribute.get(kind).and_then(Value::as_str);
    string("S")
        .or_else(|| string("N"))
        .map(str::to_owned)
        .or_else(|| Some(attribute.get("BOOL")?.as_bool()?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_stands_where_its_endpoint_can_take_it() {
        let url = |bucket: &str, key: &str, endpoint: &str| {
            let settings = SnapshotSettings {
                region: Region::new("eu-west-1"),
                endpoint: None,
                environment: Environment::of(&[]),
                most: 1,
            };
            let source = ObjectSource::new(bucket, key, settings).unwrap();
            source.url(&endpoint.parse().unwrap()).unwrap().to_string()
        };
        let aws = "https://s3.eu-west-1.amazonaws.com/";
        assert_eq!(
            url("b", "a b/c+d.json", aws),
            "https://b.s3.eu-west-1.amazonaws.com/a%20b/c%2Bd.json"
        );
        assert_eq!(
            url("b.c", "k", aws),
            "https://s3.eu-west-1.amazonaws.com/b.c/k"
        );
        assert_eq!(
            url("b", "k", "http://127.0.0.1:5000"),
            "http://127.0.0.1:5000/b/k"
        );
    }

    #[test]
    fn attributes_are_text_numbers_or_truth_values() {
        let item = json!({"a": {"S": "x"}, "b": {"N": "1.5"}, "c": {"BOOL": true}, "d": {"L": []}});
        assert_eq!(text(&item, "a").as_deref(), Some("x"));
        assert_eq!(text(&item, "b").as_deref(), Some("1.5"));
        assert_eq!(text(&item, "c").as_deref(), Some("true"));
        assert_eq!((text(&item, "d"), text(&item, "e")), (None, None));
    }
}
