//! The client: asks as fast as it gets answers, and watches the process in the middle meanwhile.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
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
/// How long the load runs before anything is measured.
const WARM_UP: Duration = Duration::from_secs(1);

/// What the clients have got so far.
#[derive(Default)]
struct Got {
    requests: Cell<u64>,
    bytes: Cell<u64>,
}

/// Runs a load against `address` for so many seconds; `pid` is the process in the middle.
pub(crate) fn run(load: Load, address: &str, pid: u32, seconds: u64) -> Result<Figures> {
    let roots = PathBuf::from(std::env::var_os("SSL_CERT_FILE").context("SSL_CERT_FILE")?);
    let http1 = secure::connector(&roots, b"http/1.1")?;
    let http2 = secure::connector(&roots, b"h2")?;
    on_one_thread(async move {
        // A name server or an origin may need a moment.
        let mut target = None;
        for _ in 0..50 {
            target = tokio::net::lookup_host(address)
                .await
                .ok()
                .and_then(|mut found| found.find(std::net::SocketAddr::is_ipv4));
            if target.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let target = target.with_context(|| format!("{address} is unknown"))?;
        let connect = |connector: &TlsConnector| connect(target, connector.clone());
        let got = Rc::new(Got::default());
        let path = match load {
            Load::Bulk1 | Load::Bulk2 => "/bulk",
            _ => "/small?with=some&query=1",
        };
        match load {
            Load::Idle1 => return idle(&http1, false, target, pid).await,
            Load::Idle2 => return idle(&http2, true, target, pid).await,
            Load::Http1 | Load::Signed | Load::Bulk1 => {
                for _ in 0..if load == Load::Bulk1 { 4 } else { 32 } {
                    let (mut sender, connection) = http1::handshake(connect(&http1).await?).await?;
                    tokio::task::spawn_local(connection);
                    let got = Rc::clone(&got);
                    tokio::task::spawn_local(async move {
                        loop {
                            sender.ready().await?;
                            let mut request = request(path, false)?;
                            if load == Load::Signed {
                                sign(&mut request);
                            }
                            take(sender.send_request(request).await?, &got).await?;
                        }
                        #[expect(unreachable_code, reason = "names the type of the task's result")]
                        anyhow::Ok(())
                    });
                }
            }
            Load::Http2 | Load::Bulk2 => {
                for _ in 0..4 {
                    let (sender, connection) = http2::Builder::new(Local)
                        .initial_stream_window_size(1 << 20)
                        .initial_connection_window_size(2 << 20)
                        .handshake(connect(&http2).await?)
                        .await?;
                    tokio::task::spawn_local(connection);
                    for _ in 0..if load == Load::Http2 { 8 } else { 1 } {
                        let (mut sender, got) = (sender.clone(), Rc::clone(&got));
                        tokio::task::spawn_local(async move {
                            loop {
                                sender.ready().await?;
                                take(sender.send_request(request(path, true)?).await?, &got)
                                    .await?;
                            }
                            #[expect(
                                unreachable_code,
                                reason = "names the type of the task's result"
                            )]
                            anyhow::Ok(())
                        });
                    }
                }
            }
        }
        tokio::time::sleep(WARM_UP).await;
        let (start, cpu) = (Instant::now(), process::cpu(pid)?);
        let (requests, bytes) = (got.requests.get(), got.bytes.get());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let figures = Figures {
            requests: got.requests.get() - requests,
            bytes: got.bytes.get() - bytes,
            wall: start.elapsed().as_secs_f64(),
            cpu: (process::cpu(pid)? - cpu).as_secs_f64(),
            memory: 0.0,
        };
        ensure!(figures.bytes > 0, "nothing was received");
        Ok(figures)
    })
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
    for number in 0..IDLE_BEFORE + IDLE_MEASURED {
        if number == IDLE_BEFORE {
            tokio::time::sleep(Duration::from_secs(2)).await;
            before = process::resident(pid)?;
        }
        let stream = connect(target, connector.clone()).await?;
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
        take(response, &Got::default()).await?;
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
    connector: TlsConnector,
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
async fn take(response: http::Response<Incoming>, got: &Got) -> Result<()> {
    ensure!(response.status() == 200, "status {}", response.status());
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame?.data_ref() {
            got.bytes.set(got.bytes.get() + data.len() as u64);
        }
    }
    got.requests.set(got.requests.get() + 1);
    Ok(())
}
