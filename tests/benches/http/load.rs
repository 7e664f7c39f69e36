//! The clients: in their turn they ask as fast as they get answers, and the process in the middle is watched
//! meanwhile.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::reverse::{Local, on_one_thread};
use crate::{Figures, HOST, Load, process, secure};

/// Content of a small answer.
pub(crate) const SMALL_BYTES: usize = 1024;
/// Content of a large answer.
pub(crate) const BULK_BYTES: u64 = 64 << 20;
/// Connections that are there before memory is measured, so that what is allocated once is not counted.
const IDLE_BEFORE: usize = 200;
/// Connections that are measured.
const IDLE_MEASURED: usize = 1000;
/// Real ones are longer still.
const SECURITY_TOKEN: &str = "IQoJb3JpZ2luX2VjEAAaCWV1LXdlc3QtMSJHMEUCIQDexampleexampleexampleexample\
    exampleexampleexampleexampleexampleexampleexampleexampleexampleexampleexampleexample";
/// How long a turn runs before anything is measured: what another left undone is done by then.
const LEAD: Duration = Duration::from_millis(100);

/// What the clients have got so far, and whether it is their turn.
#[derive(Default)]
struct Got {
    requests: Cell<u64>,
    bytes: Cell<u64>,
    is_turn: Cell<bool>,
    begins: Notify,
    failed: RefCell<Option<anyhow::Error>>,
}

impl Got {
    /// Waits for the turn.
    async fn turn(&self) {
        while !self.is_turn.get() {
            self.begins.notified().await;
        }
    }

    /// Runs a client, which asks again and again in its turn, until it fails.
    fn spawn(self: &Rc<Self>, mut ask: impl AsyncFnMut() -> Result<Response<Incoming>> + 'static) {
        let got = Rc::clone(self);
        tokio::task::spawn_local(async move {
            loop {
                got.turn().await;
                let taken = match ask().await {
                    Ok(response) => take(response, &got).await,
                    Err(error) => Err(error),
                };
                if let Err(error) = taken {
                    got.failed.borrow_mut().get_or_insert(error);
                    return;
                }
            }
        });
    }

    /// One turn of so long.
    async fn measure(&self, pid: u32, length: Duration) -> Result<Figures> {
        self.is_turn.set(true);
        self.begins.notify_waiters();
        tokio::time::sleep(LEAD).await;
        let (start, cpu) = (Instant::now(), process::cpu(pid)?);
        let (requests, bytes) = (self.requests.get(), self.bytes.get());
        tokio::time::sleep(length).await;
        let figures = Figures {
            requests: self.requests.get() - requests,
            bytes: self.bytes.get() - bytes,
            wall: start.elapsed().as_secs_f64(),
            cpu: (process::cpu(pid)? - cpu).as_secs_f64(),
            memory: 0.0,
        };
        self.is_turn.set(false);
        if let Some(error) = self.failed.borrow_mut().take() {
            return Err(error.context("a client failed"));
        }
        ensure!(figures.bytes > 0, "nothing was received");
        Ok(figures)
    }
}

/// Connects to `address` and takes turns as they come from `socket`: a line with its milliseconds for each,
/// answered with a line of figures. `pid` is the process in the middle.
pub(crate) fn run(load: Load, address: &str, pid: u32, socket: &Path) -> Result<()> {
    let roots = PathBuf::from(std::env::var_os("SSL_CERT_FILE").context("SSL_CERT_FILE")?);
    let http1 = secure::connector(&roots, b"http/1.1")?;
    let http2 = secure::connector(&roots, b"h2")?;
    on_one_thread(async move {
        let target = resolve(address).await?;
        let got = Rc::new(Got::default());
        let path = match load {
            Load::Bulk1 | Load::Bulk2 => "/bulk",
            _ => "/small?with=some&query=1",
        };
        match load {
            Load::Idle1 | Load::Idle2 => {}
            Load::Http1 | Load::Signed | Load::Bulk1 => {
                for _ in 0..if load == Load::Bulk1 { 4 } else { 32 } {
                    over_http1(&got, connect(target, &http1).await?, path, load).await?;
                }
            }
            Load::Http2 | Load::Bulk2 => {
                let streams = if load == Load::Http2 { 8 } else { 1 };
                for _ in 0..4 {
                    over_http2(&got, connect(target, &http2).await?, path, streams).await?;
                }
            }
        }
        let (turns, mut answers) = UnixStream::connect(socket).await?.into_split();
        let mut turns = BufReader::new(turns).lines();
        while let Some(turn) = turns.next_line().await? {
            let figures = match load {
                Load::Idle1 => idle(&http1, false, target, pid).await?,
                Load::Idle2 => idle(&http2, true, target, pid).await?,
                _ => {
                    got.measure(pid, Duration::from_millis(turn.parse()?))
                        .await?
                }
            };
            let line = serde_json::to_string(&figures)? + "\n";
            answers.write_all(line.as_bytes()).await?;
        }
        Ok(())
    })
}

