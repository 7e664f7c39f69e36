//! Where objects go: a folder, or a bucket.

mod folder;
mod http;
mod remote;

use core::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::str::FromStr;

use bytes::Bytes;

use folder::Folder;
pub(crate) use remote::{Remote, RemoteSettings};

/// A place for objects, as the operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A folder of this machine.
    Folder(PathBuf),
    /// A bucket or container, and what names in it begin with.
    Remote(Address),
}

/// `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://ACCOUNT/CONTAINER/PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Whose service.
    pub(crate) service: Service,
    /// The storage account; for Azure only.
    pub(crate) account: Option<String>,
    /// The bucket or container.
    pub(crate) bucket: String,
    /// Without slashes at its ends; may be empty.
    pub(crate) prefix: String,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.service {
            Service::Azure => "az://",
            Service::Gcs => "gs://",
            Service::S3 => "s3://",
        })?;
        let account = self.account.as_deref().into_iter();
        let parts = account.chain([self.bucket.as_str(), &self.prefix]);
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        f.write_str(&parts.join("/"))
    }
}

/// A service that keeps objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Azure Blob Storage.
    Azure,
    /// Google Cloud Storage.
    Gcs,
    /// Amazon S3, or something that behaves like it.
    S3,
}

/// A text that names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no place for objects")]
pub(crate) struct InvalidPlace(String);

/// What places look like.
pub(crate) const ALLOWED: &str =
    "an absolute folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://ACCOUNT/CONTAINER/PREFIX";

impl FromStr for Place {
    type Err = InvalidPlace;
    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        let invalid = || InvalidPlace(text.chars().take(200).collect());
        if text.starts_with('/') {
            return Ok(Self::Folder(PathBuf::from(text)));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(invalid)?;
        let service = match scheme {
            "s3" => Service::S3,
            "gs" => Service::Gcs,
            "az" => Service::Azure,
            _ => return Err(invalid()),
        };
        let mut parts = rest.trim_end_matches('/').splitn(3, '/');
        let account = match service {
            Service::Azure => Some(parts.next().unwrap_or_default().to_owned()),
            Service::Gcs | Service::S3 => None,
        };
        let bucket = parts.next().unwrap_or_default().to_owned();
        let prefix = parts.collect::<Vec<_>>().join("/");
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 255
                && name
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
                && !name.starts_with('.')
        };
        let is_good = is_name(&bucket)
            && account.as_deref().is_none_or(is_name)
            && (prefix.is_empty()
                || prefix
                    .split('/')
                    .all(|part| is_name(&part.replace('=', "-"))));
        is_good
            .then_some(Self::Remote(Address {
                service,
                account,
                bucket,
                prefix,
            }))
            .ok_or_else(invalid)
    }
}

/// A place for objects that is opened when there is something to write.
#[derive(Debug)]
pub(crate) struct Objects {
    place: Place,
    settings: RemoteSettings,
    store: Option<Store>,
}

/// An open place.
#[derive(Debug)]
enum Store {
    Folder(Folder),
    Remote(Remote),
}

impl Objects {
    /// Opens nothing yet.
    #[must_use]
    pub(crate) fn new(place: Place, settings: RemoteSettings) -> Self {
        Self {
            place,
            settings,
            store: None,
        }
    }

    /// Keeps an object, whole or not at all. If it was not kept, it may be tried again under the same
    /// name.
    pub(crate) async fn put(&mut self, key: &str, data: Bytes) -> Result<(), String> {
        match self.open()? {
            Store::Folder(folder) => folder.put(key, &data).map_err(|error| error.to_string()),
            Store::Remote(remote) => remote.put(key, data).await,
        }
    }

    /// Keeps a file as an object, in parts if it is large, so that little of it is in memory.
    pub(crate) async fn put_file(&mut self, key: &str, mut file: File) -> Result<(), String> {
        match self.open()? {
            Store::Folder(folder) => {
                let mut data = Vec::new();
                file.read_to_end(&mut data)
                    .and_then(|_| folder.put(key, &data))
                    .map_err(|error| error.to_string())
            }
            Store::Remote(remote) => remote.put_file(key, file).await,
        }
    }

    fn open(&mut self) -> Result<&Store, String> {
        let store = match self.store.take() {
            Some(store) => store,
            None => match &self.place {
                Place::Folder(path) => {
                    Store::Folder(Folder::open(path).map_err(|error| error.to_string())?)
                }
                Place::Remote(address) => {
                    Store::Remote(Remote::new(address.clone(), self.settings.clone()))
                }
            },
        };
        Ok(self.store.insert(store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let remote = |service, account: Option<&str>, bucket: &str, prefix: &str| {
            Place::Remote(Address {
                service,
                account: account.map(str::to_owned),
                bucket: bucket.to_owned(),
                prefix: prefix.to_owned(),
            })
        };
        for (text, place) in [
            ("/var/lib/har", Place::Folder("/var/lib/har".into())),
            ("s3://b", remote(Service::S3, None, "b", "")),
            ("s3://b/", remote(Service::S3, None, "b", "")),
            ("s3://b/a/x=1/", remote(Service::S3, None, "b", "a/x=1")),
            ("gs://b/a", remote(Service::Gcs, None, "b", "a")),
            (
                "az://acc/c/a/b",
                remote(Service::Azure, Some("acc"), "c", "a/b"),
            ),
        ] {
            if let Place::Remote(address) = &place {
                assert_eq!(address.to_string(), text.trim_end_matches('/'));
            }
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
        for text in [
            "",
            "har",
            "./har",
            "s3://",
            "s3:///a",
            "ftp://a/b",
            "az://acc",
            "s3://b/../c",
            "s3://b//c",
            "s3://b c/d",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
