//! A proxy that stands between an origin and clients, which wait for their turn.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{Figures, HOST, Load, secure};

/// Where the origin listens in the lab.
pub(crate) const ORIGIN_PORT: u16 = 9443;
/// How long everything may take to stand, and clients to answer beyond the turn itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// What stands in the middle.
#[derive(Clone, Debug)]
pub(crate) enum Proxy {
    /// The plain reverse proxy on kernel sockets.
    Plain,
    /// The appliance in the lab. In both texts `FOLDER` is a folder of its own.
    Appliance {
        /// Configuration.
        config: String,
        /// Shell command to run beside the clients.
        beside: String,
    },
}

impl Proxy {
    /// The appliance with this configuration and nothing beside the clients.
    pub(crate) fn appliance(config: impl Into<String>) -> Self {
        Self::Appliance {
            config: config.into(),
            beside: String::new(),
        }
    }
}

/// A proxy with its origin and its clients, all of which end when it is dropped.
pub(crate) struct Standing {
    clients: BufReader<UnixStream>,
    /// The first has the clients in it and ends by itself when nobody listens to them any more.
    parts: Vec<Part>,
}

impl Standing {
    /// Starts everything and returns when the clients have connected. `certificates` is the folder with
    /// those, `folder` an empty one.
    pub(crate) fn start(
        proxy: &Proxy,
        load: Load,
        certificates: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let socket = folder.join("clients");
        let listener = UnixListener::bind(&socket)?;
        listener.set_nonblocking(true)?;
        let mut parts = match proxy {
            Proxy::Plain => plain(load, certificates, folder, &socket)?,
            Proxy::Appliance { config, beside } => {
                let [config, beside] =
                    [config, beside].map(|text| text.replace("FOLDER", &folder.to_string_lossy()));
                vec![appliance(
                    load,
                    certificates,
                    folder,
                    &socket,
                    &config,
                    &beside,
                )?]
            }
        };
        let start = Instant::now();
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let ended = parts.iter_mut().find_map(|part| part.0.try_wait().ok()?);
            if ended.is_some() || start.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(folder.join("lab.out")).unwrap_or_default();
                bail!("clients of {} did not start\n{said}", load.word());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        stream.set_nonblocking(false)?;
        Ok(Self {
            clients: BufReader::new(stream),
            parts,
        })
    }

    /// Lets the clients work for so long and returns what it came to.
    pub(crate) fn turn(&mut self, length: Duration) -> Result<Figures> {
        let stream = self.clients.get_mut();
        stream.set_read_timeout(Some(length + PATIENCE))?;
        writeln!(stream, "{}", length.as_millis())?;
        let mut line = String::new();
        self.clients
            .read_line(&mut line)
            .context("no word from the clients")?;
        serde_json::from_str(&line).with_context(|| format!("not figures: {line:?}"))
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // The clients may have ended.
        let _ = self.clients.get_ref().shutdown(std::net::Shutdown::Both);
        let start = Instant::now();
        while let Some(clients) = self.parts.first_mut()
            && matches!(clients.0.try_wait(), Ok(None))
            && start.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A process, ended when dropped.
struct Part(Child);

impl Drop for Part {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a folder's name is not text")
}

/// A loopback address on which nobody listens.
fn free_address() -> Result<String> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    Ok(listener.local_addr()?.to_string())
}

/// The plain reverse proxy with all around it on the loopback device, clients first.
fn plain(load: Load, certificates: &Path, folder: &Path, socket: &Path) -> Result<Vec<Part>> {
    let start = |arguments: &[&str]| -> Result<Part> {
        let child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .env("SSL_CERT_FILE", certificates.join(secure::ROOT))
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start a part of the benchmark")?;
        Ok(Part(child))
    };
    let (origin, address) = (free_address()?, free_address()?);
    let certificates = text(certificates)?;
    let behind = start(&["origin", certificates, &origin])?;
    let proxy = start(&["reverse", certificates, &address, &origin])?;
    let pid_file = folder.join("reverse.pid");
    std::fs::write(&pid_file, proxy.0.id().to_string())?;
    let clients = start(&[
        "load",
        load.word(),
        &address,
        text(&pid_file)?,
        text(socket)?,
    ])?;
    Ok(vec![clients, proxy, behind])
}

/// The lab with the appliance, the origin and the clients in it.
fn appliance(
    load: Load,
    certificates: &Path,
    folder: &Path,
    socket: &Path,
    config: &str,
    beside: &str,
) -> Result<Part> {
    let file = folder.join("flowdog.toml");
    let root = certificates.join(secure::ROOT);
    std::fs::write(
        &file,
        format!("[tls.upstream]\nroots = [{root:?}]\n{config}"),
    )?;
    let program = std::env::current_exe()?;
    let program = program.display();
    let origin = format!(
        "exec '{program}' origin '{}' 0.0.0.0:{ORIGIN_PORT}",
        certificates.display()
    );
    let clients = format!(
        "{beside} exec '{program}' load {} {HOST}:{ORIGIN_PORT} \"$FLOWDOG_LAB_APPLIANCE_PID\" '{}'",
        load.word(),
        socket.display()
    );
    let child = Command::new(flowdog()?)
        .args(["lab", "--config", text(&file)?])
        .args(["--log", text(&folder.join("appliance.log"))?])
        .args(["--server", &origin])
        .args(["--", "sh", "-c", &clients])
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.join("lab.out"))?)
        .spawn()
        .context("cannot start the lab")?;
    Ok(Part(child))
}

/// The program under test, as built for release.
pub(crate) fn flowdog() -> Result<PathBuf> {
    let path = std::env::var_os("FLOWDOG_BIN").map(PathBuf::from);
    path.context("FLOWDOG_BIN does not name the program; run: cargo xtask bench http")
}