/// The address of the origin; a name server may need a moment.
async fn resolve(address: &str) -> Result<std::net::SocketAddr> {
    for _ in 0..50 {
        if let Ok(mut found) = tokio::net::lookup_host(address).await
            && let Some(target) = found.find(std::net::SocketAddr::is_ipv4)
        {
            return Ok(target);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("{address} is unknown")
}

/// A client on a connection of HTTP/1.1.
async fn over_http1(
    got: &Rc<Got>,
    stream: TokioIo<TlsStream<TcpStream>>,
    path: &'static str,
    load: Load,
) -> Result<()> {
    let (mut sender, connection) = http1::handshake(stream).await?;
    tokio::task::spawn_local(connection);
    got.spawn(async move || {
        sender.ready().await?;
        let mut request = request(path, false)?;
        if load == Load::Signed {
            sign(&mut request);
        }
        Ok(sender.send_request(request).await?)
    });
    Ok(())
}

/// So many clients on a connection of HTTP/2.
async fn over_http2(
    got: &Rc<Got>,
    stream: TokioIo<TlsStream<TcpStream>>,
    path: &'static str,
    streams: usize,
) -> Result<()> {
    let (sender, connection) = http2::Builder::new(Local)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .handshake(stream)
        .await?;
    tokio::task::spawn_local(connection);
    for _ in 0..streams {
        let mut sender = sender.clone();
        got.spawn(async move || {
            sender.ready().await?;
            Ok(sender.send_request(request(path, true)?).await?)
        });
    }
    Ok(())
}

/// Opens many connections, uses each once, and looks at what they cost while nothing happens.
async fn idle(
    connector: &TlsConnector,
    is_http2: bool,
    target: std::net::SocketAddr,
    pid: u32,
) -> Result<Figures> {
    let mut kept = (Vec::new(), Vec::new());
    let mut before = 0;
    let got = Got::default();
    got.is_turn.set(true);
    for number in 0..IDLE_BEFORE + IDLE_MEASURED {
        if number == IDLE_BEFORE {
            tokio::time::sleep(Duration::from_secs(2)).await;
            before = process::resident(pid)?;
        }
        let stream = connect(target, connector).await?;
        let request = request("/small", is_http2)?;
        let response = if is_http2 {
            let (mut sender, connection) = http2::handshake(Local, stream).await?;
            tokio::task::spawn_local(connection);
            let response = sender.send_request(request).await?;
            kept.1.push(sender);
            response
        } else {
            let (mut sender, connection) = http1::handshake(stream).await?;
            tokio::task::spawn_local(connection);
            let response = sender.send_request(request).await?;
            kept.0.push(sender);
            response
        };
        take(response, &got).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = process::resident(pid)?;
    Ok(Figures {
        memory: (after.saturating_sub(before)) as f64 / IDLE_MEASURED as f64,
        ..Figures::default()
    })
}

async fn connect(
    target: std::net::SocketAddr,
    connector: &TlsConnector,
) -> Result<TokioIo<TlsStream<TcpStream>>> {
    let mut patience = 50;
    let stream = loop {
        match TcpStream::connect(target).await {
            Ok(stream) => break stream,
            Err(error) if patience == 0 => return Err(error.into()),
            Err(_) => {
                patience -= 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    stream.set_nodelay(true)?;
    let stream = connector
        .connect(ServerName::try_from(HOST)?, stream)
        .await?;
    Ok(TokioIo::new(stream))
}

/// A request as a browser makes them.
fn request(path: &str, is_http2: bool) -> Result<Request<Empty<Bytes>>> {
    let mut request = Request::builder();
    request = if is_http2 {
        request.uri(format!("https://{HOST}{path}"))
    } else {
        request.uri(path).header("Host", HOST)
    };
    Ok(request
        .header(
            "User-Agent",
            "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0",
        )
        .header(
            "Accept",
            "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
        )
        .header("Accept-Language", "en-US,en;q=0.5")
        .header("Accept-Encoding", "gzip, deflate, br, zstd")
        .header(
            "Cookie",
            "session=0123456789abcdef0123456789abcdef; theme=dark",
        )
        .header("Sec-Fetch-Mode", "navigate")
        .header("Referer", format!("https://{HOST}/somewhere"))
        .body(Empty::new())?)
}

/// What clients of AWS send along; nobody here checks it.
fn sign(request: &mut Request<Empty<Bytes>>) {
    const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 \
        Credential=ASIAQNZGKIQY56JQ7WML/20260102/eu-west-1/s3/aws4_request, \
        SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token, \
        Signature=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let headers = request.headers_mut();
    for (name, value) in [
        ("authorization", AUTHORIZATION),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-date", "20260102T000000Z"),
        ("x-amz-security-token", SECURITY_TOKEN),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

/// Reads an answer to its end.
async fn take(response: Response<Incoming>, got: &Got) -> Result<()> {
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    loop {
        // Also within a body, so that it is really quiet between turns.
        got.turn().await;
        let Some(frame) = body.frame().await else {
            break;
        };
        if let Some(data) = frame?.data_ref() {
            got.bytes.set(got.bytes.get() + data.len() as u64);
        }
    }
    got.requests.set(got.requests.get() + 1);
    Ok(())
}
