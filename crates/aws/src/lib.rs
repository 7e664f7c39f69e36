//! Speaks to AWS, off the packet path.
//!
//! What is here: where credentials and the region come from ([`Credentials`], [`Region`]), one
//! signed request at a time over its own connection ([`Client`]), the certificate authority's key in
//! KMS ([`KmsKey`], [`KmsSigner`]), and invocations of a Lambda function ([`LambdaFunction`]).
//!
//! What it refuses: to keep traffic waiting (its callers are threads that may block), to log a
//! credential, and to repeat a request for longer than its caller can wait. It needs no AWS SDK;
//! a request is a signed POST, and the services used here have three operations.
#![forbid(unsafe_code)]

mod client;
mod credentials;
mod error;
mod ini;
mod kms;
mod lambda;
mod sources;

pub use client::{Client, ClientConfig};
pub use credentials::{Credentials, Region};
pub use error::{AwsError, Fault};
pub use kms::{KmsKey, KmsSettings, KmsSigner};
pub use lambda::{LambdaFunction, LambdaSettings};
pub use sources::Environment;
