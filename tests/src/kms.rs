//! Stand-ins for AWS KMS, and a proxy before them that makes faults.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// What the stand-ins take for credentials.
pub const ENVIRONMENT: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "testing"),
    ("AWS_SECRET_ACCESS_KEY", "testing"),
    ("AWS_DEFAULT_REGION", "eu-central-1"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

/// A program that answers as KMS does, ended when dropped.
#[derive(Debug)]
pub struct Kms {
    child: Child,
    port: u16,
    _folder: TempDir,
}

/// Two independent implementations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// getmoto/moto.
    Moto,
    /// ministack.
    Ministack,
}

impl Kms {
    /// Starts it on a free loopback port.
    ///
    /// # Errors
    /// If it does not answer within a minute.
    pub fn start(kind: Kind) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(crate::python());
        match kind {
            Kind::Moto => command
                .args(["-m", "moto.server", "-H", "127.0.0.1", "-p"])
                .arg(port.to_string()),
            Kind::Ministack => command
                .args(["-m", "ministack.app"])
                .env("BIND_HOST", "127.0.0.1")
                .env("GATEWAY_PORT", port.to_string())
                .env("IOT_MTLS_ENABLED", "0")
                .env("IOT_MTLS_PORT", "0")
                .env("SFTP_ENABLED", "0")
                .env("SERVICES", "kms"),
        };
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = command
            .envs(ENVIRONMENT)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start the stand-in for KMS")?;
        let mut kms = Self {
            child,
            port,
            _folder: folder,
        };
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if let Some(status) = kms.child.try_wait()? {
                let log = std::fs::read_to_string(kms._folder.path().join("log"))?;
                bail!("the stand-in for KMS ended, {status}:\n{log}");
            }
            if start.elapsed() > Duration::from_secs(60) {
                bail!("the stand-in for KMS does not answer");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(kms)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a key to sign with; gives its id.
    ///
    /// # Errors
    /// Those of boto3.
    pub fn create_key(&self, spec: &str) -> Result<String> {
        let script = format!(
            "import boto3; kms = boto3.client('kms', endpoint_url='http://127.0.0.1:{}'); \
             print(kms.create_key(KeySpec='{spec}', KeyUsage='SIGN_VERIFY')['KeyMetadata']['KeyId'])",
            self.port
        );
        let output = Command::new(crate::python())
            .args(["-c", &script])
            .envs(ENVIRONMENT)
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

impl Drop for Kms {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _gone_already = self.child.wait();
    }
}

/// Stands before a [`Kms`] and is unkind as told.
#[derive(Debug, Clone)]
pub struct FaultProxy {
    port: u16,
    state: Arc<Faults>,
}

#[derive(Debug, Default)]
struct Faults {
    /// Requests still to be answered with a throttling error; below zero: the connection is cut.
    left: AtomicI64,
    requests: AtomicU64,
}

/// More requests than any test makes.
const EVER: i64 = 1 << 40;

impl FaultProxy {
    /// Starts before this port.
    ///
    /// # Errors
    /// Those of the listening socket.
    pub fn start(behind: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let proxy = Self {
            port: listener.local_addr()?.port(),
            state: Arc::default(),
        };
        let state = Arc::clone(&proxy.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || {
                    // A client that went away is not this test's matter.
                    let _gone = serve(stream, behind, &state);
                });
            }
        });
        Ok(proxy)
    }

    /// Its address as an endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next so many requests are throttled.
    pub fn throttle(&self, requests: i64) {
        self.state.left.store(requests, Ordering::SeqCst);
    }

    /// Every connection is cut, until [`heal`](Self::heal).
    pub fn cut(&self) {
        self.state.left.store(-EVER, Ordering::SeqCst);
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state.left.store(0, Ordering::SeqCst);
    }

    /// Requests that arrived so far.
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }
}

fn serve(mut client: TcpStream, behind: u16, state: &Faults) -> Result<()> {
    state.requests.fetch_add(1, Ordering::SeqCst);
    let left = state.left.load(Ordering::SeqCst);
    if left < 0 {
        return Ok(());
    }
    if left > 0 {
        state.left.fetch_sub(1, Ordering::SeqCst);
        let mut request = [0; 16 * 1024];
        let _length = client.read(&mut request)?;
        let body = r#"{"__type":"ThrottlingException","message":"Rate exceeded"}"#;
        write!(
            client,
            "HTTP/1.1 400 Bad Request\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        return Ok(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", behind))?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let up = std::thread::spawn(move || {
        let _gone = std::io::copy(&mut from, &mut to);
        let _gone = to.shutdown(Shutdown::Write);
    });
    let _gone = std::io::copy(&mut server, &mut client);
    let _gone = client.shutdown(Shutdown::Both);
    let _panicked = up.join();
    Ok(())
}
