//! Which appliance, and with what credentials.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use flowdog_capture::Address;
use flowdog_capture::client::Target;

/// Which appliance, and with what credentials.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct TargetArgs {
    /// Where the appliance's capture service is: unix:/path or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS", env = "FLOWDOGSHARK_TARGET", default_value = Target::DEFAULT)]
    pub(crate) target: String,
    /// A file with the token that the appliance asks for
    #[arg(long, value_name = "FILE", env = "FLOWDOGSHARK_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The certificate of whoever signed the appliance's; speaks TLS
    #[arg(long, value_name = "PEM")]
    pub(crate) ca: Option<PathBuf>,
    /// The name in the appliance's certificate
    #[arg(long, value_name = "NAME")]
    pub(crate) server_name: Option<String>,
    /// Our certificate
    #[arg(long, value_name = "PEM", requires = "key")]
    pub(crate) certificate: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "PEM", requires = "certificate")]
    pub(crate) key: Option<PathBuf>,
}

impl TargetArgs {
    pub(crate) fn read(&self) -> Result<Target> {
        let address: Address = self.target.parse().map_err(anyhow::Error::msg)?;
        let identity = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Some((text(certificate)?, text(key)?.into())),
            _ => None,
        };
        Ok(Target {
            address: Some(address),
            token: self
                .token_file
                .as_deref()
                .map(|file| text(file).map(|token| token.trim().to_owned().into()))
                .transpose()?,
            ca: self.ca.as_deref().map(text).transpose()?,
            server_name: self.server_name.clone(),
            identity,
        })
    }
}

fn text(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
