//! Objects in S3, Google Cloud Storage or Azure Blob Storage.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws::{Client, ClientConfig, CredentialSource, Environment, Region};
use bytes::Bytes;
use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{
    CredentialProvider, MultipartUpload as _, ObjectStore, ObjectStoreExt as _, PutPayload,
    RetryConfig,
};
use tokio::sync::OnceCell;

use super::http::Connector;
use super::{Address, Service};

/// Larger objects go in parts. S3 takes parts from 5 MiB.
const PART: usize = 8 << 20;
/// How long one request may take: a part over a slow line.
const ATTEMPT: Duration = Duration::from_secs(60);
/// Largest answer that is read: none of those to a write is large.
const MAX_ANSWER: usize = 1 << 20;
/// The same where objects are read: a piece of one, or a page of a list of a thousand names.
#[cfg(feature = "reading")]
const MAX_PIECE: usize = 16 << 20;

/// What is configured besides the address.
#[derive(Clone, Debug)]
pub(crate) struct RemoteSettings {
    /// The region of the bucket; otherwise that of the environment or the instance.
    pub(crate) region: Option<Region>,
    /// Another endpoint than the service's own.
    pub(crate) endpoint: Option<String>,
    /// Where credentials are looked for.
    pub(crate) environment: Environment,
}

/// An object store, opened at the first write: only then credentials and region are asked for.
#[derive(Debug)]
pub(crate) struct Remote {
    address: Address,
    settings: RemoteSettings,
    answer: usize,
    opened: OnceCell<Arc<dyn ObjectStore>>,
}

impl Remote {
    /// A store to be opened later; nothing is sent.
    #[must_use]
    pub(crate) fn new(address: Address, settings: RemoteSettings) -> Self {
        Self {
            address,
            settings,
            answer: MAX_ANSWER,
            opened: OnceCell::new(),
        }
    }

    /// The same for reading.
    #[cfg(feature = "reading")]
    #[must_use]
    pub(crate) fn to_read(address: Address, settings: RemoteSettings) -> Self {
        Self {
            answer: MAX_PIECE,
            ..Self::new(address, settings)
        }
    }

    pub(super) async fn put(&self, key: &str, data: Bytes) -> Result<(), String> {
        let (store, path) = self.target(key).await?;
        let done = if data.len() <= PART {
            store.put(&path, data.into()).await.map(drop)
        } else {
            let mut rest = data;
            put_in_parts(store, &path, || Ok(rest.split_to(rest.len().min(PART)))).await
        };
        done.map_err(|error| error.to_string())
    }

    pub(super) async fn put_file(&self, key: &str, mut file: File) -> Result<(), String> {
        let (store, path) = self.target(key).await?;
        let mut next = || {
            let mut part = Vec::new();
            // The thread is ours; nobody else waits for the disk.
            (&mut file).take(PART as u64).read_to_end(&mut part)?;
            Ok(Bytes::from(part))
        };
        let first = next().map_err(|error: io::Error| error.to_string())?;
        let done = if first.len() < PART {
            store.put(&path, first.into()).await.map(drop)
        } else {
            let mut first = Some(first);
            put_in_parts(store, &path, || first.take().map_or_else(&mut next, Ok)).await
        };
        done.map_err(|error| error.to_string())
    }

    /// The store; in it, names begin with the address's prefix.
    pub(crate) async fn store(&self) -> Result<&Arc<dyn ObjectStore>, String> {
        self.opened.get_or_try_init(|| self.open()).await
    }

    /// The store, and where an object of this name is in it.
    async fn target(&self, key: &str) -> Result<(&Arc<dyn ObjectStore>, Path), String> {
        let store = self.store().await?;
        let whole = match self.address.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        };
        let path = Path::parse(&whole).map_err(|error| error.to_string())?;
        Ok((store, path))
    }

    async fn open(&self) -> Result<Arc<dyn ObjectStore>, String> {
        let client = Client::new(ClientConfig {
            attempt: ATTEMPT,
            answer: self.answer,
            ..ClientConfig::default()
        });
        let connector = Connector(client.map_err(|fault| fault.to_string())?);
        let opened = match self.address.service {
            Service::S3 => self.open_s3(connector).await?,
            Service::Gcs => self.open_gcs(connector),
            Service::Azure => self.open_azure(connector),
        };
        opened.map_err(|error| error.to_string())
    }

    async fn open_s3(
        &self,
        connector: Connector,
    ) -> Result<object_store::Result<Arc<dyn ObjectStore>>, String> {
        let settings = &self.settings;
        let source = CredentialSource::new(settings.region.clone(), settings.environment.clone())
            .map_err(|error| error.to_string())?;
        let (region, _) = source.get().await.map_err(|error| error.to_string())?;
        let endpoint = settings.endpoint.clone().or_else(|| source.endpoint("s3"));
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&self.address.bucket)
            .with_region(region.as_str())
            .with_credentials(Arc::new(FromSource(source)))
            .with_http_connector(connector)
            .with_retry(retry());
        if let Some(endpoint) = endpoint {
            builder = builder
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint);
        }
        Ok(builder.build().map(|store| Arc::new(store) as _))
    }

    fn open_gcs(&self, connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
        let mut builder = GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&self.address.bucket)
            .with_http_connector(connector)
            .with_retry(retry());
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder.with_base_url(endpoint);
        }
        builder.build().map(|store| Arc::new(store) as _)
    }

    fn open_azure(&self, connector: Connector) -> object_store::Result<Arc<dyn ObjectStore>> {
        let account = self.address.account.as_deref().unwrap_or_default();
        let mut builder = MicrosoftAzureBuilder::from_env()
            .with_account(account)
            .with_container_name(&self.address.bucket)
            .with_http_connector(connector)
            .with_retry(retry());
        if let Some(endpoint) = &self.settings.endpoint {
            builder = builder
                .with_allow_http(endpoint.starts_with("http://"))
                .with_endpoint(endpoint.clone());
        }
        builder.build().map(|store| Arc::new(store) as _)
    }
}

/// Whoever writes objects tries again by himself, later and with the whole object.
fn retry() -> RetryConfig {
    RetryConfig {
        max_retries: 2,
        retry_timeout: Duration::from_secs(20),
        ..RetryConfig::default()
    }
}

/// Puts parts until there is an empty one.
async fn put_in_parts(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    mut next: impl FnMut() -> io::Result<Bytes>,
) -> object_store::Result<()> {
    let mut upload = store.put_multipart(path).await?;
    let mut done = Ok(());
    while done.is_ok() {
        done = match next() {
            Ok(part) if part.is_empty() => break,
            Ok(part) => upload.put_part(PutPayload::from(part)).await,
            Err(error) => Err(object_store::Error::Generic {
                store: "file",
                source: Box::new(error),
            }),
        };
    }
    if done.is_ok() {
        done = upload.complete().await.map(drop);
    }
    if done.is_err() {
        // The parts cost money until they are taken away. If this fails too, the bucket's lifecycle
        // rule has to.
        let _ = upload.abort().await;
    }
    done
}

/// Credentials as the `aws` crate finds and renews them.
#[derive(Debug)]
struct FromSource(CredentialSource);

#[async_trait]
impl CredentialProvider for FromSource {
    type Credential = AwsCredential;
    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let found = self.0.get().await;
        let (_, found) = found.map_err(|error| object_store::Error::Generic {
            store: "S3",
            source: Box::new(error),
        })?;
        Ok(Arc::new(AwsCredential {
            key_id: found.access_key_id,
            secret_key: found.secret_access_key,
            token: found.session_token,
        }))
    }
}
