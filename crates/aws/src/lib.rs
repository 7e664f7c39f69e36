//! Speaks to AWS, off the packet path.
//!
//! What is here: where credentials and the region come from ([`Credentials`], [`Region`]), one
//! signed request at a time over its own connection ([`Client`]), the certificate authority's key in
//! KMS ([`KmsKey`], [`KmsSigner`]), invocations of a Lambda function ([`LambdaFunction`]), small tables
//! read whole ([`ObjectSource`], [`TableSource`]), and what
//! an account has in EC2, with the events that say when it changes ([`Ec2Source`]).
//!
//! What it refuses: to keep traffic waiting (its callers are threads that may block), to log a
//! credential, and to repeat a request for longer than its caller can wait. It needs no AWS SDK;
//! a request is a signed POST, and the services used here have a dozen operations.
#![forbid(unsafe_code)]

mod client;
mod credentials;
mod ec2;
mod error;
mod events;
#[doc(hidden)]
pub mod fuzzing;
mod ini;
mod json_service;
mod kms;
mod lambda;
mod session;
mod snapshot;
mod sources;
mod store;
mod xml;

pub use client::{Client, ClientConfig};
pub use credentials::{Credentials, Region};
pub use ec2::{Ec2Settings, Ec2Source};
pub use error::{AwsError, Fault};
pub use events::Ec2Events;
pub use json_service::{JsonService, JsonSettings};
pub use kms::{KmsKey, KmsSettings, KmsSigner};
pub use lambda::{LambdaFunction, LambdaSettings};
pub use snapshot::{ObjectSource, ObjectVersion, SnapshotSettings, TableSource};
pub use sources::Environment;
pub use store::CredentialSource;
