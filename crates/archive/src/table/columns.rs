//! The columns of a table, and rows as the bytes of a Parquet file.
//!
//! One list says what the columns are called, what they hold and where it comes from; the file's schema
//! is made of it. The writer is the `parquet` crate's, without Arrow: columns are made here.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use parquet::basic;
use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::{WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::TypePtr;
use records::Redaction;
use sdk::Ec2Host;
use serde::Deserialize;

use super::facts::{Facts, Host, Pairs};
use super::row::Row;

/// How columns are made smaller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Compression {
    /// RFC 1952: smaller than Snappy, and slower.
    Gzip,
    /// As they are.
    None,
    /// What every reader knows.
    #[default]
    Snappy,
}

type Number = fn(&Facts<'_>) -> Option<i32>;
type Text = for<'f> fn(&'f Facts<'_>) -> Option<&'f str>;
type Map = for<'f> fn(&'f Facts<'_>) -> Vec<(&'f str, &'f str)>;

/// What a column holds, and how it is got.
#[derive(Clone, Copy)]
enum Kind {
    /// Milliseconds since 1970, of UTC.
    Time(fn(&Facts<'_>) -> i64),
    Long(fn(&Facts<'_>) -> i64),
    Number(Number),
    Text(Text),
    /// Text by text; empty where there is nothing.
    Map(Map),
}

fn filled(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn borrowed<'f>(pairs: &'f Pairs<'_>) -> Vec<(&'f str, &'f str)> {
    pairs
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

fn of_ec2<'f>(host: &'f Host<'_>, of: fn(&Ec2Host) -> &str) -> Option<&'f str> {
    filled(of(host.ec2?))
}

fn tags<'f>(host: &'f Host<'_>) -> Vec<(&'f str, &'f str)> {
    let tags = host.ec2.iter().flat_map(|host| &host.tags);
    tags.map(|(key, value)| (key.as_str(), value.as_str()))
        .collect()
}

const COLUMNS: &[(&str, Kind)] = &[
    ("time", Kind::Time(|f| f.time)),
    ("duration_millis", Kind::Long(|f| f.duration)),
    ("method", Kind::Text(|f| Some(f.method))),
    ("host", Kind::Text(|f| filled(f.host))),
    ("etld_plus_one", Kind::Text(|f| filled(f.etld_plus_one))),
    ("url", Kind::Text(|f| Some(&f.url))),
    ("status_code", Kind::Number(|f| f.status)),
    ("status_message", Kind::Text(|f| f.status_message)),
    ("vpc_endpoint_id", Kind::Text(|f| Some(&f.endpoint))),
    ("attachment_id", Kind::Text(|f| Some(&f.attachment))),
    ("flow_cookie", Kind::Text(|f| Some(&f.cookie))),
    ("client_ip_address", Kind::Text(|f| Some(&f.client.address))),
    ("client_port", Kind::Number(|f| Some(f.client.port))),
    (
        "client_instance_id",
        Kind::Text(|f| f.client.ec2?.instance_id.as_deref()),
    ),
    (
        "client_account_id",
        Kind::Text(|f| of_ec2(&f.client, |host| &host.account_id)),
    ),
    (
        "client_vpc_id",
        Kind::Text(|f| of_ec2(&f.client, |host| &host.vpc_id)),
    ),
    (
        "client_subnet_id",
        Kind::Text(|f| of_ec2(&f.client, |host| &host.subnet_id)),
    ),
    ("client_tags", Kind::Map(|f| tags(&f.client))),
    ("server_ip_address", Kind::Text(|f| Some(&f.server.address))),
    ("server_port", Kind::Number(|f| Some(f.server.port))),
    (
        "server_instance_id",
        Kind::Text(|f| f.server.ec2?.instance_id.as_deref()),
    ),
    (
        "server_account_id",
        Kind::Text(|f| of_ec2(&f.server, |host| &host.account_id)),
    ),
    (
        "server_vpc_id",
        Kind::Text(|f| of_ec2(&f.server, |host| &host.vpc_id)),
    ),
    (
        "server_subnet_id",
        Kind::Text(|f| of_ec2(&f.server, |host| &host.subnet_id)),
    ),
    ("server_tags", Kind::Map(|f| tags(&f.server))),
    (
        "tls_version",
        Kind::Number(|f| Some(f.tls?.client_version.into())),
    ),
    (
        "tls_cipher_suite",
        Kind::Number(|f| Some(f.tls?.client_cipher_suite.into())),
    ),
    (
        "tls_server_name",
        Kind::Text(|f| f.tls?.server_name.as_deref()),
    ),
    ("tls_ja4", Kind::Text(|f| filled(&f.tls?.ja4))),
    (
        "aws_key_id",
        Kind::Text(|f| Some(&f.caller.as_ref()?.key_id)),
    ),
    ("aws_date", Kind::Text(|f| Some(&f.caller.as_ref()?.date))),
    (
        "aws_region",
        Kind::Text(|f| Some(&f.caller.as_ref()?.region)),
    ),
    (
        "aws_service",
        Kind::Text(|f| Some(&f.caller.as_ref()?.service)),
    ),
    (
        "aws_account_id",
        Kind::Text(|f| f.caller.as_ref()?.account.as_deref()),
    ),
    (
        "request_headers",
        Kind::Map(|f| borrowed(&f.request_headers)),
    ),
    (
        "response_headers",
        Kind::Map(|f| borrowed(&f.response_headers)),
    ),
];

/// What reads these files again needs to know of the columns.
#[cfg(feature = "reading")]
pub(super) fn shape() -> impl Iterator<Item = super::reading::Column> {
    use super::reading::{Column, Kind as Read};
    COLUMNS.iter().map(|(name, kind)| Column {
        name,
        kind: match kind {
            Kind::Time(_) => Read::Time,
            Kind::Long(_) | Kind::Number(_) => Read::Integer,
            Kind::Text(_) => Read::Text,
            Kind::Map(_) => Read::Map,
        },
        of_name: false,
    })
}

/// The schema, in Parquet's language.
fn schema() -> String {
    let mut text = "message exchange {".to_owned();
    for (name, kind) in COLUMNS {
        let column = match kind {
            Kind::Time(_) => format!("required int64 {name} (TIMESTAMP(MILLIS,true));"),
            Kind::Long(_) => format!("required int64 {name};"),
            Kind::Number(_) => format!("optional int32 {name};"),
            Kind::Text(_) => format!("optional binary {name} (STRING);"),
            Kind::Map(_) => format!(
                "required group {name} (MAP) {{ repeated group key_value {{ \
                 required binary key (STRING); required binary value (STRING); }} }}"
            ),
        };
        text.push_str(&column);
    }
    text.push('}');
    text
}

/// Reading the schema once is enough. That it can be read is what a test shows.
static SCHEMA: LazyLock<core::result::Result<TypePtr, String>> = LazyLock::new(|| {
    let schema = parse_message_type(&schema());
    schema.map(Arc::new).map_err(|error| error.to_string())
});

/// Makes files.
#[derive(Debug)]
pub(super) struct Writer {
    properties: WriterPropertiesPtr,
    redaction: Redaction,
}

impl Writer {
    pub(super) fn new(compression: Compression, redaction: Redaction) -> Self {
        let compression = match compression {
            Compression::Gzip => basic::Compression::GZIP(basic::GzipLevel::default()),
            Compression::None => basic::Compression::UNCOMPRESSED,
            Compression::Snappy => basic::Compression::SNAPPY,
        };
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .set_created_by(format!("flowdog version {}", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            properties: Arc::new(properties),
            redaction,
        }
    }

    /// A file of these rows.
    ///
    /// # Errors
    /// None that is known: everything is written into memory.
    pub(super) fn file(&self, rows: &[Row]) -> Result<Bytes> {
        let schema = SCHEMA.clone().map_err(ParquetError::General)?;
        let facts: Vec<Facts<'_>> = rows
            .iter()
            .map(|row| Facts::of(row, &self.redaction))
            .collect();
        let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::clone(&self.properties))?;
        let mut group = file.next_row_group()?;
        for (_, kind) in COLUMNS {
            column(&mut group, *kind, &facts)?;
        }
        group.close()?;
        Ok(file.into_inner()?.into())
    }
}

fn column(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    kind: Kind,
    facts: &[Facts<'_>],
) -> Result<()> {
    match kind {
        Kind::Time(get) | Kind::Long(get) => {
            let values: Vec<i64> = facts.iter().map(get).collect();
            write::<Int64Type>(group, &values, None, None)
        }
        Kind::Number(get) => {
            let found: Vec<Option<i32>> = facts.iter().map(get).collect();
            let values: Vec<i32> = found.iter().copied().flatten().collect();
            write::<Int32Type>(group, &values, Some(&levels(&found)), None)
        }
        Kind::Text(get) => {
            let found: Vec<Option<&str>> = facts.iter().map(|facts| get(facts)).collect();
            let values: Vec<ByteArray> = found.iter().copied().flatten().map(text).collect();
            write::<ByteArrayType>(group, &values, Some(&levels(&found)), None)
        }
        Kind::Map(get) => {
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            // An empty map is one place without a value; the second pair of a map and all after it say
            // that they go on with it.
            let (mut present, mut repeated) = (Vec::new(), Vec::new());
            for facts in facts {
                let pairs = get(facts);
                if pairs.is_empty() {
                    present.push(0);
                    repeated.push(0);
                }
                for (at, (key, value)) in pairs.into_iter().enumerate() {
                    keys.push(text(key));
                    values.push(text(value));
                    present.push(1);
                    repeated.push(i16::from(at > 0));
                }
            }
            write::<ByteArrayType>(group, &keys, Some(&present), Some(&repeated))?;
            write::<ByteArrayType>(group, &values, Some(&present), Some(&repeated))
        }
    }
}

fn text(text: &str) -> ByteArray {
    text.as_bytes().to_vec().into()
}

fn levels<T>(found: &[Option<T>]) -> Vec<i16> {
    found.iter().map(|one| i16::from(one.is_some())).collect()
}

fn write<T: parquet::data_type::DataType>(
    group: &mut SerializedRowGroupWriter<'_, Vec<u8>>,
    values: &[T::T],
    present: Option<&[i16]>,
    repeated: Option<&[i16]>,
) -> Result<()> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    column.typed::<T>().write_batch(values, present, repeated)?;
    column.close()
}
