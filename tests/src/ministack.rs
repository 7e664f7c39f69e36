//! ministack: real functions behind the real interface of Lambda.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// Reads the file of the function, so that a program of any kind may be one.
const CREATE: &str = r#"
import base64, io, json, sys, time, urllib.request, zipfile
port, runtime, handler, name, file = sys.argv[1:]
archive = io.BytesIO()
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o755 << 16
    out.writestr(info, open(file, "rb").read())
body = {"FunctionName": "gate", "Runtime": runtime, "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": handler, "Code": {"ZipFile": base64.b64encode(archive.getvalue()).decode()}}
signed = "AWS4-HMAC-SHA256 Credential=test/20260101/eu-west-1/lambda/aws4_request, SignedHeaders=host, Signature=0"
request = urllib.request.Request(f"http://127.0.0.1:{port}/2015-03-31/functions", json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": signed})
for attempt in range(100):
    try:
        urllib.request.urlopen(request).read()
        break
    except OSError:
        time.sleep(0.2)
else:
    sys.exit("ministack does not answer")
"#;

/// ministack with a function called `gate` in it; ended when dropped.
#[derive(Debug)]
pub struct Ministack {
    child: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Ministack {
    /// Starts it with a function of this file, which the archive calls `name`.
    ///
    /// # Errors
    /// If it does not take the function.
    pub fn start(runtime: &str, handler: &str, name: &str, file: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let program = crate::python().with_file_name("ministack");
        let log = std::fs::File::create(folder.path().join("log"))?;
        let child = Command::new(&program)
            .env("GATEWAY_PORT", port.to_string())
            .env("MINISTACK_HOST", "127.0.0.1")
            .current_dir(folder.path())
            .stdout(log.try_clone()?)
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stack = Self {
            child,
            port,
            folder,
        };
        let created = Command::new(crate::python())
            .args(["-c", CREATE, &port.to_string(), runtime, handler, name])
            .arg(file)
            .output()?;
        if !created.status.success() {
            bail!("{}", String::from_utf8_lossy(&created.stderr));
        }
        Ok(stack)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Ministack {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
