//! The appliance's configuration in the lab, and who trusts whom.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flowdog::config::Ca;
use lab::tour::{ADDED_FIELD, RENAMED_FIELD};
use tempfile::TempDir;

/// Where distributions keep the public roots in one file.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A configuration file with what the lab has to know of it, and a place for the lab's files.
#[derive(Debug)]
pub(crate) struct Settings {
    directory: TempDir,
    file: PathBuf,
    authority: PathBuf,
    environment: Vec<(String, String)>,
    /// Where the appliance takes GENEVE.
    pub(crate) gwlb_address: SocketAddrV4,
    /// Where it answers health checks.
    pub(crate) health_address: SocketAddr,
}

/// Certificate files.
#[derive(Debug)]
pub(crate) struct Trust {
    /// What the appliance believes of servers.
    pub(crate) appliance: PathBuf,
    /// What the client believes.
    pub(crate) client: PathBuf,
}

/// Makes a certificate authority for this lab only; returns the files of its certificate and key.
fn create_authority(directory: &TempDir) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (certificate, key) = (
        directory.path().join("ca.pem"),
        directory.path().join("ca.key"),
    );
    tls::Authority::create_files("flowdog lab root", &certificate, &key)
        .context("cannot make the lab's certificate authority")?;
    Ok((certificate, key))
}

impl Settings {
    /// Reads the user's configuration, or writes the lab's own with a fresh authority.
    pub(crate) fn new(
        config: Option<&Path>,
        gwlb: SocketAddrV4,
        health: SocketAddr,
    ) -> anyhow::Result<Self> {
        let directory =
            TempDir::with_prefix("flowdog-lab-").context("cannot make a temporary directory")?;
        fs::create_dir(directory.path().join("empty"))?;
        match config {
            Some(file) => Self::of_user(directory, file, gwlb),
            None => Self::of_lab(directory, gwlb, health),
        }
    }

    fn of_user(directory: TempDir, file: &Path, gwlb: SocketAddrV4) -> anyhow::Result<Self> {
        let config = flowdog::Config::load(file, &flowdog::built_in())?;
        let mut gwlb_address = config.gwlb.listen;
        if gwlb.ip().is_loopback() {
            // The load balancer shares the host's loopback network with the appliance.
            if !gwlb_address.ip().is_loopback() {
                bail!(
                    "{}: gwlb.listen is {gwlb_address}; in a lab without namespaces it must be a loopback address, as {gwlb}",
                    file.display()
                );
            }
        } else if gwlb_address.ip().is_unspecified() {
            gwlb_address.set_ip(*gwlb.ip());
        } else if gwlb_address.ip() != gwlb.ip() {
            bail!(
                "{}: gwlb.listen is {gwlb_address}; in the lab it must be 0.0.0.0:{port} or {}:{port}",
                file.display(),
                gwlb.ip(),
                port = gwlb_address.port()
            );
        }
        let mut health_address = config.health.listen;
        if health_address.ip().is_unspecified() {
            health_address.set_ip(IpAddr::from(Ipv4Addr::LOCALHOST));
        }
        let (authority, environment) = match config.tls.ca {
            Some(ca) => (ca.certificate, Vec::new()),
            // Rules are worth little in a lab that cannot read TLS.
            None => {
                let (certificate, key) = create_authority(&directory)?;
                let path = |path: &Path| path.display().to_string();
                let environment = vec![
                    (Ca::CERTIFICATE_VARIABLE.to_owned(), path(&certificate)),
                    (Ca::KEY_VARIABLE.to_owned(), path(&key)),
                ];
                (certificate, environment)
            }
        };
        Ok(Self {
            directory,
            file: file.to_owned(),
            authority,
            environment,
            gwlb_address,
            health_address,
        })
    }

    fn of_lab(directory: TempDir, gwlb: SocketAddrV4, health: SocketAddr) -> anyhow::Result<Self> {
        let (authority, _key) = create_authority(&directory)?;
        let file = directory.path().join("flowdog.toml");
        let (name, value) = ADDED_FIELD;
        let listen = if gwlb.ip().is_loopback() {
            *gwlb.ip()
        } else {
            Ipv4Addr::UNSPECIFIED
        };
        let port = gwlb.port();
        let text = format!(
            r#"# Written by `flowdog lab`: every flow is intercepted.
[gwlb]
listen = "{listen}:{port}"
[health]
listen = "{health}"
[tls.ca]
certificate = "ca.pem"
key = "ca.key"

[[interceptor]]
name = "who"
use = "geneve-headers"

[[interceptor]]
name = "edit"
use = "edit-headers"
request = [{{ set = "{name}", value = "{value}" }}, {{ rename = "User-Agent", to = "{RENAMED_FIELD}" }}]

[[interceptor]]
name = "song"
use = "sts-rickroll"

[[rule]]
action = "intercept"
interceptors = ["who", "edit", "song"]
"#
        );
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self {
            directory,
            file,
            authority,
            environment: Vec::new(),
            gwlb_address: gwlb,
            health_address: health,
        })
    }

    /// The configuration file.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Variables that tell the appliance what its file does not.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    /// Where the appliance's log goes unless the user wants it elsewhere.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("appliance.log")
    }

    /// A directory without certificates.
    pub(crate) fn empty_directory(&self) -> PathBuf {
        self.directory.path().join("empty")
    }

    /// The root of the appliance's authority, in PEM.
    pub(crate) fn authority_pem(&self) -> anyhow::Result<String> {
        fs::read_to_string(&self.authority)
            .with_context(|| format!("cannot read {}", self.authority.display()))
    }

    /// Writes the files of trusted roots. With `origins`, the lab's servers are the whole Internet;
    /// without, the system's roots count.
    pub(crate) fn write_trust(&self, origins: Option<&str>) -> anyhow::Result<Trust> {
        let public = match origins {
            Some(origins) => origins.to_owned(),
            None => std::env::var_os("SSL_CERT_FILE")
                .into_iter()
                .map(PathBuf::from)
                .chain(SYSTEM_ROOTS.map(PathBuf::from))
                .find_map(|file| fs::read_to_string(file).ok())
                .context(
                    "this system has no file of public certificate roots (package ca-certificates)",
                )?,
        };
        let trust = Trust {
            appliance: self.directory.path().join("public-roots.pem"),
            client: self.directory.path().join("client-roots.pem"),
        };
        // Flows that are not intercepted show the client the servers' own certificates.
        let authority = self.authority_pem()?;
        fs::write(&trust.appliance, &public).context("cannot write the appliance's roots")?;
        fs::write(&trust.client, format!("{authority}\n{public}"))
            .context("cannot write the client's roots")?;
        Ok(trust)
    }
}
