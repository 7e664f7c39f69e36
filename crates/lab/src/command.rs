//! Runs a user's program as the client of the lab.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;

use crate::addresses::DNS_V4;
use crate::netns::Namespace;
use crate::netns::sys::end_with_starter;

/// Environment variables by which programs find extra certificate authorities; each names one file.
const CERTIFICATE_VARIABLES: [&str; 12] = [
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "DENO_CERT",
    "GIT_SSL_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "HTTPLIB2_CA_CERTS",
    "NIX_SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// The environment that makes common programs trust `roots`, a PEM file.
#[must_use]
pub fn certificate_environment(roots: &Path) -> Vec<(String, String)> {
    CERTIFICATE_VARIABLES
        .iter()
        .map(|name| ((*name).to_owned(), roots.display().to_string()))
        .collect()
}

/// Files that make the lab's name server the resolver of a program.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    directory: PathBuf,
}

impl Resolver {
    /// Writes the files into an existing directory.
    pub(crate) fn write(directory: &Path) -> io::Result<Self> {
        let text = format!("nameserver {DNS_V4}\noptions timeout:2 attempts:3\n");
        for name in ["resolv.conf", "stub-resolv.conf"] {
            fs::write(directory.join(name), &text)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Puts the files in place for the calling thread and what it starts; nobody else sees them.
    fn install(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let bind = |from: &Path, to: &Path| mount(Some(from), to, none, MsFlags::MS_BIND, none);
        // A local resolver or cache daemon would answer from outside the lab: hide its directory,
        // which may also be where /etc/resolv.conf points to.
        for daemon in ["/run/systemd/resolve", "/run/nscd", "/var/run/nscd"].map(Path::new) {
            if daemon.is_dir() {
                bind(&self.directory, daemon)?;
            }
        }
        let file = Path::new("/etc/resolv.conf");
        if file.exists() {
            bind(&self.directory.join("resolv.conf"), file)?;
        } else {
            tracing::warn!(
                "there is no /etc/resolv.conf to replace; names will not resolve in the lab"
            );
        }
        Ok(())
    }
}

/// Starts a program in a client namespace with the lab's resolver and environment.
///
/// # Errors
/// The namespace cannot be prepared, or the program cannot be started.
pub(crate) fn spawn(
    namespace: &Namespace,
    resolver: &Resolver,
    command: &[OsString],
    environment: &[(String, String)],
    configure: impl FnOnce(&mut Command) + Send,
) -> io::Result<Child> {
    namespace.run(|| start(resolver, command, environment, configure))
}

/// Runs a program as [`spawn`] does and waits for it; should this process end first, so does the program.
///
/// # Errors
/// The namespace cannot be prepared, or the program cannot be started.
pub(crate) fn run(
    namespace: &Namespace,
    resolver: &Resolver,
    command: &[OsString],
    environment: &[(String, String)],
) -> io::Result<ExitStatus> {
    // The thread that starts it lives as long as the program, or as this process.
    namespace.run(|| {
        start(resolver, command, environment, |process| {
            end_with_starter(process, Signal::SIGHUP)
        })?
        .wait()
    })
}

fn start(
    resolver: &Resolver,
    command: &[OsString],
    environment: &[(String, String)],
    configure: impl FnOnce(&mut Command),
) -> io::Result<Child> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no command to run"))?;
    resolver.install()?;
    let mut process = Command::new(program);
    process
        .args(arguments)
        .envs(environment.iter().map(|(key, value)| (key, value)));
    configure(&mut process);
    process.spawn().map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot run {}: {error}", program.to_string_lossy()),
        )
    })
}

/// The exit code as a shell tells it: 128 plus the signal for a program that was killed.
#[must_use]
pub fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}
